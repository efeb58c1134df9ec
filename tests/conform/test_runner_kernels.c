/* The runner with kernels in its step, on either device: what a replay runs, forks, streams, and what becomes of the
 * executables when a reset has dropped their graphs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>
#include "epgraph/runner.h"
#include "support/device_under_test.h"
#include "support/work.h"

#define OK(call) assert_int_equal((call), EPG_OK)
#define TRY(call)                   \
    do {                            \
        epg_status try_ = (call);   \
        if (try_ != EPG_OK)         \
            return try_;            \
    } while (0)

enum { FIRST, LEFT, RIGHT, LAST, BYTES = 4096 };

typedef struct fixture {
    epg_device *device;
    epg_stream stream, other, side;
    epg_event fork, join;
    epg_runner *runner;
    work *work;        /* what the step's kernels write */
    uint32_t kernels;  /* notes in the step */
    int forks, strays; /* a fork that must run at once; a kernel on the legacy stream */
    unsigned char *copied; /* pinned; where set, BYTES bytes of the scratch memory */
} fixture;

static epg_status fork_and_join(fixture *f, epg_stream stream)
{
    TRY(epg_event_record(f->device, f->fork, stream));
    TRY(epg_stream_wait_event(f->device, f->side, f->fork));
    TRY(work_meet(f->device, stream, f->work, LEFT, RIGHT));
    TRY(work_meet(f->device, f->side, f->work, RIGHT, LEFT));
    TRY(epg_event_record(f->device, f->join, f->side));
    return epg_stream_wait_event(f->device, stream, f->join);
}

static epg_status use_scratch(fixture *f, const epg_step_call *call)
{
    void *scratch;
    TRY(epg_step_alloc(call, BYTES, &scratch));
    TRY(epg_memset_async(f->device, scratch, (int)call->bucket, BYTES, call->stream));
    return epg_memcpy_async(f->device, f->copied, scratch, BYTES, call->stream);
}

static epg_status step_fn(void *ctx, const epg_step_call *call)
{
    fixture *f = ctx;
    for (uint32_t i = 0; i < f->kernels; i++)
        TRY(work_note(f->device, call->stream, f->work, 0, FIRST));
    if (f->strays)
        TRY(work_note(f->device, EPG_STREAM_LEGACY, f->work, 0, LAST));
    if (f->forks)
        TRY(fork_and_join(f, call->stream));
    return f->copied ? use_scratch(f, call) : EPG_OK;
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (!f || test_device_create(&f->device) != EPG_OK)
        return 1;
    f->kernels = 3;
    f->work = work_create(f->device);
    return !f->work || epg_stream_create(f->device, EPG_STREAM_NONBLOCKING, &f->stream) != EPG_OK ||
           epg_stream_create(f->device, EPG_STREAM_BLOCKING, &f->other) != EPG_OK ||
           epg_stream_create(f->device, EPG_STREAM_NONBLOCKING, &f->side) != EPG_OK ||
           epg_event_create_order(f->device, &f->fork) != EPG_OK ||
           epg_event_create_order(f->device, &f->join) != EPG_OK;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    epg_runner_destroy(f->runner);
    epg_device_synchronize(f->device);
    epg_event_destroy(f->device, f->fork);
    epg_event_destroy(f->device, f->join);
    epg_stream_destroy(f->device, f->stream);
    epg_stream_destroy(f->device, f->other);
    epg_stream_destroy(f->device, f->side);
    work_destroy(f->device, f->work);
    epg_device_destroy(f->device);
    free(f);
    return 0;
}

static void make_runner(fixture *f)
{
    static const uint32_t buckets[] = {2, 4, 8};
    epg_segment segment = {step_fn, f, 0, "kernels"};
    epg_runner_options options = EPG_RUNNER_OPTIONS_INIT;
    options.segments = &segment;
    options.segment_count = 1;
    options.buckets = buckets;
    options.bucket_count = 3;
    options.warmups = 2;
    OK(epg_runner_create(f->device, &options, &f->runner));
}

static epg_status run(fixture *f, uint32_t tokens, epg_stream stream)
{
    epg_runner_step step = EPG_RUNNER_STEP_INIT;
    step.tokens = tokens;
    step.stream = stream;
    return epg_runner_run(f->runner, &step);
}

static uint64_t updates(fixture *f)
{
    epg_runner_stats stats = EPG_RUNNER_STATS_INIT;
    OK(epg_runner_get_stats(f->runner, &stats));
    return stats.updates;
}

static void a_replay_runs_every_kernel(void **state)
{
    fixture *f = *state;
    make_runner(f);
    OK(run(f, 4, f->stream));
    OK(epg_stream_synchronize(f->device, f->stream));
    assert_int_equal(f->work->clock, 3 * (2 + 1)); /* two warm-ups and a replay */
    for (int i = 0; i < 100; i++)
        OK(run(f, 4, f->stream));
    OK(run(f, 9, f->stream)); /* eager */
    OK(epg_stream_synchronize(f->device, f->stream));
    assert_int_equal(f->work->clock, 3 * (2 + 1 + 100 + 1));
}

