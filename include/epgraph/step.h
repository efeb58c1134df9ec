/* The step coordinator: what each rank runs this step, in a process that prefills and decodes at once.
 *
 * Ranks must agree on one thing only, the number of pairs per lane. Each reports what it has to do; one small
 * all-gather carries the reports; a pure function of all of them gives every rank's plan, so that all ranks compute
 * the same. */
#ifndef EPGRAPH_STEP_H
#define EPGRAPH_STEP_H

#include <stdint.h>
#include "epgraph/group.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum epg_step_policy {
    EPG_POLICY_MIXED = 0,     /* each rank runs what it has */
    EPG_POLICY_ONE_PHASE = 1  /* while any rank prefills, no rank decodes: what other engines do, for comparison */
} epg_step_policy;

typedef struct epg_step_config {
    uint32_t size;
    epg_step_policy policy;
    uint32_t chunk;            /* most prefill tokens of a rank in one step, at least 1 */
    uint32_t prefill_burst;    /* prefill steps in a row while the same rank has tokens to decode; at least 1 */
    uint32_t ll_max_tokens;    /* automatic mode: low-latency up to this many tokens */
    epg_mode mode;             /* EPG_MODE_AUTO, or one mode for all */
    const uint32_t *buckets;   /* ascending; decode is padded up to one of them */
    uint32_t bucket_count;
    uint32_t lanes;
} epg_step_config;
#define EPG_STEP_CONFIG_INIT {sizeof(epg_step_config), EPG_POLICY_MIXED, 256, 2, 128, EPG_MODE_AUTO, NULL, 0, 1}

/* What one rank has. Fixed-width: it travels between ranks. */
typedef struct epg_step_report {
    uint32_t prefill_tokens;   /* prompt tokens waiting */
    uint32_t decode_tokens;    /* sequences that need their next token */
    uint32_t spec_tokens;      /* speculative tokens beside each of those: decode_tokens * (1 + spec_tokens) run */
    uint32_t prefill_streak;   /* prefill steps in a row that this rank ran up to now */
    uint32_t pairs[EPG_LANES_MAX]; /* pairs this rank wants in each lane of a step */
    uint32_t epochs[EPG_LANES_MAX]; /* pairs enqueued so far, as each lane's epoch counts them: first_epoch and on. A
                                       rank that has joined counts on from join_epochs - 1 */
    uint32_t incarnation;      /* filled in by the stepper: epg_team_incarnation */
    uint16_t stop;             /* 1: nothing left to do, and none will come */
    uint16_t error;            /* an epg_status that ends the run, 0 else */
    uint16_t join;             /* 1: this rank asks to take part again; it runs none of this step's pairs */
    uint16_t alive;            /* 1; 0 in the report of a rank that did not answer */
} epg_step_report;

typedef enum epg_step_phase { EPG_STEP_IDLE = 0, EPG_STEP_DECODE = 1, EPG_STEP_PREFILL = 2 } epg_step_phase;

/* What one rank runs. */
typedef struct epg_step_plan {
    epg_step_phase phase;      /* idle: replay the smallest bucket with no tokens */
    epg_mode mode;             /* LL or HT, never AUTO */
    uint32_t tokens;
    uint32_t bucket;           /* decode and idle: the bucket replayed. Prefill: the tokens */
    uint32_t pairs[EPG_LANES_MAX]; /* the same on every rank: the most any rank wants */
    uint32_t join_epochs[EPG_LANES_MAX]; /* where join_ranks is not 0: each lane's first epoch after this step, at which
                                            they take part */
    uint32_t join_ranks;       /* how many ask to */
    uint16_t stop;             /* 1 on all ranks at once: every live rank asked for it */
    uint16_t error;            /* the first rank's error, in rank order; error_rank says whose */
    uint32_t error_rank;
    uint32_t incarnation;      /* of the rank whose plan this is, as it reported */
    uint16_t alive;            /* 1: that rank answered */
    uint16_t join;             /* 1: it is one of join_ranks */
} epg_step_plan;

/* Pure: no state, no clock. plans[r] is rank r's. EPG_ERR_INVALID names a bad config field or report. A decode that
 * exceeds the largest bucket is cut to it. */
EPG_API epg_status epg_step_plan_all(const epg_step_config *config, const epg_step_report *reports, uint32_t ranks,
                                     epg_step_plan *plans);

/* The exchange. begin offers this rank's report at once (so that it overlaps the step that is running); end waits for
 * the others and plans. */
typedef struct epg_stepper epg_stepper;
EPG_API epg_status epg_stepper_create(epg_team *team, const epg_step_config *config, epg_stepper **stepper);
EPG_API void epg_stepper_destroy(epg_stepper *stepper);
EPG_API epg_status epg_stepper_begin(epg_stepper *stepper, const epg_step_report *report);

/* `mine` gets this rank's plan; `all`, where not NULL, every rank's ([team size]). After EPG_ERR_TIMEOUT, which names
 * the ranks that did not report, the exchange is still open: retire them (epg_team_retire) and call it again. */
EPG_API epg_status epg_stepper_end(epg_stepper *stepper, epg_step_plan *mine, epg_step_plan *all);

/* What the last plans say to epg_group_admit, where join_ranks is not 0. The arrays last until the next
 * epg_stepper_end. */
EPG_API epg_status epg_stepper_admission(const epg_stepper *stepper, epg_admission *admission);

#ifdef __cplusplus
}
#endif
#endif
