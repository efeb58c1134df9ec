/* What docs/replay-contract.md promises of graphs that hold dispatch and combine, and what it forbids.
 *
 * Experts hand back what they get, and the weights of a token's two choices add up to 1 without rounding: what comes
 * back is the input, bit for bit. No kernels of the test's own, no memory but the device's: the bodies run on every
 * device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "support/device_under_test.h"
#include "support/ranks.h"

enum { HIDDEN = 16, TOKENS = 8, TOPK = 2, OUTS = 12, LANES = 2, SEEDS = 8 };

/* Everything that graphs hold the address of: host and device see it at one address. */
typedef struct book {
    uint32_t tokens;
    _Alignas(16) float rows[TOKENS][HIDDEN];
    _Alignas(16) float out[OUTS][TOKENS][HIDDEN];
    int32_t ids[TOKENS * TOPK];
    float weights[TOKENS * TOPK];
} book;

typedef struct rig {
    test_rank *self;
    epg_group *group;
    book *b;
} rig;

static int rig_make(test_rank *self, rig *r, uint32_t lanes)
{
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    void *memory;
    o.experts = 4 * self->size;
    o.hidden = HIDDEN;
    o.topk = TOPK;
    o.max_tokens = TOKENS;
    o.layout = EPG_LAYOUT_CONTIGUOUS;
    o.lanes = lanes;
    RANK_OK(epg_group_create(self->team, &o, &r->group));
    RANK_OK(epg_memory_alloc(self->device, EPG_MEMORY_MAPPED, sizeof *r->b, &memory));
    r->self = self;
    r->b = memory;
    return 0;
}

static int rig_free(test_rank *self, rig *r)
{
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_group_check(r->group, NULL));
    RANK_OK(epg_team_barrier(self->team));
    epg_group_destroy(r->group);
    RANK_OK(epg_memory_free(self->device, EPG_MEMORY_MAPPED, r->b));
    return 0;
}

/* Tokens, rows, ids and weights of a round, all of them new. */
static void write_inputs(rig *r, uint32_t round, uint32_t tokens)
{
    book *b = r->b;
    uint32_t experts = 4 * r->self->size;
    b->tokens = tokens;
    for (uint32_t t = 0; t < TOKENS; t++) {
        for (uint32_t h = 0; h < HIDDEN; h++)
            b->rows[t][h] = (float)(1000 * r->self->rank + 100 * (round % 50) + 10 * t + h);
        b->ids[t * TOPK] = (int32_t)((t + round) % experts);
        b->ids[t * TOPK + 1] = (int32_t)((t + round + 1 + r->self->rank % (experts - 1)) % experts);
        b->weights[t * TOPK] = round % 2 ? 0.25f : 0.5f;
        b->weights[t * TOPK + 1] = 1 - b->weights[t * TOPK];
    }
    for (uint32_t i = 0; i < OUTS; i++)
        for (uint32_t t = 0; t < TOKENS; t++)
            b->out[i][t][0] = -1;
}

static int check_outputs(test_rank *self, rig *r, uint32_t first, uint32_t end)
{
    const book *b = r->b;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_group_check(r->group, NULL));
    for (uint32_t i = first; i < end; i++) {
        RANK_CHECK(memcmp(b->out[i], b->rows, b->tokens * sizeof b->rows[0]) == 0, "pair %u", i);
        RANK_CHECK(b->tokens == TOKENS || b->out[i][b->tokens][0] == -1, "pair %u wrote beyond its tokens", i);
    }
    return 0;
}

static epg_dispatch_args args_of(const rig *r, uint32_t lane, uint32_t bucket, epg_mode mode)
{
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    args.lane = lane;
    args.mode = mode;
    args.bucket = bucket;
    args.tokens = &r->b->tokens;
    args.rows = r->b->rows;
    args.topk_ids = r->b->ids;
    args.topk_weights = r->b->weights;
    return args;
}

typedef struct pair_of {
    uint32_t lane, bucket, out;
    epg_mode mode;
} pair_of;

static int pair_on(test_rank *self, rig *r, pair_of p, epg_stream stream)
{
    epg_dispatch_args args = args_of(r, p.lane, p.bucket, p.mode);
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    RANK_OK(epg_dispatch(r->group, &args, &view, stream));
    RANK_OK(epg_combine(r->group, p.lane, view.rows, r->b->out[p.out], stream));
    return 0;
}

