/* A device: streams, events, memory, graphs and their replay. Capture's rules are test_capture.c's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "support/device_under_test.h"
#include "support/work.h"

#define OK(call) assert_int_equal((call), EPG_OK)

typedef struct fixture {
    epg_device *device;
    work *work; /* zeroed */
} fixture;

static void note(epg_device *d, epg_stream s, work *w, uint32_t place) { OK(work_note(d, s, w, 0, place)); }
static void gated_note(epg_device *d, epg_stream s, work *w, uint32_t place) { OK(work_note(d, s, w, 1, place)); }

static void wait_us(long us)
{
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (!f || test_device_create(&f->device) != EPG_OK)
        return 1;
    f->work = work_create(f->device);
    return f->work == NULL;
}

static int teardown(void **state)
{
    fixture *f = *state;
    work_destroy(f->device, f->work);
    epg_device_destroy(f->device);
    free(f);
    return 0;
}

static epg_stream stream(epg_device *d, epg_stream_kind kind)
{
    epg_stream s;
    OK(epg_stream_create(d, kind, &s));
    return s;
}

static void describes_itself_up_to_the_callers_size(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    epg_device_info info = EPG_DEVICE_INFO_INIT;
    OK(epg_device_describe(d, &info));
    assert_int_equal(info.kind, test_device_kind());
    assert_int_equal(strncmp(info.name, info.kind == EPG_DEVICE_HOST ? "host: " : "cuda 0: ", 6), 0);
    assert_true(info.units >= 1 && info.memory_bytes > 0);
    epg_device_info small = EPG_DEVICE_INFO_INIT;
    small.size = offsetof(epg_device_info, units);
    small.units = 4242;
    OK(epg_device_describe(d, &small));
    assert_int_equal(small.units, 4242);
    assert_int_equal(small.size, offsetof(epg_device_info, units));
    uint64_t now = epg_device_now_ns(d);
    assert_true(epg_device_now_ns(d) >= now);
}

static void no_kernel(const void *args) { (void)args; }

static void refuses_bad_arguments(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    char byte = 0;
    void *p = NULL;
    epg_stream s = (epg_stream)&byte;
    assert_int_equal(epg_stream_create(d, (epg_stream_kind)7, &s), EPG_ERR_INVALID);
    assert_int_equal(epg_stream_create(d, EPG_STREAM_BLOCKING, NULL), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "stream is NULL"));
    assert_ptr_equal(s, &byte);
    assert_int_equal(epg_memcpy(d, NULL, &byte, 1), EPG_ERR_INVALID);
    assert_int_equal(epg_memcpy_async(d, &byte, NULL, 1, NULL), EPG_ERR_INVALID);
    OK(epg_memcpy(d, NULL, NULL, 0));
    OK(epg_memset(d, NULL, 0, 0));
    assert_int_equal(epg_memory_alloc(d, (epg_memory_kind)3, 1, &p), EPG_ERR_INVALID);
    assert_null(p);
    assert_int_equal(epg_host_launch(d, NULL, no_kernel, NULL, 8, NULL), EPG_ERR_INVALID);
    assert_int_equal(epg_host_launch(d, NULL, no_kernel, NULL, 0, NULL),
                     test_device_kind() == EPG_DEVICE_HOST ? EPG_OK : EPG_ERR_UNSUPPORTED);
    assert_int_equal(epg_stream_destroy(d, EPG_STREAM_LEGACY), EPG_ERR_HANDLE);
    assert_int_equal(epg_stream_query(NULL, NULL), EPG_ERR_INVALID);
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    options.kind = (epg_device_kind)9;
    epg_device *none = NULL;
    assert_int_equal(epg_device_create(&options, &none), EPG_ERR_INVALID);
    assert_null(none);
}

static void count_line(void *ctx, epg_log_level level, const char *text)
{
    assert_true(level <= EPG_LOG_INFO);
    assert_non_null(text);
    ++*(int *)ctx;
}

