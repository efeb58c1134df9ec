/* What happens to the others when a rank never sends, aborts, abandons a pair, overflows or disagrees. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "support/pair_oracle.h"

enum { HIDDEN = 16, TOKENS = 6 };

typedef struct rig {
    epg_group *group;
    epg_group_options options;
    pair_input in;
    void *expert_out;
} rig;

static epg_group_options options_for(uint32_t ranks)
{
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    o.experts = ranks * 2;
    o.hidden = HIDDEN;
    o.topk = ranks;
    o.max_tokens = TOKENS;
    o.timeout_ms = 300;
    return o;
}

/* Every token goes to the first expert of every rank, with weight 1. */
static int rig_make(test_rank *self, rig *r, const epg_group_options *o)
{
    pair_case c = {.experts = o->experts, .hidden = HIDDEN, .topk = o->topk, .max_tokens = TOKENS, .seed = 5};
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    r->options = *o;
    RANK_OK(epg_group_create(self->team, o, &r->group));
    RANK_OK(epg_group_view(r->group, 0, &view));
    RANK_CHECK(pair_input_make(&c, self->rank, 0, &r->in) == 0, "memory");
    r->in.tokens = TOKENS;
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t k = 0; k < o->topk; k++) {
            r->in.ids[t * o->topk + k] = (int32_t)(k * (o->experts / self->size));
            r->in.weights[t * o->topk + k] = 1;
        }
    r->expert_out = calloc(view.row_capacity, HIDDEN * sizeof(float));
    RANK_CHECK(r->expert_out, "memory");
    return 0;
}

static void rig_free(rig *r)
{
    epg_group_destroy(r->group);
    pair_input_free(&r->in);
    free(r->expert_out);
}

static int send(test_rank *self, rig *r, uint32_t lane)
{
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    args.lane = lane;
    args.bucket = TOKENS;
    args.rows = r->in.rows;
    args.topk_ids = r->in.ids;
    args.topk_weights = r->in.weights;
    RANK_OK(epg_dispatch_send(r->group, &args, self->stream));
    return 0;
}

static int finish(test_rank *self, rig *r, uint32_t lane)
{
    pair_experts_args experts = {EPG_DISPATCH_VIEW_INIT, {.hidden = HIDDEN}, r->expert_out};
    RANK_OK(epg_dispatch_recv(r->group, lane, &experts.view, self->stream));
    RANK_OK(epg_host_launch(self->device, self->stream, pair_experts_run, &experts, sizeof experts, "experts"));
    RANK_OK(epg_combine(r->group, lane, r->expert_out, r->in.out, self->stream));
    return 0;
}

static int pair(test_rank *self, rig *r) { return send(self, r, 0) || finish(self, r, 0); }

/* 1 unless, in a simulation, more than `ms` of its time have passed since `start`. A loaded machine proves nothing. */
static int in_time(const test_rank *self, uint64_t start, uint64_t ms)
{
    return epg_simulation_moves(self->device) == 0 || epg_device_now_ns(self->device) - start <= ms * 1000000;
}

/* ---- a rank never sends ---- */

static int one_is_silent(test_rank *self)
{
    rig r;
    epg_group_options o = options_for(self->size);
    epg_group_record record = EPG_GROUP_RECORD_INIT;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    const uint32_t *flags;
    uint32_t silent = self->size - 1;
    int alive;
    if (rig_make(self, &r, &o))
        return 1;
    if (self->rank != silent) {
        uint64_t start = epg_device_now_ns(self->device);
        if (pair(self, &r))
            return 1;
        RANK_OK(epg_stream_synchronize(self->device, self->stream));
        RANK_CHECK(in_time(self, start, o.timeout_ms * (self->size + 2)), "more than (ranks + 2) deadlines");
        RANK_CHECK(epg_group_check(r.group, &record) == EPG_ERR_TIMEOUT, "status %d", record.status);
        RANK_CHECK(record.peer == silent, "blames rank %u", record.peer);
        RANK_CHECK(strstr(epg_message(), "no signal from rank") != NULL, "message");
        RANK_OK(epg_group_alive(r.group, silent, &alive));
        RANK_CHECK(!alive, "not masked");
        RANK_OK(epg_group_flags(r.group, 0, &flags));
        for (uint32_t t = 0; t < TOKENS; t++)
            RANK_CHECK(flags[t] == 1, "token %u is not flagged", t);
        /* The survivors go on, at once. */
        start = epg_device_now_ns(self->device);
        for (int i = 0; i < 5; i++)
            if (pair(self, &r))
                return 1;
        RANK_OK(epg_stream_synchronize(self->device, self->stream));
        RANK_OK(epg_group_get_stats(r.group, &stats));
        RANK_CHECK(stats.pairs == 6 && stats.timeouts == 1, "%llu timeouts", (unsigned long long)stats.timeouts);
        RANK_CHECK(in_time(self, start, o.timeout_ms / 2), "another deadline");
    }
    RANK_OK(epg_team_barrier(self->team));
    rig_free(&r);
    return 0;
}

