/* The step plan: its rules one by one, its invariants over every small set of reports, and that nobody starves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>
#include "core/core_int.h"
#include "epgraph/step.h"

static const uint32_t small_buckets[] = {1, 2, 4, 8};

static epg_step_config small_config(void)
{
    epg_step_config config = EPG_STEP_CONFIG_INIT;
    config.chunk = 6;
    config.ll_max_tokens = 4;
    config.buckets = small_buckets;
    config.bucket_count = 4;
    return config;
}

static epg_step_report report_of(uint32_t prefill, uint32_t decode, uint32_t streak)
{
    return (epg_step_report){.prefill_tokens = prefill, .decode_tokens = decode, .prefill_streak = streak, .pairs = {1},
                             .alive = 1};
}

static void mixed_ranks_run_what_they_have(void **state)
{
    (void)state;
    epg_step_config config = small_config();
    epg_step_report reports[] = {report_of(100, 3, 1), report_of(100, 3, 2), report_of(0, 0, 0), report_of(5, 0, 9)};
    epg_step_plan plans[4];
    reports[1].pairs[0] = 7;
    assert_int_equal(epg_step_plan_all(&config, reports, 4, plans), EPG_OK);
    assert_int_equal(plans[0].phase, EPG_STEP_PREFILL);
    assert_int_equal(plans[0].tokens, 6);
    assert_int_equal(plans[0].bucket, 6);
    assert_int_equal(plans[0].mode, EPG_MODE_HT);
    assert_int_equal(plans[1].phase, EPG_STEP_DECODE);
    assert_int_equal(plans[1].tokens, 3);
    assert_int_equal(plans[1].bucket, 4);
    assert_int_equal(plans[1].mode, EPG_MODE_LL);
    assert_int_equal(plans[2].phase, EPG_STEP_IDLE);
    assert_int_equal(plans[2].tokens, 0);
    assert_int_equal(plans[2].bucket, 1);
    assert_int_equal(plans[3].phase, EPG_STEP_PREFILL);
    assert_int_equal(plans[3].tokens, 5);
    for (int r = 0; r < 4; r++)
        assert_int_equal(plans[r].pairs[0], 7);
}

static void one_phase_holds_for_all(void **state)
{
    (void)state;
    epg_step_config config = small_config();
    epg_step_report reports[] = {report_of(10, 0, 1), report_of(0, 3, 0)};
    epg_step_plan plans[2];
    config.policy = EPG_POLICY_ONE_PHASE;
    assert_int_equal(epg_step_plan_all(&config, reports, 2, plans), EPG_OK);
    assert_int_equal(plans[0].phase, EPG_STEP_PREFILL);
    assert_int_equal(plans[1].phase, EPG_STEP_IDLE);
    reports[0].prefill_streak = 2; /* the burst is over: rank 1 may decode */
    assert_int_equal(epg_step_plan_all(&config, reports, 2, plans), EPG_OK);
    assert_int_equal(plans[0].phase, EPG_STEP_IDLE);
    assert_int_equal(plans[1].phase, EPG_STEP_DECODE);
    reports[1].decode_tokens = 0; /* nobody waits for a decode */
    assert_int_equal(epg_step_plan_all(&config, reports, 2, plans), EPG_OK);
    assert_int_equal(plans[0].phase, EPG_STEP_PREFILL);
}

static void speculation_cuts_in_whole_sequences(void **state)
{
    (void)state;
    epg_step_config config = small_config();
    epg_step_report report = report_of(0, 5, 0);
    epg_step_plan plan;
    report.spec_tokens = 2;
    assert_int_equal(epg_step_plan_all(&config, &report, 1, &plan), EPG_OK);
    assert_int_equal(plan.tokens, 6); /* two sequences of three; the bucket holds eight */
    assert_int_equal(plan.bucket, 8);
    report.spec_tokens = 8;
    assert_int_equal(epg_step_plan_all(&config, &report, 1, &plan), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "9 tokens per sequence"));
    report.spec_tokens = UINT32_MAX;
    assert_int_equal(epg_step_plan_all(&config, &report, 1, &plan), EPG_ERR_INVALID);
    report.spec_tokens = 1;
    report.decode_tokens = UINT32_MAX;
    assert_int_equal(epg_step_plan_all(&config, &report, 1, &plan), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "rank 0"));
}

