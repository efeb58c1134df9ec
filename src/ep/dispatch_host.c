/* Dispatch on the host device.
 *
 * A row travels as the caller gave it, or quantised to fp8 here; with scales, if it has any, right behind it.
 *
 * Slots come from a prefix sum in token order, positions from one in (source rank, slot) order: the same in both
 * forms and in any arrival order. The low-latency form sends a token as soon as it is routed and signals at the end;
 * the high-throughput form routes all tokens first, then fills one destination at a time, its own successor first so
 * that ranks do not all write to the same peer, and signals each as soon as its rows are there. */
#include "core/number_int.h"
#include "ep/lane_int.h"
#include "ep/quantise_int.h"

/* ---- send ---- */

typedef struct sender {
    epg__lane *lane;
    const epg_dispatch_args *user;
    uint32_t tokens;
    uint64_t bad_ids, dropped;
    int64_t bad_id;
} sender;

static int64_t id_at(const epg_dispatch_args *user, size_t index)
{
    return user->topk_type == EPG_INT64 ? ((const int64_t *)user->topk_ids)[index]
                                        : ((const int32_t *)user->topk_ids)[index];
}

/* Physical expert of a token's k-th choice; EPG_WIRE_NONE where it is not routed. An id out of range, and one that
 * names an expert of this token again, count as bad. */
static uint32_t expert_at(sender *s, const uint32_t *chosen, uint32_t token, uint32_t k)
{
    const epg_wire_geometry *g = &s->lane->wire->geometry;
    int64_t id = id_at(s->user, (size_t)token * g->topk + k);
    int32_t physical = id >= 0 && id < g->logical_experts ? s->lane->expert_map[id] : -1;
    int bad = id < -1 || id >= g->logical_experts || physical < -1 || physical >= (int64_t)g->experts;
    for (uint32_t before = 0; !bad && physical >= 0 && before < k; before++)
        bad = chosen[before] == (uint32_t)physical;
    if (bad) {
        if (s->bad_ids++ == 0)
            s->bad_id = id;
        return EPG_WIRE_NONE;
    }
    return physical < 0 ? EPG_WIRE_NONE : (uint32_t)physical;
}

/* The ranks of a token, ascending, each once. */
static uint32_t ranks_of(const epg__lane *lane, const uint32_t *chosen, uint32_t *ranks)
{
    uint32_t count = 0;
    for (uint32_t k = 0; k < lane->wire->geometry.topk; k++) {
        if (chosen[k] == EPG_WIRE_NONE)
            continue;
        uint32_t rank = chosen[k] / lane->local_experts, at = count;
        while (at > 0 && ranks[at - 1] > rank)
            at--;
        if (at > 0 && ranks[at - 1] == rank)
            continue;
        for (uint32_t i = count; i > at; i--)
            ranks[i] = ranks[i - 1];
        ranks[at] = rank;
        count++;
    }
    return count;
}

static void choose_experts(sender *s, uint32_t token, uint32_t *chosen)
{
    for (uint32_t k = 0; k < s->lane->wire->geometry.topk; k++)
        chosen[k] = expert_at(s, chosen, token, k);
}

/* Gives a token its slots. */
static void route(sender *s, uint32_t token, const uint32_t *chosen)
{
    epg__lane *lane = s->lane;
    uint32_t ranks[EPG_TOPK_MAX];
    uint32_t count = ranks_of(lane, chosen, ranks);
    epg__share *shares = lane->shares + (size_t)token * lane->fan;
    lane->share_count[token] = count;
    for (uint32_t i = 0; i < count; i++) {
        int fits = lane->sent[ranks[i]] < lane->wire->geometry.slots, alive = epg__rank_alive(lane, ranks[i]);
        s->dropped += alive && !fits;
        shares[i] = (epg__share){ranks[i], alive && fits ? lane->sent[ranks[i]]++ : EPG_WIRE_NONE};
    }
}

/* The row of a token as it travels. */
static const char *pack_row(const sender *s, uint32_t token)
{
    const epg_wire_layout *w = s->lane->wire;
    const epg_wire_geometry *g = &w->geometry;
    const char *rows = s->user->rows, *scales = s->user->scales;
    char *staged = s->lane->staged;
    if (g->row_type == EPG_FLOAT32 || g->row_type == EPG_BFLOAT16)
        return rows + (size_t)token * g->row_bytes;
    if (g->row_type == EPG_FLOAT8_E4M3 && s->user->input_type == EPG_BFLOAT16) {
        epg__quantise_row((const uint16_t *)rows + (size_t)token * g->hidden, g->hidden, (int)g->power_of_two,
                          (uint8_t *)staged, (float *)(staged + w->payload_bytes));
        return staged;
    }
    memcpy(staged, rows + (size_t)token * g->row_bytes, g->row_bytes);
    if (g->scale_bytes)
        memcpy(staged + w->payload_bytes, scales + (size_t)token * g->scale_bytes, g->scale_bytes);
    return staged;
}