static void a_silent_rank_is_found(void **state)
{
    (void)state;
    assert_int_equal(run_ranks_both(2, 20000, one_is_silent, NULL, 20), 0);
    assert_int_equal(run_ranks_both(4, 20000, one_is_silent, NULL, 20), 0);
}

/* The silent rank comes back after it was masked: it learns so at once, and nobody is hurt. */
static int one_is_late(test_rank *self)
{
    rig r;
    epg_group_options o = options_for(self->size);
    epg_group_record record = EPG_GROUP_RECORD_INIT;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    const uint32_t *flags;
    if (rig_make(self, &r, &o))
        return 1;
    if (self->rank != 0 && pair(self, &r))
        return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_team_barrier(self->team));
    if (self->rank == 0) {
        if (pair(self, &r))
            return 1;
        RANK_OK(epg_stream_synchronize(self->device, self->stream));
    }
    RANK_OK(epg_team_barrier(self->team));
    epg_status status = epg_group_check(r.group, &record);
    if (self->rank == 0) {
        RANK_CHECK(status == EPG_ERR_MASKED && record.operation == EPG_OP_COMBINE_RECV, "status %d", status);
    } else {
        RANK_CHECK(status == EPG_ERR_TIMEOUT && record.peer == 0, "status %d", status);
        if (pair(self, &r)) /* after its late stores */
            return 1;
        RANK_OK(epg_stream_synchronize(self->device, self->stream));
        RANK_OK(epg_group_get_stats(r.group, &stats));
        RANK_CHECK(stats.pairs == 2 && stats.timeouts == 1, "%llu timeouts", (unsigned long long)stats.timeouts);
        RANK_OK(epg_group_flags(r.group, 0, &flags));
        RANK_CHECK(flags[0] == 1, "takes it back");
    }
    RANK_OK(epg_team_barrier(self->team));
    rig_free(&r);
    return 0;
}

static void a_late_rank_learns_that_it_is_masked(void **state)
{
    (void)state;
    assert_int_equal(run_ranks_both(3, 20000, one_is_late, NULL, 20), 0);
}

/* ---- abort ---- */

static int one_aborts(test_rank *self)
{
    rig r;
    epg_group_options o = options_for(self->size);
    o.timeout_ms = 20000;
    if (rig_make(self, &r, &o))
        return 1;
    if (self->rank == 1) {
        RANK_OK(epg_team_abort(self->team, "disk on fire"));
    } else {
        uint64_t start = epg_device_now_ns(self->device);
        if (pair(self, &r))
            return 1;
        RANK_OK(epg_stream_synchronize(self->device, self->stream));
        RANK_CHECK(in_time(self, start, o.timeout_ms / 2), "woken late");
        RANK_CHECK(epg_group_check(r.group, NULL) == EPG_ERR_ABORTED, "not aborted");
        RANK_CHECK(epg_team_barrier(self->team) == EPG_ERR_ABORTED && strstr(epg_message(), "disk on fire"), "reason");
    }
    rig_free(&r);
    return 0;
}

static void an_abort_wakes_everyone(void **state)
{
    (void)state;
    assert_int_equal(run_ranks_both(4, 20000, one_aborts, NULL, 20), 0);
}

/* ---- abandon, order ---- */

static int one_abandons(test_rank *self)
{
    rig r;
    epg_group_options o = options_for(self->size);
    const uint32_t *flags;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    if (rig_make(self, &r, &o))
        return 1;
    RANK_CHECK(epg_dispatch_recv(r.group, 0, &view, self->stream) == EPG_ERR_STATE, "out of order");
    RANK_CHECK(strstr(epg_message(), "dispatch send comes next"), "message");
    RANK_OK(epg_pair_abandon(r.group, 0, self->stream)); /* nothing open: nothing done */
    if (self->rank == 0) {
        if (send(self, &r, 0))
            return 1;
        RANK_OK(epg_pair_abandon(r.group, 0, self->stream));
    } else if (pair(self, &r)) {
        return 1;
    }
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_group_check(r.group, NULL));
    RANK_OK(epg_group_flags(r.group, 0, &flags));
    RANK_CHECK(self->rank == 0 || flags[0] == 1, "a void share is not flagged");
    if (pair(self, &r))
        return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_CHECK(flags[0] == 0, "the next pair is whole");
    RANK_OK(epg_group_check(r.group, NULL));
    rig_free(&r);
    return 0;
}

static void an_abandoned_pair_is_void_for_the_others(void **state)
{
    (void)state;
    assert_int_equal(run_ranks_both(3, 20000, one_abandons, NULL, 20), 0);
}

