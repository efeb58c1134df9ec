/* What a runner tells its observer: every span of a first use, a replay and an eager step, nested, also where the step
 * fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>
#include "epgraph/runner.h"
#include "support/device_under_test.h"

#define OK(call) assert_int_equal((call), EPG_OK)

typedef struct fixture {
    epg_device *device;
    epg_stream stream;
    epg_runner *runner;
    uint32_t *memory;
    int fail_phase;      /* -1: none */
    uint32_t bucket;     /* that every span must name */
    char told[256];      /* "W(" and ")" */
} fixture;

static epg_status step_fn(void *ctx, const epg_step_call *call)
{
    fixture *f = ctx;
    if ((int)call->phase == f->fail_phase)
        return EPG_ERR_STATE;
    return epg_memset_async(f->device, f->memory, 1, sizeof *f->memory, call->stream);
}

static void observe(void *ctx, epg_runner_span span, int begins, uint32_t variant, uint32_t bucket)
{
    fixture *f = ctx;
    size_t used = strlen(f->told);
    assert_int_equal(variant, 3);
    assert_int_equal(bucket, f->bucket);
    assert_true(epg_stream_query(NULL, NULL) == EPG_ERR_INVALID); /* writes this thread's message */
    if (begins)
        snprintf(f->told + used, sizeof f->told - used, "%c(", "FWPCIRE"[span]);
    else
        snprintf(f->told + used, sizeof f->told - used, ")");
}

static epg_status run(fixture *f, uint32_t tokens, uint32_t bucket)
{
    epg_runner_step step = EPG_RUNNER_STEP_INIT;
    step.variant = 3;
    step.tokens = tokens;
    step.stream = f->stream;
    f->bucket = bucket;
    f->told[0] = 0;
    return epg_runner_run(f->runner, &step);
}

/* `size`: of the options, as a caller built against another header would pass it. */
static void make_runner(fixture *f, uint32_t segments, uint32_t size)
{
    static const uint32_t buckets[] = {2, 4};
    epg_segment list[] = {{step_fn, f, 0, "one"}, {step_fn, f, 1, "two"}, {step_fn, f, 0, "three"}};
    epg_runner_options options = EPG_RUNNER_OPTIONS_INIT;
    options.size = size;
    options.segments = list;
    options.segment_count = segments;
    options.buckets = buckets;
    options.bucket_count = 2;
    options.observe = observe;
    options.observe_ctx = f;
    OK(epg_runner_create(f->device, &options, &f->runner));
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (!f || test_device_create(&f->device) != EPG_OK)
        return 1;
    f->fail_phase = -1;
    return epg_stream_create(f->device, EPG_STREAM_NONBLOCKING, &f->stream) != EPG_OK ||
           epg_memory_alloc(f->device, EPG_MEMORY_DEVICE, sizeof *f->memory, (void **)&f->memory) != EPG_OK;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    epg_runner_destroy(f->runner);
    epg_memory_free(f->device, EPG_MEMORY_DEVICE, f->memory);
    epg_stream_destroy(f->device, f->stream);
    epg_device_destroy(f->device);
    free(f);
    return 0;
}

static void every_span_is_told(void **state)
{
    fixture *f = *state;
    make_runner(f, 1, sizeof(epg_runner_options));
    OK(run(f, 1, 2));
    assert_string_equal(f->told, "F(W()P()C()I())R()");
    OK(run(f, 2, 2));
    assert_string_equal(f->told, "R()");
    OK(run(f, 3, 4));
    assert_string_equal(f->told, "F(W()C()I())R()"); /* the probe is the first entry's */
    OK(run(f, 5, 5));
    assert_string_equal(f->told, "E()");
}

static void each_captured_part_is_told(void **state)
{
    fixture *f = *state;
    make_runner(f, 3, sizeof(epg_runner_options));
    OK(run(f, 1, 2));
    assert_string_equal(f->told, "F(W()P()C()I()C()I())R()");
}

static void a_failure_ends_its_spans(void **state)
{
    static const struct { epg_runner_phase phase; uint32_t tokens, bucket; const char *told, *message; } cases[] = {
        {EPG_PHASE_WARMUP, 1, 2, "F(W())", "warm-up"},
        {EPG_PHASE_PROBE, 1, 2, "F(W()P())", "probe"},
        {EPG_PHASE_CAPTURE, 1, 2, "F(W()P()C())", "capture"},
        {EPG_PHASE_EAGER, 5, 5, "E()", "eager"},
    };
    fixture *f = *state;
    make_runner(f, 1, sizeof(epg_runner_options));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        f->fail_phase = (int)cases[i].phase;
        assert_int_equal(run(f, cases[i].tokens, cases[i].bucket), EPG_ERR_STATE);
        assert_non_null(strstr(epg_message(), cases[i].message)); /* and not what the observer's call left */
        assert_string_equal(f->told, cases[i].told);
    }
    f->fail_phase = -1;
    OK(run(f, 1, 2));
    assert_string_equal(f->told, "F(W()P()C()I())R()");
}

static void an_older_caller_has_no_observer(void **state)
{
    fixture *f = *state;
    make_runner(f, 1, offsetof(epg_runner_options, observe));
    OK(run(f, 1, 2));
    assert_string_equal(f->told, "");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(every_span_is_told), T(each_captured_part_is_told), T(a_failure_ends_its_spans),
        T(an_older_caller_has_no_observer),
    };
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
