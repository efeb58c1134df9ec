/* The simulated device when things go wrong: deadlocks and runs without an end, programs that are stopped, slowed,
 * killed and started anew, and nothing left over after any of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "device/device_ops.h"
#include "support/oom.h"
#include "support/simulated.h"

#define OK(call) assert_int_equal((call), EPG_OK)

/* ---- deadlocks and runs without an end ---- */

static void waits_for_the_dead(void *ctx, uint32_t program)
{
    world *w = ctx;
    step_args args = {w, 0, 1u << 30};
    epg_stream s;
    want(w, epg_stream_create(w->d, EPG_STREAM_NONBLOCKING, &s) == EPG_OK);
    if (program == 0) {
        want(w, epg_host_launch(w->d, s, step_kernel, &args, sizeof args, "steps") == EPG_OK);
        want(w, epg_event_record(w->d, w->event, s) == EPG_OK);
        epg_simulation_sleep(w->d, SECOND);
    } else {
        epg_simulation_sleep(w->d, 100000);
        want(w, epg_stream_wait_event(w->d, s, w->event) == EPG_OK);
        want(w, epg_simulation_kill(w->d, 0) == EPG_OK);
        epg_event_synchronize(w->d, w->event);
        w->wrong++;
    }
}

static void a_deadlock_names_who_waits_for_what(void **state)
{
    world w = {.d = simulated_device(7, 0, 0)};
    (void)state;
    OK(epg_event_create(w.d, &w.event));
    assert_int_equal(epg_simulation_run(w.d, 2, waits_for_the_dead, &w), EPG_ERR_STATE);
    assert_string_equal(epg_message(), "nobody can move any more; rank 1 waits for an event; rank 1 stream 0 waits for "
                                       "an event");
    assert_int_equal(w.wrong, 0);
    OK(epg_event_destroy(w.d, w.event));
    memset(w.counts, 0, sizeof w.counts);
    OK(epg_simulation_run(w.d, 3, stepping, &w)); /* the device is as good as before */
    assert_int_equal(w.counts[0], 200);
    epg_device_destroy(w.d);
}

static void polls_for_ever(void *ctx, uint32_t program)
{
    world *w = ctx;
    (void)program;
    for (;;)
        epg_simulation_move(w->d, NULL);
}

static void a_run_without_an_end_is_ended(void **state)
{
    world w = {.d = simulated_device(7, 0, 5000)};
    (void)state;
    assert_int_equal(epg_simulation_run(w.d, 2, polls_for_ever, &w), EPG_ERR_TIMEOUT);
    assert_non_null(strstr(epg_message(), "5000 moves"));
    OK(epg_simulation_run(w.d, 3, stepping, &w));
    epg_device_destroy(w.d);
}

/* ---- faults ---- */

static void stops_and_slows(void *ctx, uint32_t program)
{
    world *w = ctx;
    if (program == 0) {
        want(w, epg_simulation_stop(w->d, 1, SECOND) == EPG_OK);
        want(w, epg_simulation_slow(w->d, 2, 10) == EPG_OK);
        uint64_t before = w->counts[1];
        epg_simulation_sleep(w->d, SECOND / 2);
        want(w, w->counts[1] == before); /* half a second is five million moves */
        w->words[0] = 1;
    }
    for (w->counts[program] = 0; program > 0 && w->counts[program] < 2000; w->counts[program]++) {
        epg_simulation_move(w->d, "counts");
        w->times[program] = epg_device_now_ns(w->d);
    }
}

static void a_stopped_program_rests_and_a_slow_one_lags(void **state)
{
    world w = {.d = simulated_device(3, 0, 0)};
    (void)state;
    OK(epg_simulation_run(w.d, 3, stops_and_slows, &w));
    assert_int_equal(w.wrong, 0);
    assert_int_equal(w.words[0], 1);
    assert_true(w.times[1] > SECOND);
    /* 4000 moves of 100 ns, each ten turns apart. */
    assert_true(w.times[2] > 2000000 && w.times[2] < SECOND / 2);
    epg_device_destroy(w.d);
}