/* The first in `mode`, then LL and HT in turn. */
static int pairs(test_rank *self, rig *r, uint32_t first, uint32_t count, epg_mode mode, uint32_t bucket)
{
    for (uint32_t i = 0; i < count; i++) {
        epg_mode now = mode == EPG_MODE_AUTO || i % 2 == 0 ? mode : mode == EPG_MODE_LL ? EPG_MODE_HT : EPG_MODE_LL;
        if (pair_on(self, r, (pair_of){0, bucket, first + i, now}, self->stream))
            return 1;
    }
    return 0;
}

static int begin(test_rank *self)
{
    RANK_OK(epg_capture_begin(self->device, self->stream, EPG_CAPTURE_THREAD_LOCAL));
    return 0;
}

static int end(test_rank *self, epg_exec *exec)
{
    epg_graph graph;
    RANK_OK(epg_capture_end(self->device, self->stream, &graph));
    RANK_OK(epg_graph_instantiate(self->device, graph, exec));
    RANK_OK(epg_graph_destroy(self->device, graph));
    return 0;
}

/* A graph of `count` pairs, whose outputs are numbered from `first`. */
static int capture(test_rank *self, rig *r, uint32_t first, uint32_t count, epg_mode mode, uint32_t bucket,
                   epg_exec *exec)
{
    return begin(self) || pairs(self, r, first, count, mode, bucket) || end(self, exec);
}

/* Runs a body on the device under test and, where that is the host, in a number of interleavings. */
static void everywhere(uint32_t ranks, int (*body)(test_rank *self))
{
    uint64_t seeds = test_device_kind() == EPG_DEVICE_HOST ? SEEDS : 0;
    if (ranks > 1 && test_device_serial())
        skip(); /* where a body ran on one rank already, too: part of the test did not run */
    assert_int_equal(run_ranks_both(ranks, 0, body, NULL, seeds), 0);
}

/* ---- what may be done ---- */

static int odd_and_even(test_rank *self)
{
    rig r;
    epg_exec execs[OUTS];
    if (rig_make(self, &r, 1))
        return 1;
    for (uint32_t count = 1; count <= 5; count++)
        if (capture(self, &r, 0, count, EPG_MODE_LL, TOKENS, &execs[count]))
            return 1;
    for (uint32_t round = 0; round < 15; round++) { /* every graph after every other, and after itself */
        uint32_t count = 1 + (round * round / 2 + round % 3) % 5;
        write_inputs(&r, round, TOKENS);
        RANK_OK(epg_exec_launch(self->device, execs[count], self->stream));
        if (check_outputs(self, &r, 0, count))
            return 1;
    }
    for (uint32_t count = 1; count <= 5; count++)
        RANK_OK(epg_exec_destroy(self->device, execs[count]));
    return rig_free(self, &r);
}

static void a_graph_holds_any_number_of_pairs(void **state)
{
    (void)state;
    everywhere(1, odd_and_even);
    everywhere(3, odd_and_even);
}

/* Twelve pairs a round. Each rank cuts them into other graphs, with eager pairs between, other modes and buckets. */
static int own_cut(test_rank *self)
{
    rig r;
    epg_exec execs[OUTS];
    uint32_t firsts[OUTS], counts[OUTS], cuts = 0;
    if (rig_make(self, &r, 1))
        return 1;
    for (uint32_t at = 0; at < OUTS; at += counts[cuts++]) {
        firsts[cuts] = at;
        counts[cuts] = 1 + (at * (self->rank + 1) + self->rank) % 4;
        counts[cuts] = at + counts[cuts] > OUTS ? OUTS - at : counts[cuts];
        if (capture(self, &r, at, counts[cuts], (cuts + self->rank) % 2 ? EPG_MODE_LL : EPG_MODE_HT,
                    self->rank == 1 ? TOKENS / 2 : TOKENS, &execs[cuts]))
            return 1;
    }
    for (uint32_t round = 0; round < 6; round++) {
        write_inputs(&r, round, (round + self->rank) % (TOKENS / 2 + 1));
        for (uint32_t i = 0; i < cuts; i++) {
            uint32_t c = (i + round) % cuts; /* in another order each round */
            if ((round + i + self->rank) % 3 == 0) {
                if (pairs(self, &r, firsts[c], counts[c], EPG_MODE_AUTO, TOKENS))
                    return 1;
            } else {
                RANK_OK(epg_exec_launch(self->device, execs[c], self->stream));
            }
        }
        if (check_outputs(self, &r, 0, OUTS))
            return 1;
    }
    for (uint32_t c = 0; c < cuts; c++)
        RANK_OK(epg_exec_destroy(self->device, execs[c]));
    return rig_free(self, &r);
}

