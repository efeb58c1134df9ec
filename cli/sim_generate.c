/* Makes a random program from a seed. Everything a program may hold is drawn here; that it fits together is the
 * business of sim_repair. */
#include <string.h>
#include "digest.h"
#include "sim_program.h"

typedef struct source {
    uint64_t state;
} source;

static uint32_t draw(source *s, uint32_t least, uint32_t most)
{
    s->state += 0x9e3779b97f4a7c15u;
    return least + (uint32_t)(digest_mix(s->state) % ((uint64_t)most - least + 1));
}
static int chance(source *s, uint32_t percent) { return draw(s, 0, 99) < percent; }

/* What may go wrong in this program. */
typedef struct dangers {
    int slow, stop, die, join, abandon, wrap, late, spoil;
} dangers;

static dangers choose_dangers(source *s, sim_fault_kind kind)
{
    if (kind == SIM_FAULT_ANY) {
        uint32_t lost = draw(s, 0, 99);
        return (dangers){.slow = chance(s, 20), .stop = lost < 20, .die = lost >= 20 && lost < 40,
                         .join = lost >= 40 && lost < 55, .abandon = chance(s, 15), .wrap = chance(s, 25),
                         .late = chance(s, 60), .spoil = chance(s, lost < 55 ? 10 : 30)};
    }
    return (dangers){.slow = kind == SIM_FAULT_SLOW,
                     .stop = kind == SIM_FAULT_STOP,
                     .die = kind == SIM_FAULT_DIE,
                     .join = kind == SIM_FAULT_JOIN,
                     .abandon = kind == SIM_FAULT_ABANDON,
                     .wrap = kind == SIM_FAULT_WRAP,
                     .late = kind == SIM_FAULT_LATE,
                     .spoil =
                         kind != SIM_FAULT_STOP && kind != SIM_FAULT_DIE && kind != SIM_FAULT_JOIN && chance(s, 25)};
}

static void make_shape(source *s, const dangers *d, uint32_t ranks, uint32_t pairs, sim_shape *shape)
{
    uint32_t experts = draw(s, 1, 3), total = experts * ranks;
    *shape = (sim_shape){
        .ranks = ranks,
        .pairs = pairs,
        .lanes = chance(s, 55) ? 1 : draw(s, 2, SIM_LANES),
        .experts = experts,
        .logical = chance(s, 70) ? total : draw(s, 1, total + 4),
        .hidden = 8 * (chance(s, 80) ? 1 : draw(s, 2, 4)),
        .topk = draw(s, 1, SIM_TOPK),
        .tokens = draw(s, 1, SIM_TOKENS),
        .type = draw(s, 0, 3),
        .late = d->late ? draw(s, 10, 90) : 0,
        .bad = d->spoil && chance(s, 40) ? draw(s, 5, 30) : 0,
        .data = draw(s, 0, UINT32_MAX),
        .schedule = draw(s, 0, UINT32_MAX),
    };
    shape->slots = d->spoil && chance(s, 60) ? draw(s, 1, shape->tokens) : shape->tokens;
    shape->skew = chance(s, 80) ? shape->logical : draw(s, 1, shape->logical);
    if (d->wrap) /* somewhere in the program, the epoch passes 0 */
        shape->first_epoch = 0u - draw(s, 1, pairs < 16 ? pairs : 16);
    else
        shape->first_epoch = chance(s, 50) ? 0 : draw(s, 1, 0x7FFFFFFF);
}

/* The shortest timeout of a program, in ms: far more than a rank needs between two of its looks at a signal, which
 * grows with the number of those that share the time, and with its slowness. */
static uint32_t base_timeout(const dangers *d, uint32_t ranks) { return (ranks > 4 ? ranks : 4) * (d->slow ? 4 : 1); }

static void make_rank(source *s, const dangers *d, const sim_shape *shape, sim_rank_shape *rank)
{
    uint32_t timeout = base_timeout(d, shape->ranks), layout = draw(s, 0, 2), tight = d->spoil && chance(s, 40);
    *rank = (sim_rank_shape){
        .layout = layout,
        .align = layout == 1 ? 1u << draw(s, 0, 2) : 1,
        .expert_rows = tight && layout != 2 ? draw(s, 1, shape->ranks * shape->slots) : 0,
        .rows_per_expert = tight && layout == 2 ? draw(s, 1, shape->ranks * shape->slots) : 0,
        .timeout_ms = chance(s, 70) ? timeout : draw(s, timeout, timeout * 7 / 4),
        .streams = shape->lanes > 1 && chance(s, 50),
        .ids64 = (uint32_t)chance(s, 50),
        .weights = (uint32_t)chance(s, 80),
        .runner = (uint32_t)chance(s, 30),
        .warmups = draw(s, 0, 2),
        .early = (uint32_t)chance(s, 50),
        .slow = d->slow && chance(s, 50) ? draw(s, 2, 12) : 1,
    };
}

static uint32_t draw_tokens(source *s, uint32_t bucket, int spoil)
{
    if (spoil && chance(s, 5))
        return bucket + draw(s, 1, 3);
    return chance(s, 15) ? 0 : draw(s, 1, bucket);
}

static int graph_fits(const sim_program *p, const sim_graph *g, uint32_t pair)
{
    if (g->pairs == 0 || pair + g->pairs > p->shape.pairs)
        return 0;
    for (uint32_t j = 0; j < g->pairs; j++)
        if (g->lane[j] != p->lane[pair + j])
            return 0;
    return 1;
}

