/* Every allocation and thread start of the host device fails in turn: a status, no leak, no hang, and a device that
 * still works. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <stdbool.h>
#include "epgraph/device.h"
#include "support/oom.h"

#define TRY(call)               \
    do {                        \
        epg_status s_ = (call); \
        if (s_ != EPG_OK)       \
            return s_;          \
    } while (0)

typedef struct things {
    epg_device *d;
    epg_stream a, b;
    epg_event e, f;
    epg_graph g;
    epg_exec x;
    void *memory, *pooled, *captured;
    int runs, right;
} things;

static void add_one(void *p) { ++*(int *)p; }
static void ignore_log(void *ctx, epg_log_level level, const char *text)
{
    (void)ctx;
    (void)level;
    (void)text;
}

/* A fork to t->b and back, with more nodes than a small table holds. */
static epg_status record(things *t)
{
    TRY(epg_capture_begin(t->d, t->a, EPG_CAPTURE_GLOBAL));
    for (int i = 0; i < 70; i++)
        TRY(epg_host_func(t->d, t->a, add_one, &t->runs, "left"));
    TRY(epg_event_record(t->d, t->e, t->a));
    TRY(epg_stream_wait_event(t->d, t->b, t->e));
    TRY(epg_host_func(t->d, t->b, add_one, &t->right, "right"));
    TRY(epg_memory_alloc_async(t->d, 100, t->b, &t->captured));
    TRY(epg_memory_free_async(t->d, t->captured, t->b));
    TRY(epg_event_record(t->d, t->e, t->b));
    return epg_stream_wait_event(t->d, t->a, t->e);
}

static epg_status capture(things *t)
{
    epg_status status = record(t);
    epg_status end = epg_capture_end(t->d, t->a, &t->g);
    if (status != EPG_OK)
        assert_int_not_equal(end, EPG_OK); /* a graph that lacks something is not handed out */
    return status != EPG_OK ? status : end;
}

static epg_status work(things *t)
{
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    epg_capture_mode mode = EPG_CAPTURE_RELAXED;
    int from = 5, word = 0;
    options.log = ignore_log;
    options.log_level = EPG_LOG_DEBUG;
    TRY(epg_device_create(&options, &t->d));
    TRY(epg_memory_alloc(t->d, EPG_MEMORY_DEVICE, 100, &t->memory));
    TRY(epg_stream_create(t->d, EPG_STREAM_BLOCKING, &t->a));
    TRY(epg_stream_create(t->d, EPG_STREAM_NONBLOCKING, &t->b));
    TRY(epg_event_create(t->d, &t->e));
    TRY(epg_event_create(t->d, &t->f));
    TRY(epg_event_record(t->d, t->f, t->b));
    TRY(epg_host_func(t->d, t->a, add_one, &t->runs, NULL));
    TRY(epg_event_record(t->d, t->e, t->a));
    TRY(epg_stream_wait_event(t->d, t->b, t->e));
    TRY(epg_memset_async(t->d, t->memory, 1, 100, t->b));
    TRY(epg_memcpy(t->d, &word, &from, sizeof word));
    TRY(epg_host_func(t->d, EPG_STREAM_PER_THREAD, add_one, &t->runs, NULL));
    TRY(epg_memory_alloc_async(t->d, 100, t->a, &t->pooled));
    TRY(epg_memset_async(t->d, t->pooled, 1, 100, t->a));
    TRY(epg_memory_free_async(t->d, t->pooled, t->a));
    TRY(epg_device_synchronize(t->d));
    TRY(epg_capture_mode_exchange(t->d, &mode));
    TRY(capture(t));
    TRY(epg_graph_instantiate(t->d, t->g, &t->x));
    TRY(epg_exec_launch(t->d, t->x, t->a));
    TRY(epg_exec_launch(t->d, t->x, NULL));
    return epg_device_synchronize(t->d);
}

static void clean(things *t)
{
    int ran = 0;
    if (!t->d)
        return;
    assert_int_equal(epg_host_func(t->d, EPG_STREAM_LEGACY, add_one, &ran, NULL), EPG_OK);
    assert_int_equal(epg_device_synchronize(t->d), EPG_OK);
    assert_int_equal(ran, 1);
    assert_int_equal(epg_exec_destroy(t->d, t->x), EPG_OK);
    assert_int_equal(epg_graph_destroy(t->d, t->g), EPG_OK);
    assert_int_equal(epg_event_destroy(t->d, t->e), EPG_OK);
    assert_int_equal(epg_event_destroy(t->d, t->f), EPG_OK);
    assert_int_equal(epg_stream_destroy(t->d, t->a), EPG_OK);
    assert_int_equal(epg_stream_destroy(t->d, t->b), EPG_OK);
    assert_int_equal(epg_memory_free(t->d, EPG_MEMORY_DEVICE, t->memory), EPG_OK);
    epg_device_destroy(t->d);
}

static void each_allocation_fails_once(void **state)
{
    (void)state;
    bool delivered = true;
    for (long n = 0; delivered; n++) {
        things t = {0};
        oom_track_start();
        oom_fail_at(n);
        epg_status status = work(&t);
        delivered = oom_stop();
        if (delivered)
            assert_true(status == EPG_ERR_NO_MEMORY || status == EPG_ERR_SYSTEM);
        else
            assert_int_equal(status, EPG_OK);
        if (delivered)
            assert_true(epg_message()[0] != 0);
        clean(&t);
        assert_int_equal(oom_tracked(), 0);
        assert_true(delivered ? n < 2000 : n > 100);
        if (!delivered)
            assert_int_equal(t.right, 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_allocation_fails_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