static void ranks_cut_the_same_pairs_into_different_graphs(void **state)
{
    (void)state;
    everywhere(2, own_cut);
    everywhere(4, own_cut);
}

static int in_place_changes(test_rank *self)
{
    rig r;
    epg_exec exec;
    int32_t *map;
    if (rig_make(self, &r, 1) || capture(self, &r, 0, 3, EPG_MODE_LL, TOKENS, &exec))
        return 1;
    RANK_OK(epg_group_expert_map(r.group, &map));
    for (uint32_t round = 0; round < 9; round++) {
        write_inputs(&r, round, (round * 5 + self->rank) % (TOKENS + 1)); /* count, rows, ids, weights */
        int32_t turned[4 * 8];
        for (uint32_t e = 0; e < 4 * self->size; e++) /* the experts move round the ranks */
            turned[e] = (int32_t)((e + round) % (4 * self->size));
        RANK_OK(epg_memcpy_async(self->device, map, turned, 4 * self->size * sizeof *turned, self->stream));
        RANK_OK(epg_exec_launch(self->device, exec, self->stream));
        if (check_outputs(self, &r, 0, 3))
            return 1;
    }
    int32_t nowhere = -1; /* logical expert 0 is taken out of service */
    write_inputs(&r, 0, 1);
    RANK_OK(epg_memcpy_async(self->device, map, &nowhere, sizeof nowhere, self->stream));
    RANK_OK(epg_exec_launch(self->device, exec, self->stream));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_CHECK(r.b->out[0][0][1] == r.b->rows[0][1] * 0.5f, "%g", (double)r.b->out[0][0][1]);
    RANK_OK(epg_exec_destroy(self->device, exec));
    return rig_free(self, &r);
}

static void everything_a_graph_reads_may_change_between_replays(void **state)
{
    (void)state;
    everywhere(1, in_place_changes);
    everywhere(3, in_place_changes);
}

static int outlived(test_rank *self)
{
    rig r;
    epg_exec exec;
    if (rig_make(self, &r, 1))
        return 1;
    for (uint32_t round = 0; round < 4; round++) {
        write_inputs(&r, round, TOKENS);
        if (capture(self, &r, 0, 1 + round, EPG_MODE_HT, TOKENS, &exec))
            return 1;
        RANK_OK(epg_exec_launch(self->device, exec, self->stream));
        RANK_OK(epg_exec_destroy(self->device, exec)); /* the replay in flight runs to its end */
        if (pairs(self, &r, 1 + round, 1, EPG_MODE_LL, TOKENS) || check_outputs(self, &r, 0, 2 + round))
            return 1;
    }
    if (capture(self, &r, 0, 1, EPG_MODE_LL, TOKENS, &exec) || rig_free(self, &r))
        return 1;
    RANK_OK(epg_exec_destroy(self->device, exec)); /* the other way round: it is not launched any more */
    return 0;
}

static void a_group_and_its_graphs_end_in_either_order(void **state)
{
    (void)state;
    everywhere(2, outlived);
}

