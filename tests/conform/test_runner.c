/* The runner: what runs when, what a failure leaves behind, and where its memory is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>
#include <pthread.h>
#include <unistd.h>
#include "epgraph/runner.h"
#include "support/device_under_test.h"

typedef struct probe_step {
    epg_device *device;
    int calls[4];              /* by phase */
    int fail_phase;            /* -1: none */
    epg_status fail_status;
    int to_legacy;             /* 1: a launch on the legacy stream; 2: and its status is ignored */
    int ran;                   /* host functions that ran */
    const int *input;          /* read by the host function, where set */
    int seen;
    size_t bytes[4];           /* scratch asked for, by phase */
    void *memory[4];
    uint32_t order[64];        /* buckets captured */
    uint32_t captured;
    char letter, *log;
} probe_step;

typedef struct fixture {
    epg_device *device;
    epg_stream stream, other;
    probe_step step;
    epg_runner *runner;
} fixture;

static void work(void *ctx)
{
    probe_step *step = ctx;
    __atomic_add_fetch(&step->ran, 1, __ATOMIC_RELAXED); /* stray work runs beside the step */
    if (step->input)
        step->seen = *step->input;
    if (step->log)
        strncat(step->log, &step->letter, 1);
}

static epg_status step_fn(void *ctx, const epg_step_call *call)
{
    probe_step *step = ctx;
    step->calls[call->phase]++;
    if (call->phase == EPG_PHASE_CAPTURE)
        step->order[step->captured++ % 64] = call->bucket;
    if (step->bytes[call->phase] > 0) {
        epg_status status = epg_step_alloc(call, step->bytes[call->phase], &step->memory[call->phase]);
        if (status != EPG_OK)
            return status;
    }
    if (step->to_legacy) {
        epg_status status = epg_host_func(step->device, EPG_STREAM_LEGACY, work, step, "stray");
        if (status != EPG_OK && step->to_legacy == 1)
            return status;
    }
    epg_status status = epg_host_func(step->device, call->stream, work, step, "work");
    return (int)call->phase == step->fail_phase ? step->fail_status : status;
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    if (!f || test_device_create(&f->device) != EPG_OK)
        return 1;
    if (epg_stream_create(f->device, EPG_STREAM_NONBLOCKING, &f->stream) != EPG_OK ||
        epg_stream_create(f->device, EPG_STREAM_BLOCKING, &f->other) != EPG_OK)
        return 1;
    f->step.device = f->device;
    f->step.fail_phase = -1;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    epg_runner_destroy(f->runner);
    epg_stream_destroy(f->device, f->stream);
    epg_stream_destroy(f->device, f->other);
    epg_device_destroy(f->device);
    free(f);
    return 0;
}

static const uint32_t to_8[] = {2, 4, 8};

static epg_runner_options options_for(const epg_segment *segments, uint32_t count)
{
    epg_runner_options options = EPG_RUNNER_OPTIONS_INIT;
    options.segments = segments;
    options.segment_count = count;
    options.buckets = to_8;
    options.bucket_count = 3;
    options.warmups = 2;
    return options;
}

static void make_runner(fixture *f)
{
    epg_segment segment = {step_fn, &f->step, 0, "body"};
    epg_runner_options options = options_for(&segment, 1);
    assert_int_equal(epg_runner_create(f->device, &options, &f->runner), EPG_OK);
}

static epg_status run(fixture *f, uint32_t tokens, epg_stream stream)
{
    epg_runner_step step = EPG_RUNNER_STEP_INIT;
    step.tokens = tokens;
    step.stream = stream;
    return epg_runner_run(f->runner, &step);
}

static epg_runner_stats stats_of(fixture *f)
{
    epg_runner_stats stats = EPG_RUNNER_STATS_INIT;
    assert_int_equal(epg_runner_get_stats(f->runner, &stats), EPG_OK);
    return stats;
}

static void assert_message_has(const char *text)
{
    if (!strstr(epg_message(), text))
        fail_msg("\"%s\" is not in \"%s\"", text, epg_message());
}

static void drain(fixture *f)
{
    assert_int_equal(epg_stream_synchronize(f->device, f->stream), EPG_OK);
    assert_int_equal(epg_stream_synchronize(f->device, f->other), EPG_OK);
}