/* A pair opened in a capture that failed: abandon puts the order back and enqueues nothing. */
static int capture_fails(test_rank *self)
{
    rig r;
    epg_group_options o = options_for(self->size);
    epg_graph graph;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    if (rig_make(self, &r, &o))
        return 1;
    RANK_OK(epg_capture_begin(self->device, self->stream, EPG_CAPTURE_THREAD_LOCAL));
    if (send(self, &r, 0))
        return 1;
    RANK_CHECK(epg_stream_synchronize(self->device, self->stream) == EPG_ERR_CAPTURE_UNSUPPORTED, "sync in capture");
    RANK_CHECK(epg_capture_end(self->device, self->stream, &graph) == EPG_ERR_CAPTURE_INVALIDATED, "capture must fail");
    RANK_OK(epg_pair_abandon(r.group, 0, self->stream));
    RANK_OK(epg_group_get_stats(r.group, &stats));
    RANK_CHECK(stats.issued == 1 && stats.captured == 1, "issued %llu", (unsigned long long)stats.issued);
    if (pair(self, &r))
        return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_group_check(r.group, NULL));
    rig_free(&r);
    return 0;
}

static void a_failed_capture_leaves_the_group_usable(void **state)
{
    (void)state;
    assert_int_equal(run_ranks_both(2, 20000, capture_fails, NULL, 20), 0);
}

/* ---- overflow, bad ids, dropped tokens ---- */

static int overflows(test_rank *self)
{
    const int *kind = self->arg;
    rig r;
    epg_group_options o = options_for(self->size);
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    const uint32_t *flags;
    if (*kind == 0)
        o.slots = 4;
    else if (*kind == 1) {
        o.layout = EPG_LAYOUT_MASKED;
        o.rows_per_expert = 5;
    } else
        o.max_expert_rows = 5;
    if (rig_make(self, &r, &o) || pair(self, &r))
        return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_CHECK(epg_group_check(r.group, NULL) == EPG_ERR_OVERFLOW, "overflow is silent");
    RANK_OK(epg_group_get_stats(r.group, &stats));
    RANK_OK(epg_group_flags(r.group, 0, &flags));
    uint64_t kept = *kind == 0 ? 4u * self->size : 5, all = TOKENS * self->size, flagged = 0;
    RANK_CHECK(stats.dropped_rows == all - kept, "dropped %llu", (unsigned long long)stats.dropped_rows);
    for (uint32_t t = 0; t < TOKENS; t++)
        flagged += flags[t];
    RANK_CHECK(flagged == stats.flagged && (*kind != 0 || flagged == TOKENS - 4), "flagged %llu",
               (unsigned long long)flagged);
    RANK_CHECK(flags[TOKENS - 1] == 1, "the last token lost a row");
    RANK_OK(epg_team_barrier(self->team));
    rig_free(&r);
    return 0;
}

static void overflow_is_counted_and_flagged(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++)
        assert_int_equal(run_ranks_both(2, 20000, overflows, &kind, 20), 0);
}

static int bad_routing(test_rank *self)
{
    rig r;
    epg_group_options o = options_for(self->size);
    epg_group_record record = EPG_GROUP_RECORD_INIT;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    if (rig_make(self, &r, &o))
        return 1;
    r.in.ids[0] = 77;
    r.in.ids[o.topk] = r.in.ids[o.topk + 1]; /* chosen twice */
    if (pair(self, &r))
        return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_CHECK(epg_group_check(r.group, &record) == EPG_ERR_ROUTING && record.seen == 77, "seen %llu",
               (unsigned long long)record.seen);
    RANK_OK(epg_group_get_stats(r.group, &stats));
    RANK_CHECK(stats.bad_ids == 2, "bad ids %llu", (unsigned long long)stats.bad_ids);
    rig_free(&r);
    return 0;
}

static void bad_expert_ids_are_counted(void **state)
{
    (void)state;
    assert_int_equal(run_ranks_both(2, 20000, bad_routing, NULL, 20), 0);
}

/* ---- lanes and fill ---- */

typedef struct fill_ctx {
    test_rank *self;
    rig *r;
} fill_ctx;

static epg_status fill_experts(void *raw, uint32_t index, const epg_dispatch_view *view, epg_stream stream,
                               const void **rows)
{
    fill_ctx *ctx = raw;
    pair_experts_args experts = {*view, {.hidden = HIDDEN}, ctx->r->expert_out};
    (void)index;
    *rows = ctx->r->expert_out;
    return epg_host_launch(ctx->self->device, stream, pair_experts_run, &experts, sizeof experts, "experts");
}