/* Each rank captures another number of graphs, at another time, and launches none of them. */
static int capture_only(test_rank *self)
{
    rig r;
    epg_exec exec;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    if (rig_make(self, &r, 1))
        return 1;
    for (uint32_t i = 0; i < 4; i++) {
        write_inputs(&r, i, TOKENS);
        for (uint32_t extra = 0; extra < self->rank; extra++) {
            if (capture(self, &r, 0, 2, EPG_MODE_LL, TOKENS, &exec))
                return 1;
            RANK_OK(epg_exec_destroy(self->device, exec));
        }
        if (pairs(self, &r, 0, 1, EPG_MODE_LL, TOKENS) || check_outputs(self, &r, 0, 1))
            return 1;
    }
    RANK_OK(epg_group_get_stats(r.group, &stats));
    RANK_CHECK(stats.pairs == 4 && stats.captured == 8 * 4 * self->rank, "%llu pairs", (unsigned long long)stats.pairs);
    return rig_free(self, &r);
}

static void a_capture_runs_no_pair(void **state)
{
    (void)state;
    everywhere(3, capture_only);
}

static int in_flight(test_rank *self)
{
    rig r;
    epg_exec exec;
    epg_stream other;
    epg_event done;
    if (rig_make(self, &r, 1) || capture(self, &r, 0, 3, EPG_MODE_LL, TOKENS, &exec))
        return 1;
    RANK_OK(epg_stream_create(self->device, EPG_STREAM_NONBLOCKING, &other));
    RANK_OK(epg_event_create(self->device, &done));
    for (uint32_t round = 0; round < 4; round++) {
        write_inputs(&r, round, TOKENS);
        RANK_OK(epg_exec_launch(self->device, exec, self->stream)); /* two behind one another in one stream ... */
        RANK_OK(epg_exec_launch(self->device, exec, self->stream));
        RANK_OK(epg_exec_launch(self->device, exec, other)); /* ... one more in another stream: the same executable */
        RANK_OK(epg_event_record(self->device, done, other));
        RANK_OK(epg_stream_wait_event(self->device, self->stream, done));
        if (pairs(self, &r, 3, 1, EPG_MODE_HT, TOKENS) || check_outputs(self, &r, 0, 4))
            return 1;
    }
    RANK_OK(epg_event_destroy(self->device, done));
    RANK_OK(epg_stream_destroy(self->device, other));
    RANK_OK(epg_exec_destroy(self->device, exec));
    return rig_free(self, &r);
}

static void launches_in_flight_run_one_after_the_other(void **state)
{
    (void)state;
    everywhere(2, in_flight);
}

/* Different graphs on different streams, ordered by events. */
static int wanders(test_rank *self)
{
    rig r;
    epg_exec execs[2];
    epg_stream streams[3] = {self->stream, NULL, NULL};
    epg_event done;
    if (rig_make(self, &r, 1) || capture(self, &r, 0, 1, EPG_MODE_LL, TOKENS, &execs[0]) ||
        capture(self, &r, 1, 2, EPG_MODE_HT, TOKENS, &execs[1]))
        return 1;
    for (int i = 1; i < 3; i++)
        RANK_OK(epg_stream_create(self->device, i == 1 ? EPG_STREAM_NONBLOCKING : EPG_STREAM_BLOCKING, &streams[i]));
    RANK_OK(epg_event_create(self->device, &done));
    for (uint32_t round = 0; round < 6; round++) {
        write_inputs(&r, round, TOKENS);
        for (uint32_t i = 0; i < 4; i++) { /* the last one brings it back to streams[0] */
            epg_stream now = streams[(3 - i) % 3], next = streams[i == 3 ? 0 : (2 - i) % 3];
            RANK_OK(epg_exec_launch(self->device, execs[(i + round) % 2], now));
            RANK_OK(epg_event_record(self->device, done, now));
            RANK_OK(epg_stream_wait_event(self->device, next, done));
        }
        if (check_outputs(self, &r, 0, 3))
            return 1;
    }
    RANK_OK(epg_event_destroy(self->device, done));
    for (int i = 1; i < 3; i++)
        RANK_OK(epg_stream_destroy(self->device, streams[i]));
    for (int i = 0; i < 2; i++)
        RANK_OK(epg_exec_destroy(self->device, execs[i]));
    return rig_free(self, &r);
}

static void replays_wander_over_streams(void **state)
{
    (void)state;
    everywhere(2, wanders);
}