static void logs_to_the_callback(void **state)
{
    (void)state;
    int lines = 0;
    epg_device *d;
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    options.kind = test_device_kind();
    options.log = count_line;
    options.log_ctx = &lines;
    options.log_level = EPG_LOG_INFO;
    OK(epg_device_create(&options, &d));
    epg_device_destroy(d);
    assert_int_equal(lines, 1);
}

static void memory_is_zeroed_and_aligned(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    unsigned char *a, *b, bytes[1000];
    void *empty;
    OK(epg_memory_alloc(d, EPG_MEMORY_DEVICE, 1000, (void **)&a));
    OK(epg_memory_alloc(d, EPG_MEMORY_PINNED, 1000, (void **)&b));
    OK(epg_memory_alloc(d, EPG_MEMORY_DEVICE, 0, &empty));
    assert_int_equal((uintptr_t)a % 256, 0);
    assert_int_equal((uintptr_t)b % 256, 0);
    memset(bytes, 1, sizeof bytes);
    OK(epg_memcpy(d, bytes, a, sizeof bytes));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(bytes[i] | b[i], 0);
    OK(epg_memset(d, a, 0x5a, 1000));
    OK(epg_memcpy(d, b, a, 999));
    assert_int_equal(b[998], 0x5a);
    assert_int_equal(b[999], 0);
    OK(epg_memory_free(d, EPG_MEMORY_DEVICE, a));
    OK(epg_memory_free(d, EPG_MEMORY_PINNED, b));
    OK(epg_memory_free(d, EPG_MEMORY_DEVICE, empty));
    OK(epg_memory_free(d, EPG_MEMORY_DEVICE, NULL));
}

/* A copy is there when the call returns, also for a stream that the legacy stream does not order. */
static void a_copy_is_there_for_a_nonblocking_stream(void **state)
{
    enum { BYTES = 32 << 20 };
    epg_device *d = ((fixture *)*state)->device;
    unsigned char *from = malloc(BYTES), *to, *back;
    epg_stream s;
    assert_non_null(from);
    OK(epg_stream_create(d, EPG_STREAM_NONBLOCKING, &s));
    OK(epg_memory_alloc(d, EPG_MEMORY_DEVICE, BYTES, (void **)&to));
    OK(epg_memory_alloc(d, EPG_MEMORY_PINNED, 1, (void **)&back));
    for (int round = 1; round <= 8; round++) {
        memset(from, round, BYTES);
        OK(epg_memcpy(d, to, from, BYTES));
        OK(epg_memcpy_async(d, back, to + BYTES - 1, 1, s));
        OK(epg_stream_synchronize(d, s));
        assert_int_equal(*back, round);
    }
    OK(epg_memory_free(d, EPG_MEMORY_DEVICE, to));
    OK(epg_memory_free(d, EPG_MEMORY_PINNED, back));
    OK(epg_stream_destroy(d, s));
    free(from);
}

static void a_stream_runs_in_order_and_answers_queries(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    work *w = ((fixture *)*state)->work;
    epg_stream s = stream(d, EPG_STREAM_NONBLOCKING);
    OK(epg_stream_synchronize(d, s));
    OK(epg_stream_query(d, s));
    gated_note(d, s, w, 0);
    note(d, s, w, 1);
    note(d, s, w, 2);
    assert_int_equal(epg_stream_query(d, s), EPG_ERR_NOT_READY);
    work_open(w);
    OK(epg_stream_synchronize(d, s));
    OK(epg_stream_query(d, s));
    for (int i = 0; i < 3; i++)
        assert_int_equal(w->at[i], i + 1);
    OK(epg_stream_destroy(d, s));
}

static void a_blocked_worker_stops_no_other_stream(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    work *w = ((fixture *)*state)->work;
    enum { FIRST, OTHER };
    epg_stream a = stream(d, EPG_STREAM_NONBLOCKING), b = stream(d, EPG_STREAM_NONBLOCKING);
    gated_note(d, a, w, FIRST);
    note(d, b, w, OTHER);
    OK(epg_stream_synchronize(d, b));
    assert_int_equal(w->at[OTHER], 1);
    work_open(w);
    OK(epg_device_synchronize(d));
    assert_int_equal(w->at[FIRST], 2);
    OK(epg_stream_destroy(d, a));
    OK(epg_stream_destroy(d, b));
}

