/* The runner's stream scopes: the stream that a step is given is current wherever the step function is called, and
 * whatever the step does, the runtime has back what it had. */
#include "support/scopes.h"
#include <dlfcn.h>
#include <stdio.h>
#include "epgraph/runner.h"
#include "support/device_under_test.h"

typedef struct fixture {
    epg_device *device;
    epg_stream stream;
    fake runtime;             /* the one that is to follow, by the name "mine" */
    epg_scope_table *table;
    epg_runner *runner;
    int calls[4], wrong;      /* by phase; calls in which another stream was current than the one given */
    int fail_phase;           /* -1: none */
    int legacy;               /* launches on the runtime's current stream, and not on the one given */
} fixture;

static void nothing(void *ctx) { (void)ctx; }

/* The host device launches host functions; what is launched does not matter. */
static epg_status step_fn(void *ctx, const epg_step_call *call)
{
    fixture *f = ctx;
    f->calls[call->phase]++;
    f->wrong += f->table && f->runtime.now != call->stream;
    if ((int)call->phase == f->fail_phase)
        return EPG_ERR_IO;
    return epg_host_func(f->device, f->legacy ? f->runtime.now : call->stream, nothing, NULL, "work");
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    if (!f || test_device_create(&f->device) != EPG_OK ||
        epg_stream_create(f->device, EPG_STREAM_NONBLOCKING, &f->stream) != EPG_OK)
        return 1;
    f->runtime.on_gpu_0 = 1;
    f->runtime.now = STREAM(5);
    f->fail_phase = -1;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    epg_runner_destroy(f->runner);
    epg_scope_table_destroy(f->table);
    epg_stream_destroy(f->device, f->stream);
    epg_device_destroy(f->device);
    free(f);
    return 0;
}

static void make_runner(fixture *f, int eager_too)
{
    epg_segment segments[] = {{step_fn, f, 0, "body"}, {step_fn, f, 1, "attention"}};
    epg_runner_options options = EPG_RUNNER_OPTIONS_INIT;
    options.segments = segments, options.segment_count = eager_too ? 2 : 1;
    options.max_bucket = 4, options.warmups = 1;
    options.scopes = f->table;
    assert_int_equal(epg_runner_create(f->device, &options, &f->runner), EPG_OK);
}

static void make_table(fixture *f, uint32_t best_effort)
{
    epg_scope_runtime runtime = runtime_of("mine", &f->runtime);
    f->table = table_of(best_effort, &runtime, 1);
}

static epg_status run(fixture *f, uint32_t tokens)
{
    epg_runner_step step = EPG_RUNNER_STEP_INIT;
    step.tokens = tokens;
    step.stream = f->stream;
    return epg_runner_run(f->runner, &step);
}

static void assert_calls(const fixture *f, int eager, int warmup, int probe, int capture)
{
    assert_int_equal(f->calls[EPG_PHASE_EAGER], eager);
    assert_int_equal(f->calls[EPG_PHASE_WARMUP], warmup);
    assert_int_equal(f->calls[EPG_PHASE_PROBE], probe);
    assert_int_equal(f->calls[EPG_PHASE_CAPTURE], capture);
}

static void the_stream_of_every_call_is_current(void **state)
{
    fixture *f = *state;
    make_table(f, 0);
    make_runner(f, 0);
    assert_int_equal(run(f, 3), EPG_OK);
    assert_calls(f, 0, 1, 1, 1);
    assert_int_equal(run(f, 3), EPG_OK);
    assert_calls(f, 0, 1, 1, 1); /* a replay calls nothing, and enters nothing */
    assert_int_equal(run(f, 5), EPG_OK);
    assert_calls(f, 1, 1, 1, 1);
    assert_int_equal(f->wrong, 0);
    assert_ptr_equal(f->runtime.now, STREAM(5));
}

static void eager_segments_of_a_replay_too(void **state)
{
    fixture *f = *state;
    make_table(f, 0);
    make_runner(f, 1);
    for (int i = 0; i < 2; i++)
        assert_int_equal(run(f, 3), EPG_OK);
    assert_calls(f, 2, 2, 1, 1);
    assert_int_equal(f->wrong, 0);
    assert_ptr_equal(f->runtime.now, STREAM(5));
}