/* Two lanes on two branches of one graph. */
static int two_lanes(test_rank *self)
{
    rig r;
    epg_exec exec;
    epg_stream branch;
    epg_event fork, join;
    if (rig_make(self, &r, LANES))
        return 1;
    RANK_OK(epg_stream_create(self->device, EPG_STREAM_NONBLOCKING, &branch));
    RANK_OK(epg_event_create(self->device, &fork));
    RANK_OK(epg_event_create(self->device, &join));
    if (begin(self))
        return 1;
    RANK_OK(epg_event_record(self->device, fork, self->stream));
    RANK_OK(epg_stream_wait_event(self->device, branch, fork));
    for (uint32_t i = 0; i < 3; i++) /* three pairs in lane 0, two in lane 1 */
        if (pair_on(self, &r, (pair_of){0, TOKENS, i, EPG_MODE_LL}, self->stream) ||
            (i < 2 && pair_on(self, &r, (pair_of){1, TOKENS, 3 + i, EPG_MODE_HT}, branch)))
            return 1;
    RANK_OK(epg_event_record(self->device, join, branch));
    RANK_OK(epg_stream_wait_event(self->device, self->stream, join));
    if (end(self, &exec))
        return 1;
    for (uint32_t round = 0; round < 5; round++) {
        write_inputs(&r, round, (round + self->rank) % (TOKENS + 1));
        RANK_OK(epg_exec_launch(self->device, exec, self->stream));
        if (check_outputs(self, &r, 0, 5))
            return 1;
    }
    RANK_OK(epg_exec_destroy(self->device, exec));
    RANK_OK(epg_event_destroy(self->device, join));
    RANK_OK(epg_event_destroy(self->device, fork));
    RANK_OK(epg_stream_destroy(self->device, branch));
    return rig_free(self, &r);
}

static void lanes_are_branches_of_one_graph(void **state)
{
    (void)state;
    everywhere(2, two_lanes);
}

/* Each rank replays its graph under rehearsal another number of times. */
static int rehearses(test_rank *self)
{
    rig r;
    epg_exec exec;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    if (rig_make(self, &r, 1) || capture(self, &r, 0, 3, EPG_MODE_LL, TOKENS, &exec))
        return 1;
    write_inputs(&r, 1, TOKENS);
    RANK_OK(epg_group_rehearse(r.group, 1, self->stream));
    for (uint32_t i = 0; i < 2 * self->rank; i++)
        RANK_OK(epg_exec_launch(self->device, exec, self->stream));
    RANK_OK(epg_group_rehearse(r.group, 0, self->stream));
    RANK_OK(epg_exec_launch(self->device, exec, self->stream));
    if (check_outputs(self, &r, 0, 3))
        return 1;
    RANK_OK(epg_group_get_stats(r.group, &stats));
    RANK_CHECK(stats.pairs == 3, "%llu pairs", (unsigned long long)stats.pairs);
    RANK_OK(epg_exec_destroy(self->device, exec));
    return rig_free(self, &r);
}

static void a_replay_under_rehearsal_runs_no_pair(void **state)
{
    (void)state;
    everywhere(3, rehearses);
}

/* The last rank is given up by hand and runs no more pairs; graphs captured before skip it, and wait for nobody. */
static int skips(test_rank *self)
{
    rig r;
    epg_exec exec;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    uint32_t gone = self->size - 1;
    if (rig_make(self, &r, 1) || capture(self, &r, 0, 3, EPG_MODE_HT, TOKENS, &exec))
        return 1;
    write_inputs(&r, 0, TOKENS);
    RANK_OK(epg_exec_launch(self->device, exec, self->stream));
    if (check_outputs(self, &r, 0, 3))
        return 1;
    if (self->rank != gone) {
        RANK_OK(epg_group_mask(r.group, gone));
        for (uint32_t t = 0; t < TOKENS; t++) { /* one choice of each token goes to the rank that is gone */
            r.b->ids[t * TOPK] = (int32_t)(4 * gone + t % 4);
            r.b->ids[t * TOPK + 1] = (int32_t)(t % 4);
        }
        RANK_OK(epg_exec_launch(self->device, exec, self->stream));
        RANK_OK(epg_stream_synchronize(self->device, self->stream));
        RANK_OK(epg_group_get_stats(r.group, &stats));
        RANK_CHECK(stats.timeouts == 0, "%llu timeouts", (unsigned long long)stats.timeouts);
        RANK_CHECK(stats.flagged == 3 * TOKENS, "%llu flagged", (unsigned long long)stats.flagged);
        for (uint32_t t = 0; t < TOKENS; t++)
            RANK_CHECK(r.b->out[2][t][1] == r.b->rows[t][1] * r.b->weights[t * TOPK + 1], "token %u", t);
    }
    RANK_OK(epg_exec_destroy(self->device, exec));
    return rig_free(self, &r);
}