static void send_row(const sender *s, uint32_t token, const uint32_t *chosen, epg__share share, const char *row)
{
    const epg__lane *lane = s->lane;
    const epg_wire_layout *w = lane->wire;
    char *there = epg__lane_at(w, lane->peers[share.rank], lane->number);
    size_t index = epg__slot_index(w, lane->pair->epoch & 1, lane->rank, share.slot);
    struct {
        epg_wire_meta head;
        epg_wire_route routes[EPG_TOPK_MAX];
    } meta;
    uint32_t count = 0;
    for (uint32_t k = 0; k < w->geometry.topk; k++) {
        if (chosen[k] == EPG_WIRE_NONE || chosen[k] / lane->local_experts != share.rank)
            continue;
        size_t at = (size_t)token * w->geometry.topk + k;
        meta.routes[count].expert = chosen[k] % lane->local_experts;
        meta.routes[count++].weight = s->user->topk_weights ? s->user->topk_weights[at] : 1.0f;
    }
    meta.head = (epg_wire_meta){token, count};
    EPG__NOTE(lane->sim, "of token %u to rank %u, slot %u, epoch %u", token, share.rank, share.slot, lane->pair->epoch);
    epg__meta_store(lane->sim, epg__meta_at(w, there, index), &meta, sizeof meta.head + count * sizeof *meta.routes);
    epg__rows_store(lane->sim, epg__row_at(w, there, index), row, w->row_bytes);
}

/* A rank that joins rehearses until it is admitted; a real pair before that is a mistake. */
static uint32_t is_rehearsed(const epg__lane *lane, const epg_wire_header *header)
{
    if (epg__word_load(lane->sim, &header->rehearsal))
        return 1;
    if (!epg__word_load(lane->sim, &header->outside))
        return 0;
    epg__record_failure(lane, EPG_ERR_STATE, EPG_OP_DISPATCH_SEND, lane->rank, 0, 0);
    return 1;
}

/* Opens the pair; 0 under rehearsal. */
static int open_pair(sender *s, int is_void)
{
    epg__lane *lane = s->lane;
    epg_wire_header *header = epg__header_of(lane, lane->rank);
    epg_wire_lane *own = (epg_wire_lane *)epg__own_lane(lane);
    uint32_t asked = is_void ? 0 : s->user->tokens ? epg__word_load(lane->sim, s->user->tokens) : s->user->bucket;

    *lane->pair = (epg__pair_state){lane->pair->epoch, 0, is_rehearsed(lane, header), 0};
    memset(lane->sent, 0, lane->ranks * sizeof *lane->sent);
    if (lane->pair->rehearsed)
        return 0;
    s->tokens = asked < s->user->bucket ? asked : s->user->bucket;
    lane->pair->epoch = ++own->epoch;
    lane->pair->tokens = s->tokens;
    if (*lane->entering)
        epg__admit_due(lane);
    if (asked > s->tokens) {
        epg__count(lane, EPG_COUNT_DROPPED_TOKENS, asked - s->tokens);
        epg__record_failure(lane, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_SEND, lane->rank, s->user->bucket, asked);
    }
    epg__count(lane, EPG_COUNT_PAIRS, 1);
    return 1;
}

static void close_send(const sender *s)
{
    const epg__lane *lane = s->lane;
    epg__count(lane, EPG_COUNT_BAD_IDS, s->bad_ids);
    epg__count(lane, EPG_COUNT_DROPPED_ROWS, s->dropped);
    if (s->bad_ids)
        epg__record_failure(lane, EPG_ERR_ROUTING, EPG_OP_DISPATCH_SEND, lane->rank,
                            lane->wire->geometry.logical_experts, (uint64_t)s->bad_id);
    if (s->dropped)
        epg__record_failure(lane, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_SEND, lane->rank, lane->wire->geometry.slots,
                            lane->wire->geometry.slots + s->dropped);
}

/* The rank to serve in turn i: all of them, this rank's successor first and itself last. */
static uint32_t turn(const epg__lane *lane, uint32_t i) { return (lane->rank + 1 + i) % lane->ranks; }

static void signal_rank(const epg__lane *lane, uint32_t peer)
{
    if (epg__rank_alive(lane, peer) || (*lane->entering && epg__is_invited(lane, peer)))
        epg__send_signal(lane, EPG_WIRE_DISPATCH, peer, lane->sent[peer], 0);
}

