/* Combine on the host device.
 *
 * A partial sum adds a token's expert rows in top-k order, in float32, and is rounded to the combine type; the owner
 * adds partial sums in rank order, in float32, and rounds again. Both forms do the same additions in the same order.
 * They differ in the order in which sources are served: rank order, or the own successor first. */
#include "core/number_int.h"
#include "ep/lane_int.h"

static void add_part(const epg__lane *lane, const void *row, float weight, uint32_t at, uint32_t end)
{
    float *sum = lane->sum;
    if (lane->wire->geometry.row_type == EPG_FLOAT32)
        for (uint32_t i = at; i < end; i++)
            sum[i] += weight * ((const float *)row)[i];
    else
        for (uint32_t i = at; i < end; i++)
            sum[i] += weight * epg__bf16_to_float(((const uint16_t *)row)[i]);
}

/* `sim`: NULL for a row in memory that no other rank writes. */
static void add_row(const epg__lane *lane, epg__simulator *sim, const char *row, float weight)
{
    uint32_t hidden = lane->wire->geometry.hidden, stride = epg__rows_stride(sim, hidden);
    size_t width = lane->wire->return_bytes / hidden;
    for (uint32_t at = 0, end; at < hidden; at = end) {
        end = hidden - at < stride ? hidden : at + stride;
        epg__data_look(sim, "reads a returned row", row + at * width, (end - at) * width);
        add_part(lane, row, weight, at, end);
    }
}

static void sum_to_bf16(const float *sum, uint16_t *to, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        to[i] = epg__float_to_bf16(sum[i]);
}

/* Stores the sum where another rank reads it. */
static void return_sum(const epg__lane *lane, char *row)
{
    uint32_t hidden = lane->wire->geometry.hidden;
    uint16_t part[128];
    if (lane->wire->geometry.row_type == EPG_FLOAT32) {
        epg__rows_store(lane->sim, row, lane->sum, hidden * sizeof(float));
        return;
    }
    for (uint32_t at = 0, count; at < hidden; at += count) {
        count = hidden - at < EPG__COUNT_OF(part) ? hidden - at : (uint32_t)EPG__COUNT_OF(part);
        sum_to_bf16(lane->sum + at, part, count);
        epg__rows_store(lane->sim, row + at * sizeof *part, part, count * sizeof *part);
    }
}

/* Stores the sum in this rank's own output. */
static void hand_out_sum(const epg__lane *lane, void *row)
{
    uint32_t hidden = lane->wire->geometry.hidden;
    if (lane->wire->geometry.row_type == EPG_FLOAT32)
        memcpy(row, lane->sum, hidden * sizeof(float));
    else
        sum_to_bf16(lane->sum, row, hidden);
}

static void clear_sum(const epg__lane *lane) { memset(lane->sum, 0, lane->wire->geometry.hidden * sizeof(float)); }

/* ---- send ---- */

static void return_row(const epg__lane *lane, const char *expert_rows, uint32_t source, uint32_t slot)
{
    const epg_wire_layout *w = lane->wire;
    uint32_t bank = lane->pair->epoch & 1, missing = 0;
    const epg_wire_meta *meta = epg__meta_at(w, epg__own_lane(lane), epg__slot_index(w, bank, source, slot));
    const epg_wire_route *routes = (const epg_wire_route *)(meta + 1);
    const uint32_t *place = lane->place + ((size_t)source * w->geometry.slots + slot) * w->geometry.topk;
    char *there = epg__lane_at(w, lane->peers[source], lane->number);
    size_t index = epg__slot_index(w, bank, lane->rank, slot);

    EPG__NOTE(lane->sim, "to rank %u, slot %u, epoch %u", source, slot, lane->pair->epoch);
    epg__data_look(lane->sim, "reads the meta", meta, w->meta_bytes);
    clear_sum(lane);
    for (uint32_t k = 0; k < meta->count; k++) {
        if (place[k] == EPG_WIRE_NONE)
            missing = 1;
        else
            add_row(lane, NULL, expert_rows + (size_t)place[k] * w->return_bytes, routes[k].weight);
    }
    epg__mark_store(lane->sim, epg__mark_at(w, there, index), missing);
    return_sum(lane, epg__return_at(w, there, index));
}

static void return_rank(const epg__half_args *args, uint32_t source)
{
    const epg__lane *lane = args->lane;
    if (!epg__rank_alive(lane, source))
        return;
    for (uint32_t slot = 0; !args->is_void && slot < lane->received[source]; slot++)
        return_row(lane, args->expert_rows, source, slot);
    epg__send_signal(lane, EPG_WIRE_COMBINE, source, args->is_void ? 0 : lane->received[source], args->is_void);
}

void epg__combine_send_ll_host(const void *raw)
{
    const epg__half_args *args = raw;
    if (args->lane->pair->rehearsed)
        return;
    for (uint32_t source = 0; source < args->lane->ranks; source++)
        return_rank(args, source);
}

void epg__combine_send_ht_host(const void *raw)
{
    const epg__half_args *args = raw;
    const epg__lane *lane = args->lane;
    if (lane->pair->rehearsed)
        return;
    for (uint32_t i = 0; i < lane->ranks; i++)
        return_rank(args, (lane->rank + 1 + i) % lane->ranks);
}

/* ---- recv ---- */

/* Sums one token's shares; 1 if one is missing. */
static uint32_t collect_token(const epg__lane *lane, uint32_t token, void *out)
{
    const epg_wire_layout *w = lane->wire;
    const epg__share *shares = lane->shares + (size_t)token * lane->fan;
    uint32_t bank = lane->pair->epoch & 1, missing = 0;
    char *own = epg__own_lane(lane);
    clear_sum(lane);
    for (uint32_t i = 0; i < lane->share_count[token]; i++) {
        if (shares[i].slot == EPG_WIRE_NONE || !lane->returned[shares[i].rank]) {
            missing = 1;
            continue;
        }
        size_t index = epg__slot_index(w, bank, shares[i].rank, shares[i].slot);
        EPG__NOTE(lane->sim, "of rank %u, slot %u, epoch %u", shares[i].rank, shares[i].slot, lane->pair->epoch);
        epg__data_look(lane->sim, "reads a mark", epg__mark_at(w, own, index), sizeof(uint32_t));
        missing |= *epg__mark_at(w, own, index);
        add_row(lane, lane->sim, epg__return_at(w, own, index), 1.0f);
    }
    hand_out_sum(lane, (char *)out + (size_t)token * w->return_bytes);
    return missing;
}

void epg__combine_recv_host(const void *raw)
{
    const epg__half_args *args = raw;
    epg__lane *lane = args->lane;
    uint64_t flagged = 0;
    if (lane->pair->rehearsed)
        return;
    for (uint32_t peer = 0; peer < lane->ranks; peer++) {
        uint32_t count;
        lane->returned[peer] =
            lane->sent[peer] > 0 && epg__await_signal(lane, EPG_WIRE_COMBINE, peer, &count) && count == lane->sent[peer];
    }
    for (uint32_t t = 0; !args->is_void && t < lane->pair->tokens; t++) {
        lane->flags[t] = collect_token(lane, t, args->out);
        flagged += lane->flags[t];
    }
    epg__count(lane, EPG_COUNT_FLAGGED, flagged);
}
