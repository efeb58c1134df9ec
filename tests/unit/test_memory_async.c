/* Stream-ordered allocation: order, reuse, the pool, the memory of graphs; memory information, mapped memory and the
 * per-thread stream. What graphs may do with memory holds on every device; which block comes next, on the host's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <pthread.h>
#include <string.h>
#include "support/device_under_test.h"
#include "support/work.h"

#define OK(call) assert_int_equal((call), EPG_OK)
#define IS(call, status) assert_int_equal((call), (status))
enum { BYTES = 4096 };

typedef struct bench {
    epg_device *d;
    epg_stream s, other;
    epg_event e;
    work *w;
} bench;

static bool on_host(void) { return test_device_kind() == EPG_DEVICE_HOST; }

static int setup(void **state)
{
    bench *b = calloc(1, sizeof *b);
    *state = b;
    return !b || test_device_create(&b->d) || !(b->w = work_create(b->d)) ||
           epg_stream_create(b->d, EPG_STREAM_NONBLOCKING, &b->s) ||
           epg_stream_create(b->d, EPG_STREAM_NONBLOCKING, &b->other) || epg_event_create(b->d, &b->e);
}

static int teardown(void **state)
{
    bench *b = *state;
    epg_stream_destroy(b->d, b->s);
    epg_stream_destroy(b->d, b->other);
    epg_event_destroy(b->d, b->e);
    work_destroy(b->d, b->w);
    epg_device_destroy(b->d);
    free(b);
    return 0;
}

/* Holds a stream up until work_open(b->w). */
static void hold(bench *b, epg_stream s) { OK(work_note(b->d, s, b->w, 1, 0)); }

static void *alloc(bench *b, epg_stream s)
{
    void *p = NULL;
    OK(epg_memory_alloc_async(b->d, BYTES, s, &p));
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 256, 0);
    return p;
}

/* ---- outside of captures ---- */

static void memory_serves_work_between_alloc_and_free(void **state)
{
    bench *b = *state;
    char seen[BYTES];
    void *p = alloc(b, b->s);
    OK(epg_memset_async(b->d, p, 7, BYTES, b->s));
    OK(epg_memcpy_async(b->d, seen, p, BYTES, b->s));
    OK(epg_memory_free_async(b->d, p, b->s));
    OK(epg_stream_synchronize(b->d, b->s));
    for (int i = 0; i < BYTES; i++)
        assert_int_equal(seen[i], 7);
}

/* A free that has not run gives its memory to its own stream at once, and to others not before it has. */
static void reuse_follows_stream_order(void **state)
{
    bench *b = *state;
    hold(b, b->s);
    void *first = alloc(b, b->s);
    OK(epg_memory_free_async(b->d, first, b->s));
    void *elsewhere = alloc(b, b->other);
    assert_ptr_not_equal(elsewhere, first);
    void *again = alloc(b, b->s);
    if (on_host())
        assert_ptr_equal(again, first);
    work_open(b->w);
    OK(epg_stream_synchronize(b->d, b->s));
    /* The overtaken free has run by now, and must not have freed the block under its second user. */
    void *third = alloc(b, b->other);
    assert_ptr_not_equal(third, again);
    OK(epg_memory_free_async(b->d, again, b->s));
    OK(epg_stream_synchronize(b->d, b->s));
    void *last = alloc(b, b->other);
    if (on_host())
        assert_ptr_equal(last, again);
    OK(epg_memory_free_async(b->d, last, b->other));
    OK(epg_memory_free_async(b->d, elsewhere, b->other));
    OK(epg_memory_free_async(b->d, third, b->other));
}

static void a_loop_needs_one_block(void **state)
{
    bench *b = *state;
    hold(b, b->s);
    void *p = NULL;
    for (int i = 0; i < 100; i++) {
        void *q = alloc(b, b->s);
        assert_true(!p || p == q || !on_host());
        OK(epg_memset_async(b->d, q, i, BYTES, b->s));
        OK(epg_memory_free_async(b->d, q, b->s));
        p = q;
    }
    work_open(b->w);
    OK(epg_stream_synchronize(b->d, b->s));
    void *small = NULL;
    OK(epg_memory_alloc_async(b->d, 16, b->s, &small)); /* would waste most of the block */
    assert_true(small != p || !on_host());
    OK(epg_memory_free_async(b->d, small, b->s));
}