void epg__dispatch_send_ll_host(const void *raw)
{
    const epg__dispatch_send_args *args = raw;
    sender s = {args->lane, &args->user, 0, 0, 0, 0};
    uint32_t chosen[EPG_TOPK_MAX];
    if (!open_pair(&s, args->is_void))
        return;
    for (uint32_t t = 0; t < s.tokens; t++) {
        choose_experts(&s, t, chosen);
        route(&s, t, chosen);
        const epg__share *shares = s.lane->shares + (size_t)t * s.lane->fan;
        const char *row = s.lane->share_count[t] ? pack_row(&s, t) : NULL;
        for (uint32_t i = 0; i < s.lane->share_count[t]; i++)
            if (shares[i].slot != EPG_WIRE_NONE)
                send_row(&s, t, chosen, shares[i], row);
    }
    for (uint32_t i = 0; i < s.lane->ranks; i++)
        signal_rank(s.lane, turn(s.lane, i));
    close_send(&s);
}

/* Sends every row that goes to `peer`, found in the shares that routing left behind. */
static void send_rank(sender *s, uint32_t peer)
{
    const epg__lane *lane = s->lane;
    uint32_t chosen[EPG_TOPK_MAX];
    for (uint32_t t = 0; t < s->tokens; t++) {
        const epg__share *shares = lane->shares + (size_t)t * lane->fan;
        for (uint32_t i = 0; i < lane->share_count[t] && shares[i].rank <= peer; i++) {
            if (shares[i].rank != peer || shares[i].slot == EPG_WIRE_NONE)
                continue;
            choose_experts(s, t, chosen);
            send_row(s, t, chosen, shares[i], pack_row(s, t));
        }
    }
}

void epg__dispatch_send_ht_host(const void *raw)
{
    const epg__dispatch_send_args *args = raw;
    sender s = {args->lane, &args->user, 0, 0, 0, 0};
    uint32_t chosen[EPG_TOPK_MAX];
    if (!open_pair(&s, args->is_void))
        return;
    for (uint32_t t = 0; t < s.tokens; t++) {
        choose_experts(&s, t, chosen);
        route(&s, t, chosen);
    }
    close_send(&s); /* before choose_experts counts the same bad ids again */
    for (uint32_t i = 0; i < s.lane->ranks; i++) {
        uint32_t peer = turn(s.lane, i);
        send_rank(&s, peer);
        signal_rank(s.lane, peer);
    }
}

/* ---- recv ---- */

static uint32_t await_rows(const epg__lane *lane, uint32_t source)
{
    uint32_t count = 0, slots = lane->wire->geometry.slots;
    if (!epg__await_signal(lane, EPG_WIRE_DISPATCH, source, &count))
        return 0;
    return count < slots ? count : slots;
}

static epg_wire_meta *meta_of(const epg__lane *lane, uint32_t source, uint32_t slot)
{
    uint32_t epoch = lane->pair->epoch;
    epg_wire_meta *meta = epg__meta_at(lane->wire, epg__own_lane(lane),
                                       epg__slot_index(lane->wire, epoch & 1, source, slot));
    EPG__NOTE(lane->sim, "of rank %u, slot %u, epoch %u", source, slot, epoch);
    epg__data_look(lane->sim, "reads the meta", meta, lane->wire->meta_bytes);
    return meta;
}

/* Adds one source's rows to the experts' counts. */
static void count_source(const epg__lane *lane, uint32_t source)
{
    for (uint32_t slot = 0; slot < lane->received[source]; slot++) {
        epg_wire_meta *meta = meta_of(lane, source, slot);
        for (uint32_t k = 0; k < meta->count; k++)
            lane->counts[epg__routes_of(meta)[k].expert]++;
    }
}

/* Turns counts into first positions; returns the rows that do not fit. */
static uint64_t place_experts(const epg__lane *lane)
{
    uint64_t dropped = 0;
    uint32_t at = 0, total = 0;
    for (uint32_t e = 0; e < lane->local_experts; e++) {
        uint32_t room;
        if (lane->layout == EPG_LAYOUT_MASKED) {
            at = e * lane->rows_per_expert;
            room = lane->rows_per_expert;
        } else {
            at = (at + lane->row_align - 1) & ~(lane->row_align - 1);
            at = at < lane->row_capacity ? at : lane->row_capacity;
            room = lane->row_capacity - at;
        }
        uint32_t kept = lane->counts[e] < room ? lane->counts[e] : room;
        dropped += lane->counts[e] - kept;
        lane->counts[e] = kept;
        lane->offsets[e] = lane->cursor[e] = at;
        total += kept;
        at += kept;
    }
    lane->offsets[lane->local_experts] = lane->layout == EPG_LAYOUT_MASKED ? lane->row_capacity : at;
    *lane->total = total;
    return dropped;
}

