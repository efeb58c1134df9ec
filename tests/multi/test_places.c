/* Places in a team: a retired rank is not waited for, its place is taken anew, and every rank sees the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "epgraph/step.h"
#include "support/ranks.h"

enum { RANKS = 3 };

typedef struct crew {
    epg_device *device;
    epg_team *team[RANKS];
} crew;

static crew crew_of(uint32_t timeout_ms)
{
    crew c;
    epg_team_options options = EPG_TEAM_OPTIONS_INIT;
    options.timeout_ms = timeout_ms;
    assert_int_equal(epg_device_create(NULL, &c.device), EPG_OK);
    assert_int_equal(epg_team_create_threads(c.device, &options, RANKS, c.team), EPG_OK);
    return c;
}

static void crew_end(crew *c)
{
    for (uint32_t r = 0; r < RANKS; r++)
        epg_team_destroy(c->team[r]);
    epg_device_destroy(c->device);
}

/* One thread plays all ranks: nobody waits, because all have begun before the first ends. */
static void gather(crew *c, uint32_t from, uint32_t value, uint32_t *out)
{
    for (uint32_t r = from; r < RANKS; r++) {
        uint32_t mine = value + r;
        assert_int_equal(epg_team_allgather_begin(c->team[r], &mine, sizeof mine), EPG_OK);
    }
    for (uint32_t r = from; r < RANKS; r++)
        assert_int_equal(epg_team_allgather_end(c->team[r], out), EPG_OK);
}

static void a_retired_rank_gives_zeros(void **state)
{
    (void)state;
    crew c = crew_of(20000);
    uint32_t out[RANKS];
    gather(&c, 0, 10, out);
    assert_int_equal(out[0], 10);
    assert_int_equal(epg_team_retire(c.team[2], 0), EPG_OK);
    assert_int_equal(epg_team_retire(c.team[1], 0), EPG_OK); /* twice */
    for (uint32_t i = 0; i < 5; i++) {
        gather(&c, 1, 20, out);
        assert_int_equal(out[0], 0);
        assert_int_equal(out[2], 22);
    }
    assert_int_equal(epg_team_barrier(c.team[0]), EPG_ERR_STATE);
    assert_string_equal(epg_message(), "rank 0, incarnation 0, was retired");
    crew_end(&c);
}

static void what_a_rank_gave_before_it_was_retired_counts(void **state)
{
    (void)state;
    crew c = crew_of(20000);
    uint32_t out[RANKS], value = 7;
    for (uint32_t r = 0; r < RANKS; r++)
        assert_int_equal(epg_team_allgather_begin(c.team[r], &value, sizeof value), EPG_OK);
    assert_int_equal(epg_team_allgather_end(c.team[1], out), EPG_OK);
    assert_int_equal(epg_team_retire(c.team[1], 0), EPG_OK);
    epg_team *again;
    assert_int_equal(epg_team_rejoin(c.team[1], 0, &again), EPG_OK);
    uint32_t later = 9;
    assert_int_equal(epg_team_allgather_begin(again, &later, sizeof later), EPG_OK); /* the next one, already */
    assert_int_equal(epg_team_allgather_end(c.team[2], out), EPG_OK);
    assert_int_equal(out[0], 7);
    assert_int_equal(epg_team_allgather_end(c.team[0], out), EPG_ERR_STATE);
    epg_team_destroy(c.team[0]);
    c.team[0] = again;
    for (uint32_t r = 1; r < RANKS; r++)
        assert_int_equal(epg_team_allgather_begin(c.team[r], &value, sizeof value), EPG_OK);
    for (uint32_t r = 0; r < RANKS; r++) {
        assert_int_equal(epg_team_allgather_end(c.team[r], out), EPG_OK);
        assert_int_equal(out[0], 9);
    }
    crew_end(&c);
}

/* A rank begins with the first collective that nobody has begun: in those under way it is missing, for all alike. */
static void a_rank_that_rejoins_is_not_waited_for_in_what_is_under_way(void **state)
{
    (void)state;
    crew c = crew_of(20000);
    uint32_t out[RANKS], value = 3;
    assert_int_equal(epg_team_retire(c.team[1], 0), EPG_OK);
    assert_int_equal(epg_team_allgather_begin(c.team[1], &value, sizeof value), EPG_OK);
    epg_team *again;
    assert_int_equal(epg_team_rejoin(c.team[1], 0, &again), EPG_OK);
    assert_int_equal(epg_team_allgather_begin(c.team[2], &value, sizeof value), EPG_OK);
    for (uint32_t r = 1; r < RANKS; r++) {
        assert_int_equal(epg_team_allgather_end(c.team[r], out), EPG_OK);
        assert_int_equal(out[0], 0);
    }
    epg_team_destroy(c.team[0]);
    c.team[0] = again;
    gather(&c, 0, 30, out);
    assert_int_equal(out[0], 30);
    crew_end(&c);
}

