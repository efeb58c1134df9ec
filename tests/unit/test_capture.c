/* A device's capture rules: for every capture mode, kind of captured stream and calling thread, what each call
 * answers and what it does to the capture. The expectations are the rules' own, stated here once more and apart from
 * the device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include "device/device_ops.h"
#include "support/device_under_test.h"

#define OK(call) assert_int_equal((call), EPG_OK)
#define IS(call, status) assert_int_equal((call), (status))

typedef struct world {
    epg_device *d;
    epg_stream cap, blocking, nonblocking;
    epg_event captured, before; /* recorded in cap's capture; recorded outside */
    epg_exec exec;
    epg_capture_mode mode;
    bool cap_blocks, other_thread;
    void *memory, *spare; /* spare: for a call to free, or allocated by one */
} world;

static void host_fn(void *ctx) { (void)ctx; }
static epg_status tick(epg_device *d, epg_stream s) { return d->ops->probe_launch(d, s); }

static epg_exec make_exec(epg_device *d, epg_stream s)
{
    epg_graph g;
    epg_exec x;
    OK(epg_capture_begin(d, s, EPG_CAPTURE_RELAXED));
    OK(tick(d, s));
    OK(epg_capture_end(d, s, &g));
    OK(epg_graph_instantiate(d, g, &x));
    OK(epg_graph_destroy(d, g));
    return x;
}

static void world_open(world *w, epg_device *d)
{
    w->d = d;
    OK(epg_stream_create(d, EPG_STREAM_BLOCKING, &w->blocking));
    OK(epg_stream_create(d, EPG_STREAM_NONBLOCKING, &w->nonblocking));
    OK(epg_stream_create(d, w->cap_blocks ? EPG_STREAM_BLOCKING : EPG_STREAM_NONBLOCKING, &w->cap));
    OK(epg_event_create(d, &w->captured));
    OK(epg_event_create(d, &w->before));
    OK(epg_memory_alloc(d, EPG_MEMORY_DEVICE, 64, &w->memory));
    w->exec = make_exec(d, w->nonblocking);
    OK(epg_event_record(d, w->before, w->nonblocking));
    OK(epg_device_synchronize(d));
    OK(epg_capture_begin(d, w->cap, w->mode));
    OK(tick(d, w->cap));
    OK(epg_event_record(d, w->captured, w->cap));
}

static void world_close(world *w)
{
    OK(epg_device_synchronize(w->d));
    OK(epg_exec_destroy(w->d, w->exec));
    OK(epg_stream_destroy(w->d, w->cap));
    OK(epg_stream_destroy(w->d, w->blocking));
    OK(epg_stream_destroy(w->d, w->nonblocking));
    OK(epg_event_destroy(w->d, w->captured));
    OK(epg_event_destroy(w->d, w->before));
    OK(epg_memory_free(w->d, EPG_MEMORY_DEVICE, w->memory));
    OK(epg_memory_free(w->d, EPG_MEMORY_DEVICE, w->spare));
}

/* Ends w->cap's capture; the nodes it gave, or the negated status. */
static long finish(world *w)
{
    epg_graph g = NULL;
    size_t nodes = 0;
    epg_capture_status after;
    epg_status status = epg_capture_end(w->d, w->cap, &g);
    OK(epg_capture_query(w->d, w->cap, &after, NULL));
    assert_int_equal(after, EPG_CAPTURE_NONE); /* whatever happened */
    if (status != EPG_OK) {
        assert_null(g);
        return -(long)status;
    }
    OK(epg_graph_node_count(w->d, g, &nodes));
    OK(epg_graph_destroy(w->d, g));
    return (long)nodes;
}

/* ---- one call at a time, in all twelve situations ---- */

typedef epg_status (*call_fn)(world *w);
typedef epg_status (*rule_fn)(const world *w);
typedef enum fate { DIES, SURVIVES, SURVIVES_900 } fate; /* the capture's, after a refusal */
typedef struct rule {
    const char *name;
    call_fn call;
    rule_fn answer;
    fate fate;
    long nodes;    /* in the graph, where the call is allowed */
} rule;