/* Copies a received row's scales to those of position `at`, as the layout says. */
static void place_scales(const epg__lane *lane, uint32_t at, const char *scales)
{
    const epg__scale_place *p = &lane->scale_place;
    char *to = lane->expert_scales + at / p->group * p->expert + at % p->group * p->row;
    if (p->layout == EPG_SCALES_ROW_MAJOR) {
        epg__rows_load(lane->sim, to, scales, lane->wire->scale_bytes);
        return;
    }
    epg__data_look(lane->sim, "reads a row's scales", scales, p->blocks * sizeof(float));
    for (uint32_t b = 0; b < p->blocks; b++) {
        float scale = ((const float *)scales)[b];
        if (p->layout == EPG_SCALES_COLUMN_MAJOR)
            *(float *)(to + b * p->block) = scale;
        else
            to[b / 4 * p->block + b % 4] = (char)(epg__float_bits(scale) >> 23);
    }
}

/* Copies a received row to position `at`. */
static void copy_row(const epg__lane *lane, uint32_t at, size_t index)
{
    const epg_wire_layout *w = lane->wire;
    const char *row = epg__row_at(w, epg__own_lane(lane), index);
    epg__rows_load(lane->sim, lane->expert_rows + (size_t)at * w->payload_bytes, row, w->payload_bytes);
    if (lane->expert_scales)
        place_scales(lane, at, row + w->payload_bytes);
}

static void place_row(epg__lane *lane, uint32_t source, uint32_t slot)
{
    const epg_wire_layout *w = lane->wire;
    size_t index = epg__slot_index(w, lane->pair->epoch & 1, source, slot);
    epg_wire_meta *meta = meta_of(lane, source, slot);
    uint32_t *place = lane->place + ((size_t)source * w->geometry.slots + slot) * w->geometry.topk;
    for (uint32_t k = 0; k < meta->count; k++) {
        epg_wire_route r = epg__routes_of(meta)[k];
        uint32_t at = lane->cursor[r.expert];
        if (at == lane->offsets[r.expert] + lane->counts[r.expert]) {
            place[k] = EPG_WIRE_NONE;
            continue;
        }
        lane->cursor[r.expert]++;
        place[k] = at;
        lane->row_source[at] = source;
        lane->row_token[at] = meta->token;
        lane->row_weight[at] = r.weight;
        if (lane->layout == EPG_LAYOUT_IN_PLACE)
            lane->row_index[at] = (uint32_t)index;
        else
            copy_row(lane, at, index);
    }
}

static void finish_recv(epg__lane *lane)
{
    uint64_t wanted = 0;
    for (uint32_t e = 0; e < lane->local_experts; e++)
        wanted += lane->counts[e];
    uint64_t dropped = place_experts(lane);
    for (uint32_t source = 0; source < lane->ranks; source++)
        for (uint32_t slot = 0; slot < lane->received[source]; slot++)
            place_row(lane, source, slot);
    if (dropped) {
        epg__count(lane, EPG_COUNT_DROPPED_ROWS, dropped);
        epg__record_failure(lane, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_RECV, lane->rank, wanted - dropped, wanted);
    }
}

/* Empties the view; 0 under rehearsal. A void form waits all the same (what the reuse proof needs) and hands over
 * nothing. */
static int open_recv(epg__lane *lane)
{
    memset(lane->counts, 0, lane->local_experts * sizeof *lane->counts);
    memset(lane->received, 0, lane->ranks * sizeof *lane->received);
    return !lane->pair->rehearsed;
}

void epg__dispatch_recv_ll_host(const void *raw)
{
    const epg__half_args *args = raw;
    epg__lane *lane = args->lane;
    if (open_recv(lane)) {
        for (uint32_t source = 0; source < lane->ranks; source++)
            lane->received[source] = await_rows(lane, source);
        for (uint32_t source = 0; !args->is_void && source < lane->ranks; source++)
            count_source(lane, source);
    }
    if (args->is_void)
        memset(lane->received, 0, lane->ranks * sizeof *lane->received);
    finish_recv(lane);
}

void epg__dispatch_recv_ht_host(const void *raw)
{
    const epg__half_args *args = raw;
    epg__lane *lane = args->lane;
    if (open_recv(lane))
        for (uint32_t i = 0; i < lane->ranks; i++) { /* this rank's own rows last: they are there already */
            uint32_t source = turn(lane, i), count = await_rows(lane, source);
            lane->received[source] = args->is_void ? 0 : count;
            count_source(lane, source);
        }
    finish_recv(lane);
}
