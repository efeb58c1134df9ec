/* What was covered. */
#include <inttypes.h>
#include "digest.h"
#include "sim_cover.h"

static void add_part(sim_cover *c, const sim_part *part)
{
    c->ends++;
    c->eager += part->how == SIM_EAGER;
    c->split += part->how == SIM_SPLIT;
    c->replayed += part->how == SIM_REPLAY;
    c->fills += part->how == SIM_FILL;
    c->voids += sim_is_void(part);
    c->empty += sim_tokens_sent(part) == 0;
    c->rehearsed += part->rehearse;
    c->waits += part->wait;
}

static void add_pair(sim_cover *c, const sim_program *p, uint32_t pair)
{
    uint32_t modes = 0, differ = 0;
    for (uint32_t r = 0; r < p->shape.ranks; r++) {
        const sim_part *part = &p->part[r][pair];
        add_part(c, part);
        modes |= 1u << part->ht;
        differ |= part->bucket != p->part[0][pair].bucket;
        c->replays += part->how == SIM_REPLAY && part->index == 0;
        c->by_runner += part->how == SIM_REPLAY && part->index == 0 && p->rank[r].runner;
        c->maps += pair > 0 && part->map != p->part[r][pair - 1].map;
    }
    c->pairs++;
    c->mixed += modes == 3;
    c->buckets_differ += differ;
}

static void add_rank(sim_cover *c, const sim_program *p, const sim_result *result, uint32_t rank)
{
    const sim_rank_shape *r = &p->rank[rank];
    const epg_group_stats *s = &result->end[rank].stats;
    for (uint32_t g = 0; g < SIM_GRAPHS; g++) {
        c->graphs += p->graph[rank][g].pairs > 0;
        c->odd_graphs += p->graph[rank][g].pairs % 2;
    }
    c->streams += r->streams;
    c->layouts[r->layout]++;
    c->ids64 += r->ids64;
    c->unweighted += !r->weights;
    c->slow += r->slow > 1;
    c->overflowed += s->dropped_rows + s->dropped_tokens;
    c->bad_ids += s->bad_ids;
    c->flagged += s->flagged;
}

static void add_faults(sim_cover *c, const sim_program *p, const sim_result *result)
{
    int struck = 0;
    for (uint32_t i = 0; i < SIM_FAULTS; i++) {
        int kind = result->struck[i] ? (int)p->fault[i].kind : SIM_FAULT_NONE;
        c->stopped += kind == SIM_FAULT_STOP;
        c->died += kind == SIM_FAULT_DIE;
        c->joined += kind == SIM_FAULT_JOIN;
        struck |= kind;
    }
    c->untroubled += !struck;
    c->wrapped += p->shape.first_epoch + p->shape.pairs < p->shape.first_epoch;
    c->late += p->shape.late > 0;
}

static int abandons(const sim_program *p)
{
    for (uint32_t r = 0; r < p->shape.ranks; r++)
        for (uint32_t i = 0; i < p->shape.pairs; i++)
            if (p->part[r][i].how == SIM_ABANDON_SENT || p->part[r][i].how == SIM_ABANDON_HELD)
                return 1;
    return 0;
}

void sim_cover_add(sim_cover *c, const sim_program *p, const sim_result *result, uint64_t seen_digest)
{
    c->programs++;
    for (uint32_t i = 0; i < p->shape.pairs; i++)
        add_pair(c, p, i);
    for (uint32_t r = 0; r < p->shape.ranks; r++)
        add_rank(c, p, result, r);
    add_faults(c, p, result);
    c->abandoned += (uint64_t)abandons(p);
    c->lanes += p->shape.lanes > 1;
    c->types[p->shape.type]++;
    c->moves += result->moves;
    c->virtual_s += (double)result->time_ns * 1e-9;
    c->digest = digest_word(digest_word(c->digest, result->digest), seen_digest);
}

#define N(field) c->field

void sim_cover_print(const sim_cover *c, FILE *f)
{
    fprintf(f,
            "programs   %" PRIu64 ": %" PRIu64 " with several lanes; nobody lost in %" PRIu64 "\n"
            "           rows: %" PRIu64 " float32, %" PRIu64 " bf16, %" PRIu64 " fp8, %" PRIu64 " opaque\n",
            N(programs), N(lanes), N(untroubled), N(types[0]), N(types[1]), N(types[2]), N(types[3]));
    fprintf(f,
            "pairs      %" PRIu64 ": %" PRIu64 " met LL with HT, %" PRIu64 " different buckets\n"
            "           %" PRIu64 " ends: %" PRIu64 " eager, %" PRIu64 " in split halves, %" PRIu64
            " replayed, %" PRIu64 " filled, %" PRIu64 " void; %" PRIu64 " without tokens, %" PRIu64
            " rehearsed first\n",
            N(pairs), N(mixed), N(buckets_differ), N(ends), N(eager), N(split), N(replayed), N(fills), N(voids),
            N(empty), N(rehearsed));
    fprintf(f,
            "graphs     %" PRIu64 ", %" PRIu64 " of an odd number of pairs; %" PRIu64 " replays, %" PRIu64
            " by a runner\n",
            N(graphs), N(odd_graphs), N(replays), N(by_runner));
    fprintf(f,
            "ranks      layouts %" PRIu64 " in place, %" PRIu64 " contiguous, %" PRIu64 " masked; %" PRIu64
            " with a stream per lane, %" PRIu64 " with 64-bit ids, %" PRIu64 " without weights; %" PRIu64
            " changes of a map\n",
            N(layouts[0]), N(layouts[1]), N(layouts[2]), N(streams), N(ids64), N(unweighted), N(maps));
    fprintf(f,
            "faults     %" PRIu64 " slow ranks, %" PRIu64 " stopped, %" PRIu64 " died, %" PRIu64
            " joined again; programs with: %" PRIu64 " an abandoned pair, %" PRIu64 " a wrap of the epoch, %" PRIu64
            " late stores\n"
            "           %" PRIu64 " rows or tokens dropped, %" PRIu64 " bad ids, %" PRIu64 " tokens flagged\n",
            N(slow), N(stopped), N(died), N(joined), N(abandoned), N(wrapped), N(late), N(overflowed), N(bad_ids),
            N(flagged));
    fprintf(f, "moves      %" PRIu64 " in %.3f s of virtual time\n", N(moves), c->virtual_s);
    fprintf(f, "digest     %016" PRIx64 "\n", c->digest);
}