static epg_status always_ok(const world *w) { (void)w; return EPG_OK; }
static epg_status always_900(const world *w) { (void)w; return EPG_ERR_CAPTURE_UNSUPPORTED; }
static epg_status always_905(const world *w) { (void)w; return EPG_ERR_CAPTURE_ISOLATION; }
static epg_status always_906(const world *w) { (void)w; return EPG_ERR_CAPTURE_IMPLICIT; }
static epg_status always_907(const world *w) { (void)w; return EPG_ERR_CAPTURED_EVENT; }
static epg_status always_401(const world *w) { (void)w; return EPG_ERR_STATE; }
/* Threads are in global mode here: another thread's capture matters if it is global, one's own if it is not relaxed. */
static epg_status unsafe(const world *w)
{
    bool refused = w->other_thread ? w->mode == EPG_CAPTURE_GLOBAL : w->mode != EPG_CAPTURE_RELAXED;
    return refused ? EPG_ERR_CAPTURE_UNSUPPORTED : EPG_OK;
}
static epg_status legacy_work(const world *w) { return w->cap_blocks ? EPG_ERR_CAPTURE_IMPLICIT : EPG_OK; }
static epg_status legacy_look(const world *w) { return w->cap_blocks ? EPG_ERR_CAPTURE_IMPLICIT : unsafe(w); }

static epg_status c_nothing(world *w) { (void)w; return EPG_OK; }
static epg_status c_launch_cap(world *w) { return tick(w->d, w->cap); }
static epg_status c_launch_legacy(world *w) { return tick(w->d, NULL); }
static epg_status c_launch_thread(world *w) { return tick(w->d, EPG_STREAM_PER_THREAD); }
static epg_status c_launch_blocking(world *w) { return tick(w->d, w->blocking); }
static epg_status c_launch_nonblocking(world *w) { return tick(w->d, w->nonblocking); }
static epg_status c_host_func(world *w) { return epg_host_func(w->d, w->cap, host_fn, NULL, NULL); }
static epg_status c_memset_cap(world *w) { return epg_memset_async(w->d, w->memory, 0, 64, w->cap); }
static epg_status c_memset_legacy(world *w) { return epg_memset_async(w->d, w->memory, 0, 64, EPG_STREAM_LEGACY); }
static epg_status c_memset_sync(world *w) { return epg_memset(w->d, w->memory, 0, 64); }
static epg_status c_memcpy_sync(world *w) { return epg_memcpy(w->d, w->memory, (char *)w->memory + 32, 32); }
static epg_status c_alloc(world *w) { return epg_memory_alloc(w->d, EPG_MEMORY_DEVICE, 64, &w->spare); }
static epg_status c_free(world *w)
{
    epg_status s = epg_memory_free(w->d, EPG_MEMORY_DEVICE, w->memory);
    w->memory = s == EPG_OK ? NULL : w->memory;
    return s;
}
static epg_status c_relaxed_alloc(world *w)
{
    epg_capture_mode mode = EPG_CAPTURE_RELAXED;
    epg_status exchange = epg_capture_mode_exchange(w->d, &mode), s = c_alloc(w);
    return exchange == EPG_OK && mode == EPG_CAPTURE_GLOBAL && epg_capture_mode_exchange(w->d, &mode) == EPG_OK &&
                   mode == EPG_CAPTURE_RELAXED ? s : EPG_ERR_INVALID;
}
static epg_status c_sync_cap(world *w) { return epg_stream_synchronize(w->d, w->cap); }
static epg_status c_query_cap(world *w) { return epg_stream_query(w->d, w->cap); }
static epg_status c_sync_legacy(world *w) { return epg_stream_synchronize(w->d, NULL); }
static epg_status c_query_legacy(world *w) { return epg_stream_query(w->d, NULL); }
static epg_status c_sync_other(world *w) { return epg_stream_synchronize(w->d, w->blocking); }
static epg_status c_query_other(world *w) { return epg_stream_query(w->d, w->nonblocking); }
static epg_status c_sync_device(world *w) { return epg_device_synchronize(w->d); }
static epg_status c_record_legacy(world *w) { return epg_event_record(w->d, w->before, NULL); }
static epg_status c_record_other(world *w) { return epg_event_record(w->d, w->before, w->nonblocking); }
static epg_status c_event_query(world *w) { return epg_event_query(w->d, w->before); }
static epg_status c_event_sync(world *w) { return epg_event_synchronize(w->d, w->before); }
static epg_status c_captured_query(world *w) { return epg_event_query(w->d, w->captured); }
static epg_status c_captured_sync(world *w) { return epg_event_synchronize(w->d, w->captured); }
static epg_status c_captured_elapsed(world *w)
{
    double us;
    return epg_event_elapsed_us(w->d, w->before, w->captured, &us);
}
static epg_status c_wait_before(world *w) { return epg_stream_wait_event(w->d, w->cap, w->before); }
static epg_status c_legacy_joins(world *w) { return epg_stream_wait_event(w->d, NULL, w->captured); }
static epg_status c_blocking_joins(world *w) { return epg_stream_wait_event(w->d, w->blocking, w->captured); }
static epg_status c_fork_join(world *w)
{
    epg_status s = epg_stream_wait_event(w->d, w->nonblocking, w->captured);
    s = s ? s : tick(w->d, w->nonblocking);
    s = s ? s : epg_event_record(w->d, w->captured, w->nonblocking);
    return s ? s : epg_stream_wait_event(w->d, w->cap, w->captured);
}
static epg_status c_replay_cap(world *w) { return epg_exec_launch(w->d, w->exec, w->cap); }
static epg_status c_replay_other(world *w) { return epg_exec_launch(w->d, w->exec, w->nonblocking); }
static epg_status c_replay_legacy(world *w) { return epg_exec_launch(w->d, w->exec, NULL); }
static epg_status c_upload_cap(world *w) { return epg_exec_upload(w->d, w->exec, w->cap); }
static epg_status c_upload_other(world *w) { return epg_exec_upload(w->d, w->exec, w->nonblocking); }
static epg_status c_upload_legacy(world *w) { return epg_exec_upload(w->d, w->exec, NULL); }
static epg_status c_timestamp(world *w) { return epg_timestamp_async(w->d, w->memory, w->cap); }
static epg_status c_timestamp_legacy(world *w) { return epg_timestamp_async(w->d, w->memory, NULL); }
static epg_status c_begin_again(world *w) { return epg_capture_begin(w->d, w->cap, w->mode); }
static epg_status c_begin_legacy(world *w) { return epg_capture_begin(w->d, NULL, w->mode); }
static epg_status c_end_other(world *w)
{
    epg_graph g;
    return epg_capture_end(w->d, w->blocking, &g);
}
static epg_status c_query_capture_legacy(world *w)
{
    epg_capture_status s;
    return epg_capture_query(w->d, NULL, &s, NULL);
}
static epg_status c_create_destroy(world *w)
{
    epg_stream s;
    epg_event e;
    epg_status status = epg_stream_create(w->d, EPG_STREAM_BLOCKING, &s);
    status = status ? status : epg_stream_destroy(w->d, s);
    status = status ? status : epg_event_create(w->d, &e);
    return status ? status : epg_event_destroy(w->d, e);
}
static epg_status begin_legacy_rule(const world *w)
{
    return w->cap_blocks ? EPG_ERR_CAPTURE_IMPLICIT : EPG_ERR_CAPTURE_UNSUPPORTED;
}