static void a_fork_inside_the_step_is_replayed(void **state)
{
    fixture *f = *state;
    f->forks = 1;
    make_runner(f);
    for (int i = 0; i < 20; i++)
        OK(run(f, 4, f->stream));
    OK(epg_stream_synchronize(f->device, f->stream));
    assert_int_equal(f->work->at[LEFT], 2 + 20);
    assert_int_equal(f->work->at[RIGHT], 2 + 20);
}

static void a_kernel_on_the_legacy_stream_is_found(void **state)
{
    fixture *f = *state;
    f->strays = 1;
    make_runner(f);
    assert_int_equal(run(f, 4, f->stream), EPG_ERR_ESCAPED);
    assert_non_null(strstr(epg_message(), "906"));
    f->strays = 0;
    OK(run(f, 4, f->stream));
}

static void scratch_memory_is_the_steps_own(void **state)
{
    fixture *f = *state;
    OK(epg_memory_alloc(f->device, EPG_MEMORY_PINNED, BYTES, (void **)&f->copied));
    make_runner(f);
    for (uint32_t bucket = 2; bucket <= 8; bucket *= 2) {
        for (int i = 0; i < 2; i++)
            OK(run(f, bucket, i ? f->other : f->stream));
        OK(epg_stream_synchronize(f->device, f->other));
        for (int i = 0; i < BYTES; i++)
            assert_int_equal(f->copied[i], bucket);
    }
    epg_runner_destroy(f->runner);
    f->runner = NULL;
    OK(epg_memory_free(f->device, EPG_MEMORY_PINNED, f->copied));
}

static void a_step_waits_for_the_one_on_another_stream(void **state)
{
    fixture *f = *state;
    work *gate = work_create(f->device);
    make_runner(f);
    OK(run(f, 4, f->stream));
    OK(epg_device_synchronize(f->device));
    uint32_t before = f->work->clock;
    OK(work_note(f->device, f->stream, gate, 1, FIRST));
    OK(run(f, 4, f->stream));
    OK(run(f, 4, f->other));
    assert_int_equal(epg_stream_query(f->device, f->other), EPG_ERR_NOT_READY);
    assert_int_equal(f->work->clock, before);
    work_open(gate);
    OK(epg_stream_synchronize(f->device, f->other));
    assert_int_equal(f->work->clock, before + 2 * 3);
    work_destroy(f->device, gate);
}

/* The kernels write elsewhere: an executable that was not updated would go on writing to the old place. */
static void a_reset_with_moved_parameters_updates(void **state)
{
    fixture *f = *state;
    bool can_update = test_device_kind() == EPG_DEVICE_CUDA;
    work *old = f->work, *moved = work_create(f->device);
    assert_non_null(moved);
    f->forks = 1;
    make_runner(f);
    OK(run(f, 4, f->stream));
    OK(run(f, 8, f->stream));
    OK(epg_runner_reset(f->runner));
    uint32_t before = old->clock;
    f->work = moved;
    OK(run(f, 4, f->stream));
    OK(run(f, 4, f->stream));
    OK(epg_stream_synchronize(f->device, f->stream));
    assert_int_equal(old->clock, before);
    assert_int_equal(moved->clock, 3 * (2 + 2));
    assert_int_equal(moved->at[LEFT], 2 + 2);
    assert_int_equal(updates(f), can_update ? 1 : 0);
    OK(epg_runner_reset(f->runner)); /* bucket 8's was not taken: it goes now */
    f->work = old;
    OK(run(f, 8, f->stream));
    OK(run(f, 4, f->stream));
    assert_int_equal(updates(f), can_update ? 2 : 0);
    OK(epg_stream_synchronize(f->device, f->stream));
    work_destroy(f->device, moved);
}

static void a_reset_with_another_shape_instantiates(void **state)
{
    fixture *f = *state;
    make_runner(f);
    OK(run(f, 4, f->stream));
    OK(epg_runner_reset(f->runner));
    uint32_t before = f->work->clock;
    f->kernels = 5;
    OK(run(f, 4, f->stream));
    OK(epg_stream_synchronize(f->device, f->stream));
    assert_int_equal(f->work->clock, before + 5 * (2 + 1));
    assert_int_equal(updates(f), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define CONCURRENT(name) {#name, test_device_serial() ? needs_concurrency : name, set_up, tear_down, NULL}

static void needs_concurrency(void **state)
{
    (void)state;
    skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_replay_runs_every_kernel), CONCURRENT(a_fork_inside_the_step_is_replayed),
        T(a_kernel_on_the_legacy_stream_is_found),
        T(scratch_memory_is_the_steps_own), CONCURRENT(a_step_waits_for_the_one_on_another_stream),
        CONCURRENT(a_reset_with_moved_parameters_updates), T(a_reset_with_another_shape_instantiates),
    };
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
