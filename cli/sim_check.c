/* The checks of `epgraph simulate`.
 *
 * Where nobody is lost, all is determined. Where a rank stops or dies, it is not: which of its rows arrived, and whose
 * answers are lacking, depends on the moment. Then there must be one set of ranks for which output and flags of every
 * token of a rank's pair are what the oracle says, bit for bit; nobody may be in it but the rank that was lost (or, on
 * that rank, its peers), and who is in it once stays in it until it joins again. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "digest.h"
#include "sim_check.h"
#include "sim_oracle.h"
#include "sim_rows.h"

enum { MOVE_NS = 100 }; /* of virtual time, the simulation's default */

typedef struct checker {
    const sim_program *p;
    const sim_result *result;
    uint32_t pair;
    uint32_t lost;                /* ranks that may be lacking, in this pair */
    uint32_t join_pair, join_rank;
    oracle_send sends[SIM_RANKS]; /* of this pair */
    oracle_view views[SIM_RANKS];
    uint32_t sources[SIM_RANKS];  /* whose rows each rank was shown; known where it was shown any */
    uint32_t gone[SIM_RANKS][SIM_LANES]; /* who was found missing before, by each rank */
    uint64_t dropped_rows[SIM_RANKS], flagged[SIM_RANKS], dropped_tokens[SIM_RANKS], bad_ids[SIM_RANKS];
    char *text;
    size_t bytes;
} checker;

static sim_verdict wrong(const checker *c, sim_verdict verdict, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static sim_verdict wrong(const checker *c, sim_verdict verdict, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->text, c->bytes, format, arguments);
    va_end(arguments);
    return verdict;
}

static const sim_seen *seen_of(const checker *c, uint32_t rank) { return &c->result->seen[rank][c->pair]; }
static const sim_part *part_of(const checker *c, uint32_t rank) { return &c->p->part[rank][c->pair]; }
static int is_lost(const checker *c, uint32_t rank) { return c->lost >> rank & 1; }

/* Ranks whose fault came to pass and takes them from their peers. */
static uint32_t ranks_lost(const sim_program *p, const sim_result *result)
{
    uint32_t lost = 0;
    for (uint32_t i = 0; i < SIM_FAULTS; i++)
        if (p->fault[i].kind && result->struck[i] && sim_is_suspect(p, p->fault[i].rank))
            lost |= 1u << p->fault[i].rank;
    return lost;
}

/* Peers that may be lacking on this rank. */
static uint32_t may_lack(const checker *c, uint32_t rank)
{
    uint32_t all = (1u << c->p->shape.ranks) - 1;
    return (is_lost(c, rank) ? all : c->lost) & ~(1u << rank);
}

/* ---- views ---- */

static sim_verdict compare_counts(const checker *c, uint32_t rank, const oracle_view *want)
{
    const sim_seen *seen = seen_of(c, rank);
    for (uint32_t e = 0; e < c->p->shape.experts; e++) {
        if (seen->counts[e] != want->counts[e])
            return wrong(c, SIM_WRONG_VIEW, "rank %u, pair %u: expert %u was shown %u rows, not %u", rank, c->pair, e,
                         seen->counts[e], want->counts[e]);
        if (seen->offsets[e] != want->offsets[e])
            return wrong(c, SIM_WRONG_VIEW, "rank %u, pair %u: the rows of expert %u begin at %u, not at %u", rank,
                         c->pair, e, seen->offsets[e], want->offsets[e]);
    }
    if (seen->total != want->total || seen->offsets[c->p->shape.experts] != want->offsets[c->p->shape.experts])
        return wrong(c, SIM_WRONG_VIEW, "rank %u, pair %u: %u rows in all that end at %u, not %u that end at %u", rank,
                     c->pair, seen->total, seen->offsets[c->p->shape.experts], want->total,
                     want->offsets[c->p->shape.experts]);
    return SIM_RIGHT;
}

