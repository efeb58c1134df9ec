/* A rank that stops on the GPU, held by a kernel that spins on a mapped flag: the others' waits end within the bound,
 * each record names it, and the survivors go on with the graphs that they have. Let go, it learns that it was masked
 * and hurts nobody. And an abort of the team ends waits that run on the GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "support/device_under_test.h"
#include "support/ranks.h"
#include "support/work.h"

enum { HIDDEN = 64, TOKENS = 8, PAIRS = 3, GRAPHS = 2, RANKS_MOST = 4 };

/* Everything that graphs hold the address of: host and device see it at one address. */
typedef struct book {
    _Alignas(16) float rows[TOKENS][HIDDEN];
    _Alignas(16) float out[PAIRS][TOKENS][HIDDEN];
    int32_t ids[TOKENS * RANKS_MOST];
    float weights[TOKENS * RANKS_MOST];
} book;

typedef struct rig {
    epg_group *group;
    epg_exec execs[GRAPHS]; /* PAIRS pairs each: the first in LL, HT, LL, the other the other way round */
    book *b;
    work *gate;
} rig;

/* Where the last rank stops: before a replay, or with its experts, between the halves of an eager pair. */
typedef enum place { BEFORE, BETWEEN } place;
typedef struct plan {
    place where;
    uint32_t timeout_ms;
} plan;

static int pair(test_rank *self, rig *r, epg_mode mode, uint32_t out, int stops)
{
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    args.mode = mode;
    args.bucket = TOKENS;
    args.rows = r->b->rows;
    args.topk_ids = r->b->ids;
    args.topk_weights = r->b->weights;
    RANK_OK(epg_dispatch(r->group, &args, &view, self->stream));
    if (stops)
        RANK_OK(work_note(self->device, self->stream, r->gate, 1, 0));
    RANK_OK(epg_combine(r->group, 0, view.rows, r->b->out[out], self->stream));
    return 0;
}

static int capture(test_rank *self, rig *r, uint32_t number)
{
    epg_graph graph;
    RANK_OK(epg_capture_begin(self->device, self->stream, EPG_CAPTURE_THREAD_LOCAL));
    for (uint32_t i = 0; i < PAIRS; i++)
        if (pair(self, r, (i + number) % 2 ? EPG_MODE_HT : EPG_MODE_LL, i, 0))
            return 1;
    RANK_OK(epg_capture_end(self->device, self->stream, &graph));
    RANK_OK(epg_graph_instantiate(self->device, graph, &r->execs[number]));
    RANK_OK(epg_graph_destroy(self->device, graph));
    return 0;
}

static float weight_of(uint32_t rank) { return 1.0f / (float)(2u << rank); }

/* Each token goes to one expert of every rank, by weights whose sum tells whose shares are in it. */
static int rig_make(test_rank *self, rig *r, uint32_t timeout_ms)
{
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    void *memory;
    o.experts = 2 * self->size;
    o.hidden = HIDDEN;
    o.topk = self->size;
    o.max_tokens = TOKENS;
    o.layout = EPG_LAYOUT_CONTIGUOUS;
    o.timeout_ms = timeout_ms;
    RANK_OK(epg_memory_alloc(self->device, EPG_MEMORY_MAPPED, sizeof *r->b, &memory));
    r->b = memory;
    RANK_CHECK((r->gate = work_create(self->device)) != NULL, "memory");
    for (uint32_t i = 0; i < TOKENS * self->size; i++) {
        r->b->ids[i] = (int32_t)(2 * (i % self->size) + i / self->size % 2);
        r->b->weights[i] = weight_of(i % self->size);
    }
    RANK_OK(epg_group_create(self->team, &o, &r->group));
    return capture(self, r, 0) || capture(self, r, 1);
}

/* When no step is in flight: on a GPU, freeing waits for every kernel. */
static int rig_free(test_rank *self, rig *r)
{
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_team_barrier(self->team));
    for (int i = 0; i < GRAPHS; i++)
        RANK_OK(epg_exec_destroy(self->device, r->execs[i]));
    epg_group_destroy(r->group);
    work_destroy(self->device, r->gate);
    RANK_OK(epg_memory_free(self->device, EPG_MEMORY_MAPPED, r->b));
    return 0;
}

static void fill(test_rank *self, rig *r, uint32_t step)
{
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t h = 0; h < HIDDEN; h++)
            r->b->rows[t][h] = (float)(64 * ((step + self->rank) % 5) + 8 * t + h % 8);
    memset(r->b->out, 0xAB, sizeof r->b->out);
}

/* Every token holds the shares of exactly the first `ranks`. */
static int check(test_rank *self, rig *r, uint32_t first, uint32_t ranks)
{
    float share = 0;
    for (uint32_t rank = 0; rank < ranks; rank++)
        share += weight_of(rank);
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    for (uint32_t p = first; p < PAIRS; p++)
        for (uint32_t t = 0; t < TOKENS; t++)
            for (uint32_t h = 0; h < HIDDEN; h++)
                RANK_CHECK(r->b->out[p][t][h] == r->b->rows[t][h] * share, "pair %u, token %u: %g of %g", p, t,
                           (double)r->b->out[p][t][h], (double)r->b->rows[t][h]);
    return 0;
}

static int replay(test_rank *self, rig *r, uint32_t step, uint32_t ranks)
{
    fill(self, r, step);
    RANK_OK(epg_exec_launch(self->device, r->execs[step % GRAPHS], self->stream));
    return check(self, r, 0, ranks);
}

