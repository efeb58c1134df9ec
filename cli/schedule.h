/* One rank's requests: which are admitted, how far each has come, and which positions a step takes. Pure, and by
 * counts alone: what a step takes never depends on what an earlier one computed, so that the report of the next step
 * can be given while this one still runs.
 *
 * Request i belongs to rank i % ranks. A rank admits requests in order of arrival, at most `batch` at once. */
#ifndef CLI_SCHEDULE_H
#define CLI_SCHEDULE_H

#include "epgraph/epgraph.h"
#include "workload.h"

typedef struct schedule_slot {
    uint32_t request, position;
} schedule_slot;

typedef struct schedule_live {
    uint32_t request;
    uint32_t done;              /* positions taken by steps so far */
} schedule_live;

typedef struct schedule {
    const workload *load;
    uint32_t ranks, batch;
    uint32_t next;              /* this rank's first request that is not admitted; may be past the end */
    uint32_t live_count;
    uint32_t prefill_streak;
    schedule_live *live;        /* [batch], in order of admission */
} schedule;

/* 0, or -1 without memory. */
int schedule_create(schedule *own, const workload *load, uint32_t rank, uint32_t ranks, uint32_t batch);
void schedule_destroy(schedule *own);

/* Admits what has arrived by `clock_us`, then fills prefill_tokens, decode_tokens, prefill_streak and stop. */
void schedule_report(schedule *own, uint64_t clock_us, epg_step_report *report);

/* Takes what the plan says: fills slots[plan->tokens], returns how many it filled. */
uint32_t schedule_take(schedule *own, const epg_step_plan *plan, schedule_slot *slots);

/* Does the slot's output hold a generated token, and which (counted over all requests)? */
int schedule_generates(const workload *load, schedule_slot slot, uint64_t *token);

/* The step's clock: 20 ms after `clock_us`; where every rank was idle, the next arrival. The same on every rank. */
uint64_t schedule_clock(const workload *load, uint64_t clock_us, int all_idle);

#endif
