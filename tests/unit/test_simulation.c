/* The simulated device: same seed, same run, also in another process; virtual time; stores that land late but never
 * past a release; graphs; what a trace tells. Faults and failed runs are in test_simulation_faults.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "device/device_ops.h"
#include "support/oom.h"
#include "support/simulated.h"

#define OK(call) assert_int_equal((call), EPG_OK)

/* ---- the same run ---- */

static uint64_t digest_of_run(uint64_t seed, uint64_t *moves)
{
    world w = {.d = simulated_device(seed, 20, 0)};
    OK(epg_simulation_run(w.d, 3, stepping, &w));
    assert_int_equal(w.wrong, 0);
    assert_int_equal(w.counts[2], 200);
    uint64_t digest = epg_simulation_digest(w.d);
    *moves = epg_simulation_moves(w.d);
    epg_device_destroy(w.d);
    return digest;
}

static void the_seed_decides_all(void **state)
{
    uint64_t first, moves, again, other;
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        first = digest_of_run(seed, &moves);
        assert_true(first == digest_of_run(seed, &again));
        assert_true(moves == again && moves > 600);
        assert_true(first != digest_of_run(seed + 100, &other));
    }
}

/* Addresses differ there, and must not matter. */
static void another_process_makes_the_same_run(void **state)
{
    char command[512], self[256];
    unsigned long long theirs = 0;
    uint64_t moves;
    (void)state;
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = 0;
    snprintf(command, sizeof command, "%s digest", self);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_int_equal(fscanf(pipe, "%llx", &theirs), 1);
    assert_int_equal(pclose(pipe), 0);
    assert_true(theirs == digest_of_run(5, &moves));
}

/* ---- time ---- */

static void napping(void *ctx, uint32_t program)
{
    world *w = ctx;
    uint64_t start = epg_device_now_ns(w->d);
    epg_simulation_sleep(w->d, (program + 1) * 3600 * SECOND);
    w->times[program] = epg_device_now_ns(w->d) - start;
}

static void time_is_virtual(void **state)
{
    world w = {.d = simulated_device(1, 0, 0)};
    (void)state;
    OK(epg_simulation_run(w.d, 2, napping, &w));
    for (uint32_t p = 0; p < 2; p++) {
        assert_true(w.times[p] >= (p + 1) * 3600 * SECOND);
        assert_true(w.times[p] < (p + 1) * 3600 * SECOND + SECOND);
    }
    epg_device_destroy(w.d);
}

static void ask_time(const void *raw)
{
    world *w = *(world *const *)raw;
    w->times[0] = epg_device_now_ns(w->d);
}

static void outside_of_a_run_blocking_calls_run_the_streams(void **state)
{
    world w = {.d = simulated_device(1, 0, 0)}, *self = &w;
    double us;
    epg_event start, stop;
    (void)state;
    OK(epg_event_create(w.d, &start));
    OK(epg_event_create(w.d, &stop));
    OK(epg_stream_create(w.d, EPG_STREAM_BLOCKING, &w.stream));
    OK(epg_event_record(w.d, start, w.stream));
    OK(epg_host_launch(w.d, w.stream, ask_time, &self, sizeof self, "clock"));
    OK(epg_event_record(w.d, stop, w.stream));
    OK(epg_memset(w.d, &w.words, 1, sizeof w.words)); /* on the legacy stream: after the blocking one */
    assert_int_equal(w.words[3], 0x01010101);
    assert_true(w.times[0] > 0 && w.times[0] < SECOND);
    OK(epg_event_elapsed_us(w.d, start, stop, &us));
    assert_true(us > 0 && us < 1000);
    OK(epg_event_destroy(w.d, start));
    OK(epg_event_destroy(w.d, stop));
    epg_device_destroy(w.d);
}

/* ---- stores that land late ---- */

static void read_words(const void *raw)
{
    world *w = *(world *const *)raw;
    epg__simulator *sim = w->d->simulator;
    for (int i = 0; i < 30; i++) {
        uint64_t signal = epg__signal_load(sim, &w->signal);
        uint32_t second = epg__word_load(sim, &w->words[1]), first = epg__word_load(sim, &w->words[0]);
        w->early += second && !first;
        w->torn += signal && (!first || !second);
    }
}

static void check_words(const void *raw)
{
    world *w = *(world *const *)raw;
    w->wrong += w->words[2] != 1; /* the end of the kernel before made it visible */
}

static void writing_and_reading(void *ctx, uint32_t program)
{
    world *w = ctx;
    epg_stream s;
    want(w, epg_stream_create(w->d, EPG_STREAM_NONBLOCKING, &s) == EPG_OK);
    want(w, epg_host_launch(w->d, s, program ? read_words : write_words, &w, sizeof w, "words") == EPG_OK);
    if (program == 0)
        want(w, epg_host_launch(w->d, s, check_words, &w, sizeof w, "check") == EPG_OK);
    want(w, epg_stream_synchronize(w->d, s) == EPG_OK);
    want(w, epg_stream_destroy(w->d, s) == EPG_OK);
}

