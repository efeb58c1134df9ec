/* One rank's requests, step by step. */
#include <stdlib.h>
#include "schedule.h"

#define STEP_US 20000

int schedule_create(schedule *own, const workload *load, uint32_t rank, uint32_t ranks, uint32_t batch)
{
    *own = (schedule){.load = load, .ranks = ranks, .batch = batch, .next = rank};
    own->live = calloc(batch, sizeof(*own->live));
    return own->live ? 0 : -1;
}

void schedule_destroy(schedule *own)
{
    free(own->live);
    own->live = NULL;
}

static void admit(schedule *own, uint64_t clock_us)
{
    const workload *load = own->load;
    while (own->live_count < own->batch && own->next < load->count &&
           load->requests[own->next].arrival_us <= clock_us) {
        own->live[own->live_count++] = (schedule_live){own->next, 0};
        own->next += own->ranks;
    }
}

void schedule_report(schedule *own, uint64_t clock_us, epg_step_report *report)
{
    admit(own, clock_us);
    report->prefill_tokens = report->decode_tokens = 0;
    for (uint32_t i = 0; i < own->live_count; i++) {
        const schedule_live *live = &own->live[i];
        uint32_t prompt = own->load->requests[live->request].prompt;
        if (live->done < prompt)
            report->prefill_tokens += prompt - live->done;
        else
            report->decode_tokens++;
    }
    report->prefill_streak = own->prefill_streak;
    report->stop = !own->live_count && own->next >= own->load->count;
}

/* Drops the sequences that have no position left, keeping the order of the others. */
static void retire(schedule *own)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < own->live_count; i++) {
        schedule_live live = own->live[i];
        if (live.done < workload_positions(&own->load->requests[live.request]))
            own->live[kept++] = live;
    }
    own->live_count = kept;
}

uint32_t schedule_take(schedule *own, const epg_step_plan *plan, schedule_slot *slots)
{
    int prefill = plan->phase == EPG_STEP_PREFILL;
    uint32_t taken = 0, most = plan->phase == EPG_STEP_IDLE ? 0 : plan->tokens;
    for (uint32_t i = 0; i < own->live_count && taken < most; i++) {
        schedule_live *live = &own->live[i];
        uint32_t prompt = own->load->requests[live->request].prompt;
        if (prefill != (live->done < prompt))
            continue;
        uint32_t end = prefill ? prompt : live->done + 1;
        while (live->done < end && taken < most)
            slots[taken++] = (schedule_slot){live->request, live->done++};
    }
    own->prefill_streak = prefill ? own->prefill_streak + 1 : 0;
    retire(own);
    return taken;
}

int schedule_generates(const workload *load, schedule_slot slot, uint64_t *token)
{
    const workload_request *request = &load->requests[slot.request];
    if (slot.position + 1 < request->prompt || !request->generate)
        return 0;
    *token = request->first_token + (slot.position + 1 - request->prompt);
    return 1;
}

uint64_t schedule_clock(const workload *load, uint64_t clock_us, int all_idle)
{
    if (!all_idle)
        return clock_us + STEP_US;
    uint32_t low = 0, high = load->count; /* the first request that arrives later */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (load->requests[middle].arrival_us > clock_us)
            high = middle;
        else
            low = middle + 1;
    }
    return low < load->count ? load->requests[low].arrival_us : clock_us + STEP_US;
}
