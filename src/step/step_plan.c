/* What every rank runs this step: a pure function of all ranks' reports, so that all ranks compute the same plans.
 *
 * Words used here: a rank is *live* if it answered; a live rank that asks to join is not a *member* yet. A joining
 * rank sits this step out: it runs none of the step's pairs, although its plan names them like everybody's, and
 * counts for neither pairs, phase nor stop. It takes part from join_epochs on, each lane's first epoch after this step.
 *
 * Invariants: pairs, join, stop and error are the same in all plans; a rank with prefill and decode work runs each
 * again after a bounded number of steps. Prefill steps in a row are bounded by prefill_burst under either policy;
 * nothing bounds decode steps, because a rank with prompts waiting decodes only once its burst is over. */
#include <string.h>
#include "graph/buckets_int.h"
#include "step/step_int.h"

/* The report travels between ranks as it is. */
_Static_assert(sizeof(epg_step_report) == 28 + 8 * EPG_LANES_MAX, "epg_step_report has no padding");

static bool live(const epg_step_report *report) { return report->alive != 0; }
static bool member(const epg_step_report *report) { return report->alive != 0 && report->join == 0; }

epg_status epg__step_config_check(const epg_step_config *config)
{
    EPG__CHECK_SIZE(config, sizeof *config);
    if ((unsigned)config->policy > EPG_POLICY_ONE_PHASE)
        return epg__fail(EPG_ERR_INVALID, "config->policy is %d, which is no policy", (int)config->policy);
    if ((unsigned)config->mode > EPG_MODE_HT)
        return epg__fail(EPG_ERR_INVALID, "config->mode is %d, which is no mode", (int)config->mode);
    if (config->chunk < 1)
        return epg__fail(EPG_ERR_INVALID, "config->chunk is 0; it is at least 1");
    if (config->prefill_burst < 1)
        return epg__fail(EPG_ERR_INVALID, "config->prefill_burst is 0; it is at least 1");
    if (config->lanes < 1 || config->lanes > EPG_LANES_MAX)
        return epg__fail(EPG_ERR_INVALID, "config->lanes is %u; it is 1 to %d", config->lanes, EPG_LANES_MAX);
    return epg__buckets_check(config->buckets, config->bucket_count);
}

static epg_status check_report(const epg_step_config *config, const epg_step_report *report, uint32_t rank)
{
    uint64_t per_sequence = 1 + (uint64_t)report->spec_tokens;
    if (report->decode_tokens > 0 && per_sequence > config->buckets[config->bucket_count - 1])
        return epg__fail(EPG_ERR_INVALID,
                         "rank %u decodes %llu tokens per sequence, which is above the largest bucket, %u", rank,
                         (unsigned long long)per_sequence, config->buckets[config->bucket_count - 1]);
    if (report->decode_tokens * per_sequence > UINT32_MAX)
        return epg__fail(EPG_ERR_INVALID, "rank %u reports %u sequences of %llu tokens, more than 32 bits hold", rank,
                         report->decode_tokens, (unsigned long long)per_sequence);
    for (uint32_t lane = config->lanes; lane < EPG_LANES_MAX; lane++)
        if (report->pairs[lane] > 0)
            return epg__fail(EPG_ERR_INVALID, "rank %u wants %u pairs in lane %u; there are %u lanes", rank,
                             report->pairs[lane], lane, config->lanes);
    return EPG_OK;
}

/* ---- what all ranks share ---- */

/* The latest epoch of a lane on any member. Epochs wrap: of two, the later is ahead by less than half of the range. */
static uint32_t latest_epoch(const epg_step_report *reports, uint32_t ranks, uint32_t lane)
{
    uint32_t epoch = 0;
    bool any = false;
    for (uint32_t r = 0; r < ranks; r++) {
        if (!member(&reports[r]))
            continue;
        if (!any || (int32_t)(reports[r].epochs[lane] - epoch) > 0)
            epoch = reports[r].epochs[lane];
        any = true;
    }
    return epoch;
}

static void note_join(const epg_step_config *config, const epg_step_report *reports, uint32_t ranks,
                      epg_step_plan *shared)
{
    for (uint32_t r = 0; r < ranks; r++)
        shared->join_ranks += live(&reports[r]) && reports[r].join;
    for (uint32_t lane = 0; shared->join_ranks > 0 && lane < config->lanes; lane++)
        shared->join_epochs[lane] = latest_epoch(reports, ranks, lane) + shared->pairs[lane] + 1;
}