static void bad_frees_are_refused(void **state)
{
    bench *b = *state;
    int local;
    void *p = alloc(b, b->s), *none = &local;
    OK(epg_memory_free_async(b->d, p, b->s));
    IS(epg_memory_free_async(b->d, p, b->s), EPG_ERR_INVALID);
    assert_true(!on_host() || strstr(epg_message(), "freed"));
    IS(epg_memory_free(b->d, EPG_MEMORY_DEVICE, p), EPG_ERR_INVALID);
    IS(epg_memory_free_async(b->d, &local, b->s), EPG_ERR_INVALID);
    OK(epg_memory_free_async(b->d, NULL, b->s));
    OK(epg_memory_alloc_async(b->d, 0, b->s, &none));
    assert_null(none);
    IS(epg_memory_alloc_async(b->d, 1, b->s, NULL), EPG_ERR_INVALID);
    IS(epg_memory_alloc_async(NULL, 1, b->s, &none), EPG_ERR_INVALID);
    IS(epg_memory_free_async(NULL, p, b->s), EPG_ERR_INVALID);
    IS(epg_memory_trim(NULL, 0), EPG_ERR_INVALID);
}

static void plain_free_takes_pool_memory(void **state)
{
    bench *b = *state;
    void *p = alloc(b, b->s);
    OK(epg_memory_free(b->d, EPG_MEMORY_DEVICE, p));
    assert_ptr_equal(alloc(b, b->other), p); /* at once, for every stream */
    OK(epg_memory_free_async(b->d, p, b->s));
    /* Freed plainly while an overtaken free is queued: trim must leave the block to that free. */
    hold(b, b->s);
    p = alloc(b, b->s);
    OK(epg_memory_free_async(b->d, p, b->s));
    assert_ptr_equal(alloc(b, b->s), p);
    OK(epg_memory_free(b->d, EPG_MEMORY_DEVICE, p));
    OK(epg_memory_trim(b->d, 0));
    work_open(b->w);
    OK(epg_device_synchronize(b->d));
    OK(epg_memory_trim(b->d, 0));
}

static void trim_leaves_what_is_used(void **state)
{
    bench *b = *state;
    void *used = alloc(b, b->s), *unused = alloc(b, b->s);
    OK(epg_memory_free_async(b->d, unused, b->s));
    OK(epg_stream_synchronize(b->d, b->s));
    OK(epg_memory_trim(b->d, 2 * BYTES)); /* holds no more: nothing to do */
    assert_ptr_equal(alloc(b, b->s), unused);
    OK(epg_memory_free_async(b->d, unused, b->s));
    OK(epg_stream_synchronize(b->d, b->s));
    OK(epg_memory_trim(b->d, 2 * BYTES - 1));
    OK(epg_memset_async(b->d, used, 1, BYTES, b->s));
    OK(epg_memory_free_async(b->d, used, b->s));
    OK(epg_stream_synchronize(b->d, b->s));
}

/* ---- graphs ---- */

static epg_exec instantiate(bench *b, epg_graph *g)
{
    epg_exec x;
    OK(epg_capture_end(b->d, b->s, g));
    OK(epg_graph_instantiate(b->d, *g, &x));
    return x;
}

