/* Timestamps in stream order: on the device's clock, anew in every replay, in virtual time where the device is
 * simulated. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>
#include "support/device_under_test.h"
#include "support/simulated.h"
#include "support/work.h"

#define OK(call) assert_int_equal((call), EPG_OK)

/* By how much the host's idea of a GPU's clock may be off. On the host device there is one clock. */
static uint64_t clock_slack(void) { return test_device_kind() == EPG_DEVICE_HOST ? 0 : 1000000; }

typedef struct fixture {
    epg_device *device;
    epg_stream stream;
    uint64_t *at; /* [4], mapped */
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    return !f || test_device_create(&f->device) != EPG_OK ||
           epg_stream_create(f->device, EPG_STREAM_NONBLOCKING, &f->stream) != EPG_OK ||
           epg_memory_alloc(f->device, EPG_MEMORY_MAPPED, 4 * sizeof *f->at, (void **)&f->at) != EPG_OK;
}

static int teardown(void **state)
{
    fixture *f = *state;
    epg_memory_free(f->device, EPG_MEMORY_MAPPED, f->at);
    epg_stream_destroy(f->device, f->stream);
    epg_device_destroy(f->device);
    free(f);
    return 0;
}

static void bad_arguments_are_named(void **state)
{
    fixture *f = *state;
    assert_int_equal(epg_timestamp_async(NULL, f->at, f->stream), EPG_ERR_INVALID);
    assert_int_equal(epg_timestamp_async(f->device, NULL, f->stream), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "at is NULL"));
    assert_int_equal(epg_timestamp_async(f->device, (uint64_t *)((uintptr_t)f->at + 4), f->stream), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "aligned to 8"));
    OK(epg_stream_synchronize(f->device, f->stream));
    assert_int_equal(f->at[0], 0);
}

static void the_clock_is_the_devices(void **state)
{
    fixture *f = *state;
    uint64_t before = epg_device_now_ns(f->device), slack = clock_slack();
    OK(epg_timestamp_async(f->device, &f->at[0], f->stream));
    OK(work_pause(f->device, f->stream, 3000));
    OK(epg_timestamp_async(f->device, &f->at[1], f->stream));
    OK(epg_stream_synchronize(f->device, f->stream));
    uint64_t after = epg_device_now_ns(f->device);
    assert_true(f->at[0] + slack >= before);
    assert_true(f->at[1] <= after + slack);
    assert_true(f->at[1] - f->at[0] >= 3000000);
}

/* Into device memory, and copied from there behind each replay, as a reader of many replays does. */
static void every_replay_writes_anew(void **state)
{
    enum { REPLAYS = 20 };
    fixture *f = *state;
    epg_graph graph;
    epg_exec exec;
    size_t nodes;
    uint64_t *slots, last = 0;
    OK(epg_memory_alloc(f->device, EPG_MEMORY_DEVICE, 2 * sizeof *slots, (void **)&slots));
    OK(epg_capture_begin(f->device, f->stream, EPG_CAPTURE_THREAD_LOCAL));
    OK(epg_timestamp_async(f->device, &slots[0], f->stream));
    OK(work_pause(f->device, f->stream, 200));
    OK(epg_timestamp_async(f->device, &slots[1], f->stream));
    OK(epg_capture_end(f->device, f->stream, &graph));
    OK(epg_graph_node_count(f->device, graph, &nodes));
    assert_int_equal(nodes, 3);
    OK(epg_graph_instantiate(f->device, graph, &exec));
    for (int i = 0; i < REPLAYS; i++) {
        OK(epg_exec_launch(f->device, exec, f->stream));
        OK(epg_memcpy_async(f->device, &f->at[0], &slots[0], 2 * sizeof *slots, f->stream));
        OK(epg_stream_synchronize(f->device, f->stream));
        assert_true(f->at[0] >= last && f->at[0] > 0);
        assert_true(f->at[1] - f->at[0] >= 200000);
        last = f->at[1];
    }
    OK(epg_exec_destroy(f->device, exec));
    OK(epg_graph_destroy(f->device, graph));
    OK(epg_memory_free(f->device, EPG_MEMORY_DEVICE, slots));
}

static void two_looks(void *ctx, uint32_t program)
{
    world *w = ctx;
    step_args steps = {w, program, 50};
    want(w, epg_stream_create(w->d, EPG_STREAM_NONBLOCKING, &w->stream) == EPG_OK);
    want(w, epg_timestamp_async(w->d, &w->times[0], w->stream) == EPG_OK);
    want(w, epg_host_launch(w->d, w->stream, step_kernel, &steps, sizeof steps, "steps") == EPG_OK);
    want(w, epg_timestamp_async(w->d, &w->times[1], w->stream) == EPG_OK);
    want(w, epg_stream_synchronize(w->d, w->stream) == EPG_OK);
    want(w, epg_stream_destroy(w->d, w->stream) == EPG_OK);
}

static void a_simulated_devices_time_is_virtual(void **state)
{
    world w = {.d = simulated_device(7, 0, 0)};
    (void)state;
    OK(epg_simulation_run(w.d, 1, two_looks, &w));
    assert_int_equal(w.wrong, 0);
    assert_int_equal(w.counts[0], 50);
    assert_true(w.times[1] - w.times[0] >= 50 * 100); /* a move takes 100 ns */
    assert_true(w.times[1] < SECOND);
    epg_device_destroy(w.d);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(bad_arguments_are_named), T(the_clock_is_the_devices), T(every_replay_writes_anew),
        cmocka_unit_test(a_simulated_devices_time_is_virtual),
    };
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