static void make_graph(source *s, const sim_program *p, uint32_t pair, sim_graph *g)
{
    uint32_t left = p->shape.pairs - pair;
    g->pairs = draw(s, 1, left < SIM_GRAPH_PAIRS ? left : SIM_GRAPH_PAIRS);
    for (uint32_t j = 0; j < g->pairs; j++) {
        g->lane[j] = p->lane[pair + j];
        g->ht[j] = (uint32_t)chance(s, 40);
        g->bucket[j] = draw(s, 1, p->shape.tokens);
    }
}

/* The graph to replay at this pair: one made before if it fits, or a new one; -1 for none. */
static int choose_graph(source *s, sim_program *p, uint32_t rank, uint32_t pair)
{
    uint32_t first = draw(s, 0, SIM_GRAPHS - 1);
    if (!chance(s, 60))
        return -1;
    for (uint32_t i = 0; i < SIM_GRAPHS; i++) {
        uint32_t g = (first + i) % SIM_GRAPHS;
        if (graph_fits(p, &p->graph[rank][g], pair))
            return (int)g;
    }
    for (uint32_t g = 0; g < SIM_GRAPHS; g++)
        if (p->graph[rank][g].pairs == 0) {
            make_graph(s, p, pair, &p->graph[rank][g]);
            return (int)g;
        }
    return -1;
}

static sim_part draw_part(source *s, const sim_program *p, uint32_t map)
{
    return (sim_part){.how = chance(s, 30) ? SIM_SPLIT : chance(s, 12) ? SIM_FILL : SIM_EAGER,
                      .ht = (uint32_t)chance(s, 50),
                      .bucket = draw(s, 1, p->shape.tokens),
                      .map = map,
                      .delay = chance(s, 30) ? draw(s, 1, chance(s, 10) ? 200000 : 15000) : 0,
                      .wait = (uint32_t)chance(s, 15),
                      .rehearse = (uint32_t)chance(s, 8)};
}

static void make_parts(source *s, const dangers *d, sim_program *p, uint32_t rank)
{
    int idle = chance(s, 10), map_moves = !p->rank[rank].streams && chance(s, 40);
    uint32_t map = 0;
    for (uint32_t pair = 0, next; pair < p->shape.pairs; pair = next) {
        int graph = choose_graph(s, p, rank, pair);
        uint32_t count = graph < 0 ? 1 : p->graph[rank][graph].pairs;
        next = pair + count;
        map = map_moves && chance(s, 40) ? draw(s, 0, 7) : map;
        for (uint32_t j = 0; j < count; j++) {
            sim_part *part = &p->part[rank][pair + j];
            *part = draw_part(s, p, map);
            if (graph >= 0) {
                const sim_graph *g = &p->graph[rank][graph];
                part->how = SIM_REPLAY, part->graph = (uint32_t)graph, part->index = j, part->rehearse = 0;
                part->ht = g->ht[j], part->bucket = g->bucket[j];
            }
            part->tokens = idle ? 0 : draw_tokens(s, part->bucket, d->spoil);
        }
    }
}

/* Some pairs end on some ranks without an answer. */
static void spoil_parts(source *s, sim_program *p)
{
    for (uint32_t times = draw(s, 1, 2); times > 0; times--) {
        sim_part *part = &p->part[draw(s, 0, p->shape.ranks - 1)][draw(s, 0, p->shape.pairs - 1)];
        part->how = draw(s, SIM_FILL_VOID, SIM_ABANDON_HELD);
    }
}

static sim_fault draw_fault(source *s, const dangers *d, const sim_program *p)
{
    sim_fault f = {.kind = d->stop ? SIM_FAULT_STOP : d->die ? SIM_FAULT_DIE : SIM_FAULT_JOIN,
                   .rank = draw(s, 0, p->shape.ranks - 1),
                   .pair = draw(s, 0, p->shape.pairs - 1),
                   .after = draw(s, 0, chance(s, 50) ? 20000 : 200000)};
    uint32_t ms = 1000000, timeout = base_timeout(d, p->shape.ranks);
    if (f.kind == SIM_FAULT_STOP) /* not long enough for anybody to notice, or too long for some or all */
        f.time = chance(s, 25) ? draw(s, 1000, timeout * ms / 3)
                               : draw(s, timeout * ms, (p->shape.ranks + 3) * (timeout * ms / 4 * 7));
    if (f.kind == SIM_FAULT_JOIN && p->shape.pairs > 1) {
        f.time = draw(s, 1000, 3 * timeout * ms);
        f.pair = draw(s, 0, p->shape.pairs - 2);
        f.back = draw(s, f.pair + 1, p->shape.pairs - 1);
    }
    return f;
}

void sim_generate(uint64_t seed, uint32_t ranks, uint32_t pairs, sim_fault_kind kind, sim_program *p)
{
    source s = {sim_hash(seed, ranks, pairs, kind)};
    dangers d = choose_dangers(&s, kind);
    memset(p, 0, sizeof(*p));
    make_shape(&s, &d, ranks, pairs, &p->shape);
    int in_turn = chance(&s, 50);
    for (uint32_t i = 0; i < pairs; i++)
        p->lane[i] = in_turn ? i % p->shape.lanes : draw(&s, 0, p->shape.lanes - 1);
    for (uint32_t r = 0; r < ranks; r++) {
        make_rank(&s, &d, &p->shape, &p->rank[r]);
        make_parts(&s, &d, p, r);
    }
    if (d.abandon)
        spoil_parts(&s, p);
    if (d.stop || d.die || d.join) {
        p->fault[0] = draw_fault(&s, &d, p);
        if (ranks > 2 && chance(&s, 12))
            p->fault[1] = draw_fault(&s, &d, p);
    }
    sim_repair(p);
}