/* What launches on its runtime's current stream alone is captured: without a scope it would be elsewhere. */
static void a_library_that_follows_is_captured(void **state)
{
    fixture *f = *state;
    epg_runner_stats stats = EPG_RUNNER_STATS_INIT;
    f->legacy = 1;
    f->runtime.now = NULL;
    make_table(f, 0);
    make_runner(f, 0);
    assert_int_equal(run(f, 3), EPG_OK);
    assert_int_equal(epg_runner_get_stats(f->runner, &stats), EPG_OK);
    assert_int_equal(stats.captures, 1);
    assert_null(f->runtime.now);

    f->runtime.ignores = 0;
    epg_runner_destroy(f->runner);
    epg_scope_table_destroy(f->table);
    f->table = table_of(1, NULL, 0); /* one that does not know the runtime */
    f->wrong = 0;
    make_runner(f, 0);
    assert_int_equal(run(f, 3), EPG_ERR_ESCAPED);
}

static void a_step_that_fails_has_left_its_scope(void **state)
{
    fixture *f = *state;
    const char *const phases[] = {"eager", "warm-up", "probe", "capture"};
    make_table(f, 0);
    make_runner(f, 0);
    for (int phase = 0; phase < 4; phase++) {
        char expected[64];
        f->fail_phase = phase;
        assert_int_equal(run(f, phase == EPG_PHASE_EAGER ? 5 : 3), EPG_ERR_IO);
        snprintf(expected, sizeof expected, "%s, segment \"body\": ", phases[phase]);
        assert_message(expected);
        assert_ptr_equal(f->runtime.now, STREAM(5));
    }
    f->fail_phase = -1;
    assert_int_equal(run(f, 3), EPG_OK);
    assert_int_equal(f->wrong, 0);
}

static void a_runtime_that_cannot_be_set_is_named(void **state)
{
    fixture *f = *state;
    make_table(f, 0);
    make_runner(f, 0);
    f->runtime.set_gives = EPG_ERR_STATE;
    assert_int_equal(run(f, 3), EPG_ERR_UNSUPPORTED);
    assert_message("bucket 4: warm-up, segment \"body\": mine: set gave EPG_ERR_STATE");
    assert_int_equal(run(f, 5), EPG_ERR_UNSUPPORTED);
    assert_message("eager, segment \"body\": mine: set gave EPG_ERR_STATE");
    assert_calls(f, 0, 0, 0, 0);
    f->runtime.set_gives = EPG_OK;
    assert_int_equal(run(f, 3), EPG_OK);
}

static void best_effort_goes_on_without_it(void **state)
{
    fixture *f = *state;
    make_table(f, 1);
    make_runner(f, 0);
    f->runtime.set_gives = EPG_ERR_STATE;
    assert_int_equal(run(f, 3), EPG_OK);
    assert_calls(f, 0, 1, 1, 1);
    assert_int_equal(f->wrong, 3);
}

static void a_runtime_that_does_not_take_back_is_named(void **state)
{
    fixture *f = *state;
    make_table(f, 0);
    make_runner(f, 0);
    f->runtime.restore_gives = EPG_ERR_STATE;
    assert_int_equal(run(f, 3), EPG_ERR_UNSUPPORTED);
    assert_message("warm-up, segment \"body\": mine: restore gave EPG_ERR_STATE");
    f->fail_phase = EPG_PHASE_WARMUP; /* the step's own failure comes first */
    assert_int_equal(run(f, 3), EPG_ERR_IO);
}

/* A PyTorch that sees no GPU cannot follow a stream of a GPU; a stream of the host device it need not follow. */
static void without_a_table_the_cuda_device_has_the_built_in_ones(void **state)
{
    fixture *f = *state;
    void *library = standin_load("now/libc10_cuda.so");
    make_runner(f, 0);
    if (test_device_kind() == EPG_DEVICE_HOST) {
        assert_int_equal(run(f, 3), EPG_OK);
    } else {
        assert_int_equal(run(f, 3), EPG_ERR_UNSUPPORTED);
        assert_message("segment \"body\": PyTorch: it sees no GPU");
    }
    epg_runner_destroy(f->runner);
    f->runner = NULL;
    dlclose(library);
}

int main(void)
{
    if (test_device_missing())
        return 77;
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(the_stream_of_every_call_is_current),
        T(eager_segments_of_a_replay_too),
        T(a_library_that_follows_is_captured),
        T(a_step_that_fails_has_left_its_scope),
        T(a_runtime_that_cannot_be_set_is_named),
        T(best_effort_goes_on_without_it),
        T(a_runtime_that_does_not_take_back_is_named),
        T(without_a_table_the_cuda_device_has_the_built_in_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
