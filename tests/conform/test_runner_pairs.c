/* Pairs inside a runner's step: replay equals eager on every mix of ranks, rehearsals run no pair, and a pair broken or
 * astray in a first use is found and cleaned up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>
#include "epgraph/runner.h"
#include "support/ranks.h"

enum { HIDDEN = 16, TOKENS = 8, TOPK = 2, PAIRS = 3 };

typedef enum fault_kind { NONE, BREAK_WARMUP, BREAK_CAPTURE, LEAVE_OPEN, LEAVE_OPEN_CAPTURE, TO_LEGACY } fault_kind;

typedef struct rig {
    test_rank *self;
    epg_group *group;
    epg_runner *runner;
    uint32_t tokens;                 /* device memory on the host device */
    float rows[TOKENS][HIDDEN], out[TOKENS][HIDDEN];
    int32_t ids[TOKENS * TOPK];
    float weights[TOKENS * TOPK];
    fault_kind fault;
} rig;

static int leaves_open(const rig *r, const epg_step_call *call)
{
    return r->fault == LEAVE_OPEN || (r->fault == LEAVE_OPEN_CAPTURE && call->phase == EPG_PHASE_CAPTURE);
}

static epg_status one_pair(rig *r, const epg_step_call *call, epg_stream stream)
{
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    args.bucket = call->bucket;
    args.tokens = &r->tokens;
    args.rows = r->rows;
    args.topk_ids = r->ids;
    args.topk_weights = r->weights;
    epg_status status = epg_dispatch(r->group, &args, &view, stream);
    if (status != EPG_OK || leaves_open(r, call))
        return status;
    if ((r->fault == BREAK_WARMUP && call->phase == EPG_PHASE_WARMUP) ||
        (r->fault == BREAK_CAPTURE && call->phase == EPG_PHASE_CAPTURE))
        return EPG_ERR_FORMAT;
    return epg_combine(r->group, 0, view.rows, r->out, stream); /* identity experts: the rows are contiguous */
}

static epg_status pairs_step(void *ctx, const epg_step_call *call)
{
    rig *r = ctx;
    epg_stream stream = r->fault == TO_LEGACY ? EPG_STREAM_LEGACY : call->stream;
    for (int i = 0; i < PAIRS; i++) {
        epg_status status = one_pair(r, call, stream);
        if (status != EPG_OK || leaves_open(r, call))
            return status;
    }
    return EPG_OK;
}

static int rig_make(test_rank *self, rig *r, int probe)
{
    epg_group_options group = EPG_GROUP_OPTIONS_INIT;
    epg_segment segment = {pairs_step, r, 0, "pairs"};
    epg_runner_options options = EPG_RUNNER_OPTIONS_INIT;
    memset(r, 0, sizeof *r);
    r->self = self;
    group.experts = 4 * self->size;
    group.hidden = HIDDEN;
    group.topk = TOPK;
    group.max_tokens = TOKENS;
    group.layout = EPG_LAYOUT_CONTIGUOUS;
    RANK_OK(epg_group_create(self->team, &group, &r->group));
    options.segments = &segment;
    options.segment_count = 1;
    options.max_bucket = TOKENS;
    options.groups = &r->group;
    options.group_count = 1;
    options.probe = probe;
    RANK_OK(epg_runner_create(self->device, &options, &r->runner));
    return 0;
}

static int rig_free(test_rank *self, rig *r)
{
    RANK_OK(epg_team_barrier(self->team));
    epg_runner_destroy(r->runner);
    epg_group_destroy(r->group);
    return 0;
}

/* Whole numbers and weights that sum to 1 without rounding: what comes back is the input, bit for bit. */
static void fill_inputs(rig *r, uint32_t tokens, uint32_t step)
{
    uint32_t experts = 4 * r->self->size;
    r->tokens = tokens;
    for (uint32_t t = 0; t < TOKENS; t++) {
        for (uint32_t h = 0; h < HIDDEN; h++) {
            r->rows[t][h] = (float)(1000 * r->self->rank + 100 * step + 10 * t + h);
            r->out[t][h] = -1;
        }
        r->ids[t * TOPK] = (int32_t)((t + step) % experts);
        r->ids[t * TOPK + 1] = (int32_t)((t + step + 1 + r->self->rank) % experts);
        r->weights[t * TOPK] = 0.25f;
        r->weights[t * TOPK + 1] = 0.75f;
        if (r->ids[t * TOPK] == r->ids[t * TOPK + 1]) {
            r->ids[t * TOPK + 1] = -1;
            r->weights[t * TOPK] = 1;
        }
    }
}

static int step_and_check(test_rank *self, rig *r, uint32_t step)
{
    epg_runner_step run = EPG_RUNNER_STEP_INIT;
    epg_group_record record = EPG_GROUP_RECORD_INIT;
    uint32_t tokens = (step * 3 + self->rank) % (TOKENS + 1);
    fill_inputs(r, tokens, step);
    run.tokens = tokens;
    run.eager = (step + self->rank) % 3 == 0;
    run.stream = self->stream;
    RANK_OK(epg_runner_run(r->runner, &run));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_group_check(r->group, &record));
    RANK_CHECK(memcmp(r->out, r->rows, tokens * sizeof r->rows[0]) == 0, "step %u, %u tokens", step, tokens);
    RANK_CHECK(tokens == TOKENS || r->out[tokens][0] == -1, "step %u wrote beyond %u tokens", step, tokens);
    return 0;
}