static void plan_shared(const epg_step_config *config, const epg_step_report *reports, uint32_t ranks,
                        epg_step_plan *shared)
{
    uint32_t members = 0, stops = 0;
    memset(shared, 0, sizeof *shared);
    for (uint32_t r = 0; r < ranks; r++) {
        if (live(&reports[r]) && reports[r].error != 0 && shared->error == 0) {
            shared->error = reports[r].error;
            shared->error_rank = r;
        }
        if (!member(&reports[r]))
            continue;
        members++;
        stops += reports[r].stop != 0;
        for (uint32_t lane = 0; lane < config->lanes; lane++)
            if (reports[r].pairs[lane] > shared->pairs[lane])
                shared->pairs[lane] = reports[r].pairs[lane];
    }
    shared->stop = members > 0 && stops == members;
    note_join(config, reports, ranks, shared);
}

/* One phase for all: prefill while any rank has a prompt and none has used up its burst, or where none could decode. */
static bool all_prefill(const epg_step_config *config, const epg_step_report *reports, uint32_t ranks)
{
    bool prefill = false, decode = false;
    uint32_t streak = 0;
    for (uint32_t r = 0; r < ranks; r++) {
        if (!member(&reports[r]))
            continue;
        prefill |= reports[r].prefill_tokens > 0;
        decode |= reports[r].decode_tokens > 0;
        if (reports[r].prefill_streak > streak)
            streak = reports[r].prefill_streak;
    }
    return prefill && (streak < config->prefill_burst || !decode);
}

/* ---- one rank ---- */

static epg_step_phase mixed_phase(const epg_step_config *config, const epg_step_report *report)
{
    if (report->prefill_tokens > 0 &&
        (report->decode_tokens == 0 || report->prefill_streak < config->prefill_burst))
        return EPG_STEP_PREFILL;
    return report->decode_tokens > 0 ? EPG_STEP_DECODE : EPG_STEP_IDLE;
}

static epg_step_phase one_phase(const epg_step_report *report, bool prefill)
{
    if (prefill)
        return report->prefill_tokens > 0 ? EPG_STEP_PREFILL : EPG_STEP_IDLE;
    return report->decode_tokens > 0 ? EPG_STEP_DECODE : EPG_STEP_IDLE;
}

/* Whole sequences, as many as the largest bucket holds. check_report has seen that one does fit. */
static uint32_t decode_tokens(const epg_step_config *config, const epg_step_report *report)
{
    uint32_t per_sequence = 1 + report->spec_tokens;
    uint32_t most = config->buckets[config->bucket_count - 1] / per_sequence;
    return per_sequence * (report->decode_tokens < most ? report->decode_tokens : most);
}

static epg_status plan_rank(const epg_step_config *config, const epg_step_report *report, epg_step_plan *plan)
{
    if (plan->phase == EPG_STEP_PREFILL) {
        plan->tokens = report->prefill_tokens < config->chunk ? report->prefill_tokens : config->chunk;
        plan->bucket = plan->tokens;
    } else {
        plan->tokens = plan->phase == EPG_STEP_DECODE ? decode_tokens(config, report) : 0;
        EPG_TRY(epg__buckets_find(config->buckets, config->bucket_count, plan->tokens, &plan->bucket));
    }
    plan->mode = config->mode;
    if (plan->mode == EPG_MODE_AUTO)
        plan->mode = plan->bucket <= config->ll_max_tokens ? EPG_MODE_LL : EPG_MODE_HT;
    return EPG_OK;
}

epg_status epg_step_plan_all(const epg_step_config *config, const epg_step_report *reports, uint32_t ranks,
                             epg_step_plan *plans)
{
    if (!config || !reports || !plans)
        return epg__fail(EPG_ERR_INVALID, "epg_step_plan_all: %s is NULL",
                         !config ? "config" : !reports ? "reports" : "plans");
    EPG_TRY(epg__step_config_check(config));
    for (uint32_t r = 0; r < ranks; r++)
        if (live(&reports[r]))
            EPG_TRY(check_report(config, &reports[r], r));

    epg_step_plan shared;
    plan_shared(config, reports, ranks, &shared);
    bool prefill = config->policy == EPG_POLICY_ONE_PHASE && all_prefill(config, reports, ranks);
    for (uint32_t r = 0; r < ranks; r++) {
        plans[r] = shared;
        plans[r].alive = live(&reports[r]);
        plans[r].join = live(&reports[r]) && reports[r].join != 0;
        plans[r].incarnation = reports[r].incarnation;
        if (!member(&reports[r]))
            plans[r].phase = EPG_STEP_IDLE;
        else if (config->policy == EPG_POLICY_ONE_PHASE)
            plans[r].phase = one_phase(&reports[r], prefill);
        else
            plans[r].phase = mixed_phase(config, &reports[r]);
        EPG_TRY(plan_rank(config, &reports[r], &plans[r]));
    }
    return EPG_OK;
}
