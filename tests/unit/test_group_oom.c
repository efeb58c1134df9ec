/* Every allocation of creating a device, a team and a group, of capturing a pair, and of joining again, made to fail in
 * turn: a status, nothing leaked, and no step left hanging. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "epgraph/epgraph.h"
#include "support/oom.h"
#include "support/ranks.h"

enum { RANKS = 1, HIDDEN = 8, TOKENS = 4 };

typedef struct world {
    epg_device *device;
    epg_team *team;
    epg_group *group;
    epg_stream stream;
    epg_graph graph;
    epg_exec exec;
    float rows[TOKENS * HIDDEN], out[TOKENS * HIDDEN], expert_out[TOKENS * HIDDEN];
    int32_t ids[TOKENS];
} world;

static epg_status capture_pair(world *w)
{
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    epg_status status = epg_capture_begin(w->device, w->stream, EPG_CAPTURE_THREAD_LOCAL);
    if (status != EPG_OK)
        return status;
    args.bucket = TOKENS;
    args.rows = w->rows;
    args.topk_ids = w->ids;
    if ((status = epg_dispatch(w->group, &args, &view, w->stream)) == EPG_OK)
        status = epg_combine(w->group, 0, w->expert_out, w->out, w->stream);
    epg_status ended = epg_capture_end(w->device, w->stream, &w->graph);
    return status != EPG_OK ? status : ended;
}

static epg_status build(world *w)
{
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    epg_status s;
    o.experts = 2;
    o.hidden = HIDDEN;
    o.topk = 1;
    o.max_tokens = TOKENS;
    if ((s = epg_device_create(NULL, &w->device)) || (s = epg_team_create_threads(w->device, NULL, RANKS, &w->team)) ||
        (s = epg_stream_create(w->device, EPG_STREAM_NONBLOCKING, &w->stream)) ||
        (s = epg_group_create(w->team, &o, &w->group)) || (s = capture_pair(w)) ||
        (s = epg_graph_instantiate(w->device, w->graph, &w->exec)) ||
        (s = epg_exec_launch(w->device, w->exec, w->stream)))
        return s;
    return epg_stream_synchronize(w->device, w->stream);
}

static void tear_down(world *w)
{
    if (w->exec)
        epg_exec_destroy(w->device, w->exec);
    if (w->graph)
        epg_graph_destroy(w->device, w->graph);
    if (w->stream)
        epg_stream_destroy(w->device, w->stream);
    epg_group_destroy(w->group);
    epg_team_destroy(w->team);
    epg_device_destroy(w->device);
}

static void each_allocation_fails_once(void **state)
{
    (void)state;
    long n = 0;
    for (int delivered = 1; delivered; n++) {
        world w = {0};
        oom_track_start();
        oom_fail_at(n);
        epg_status status = build(&w);
        delivered = oom_stop();
        if (delivered)
            assert_int_not_equal(status, EPG_OK);
        else
            assert_int_equal(status, EPG_OK);
        tear_down(&w);
        assert_int_equal(oom_tracked(), 0);
    }
    assert_true(n > 15);
}

/* The only rank of a team takes its own place again. */
static epg_status join_again(world *w, epg_team **again, epg_group **joined)
{
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    epg_member member = {1, EPG_MEMBER_JOINS};
    uint32_t epoch = 2;
    epg_admission admission = {sizeof admission, 1, &member, &epoch};
    epg_status s;
    o.experts = 2;
    o.hidden = HIDDEN;
    o.topk = 1;
    o.max_tokens = TOKENS;
    if ((s = epg_team_retire(w->team, 0)) || (s = epg_team_rejoin(w->team, 0, again)) ||
        (s = epg_group_join(*again, &o, joined)) || (s = epg_group_admit(*joined, &admission, w->stream)))
        return s;
    return epg_stream_synchronize(w->device, w->stream);
}