static void a_replay_runs_the_work_again(void **state)
{
    fixture *f = *state;
    make_runner(f);
    for (int i = 0; i < 3; i++)
        assert_int_equal(run(f, 3, f->stream), EPG_OK);
    assert_int_equal(run(f, 0, f->stream), EPG_OK); /* an idle step: the smallest bucket */
    drain(f);
    assert_int_equal(f->step.calls[EPG_PHASE_WARMUP], 2 + 2);
    assert_int_equal(f->step.calls[EPG_PHASE_PROBE], 1);
    assert_int_equal(f->step.calls[EPG_PHASE_CAPTURE], 2);
    assert_int_equal(f->step.calls[EPG_PHASE_EAGER], 0);
    assert_int_equal(f->step.ran, 4 + 4);
    epg_runner_stats stats = stats_of(f);
    assert_int_equal(stats.entries, 2);
    assert_int_equal(stats.captures, 2);
    assert_int_equal(stats.probes, 1);
    assert_int_equal(stats.replays, 4);
    assert_int_equal(stats.tokens, 9);
    assert_int_equal(stats.padding, 3 * 1 + 2);
    assert_int_equal(stats.crossings, 0);
    assert_int_equal(stats.eager, 0);
    assert_int_equal(stats.failures, 0);
    assert_true(stats.capture_us > 0);
}

static void above_the_largest_bucket_and_on_request_it_is_eager(void **state)
{
    fixture *f = *state;
    epg_runner_step step = EPG_RUNNER_STEP_INIT;
    make_runner(f);
    assert_int_equal(run(f, 9, f->stream), EPG_OK);
    step.stream = f->stream;
    step.tokens = 1;
    step.eager = 1;
    assert_int_equal(epg_runner_run(f->runner, &step), EPG_OK);
    drain(f);
    assert_int_equal(f->step.calls[EPG_PHASE_EAGER], 2);
    assert_int_equal(f->step.ran, 2);
    assert_int_equal(stats_of(f).eager, 2);
    assert_int_equal(stats_of(f).captures, 0);
    uint32_t bucket = 0;
    assert_int_equal(epg_runner_bucket(f->runner, 5, &bucket), EPG_OK);
    assert_int_equal(bucket, 8);
    assert_int_equal(epg_runner_bucket(f->runner, 9, &bucket), EPG_ERR_NOT_FOUND);
}

static void a_moved_input_is_named(void **state)
{
    fixture *f = *state;
    int here = 0, there = 0;
    epg_runner_input inputs[] = {{"tokens", &here}, {"positions", &here}};
    epg_runner_step step = EPG_RUNNER_STEP_INIT;
    make_runner(f);
    step.stream = f->stream;
    step.tokens = 4;
    step.inputs = inputs;
    step.input_count = 2;
    assert_int_equal(epg_runner_run(f->runner, &step), EPG_OK);
    drain(f);
    int ran = f->step.ran;
    inputs[1].address = &there;
    assert_int_equal(epg_runner_run(f->runner, &step), EPG_ERR_MOVED);
    assert_message_has("\"positions\" of bucket 4");
    inputs[1] = (epg_runner_input){"weights", &here};
    assert_int_equal(epg_runner_run(f->runner, &step), EPG_ERR_MOVED);
    assert_message_has("\"weights\"");
    step.input_count = 1;
    assert_int_equal(epg_runner_run(f->runner, &step), EPG_ERR_MOVED);
    drain(f);
    assert_int_equal(f->step.ran, ran);
    step.input_count = 2;
    inputs[1].name = "positions";
    assert_int_equal(epg_runner_run(f->runner, &step), EPG_OK);
}

static void a_failing_step_is_forwarded_and_survived(void **state)
{
    fixture *f = *state;
    static const char *const names[] = {"eager", "warm-up", "probe", "capture"};
    make_runner(f);
    for (int phase = EPG_PHASE_CAPTURE; phase >= EPG_PHASE_EAGER; phase--) {
        uint32_t tokens = phase == EPG_PHASE_EAGER ? 9 : 4;
        f->step.fail_phase = phase;
        f->step.fail_status = EPG_ERR_IO;
        assert_int_equal(epg_runner_reset(f->runner), EPG_OK);
        assert_int_equal(run(f, tokens, f->stream), EPG_ERR_IO);
        assert_message_has(names[phase]);
        assert_message_has("segment \"body\": input or output failed");
        if (phase != EPG_PHASE_EAGER)
            assert_message_has("variant 0, bucket 4: ");
        f->step.fail_phase = -1;
        assert_int_equal(run(f, tokens, f->stream), EPG_OK);
        drain(f);
    }
    assert_int_equal(stats_of(f).failures, 3);
}