/* Blocking stream, then legacy, then blocking: strictly in that order. A non-blocking stream overtakes all. */
static void the_legacy_stream_orders_blocking_streams(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    work *w = ((fixture *)*state)->work;
    enum { FIRST, LEGACY, AFTER, OWN, FREE };
    epg_stream a = stream(d, EPG_STREAM_BLOCKING), b = stream(d, EPG_STREAM_BLOCKING);
    epg_stream n = stream(d, EPG_STREAM_NONBLOCKING);
    gated_note(d, a, w, FIRST);
    note(d, NULL, w, LEGACY);
    note(d, b, w, AFTER);
    note(d, EPG_STREAM_PER_THREAD, w, OWN);
    note(d, n, w, FREE);
    OK(epg_stream_synchronize(d, n));
    assert_int_equal(w->at[FREE], 1);
    assert_int_equal(epg_stream_query(d, EPG_STREAM_LEGACY), EPG_ERR_NOT_READY);
    assert_int_equal(epg_stream_query(d, b), EPG_ERR_NOT_READY);
    wait_us(2000);
    work_open(w);
    OK(epg_stream_synchronize(d, EPG_STREAM_PER_THREAD));
    OK(epg_stream_synchronize(d, b));
    assert_int_equal(w->at[FIRST], 2);
    assert_int_equal(w->at[LEGACY], 3);
    assert_true(w->at[AFTER] >= 4 && w->at[OWN] >= 4);
    OK(epg_stream_destroy(d, a));
    OK(epg_stream_destroy(d, b));
    OK(epg_stream_destroy(d, n));
}

static void an_event_orders_two_streams(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    work *w = ((fixture *)*state)->work;
    enum { FIRST, SECOND, LATER };
    epg_event e, never;
    epg_stream a = stream(d, EPG_STREAM_NONBLOCKING), b = stream(d, EPG_STREAM_NONBLOCKING);
    OK(epg_event_create(d, &e));
    OK(epg_event_create(d, &never));
    OK(epg_event_query(d, never));
    OK(epg_stream_wait_event(d, b, never));
    gated_note(d, a, w, FIRST);
    OK(epg_event_record(d, e, a));
    OK(epg_stream_wait_event(d, b, e));
    OK(epg_event_record(d, e, b)); /* the wait keeps the record it saw */
    note(d, b, w, SECOND);
    note(d, a, w, LATER);
    assert_int_equal(epg_event_query(d, e), EPG_ERR_NOT_READY);
    work_open(w);
    OK(epg_event_synchronize(d, e));
    OK(epg_stream_synchronize(d, b));
    OK(epg_stream_synchronize(d, a));
    assert_int_equal(w->at[FIRST], 1);
    assert_true(w->at[SECOND] > 1 && w->at[LATER] > 1);
    OK(epg_event_destroy(d, e));
    OK(epg_event_destroy(d, never));
    OK(epg_stream_destroy(d, a));
    OK(epg_stream_destroy(d, b));
}

static void events_measure_time(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    epg_event start, stop;
    double took = -1;
    epg_stream s = stream(d, EPG_STREAM_NONBLOCKING);
    OK(epg_event_create(d, &start));
    OK(epg_event_create(d, &stop));
    assert_int_equal(epg_event_elapsed_us(d, start, stop, &took), EPG_ERR_HANDLE);
    OK(epg_event_record(d, start, s));
    OK(work_pause(d, s, 3000));
    OK(epg_event_record(d, stop, s));
    OK(epg_event_synchronize(d, stop));
    OK(epg_event_elapsed_us(d, start, stop, &took));
    assert_true(took >= 3000 && took < 3e7);
    OK(epg_event_destroy(d, start));
    OK(epg_event_destroy(d, stop));
    OK(epg_stream_destroy(d, s));
}