static void dies_and_comes_back(void *ctx, uint32_t program)
{
    world *w = ctx;
    step_args args = {w, 0, 1u << 30};
    epg_stream s;
    if (program == 0) {
        w->counts[2]++; /* how often it was started */
        want(w, epg_stream_create(w->d, EPG_STREAM_BLOCKING, &s) == EPG_OK);
        if (w->counts[2] == 1) {
            want(w, epg_host_launch(w->d, s, step_kernel, &args, sizeof args, "steps") == EPG_OK);
            want(w, epg_stream_synchronize(w->d, s) == EPG_OK);
            w->wrong++; /* never here */
        }
        want(w, epg_stream_destroy(w->d, s) == EPG_OK);
        return;
    }
    want(w, epg_simulation_restart(w->d, 0) == EPG_ERR_STATE);
    while (w->counts[0] == 0)
        epg_simulation_move(w->d, NULL);
    want(w, epg_simulation_kill(w->d, 0) == EPG_OK);
    uint64_t before = w->counts[0];
    epg_simulation_sleep(w->d, SECOND);
    want(w, w->counts[0] == before);
    want(w, epg_memset(w->d, &w->words, 0, sizeof w->words) == EPG_OK); /* legacy work does not wait for the dead */
    want(w, epg_simulation_restart(w->d, 0) == EPG_OK);
    epg_simulation_sleep(w->d, SECOND);
    want(w, w->counts[2] == 2);
    want(w, epg_simulation_kill(w->d, 1) == EPG_OK); /* itself */
    w->wrong++;
}

static void a_killed_program_moves_no_more_and_may_start_anew(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        world w = {.d = simulated_device(seed, 0, 0)};
        OK(epg_simulation_run(w.d, 2, dies_and_comes_back, &w));
        assert_int_equal(w.wrong, 0);
        epg_device_destroy(w.d);
    }
}

static void store_then_linger(const void *raw)
{
    world *w = *(world *const *)raw;
    epg__mark_store(w->d->simulator, &w->words[0], 1);
    w->counts[0] = 1;
    epg__doorbell bell = {0, 0};
    epg__doorbell_wait(w->d->simulator, &bell, 0, SECOND);
}

static void dies_with_a_store_in_flight(void *ctx, uint32_t program)
{
    world *w = ctx;
    epg_stream s;
    if (program == 0) {
        want(w, epg_stream_create(w->d, EPG_STREAM_NONBLOCKING, &s) == EPG_OK);
        want(w, epg_host_launch(w->d, s, store_then_linger, &w, sizeof w, "store") == EPG_OK);
        epg_simulation_sleep(w->d, SECOND);
        return;
    }
    while (w->counts[0] == 0)
        epg_simulation_move(w->d, NULL);
    w->early = w->words[0];
    want(w, epg_simulation_kill(w->d, 0) == EPG_OK);
    epg_simulation_sleep(w->d, SECOND);
}

static void stores_of_a_killed_program_land_late_or_never(void **state)
{
    uint32_t late = 0, never = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 100; seed++) {
        world w = {.d = simulated_device(seed, 100, 0)};
        OK(epg_simulation_run(w.d, 2, dies_with_a_store_in_flight, &w));
        assert_int_equal(w.wrong, 0);
        late += !w.early && w.words[0];
        never += !w.words[0];
        epg_device_destroy(w.d);
    }
    assert_true(late > 5);
    assert_true(never > 5);
}

static void kill_from_a_kernel(const void *raw)
{
    world *w = *(world *const *)raw;
    want(w, epg_simulation_kill(w->d, 0) == EPG_ERR_STATE);
}

static void asks_what_is_refused(void *ctx, uint32_t program)
{
    world *w = ctx;
    (void)program;
    want(w, epg_simulation_run(w->d, 1, stepping, w) == EPG_ERR_STATE);
    want(w, epg_simulation_stop(w->d, 1, 5) == EPG_ERR_INVALID);
    want(w, epg_simulation_slow(w->d, 2, 5) == EPG_ERR_INVALID);
    want(w, epg_simulation_kill(w->d, 3) == EPG_ERR_INVALID);
    want(w, epg_simulation_restart(w->d, 1) == EPG_ERR_INVALID);
    want(w, epg_host_launch(w->d, w->stream, kill_from_a_kernel, &w, sizeof w, "kill") == EPG_OK);
    want(w, epg_stream_synchronize(w->d, w->stream) == EPG_OK);
}

static void misuse_is_refused(void **state)
{
    epg_simulation_options simulation = EPG_SIMULATION_OPTIONS_INIT;
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    world w = {.d = simulated_device(1, 0, 0)};
    epg_device *threads, *none;
    (void)state;
    OK(epg_stream_create(w.d, EPG_STREAM_NONBLOCKING, &w.stream));
    OK(epg_simulation_run(w.d, 1, asks_what_is_refused, &w));
    assert_int_equal(w.wrong, 0);
    assert_int_equal(epg_simulation_kill(w.d, 0), EPG_ERR_STATE); /* no run */
    assert_int_equal(epg_simulation_run(w.d, 0, stepping, &w), EPG_ERR_INVALID);
    epg_device_destroy(w.d);
    OK(epg_device_create(NULL, &threads));
    assert_int_equal(epg_simulation_run(threads, 1, stepping, &w), EPG_ERR_UNSUPPORTED);
    assert_int_equal(epg_simulation_kill(threads, 0), EPG_ERR_UNSUPPORTED);
    epg_simulation_move(threads, "does nothing");
    epg_simulation_sleep(threads, 3600 * SECOND);
    assert_int_equal(epg_simulation_moves(threads), 0);
    epg_device_destroy(threads);
    options.simulation = &simulation;
    simulation.late_percent = 101;
    assert_int_equal(epg_device_create(&options, &none), EPG_ERR_INVALID);
    simulation.late_percent = 0;
    simulation.size = 4;
    assert_int_equal(epg_device_create(&options, &none), EPG_ERR_INVALID);
}

