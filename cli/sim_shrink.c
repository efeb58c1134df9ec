/* Shrinking: a list of cuts, tried in order from the coarse to the fine, again and again until none holds. A cut
 * changes which interleaving the scheduler's seed gives, so each is tried under several. */
#include <stdlib.h>
#include <string.h>
#include "sim_shrink.h"

enum { SCHEDULES = 24, RUNS_MAX = 6000 };

static int nobody_lost(const sim_program *p, const sim_result *result)
{
    for (uint32_t i = 0; i < SIM_FAULTS; i++)
        if (p->fault[i].kind && result->struck[i])
            return 0;
    return 1;
}

/* The first run was right: the second must have the same bits. */
static int try_again(const sim_program *p, const sim_result *first, sim_verdict *verdict, char *text, size_t bytes)
{
    sim_result *second = malloc(sizeof *second);
    uint32_t schedule = (uint32_t)sim_hash(p->shape.schedule, 2, 0, 0);
    if (!second || sim_run(p, schedule, NULL, NULL, second)) {
        free(second);
        return -1;
    }
    *verdict = sim_check(p, second, text, bytes);
    if (*verdict == SIM_RIGHT && nobody_lost(p, second) && sim_seen_digest(p, first) != sim_seen_digest(p, second)) {
        *verdict = SIM_NOT_THE_SAME;
        snprintf(text, bytes, "two schedules gave different bits");
    }
    sim_result_free(second);
    free(second);
    return 0;
}

int sim_try(const sim_program *p, int twice, sim_result *result, sim_verdict *verdict, char *text, size_t bytes)
{
    sim_result *own = result ? NULL : malloc(sizeof *own), *r = result ? result : own;
    int code = r ? sim_run(p, p->shape.schedule, NULL, NULL, r) : -1;
    if (code == 0) {
        *verdict = sim_check(p, r, text, bytes);
        if (*verdict == SIM_RIGHT && twice && nobody_lost(p, r))
            code = try_again(p, r, verdict, text, bytes);
    }
    if (own) {
        if (code == 0)
            sim_result_free(own);
        free(own);
    }
    return code;
}

/* ---- cuts. Each changes the program in its n-th way and returns 0 when there is no n-th. ---- */

static int drop_fault(sim_program *p, uint32_t n)
{
    if (n >= SIM_FAULTS)
        return 0;
    p->fault[n] = (sim_fault){0};
    return 1;
}

static int drop_pairs(sim_program *p, uint32_t n)
{
    uint32_t cut = p->shape.pairs >> (n + 1);
    if (cut == 0)
        return 0;
    p->shape.pairs -= cut;
    return 1;
}

static int drop_pair(sim_program *p, uint32_t n)
{
    if (n >= p->shape.pairs || p->shape.pairs == 1)
        return 0;
    uint32_t after = p->shape.pairs - n - 1;
    memmove(&p->lane[n], &p->lane[n + 1], after * sizeof p->lane[0]);
    for (uint32_t r = 0; r < p->shape.ranks; r++)
        memmove(&p->part[r][n], &p->part[r][n + 1], after * sizeof p->part[0][0]);
    p->shape.pairs--;
    for (uint32_t i = 0; i < SIM_FAULTS; i++) {
        p->fault[i].pair -= p->fault[i].pair > n;
        p->fault[i].back -= p->fault[i].back > n;
    }
    return 1;
}

static int drop_rank(sim_program *p, uint32_t n)
{
    if (n >= p->shape.ranks || p->shape.ranks == 1)
        return 0;
    uint32_t after = p->shape.ranks - n - 1;
    memmove(&p->rank[n], &p->rank[n + 1], after * sizeof p->rank[0]);
    memmove(&p->graph[n], &p->graph[n + 1], after * sizeof p->graph[0]);
    memmove(&p->part[n], &p->part[n + 1], after * sizeof p->part[0]);
    p->shape.ranks--;
    for (uint32_t i = 0; i < SIM_FAULTS; i++) {
        if (p->fault[i].rank == n)
            p->fault[i] = (sim_fault){0};
        p->fault[i].rank -= p->fault[i].rank > n;
    }
    if (p->shape.logical > p->shape.ranks * p->shape.experts)
        p->shape.logical = p->shape.skew = p->shape.ranks * p->shape.experts;
    return 1;
}