static sim_verdict compare_rows(const checker *c, uint32_t rank, const oracle_view *want)
{
    const sim_seen *seen = seen_of(c, rank);
    size_t bytes = sim_row_bytes(c->p);
    uint32_t rows =
        is_lost(c, rank) && seen->row_count < want->row_count ? seen->row_count : want->row_count; /* died there */
    for (uint32_t i = 0; i < rows; i++) {
        const sim_row *a = &want->rows[i], *b = &seen->rows[i];
        char row[SIM_HIDDEN * 4];
        if (a->source != b->source || a->token != b->token || memcmp(&a->weight, &b->weight, sizeof a->weight))
            return wrong(
                c, SIM_WRONG_VIEW,
                "rank %u, pair %u: row %u of expert %u is token %u of rank %u with weight %g, not token %u of rank %u "
                "with weight %g",
                rank, c->pair, a->position, a->expert, b->token, b->source, (double)b->weight, a->token, a->source,
                (double)a->weight);
        sim_arrived_row(c->p, a->source, c->pair, a->token, row);
        for (uint32_t at = 0; at < c->p->shape.hidden; at++) {
            float got = sim_get(sim_is_bf16(c->p), seen->row_bytes + i * bytes, at),
                  expected = sim_get(sim_is_bf16(c->p), row, at);
            if (memcmp(&got, &expected, sizeof got))
                return wrong(
                    c, SIM_WRONG_VIEW,
                    "rank %u, pair %u: row %u of expert %u (token %u of rank %u) holds %g in column %u, not %g", rank,
                    c->pair, a->position, a->expert, a->token, a->source, (double)got, at, (double)expected);
        }
    }
    return SIM_RIGHT;
}

static sim_verdict compare_view(const checker *c, uint32_t rank, const oracle_view *want)
{
    sim_verdict verdict = compare_counts(c, rank, want);
    return verdict == SIM_RIGHT ? compare_rows(c, rank, want) : verdict;
}

/* Ranks that sent this rank rows. */
static uint32_t senders_to(const checker *c, uint32_t rank)
{
    uint32_t senders = 0;
    for (uint32_t s = 0; s < c->p->shape.ranks; s++)
        senders |= (uint32_t)(c->sends[s].sent[rank] > 0) << s;
    return senders;
}

static sim_verdict check_view(checker *c, uint32_t rank)
{
    uint32_t all = (1u << c->p->shape.ranks) - 1, open = may_lack(c, rank) & senders_to(c, rank), lacking = 0;
    if (!seen_of(c, rank)->held)
        return SIM_RIGHT; /* nobody can have had an answer: check_answers */
    do {
        c->sources[rank] = all & ~lacking;
        oracle_show(c->p, rank, c->sends, c->pair, c->sources[rank], &c->views[rank]);
        if (compare_view(c, rank, &c->views[rank]) == SIM_RIGHT)
            return SIM_RIGHT;
        lacking = (lacking - open) & open;
    } while (lacking);
    oracle_show(c->p, rank, c->sends, c->pair, all, &c->views[rank]);
    return compare_view(c, rank, &c->views[rank]); /* for its text */
}

/* ---- outputs ---- */

static sim_verdict compare_token(const checker *c, uint32_t rank, uint32_t token, uint32_t missing)
{
    const sim_seen *seen = seen_of(c, rank);
    size_t bytes = sim_row_bytes(c->p);
    char row[SIM_HIDDEN * 4];
    uint32_t flag;
    oracle_answer(c->p, rank, c->pair, &c->sends[rank], c->views, token, missing, row, &flag);
    if (seen->flags[token] != flag)
        return wrong(c, SIM_WRONG_FLAG, "rank %u, pair %u: the flag of token %u is %u, not %u", rank, c->pair, token,
                     seen->flags[token], flag);
    for (uint32_t i = 0; i < c->p->shape.hidden; i++) {
        float got = sim_get(sim_is_bf16(c->p), seen->out + token * bytes, i), want = sim_get(sim_is_bf16(c->p), row, i);
        if (memcmp(&got, &want, sizeof got))
            return wrong(c, SIM_WRONG_OUTPUT, "rank %u, pair %u: output of token %u is %.9g in column %u, not %.9g",
                         rank, c->pair, token, (double)got, i, (double)want);
    }
    return SIM_RIGHT;
}

static sim_verdict compare_answers(const checker *c, uint32_t rank, uint32_t missing)
{
    const sim_seen *seen = seen_of(c, rank);
    size_t bytes = sim_row_bytes(c->p), used = c->sends[rank].tokens * bytes;
    for (uint32_t t = 0; t < c->sends[rank].tokens; t++) {
        sim_verdict verdict = compare_token(c, rank, t, missing);
        if (verdict != SIM_RIGHT)
            return verdict;
    }
    for (size_t i = used; i < c->p->shape.tokens * bytes; i++)
        if ((unsigned char)seen->out[i] != 0xA5)
            return wrong(c, SIM_WRONG_OUTPUT, "rank %u, pair %u: output beyond its %u tokens was written", rank,
                         c->pair, c->sends[rank].tokens);
    return SIM_RIGHT;
}

