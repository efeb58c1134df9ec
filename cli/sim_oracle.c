/* The oracle of `epgraph simulate`: naive on purpose, in the order in which the documentation says things happen. */
#include <string.h>
#include "sim_oracle.h"
#include "sim_rows.h"

/* ---- routing ---- */

/* What one choice means; a bad one counts and means nothing. */
static int32_t physical_of(const sim_program *p, uint32_t map, const int64_t *ids, const int32_t *chosen, uint32_t k,
                           int *bad)
{
    *bad = ids[k] < -1 || ids[k] >= (int64_t)p->shape.logical;
    if (*bad || ids[k] == -1)
        return -1;
    int32_t physical = sim_mapped(p, map, (uint32_t)ids[k]);
    for (uint32_t before = 0; before < k && physical >= 0; before++)
        if (chosen[before] == physical) {
            *bad = 1;
            return -1;
        }
    return physical;
}

static void choose(const sim_program *p, uint32_t rank, uint32_t pair, uint32_t token, oracle_send *send)
{
    int64_t ids[SIM_TOPK];
    sim_ids(p, rank, pair, token, ids);
    for (uint32_t k = 0; k < p->shape.topk; k++) {
        int bad;
        send->chosen[token][k] = physical_of(p, p->part[rank][pair].map, ids, send->chosen[token], k, &bad);
        if (bad && send->bad_ids++ == 0)
            send->first_bad = ids[k];
    }
}

static int goes_to(const sim_program *p, const oracle_send *send, uint32_t token, uint32_t rank)
{
    for (uint32_t k = 0; k < p->shape.topk; k++)
        if (send->chosen[token][k] >= 0 && (uint32_t)send->chosen[token][k] / p->shape.experts == rank)
            return 1;
    return 0;
}

void oracle_route(const sim_program *p, uint32_t rank, uint32_t pair, oracle_send *send)
{
    const sim_part *part = &p->part[rank][pair];
    memset(send, 0, sizeof *send);
    send->tokens = sim_tokens_sent(part);
    if (part->how != SIM_FILL && part->how != SIM_FILL_VOID)
        send->dropped_tokens = part->tokens - send->tokens;
    for (uint32_t t = 0; t < send->tokens; t++) {
        choose(p, rank, pair, t, send);
        for (uint32_t q = 0; q < p->shape.ranks; q++) {
            send->slot[t][q] = ORACLE_NOT_SENT;
            if (!goes_to(p, send, t, q))
                continue;
            if (send->sent[q] == p->shape.slots) {
                send->slot[t][q] = ORACLE_NO_SLOT;
                send->dropped_rows++;
                continue;
            }
            send->token_of[q][send->sent[q]] = t;
            send->slot[t][q] = (int32_t)send->sent[q]++;
        }
    }
}

/* ---- what the experts are shown ---- */

static uint32_t capacity_of(const sim_program *p, const sim_rank_shape *r)
{
    uint32_t local = p->shape.experts, all = p->shape.ranks * p->shape.slots;
    uint32_t most = all * (p->shape.topk < local ? p->shape.topk : local);
    if (r->layout == 1)
        most += local * (r->align - 1);
    return r->expert_rows && r->expert_rows < most ? r->expert_rows : most;
}

static uint32_t rows_wanted(const sim_program *p, const oracle_send *sends, uint32_t rank, uint32_t sources,
                            uint32_t expert)
{
    uint32_t rows = 0;
    for (uint32_t s = 0; s < p->shape.ranks; s++)
        for (uint32_t slot = 0; (sources >> s & 1) && slot < sends[s].sent[rank]; slot++)
            for (uint32_t k = 0; k < p->shape.topk; k++)
                rows +=
                    sends[s].chosen[sends[s].token_of[rank][slot]][k] == (int32_t)(rank * p->shape.experts + expert);
    return rows;
}