static void stop_needs_all_and_error_is_the_first(void **state)
{
    (void)state;
    epg_step_config config = small_config();
    epg_step_report reports[] = {report_of(0, 0, 0), report_of(0, 0, 0), report_of(0, 0, 0)};
    epg_step_plan plans[3];
    reports[0].stop = reports[1].stop = 1;
    reports[1].error = EPG_ERR_IO;
    reports[2].error = EPG_ERR_FORMAT;
    assert_int_equal(epg_step_plan_all(&config, reports, 3, plans), EPG_OK);
    for (int r = 0; r < 3; r++) {
        assert_int_equal(plans[r].stop, 0);
        assert_int_equal(plans[r].error, EPG_ERR_IO);
        assert_int_equal(plans[r].error_rank, 1);
    }
    reports[2].alive = 0; /* a dead rank neither holds the others back nor reports */
    reports[1].error = 0;
    assert_int_equal(epg_step_plan_all(&config, reports, 3, plans), EPG_OK);
    assert_int_equal(plans[0].stop, 1);
    assert_int_equal(plans[0].error, 0);
}

static void a_joiner_waits_for_the_next_step(void **state)
{
    (void)state;
    epg_step_config config = small_config();
    epg_step_report reports[] = {report_of(0, 1, 0), report_of(0, 1, 0), report_of(0, 1, 0)};
    epg_step_plan plans[3];
    config.lanes = 2;
    reports[0].epochs[0] = 0xFFFFFFFF; /* the epoch wraps: 1 is the later one */
    reports[1].epochs[0] = 1;
    reports[0].epochs[1] = 40; /* lanes have epochs of their own */
    reports[1].epochs[1] = 39;
    reports[0].pairs[0] = 4;
    reports[1].pairs[1] = 2;
    reports[2] = (epg_step_report){.decode_tokens = 1, .pairs = {9}, .epochs = {77, 77}, .join = 1, .alive = 1,
                                   .incarnation = 3};
    assert_int_equal(epg_step_plan_all(&config, reports, 3, plans), EPG_OK);
    for (int r = 0; r < 3; r++) {
        assert_int_equal(plans[r].join_ranks, 1);
        assert_int_equal(plans[r].join_epochs[0], 1 + 4 + 1);
        assert_int_equal(plans[r].join_epochs[1], 40 + 2 + 1);
        assert_int_equal(plans[r].pairs[0], 4);
        assert_int_equal(plans[r].alive, 1);
        assert_int_equal(plans[r].join, r == 2);
        assert_int_equal(plans[r].incarnation, r == 2 ? 3 : 0);
    }
    assert_int_equal(plans[2].phase, EPG_STEP_IDLE);
}

static void a_bad_config_is_named(void **state)
{
    (void)state;
    epg_step_report report = report_of(1, 1, 0);
    epg_step_plan plan;
    const uint32_t falling[] = {2, 1};
    epg_step_config bad[6];
    for (int i = 0; i < 6; i++)
        bad[i] = small_config();
    bad[0].chunk = 0;
    bad[1].lanes = 0;
    bad[2].lanes = EPG_LANES_MAX + 1;
    bad[3].buckets = falling;
    bad[3].bucket_count = 2;
    bad[4].bucket_count = 0;
    bad[5].prefill_burst = 0;
    for (int i = 0; i < 6; i++)
        assert_int_equal(epg_step_plan_all(&bad[i], &report, 1, &plan), EPG_ERR_INVALID);
    epg_step_config good = small_config();
    report.pairs[3] = 1;
    assert_int_equal(epg_step_plan_all(&good, &report, 1, &plan), EPG_ERR_INVALID);
    assert_string_equal(epg_message(), "rank 0 wants 1 pairs in lane 3; there are 1 lanes");
}