static const rule rules[] = {
    {"nothing", c_nothing, always_ok, DIES, 1},
    {"launch, capturing stream", c_launch_cap, always_ok, DIES, 2},
    {"launch, legacy stream", c_launch_legacy, legacy_work, DIES, 1},
    {"launch, per-thread stream", c_launch_thread, always_ok, DIES, 1},
    {"launch, blocking stream", c_launch_blocking, always_ok, DIES, 1},
    {"launch, non-blocking stream", c_launch_nonblocking, always_ok, DIES, 1},
    {"host function", c_host_func, always_ok, DIES, 2},
    {"memset", c_memset_cap, always_ok, DIES, 2},
    {"memset, legacy stream", c_memset_legacy, legacy_work, DIES, 1},
    {"synchronous memset", c_memset_sync, legacy_work, DIES, 1},
    {"synchronous memcpy", c_memcpy_sync, legacy_work, DIES, 1},
    {"memory_alloc", c_alloc, unsafe, DIES, 1},
    {"memory_free", c_free, unsafe, DIES, 1},
    {"memory_alloc, relaxed thread", c_relaxed_alloc, always_ok, DIES, 1},
    {"synchronize capturing stream", c_sync_cap, always_900, DIES, 0},
    {"query capturing stream", c_query_cap, always_900, DIES, 0},
    {"synchronize legacy stream", c_sync_legacy, legacy_look, DIES, 1},
    {"query legacy stream", c_query_legacy, legacy_look, DIES, 1},
    {"synchronize other stream", c_sync_other, unsafe, DIES, 1},
    {"query other stream", c_query_other, unsafe, DIES, 1},
    {"synchronize device", c_sync_device, always_900, DIES, 0},
    {"record in legacy stream", c_record_legacy, legacy_work, DIES, 1},
    {"record in other stream", c_record_other, always_ok, DIES, 1},
    {"query event", c_event_query, unsafe, DIES, 1},
    {"synchronize event", c_event_sync, unsafe, DIES, 1},
    {"query captured event", c_captured_query, always_907, DIES, 0},
    {"synchronize captured event", c_captured_sync, always_907, DIES, 0},
    {"elapsed of captured event", c_captured_elapsed, always_907, SURVIVES, 1},
    {"wait for work outside", c_wait_before, always_905, DIES, 0},
    {"legacy stream waits for captured event", c_legacy_joins, always_906, DIES, 0},
    {"blocking stream joins, without work", c_blocking_joins, always_ok, DIES, 1},
    {"fork and join", c_fork_join, always_ok, DIES, 2},
    {"replay in capturing stream", c_replay_cap, always_900, DIES, 0},
    {"replay in other stream", c_replay_other, always_ok, DIES, 1},
    {"replay in legacy stream", c_replay_legacy, legacy_work, DIES, 1},
    {"upload in capturing stream", c_upload_cap, always_900, DIES, 0},
    {"upload in other stream", c_upload_other, always_ok, DIES, 1},
    {"upload in legacy stream", c_upload_legacy, legacy_work, DIES, 1},
    {"timestamp", c_timestamp, always_ok, DIES, 2},
    {"timestamp, legacy stream", c_timestamp_legacy, legacy_work, DIES, 1},
    {"begin, legacy stream", c_begin_legacy, begin_legacy_rule, SURVIVES_900, 1},
    {"begin again", c_begin_again, always_401, SURVIVES, 1},
    {"end of a stream not capturing", c_end_other, always_401, SURVIVES, 1},
    {"capture_query, legacy stream", c_query_capture_legacy, legacy_work, SURVIVES, 1},
    {"create and destroy", c_create_destroy, always_ok, DIES, 1},
};