static void a_graph_allocates_and_frees_in_every_replay(void **state)
{
    bench *b = *state;
    unsigned char *source, *seen;
    epg_graph g;
    void *p = NULL, *mapped = NULL;
    size_t nodes;
    OK(epg_memory_alloc(b->d, EPG_MEMORY_MAPPED, 32, &mapped));
    source = mapped;
    seen = source + 16;
    OK(epg_capture_begin(b->d, b->s, EPG_CAPTURE_GLOBAL));
    OK(epg_memory_alloc_async(b->d, 16, b->s, &p));
    OK(epg_memcpy_async(b->d, p, source, 16, b->s));
    OK(epg_memcpy_async(b->d, seen, p, 16, b->s));
    OK(epg_memory_free_async(b->d, p, b->s));
    IS(epg_memory_free_async(b->d, p, b->s), EPG_ERR_INVALID); /* twice */
    OK(epg_memory_free_async(b->d, NULL, b->s));
    OK(epg_memory_alloc_async(b->d, 0, b->s, &p));
    assert_null(p);
    epg_exec x = instantiate(b, &g);
    OK(epg_graph_node_count(b->d, g, &nodes));
    assert_int_equal(nodes, 4);
    OK(epg_graph_destroy(b->d, g));
    for (int i = 0; i < 3; i++) {
        memset(source, 40 + i, 16);
        OK(epg_exec_launch(b->d, x, b->s));
        OK(epg_stream_synchronize(b->d, b->s));
        assert_memory_equal(seen, source, 16);
    }
    OK(epg_exec_destroy(b->d, x));
    OK(epg_memory_free(b->d, EPG_MEMORY_MAPPED, mapped));
}

static void memory_left_by_a_graph_bars_its_next_launch(void **state)
{
    bench *b = *state;
    epg_graph g, freeing;
    epg_exec second;
    unsigned char last = 0;
    void *p = NULL;
    OK(epg_capture_begin(b->d, b->s, EPG_CAPTURE_GLOBAL));
    OK(epg_memory_alloc_async(b->d, BYTES, b->s, &p));
    OK(epg_memset_async(b->d, p, 9, BYTES, b->s));
    epg_exec x = instantiate(b, &g);
    IS(epg_graph_instantiate(b->d, g, &second), EPG_ERR_UNSUPPORTED);
    IS(epg_memory_free_async(b->d, p, b->s), EPG_ERR_INVALID); /* not launched yet */
    OK(epg_exec_launch(b->d, x, b->s));
    IS(epg_exec_launch(b->d, x, b->s), EPG_ERR_INVALID);
    assert_true(!on_host() || strstr(epg_message(), "not freed"));
    OK(epg_memory_free_async(b->d, p, b->s));
    IS(epg_memory_free_async(b->d, p, b->s), EPG_ERR_INVALID);
    OK(epg_exec_launch(b->d, x, b->s));
    OK(epg_memory_free(b->d, EPG_MEMORY_DEVICE, p));
    OK(epg_exec_launch(b->d, x, b->s));
    /* Another graph frees it: once per launch that allocates. */
    OK(epg_capture_begin(b->d, b->s, EPG_CAPTURE_GLOBAL));
    OK(epg_memory_free_async(b->d, p, b->s));
    epg_exec y = instantiate(b, &freeing);
    OK(epg_exec_launch(b->d, y, b->s));
    IS(epg_exec_launch(b->d, y, b->s), EPG_ERR_INVALID);
    OK(epg_exec_launch(b->d, x, b->s));
    /* The memory outlives its graph, to its free. */
    OK(epg_stream_synchronize(b->d, b->s));
    OK(epg_exec_destroy(b->d, x));
    OK(epg_graph_instantiate(b->d, g, &x)); /* one at a time, not one for ever */
    OK(epg_exec_destroy(b->d, x));
    OK(epg_graph_destroy(b->d, g));
    OK(epg_exec_destroy(b->d, y));
    OK(epg_graph_destroy(b->d, freeing));
    OK(epg_memcpy(b->d, &last, (char *)p + BYTES - 1, 1));
    assert_int_equal(last, 9);
    OK(epg_memory_free_async(b->d, p, b->s));
    IS(epg_memory_free_async(b->d, p, b->s), EPG_ERR_INVALID);
}