static void a_copy_has_a_rate(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    double rate = -1;
    assert_int_equal(epg_device_copy_rate(NULL, 1 << 20, &rate), EPG_ERR_INVALID);
    assert_int_equal(epg_device_copy_rate(d, 1 << 20, NULL), EPG_ERR_INVALID);
    assert_int_equal(epg_device_copy_rate(d, 65535, &rate), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "65535"));
    assert_true(rate == -1);
    OK(epg_device_copy_rate(d, (1 << 20) + 7, &rate)); /* not a multiple of anything */
    assert_true(rate > 1e6 && rate < 1e15);
}

static void a_destroyed_stream_finishes_its_work(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    work *w = ((fixture *)*state)->work;
    epg_event e;
    epg_stream s = stream(d, EPG_STREAM_NONBLOCKING);
    OK(epg_event_create(d, &e));
    gated_note(d, s, w, 0);
    OK(epg_event_record(d, e, s));
    OK(epg_stream_destroy(d, s)); /* returns although the kernel blocks */
    assert_int_equal(epg_event_query(d, e), EPG_ERR_NOT_READY);
    work_open(w);
    OK(epg_event_synchronize(d, e));
    assert_int_equal(w->at[0], 1);
    OK(epg_event_destroy(d, e));
}

static void add_one(void *p) { ++*(int *)p; }

static void a_destroyed_streams_handle_is_refused(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    int runs = 0;
    if (test_device_kind() != EPG_DEVICE_HOST)
        skip(); /* its handles are the driver's */
    epg_stream s = stream(d, EPG_STREAM_NONBLOCKING);
    OK(epg_host_func(d, s, add_one, &runs, NULL));
    OK(epg_stream_destroy(d, s));
    assert_int_equal(epg_stream_synchronize(d, s), EPG_ERR_HANDLE);
    assert_int_equal(epg_stream_query(d, s), EPG_ERR_HANDLE);
    assert_int_equal(epg_stream_destroy(d, s), EPG_ERR_HANDLE);
    OK(epg_device_synchronize(d));
    assert_int_equal(runs, 1);
}

static void destroying_the_device_waits(void **state)
{
    (void)state;
    epg_device *d;
    int runs = 0;
    OK(test_device_create(&d));
    epg_stream s = stream(d, EPG_STREAM_BLOCKING);
    OK(work_pause(d, s, 5000));
    OK(epg_host_func(d, s, add_one, &runs, "last"));
    OK(epg_stream_destroy(d, s));
    epg_device_destroy(d);
    assert_int_equal(runs, 1);
}

/* ---- graphs ---- */

static epg_exec instantiate(epg_device *d, epg_graph g)
{
    epg_exec x;
    OK(epg_graph_instantiate(d, g, &x));
    OK(epg_graph_destroy(d, g));
    return x;
}

static void a_graph_replays_what_was_captured(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    int runs = 0, *from, *to;
    unsigned char *bytes;
    epg_graph g;
    size_t nodes = 0;
    epg_stream s = stream(d, EPG_STREAM_NONBLOCKING);
    OK(epg_memory_alloc(d, EPG_MEMORY_PINNED, sizeof *from, (void **)&from));
    OK(epg_memory_alloc(d, EPG_MEMORY_PINNED, sizeof *to, (void **)&to));
    OK(epg_memory_alloc(d, EPG_MEMORY_MAPPED, 8, (void **)&bytes));
    *from = 7;
    OK(epg_capture_begin(d, s, EPG_CAPTURE_GLOBAL));
    OK(epg_host_func(d, s, add_one, &runs, "add"));
    OK(epg_memcpy_async(d, to, from, sizeof *to, s));
    OK(epg_memset_async(d, bytes, 3, 8, s));
    OK(epg_capture_end(d, s, &g));
    assert_int_equal(runs, 0);
    OK(epg_graph_node_count(d, g, &nodes));
    assert_int_equal(nodes, 3);
    epg_exec x = instantiate(d, g);
    for (int i = 0; i < 100; i++)
        OK(epg_exec_launch(d, x, s));
    OK(epg_stream_synchronize(d, s));
    assert_int_equal(runs, 100);
    assert_int_equal(*to, 7);
    assert_int_equal(bytes[7], 3);
    OK(epg_exec_launch(d, x, s));
    OK(epg_exec_destroy(d, x));
    OK(epg_stream_synchronize(d, s));
    assert_int_equal(runs, 101);
    OK(epg_memory_free(d, EPG_MEMORY_PINNED, from));
    OK(epg_memory_free(d, EPG_MEMORY_PINNED, to));
    OK(epg_memory_free(d, EPG_MEMORY_MAPPED, bytes));
    OK(epg_stream_destroy(d, s));
}

