/* The command's pure parts: traces, synthetic requests, and one rank's schedule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "../../cli/schedule.h"
#include "../../cli/workload.h"

#define HEADER "TIMESTAMP,ContextTokens,GeneratedTokens\n"

static int read_text(workload *load, const char *text, uint32_t count, char *message, size_t bytes)
{
    FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
    assert_non_null(file);
    int status = workload_read(load, file, "trace.csv", count, 1, 100, message, bytes);
    fclose(file);
    return status;
}

static void test_timestamps(void **state)
{
    uint64_t us = 0;
    (void)state;
    assert_int_equal(workload_timestamp("1970-01-01 00:00:00", &us), 0);
    assert_int_equal(us, 0);
    assert_int_equal(workload_timestamp("2023-11-16 18:17:03.9799600", &us), 0);
    assert_int_equal(us, 1700158623979960);
    assert_int_equal(workload_timestamp("2024-02-29 23:59:59.5", &us), 0);
    assert_int_equal(us, 1709251199500000);
    static const char *const bad[] = {"",  "soon", "2023-11-16", "2023-11-16T18:17:03", "2023-13-01 00:00:00",
                                      "2023-02-29 00:00:00", "2023-11-16 24:00:00", "2023-11-16 18:17:03.",
                                      "2023-11-16 18:17:03.5x", "2023-1-16 18:17:03", "1969-12-31 23:59:59"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(workload_timestamp(bad[i], &us), -1);
}

static void test_trace(void **state)
{
    workload load;
    char message[512] = "";
    (void)state;
    assert_int_equal(read_text(&load, HEADER "2023-11-16 23:59:59.9,10,3\r\n2023-11-17 00:00:00.1,5,0\n"
                                             "2023-11-17 00:00:01.0,7,1", 0, message, sizeof(message)), 0);
    assert_int_equal(load.count, 3);
    assert_int_equal(load.requests[0].arrival_us, 0);
    assert_int_equal(load.requests[1].arrival_us, 200000);
    assert_int_equal(load.requests[2].arrival_us, 1100000);
    assert_int_equal(load.prompt_tokens, 22);
    assert_int_equal(load.generated_tokens, 4);
    assert_int_equal(load.requests[1].first_position, 12); /* 10 of the prompt, 2 fed back */
    assert_int_equal(load.requests[2].first_position, 17);
    assert_int_equal(load.positions, 24);
    workload_free(&load);
    /* Only the lines asked for are read. */
    assert_int_equal(read_text(&load, HEADER "2023-11-16 23:59:59.9,10,3\nrubbish\n", 1, message, sizeof(message)), 0);
    assert_int_equal(load.count, 1);
    workload_free(&load);
}

static void test_bad_traces(void **state)
{
    static const struct {
        const char *text;
        uint32_t count;
        const char *named[2];
    } cases[] = {
        {HEADER "2023-11-16 18:17:03.9,12,3\n2023-11-16 18:17:04.0,many,3\n", 0,
         {"trace.csv:3:", "ContextTokens \"many\""}},
        {HEADER "2023-11-16 18:17:03.9,12,3.5\n", 0, {"trace.csv:2:", "GeneratedTokens \"3.5\""}},
        {HEADER "2023-11-16 18:17:03.9,-12,3\n", 0, {"trace.csv:2:", "\"-12\""}},
        {HEADER "2023-11-16 18:17:03.9,0,3\n", 0, {"trace.csv:2:", "\"0\""}},
        {HEADER "2023-11-16 18:17:03.9,99999999999999999999,3\n", 0, {"trace.csv:2:", "99999999999999999999"}},
        {HEADER "2023-11-16 18:17:03.9,12\n", 0, {"trace.csv:2:", "three columns"}},
        {HEADER "2023-11-16 18:17:03.9,12,3,4\n", 0, {"trace.csv:2:", "three columns"}},
        {HEADER "yesterday,12,3\n", 0, {"trace.csv:2:", "TIMESTAMP \"yesterday\""}},
        {HEADER "2023-11-16 18:17:03.9,1,1\n2023-11-16 18:17:03.8,1,1\n", 0, {"trace.csv:3:", "earlier"}},
        {"time,in,out\n", 0, {"trace.csv:1:", "time,in,out"}},
        {HEADER, 0, {"trace.csv:", "no request"}},
        {HEADER "2023-11-16 18:17:03.9,1,1\n", 2, {"holds 1 requests", "2 asked for"}}};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        workload load;
        char message[512] = "";
        assert_int_equal(read_text(&load, cases[i].text, cases[i].count, message, sizeof(message)), -1);
        for (int k = 0; k < 2; k++)
            if (!strstr(message, cases[i].named[k]))
                fail_msg("\"%s\" does not name \"%s\"", message, cases[i].named[k]);
        assert_null(load.requests);
    }
}