static void graphs_captured_before_skip_a_masked_rank(void **state)
{
    (void)state;
    everywhere(3, skips);
}

/* ---- what may not be done ---- */

static int crosses(test_rank *self)
{
    rig r;
    epg_exec exec;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    if (rig_make(self, &r, 1))
        return 1;
    write_inputs(&r, 0, TOKENS);
    epg_dispatch_args args = args_of(&r, 0, TOKENS, EPG_MODE_LL);
    RANK_OK(epg_dispatch_send(r.group, &args, self->stream));
    if (begin(self)) /* opened before the capture, to be ended in it */
        return 1;
    RANK_CHECK(epg_dispatch_recv(r.group, 0, &view, self->stream) == EPG_ERR_STATE, "into a capture");
    RANK_CHECK(strstr(epg_message(), "outside of this capture"), "message");
    if (end(self, &exec))
        return 1;
    RANK_OK(epg_exec_destroy(self->device, exec));
    RANK_OK(epg_dispatch_recv(r.group, 0, &view, self->stream)); /* the pair goes on where it was begun */
    RANK_OK(epg_combine(r.group, 0, view.rows, r.b->out[0], self->stream));
    if (check_outputs(self, &r, 0, 1) || begin(self))
        return 1;
    RANK_OK(epg_dispatch_send(r.group, &args, self->stream));
    if (end(self, &exec)) /* a graph with half a pair: it must not be launched */
        return 1;
    RANK_CHECK(epg_dispatch_recv(r.group, 0, &view, self->stream) == EPG_ERR_STATE, "out of a capture");
    RANK_CHECK(strstr(epg_message(), "in another capture"), "message");
    RANK_OK(epg_exec_destroy(self->device, exec));
    RANK_OK(epg_pair_abandon(r.group, 0, self->stream));
    if (pairs(self, &r, 0, 1, EPG_MODE_LL, TOKENS) || check_outputs(self, &r, 0, 1))
        return 1;
    return rig_free(self, &r);
}

static void a_pair_does_not_cross_the_edge_of_a_capture(void **state)
{
    (void)state;
    everywhere(2, crosses);
}

/* Rank 0 captures a pair that it abandons: void halves, at every replay. Its peers are told so, and go on. */
static int abandons(test_rank *self)
{
    rig r;
    epg_exec exec;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    if (rig_make(self, &r, 1) || begin(self))
        return 1;
    write_inputs(&r, 0, TOKENS);
    if (self->rank == 0) {
        epg_dispatch_args args = args_of(&r, 0, TOKENS, EPG_MODE_LL);
        RANK_OK(epg_dispatch_send(r.group, &args, self->stream));
        RANK_OK(epg_pair_abandon(r.group, 0, self->stream));
    } else if (pairs(self, &r, 0, 1, EPG_MODE_LL, TOKENS)) {
        return 1;
    }
    if (pairs(self, &r, 1, 1, EPG_MODE_LL, TOKENS) || end(self, &exec))
        return 1;
    for (uint32_t round = 0; round < 3; round++) {
        RANK_OK(epg_exec_launch(self->device, exec, self->stream));
        if (check_outputs(self, &r, 1, 2)) /* the pair after it is whole */
            return 1;
        RANK_OK(epg_group_get_stats(r.group, &stats));
        RANK_CHECK(self->rank == 0 || stats.flagged >= round + 1, "%llu flagged", (unsigned long long)stats.flagged);
        RANK_CHECK(self->rank != 0 || r.b->out[0][0][0] == -1, "an abandoned pair wrote");
    }
    RANK_OK(epg_exec_destroy(self->device, exec));
    return rig_free(self, &r);
}

static void a_pair_abandoned_in_a_capture_is_void_at_every_replay(void **state)
{
    (void)state;
    everywhere(2, abandons);
}