static void an_empty_graph_is_fine(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    epg_graph g;
    size_t nodes = 9;
    epg_stream s = stream(d, EPG_STREAM_BLOCKING);
    OK(epg_capture_begin(d, s, EPG_CAPTURE_RELAXED));
    OK(epg_capture_end(d, s, &g));
    OK(epg_graph_node_count(d, g, &nodes));
    assert_int_equal(nodes, 0);
    epg_exec x = instantiate(d, g);
    OK(epg_exec_launch(d, x, NULL));
    OK(epg_stream_synchronize(d, NULL));
    OK(epg_exec_destroy(d, x));
    OK(epg_stream_destroy(d, s));
}

enum { LEFT, RIGHT, BEFORE, AFTER_RIGHT, JOINED };

static epg_graph capture_fork(epg_device *d, epg_stream s, epg_stream side, work *w)
{
    epg_event fork, back;
    epg_graph g;
    OK(epg_event_create(d, &fork));
    OK(epg_event_create(d, &back));
    OK(epg_capture_begin(d, s, EPG_CAPTURE_THREAD_LOCAL));
    note(d, s, w, BEFORE);
    OK(epg_event_record(d, fork, s));
    OK(epg_stream_wait_event(d, side, fork));
    OK(work_meet(d, s, w, LEFT, RIGHT));
    OK(work_meet(d, side, w, RIGHT, LEFT));
    note(d, side, w, AFTER_RIGHT);
    OK(epg_event_record(d, back, side));
    OK(epg_stream_wait_event(d, s, back));
    note(d, s, w, JOINED);
    OK(epg_capture_end(d, s, &g));
    OK(epg_event_destroy(d, fork));
    OK(epg_event_destroy(d, back));
    return g;
}

static void branches_run_at_once_and_join(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    work *w = ((fixture *)*state)->work;
    epg_stream s = stream(d, EPG_STREAM_NONBLOCKING), side = stream(d, EPG_STREAM_NONBLOCKING);
    epg_exec x = instantiate(d, capture_fork(d, s, side, w));
    for (int i = 0; i < 50; i++) {
        OK(epg_exec_launch(d, x, s));
        OK(epg_stream_synchronize(d, s));
        assert_int_equal(w->at[BEFORE], 3 * i + 1);
        assert_int_equal(w->at[AFTER_RIGHT], 3 * i + 2);
        assert_int_equal(w->at[JOINED], 3 * i + 3);
    }
    OK(epg_exec_destroy(d, x));
    OK(epg_stream_destroy(d, s));
    OK(epg_stream_destroy(d, side));
}

static void launches_of_one_executable_do_not_overlap(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    work *w = ((fixture *)*state)->work;
    epg_stream s = stream(d, EPG_STREAM_NONBLOCKING), side = stream(d, EPG_STREAM_NONBLOCKING);
    epg_exec x = instantiate(d, capture_fork(d, s, side, w));
    for (int i = 0; i < 40; i++)
        OK(epg_exec_launch(d, x, i % 2 ? s : side)); /* non-atomic notes: TSan sees an overlap */
    OK(epg_exec_destroy(d, x));
    OK(epg_device_synchronize(d));
    assert_int_equal(w->at[JOINED], 120);
    OK(epg_stream_destroy(d, s));
    OK(epg_stream_destroy(d, side));
}

typedef struct text {
    char at[4096];
} text;
static void append(void *ctx, const char *piece)
{
    text *t = ctx;
    assert_true(strlen(t->at) + strlen(piece) < sizeof t->at);
    strcat(t->at, piece);
}