/* Ranks that were sent rows and cannot have answered them. */
static uint32_t must_lack(const checker *c, uint32_t rank)
{
    uint32_t missing = 0;
    for (uint32_t q = 0; q < c->p->shape.ranks; q++) {
        int answered = seen_of(c, q)->held && (c->sources[q] >> rank & 1) && !sim_is_void(part_of(c, q));
        missing |= (uint32_t)(c->sends[rank].sent[q] > 0 && !answered) << q;
    }
    return missing;
}

/* Of those, the ones that end the pair without an answer because the program says so. */
static uint32_t void_ranks(const checker *c)
{
    uint32_t ranks = 0;
    for (uint32_t q = 0; q < c->p->shape.ranks; q++)
        ranks |= (uint32_t)sim_is_void(part_of(c, q)) << q;
    return ranks;
}

static sim_verdict remember_missing(checker *c, uint32_t rank, uint32_t missing, uint32_t asked)
{
    uint32_t *gone = &c->gone[rank][c->p->lane[c->pair]];
    if (c->pair >= c->join_pair)
        *gone &= ~(1u << c->join_rank);
    if (*gone & asked & ~missing)
        return wrong(c, SIM_WRONG_MASK,
                     "rank %u, pair %u: a rank that it had given up before answered (ranks %#x, of %#x)", rank, c->pair,
                     *gone & asked & ~missing, *gone);
    *gone |= missing;
    return SIM_RIGHT;
}

static sim_verdict check_answers(checker *c, uint32_t rank)
{
    const sim_part *part = part_of(c, rank);
    uint32_t asked = 0, voids = void_ranks(c), must = must_lack(c, rank), missing;
    if (part->how == SIM_FILL || sim_is_void(part) || !seen_of(c, rank)->finished)
        return SIM_RIGHT;
    for (uint32_t q = 0; q < c->p->shape.ranks; q++)
        asked |= (uint32_t)(c->sends[rank].sent[q] > 0) << q;
    if (must & ~voids & ~may_lack(c, rank))
        return wrong(c, SIM_NOT_FINISHED, "rank %u finished pair %u, but ranks %#x had not run their experts for it",
                     rank, c->pair, must & ~voids & ~may_lack(c, rank));
    uint32_t open = may_lack(c, rank) & asked & ~must, extra = 0;
    missing = must | (open & c->gone[rank][c->p->lane[c->pair]]);
    if (compare_answers(c, rank, missing) == SIM_RIGHT)
        return remember_missing(c, rank, missing & ~voids, asked & ~voids);
    do {
        missing = must | extra;
        if (compare_answers(c, rank, missing) == SIM_RIGHT)
            return remember_missing(c, rank, missing & ~voids, asked & ~voids);
        extra = (extra - open) & open;
    } while (extra);
    return compare_answers(c, rank, must); /* for its text */
}

/* ---- one pair ---- */

static sim_verdict check_finished(const checker *c, uint32_t rank)
{
    const sim_part *part = part_of(c, rank);
    int holds = part->how != SIM_ABANDON_SENT && part->how != SIM_FILL_VOID;
    int finishes = part->how != SIM_FILL && !sim_is_void(part);
    if (is_lost(c, rank))
        return SIM_RIGHT;
    if ((holds && !seen_of(c, rank)->held) || (finishes && !seen_of(c, rank)->finished))
        return wrong(c, SIM_NOT_FINISHED, "rank %u did not finish pair %u", rank, c->pair);
    return SIM_RIGHT;
}

static void count(checker *c, uint32_t rank)
{
    const oracle_send *s = &c->sends[rank];
    c->dropped_rows[rank] += s->dropped_rows + (seen_of(c, rank)->held ? c->views[rank].dropped : 0);
    c->dropped_tokens[rank] += s->dropped_tokens;
    c->bad_ids[rank] += s->bad_ids;
    for (uint32_t t = 0; seen_of(c, rank)->finished && t < s->tokens; t++)
        c->flagged[rank] += seen_of(c, rank)->flags[t] != 0;
}