static void each_allocation_of_joining_again_fails_once(void **state)
{
    (void)state;
    long n = 0;
    for (int delivered = 1; delivered; n++) {
        world w = {0};
        epg_team *again = NULL;
        epg_group *joined = NULL;
        oom_track_start();
        assert_int_equal(build(&w), EPG_OK);
        oom_fail_at(n);
        epg_status status = join_again(&w, &again, &joined);
        delivered = oom_stop();
        if (delivered)
            assert_int_not_equal(status, EPG_OK);
        else
            assert_int_equal(status, EPG_OK);
        epg_group_destroy(joined);
        epg_team_destroy(again);
        tear_down(&w);
        assert_int_equal(oom_tracked(), 0);
    }
    assert_true(n > 6);
}

static uint64_t pairs_run(world *w)
{
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    assert_int_equal(epg_stream_synchronize(w->device, w->stream), EPG_OK);
    assert_int_equal(epg_group_get_stats(w->group, &stats), EPG_OK);
    return stats.pairs;
}

/* What was enqueued of a call that failed is not enqueued again. */
static void a_call_that_fails_between_its_halves_goes_on_with_the_second(void **state)
{
    (void)state;
    int delivered = 1, between = 0;
    for (long n = 0; delivered; n++) {
        epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
        epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
        world w = {0};
        assert_int_equal(build(&w), EPG_OK);
        uint64_t before = pairs_run(&w);
        args.bucket = TOKENS;
        args.rows = w.rows;
        args.topk_ids = w.ids;
        oom_fail_at(n);
        epg_status status = epg_dispatch(w.group, &args, &view, w.stream);
        delivered = oom_stop();
        assert_int_equal(status, delivered ? EPG_ERR_NO_MEMORY : EPG_OK);
        if (delivered && pairs_run(&w) == before) {
            assert_int_equal(epg_dispatch(w.group, &args, &view, w.stream), EPG_OK);
        } else if (delivered) {
            between++;
            assert_int_equal(epg_dispatch(w.group, &args, &view, w.stream), EPG_ERR_STATE);
            assert_int_equal(epg_dispatch_recv(w.group, 0, &view, w.stream), EPG_OK);
        }
        assert_int_equal(epg_combine(w.group, 0, w.expert_out, w.out, w.stream), EPG_OK);
        assert_int_equal(pairs_run(&w), before + 1);
        assert_int_equal(epg_group_check(w.group, NULL), EPG_OK);
        tear_down(&w);
    }
    assert_true(between > 0);
}

typedef struct failing {
    long nth;       /* the allocation that fails */
    uint32_t late;  /* ranks that learned of it by their deadline alone */
} failing;

/* With peers: a rank that runs out of memory while groups are created takes the others with it at once, not after
 * their deadline of 30 s. */
static int create_one(test_rank *self)
{
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    epg_group *group = NULL;
    o.experts = 6;
    o.hidden = HIDDEN;
    o.topk = 2;
    o.max_tokens = TOKENS;
    RANK_OK(epg_team_barrier(self->team)); /* every rank has its stream */
    failing *f = self->arg;
    if (self->rank == 0)
        oom_fail_at(f->nth);
    RANK_OK(epg_team_barrier(self->team)); /* allocates nothing: the failure hits a rank that creates its group */
    epg_status status = epg_group_create(self->team, &o, &group);
    epg_group_destroy(group);
    if (status == EPG_ERR_TIMEOUT)
        __atomic_add_fetch(&f->late, 1, __ATOMIC_RELAXED);
    return status != EPG_OK;
}

static void peers_learn_of_it_at_once(void **state)
{
    (void)state;
    int delivered = 1;
    for (long n = 0; delivered; n++) {
        failing f = {n, 0};
        oom_track_start();
        int failures = run_ranks(3, 30000, create_one, &f);
        delivered = oom_stop();
        assert_int_equal(f.late, 0);
        assert_true(failures == 0 || delivered);
        assert_int_equal(oom_tracked(), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_allocation_fails_once),
                                       cmocka_unit_test(each_allocation_of_joining_again_fails_once),
                                       cmocka_unit_test(a_call_that_fails_between_its_halves_goes_on_with_the_second),
                                       cmocka_unit_test(peers_learn_of_it_at_once)};
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