static void an_exchange_that_timed_out_ends_once_the_missing_are_retired(void **state)
{
    (void)state;
    static const uint32_t buckets[] = {4};
    crew c = crew_of(30);
    epg_step_config config = EPG_STEP_CONFIG_INIT;
    epg_step_report report = {.decode_tokens = 1, .pairs = {1}};
    epg_stepper *stepper[RANKS];
    epg_step_plan mine, all[RANKS];
    epg_admission admission = EPG_ADMISSION_INIT;
    config.buckets = buckets;
    config.bucket_count = 1;
    for (uint32_t r = 1; r < RANKS; r++) {
        assert_int_equal(epg_stepper_create(c.team[r], &config, &stepper[r]), EPG_OK);
        assert_int_equal(epg_stepper_begin(stepper[r], &report), EPG_OK);
    }
    for (uint32_t r = 1; r < RANKS; r++) {
        assert_int_equal(epg_stepper_end(stepper[r], &mine, all), EPG_ERR_TIMEOUT);
        assert_non_null(strstr(epg_message(), "from rank 0"));
        assert_int_equal(epg_stepper_begin(stepper[r], &report), EPG_ERR_STATE); /* still open */
    }
    assert_int_equal(epg_team_retire(c.team[1], 0), EPG_OK);
    for (uint32_t r = 1; r < RANKS; r++) {
        assert_int_equal(epg_stepper_end(stepper[r], &mine, all), EPG_OK);
        assert_int_equal(all[0].alive, 0);
        assert_int_equal(all[1].alive, 1);
        assert_int_equal(epg_stepper_admission(stepper[r], &admission), EPG_ERR_STATE); /* nobody joins */
        epg_stepper_destroy(stepper[r]);
    }
    crew_end(&c);
}

static void places_are_taken_again_up_to_a_bound(void **state)
{
    (void)state;
    crew c = crew_of(20000);
    epg_team *again = NULL;
    assert_int_equal(epg_team_rejoin(c.team[0], 1, &again), EPG_ERR_STATE);
    assert_string_equal(epg_message(), "rank 1 is not retired: its place is not free");
    assert_int_equal(epg_team_rejoin(c.team[0], RANKS, &again), EPG_ERR_INVALID);
    assert_int_equal(epg_team_retire(c.team[0], RANKS), EPG_ERR_INVALID);
    for (uint32_t life = 1; life <= EPG_TEAM_MAX_INCARNATION; life++) {
        assert_int_equal(epg_team_retire(c.team[0], 1), EPG_OK);
        assert_int_equal(epg_team_rejoin(c.team[0], 1, &again), EPG_OK);
        assert_int_equal(epg_team_incarnation(again), life);
        epg_team_destroy(c.team[1]);
        c.team[1] = again;
    }
    assert_int_equal(epg_team_retire(c.team[0], 1), EPG_OK);
    assert_int_equal(epg_team_rejoin(c.team[0], 1, &again), EPG_ERR_STATE);
    assert_string_equal(epg_message(), "rank 1 has joined again 255 times, the most there may be");
    crew_end(&c);
}

/* A group made after a rank came back: the signals' incarnations are agreed upon at its creation. */
static int new_group(test_rank *self)
{
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    epg_group *group;
    float rows[2][8] = {{1}, {2}}, out[2][8] = {{0}};
    int32_t ids[2] = {0, 1};
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    if (self->rank == 1 && self->incarnation < 2)
        return RANK_DIES;
    o.experts = self->size;
    o.hidden = 8;
    o.topk = 1;
    o.max_tokens = 2;
    o.layout = EPG_LAYOUT_CONTIGUOUS;
    if (self->rank == 1)
        RANK_CHECK(epg_team_incarnation(self->team) == 2, "incarnation");
    while (self->rank == 0) { /* until the other rank's last life answers */
        uint32_t one = 1, all[2];
        RANK_OK(epg_team_allgather(self->team, &one, sizeof one, all));
        if (all[1])
            break;
    }
    if (self->rank == 1) {
        uint32_t one = 1, all[2];
        RANK_OK(epg_team_allgather(self->team, &one, sizeof one, all));
    }
    RANK_OK(epg_group_create(self->team, &o, &group));
    args.bucket = 2;
    args.rows = rows;
    args.topk_ids = ids;
    RANK_OK(epg_dispatch(group, &args, &view, self->stream));
    RANK_OK(epg_combine(group, 0, view.rows, out, self->stream));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_group_check(group, NULL));
    RANK_CHECK(memcmp(rows, out, sizeof rows) == 0, "rows");
    epg_group_destroy(group);
    return 0;
}

static void a_group_made_after_a_rank_came_back_works(void **state)
{
    (void)state;
    assert_int_equal(run_ranks_both(2, 20000, new_group, NULL, 20), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_retired_rank_gives_zeros),
        cmocka_unit_test(what_a_rank_gave_before_it_was_retired_counts),
        cmocka_unit_test(a_rank_that_rejoins_is_not_waited_for_in_what_is_under_way),
        cmocka_unit_test(an_exchange_that_timed_out_ends_once_the_missing_are_retired),
        cmocka_unit_test(places_are_taken_again_up_to_a_bound),
        cmocka_unit_test(a_group_made_after_a_rank_came_back_works),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