/* First position and number of rows of every expert. */
static void place_experts(const sim_program *p, uint32_t rank, const oracle_send *sends, uint32_t sources,
                          oracle_view *v)
{
    const sim_rank_shape *r = &p->rank[rank];
    uint32_t all = p->shape.ranks * p->shape.slots, end = 0, capacity = capacity_of(p, r);
    uint32_t per_expert = r->rows_per_expert && r->rows_per_expert < all ? r->rows_per_expert : all;
    for (uint32_t e = 0; e < p->shape.experts; e++) {
        uint32_t wanted = rows_wanted(p, sends, rank, sources, e), room = per_expert;
        if (r->layout == 2) {
            end = e * per_expert;
        } else {
            end = (end + r->align - 1) / r->align * r->align;
            end = end < capacity ? end : capacity;
            room = capacity - end;
        }
        v->offsets[e] = end;
        v->counts[e] = wanted < room ? wanted : room;
        v->dropped += wanted - v->counts[e];
        v->total += v->counts[e];
        end += v->counts[e];
    }
    v->offsets[p->shape.experts] = r->layout == 2 ? p->shape.experts * per_expert : end;
}

void oracle_show(const sim_program *p, uint32_t rank, const oracle_send *sends, uint32_t pair, uint32_t sources,
                 oracle_view *v)
{
    memset(v, 0, sizeof *v);
    place_experts(p, rank, sends, sources, v);
    for (uint32_t e = 0; e < p->shape.experts; e++) {
        uint32_t given = 0;
        for (uint32_t s = 0; s < p->shape.ranks; s++)
            for (uint32_t slot = 0; (sources >> s & 1) && slot < sends[s].sent[rank]; slot++) {
                uint32_t token = sends[s].token_of[rank][slot];
                for (uint32_t k = 0; k < p->shape.topk && given < v->counts[e]; k++) {
                    if (sends[s].chosen[token][k] != (int32_t)(rank * p->shape.experts + e))
                        continue;
                    v->placed[s][token][k] = 1;
                    v->rows[v->row_count++] =
                        (sim_row){e, v->offsets[e] + given++, s, token, sim_weight(p, s, pair, token, k)};
                }
            }
    }
}

/* ---- what comes back ---- */

/* Rank q's partial sum for a token, rounded to the combine type; returns 1 if it lacks a row. */
static uint32_t partial(const sim_program *p, uint32_t rank, uint32_t pair, const oracle_send *send,
                        const oracle_view *view, uint32_t q, uint32_t token, const void *input, void *row)
{
    float sum[SIM_HIDDEN] = {0};
    uint32_t lacks = 0;
    for (uint32_t k = 0; k < p->shape.topk; k++) {
        int32_t expert = send->chosen[token][k];
        if (expert < 0 || (uint32_t)expert / p->shape.experts != q)
            continue;
        if (!view->placed[rank][token][k]) {
            lacks = 1;
            continue;
        }
        float weight = sim_weight(p, rank, pair, token, k);
        for (uint32_t i = 0; i < p->shape.hidden; i++) {
            char output[4];
            sim_put(sim_is_bf16(p), output, 0, sim_expert((uint32_t)expert, sim_get(sim_is_bf16(p), input, i)));
            sum[i] += weight * sim_get(sim_is_bf16(p), output, 0);
        }
    }
    for (uint32_t i = 0; i < p->shape.hidden; i++)
        sim_put(sim_is_bf16(p), row, i, sum[i]);
    return lacks;
}

void oracle_answer(const sim_program *p, uint32_t rank, uint32_t pair, const oracle_send *send,
                   const oracle_view *views, uint32_t token, uint32_t missing, void *row, uint32_t *flag)
{
    float sum[SIM_HIDDEN] = {0};
    char input[SIM_HIDDEN * 4], part[SIM_HIDDEN * 4];
    sim_arrived_row(p, rank, pair, token, input);
    *flag = 0;
    for (uint32_t q = 0; q < p->shape.ranks; q++) {
        if (send->slot[token][q] == ORACLE_NOT_SENT)
            continue;
        if (send->slot[token][q] == ORACLE_NO_SLOT || (missing >> q & 1)) {
            *flag = 1;
            continue;
        }
        *flag |= partial(p, rank, pair, send, &views[q], q, token, input, part);
        for (uint32_t i = 0; i < p->shape.hidden; i++)
            sum[i] += sim_get(sim_is_bf16(p), part, i);
    }
    for (uint32_t i = 0; i < p->shape.hidden; i++)
        sim_put(sim_is_bf16(p), row, i, sum[i]);
}