typedef struct asked {
    world *w;
    call_fn call;
    epg_status answer;
} asked;
static void *ask(void *p)
{
    asked *a = p;
    a->answer = a->call(a->w);
    return NULL;
}

static void check_rule(world *w, const rule *r)
{
    asked a = {w, r->call, EPG_OK};
    pthread_t thread;
    epg_capture_status status;
    epg_status expected = r->answer(w);
    bool lives = expected == EPG_OK || r->fate == SURVIVES ||
                 (r->fate == SURVIVES_900 && expected == EPG_ERR_CAPTURE_UNSUPPORTED);
    world_open(w, w->d);
    if (w->other_thread) {
        assert_int_equal(pthread_create(&thread, NULL, ask, &a), 0);
        pthread_join(thread, NULL);
    } else {
        ask(&a);
    }
    if (a.answer != expected)
        print_error("%s: mode %d, %s stream, %s thread: %s\n", r->name, w->mode,
                    w->cap_blocks ? "blocking" : "non-blocking", w->other_thread ? "other" : "same",
                    epg_status_name(a.answer));
    IS(a.answer, expected);
    OK(epg_capture_query(w->d, w->cap, &status, NULL));
    assert_int_equal(status, lives ? EPG_CAPTURE_ACTIVE : EPG_CAPTURE_INVALIDATED);
    assert_int_equal(finish(w), lives ? r->nodes : -(long)EPG_ERR_CAPTURE_INVALIDATED);
    world_close(w);
}

static void every_rule_in_every_situation(void **state)
{
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        for (int situation = 0; situation < 12; situation++) {
            world w = {.d = *state, .mode = (epg_capture_mode)(situation / 4), .cap_blocks = situation & 1,
                       .other_thread = situation & 2};
            check_rule(&w, &rules[i]);
        }
}

/* ---- several calls ---- */

static int setup(void **state) { return test_device_create((epg_device **)state) != EPG_OK; }
static int teardown(void **state)
{
    epg_device_destroy(*state);
    return 0;
}

static void thread_local_mode_sees_its_own_captures_only(void **state)
{
    world w = {.mode = EPG_CAPTURE_GLOBAL};
    world_open(&w, *state);
    epg_capture_mode mode = EPG_CAPTURE_THREAD_LOCAL;
    OK(epg_capture_mode_exchange(w.d, &mode));
    IS(c_alloc(&w), EPG_ERR_CAPTURE_UNSUPPORTED);
    OK(epg_capture_mode_exchange(w.d, &mode));
    IS(finish(&w), -(long)EPG_ERR_CAPTURE_INVALIDATED);
    world_close(&w);
}