static void a_graph_frees_only_what_graphs_allocate(void **state)
{
    bench *b = *state;
    epg_graph g;
    size_t nodes;
    void *outside = alloc(b, b->other), *inside = NULL;
    OK(epg_capture_begin(b->d, b->s, EPG_CAPTURE_RELAXED));
    IS(epg_memory_free_async(b->d, outside, b->s), EPG_ERR_INVALID);
    assert_true(!on_host() || strstr(epg_message(), "outside of graphs"));
    OK(epg_memory_alloc_async(b->d, BYTES, b->s, &inside));
    IS(epg_memory_free_async(b->d, inside, b->other), EPG_ERR_INVALID); /* not allocated there */
    OK(epg_capture_end(b->d, b->s, &g)); /* the refusals left it valid */
    OK(epg_graph_node_count(b->d, g, &nodes));
    assert_int_equal(nodes, 1);
    OK(epg_graph_destroy(b->d, g));
    OK(epg_memory_free_async(b->d, outside, b->other));
}

/* The free may be anywhere in the graph, also on a forked stream. */
static void a_fork_may_free(void **state)
{
    bench *b = *state;
    epg_graph g;
    void *p = NULL;
    OK(epg_capture_begin(b->d, b->s, EPG_CAPTURE_GLOBAL));
    OK(epg_memory_alloc_async(b->d, BYTES, b->s, &p));
    OK(epg_event_record(b->d, b->e, b->s));
    OK(epg_stream_wait_event(b->d, b->other, b->e));
    OK(epg_memset_async(b->d, p, 1, BYTES, b->other));
    OK(epg_memory_free_async(b->d, p, b->other));
    OK(epg_event_record(b->d, b->e, b->other));
    OK(epg_stream_wait_event(b->d, b->s, b->e));
    epg_exec x = instantiate(b, &g);
    for (int i = 0; i < 3; i++)
        OK(epg_exec_launch(b->d, x, b->s));
    OK(epg_stream_synchronize(b->d, b->s));
    OK(epg_exec_destroy(b->d, x));
    OK(epg_graph_destroy(b->d, g));
}

static void a_dropped_capture_frees_its_memory(void **state)
{
    bench *b = *state;
    epg_graph g;
    void *p = NULL;
    OK(epg_capture_begin(b->d, b->s, EPG_CAPTURE_GLOBAL));
    OK(epg_memory_alloc_async(b->d, BYTES, b->s, &p));
    IS(epg_stream_query(b->d, b->s), EPG_ERR_CAPTURE_UNSUPPORTED);
    IS(epg_memory_alloc_async(b->d, BYTES, b->s, &p), EPG_ERR_CAPTURE_INVALIDATED);
    IS(epg_memory_free_async(b->d, p, b->s), EPG_ERR_CAPTURE_INVALIDATED);
    IS(epg_capture_end(b->d, b->s, &g), EPG_ERR_CAPTURE_INVALIDATED);
    IS(epg_memory_free_async(b->d, p, b->s), EPG_ERR_INVALID); /* gone; a leak would be seen by the sanitizer */
}

/* ---- the rest ---- */

static void memory_information_is_plausible(void **state)
{
    bench *b = *state;
    uint64_t left = 0, all = 0;
    epg_graph g;
    OK(epg_memory_info(b->d, &left, &all));
    assert_true(left > 0 && left <= all);
    IS(epg_memory_info(b->d, NULL, &all), EPG_ERR_INVALID);
    IS(epg_memory_info(b->d, &left, NULL), EPG_ERR_INVALID);
    IS(epg_memory_info(NULL, &left, &all), EPG_ERR_INVALID);
    OK(epg_capture_begin(b->d, b->s, EPG_CAPTURE_GLOBAL));
    OK(epg_memory_info(b->d, &left, &all)); /* and leaves a capture alone */
    OK(epg_capture_end(b->d, b->s, &g));
    OK(epg_graph_destroy(b->d, g));
}

static void mapped_memory_is_the_hosts_and_the_devices(void **state)
{
    bench *b = *state;
    unsigned char *p = NULL;
    void *raw = NULL;
    OK(epg_memory_alloc(b->d, EPG_MEMORY_MAPPED, BYTES, &raw));
    p = raw;
    assert_int_equal(p[0] | p[BYTES - 1], 0); /* zero-filled */
    OK(epg_memset_async(b->d, p, 5, BYTES, b->s));
    OK(epg_stream_synchronize(b->d, b->s));
    assert_int_equal(p[BYTES - 1], 5);
    OK(epg_memory_free(b->d, EPG_MEMORY_MAPPED, p));
    IS(epg_memory_alloc(b->d, (epg_memory_kind)3, BYTES, &raw), EPG_ERR_INVALID);
}