static void a_launch_on_the_legacy_stream_is_found(void **state)
{
    fixture *f = *state;
    make_runner(f);
    for (int way = 1; way <= 2; way++) {
        f->step.to_legacy = way;
        assert_int_equal(run(f, 4, f->stream), EPG_ERR_ESCAPED);
        assert_message_has("legacy stream during the step");
        assert_message_has("silently lost from every replay");
        assert_message_has("906");
        assert_int_equal(stats_of(f).entries, 0);
    }
    f->step.to_legacy = 0;
    assert_int_equal(run(f, 4, f->stream), EPG_OK);
}

static void *launch_on_legacy(void *ctx)
{
    probe_step *step = ctx;
    step->fail_status = epg_host_func(step->device, EPG_STREAM_LEGACY, work, step, "stranger");
    return NULL;
}

/* Another thread uses the legacy stream in the middle of the first probe. */
static epg_status disturbed_step(void *ctx, const epg_step_call *call)
{
    probe_step *step = ctx;
    pthread_t thread;
    if (call->phase == EPG_PHASE_PROBE && step->calls[EPG_PHASE_PROBE] == 0) {
        assert_int_equal(pthread_create(&thread, NULL, launch_on_legacy, step), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
    }
    return step_fn(ctx, call);
}

static void a_stranger_on_the_legacy_stream_is_not_blamed_on_the_step(void **state)
{
    fixture *f = *state;
    epg_segment segment = {disturbed_step, &f->step, 0, NULL};
    epg_runner_options options = options_for(&segment, 1);
    assert_int_equal(epg_runner_create(f->device, &options, &f->runner), EPG_OK);
    assert_int_equal(run(f, 4, f->stream), EPG_OK);
    assert_int_equal(f->step.fail_status, EPG_ERR_CAPTURE_IMPLICIT);
    assert_int_equal(stats_of(f).probes, 2);
}

static void without_the_probe_it_is_lost_in_silence(void **state)
{
    fixture *f = *state;
    epg_segment segment = {step_fn, &f->step, 0, NULL};
    epg_runner_options options = options_for(&segment, 1);
    options.probe = 0;
    options.warmups = 0;
    f->step.to_legacy = 1;
    assert_int_equal(epg_runner_create(f->device, &options, &f->runner), EPG_OK);
    assert_int_equal(run(f, 4, f->stream), EPG_OK);
    assert_int_equal(run(f, 4, f->stream), EPG_OK);
    drain(f);
    assert_int_equal(epg_stream_synchronize(f->device, EPG_STREAM_LEGACY), EPG_OK);
    assert_int_equal(f->step.ran, 1 + 2); /* the stray one ran once, at capture */
}

static void segments_run_in_order(void **state)
{
    fixture *f = *state;
    char log[64] = "";
    probe_step steps[5];
    epg_segment segments[5];
    static const int eager[] = {0, 1, 1, 0, 0};
    for (int i = 0; i < 5; i++) {
        steps[i] = f->step;
        steps[i].letter = (char)('a' + i);
        steps[i].log = log;
        steps[i].bytes[EPG_PHASE_WARMUP] = steps[i].bytes[eager[i] ? EPG_PHASE_EAGER : EPG_PHASE_CAPTURE] = 1000;
        segments[i] = (epg_segment){step_fn, &steps[i], eager[i], NULL};
    }
    epg_runner_options options = options_for(segments, 5);
    options.warmups = 0; /* taken as 1: the pool's marks come from a warm-up */
    options.probe = 0;
    assert_int_equal(epg_runner_create(f->device, &options, &f->runner), EPG_OK);
    assert_int_equal(run(f, 4, f->stream), EPG_OK);
    assert_int_equal(run(f, 4, f->stream), EPG_OK);
    drain(f);
    assert_string_equal(log, "abcdeabcdeabcde");
    for (int i = 0; i < 5; i++) {
        assert_int_equal(steps[i].calls[EPG_PHASE_EAGER], eager[i] ? 2 : 0);
        assert_int_equal(steps[i].calls[EPG_PHASE_CAPTURE], eager[i] ? 0 : 1);
        void *now = steps[i].memory[eager[i] ? EPG_PHASE_EAGER : EPG_PHASE_CAPTURE];
        assert_ptr_equal(now, steps[i].memory[EPG_PHASE_WARMUP]);
        assert_int_equal((uintptr_t)now % 256, 0);
        for (int j = 0; j < i; j++)
            assert_ptr_not_equal(steps[i].memory[EPG_PHASE_WARMUP], steps[j].memory[EPG_PHASE_WARMUP]);
    }
    steps[1].bytes[EPG_PHASE_EAGER] = 2000; /* would run into the memory of the next segment */
    assert_int_equal(run(f, 4, f->stream), EPG_ERR_NO_MEMORY);
    drain(f); /* the first segment was replayed; its step is on this stack */
}

static void slow(void *ctx)
{
    usleep(20000);
    *(int *)ctx = 42;
}

static void steps_on_two_streams_do_not_overlap(void **state)
{
    fixture *f = *state;
    int value = 0;
    make_runner(f);
    f->step.input = &value;
    assert_int_equal(run(f, 4, f->stream), EPG_OK);
    drain(f);
    assert_int_equal(epg_host_func(f->device, f->stream, slow, &value, NULL), EPG_OK);
    assert_int_equal(run(f, 4, f->stream), EPG_OK);
    assert_int_equal(run(f, 4, f->other), EPG_OK);
    assert_int_equal(epg_stream_synchronize(f->device, f->other), EPG_OK);
    assert_int_equal(f->step.seen, 42);
    assert_int_equal(f->step.ran, 2 + 3);
    assert_int_equal(run(f, 9, f->stream), EPG_OK); /* an eager step shares the pool: it is ordered too */
    assert_int_equal(stats_of(f).crossings, 2);
}

static void a_stream_that_was_forgotten_may_go(void **state)
{
    fixture *f = *state;
    int value = 0;
    epg_stream brief;
    make_runner(f);
    f->step.input = &value;
    assert_int_equal(epg_stream_create(f->device, EPG_STREAM_NONBLOCKING, &brief), EPG_OK);
    assert_int_equal(run(f, 4, brief), EPG_OK);
    assert_int_equal(epg_host_func(f->device, brief, slow, &value, NULL), EPG_OK);
    assert_int_equal(run(f, 4, brief), EPG_OK);
    assert_int_equal(epg_runner_forget_stream(f->runner, f->other), EPG_OK); /* it ran nothing there */
    assert_int_equal(epg_runner_forget_stream(f->runner, brief), EPG_OK);
    assert_int_equal(f->step.seen, 42); /* that step was waited for */
    assert_int_equal(epg_stream_destroy(f->device, brief), EPG_OK);
    assert_int_equal(run(f, 4, f->stream), EPG_OK);
    drain(f);
    assert_int_equal(stats_of(f).crossings, 0);
    assert_int_equal(epg_runner_forget_stream(NULL, f->stream), EPG_ERR_INVALID);
}

static void a_first_use_waits_for_the_callers_work(void **state)
{
    fixture *f = *state;
    int value = 0;
    make_runner(f);
    f->step.input = &value;
    assert_int_equal(epg_host_func(f->device, f->stream, slow, &value, NULL), EPG_OK);
    epg_runner_step step = EPG_RUNNER_STEP_INIT;
    step.stream = f->stream;
    assert_int_equal(epg_runner_capture_all(f->runner, &step), EPG_OK);
    assert_int_equal(f->step.seen, 42); /* by a warm-up: nothing else ran */
}

static void note_progress(void *ctx, uint32_t done, uint32_t all)
{
    uint32_t *seen = ctx;
    assert_int_equal(done, seen[0] + 1);
    seen[0] = done;
    seen[1] = all;
}

static void capture_all_goes_from_the_largest(void **state)
{
    fixture *f = *state;
    uint32_t seen[2] = {0, 0};
    epg_segment segment = {step_fn, &f->step, 0, NULL};
    epg_runner_options options = options_for(&segment, 1);
    epg_runner_step step = EPG_RUNNER_STEP_INIT;
    options.progress = note_progress;
    options.progress_ctx = seen;
    assert_int_equal(epg_runner_create(f->device, &options, &f->runner), EPG_OK);
    step.stream = f->stream;
    step.variant = 7;
    assert_int_equal(epg_runner_capture_all(f->runner, &step), EPG_OK);
    assert_int_equal(seen[0], 3);
    assert_int_equal(seen[1], 3);
    const uint32_t expected[] = {8, 4, 2};
    assert_memory_equal(f->step.order, expected, sizeof expected);
    assert_int_equal(f->step.ran, 3 * 2);
    assert_int_equal(stats_of(f).replays, 0);
    step.tokens = 3;
    assert_int_equal(epg_runner_run(f->runner, &step), EPG_OK);
    assert_int_equal(stats_of(f).captures, 3);
    step.variant = 6; /* another variant has entries of its own */
    assert_int_equal(epg_runner_run(f->runner, &step), EPG_OK);
    assert_int_equal(stats_of(f).captures, 4);
    assert_int_equal(stats_of(f).probes, 1);
}

static void reset_captures_anew(void **state)
{
    fixture *f = *state;
    make_runner(f);
    f->step.bytes[EPG_PHASE_WARMUP] = f->step.bytes[EPG_PHASE_PROBE] = f->step.bytes[EPG_PHASE_CAPTURE] = 300;
    assert_int_equal(run(f, 4, f->stream), EPG_OK);
    assert_true(stats_of(f).pool_bytes >= 300);
    assert_int_equal(epg_runner_reset(f->runner), EPG_OK);
    assert_int_equal(f->step.ran, 2 + 1); /* reset waited for the replay */
    assert_int_equal(stats_of(f).entries, 0);
    assert_int_equal(stats_of(f).pool_bytes, 0);
    assert_int_equal(run(f, 4, f->stream), EPG_OK);
    assert_int_equal(stats_of(f).captures, 2);
    assert_int_equal(stats_of(f).probes, 2);
    assert_int_equal(stats_of(f).updates, test_device_kind() == EPG_DEVICE_CUDA); /* the graph's shape is as it was */
    drain(f);
    int value = 0, ran = f->step.ran; /* an eager step uses the pool that reset frees */
    assert_int_equal(epg_host_func(f->device, f->stream, slow, &value, NULL), EPG_OK);
    assert_int_equal(run(f, 9, f->stream), EPG_OK);
    assert_int_equal(epg_runner_reset(f->runner), EPG_OK);
    assert_int_equal(f->step.ran, ran + 1);
}

static void entries_share_the_pool(void **state)
{
    fixture *f = *state;
    void *first;
    size_t *bytes = f->step.bytes;
    make_runner(f);
    bytes[EPG_PHASE_WARMUP] = bytes[EPG_PHASE_PROBE] = bytes[EPG_PHASE_CAPTURE] = 5000;
    assert_int_equal(run(f, 4, f->stream), EPG_OK);
    first = f->step.memory[EPG_PHASE_CAPTURE];
    assert_int_equal(run(f, 8, f->stream), EPG_OK);
    assert_ptr_equal(f->step.memory[EPG_PHASE_CAPTURE], first);
    bytes[EPG_PHASE_CAPTURE] = 6000;
    assert_int_equal(run(f, 2, f->stream), EPG_ERR_NO_MEMORY);
    assert_message_has("more than its warm-up did");
    uint64_t before = stats_of(f).pool_bytes;
    bytes[EPG_PHASE_EAGER] = 1 << 20; /* an eager step may grow it; what was captured stays where it is */
    assert_int_equal(run(f, 9, f->stream), EPG_OK);
    assert_true(stats_of(f).pool_bytes > before);
    assert_int_equal(epg_memset(f->device, f->step.memory[EPG_PHASE_EAGER], 1, 1 << 20), EPG_OK);
    bytes[EPG_PHASE_CAPTURE] = 5000;
    assert_int_equal(run(f, 2, f->stream), EPG_OK);
    assert_ptr_equal(f->step.memory[EPG_PHASE_CAPTURE], first);
    epg_step_call call = {sizeof call, 0, 1, EPG_PHASE_EAGER, f->stream, f->runner, NULL, 0};
    assert_int_equal(epg_step_alloc(&call, 1, &first), EPG_ERR_STATE);
}

typedef struct dump {
    char text[65536];
} dump;

static void append(void *ctx, const char *text)
{
    dump *d = ctx;
    strncat(d->text, text, sizeof d->text - strlen(d->text) - 1);
}

static void dot_shows_one_graph_per_captured_span(void **state)
{
    fixture *f = *state;
    epg_segment segments[] = {{step_fn, &f->step, 0, NULL}, {step_fn, &f->step, 1, NULL}, {step_fn, &f->step, 0, NULL}};
    epg_runner_options options = options_for(segments, 3);
    dump *d = calloc(1, sizeof *d);
    assert_non_null(d);
    assert_int_equal(epg_runner_create(f->device, &options, &f->runner), EPG_OK);
    assert_int_equal(run(f, 4, f->stream), EPG_OK);
    assert_int_equal(epg_runner_dot(f->runner, 0, 4, append, d), EPG_OK);
    char *first = strstr(d->text, "digraph");
    assert_non_null(first);
    assert_non_null(strstr(first + 1, "digraph"));
    assert_non_null(strstr(d->text, "work"));
    assert_int_equal(epg_runner_dot(f->runner, 0, 8, append, d), EPG_ERR_NOT_FOUND);
    free(d);
}

static epg_status call_itself(void *ctx, const epg_step_call *call)
{
    fixture *f = ctx;
    (void)call;
    assert_int_equal(epg_runner_reset(f->runner), EPG_ERR_STATE);
    return run(f, 1, f->stream);
}

static void calls_out_of_place_are_refused(void **state)
{
    fixture *f = *state;
    epg_graph graph;
    epg_segment segment = {call_itself, f, 0, NULL};
    epg_runner_options options = options_for(&segment, 1);
    assert_int_equal(epg_runner_create(f->device, &options, &f->runner), EPG_OK);
    assert_int_equal(run(f, 4, f->stream), EPG_ERR_STATE);
    assert_message_has("its own runner");
    assert_int_equal(epg_capture_begin(f->device, f->stream, EPG_CAPTURE_THREAD_LOCAL), EPG_OK);
    assert_int_equal(run(f, 4, f->stream), EPG_ERR_STATE);
    assert_message_has("capturing");
    assert_int_equal(epg_capture_end(f->device, f->stream, &graph), EPG_OK);
    assert_int_equal(epg_graph_destroy(f->device, graph), EPG_OK);
}

static void bad_options_are_refused(void **state)
{
    fixture *f = *state;
    epg_segment segment = {step_fn, &f->step, 0, NULL}, no_fn = {NULL, NULL, 0, NULL};
    const uint32_t falling[] = {4, 2};
    epg_runner_options bad[6];
    for (int i = 0; i < 6; i++)
        bad[i] = options_for(&segment, 1);
    bad[0].segment_count = 0;
    bad[1].segments = &no_fn;
    bad[2].buckets = falling;
    bad[3].buckets = NULL;
    bad[3].max_bucket = 0;
    bad[4].warmups = -2;
    bad[5].group_count = 1;
    for (int i = 0; i < 6; i++) {
        assert_int_equal(epg_runner_create(f->device, &bad[i], &f->runner), EPG_ERR_INVALID);
        assert_null(f->runner);
    }
    epg_runner_destroy(NULL);
}

#define RUNNER_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUNNER_TEST(a_replay_runs_the_work_again),
        RUNNER_TEST(above_the_largest_bucket_and_on_request_it_is_eager),
        RUNNER_TEST(a_moved_input_is_named),
        RUNNER_TEST(a_failing_step_is_forwarded_and_survived),
        RUNNER_TEST(a_launch_on_the_legacy_stream_is_found),
        RUNNER_TEST(a_stranger_on_the_legacy_stream_is_not_blamed_on_the_step),
        RUNNER_TEST(without_the_probe_it_is_lost_in_silence),
        RUNNER_TEST(segments_run_in_order),
        RUNNER_TEST(steps_on_two_streams_do_not_overlap),
        RUNNER_TEST(a_stream_that_was_forgotten_may_go),
        RUNNER_TEST(a_first_use_waits_for_the_callers_work),
        RUNNER_TEST(capture_all_goes_from_the_largest),
        RUNNER_TEST(reset_captures_anew),
        RUNNER_TEST(entries_share_the_pool),
        RUNNER_TEST(dot_shows_one_graph_per_captured_span),
        RUNNER_TEST(calls_out_of_place_are_refused),
        RUNNER_TEST(bad_options_are_refused),
    };
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