static sim_verdict check_pair(checker *c)
{
    uint32_t ranks = c->p->shape.ranks;
    sim_verdict verdict = SIM_RIGHT;
    for (uint32_t r = 0; r < ranks; r++)
        oracle_route(c->p, r, c->pair, &c->sends[r]);
    for (uint32_t r = 0; r < ranks && verdict == SIM_RIGHT; r++)
        verdict = check_finished(c, r);
    for (uint32_t r = 0; r < ranks && verdict == SIM_RIGHT; r++)
        verdict = check_view(c, r);
    for (uint32_t r = 0; r < ranks && verdict == SIM_RIGHT; r++) {
        verdict = check_answers(c, r);
        count(c, r);
    }
    return verdict;
}

/* ---- records ---- */

/* What the program itself may make a rank record in a lane: its first such failure, EPG_OK for none. */
static epg_group_record own_failure(const checker *c, uint32_t rank, uint32_t lane)
{
    epg_group_record record = EPG_GROUP_RECORD_INIT;
    record.epoch = c->p->shape.first_epoch;
    record.lane = lane;
    record.peer = rank;
    record.operation = EPG_OP_DISPATCH_SEND;
    for (uint32_t i = 0; i < c->p->shape.pairs; i++) {
        oracle_send sends[SIM_RANKS];
        oracle_view view;
        if (c->p->lane[i] != lane)
            continue;
        record.epoch++;
        for (uint32_t r = 0; r < c->p->shape.ranks; r++)
            oracle_route(c->p, r, i, &sends[r]);
        oracle_show(c->p, rank, sends, i, (1u << c->p->shape.ranks) - 1, &view);
        const sim_part *part = &c->p->part[rank][i];
        int shown = part->how != SIM_ABANDON_SENT && part->how != SIM_FILL_VOID;
        if (sends[rank].dropped_tokens) {
            record.status = EPG_ERR_OVERFLOW, record.expected = part->bucket, record.seen = part->tokens;
        } else if (sends[rank].bad_ids) {
            record.status = EPG_ERR_ROUTING, record.expected = c->p->shape.logical;
            record.seen = (uint64_t)sends[rank].first_bad;
        } else if (sends[rank].dropped_rows) {
            record.status = EPG_ERR_OVERFLOW, record.expected = c->p->shape.slots;
            record.seen = record.expected + sends[rank].dropped_rows;
        } else if (shown && view.dropped) {
            record.status = EPG_ERR_OVERFLOW, record.operation = EPG_OP_DISPATCH_RECV;
            record.expected = view.total, record.seen = view.total + view.dropped;
        }
        if (record.status != EPG_OK)
            return record;
    }
    return record;
}

static int same_record(const epg_group_record *a, const epg_group_record *b)
{
    return a->status == b->status && a->operation == b->operation && a->lane == b->lane && a->epoch == b->epoch &&
           a->peer == b->peer && a->expected == b->expected && a->seen == b->seen;
}

static sim_verdict wrong_record(const checker *c, uint32_t rank, const char *what)
{
    const epg_group_record *r = &c->result->end[rank].record;
    return wrong(c, SIM_WRONG_RECORD,
                 "rank %u: its record says %s (operation %d, lane %u, epoch %u, peer %u, expected %" PRIu64
                 ", seen %" PRIu64 "); %s",
                 rank, epg_status_name(r->status), (int)r->operation, r->lane, r->epoch, r->peer, r->expected, r->seen,
                 what);
}

/* 1 where the record is what the rank's own doing accounts for; *any: whether there is such doing. */
static int is_own_failure(const checker *c, uint32_t rank, int *any)
{
    const epg_group_record *record = &c->result->end[rank].record;
    epg_group_record own[SIM_LANES];
    int same = 0;
    *any = 0;
    for (uint32_t l = 0; l < c->p->shape.lanes; l++) {
        own[l] = own_failure(c, rank, l);
        *any |= own[l].status != EPG_OK;
    }
    for (uint32_t l = 0; l < c->p->shape.lanes; l++)
        same |= own[l].status != EPG_OK && same_record(&own[l], record);
    return same;
}