static void count_late(uint32_t late_percent, uint32_t *early, uint32_t *torn)
{
    *early = *torn = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        world w = {.d = simulated_device(seed, late_percent, 0)};
        OK(epg_simulation_run(w.d, 2, writing_and_reading, &w));
        assert_int_equal(w.wrong, 0);
        *early += w.early > 0;
        *torn += w.torn;
        epg_device_destroy(w.d);
    }
}

static void late_stores_pass_stores_but_no_release(void **state)
{
    uint32_t early, torn;
    (void)state;
    count_late(0, &early, &torn);
    assert_int_equal(early, 0);
    assert_int_equal(torn, 0);
    count_late(60, &early, &torn);
    /* The writer looks at its first word before it releases, which lands it: early sights are rarer than 60 %. */
    assert_true(early > 10);
    assert_int_equal(torn, 0);
}

/* ---- graphs ---- */

typedef struct node_args {
    world *w;
    uint32_t number;
} node_args;

static void node(const void *raw)
{
    const node_args *a = raw;
    for (int i = 0; i < 3; i++)
        epg_simulation_move(a->w->d, "works");
    a->w->signal = a->w->signal * 10 + a->number; /* in which order the nodes ended */
}

static epg_status launch_node(world *w, epg_stream s, uint32_t number)
{
    node_args args = {w, number};
    return epg_host_launch(w->d, s, node, &args, sizeof args, "node");
}

/* 1, then 2 and 3 side by side, then 4; replayed three times. */
static void replays_a_fork(void *ctx, uint32_t program)
{
    world *w = ctx;
    epg_stream a, b;
    epg_event fork, join;
    epg_graph graph;
    epg_exec exec;
    (void)program;
    want(w, epg_stream_create(w->d, EPG_STREAM_NONBLOCKING, &a) == EPG_OK);
    want(w, epg_stream_create(w->d, EPG_STREAM_NONBLOCKING, &b) == EPG_OK);
    want(w, epg_event_create(w->d, &fork) == EPG_OK);
    want(w, epg_event_create(w->d, &join) == EPG_OK);
    want(w, epg_capture_begin(w->d, a, EPG_CAPTURE_GLOBAL) == EPG_OK);
    want(w, launch_node(w, a, 1) == EPG_OK);
    want(w, epg_event_record(w->d, fork, a) == EPG_OK);
    want(w, epg_stream_wait_event(w->d, b, fork) == EPG_OK);
    want(w, launch_node(w, a, 2) == EPG_OK);
    want(w, launch_node(w, b, 3) == EPG_OK);
    want(w, epg_event_record(w->d, join, b) == EPG_OK);
    want(w, epg_stream_wait_event(w->d, a, join) == EPG_OK);
    want(w, launch_node(w, a, 4) == EPG_OK);
    want(w, epg_capture_end(w->d, a, &graph) == EPG_OK);
    want(w, epg_graph_instantiate(w->d, graph, &exec) == EPG_OK && epg_graph_destroy(w->d, graph) == EPG_OK);
    for (int i = 0; i < 3; i++)
        want(w, epg_exec_launch(w->d, exec, i == 1 ? b : a) == EPG_OK);
    want(w, epg_exec_destroy(w->d, exec) == EPG_OK);
    want(w, epg_event_destroy(w->d, fork) == EPG_OK && epg_event_destroy(w->d, join) == EPG_OK);
    want(w, epg_stream_destroy(w->d, a) == EPG_OK && epg_stream_destroy(w->d, b) == EPG_OK);
}

static void branches_of_a_graph_interleave(void **state)
{
    uint32_t straight = 0, crossed = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        world w = {.d = simulated_device(seed, 0, 0)};
        OK(epg_simulation_run(w.d, 1, replays_a_fork, &w));
        assert_int_equal(w.wrong, 0);
        for (int i = 0; i < 3; i++, w.signal /= 10000) {
            assert_true(w.signal % 10000 == 1234 || w.signal % 10000 == 1324);
            straight += w.signal % 10000 == 1234;
            crossed += w.signal % 10000 == 1324;
        }
        epg_device_destroy(w.d);
    }
    assert_true(straight > 5 && crossed > 5);
}

/* ---- a program is a thread of its own ---- */