static int one_fills(test_rank *self)
{
    rig r;
    epg_group_options o = options_for(self->size);
    const uint32_t *flags;
    fill_ctx ctx = {self, &r};
    o.lanes = 2;
    o.timeout_ms = 20000;
    if (rig_make(self, &r, &o) || pair(self, &r))
        return 1;
    RANK_OK(epg_group_flags(r.group, 1, &flags));
    if (self->rank == 0)
        RANK_OK(epg_group_fill(r.group, 1, 1, fill_experts, &ctx, self->stream));
    else if (send(self, &r, 1) || finish(self, &r, 1))
        return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    pair_case c = {.experts = o.experts, .hidden = HIDDEN, .topk = o.topk, .max_tokens = TOKENS, .seed = 5};
    RANK_CHECK(flags[0] == 0 && pair_error(&c, &r.in) < 1e-6, "served by the filling rank");
    if (self->rank == 0)
        RANK_OK(epg_group_fill(r.group, 1, 1, NULL, NULL, self->stream));
    else if (send(self, &r, 1) || finish(self, &r, 1))
        return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_CHECK(flags[0] == (self->rank != 0), "answered void");
    RANK_OK(epg_group_check(r.group, NULL));
    rig_free(&r);
    return 0;
}

static void fill_keeps_a_lane_in_step(void **state)
{
    (void)state;
    assert_int_equal(run_ranks_both(3, 20000, one_fills, NULL, 20), 0);
}

/* ---- rehearsal ---- */

static int rehearses_alone(test_rank *self)
{
    rig r;
    epg_group_options o = options_for(self->size);
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    if (rig_make(self, &r, &o))
        return 1;
    for (uint32_t i = 0; i < self->rank; i++) { /* each rank another number of times */
        RANK_OK(epg_group_rehearse(r.group, 1, self->stream));
        if (pair(self, &r))
            return 1;
        RANK_OK(epg_group_rehearse(r.group, 0, self->stream));
    }
    if (pair(self, &r))
        return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_group_check(r.group, NULL));
    RANK_OK(epg_group_get_stats(r.group, &stats));
    RANK_CHECK(stats.pairs == 1, "rehearsals ran %llu pairs", (unsigned long long)stats.pairs - 1);
    rig_free(&r);
    return 0;
}

static void a_rehearsal_runs_no_pair(void **state)
{
    (void)state;
    assert_int_equal(run_ranks_both(3, 20000, rehearses_alone, NULL, 20), 0);
}

/* ---- creation ---- */

static int one_differs(test_rank *self)
{
    epg_group_options o = options_for(self->size);
    epg_group *group = NULL;
    if (self->rank == 1)
        o.hidden = 64;
    RANK_CHECK(epg_group_create(self->team, &o, &group) == EPG_ERR_MISMATCH && !group, "created");
    RANK_CHECK(strstr(epg_message(), "hidden is"), "names the field");
    o = options_for(self->size);
    if (self->rank == 0)
        o.topk = 99;
    epg_status expected = self->rank == 0 ? EPG_ERR_INVALID : EPG_ERR_MISMATCH;
    RANK_CHECK(epg_group_create(self->team, &o, &group) == expected, "bad options on one rank");
    o = options_for(self->size);
    o.experts = 7;
    RANK_CHECK(epg_group_create(self->team, &o, &group) == EPG_ERR_INVALID && strstr(epg_message(), "experts is 7"),
               "7");
    o = options_for(self->size);
    RANK_OK(epg_group_create(self->team, &o, &group));
    epg_group_destroy(group);
    return 0;
}

static void creation_names_what_differs(void **state)
{
    (void)state;
    assert_int_equal(run_ranks_both(2, 20000, one_differs, NULL, 20), 0);
    assert_int_equal(run_ranks_both(3, 20000, one_differs, NULL, 20), 0);
}

static int one_misses_the_barrier(test_rank *self)
{
    if (self->rank == 1)
        return 0;
    RANK_CHECK(epg_team_barrier(self->team) == EPG_ERR_TIMEOUT && strstr(epg_message(), "rank 1"), "barrier");
    return 0;
}

static void a_barrier_names_who_is_missing(void **state)
{
    (void)state;
    assert_int_equal(run_ranks_both(3, 200, one_misses_the_barrier, NULL, 20), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_silent_rank_is_found),
        cmocka_unit_test(a_late_rank_learns_that_it_is_masked),
        cmocka_unit_test(an_abort_wakes_everyone),
        cmocka_unit_test(an_abandoned_pair_is_void_for_the_others),
        cmocka_unit_test(a_failed_capture_leaves_the_group_usable),
        cmocka_unit_test(overflow_is_counted_and_flagged),
        cmocka_unit_test(bad_expert_ids_are_counted),
        cmocka_unit_test(fill_keeps_a_lane_in_step),
        cmocka_unit_test(a_rehearsal_runs_no_pair),
        cmocka_unit_test(creation_names_what_differs),
        cmocka_unit_test(a_barrier_names_who_is_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