static sim_verdict check_record(const checker *c, uint32_t rank, uint32_t lost)
{
    const sim_end *end = &c->result->end[rank];
    const epg_group_record *r = &end->record;
    int own_any, own = is_own_failure(c, rank, &own_any), left = 0;
    if (own || (lost && own_any && (r->status == EPG_ERR_OVERFLOW || r->status == EPG_ERR_ROUTING)))
        return SIM_RIGHT;
    if (own_any && !lost)
        return wrong_record(c, rank, "its rows did not fit, or its ids were bad, in another way");
    for (uint32_t q = 0; q < c->p->shape.ranks; q++)
        left |= !end->alive[q] && q != c->join_rank; /* that one may have gone unnoticed */
    if (r->status == EPG_OK)
        return left ? wrong_record(c, rank, "but it has given a rank up") : SIM_RIGHT;
    if (r->expected != r->epoch || r->lane >= c->p->shape.lanes)
        return wrong_record(c, rank, "a wait expects the epoch of its pair");
    if ((lost >> rank & 1) && end->life == 0 && r->status == EPG_ERR_MASKED)
        return SIM_RIGHT; /* it was away, and its peers went on */
    if ((r->status == EPG_ERR_TIMEOUT || r->status == EPG_ERR_GONE) && (lost >> r->peer & 1) && r->peer != rank)
        return SIM_RIGHT;
    return wrong_record(c, rank, "nothing happened that would account for that");
}

/* A rank that died with pairs to run must have been given up by everybody who lives. */
static uint32_t ranks_missed(const checker *c)
{
    uint32_t missed = 0;
    for (uint32_t i = 0; i < SIM_FAULTS; i++)
        if (c->p->fault[i].kind == SIM_FAULT_DIE && c->result->struck[i])
            for (uint32_t pair = 0; pair < c->p->shape.pairs; pair++)
                missed |= (uint32_t)!c->result->seen[c->p->fault[i].rank][pair].begun << c->p->fault[i].rank;
    return missed;
}

/* The rank that joins takes part in every lane again: each lane takes it back with its first pair from then on. */
static int is_back(const checker *c)
{
    uint32_t lanes = 0;
    for (uint32_t i = c->join_pair; i < c->p->shape.pairs; i++)
        lanes |= 1u << c->p->lane[i];
    return lanes == (1u << c->p->shape.lanes) - 1;
}

static sim_verdict check_masks(const checker *c, uint32_t rank, uint32_t lost, uint32_t missed)
{
    const sim_end *end = &c->result->end[rank];
    uint32_t open = lost >> rank & 1 && end->life == 0 ? (1u << c->p->shape.ranks) - 1 : lost;
    for (uint32_t q = 0; q < c->p->shape.ranks; q++) {
        if (!end->alive[q] && !(open >> q & 1))
            return wrong(c, SIM_WRONG_MASK, "rank %u gave up rank %u, which took part to the end", rank, q);
        if (end->alive[q] && (missed >> q & 1) && !(lost >> rank & 1))
            return wrong(c, SIM_WRONG_MASK, "rank %u does not know that rank %u is dead", rank, q);
        if (!end->alive[q] && q == c->join_rank && is_back(c))
            return wrong(c, SIM_WRONG_MASK, "rank %u has not taken rank %u back", rank, q);
    }
    return SIM_RIGHT;
}

/* ---- statistics ---- */

static sim_verdict check_number(const checker *c, uint32_t rank, const char *name, uint64_t got, uint64_t want)
{
    if (got == want)
        return SIM_RIGHT;
    return wrong(c, SIM_WRONG_STATS, "rank %u: %s is %" PRIu64 ", not %" PRIu64, rank, name, got, want);
}

static sim_verdict check_stats(const checker *c, uint32_t rank, uint32_t lost)
{
    const epg_group_stats *s = &c->result->end[rank].stats;
    const sim_end *end = &c->result->end[rank];
    sim_verdict v = end->life ? SIM_RIGHT : check_number(c, rank, "pairs", s->pairs, c->p->shape.pairs);
    if (v == SIM_RIGHT && !c->p->rank[rank].runner)
        v = check_number(c, rank, "issued", s->issued, end->issued);
    if (v == SIM_RIGHT && !c->p->rank[rank].runner)
        v = check_number(c, rank, "captured", s->captured, end->captured);
    if (v == SIM_RIGHT)
        v = check_number(c, rank, "cleans", s->cleans, 1);
    if (v == SIM_RIGHT && !end->life)
        v = check_number(c, rank, "dropped_tokens", s->dropped_tokens, c->dropped_tokens[rank]);
    if (v == SIM_RIGHT && !end->life)
        v = check_number(c, rank, "bad_ids", s->bad_ids, c->bad_ids[rank]);
    if (v == SIM_RIGHT && !end->life)
        v = check_number(c, rank, "flagged", s->flagged, c->flagged[rank]);
    if (v == SIM_RIGHT && !lost)
        v = check_number(c, rank, "dropped_rows", s->dropped_rows, c->dropped_rows[rank]);
    if (v == SIM_RIGHT && !lost)
        v = check_number(c, rank, "timeouts", s->timeouts, 0);
    return v;
}