static int simplify_shape(sim_program *p, uint32_t n)
{
    sim_shape *s = &p->shape;
    switch (n) {
    case 0: s->lanes = 1; return 1;
    case 1: s->late = 0; return 1;
    case 2: s->bad = 0; return 1;
    case 3: s->slots = s->tokens; return 1;
    case 4: s->topk = 1; return 1;
    case 5: s->experts = 1; return 1;
    case 6: s->logical = s->skew = s->ranks * s->experts; return 1;
    case 7: s->hidden = 8; return 1;
    case 8: s->type = 0; return 1;
    case 9: s->first_epoch = 0; return 1;
    case 10: s->tokens -= s->tokens > 1; return 1;
    case 11: s->topk -= s->topk > 1; return 1;
    case 12: s->skew = s->logical; return 1;
    default: return 0;
    }
}

static int simplify_rank(sim_program *p, uint32_t n)
{
    enum { WAYS = 9 };
    sim_rank_shape *r = &p->rank[n / WAYS];
    if (n / WAYS >= p->shape.ranks)
        return 0;
    switch (n % WAYS) {
    case 0: /* no graphs */
        for (uint32_t i = 0; i < p->shape.pairs; i++)
            if (p->part[n / WAYS][i].how == SIM_REPLAY)
                p->part[n / WAYS][i].how = SIM_EAGER;
        break;
    case 1: r->streams = 0; break;
    case 2: r->runner = 0; break;
    case 3: r->warmups = r->early = 0; break;
    case 4: r->expert_rows = r->rows_per_expert = 0; break;
    case 5: r->layout = 0; break;
    case 6: r->slow = 1; break;
    case 7: r->ids64 = r->weights = 0; break;
    case 8: r->timeout_ms = p->rank[0].timeout_ms; break;
    }
    return 1;
}

static int simplify_part(sim_program *p, uint32_t n)
{
    enum { WAYS = 7 };
    uint32_t rank = n / WAYS / p->shape.pairs;
    if (rank >= p->shape.ranks)
        return 0;
    sim_part *part = &p->part[rank][n / WAYS % p->shape.pairs];
    switch (n % WAYS) {
    case 0: part->tokens = 0; break;
    case 1: part->how = SIM_EAGER; break;
    case 2: part->tokens -= part->tokens > 0; break;
    case 3: part->delay = 0; break;
    case 4: part->wait = part->rehearse = 0; break;
    case 5: part->map = 0; break;
    case 6: part->ht = 0; break;
    }
    return 1;
}

static int simplify_fault(sim_program *p, uint32_t n)
{
    if (n >= 2 * SIM_FAULTS)
        return 0;
    if (n % 2)
        p->fault[n / 2].after = 0;
    else
        p->fault[n / 2].after /= 2;
    return 1;
}

static int (*const cuts[])(sim_program *p, uint32_t n) = {drop_fault,    drop_pairs,    drop_rank,     drop_pair,
                                                          simplify_rank, simplify_shape, simplify_part, simplify_fault};

/* ---- the search ---- */

typedef struct search {
    sim_program *best;
    sim_verdict verdict;
    uint32_t runs;
    char *text;
    size_t bytes;
} search;

/* 1 if the smaller program fails in the same way; it then is the best one. */
static int holds(search *s, const sim_program *smaller)
{
    sim_program *p = malloc(sizeof *p);
    int found = 0;
    if (!p)
        return 0;
    *p = *smaller;
    for (uint32_t i = 0; i < SCHEDULES && !found && s->runs < RUNS_MAX; i++, s->runs++) {
        char text[1024];
        sim_verdict verdict = SIM_RIGHT;
        p->shape.schedule = i ? (uint32_t)sim_hash(smaller->shape.schedule, i, 0, 0) : smaller->shape.schedule;
        found =
            sim_try(p, s->verdict == SIM_NOT_THE_SAME, NULL, &verdict, text, sizeof text) == 0 && verdict == s->verdict;
        if (found) {
            *s->best = *p;
            snprintf(s->text, s->bytes, "%s", text);
        }
    }
    free(p);
    return found;
}

/* Tries every way of one cut; a way that holds is tried again on what is left. Returns how many held. */
static uint32_t apply(search *s, int (*cut)(sim_program *p, uint32_t n), sim_program *p)
{
    uint32_t held = 0;
    for (uint32_t n = 0; s->runs < RUNS_MAX;) {
        *p = *s->best;
        if (!cut(p, n))
            break;
        sim_repair(p);
        if (memcmp(p, s->best, sizeof *p) && holds(s, p))
            held++;
        else
            n++;
    }
    return held;
}

void sim_shrink(sim_program *program, sim_verdict verdict, char *text, size_t bytes)
{
    search s = {program, verdict, 0, text, bytes};
    sim_program *p = malloc(sizeof *p);
    uint32_t held = 1;
    while (p && held && s.runs < RUNS_MAX) {
        held = 0;
        for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++)
            held += apply(&s, cuts[i], p);
    }
    free(p);
}