static void a_graph_dumps_as_dot(void **state)
{
    epg_device *d = ((fixture *)*state)->device;
    text t = {{0}};
    int runs = 0;
    void *memory;
    epg_graph g;
    epg_stream s = stream(d, EPG_STREAM_NONBLOCKING);
    OK(epg_memory_alloc(d, EPG_MEMORY_DEVICE, 4, &memory));
    OK(epg_capture_begin(d, s, EPG_CAPTURE_GLOBAL));
    OK(epg_host_func(d, s, add_one, &runs, "dispatch \"send\""));
    OK(epg_memset_async(d, memory, 0, 4, s));
    OK(epg_capture_end(d, s, &g));
    OK(epg_graph_dot(d, g, append, &t));
    assert_non_null(strstr(t.at, "digraph epgraph {"));
    assert_non_null(strstr(t.at, "dispatch \\\"send\\\""));
    assert_non_null(strstr(t.at, "n0 -> n1;"));
    assert_string_equal(t.at + strlen(t.at) - 2, "}\n");
    OK(epg_graph_destroy(d, g));
    OK(epg_memory_free(d, EPG_MEMORY_DEVICE, memory));
    OK(epg_stream_destroy(d, s));
}

/* Several threads on one device: each its own streams, one shared event chain less. */
static void *hammer(void *arg)
{
    epg_device *d = arg;
    int runs = 0;
    intptr_t bad = 0;
    for (int round = 0; round < 20; round++) {
        epg_stream a, b;
        epg_event e;
        bad += epg_stream_create(d, round % 2 ? EPG_STREAM_BLOCKING : EPG_STREAM_NONBLOCKING, &a) != EPG_OK;
        bad += epg_stream_create(d, EPG_STREAM_NONBLOCKING, &b) != EPG_OK;
        bad += epg_event_create(d, &e) != EPG_OK;
        for (int i = 0; i < 10; i++) {
            bad += epg_host_func(d, a, add_one, &runs, NULL) != EPG_OK;
            bad += epg_event_record(d, e, a) != EPG_OK;
            bad += epg_stream_wait_event(d, b, e) != EPG_OK;
            bad += epg_host_func(d, b, add_one, &runs, NULL) != EPG_OK;
            bad += epg_event_record(d, e, b) != EPG_OK;
            bad += epg_stream_wait_event(d, a, e) != EPG_OK;
        }
        bad += epg_memset(d, NULL, 0, 0) != EPG_OK;
        bad += epg_stream_synchronize(d, b) != EPG_OK;
        bad += epg_event_destroy(d, e) != EPG_OK;
        bad += epg_stream_destroy(d, a) != EPG_OK;
        bad += epg_stream_destroy(d, b) != EPG_OK;
    }
    return (void *)(bad + (runs != 400));
}

static void many_threads_share_a_device(void **state)
{
    pthread_t threads[8];
    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hammer, ((fixture *)*state)->device), 0);
    for (int i = 0; i < 8; i++) {
        void *bad;
        pthread_join(threads[i], &bad);
        assert_null(bad);
    }
}

static void needs_concurrency(void **state)
{
    (void)state;
    skip();
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define CONCURRENT(name) {#name, test_device_serial() ? needs_concurrency : name, setup, teardown, NULL}
    const struct CMUnitTest tests[] = {
        T(describes_itself_up_to_the_callers_size), T(refuses_bad_arguments), T(logs_to_the_callback),
        T(memory_is_zeroed_and_aligned), T(a_copy_is_there_for_a_nonblocking_stream),
        CONCURRENT(a_stream_runs_in_order_and_answers_queries),
        CONCURRENT(a_blocked_worker_stops_no_other_stream), CONCURRENT(the_legacy_stream_orders_blocking_streams),
        CONCURRENT(an_event_orders_two_streams), T(events_measure_time), T(a_copy_has_a_rate),
        CONCURRENT(a_destroyed_stream_finishes_its_work), T(a_destroyed_streams_handle_is_refused),
        T(destroying_the_device_waits), T(a_graph_replays_what_was_captured), T(an_empty_graph_is_fine),
        CONCURRENT(branches_run_at_once_and_join), CONCURRENT(launches_of_one_executable_do_not_overlap),
        T(a_graph_dumps_as_dot),
        T(many_threads_share_a_device),
    };
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