/* ---- nothing is left over ---- */

static void dies_in_the_middle_of_everything(void *ctx, uint32_t program)
{
    world *w = ctx;
    step_args args = {w, program, 1u << 30};
    if (program == 0) { /* it holds nothing that is not the device's: a program's own memory is its own affair */
        want(w, epg_host_launch(w->d, w->stream, step_kernel, &args, sizeof args, "steps") == EPG_OK);
        epg_stream s;
        want(w, epg_stream_create(w->d, EPG_STREAM_NONBLOCKING, &s) == EPG_OK);
        for (int i = 0; i < 4; i++)
            want(w, epg_host_launch(w->d, s, write_words, &w, sizeof w, "words") == EPG_OK);
        want(w, epg_capture_begin(w->d, EPG_STREAM_PER_THREAD, EPG_CAPTURE_GLOBAL) == EPG_OK);
        want(w, epg_host_launch(w->d, EPG_STREAM_PER_THREAD, step_kernel, &args, sizeof args, "steps") == EPG_OK);
        epg_simulation_sleep(w->d, SECOND);
    }
    epg_simulation_sleep(w->d, 1000);
    want(w, epg_simulation_kill(w->d, 0) == EPG_OK);
    void *memory; /* the capture of the dead forbids nothing */
    want(w, epg_memory_alloc(w->d, EPG_MEMORY_DEVICE, 8, &memory) == EPG_OK);
    want(w, epg_memory_free(w->d, EPG_MEMORY_DEVICE, memory) == EPG_OK);
}

/* The device's end does not wait for work that nothing can wake. */
static void destruction_cuts_off_what_cannot_end(void **state)
{
    (void)state;
    oom_track_start();
    world w = {.d = simulated_device(7, 0, 0)};
    OK(epg_event_create(w.d, &w.event));
    OK(epg_stream_create(w.d, EPG_STREAM_NONBLOCKING, &w.stream));
    assert_int_equal(epg_simulation_run(w.d, 2, waits_for_the_dead, &w), EPG_ERR_STATE);
    OK(epg_stream_wait_event(w.d, w.stream, w.event));
    OK(epg_host_launch(w.d, w.stream, step_kernel, &(step_args){&w, 0, 1}, sizeof(step_args), "steps"));
    assert_int_equal(epg_stream_synchronize(w.d, w.stream), EPG_ERR_STATE);
    assert_string_equal(epg_message(), "nobody can move any more; the caller waits for the work of a stream; stream 0 "
                                       "waits for an event");
    OK(epg_event_destroy(w.d, w.event));
    epg_device_destroy(w.d);
    assert_int_equal(oom_tracked(), 0);
}

/* The first program's endless kernel is on a stream without a home: the run ends by its bound. */
static void nothing_is_left_after_a_kill_or_a_failed_run(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 30; seed++) {
        oom_track_start();
        world w = {.d = simulated_device(seed, 50, 20000)};
        OK(epg_stream_create(w.d, EPG_STREAM_NONBLOCKING, &w.stream));
        assert_int_equal(epg_simulation_run(w.d, 2, dies_in_the_middle_of_everything, &w), EPG_ERR_TIMEOUT);
        epg_device_destroy(w.d);
        assert_int_equal(w.wrong, 0);
        assert_int_equal(oom_tracked(), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_deadlock_names_who_waits_for_what),
        cmocka_unit_test(a_run_without_an_end_is_ended),
        cmocka_unit_test(a_stopped_program_rests_and_a_slow_one_lags),
        cmocka_unit_test(a_killed_program_moves_no_more_and_may_start_anew),
        cmocka_unit_test(stores_of_a_killed_program_land_late_or_never),
        cmocka_unit_test(misuse_is_refused),
        cmocka_unit_test(nothing_is_left_after_a_kill_or_a_failed_run),
        cmocka_unit_test(destruction_cuts_off_what_cannot_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
