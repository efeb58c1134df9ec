/* Every allocation of a runner's life fails once: a status each time, the right work afterwards, and nothing leaked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include "epgraph/runner.h"
#include "support/oom.h"

enum { FAILURES_MOST = 2000 };

typedef struct counter {
    epg_device *device;
    long ran;
} counter;

static void count(void *ctx) { ((counter *)ctx)->ran++; }

static epg_status counting_step(void *ctx, const epg_step_call *call)
{
    counter *c = ctx;
    void *memory;
    epg_status status = epg_step_alloc(call, 100000, &memory);
    return status == EPG_OK ? epg_host_func(c->device, call->stream, count, c, "count") : status;
}

/* A runner's whole life; the first failure ends it. *expected is what `ran` grows by where all goes well. */
static epg_status one_life(counter *c, epg_stream stream, long *expected)
{
    epg_segment segments[] = {{counting_step, c, 0, "one"}, {counting_step, c, 1, "two"}, {counting_step, c, 0, NULL}};
    epg_runner_input input = {"input", c};
    epg_runner_options options = EPG_RUNNER_OPTIONS_INIT;
    epg_runner_step step = EPG_RUNNER_STEP_INIT;
    epg_runner *runner = NULL;
    options.segments = segments;
    options.segment_count = 3;
    options.max_bucket = 4;
    options.warmups = 1;
    epg_status status = epg_runner_create(c->device, &options, &runner);
    step.stream = stream;
    step.inputs = &input;
    step.input_count = 1;
    for (uint32_t tokens = 1; tokens <= 8 && status == EPG_OK; tokens *= 2) {
        step.tokens = tokens;
        status = epg_runner_run(runner, &step);
    }
    epg_status drained = epg_stream_synchronize(c->device, stream);
    epg_runner_destroy(runner);
    *expected = 3 * (3 + 3 + 1); /* three entries warmed up and replayed, one eager step */
    return status != EPG_OK ? status : drained;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    counter c = {0};
    epg_stream stream;
    long nth, expected, failed = 0;
    assert_int_equal(epg_device_create(NULL, &c.device), EPG_OK);
    assert_int_equal(epg_stream_create(c.device, EPG_STREAM_NONBLOCKING, &stream), EPG_OK);
    assert_int_equal(one_life(&c, stream, &expected), EPG_OK); /* what the device keeps for reuse is there now */
    for (nth = 0; nth < FAILURES_MOST; nth++) {
        c.ran = 0;
        oom_fail_at(nth);
        epg_status status = one_life(&c, stream, &expected);
        int delivered = oom_stop();
        if (!delivered)
            break;
        failed += status != EPG_OK;
        if (status == EPG_OK)
            assert_int_equal(c.ran, expected); /* whoever met the failure coped */
        else
            assert_true(epg_message()[0] != 0);
    }
    assert_in_range(nth, 20, FAILURES_MOST - 1);
    assert_true(failed > 20);
    assert_int_equal(epg_stream_destroy(c.device, stream), EPG_OK);
    epg_device_destroy(c.device);
}

/* The same with a device per life, so that nothing may stay behind. */
static void nothing_is_leaked(void **state)
{
    (void)state;
    for (long nth = -1; nth < 400; nth++) {
        counter c = {0};
        epg_stream stream;
        long expected;
        oom_track_start();
        assert_int_equal(epg_device_create(NULL, &c.device), EPG_OK);
        assert_int_equal(epg_stream_create(c.device, EPG_STREAM_NONBLOCKING, &stream), EPG_OK);
        oom_fail_at(nth);
        one_life(&c, stream, &expected);
        int delivered = oom_stop();
        epg_stream_destroy(c.device, stream);
        epg_device_destroy(c.device);
        assert_int_equal(oom_tracked(), 0);
        if (nth >= 0 && !delivered)
            break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(nothing_is_leaked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