static int not_in_a_capture(test_rank *self)
{
    rig r;
    epg_exec exec, inner;
    if (rig_make(self, &r, 1) || capture(self, &r, 0, 1, EPG_MODE_LL, TOKENS, &inner) || begin(self))
        return 1;
    write_inputs(&r, 0, TOKENS);
    RANK_CHECK(epg_group_rehearse(r.group, 1, self->stream) == EPG_ERR_STATE, "rehearse");
    RANK_CHECK(strstr(epg_message(), "a rehearsal cannot be captured"), "message");
    if (pairs(self, &r, 1, 1, EPG_MODE_LL, TOKENS) || end(self, &exec)) /* the capture goes on all the same */
        return 1;
    RANK_OK(epg_exec_launch(self->device, exec, self->stream));
    if (check_outputs(self, &r, 1, 2) || begin(self))
        return 1;
    RANK_CHECK(epg_exec_launch(self->device, inner, self->stream) == EPG_ERR_CAPTURE_UNSUPPORTED, "a replay");
    epg_graph graph;
    (void)(epg_capture_end(self->device, self->stream, &graph) == EPG_OK && epg_graph_destroy(self->device, graph));
    RANK_OK(epg_exec_launch(self->device, inner, self->stream));
    if (check_outputs(self, &r, 0, 1))
        return 1;
    RANK_OK(epg_exec_destroy(self->device, inner));
    RANK_OK(epg_exec_destroy(self->device, exec));
    return rig_free(self, &r);
}

static void replays_and_rehearsals_are_not_captured(void **state)
{
    (void)state;
    everywhere(1, not_in_a_capture);
}

static int beyond(test_rank *self)
{
    rig r;
    epg_exec exec;
    epg_group_record record = EPG_GROUP_RECORD_INIT;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    if (rig_make(self, &r, 1) || capture(self, &r, 0, 1, EPG_MODE_LL, TOKENS / 2, &exec))
        return 1;
    write_inputs(&r, 0, TOKENS - 1);
    RANK_OK(epg_exec_launch(self->device, exec, self->stream));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_CHECK(epg_group_check(r.group, &record) == EPG_ERR_OVERFLOW, "silent");
    RANK_CHECK(record.expected == TOKENS / 2, "bucket %llu", (unsigned long long)record.expected);
    RANK_CHECK(record.seen == TOKENS - 1, "seen %llu", (unsigned long long)record.seen);
    RANK_OK(epg_group_get_stats(r.group, &stats));
    RANK_CHECK(stats.dropped_tokens == TOKENS / 2 - 1, "%llu dropped", (unsigned long long)stats.dropped_tokens);
    RANK_CHECK(r.b->out[0][TOKENS / 2][0] == -1 && r.b->out[0][0][1] == r.b->rows[0][1], "out");
    RANK_OK(epg_group_clear_record(r.group));
    RANK_OK(epg_exec_destroy(self->device, exec));
    return rig_free(self, &r);
}

static void tokens_beyond_a_captured_bucket_are_counted(void **state)
{
    (void)state;
    everywhere(2, beyond);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_graph_holds_any_number_of_pairs),
        cmocka_unit_test(ranks_cut_the_same_pairs_into_different_graphs),
        cmocka_unit_test(everything_a_graph_reads_may_change_between_replays),
        cmocka_unit_test(a_group_and_its_graphs_end_in_either_order),
        cmocka_unit_test(a_capture_runs_no_pair),
        cmocka_unit_test(launches_in_flight_run_one_after_the_other),
        cmocka_unit_test(replays_wander_over_streams),
        cmocka_unit_test(lanes_are_branches_of_one_graph),
        cmocka_unit_test(a_replay_under_rehearsal_runs_no_pair),
        cmocka_unit_test(graphs_captured_before_skip_a_masked_rank),
        cmocka_unit_test(a_pair_does_not_cross_the_edge_of_a_capture),
        cmocka_unit_test(a_pair_abandoned_in_a_capture_is_void_at_every_replay),
        cmocka_unit_test(replays_and_rehearsals_are_not_captured),
        cmocka_unit_test(tokens_beyond_a_captured_bucket_are_counted),
    };
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