static void an_invalidated_capture_answers_901_and_names_the_cause(void **state)
{
    world w = {.mode = EPG_CAPTURE_RELAXED};
    world_open(&w, *state);
    IS(epg_stream_query(w.d, w.cap), EPG_ERR_CAPTURE_UNSUPPORTED);
    IS(tick(w.d, w.cap), EPG_ERR_CAPTURE_INVALIDATED);
    if (test_device_kind() == EPG_DEVICE_HOST)
        assert_non_null(strstr(epg_message(), "epg_stream_query"));
    IS(epg_event_query(w.d, w.captured), EPG_ERR_INVALID);
    IS(epg_event_synchronize(w.d, w.captured), EPG_ERR_INVALID);
    IS(epg_event_record(w.d, w.captured, w.cap), EPG_ERR_CAPTURE_INVALIDATED);
    IS(epg_stream_wait_event(w.d, w.blocking, w.captured), EPG_ERR_INVALID);
    IS(epg_stream_query(w.d, w.cap), EPG_ERR_CAPTURE_UNSUPPORTED); /* a look at it is refused as before */
    IS(epg_exec_launch(w.d, w.exec, w.cap), EPG_ERR_CAPTURE_UNSUPPORTED); /* and so is what can be no node */
    IS(epg_exec_upload(w.d, w.exec, w.cap), EPG_ERR_CAPTURE_UNSUPPORTED);
    IS(w.d->ops->probe_callback(w.d, w.cap), EPG_ERR_CAPTURE_UNSUPPORTED);
    IS(finish(&w), -(long)EPG_ERR_CAPTURE_INVALIDATED);
    OK(tick(w.d, w.cap)); /* usable again */
    world_close(&w);
}

static void two_captures_do_not_merge(void **state)
{
    world w = {.mode = EPG_CAPTURE_GLOBAL};
    epg_graph g;
    epg_capture_status status;
    uint64_t a = 0, b = 0;
    world_open(&w, *state);
    OK(epg_capture_begin(w.d, w.nonblocking, EPG_CAPTURE_GLOBAL));
    OK(epg_capture_query(w.d, w.cap, &status, &a));
    OK(epg_capture_query(w.d, w.nonblocking, &status, &b));
    assert_true(a != 0 && b != 0 && a != b);
    IS(epg_stream_wait_event(w.d, w.nonblocking, w.captured), EPG_ERR_CAPTURE_MERGE);
    IS(epg_capture_end(w.d, w.nonblocking, &g), EPG_ERR_CAPTURE_INVALIDATED);
    IS(finish(&w), -(long)EPG_ERR_CAPTURE_INVALIDATED);
    OK(epg_capture_query(w.d, w.cap, &status, &a));
    assert_int_equal(a, 0);
    world_close(&w);
}

static void a_capture_ends_where_it_began(void **state)
{
    world w = {.mode = EPG_CAPTURE_GLOBAL};
    epg_graph g;
    world_open(&w, *state);
    OK(epg_stream_wait_event(w.d, w.blocking, w.captured));
    IS(tick(w.d, NULL), EPG_ERR_CAPTURE_IMPLICIT); /* a blocking stream captures now, if not as the origin */
    IS(finish(&w), -(long)EPG_ERR_CAPTURE_INVALIDATED);
    OK(tick(w.d, NULL));
    OK(epg_capture_begin(w.d, w.cap, w.mode));
    OK(epg_event_record(w.d, w.captured, w.cap));
    OK(epg_stream_wait_event(w.d, w.blocking, w.captured));
    IS(epg_capture_end(w.d, w.blocking, &g), EPG_ERR_CAPTURE_UNMATCHED);
    IS(finish(&w), -(long)EPG_ERR_CAPTURE_INVALIDATED);
    world_close(&w);
}

static void unjoined_work_is_named(void **state)
{
    world w = {.mode = EPG_CAPTURE_GLOBAL};
    world_open(&w, *state);
    OK(epg_stream_wait_event(w.d, w.nonblocking, w.captured));
    OK(epg_host_func(w.d, w.nonblocking, host_fn, NULL, "stray"));
    IS(finish(&w), -(long)EPG_ERR_CAPTURE_UNJOINED);
    if (test_device_kind() == EPG_DEVICE_HOST)
        assert_non_null(strstr(epg_message(), "stray"));
    OK(tick(w.d, w.nonblocking)); /* it has left the capture as well */
    OK(epg_stream_synchronize(w.d, w.nonblocking));
    world_close(&w);
}