static void check_plans(const epg_step_config *config, const epg_step_report *reports, const epg_step_plan *plans,
                        uint32_t ranks)
{
    bool any_prefill = false, any_decode = false;
    for (uint32_t r = 0; r < ranks; r++) {
        const epg_step_plan *plan = &plans[r];
        any_prefill |= plan->phase == EPG_STEP_PREFILL;
        any_decode |= plan->phase == EPG_STEP_DECODE;
        assert_memory_equal(plan->pairs, plans[0].pairs, sizeof plan->pairs);
        assert_in_range(plan->mode, EPG_MODE_LL, EPG_MODE_HT);
        assert_true(plan->bucket >= plan->tokens);
        assert_true(plan->pairs[0] >= reports[r].pairs[0]);
        if (plan->phase == EPG_STEP_PREFILL)
            assert_in_range(plan->tokens, 1, reports[r].prefill_tokens < config->chunk ? reports[r].prefill_tokens
                                                                                       : config->chunk);
        if (plan->phase == EPG_STEP_DECODE) {
            assert_int_equal(plan->tokens % (1 + reports[r].spec_tokens), 0);
            assert_in_range(plan->tokens, 1, reports[r].decode_tokens * (1 + reports[r].spec_tokens));
        }
        if (plan->phase != EPG_STEP_PREFILL) {
            bool listed = false;
            for (uint32_t i = 0; i < config->bucket_count; i++)
                listed |= config->buckets[i] == plan->bucket;
            assert_true(listed);
        }
    }
    if (config->policy == EPG_POLICY_ONE_PHASE)
        assert_false(any_prefill && any_decode);
}

/* Reports of one rank, numbered: 0, 1 or 9 prefill tokens, 0, 1, 3 or 9 sequences, 0 or 2 speculative, streak 0 to 2,
 * 0 or 3 pairs. */
enum { REPORT_KINDS = 3 * 4 * 2 * 3 * 2 };
static epg_step_report report_number(uint32_t number)
{
    static const uint32_t prefill[] = {0, 1, 9}, decode[] = {0, 1, 3, 9};
    epg_step_report report = report_of(prefill[number % 3], decode[number / 3 % 4], number / 24 % 3);
    report.spec_tokens = number / 12 % 2 * 2;
    report.pairs[0] = number / 72 % 2 * 3;
    return report;
}

static void invariants_hold_for_every_small_case(void **state)
{
    (void)state;
    for (int policy = 0; policy < 2; policy++)
        for (uint32_t a = 0; a < REPORT_KINDS; a++)
            for (uint32_t b = 0; b < REPORT_KINDS; b++)
                for (uint32_t c = 0; c < REPORT_KINDS; c += 7) {
                    epg_step_config config = small_config();
                    epg_step_report reports[] = {report_number(a), report_number(b), report_number(c)};
                    epg_step_plan plans[3];
                    config.policy = (epg_step_policy)policy;
                    assert_int_equal(epg_step_plan_all(&config, reports, 3, plans), EPG_OK);
                    check_plans(&config, reports, plans, 3);
                }
}

/* Three ranks with more of both kinds of work than they can ever do; how long does each wait for either phase? */
static void nobody_starves(void **state)
{
    (void)state;
    for (int policy = 0; policy < 2; policy++)
        for (uint32_t burst = 1; burst <= 3; burst++)
            for (uint32_t only = 0; only < 3; only++) { /* rank 2: both kinds, prefill only, decode only */
                epg_step_config config = small_config();
                epg_step_report reports[] = {report_of(9, 9, 0), report_of(9, 9, 0),
                                             report_of(only == 2 ? 0 : 9, only == 1 ? 0 : 9, 0)};
                uint32_t since[3][3] = {{0}};
                config.policy = (epg_step_policy)policy;
                config.prefill_burst = burst;
                for (int step = 0; step < 100; step++) {
                    epg_step_plan plans[3];
                    assert_int_equal(epg_step_plan_all(&config, reports, 3, plans), EPG_OK);
                    for (uint32_t r = 0; r < 3; r++) {
                        epg_step_phase phase = plans[r].phase;
                        since[r][EPG_STEP_PREFILL]++;
                        since[r][EPG_STEP_DECODE]++;
                        since[r][phase] = 0;
                        reports[r].prefill_streak = phase == EPG_STEP_PREFILL ? reports[r].prefill_streak + 1 : 0;
                        if (reports[r].prefill_tokens > 0)
                            assert_in_range(since[r][EPG_STEP_PREFILL], 0, 1);
                        if (reports[r].decode_tokens > 0)
                            assert_in_range(since[r][EPG_STEP_DECODE], 0, burst);
                    }
                }
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_ranks_run_what_they_have),
        cmocka_unit_test(one_phase_holds_for_all),
        cmocka_unit_test(speculation_cuts_in_whole_sequences),
        cmocka_unit_test(stop_needs_all_and_error_is_the_first),
        cmocka_unit_test(a_joiner_waits_for_the_next_step),
        cmocka_unit_test(a_bad_config_is_named),
        cmocka_unit_test(invariants_hold_for_every_small_case),
        cmocka_unit_test(nobody_starves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
