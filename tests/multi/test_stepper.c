/* The exchange of step reports between ranks: every rank plans the same, and a bad report or an abort reaches all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>
#include "epgraph/step.h"
#include "support/ranks.h"

enum { RANKS_MOST = 8 };

static const uint32_t buckets[] = {1, 2, 4, 8, 16};

static epg_step_config config_of(void)
{
    epg_step_config config = EPG_STEP_CONFIG_INIT;
    config.buckets = buckets;
    config.bucket_count = 5;
    config.chunk = 10;
    return config;
}

/* Rank r has 7r prompt tokens and 20 - r sequences to go; plans of a run are compared with epg_step_plan_all's. */
static int drain(test_rank *self)
{
    epg_step_config config = config_of();
    epg_stepper *stepper = NULL;
    epg_step_report report = {.prefill_tokens = 7 * self->rank, .decode_tokens = 20 - self->rank,
                              .pairs = {1 + self->rank}};
    epg_step_plan mine, all[RANKS_MOST];
    int steps = 0;
    RANK_OK(epg_stepper_create(self->team, &config, &stepper));
    do {
        report.stop = report.prefill_tokens == 0 && report.decode_tokens == 0;
        RANK_OK(epg_stepper_begin(stepper, &report));
        RANK_OK(epg_stepper_end(stepper, &mine, all));
        RANK_CHECK(memcmp(&mine, &all[self->rank], sizeof mine) == 0, "own plan");
        RANK_CHECK(mine.pairs[0] == self->size, "%u pairs", mine.pairs[0]);
        for (uint32_t r = 0; r < self->size; r++)
            RANK_CHECK(all[r].stop == mine.stop, "rank %u stops apart", r);
        if (mine.phase == EPG_STEP_PREFILL)
            report.prefill_tokens -= mine.tokens;
        if (mine.phase == EPG_STEP_DECODE)
            report.decode_tokens -= mine.tokens;
        report.prefill_streak = mine.phase == EPG_STEP_PREFILL ? report.prefill_streak + 1 : 0;
        RANK_CHECK(++steps < 1000, "no end");
    } while (!mine.stop);
    RANK_CHECK(report.prefill_tokens == 0 && report.decode_tokens == 0, "work is left");
    epg_stepper_destroy(stepper);
    return 0;
}

static void all_ranks_stop_at_once_with_nothing_left(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= RANKS_MOST; ranks *= 2)
        assert_int_equal(run_ranks_both(ranks, 0, drain, NULL, 20), 0);
}

static int bad_report(test_rank *self)
{
    epg_step_config config = config_of();
    epg_stepper *stepper = NULL;
    epg_step_report report = {.decode_tokens = 1, .spec_tokens = self->rank == 1 ? 99 : 0};
    epg_step_plan mine;
    RANK_OK(epg_stepper_create(self->team, &config, &stepper));
    RANK_OK(epg_stepper_begin(stepper, &report));
    RANK_CHECK(epg_stepper_end(stepper, &mine, NULL) == EPG_ERR_INVALID, "end");
    RANK_CHECK(strstr(epg_message(), "rank 1") != NULL, "message");
    report.spec_tokens = 0; /* the stepper goes on */
    RANK_OK(epg_stepper_begin(stepper, &report));
    RANK_CHECK(epg_stepper_begin(stepper, &report) == EPG_ERR_STATE, "begin twice");
    RANK_OK(epg_stepper_end(stepper, &mine, NULL));
    RANK_CHECK(mine.phase == EPG_STEP_DECODE, "phase %d", (int)mine.phase);
    RANK_CHECK(epg_stepper_end(stepper, &mine, NULL) == EPG_ERR_STATE, "end twice");
    epg_stepper_destroy(stepper);
    return 0;
}

static void a_bad_report_is_refused_on_every_rank(void **state)
{
    (void)state;
    assert_int_equal(run_ranks_both(3, 0, bad_report, NULL, 20), 0);
}

static int absent_rank(test_rank *self)
{
    epg_step_config config = config_of();
    epg_stepper *stepper = NULL;
    epg_step_report report = {.decode_tokens = 1};
    epg_step_plan mine;
    RANK_OK(epg_stepper_create(self->team, &config, &stepper));
    if (self->rank != 2) {
        RANK_OK(epg_stepper_begin(stepper, &report));
        epg_status status = epg_stepper_end(stepper, &mine, NULL);
        RANK_CHECK(status == EPG_ERR_TIMEOUT || status == EPG_ERR_ABORTED, "%s", epg_status_name(status));
    }
    epg_stepper_destroy(stepper);
    return 0;
}

static void an_absent_rank_is_a_timeout(void **state)
{
    (void)state;
    assert_int_equal(run_ranks_both(3, 200, absent_rank, NULL, 20), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_ranks_stop_at_once_with_nothing_left),
        cmocka_unit_test(a_bad_report_is_refused_on_every_rank),
        cmocka_unit_test(an_absent_rank_is_a_timeout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