typedef struct per_thread {
    bench *b;
    epg_status status;
} per_thread;

static void *on_my_stream(void *p)
{
    per_thread *t = p;
    t->status = work_note(t->b->d, EPG_STREAM_PER_THREAD, t->b->w, 0, 1);
    if (t->status == EPG_OK)
        t->status = epg_stream_synchronize(t->b->d, EPG_STREAM_PER_THREAD);
    return NULL;
}

/* Held up in one thread, it runs in another: it is not one stream for all. */
static void each_thread_has_its_own_stream(void **state)
{
    bench *b = *state;
    per_thread t = {b, EPG_ERR_STATE};
    pthread_t thread;
    epg_graph graph;
    size_t nodes;
    if (test_device_serial())
        skip();
    hold(b, EPG_STREAM_PER_THREAD);
    assert_int_equal(pthread_create(&thread, NULL, on_my_stream, &t), 0);
    pthread_join(thread, NULL);
    OK(t.status);
    assert_int_equal(b->w->at[1], 1); /* the first of all notes */
    IS(epg_stream_query(b->d, EPG_STREAM_PER_THREAD), EPG_ERR_NOT_READY);
    work_open(b->w);
    OK(epg_stream_synchronize(b->d, EPG_STREAM_PER_THREAD));
    IS(epg_stream_destroy(b->d, EPG_STREAM_PER_THREAD), EPG_ERR_HANDLE);
    OK(epg_capture_begin(b->d, EPG_STREAM_PER_THREAD, EPG_CAPTURE_GLOBAL));
    OK(work_note(b->d, EPG_STREAM_PER_THREAD, b->w, 0, 2));
    OK(epg_capture_end(b->d, EPG_STREAM_PER_THREAD, &graph));
    OK(epg_graph_node_count(b->d, graph, &nodes));
    assert_int_equal(nodes, 1);
    OK(epg_graph_destroy(b->d, graph));
    /* It blocks: the legacy stream may not be used while it is captured. */
    OK(epg_capture_begin(b->d, EPG_STREAM_PER_THREAD, EPG_CAPTURE_GLOBAL));
    IS(work_note(b->d, NULL, b->w, 0, 3), EPG_ERR_CAPTURE_IMPLICIT);
    IS(epg_capture_end(b->d, EPG_STREAM_PER_THREAD, &graph), EPG_ERR_CAPTURE_INVALIDATED);
}

/* What is still allocated goes with the device. */
static void the_device_takes_its_memory_along(void **state)
{
    bench b = {NULL, NULL, NULL, NULL, NULL};
    (void)state;
    OK(test_device_create(&b.d));
    OK(epg_stream_create(b.d, EPG_STREAM_BLOCKING, &b.s));
    void *p = alloc(&b, b.s);
    OK(epg_memset_async(b.d, p, 1, BYTES, b.s));
    OK(epg_memory_free_async(b.d, p, b.s));
    alloc(&b, EPG_STREAM_LEGACY);
    OK(epg_stream_destroy(b.d, b.s));
    epg_device_destroy(b.d);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(memory_serves_work_between_alloc_and_free), T(reuse_follows_stream_order), T(a_loop_needs_one_block),
        T(bad_frees_are_refused), T(a_graph_allocates_and_frees_in_every_replay),
        T(memory_left_by_a_graph_bars_its_next_launch), T(a_graph_frees_only_what_graphs_allocate), T(a_fork_may_free),
        T(a_dropped_capture_frees_its_memory), T(memory_information_is_plausible),
        T(mapped_memory_is_the_hosts_and_the_devices), T(each_thread_has_its_own_stream),
    };
    const struct CMUnitTest host_tests[] = {
        T(plain_free_takes_pool_memory), T(trim_leaves_what_is_used), T(the_device_takes_its_memory_along),
    };
    if (test_device_missing())
        return 77;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed + (on_host() ? cmocka_run_group_tests(host_tests, NULL, NULL) : 0);
}
