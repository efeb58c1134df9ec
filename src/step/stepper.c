/* The exchange of step reports: one all-gather, offered at begin and awaited at end. The decision is step_plan.c's.
 *
 * A bad report is sent all the same: every rank then gets the same EPG_ERR_INVALID, instead of one rank that leaves and
 * others that wait for it. */
#include <stdlib.h>
#include <string.h>
#include "epgraph/team.h"
#include "step/step_int.h"

struct epg_stepper {
    epg_team *team;
    epg_step_config config;
    uint32_t *buckets;        /* config.buckets points here */
    epg_step_report *reports; /* [team size] */
    epg_step_plan *plans;     /* [team size] */
    epg_member *members;      /* [team size], of the last plans */
    bool open;                /* between begin and end */
    bool planned;             /* plans and members are those of a step */
};

static epg_status fill_stepper(epg_stepper *stepper, const epg_step_config *config)
{
    uint32_t ranks = epg_team_size(stepper->team);
    stepper->buckets = epg__zalloc(config->bucket_count, sizeof *stepper->buckets, "the stepper's buckets");
    stepper->reports = epg__zalloc(ranks, sizeof *stepper->reports, "the stepper's reports");
    stepper->plans = epg__zalloc(ranks, sizeof *stepper->plans, "the stepper's plans");
    stepper->members = epg__zalloc(ranks, sizeof *stepper->members, "the stepper's members");
    if (!stepper->buckets || !stepper->reports || !stepper->plans || !stepper->members)
        return EPG_ERR_NO_MEMORY;
    memcpy(stepper->buckets, config->buckets, config->bucket_count * sizeof *stepper->buckets);
    stepper->config = *config;
    stepper->config.buckets = stepper->buckets;
    return EPG_OK;
}

epg_status epg_stepper_create(epg_team *team, const epg_step_config *config, epg_stepper **stepper)
{
    if (!team || !config || !stepper)
        return epg__fail(EPG_ERR_INVALID, "epg_stepper_create: %s is NULL",
                         !team ? "team" : !config ? "config" : "stepper");
    EPG_TRY(epg__step_config_check(config));
    epg_stepper *made = epg__zalloc(1, sizeof *made, "a stepper");
    if (!made)
        return EPG_ERR_NO_MEMORY;
    made->team = team;
    epg_status status = fill_stepper(made, config);
    if (status != EPG_OK) {
        epg_stepper_destroy(made);
        return status;
    }
    *stepper = made;
    return EPG_OK;
}

void epg_stepper_destroy(epg_stepper *stepper)
{
    if (!stepper)
        return;
    free(stepper->buckets);
    free(stepper->reports);
    free(stepper->plans);
    free(stepper->members);
    free(stepper);
}

epg_status epg_stepper_begin(epg_stepper *stepper, const epg_step_report *report)
{
    if (!stepper || !report)
        return epg__fail(EPG_ERR_INVALID, "epg_stepper_begin: %s is NULL", stepper ? "report" : "stepper");
    if (stepper->open)
        return epg__fail(EPG_ERR_STATE, "epg_stepper_begin was called twice without epg_stepper_end");
    epg_step_report mine = *report;
    mine.alive = 1; /* it answers */
    mine.incarnation = epg_team_incarnation(stepper->team);
    EPG_TRY(epg_team_allgather_begin(stepper->team, &mine, sizeof mine));
    stepper->open = true;
    return EPG_OK;
}

static epg_member member_of(const epg_step_plan *plan)
{
    uint32_t state = !plan->alive ? EPG_MEMBER_GONE : plan->join ? EPG_MEMBER_JOINS : EPG_MEMBER_STAYS;
    return (epg_member){plan->incarnation, state};
}

epg_status epg_stepper_end(epg_stepper *stepper, epg_step_plan *mine, epg_step_plan *all)
{
    if (!stepper || !mine)
        return epg__fail(EPG_ERR_INVALID, "epg_stepper_end: %s is NULL", stepper ? "mine" : "stepper");
    if (!stepper->open)
        return epg__fail(EPG_ERR_STATE, "epg_stepper_end was called without epg_stepper_begin");
    uint32_t ranks = epg_team_size(stepper->team);
    epg_status status = epg_team_allgather_end(stepper->team, stepper->reports);
    stepper->open = status == EPG_ERR_TIMEOUT; /* the all-gather is still open as well */
    stepper->planned = false;
    EPG_TRY(status);
    EPG_TRY(epg_step_plan_all(&stepper->config, stepper->reports, ranks, stepper->plans));
    for (uint32_t r = 0; r < ranks; r++)
        stepper->members[r] = member_of(&stepper->plans[r]);
    stepper->planned = true;
    *mine = stepper->plans[epg_team_rank(stepper->team)];
    if (all)
        memcpy(all, stepper->plans, ranks * sizeof *all);
    return EPG_OK;
}

epg_status epg_stepper_admission(const epg_stepper *stepper, epg_admission *admission)
{
    if (!stepper || !admission)
        return epg__fail(EPG_ERR_INVALID, "epg_stepper_admission: %s is NULL", stepper ? "admission" : "stepper");
    EPG__CHECK_SIZE(admission, sizeof *admission);
    if (!stepper->planned || stepper->plans[0].join_ranks == 0)
        return epg__fail(EPG_ERR_STATE, "%s", stepper->planned ? "no rank joins in this step" : "no step is planned");
    *admission = (epg_admission){sizeof *admission, epg_team_size(stepper->team), stepper->members,
                                 stepper->plans[0].join_epochs};
    return EPG_OK;
}