static int mixed_steps(test_rank *self)
{
    rig *r = calloc(1, sizeof *r);
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    epg_runner_stats runs = EPG_RUNNER_STATS_INIT;
    enum { STEPS = 30 };
    RANK_CHECK(r && rig_make(self, r, 1) == 0, "rig");
    for (uint32_t step = 0; step < STEPS; step++)
        if (step_and_check(self, r, step))
            return 1;
    RANK_OK(epg_group_get_stats(r->group, &stats));
    RANK_CHECK(stats.pairs == STEPS * PAIRS, "%llu pairs", (unsigned long long)stats.pairs); /* rehearsals ran none */
    RANK_OK(epg_runner_get_stats(r->runner, &runs));
    RANK_CHECK(runs.replays + runs.eager == STEPS && runs.replays > 0 && runs.captures > 1, "runs");
    if (rig_free(self, r))
        return 1;
    free(r);
    return 0;
}

static void replay_equals_eager_on_any_mix(void **state)
{
    (void)state;
    assert_int_equal(run_ranks(1, 0, mixed_steps, NULL), 0);
    assert_int_equal(run_ranks(2, 0, mixed_steps, NULL), 0);
    assert_int_equal(run_ranks(4, 0, mixed_steps, NULL), 0);
}

static void replay_equals_eager_in_any_interleaving(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < simulated_seeds(20); seed++)
        assert_int_equal(run_ranks_simulated(seed % 2 ? 2 : 4, 0, mixed_steps, NULL, seed), 0);
}

static int broken_first_use(test_rank *self)
{
    rig *r = calloc(1, sizeof *r);
    epg_runner_step run = EPG_RUNNER_STEP_INIT;
    fault_kind fault = *(const fault_kind *)self->arg;
    RANK_CHECK(r && rig_make(self, r, 1) == 0, "rig");
    run.stream = self->stream;
    run.tokens = TOKENS;
    if (self->rank == 0) { /* one rank fails its first use; its peers need not know */
        r->fault = fault;
        epg_status status = epg_runner_run(r->runner, &run);
        RANK_CHECK(status == (fault >= LEAVE_OPEN ? EPG_ERR_STATE : EPG_ERR_FORMAT), "%s", epg_status_name(status));
        RANK_CHECK(strstr(epg_message(), "variant 0, bucket 8: ") != NULL, "message");
        RANK_CHECK(fault < LEAVE_OPEN || strstr(epg_message(), "combine send is missing"), "message");
        r->fault = NONE;
    }
    for (uint32_t step = 0; step < 6; step++)
        if (step_and_check(self, r, step))
            return 1;
    if (rig_free(self, r))
        return 1;
    free(r);
    return 0;
}

static void a_pair_broken_in_a_first_use_is_cleaned_up(void **state)
{
    (void)state;
    for (enum fault_kind fault = BREAK_WARMUP; fault <= LEAVE_OPEN_CAPTURE; fault++) {
        assert_int_equal(run_ranks(2, 0, broken_first_use, &fault), 0);
        for (uint64_t seed = 0; seed < simulated_seeds(5); seed++)
            assert_int_equal(run_ranks_simulated(2, 0, broken_first_use, &fault, seed), 0);
    }
}

static int stray_pairs(test_rank *self)
{
    rig *r = calloc(1, sizeof *r);
    epg_runner_step run = EPG_RUNNER_STEP_INIT;
    int probe = *(const int *)self->arg;
    RANK_CHECK(r && rig_make(self, r, probe) == 0, "rig");
    run.stream = self->stream;
    run.tokens = TOKENS;
    r->fault = TO_LEGACY;
    RANK_CHECK(epg_runner_run(r->runner, &run) == EPG_ERR_ESCAPED, "probe %d", probe);
    RANK_CHECK(strstr(epg_message(), probe ? "legacy stream" : "12 of 12 dispatch and combine operations"), "message");
    RANK_OK(epg_stream_synchronize(self->device, EPG_STREAM_LEGACY));
    r->fault = NONE;
    if (step_and_check(self, r, 1))
        return 1;
    if (rig_free(self, r))
        return 1;
    free(r);
    return 0;
}

static void pairs_on_the_legacy_stream_are_found(void **state)
{
    (void)state;
    for (int probe = 0; probe < 2; probe++)
        assert_int_equal(run_ranks(1, 0, stray_pairs, &probe), 0);
}

static int open_pair(test_rank *self)
{
    rig *r = calloc(1, sizeof *r);
    epg_runner_step run = EPG_RUNNER_STEP_INIT;
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    RANK_CHECK(r && rig_make(self, r, 1) == 0, "rig");
    run.stream = self->stream;
    for (int captured = 0; captured < 2; captured++) {
        RANK_OK(epg_dispatch_send(r->group, &args, self->stream));
        RANK_CHECK(epg_runner_run(r->runner, &run) == EPG_ERR_STATE, "captured %d", captured);
        RANK_CHECK(strstr(epg_message(), "dispatch recv is missing") != NULL, "message");
        RANK_OK(epg_pair_abandon(r->group, 0, self->stream));
        RANK_OK(epg_runner_run(r->runner, &run));
    }
    if (rig_free(self, r))
        return 1;
    free(r);
    return 0;
}

static void a_step_in_the_middle_of_a_pair_is_refused(void **state)
{
    (void)state;
    assert_int_equal(run_ranks(1, 0, open_pair, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replay_equals_eager_on_any_mix),
        cmocka_unit_test(replay_equals_eager_in_any_interleaving),
        cmocka_unit_test(a_pair_broken_in_a_first_use_is_cleaned_up),
        cmocka_unit_test(pairs_on_the_legacy_stream_are_found),
        cmocka_unit_test(a_step_in_the_middle_of_a_pair_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