/* ---- time ---- */

/* Nobody may wait longer than the longest wait there can be for each rank that was lost. */
static sim_verdict check_time(const checker *c, uint32_t lost)
{
    const sim_shape *s = &c->p->shape;
    uint64_t longest = 0, slowest = 1, limit = 2000000;
    for (uint32_t r = 0; r < s->ranks; r++) {
        longest = c->p->rank[r].timeout_ms > longest ? c->p->rank[r].timeout_ms : longest;
        slowest = c->p->rank[r].slow > slowest ? c->p->rank[r].slow : slowest;
        for (uint32_t i = 0; i < s->pairs; i++)
            limit += c->p->part[r][i].delay * 2ull;
    }
    limit += c->result->moves * MOVE_NS * slowest;
    for (uint32_t i = 0; i < SIM_FAULTS; i++)
        limit += (uint64_t)c->p->fault[i].time + c->p->fault[i].after;
    for (uint32_t r = 0; r < s->ranks; r++)
        if (lost >> r & 1)
            limit += (s->ranks + 2) * longest * 1000000;
    if (c->result->time_ns > limit)
        return wrong(c, SIM_TOO_LONG, "the run took %.3f ms of virtual time, and %.3f ms bound it",
                     (double)c->result->time_ns * 1e-6, (double)limit * 1e-6);
    return SIM_RIGHT;
}

/* ---- all of it ---- */

static sim_verdict check_ends(const checker *c, uint32_t lost)
{
    uint32_t missed = ranks_missed(c), dead = 0;
    for (uint32_t i = 0; i < SIM_FAULTS; i++)
        if (c->p->fault[i].kind == SIM_FAULT_DIE && c->result->struck[i])
            dead |= 1u << c->p->fault[i].rank;
    for (uint32_t r = 0; r < c->p->shape.ranks; r++) {
        sim_verdict v = SIM_RIGHT;
        if (dead >> r & 1)
            continue;
        if (!c->result->end[r].ended)
            return wrong(c, SIM_NOT_FINISHED, "rank %u did not come to its end", r);
        if ((v = check_record(c, r, lost)) != SIM_RIGHT || (v = check_masks(c, r, lost, missed)) != SIM_RIGHT ||
            (v = check_stats(c, r, lost)) != SIM_RIGHT)
            return v;
    }
    return check_time(c, lost);
}

sim_verdict sim_check(const sim_program *p, const sim_result *result, char *text, size_t bytes)
{
    if (result->trouble[0]) {
        snprintf(text, bytes, "%s", result->trouble);
        return SIM_TROUBLE;
    }
    checker *c = calloc(1, sizeof *c);
    if (!c) {
        snprintf(text, bytes, "no memory for the checks");
        return SIM_TROUBLE;
    }
    uint32_t lost = ranks_lost(p, result);
    sim_verdict verdict = SIM_RIGHT;
    *c = (checker){.p = p, .result = result, .text = text, .bytes = bytes};
    c->join_pair = sim_join_pair(p, &c->join_rank);
    for (c->pair = 0; c->pair < p->shape.pairs && verdict == SIM_RIGHT; c->pair++) {
        c->lost = lost & ~(c->pair >= c->join_pair ? 1u << c->join_rank : 0);
        verdict = check_pair(c);
    }
    if (verdict == SIM_RIGHT)
        verdict = check_ends(c, lost);
    free(c);
    return verdict;
}

uint64_t sim_seen_digest(const sim_program *p, const sim_result *result)
{
    uint64_t digest = DIGEST_START;
    size_t row = sim_row_bytes(p);
    for (uint32_t r = 0; r < p->shape.ranks; r++)
        for (uint32_t i = 0; i < p->shape.pairs; i++) {
            const sim_seen *seen = &result->seen[r][i];
            digest = digest_bytes(digest, seen->counts, sizeof seen->counts);
            digest = digest_bytes(digest, seen->row_bytes, seen->row_count * row);
            digest = digest_bytes(digest, seen->out, p->shape.tokens * row);
            digest = digest_bytes(digest, seen->flags, sizeof seen->flags);
        }
    return digest;
}