static void *end_it(void *p)
{
    world *w = p;
    return (void *)(intptr_t)finish(w);
}

static void only_a_relaxed_capture_ends_on_another_thread(void **state)
{
    for (int mode = 0; mode < 3; mode++) {
        world w = {.mode = (epg_capture_mode)mode};
        pthread_t thread;
        void *result;
        world_open(&w, *state);
        assert_int_equal(pthread_create(&thread, NULL, end_it, &w), 0);
        pthread_join(thread, &result);
        IS((intptr_t)result, mode == EPG_CAPTURE_RELAXED ? 1 : -(long)EPG_ERR_CAPTURE_WRONG_THREAD);
        world_close(&w);
    }
}

static void an_event_of_an_ended_capture_is_no_dependency(void **state)
{
    world w = {.mode = EPG_CAPTURE_GLOBAL};
    world_open(&w, *state);
    IS(finish(&w), 1);
    IS(epg_event_query(w.d, w.captured), EPG_ERR_INVALID);
    IS(epg_event_synchronize(w.d, w.captured), EPG_ERR_INVALID);
    IS(c_captured_elapsed(&w), EPG_ERR_INVALID);
    IS(epg_stream_wait_event(w.d, w.blocking, w.captured), EPG_ERR_INVALID);
    IS(epg_stream_wait_event(w.d, NULL, w.captured), EPG_ERR_INVALID);
    OK(epg_capture_begin(w.d, w.cap, w.mode));
    IS(epg_stream_wait_event(w.d, w.cap, w.captured), EPG_ERR_INVALID);
    IS(finish(&w), -(long)EPG_ERR_CAPTURE_INVALIDATED);
    OK(epg_event_record(w.d, w.captured, w.blocking)); /* recorded outside again: an ordinary event */
    OK(epg_event_synchronize(w.d, w.captured));
    world_close(&w);
}

static void destroying_streams_in_a_capture(void **state)
{
    world w = {.mode = EPG_CAPTURE_GLOBAL, .cap_blocks = true};
    world_open(&w, *state);
    OK(epg_stream_wait_event(w.d, w.blocking, w.captured));
    OK(tick(w.d, w.blocking));
    OK(epg_event_record(w.d, w.captured, w.blocking));
    OK(epg_stream_wait_event(w.d, w.cap, w.captured));
    OK(epg_stream_destroy(w.d, w.blocking)); /* a joined fork may go: its work stays */
    w.blocking = NULL;
    IS(finish(&w), 2);
    OK(epg_capture_begin(w.d, w.cap, w.mode));
    OK(tick(w.d, w.cap));
    OK(epg_stream_destroy(w.d, w.cap)); /* the origin takes its capture along, as on CUDA */
    w.cap = NULL;
    OK(tick(w.d, NULL));
    OK(epg_device_synchronize(w.d));
    world_close(&w);
}

/* The CUDA device knows no streams but those that it is handed. */
static void destroying_the_host_device_drops_a_capture(void **state)
{
    epg_device *d;
    epg_stream s;
    (void)state;
    if (test_device_kind() != EPG_DEVICE_HOST)
        skip();
    OK(epg_device_create(NULL, &d));
    OK(epg_stream_create(d, EPG_STREAM_BLOCKING, &s));
    OK(epg_capture_begin(d, s, EPG_CAPTURE_GLOBAL));
    OK(tick(d, s));
    epg_device_destroy(d);
}

static void a_bad_mode_is_refused(void **state)
{
    epg_capture_mode mode = (epg_capture_mode)5;
    IS(epg_capture_mode_exchange(*state, &mode), EPG_ERR_INVALID);
    IS(epg_capture_begin(*state, EPG_STREAM_PER_THREAD, mode), EPG_ERR_INVALID);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(every_rule_in_every_situation), T(thread_local_mode_sees_its_own_captures_only),
        T(an_invalidated_capture_answers_901_and_names_the_cause), T(two_captures_do_not_merge),
        T(a_capture_ends_where_it_began), T(unjoined_work_is_named), T(only_a_relaxed_capture_ends_on_another_thread),
        T(an_event_of_an_ended_capture_is_no_dependency), T(destroying_streams_in_a_capture),
        T(destroying_the_host_device_drops_a_capture), T(a_bad_mode_is_refused),
    };
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