static void has_its_own_mode_and_message(void *ctx, uint32_t program)
{
    world *w = ctx;
    epg_capture_mode mode = program ? EPG_CAPTURE_RELAXED : EPG_CAPTURE_THREAD_LOCAL;
    epg_stream mine, s;
    want(w, epg_capture_mode_exchange(w->d, &mode) == EPG_OK && mode == EPG_CAPTURE_GLOBAL);
    want(w, epg_simulation_stop(w->d, 100 + program, 0) == EPG_ERR_INVALID); /* writes a message */
    for (int i = 0; i < 20; i++)
        epg_simulation_move(w->d, NULL);
    want(w, strstr(epg_message(), program ? "program is 101" : "program is 100") != NULL);
    want(w, epg_capture_mode_exchange(w->d, &mode) == EPG_OK);
    want(w, mode == (program ? EPG_CAPTURE_RELAXED : EPG_CAPTURE_THREAD_LOCAL));
    /* A capture by this program; another one's per-thread default stream is not in it. */
    want(w, epg_stream_create(w->d, EPG_STREAM_NONBLOCKING, &mine) == EPG_OK);
    s = EPG_STREAM_PER_THREAD;
    if (program == 0)
        want(w, epg_capture_begin(w->d, s, EPG_CAPTURE_RELAXED) == EPG_OK);
    epg_simulation_sleep(w->d, 100000);
    epg_capture_status capturing;
    want(w, epg_capture_query(w->d, s, &capturing, NULL) == EPG_OK);
    want(w, capturing == (program == 0 ? EPG_CAPTURE_ACTIVE : EPG_CAPTURE_NONE));
    epg_simulation_sleep(w->d, 100000);
    epg_graph graph;
    if (program == 0)
        want(w, epg_capture_end(w->d, s, &graph) == EPG_OK && epg_graph_destroy(w->d, graph) == EPG_OK);
    want(w, epg_stream_destroy(w->d, mine) == EPG_OK);
}

static void each_program_counts_as_a_thread(void **state)
{
    world w = {.d = simulated_device(11, 0, 0)};
    (void)state;
    OK(epg_simulation_run(w.d, 2, has_its_own_mode_and_message, &w));
    assert_int_equal(w.wrong, 0);
    epg_device_destroy(w.d);
}

/* ---- the trace ---- */

static void keep_trace(void *ctx, uint64_t time_ns, const char *who, const char *what)
{
    char (*lines)[160] = ctx;
    size_t at = 0;
    while (at < 199 && *lines[at])
        at++;
    snprintf(lines[at], sizeof *lines, "%s at %s: %s", who, time_ns > 0 && time_ns < SECOND ? "a time" : "none", what);
}

static int has_line(char (*lines)[160], const char *text)
{
    for (size_t i = 0; i < 200; i++)
        if (strcmp(lines[i], text) == 0)
            return 1;
    return 0;
}

static void a_trace_says_who_did_what(void **state)
{
    static char lines[200][160];
    epg_simulation_options simulation = EPG_SIMULATION_OPTIONS_INIT;
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    world w = {0};
    (void)state;
    simulation.trace = keep_trace;
    simulation.trace_ctx = lines;
    options.simulation = &simulation;
    OK(epg_device_create(&options, &w.d));
    OK(epg_simulation_run(w.d, 2, writing_and_reading, &w));
    assert_true(has_line(lines, "rank 0 at a time: enqueues words"));
    assert_true(has_line(lines, "rank 0 stream 0 at a time: words: begins"));
    assert_true(has_line(lines, "rank 0 stream 0 at a time: words: stores a mark"));
    assert_true(has_line(lines, "rank 0 stream 0 at a time: words: stores a signal"));
    assert_true(has_line(lines, "rank 1 stream 0 at a time: words: looks at a signal"));
    epg_device_destroy(w.d);
}

/* ---- memory runs out ---- */

static void every_allocation_may_fail(void **state)
{
    (void)state;
    for (long nth = 0;; nth++) {
        epg_simulation_options simulation = EPG_SIMULATION_OPTIONS_INIT;
        epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
        world w = {0};
        options.simulation = &simulation;
        oom_track_start();
        oom_fail_at(nth);
        epg_status status = epg_device_create(&options, &w.d);
        if (status == EPG_OK)
            status = epg_simulation_run(w.d, 2, stepping, &w);
        int failed = oom_stop();
        epg_device_destroy(w.d);
        assert_int_equal(oom_tracked(), 0);
        if (!failed)
            break;
        assert_true(status != EPG_OK || w.wrong > 0);
        assert_true(nth < 100);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_seed_decides_all),
        cmocka_unit_test(another_process_makes_the_same_run),
        cmocka_unit_test(time_is_virtual),
        cmocka_unit_test(outside_of_a_run_blocking_calls_run_the_streams),
        cmocka_unit_test(late_stores_pass_stores_but_no_release),
        cmocka_unit_test(branches_of_a_graph_interleave),
        cmocka_unit_test(each_program_counts_as_a_thread),
        cmocka_unit_test(a_trace_says_who_did_what),
        cmocka_unit_test(every_allocation_may_fail),
    };
    if (argc > 1 && strcmp(argv[1], "digest") == 0) {
        uint64_t moves;
        printf("%llx\n", (unsigned long long)digest_of_run(5, &moves));
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