static void test_synthetic(void **state)
{
    workload a, b;
    (void)state;
    assert_int_equal(workload_synthesize(&a, 50, 7, 100), 0);
    assert_int_equal(workload_synthesize(&b, 50, 7, 100), 0);
    for (uint32_t i = 0; i < 50; i++) {
        assert_memory_equal(&a.requests[i], &b.requests[i], sizeof(a.requests[i]));
        assert_in_range(a.requests[i].prompt, 16, 256);
        assert_in_range(a.requests[i].generate, 4, 32);
        assert_true(!i || a.requests[i].arrival_us >= a.requests[i - 1].arrival_us);
    }
    for (uint32_t position = 0; position < 1000; position++) {
        assert_in_range(workload_prompt_id(&a, 3, position), 0, 99);
        assert_int_equal(workload_prompt_id(&a, 3, position), workload_prompt_id(&b, 3, position));
    }
    workload_free(&b);
    assert_int_equal(workload_synthesize(&b, 50, 8, 100), 0);
    assert_memory_not_equal(a.requests, b.requests, 50 * sizeof(*a.requests));
    workload_free(&a);
    workload_free(&b);
}

/* Serves two ranks by turns under a plan that obeys every report; every position comes exactly once and in order. */
static void test_schedule(void **state)
{
    enum { RANKS = 2, CHUNK = 64, BATCH = 3 };
    workload load;
    schedule ranks[RANKS];
    schedule_slot slots[CHUNK];
    (void)state;
    assert_int_equal(workload_synthesize(&load, 21, 3, 100), 0);
    uint32_t *next = calloc(load.count, sizeof(*next));
    for (uint32_t r = 0; r < RANKS; r++)
        assert_int_equal(schedule_create(&ranks[r], &load, r, RANKS, BATCH), 0);
    uint64_t clock = 0, served = 0, generated = 0;
    for (int stopped = 0; stopped < RANKS;) {
        int idle = 1;
        stopped = 0;
        for (uint32_t r = 0; r < RANKS; r++) {
            epg_step_report report = {0};
            schedule_report(&ranks[r], clock, &report);
            assert_true(report.decode_tokens <= BATCH);
            stopped += report.stop;
            epg_step_plan plan = {.phase = EPG_STEP_IDLE};
            if (report.decode_tokens && (!report.prefill_tokens || report.prefill_streak >= 2))
                plan = (epg_step_plan){.phase = EPG_STEP_DECODE, .tokens = report.decode_tokens};
            else if (report.prefill_tokens)
                plan = (epg_step_plan){.phase = EPG_STEP_PREFILL,
                                       .tokens = report.prefill_tokens < CHUNK ? report.prefill_tokens : CHUNK};
            uint32_t count = schedule_take(&ranks[r], &plan, slots);
            assert_int_equal(count, plan.tokens);
            idle &= !count;
            for (uint32_t i = 0; i < count; i++) {
                uint64_t token;
                assert_int_equal(slots[i].request % RANKS, r);
                assert_int_equal(slots[i].position, next[slots[i].request]++);
                if (schedule_generates(&load, slots[i], &token)) {
                    generated++;
                    assert_true(token < load.generated_tokens);
                }
            }
            served += count;
        }
        clock = schedule_clock(&load, clock, idle);
    }
    assert_int_equal(served, load.positions);
    assert_int_equal(generated, load.generated_tokens);
    for (uint32_t r = 0; r < RANKS; r++)
        schedule_destroy(&ranks[r]);
    free(next);
    workload_free(&load);
}

static void test_clock(void **state)
{
    workload_request requests[3] = {{.arrival_us = 0}, {.arrival_us = 5000000}, {.arrival_us = 9000000}};
    workload load = {.requests = requests, .count = 3};
    (void)state;
    assert_int_equal(schedule_clock(&load, 0, 0), 20000);
    assert_int_equal(schedule_clock(&load, 20000, 1), 5000000);
    assert_int_equal(schedule_clock(&load, 5000000, 1), 9000000);
    assert_int_equal(schedule_clock(&load, 9000000, 1), 9020000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_timestamps), cmocka_unit_test(test_trace),
                                       cmocka_unit_test(test_bad_traces), cmocka_unit_test(test_synthetic),
                                       cmocka_unit_test(test_schedule),   cmocka_unit_test(test_clock)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