/* A step in which the last rank stops. */
static int enqueue_step(test_rank *self, rig *r, const plan *p)
{
    int stops = self->rank == self->size - 1;
    fill(self, r, 2);
    if (p->where == BETWEEN)
        return pair(self, r, EPG_MODE_LL, 0, stops) || pair(self, r, EPG_MODE_HT, 1, 0) ||
               pair(self, r, EPG_MODE_LL, 2, 0);
    if (stops)
        RANK_OK(work_note(self->device, self->stream, r->gate, 1, 0));
    RANK_OK(epg_exec_launch(self->device, r->execs[0], self->stream));
    return 0;
}

/* One of the others, once its step is over. */
static int is_told(test_rank *self, rig *r, const plan *p, uint64_t took_ns)
{
    epg_group_record record = EPG_GROUP_RECORD_INIT;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    uint32_t stopped = self->size - 1;
    int alive;
    RANK_CHECK(took_ns < (self->size + 3) * p->timeout_ms * 1000000ull, "took %llu ns", (unsigned long long)took_ns);
    RANK_CHECK(epg_group_check(r->group, &record) == EPG_ERR_TIMEOUT, "status %d", (int)record.status);
    RANK_CHECK(record.peer == stopped, "blames rank %u", record.peer);
    RANK_CHECK(record.operation == (p->where == BEFORE ? EPG_OP_DISPATCH_RECV : EPG_OP_COMBINE_RECV), "%d",
               (int)record.operation);
    RANK_CHECK(record.seen != record.expected, "seen %llu", (unsigned long long)record.seen);
    RANK_OK(epg_group_get_stats(r->group, &stats));
    RANK_CHECK(stats.timeouts == 1 && stats.flagged == (uint64_t)PAIRS * TOKENS, "%llu timeouts, %llu flagged",
               (unsigned long long)stats.timeouts, (unsigned long long)stats.flagged);
    for (uint32_t rank = 0; rank < self->size; rank++) {
        RANK_OK(epg_group_alive(r->group, rank, &alive));
        RANK_CHECK(alive == (rank != stopped), "rank %u", rank);
    }
    return check(self, r, 0, stopped);
}

static int one_stops(test_rank *self)
{
    const plan *p = self->arg;
    rig r;
    uint32_t others = self->size - 1;
    if (rig_make(self, &r, p->timeout_ms) || replay(self, &r, 0, self->size) || replay(self, &r, 1, self->size))
        return 1;
    RANK_OK(epg_team_barrier(self->team));
    uint64_t start = epg_device_now_ns(self->device);
    if (enqueue_step(self, &r, p))
        return 1;
    if (self->rank != others) {
        RANK_OK(epg_stream_synchronize(self->device, self->stream));
        if (is_told(self, &r, p, epg_device_now_ns(self->device) - start))
            return 1;
        for (uint32_t step = 3; step < 9; step++) /* at once, with the graphs from before */
            if (replay(self, &r, step, others))
                return 1;
    }
    RANK_OK(epg_team_barrier(self->team));
    if (self->rank == others) { /* let go: its late stores are of a pair that is over */
        work_open(r.gate);
        RANK_OK(epg_stream_synchronize(self->device, self->stream));
        epg_status status = epg_group_check(r.group, NULL);
        RANK_CHECK(status == EPG_ERR_MASKED, "status %d", (int)status);
    } else {
        for (uint32_t step = 9; step < 12; step++)
            if (replay(self, &r, step, others))
                return 1;
    }
    return rig_free(self, &r);
}

static void others_go_on_without_a_rank_that_stopped_before_a_replay(void **state)
{
    (void)state;
    plan p = {BEFORE, 300};
    assert_int_equal(run_ranks(2, 20000, one_stops, &p), 0);
    assert_int_equal(run_ranks(4, 20000, one_stops, &p), 0);
}

static void others_go_on_without_a_rank_whose_experts_stopped(void **state)
{
    (void)state;
    plan p = {BETWEEN, 300};
    assert_int_equal(run_ranks(2, 20000, one_stops, &p), 0);
    assert_int_equal(run_ranks(4, 20000, one_stops, &p), 0);
}

static int one_aborts(test_rank *self)
{
    const plan *p = self->arg;
    rig r;
    if (rig_make(self, &r, p->timeout_ms) || replay(self, &r, 0, self->size))
        return 1;
    uint64_t start = epg_device_now_ns(self->device);
    if (self->rank == 1) {
        RANK_OK(epg_team_abort(self->team, "disk on fire"));
    } else {
        RANK_OK(epg_exec_launch(self->device, r.execs[0], self->stream));
        RANK_OK(epg_stream_synchronize(self->device, self->stream));
        RANK_CHECK(epg_device_now_ns(self->device) - start < p->timeout_ms * 1000000ull / 2, "woken late");
        RANK_CHECK(epg_group_check(r.group, NULL) == EPG_ERR_ABORTED, "not aborted");
    }
    for (int i = 0; i < GRAPHS; i++)
        RANK_OK(epg_exec_destroy(self->device, r.execs[i]));
    epg_group_destroy(r.group);
    work_destroy(self->device, r.gate);
    RANK_OK(epg_memory_free(self->device, EPG_MEMORY_MAPPED, r.b));
    return 0;
}

static void an_abort_ends_waits_on_the_gpu(void **state)
{
    (void)state;
    plan p = {BEFORE, 20000};
    assert_int_equal(run_ranks(4, 20000, one_aborts, &p), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(others_go_on_without_a_rank_that_stopped_before_a_replay),
        cmocka_unit_test(others_go_on_without_a_rank_whose_experts_stopped),
        cmocka_unit_test(an_abort_ends_waits_on_the_gpu),
    };
    if (test_gpu_missing()) /* also the call of CUDA's without which compute-sanitizer reports an error */
        return 77;
    if (test_device_serial()) {
        puts("ranks wait for one another");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
