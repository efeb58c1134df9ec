/* A rank that is lost joins again: the others go on without it, replaying graphs captured before, and take it back at
 * one epoch, in the same graphs. The bodies run on every device. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "epgraph/step.h"
#include "support/device_under_test.h"
#include "support/ranks.h"

enum { HIDDEN = 16, TOKENS = 6, LANES_MOST = 2, PAIRS = 3, LIVES = 3 };

/* What a test chooses, and what its ranks tell each other outside of the library. */
typedef struct scene {
    uint32_t lanes, first_epoch;
    uint32_t mortal;        /* this many ranks, the last ones, die in each life but the last */
    uint32_t steps_per_life;/* whole steps that a mortal rank runs before it dies */
    int dies_inside;        /* with a pair begun; else between two steps */
    uint32_t steps_alone;   /* steps that the others run before it comes back */
    uint32_t timeout_ms;    /* of a wait on the device */
    uint64_t timeouts;      /* that each of the others may have, at most */
    epg_status loss;        /* what their records must say, or EPG_OK: nothing */
    atomic_uint alone, whole[8][LIVES]; /* whole: [rank][life] */
    void *remains[8][LIVES];/* [rank][life] the rigs of lives that ended */
} scene;

/* Host and device see it at one address. */
typedef struct rig {
    test_rank *self;
    scene *scene;
    epg_group *group;
    epg_stepper *stepper;
    epg_exec execs[2];      /* one step in LL and in HT; captured before anybody died, in a first life */
    uint32_t epochs[EPG_LANES_MAX];
    uint32_t tokens;
    uint32_t alive;         /* bit r: rank r takes part */
    _Alignas(16) float rows[TOKENS][HIDDEN];
    _Alignas(16) float out[LANES_MOST * PAIRS][TOKENS][HIDDEN];
    float weights[TOKENS * 8];
    int32_t ids[TOKENS * 8];
} rig;

static uint32_t pairs_in(uint32_t lane) { return lane == 0 ? PAIRS : 1; }

/* One step: an odd number of pairs in each lane. Experts hand back what they get. */
static int enqueue_step(test_rank *self, rig *r, epg_mode mode)
{
    for (uint32_t l = 0; l < r->scene->lanes; l++)
        for (uint32_t p = 0; p < pairs_in(l); p++) {
            epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
            epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
            args.lane = l;
            args.mode = mode;
            args.bucket = TOKENS;
            args.tokens = &r->tokens;
            args.rows = r->rows;
            args.topk_ids = r->ids;
            args.topk_weights = r->weights;
            RANK_OK(epg_dispatch(r->group, &args, &view, self->stream));
            RANK_OK(epg_combine(r->group, l, view.rows, r->out[l * PAIRS + p], self->stream));
        }
    return 0;
}

static int capture_step(test_rank *self, rig *r, epg_mode mode, epg_exec *exec)
{
    epg_graph graph;
    RANK_OK(epg_capture_begin(self->device, self->stream, EPG_CAPTURE_THREAD_LOCAL));
    if (enqueue_step(self, r, mode))
        return 1;
    RANK_OK(epg_capture_end(self->device, self->stream, &graph));
    RANK_OK(epg_graph_instantiate(self->device, graph, exec));
    RANK_OK(epg_graph_destroy(self->device, graph));
    return 0;
}

static epg_group_options options_for(const test_rank *self, const scene *s)
{
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    o.experts = 2 * self->size;
    o.hidden = HIDDEN;
    o.topk = self->size;
    o.max_tokens = TOKENS;
    o.lanes = s->lanes;
    o.layout = EPG_LAYOUT_CONTIGUOUS;
    o.timeout_ms = s->timeout_ms;
    o.first_epoch = s->first_epoch;
    return o;
}

static int rig_make(test_rank *self, rig **made)
{
    static const uint32_t buckets[] = {TOKENS};
    scene *s = self->arg;
    epg_step_config config = EPG_STEP_CONFIG_INIT;
    epg_group_options o = options_for(self, s);
    void *memory;
    RANK_OK(epg_memory_alloc(self->device, EPG_MEMORY_MAPPED, sizeof(rig), &memory));
    rig *r = *made = memory;
    memset(r, 0, sizeof *r);
    r->self = self;
    r->scene = s;
    r->alive = (1u << self->size) - 1;
    config.buckets = buckets;
    config.bucket_count = 1;
    config.lanes = s->lanes;
    if (self->incarnation == 0)
        RANK_OK(epg_group_create(self->team, &o, &r->group));
    else
        RANK_OK(epg_group_join(self->team, &o, &r->group));
    RANK_OK(epg_stepper_create(self->team, &config, &r->stepper));
    for (uint32_t l = 0; l < s->lanes; l++)
        r->epochs[l] = s->first_epoch;
    for (uint32_t i = 0; i < TOKENS * self->size; i++) { /* every token goes to one expert of every rank */
        uint32_t rank = i % self->size;
        r->ids[i] = (int32_t)(2 * rank + i / self->size % 2);
        r->weights[i] = 1.0f / (float)(2u << rank); /* so that the sum tells whose share is in it */
    }
    return capture_step(self, r, EPG_MODE_LL, &r->execs[0]) || capture_step(self, r, EPG_MODE_HT, &r->execs[1]);
}

static void rig_free(epg_device *device, rig *r)
{
    if (!r)
        return;
    for (int i = 0; i < 2; i++)
        epg_exec_destroy(device, r->execs[i]);
    epg_stepper_destroy(r->stepper);
    epg_group_destroy(r->group);
    epg_memory_free(device, EPG_MEMORY_MAPPED, r);
}

/* What lives before left behind. On a GPU memory is freed only when no step is in flight. */
static void free_remains(const test_rank *self)
{
    scene *s = self->arg;
    for (uint32_t life = 0; life < self->incarnation; life++) {
        rig_free(self->device, s->remains[self->rank][life]);
        s->remains[self->rank][life] = NULL;
    }
}

static void fill_inputs(rig *r, uint32_t step)
{
    r->tokens = (step + r->self->rank) % (TOKENS + 1);
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t h = 0; h < HIDDEN; h++)
            r->rows[t][h] = (float)(256 * ((step + r->self->rank) % 7) + 32 * t + h);
    for (uint32_t i = 0; i < LANES_MOST * PAIRS; i++)
        for (uint32_t t = 0; t < TOKENS; t++)
            r->out[i][t][0] = -1;
}

/* Every token holds the shares of exactly the ranks that take part. */
static int check_outputs(test_rank *self, rig *r, uint32_t step)
{
    const uint32_t *device_flags;
    uint32_t flags[TOKENS];
    float share = 0;
    for (uint32_t rank = 0; rank < self->size; rank++)
        share += r->alive >> rank & 1 ? 1.0f / (float)(2u << rank) : 0;
    for (uint32_t l = 0; l < r->scene->lanes; l++) {
        RANK_OK(epg_group_flags(r->group, l, &device_flags));
        RANK_OK(epg_memcpy(self->device, flags, device_flags, sizeof flags));
        for (uint32_t p = 0; p < pairs_in(l); p++)
            for (uint32_t t = 0; t < r->tokens; t++)
                for (uint32_t h = 0; h < HIDDEN; h++)
                    RANK_CHECK(r->out[l * PAIRS + p][t][h] == r->rows[t][h] * share,
                               "step %u, lane %u, pair %u, token %u: %g of %g, alive %x", step, l, p, t,
                               (double)r->out[l * PAIRS + p][t][h], (double)r->rows[t][h], r->alive);
        for (uint32_t t = 0; t < r->tokens; t++)
            RANK_CHECK(flags[t] == (r->alive + 1 != 1u << self->size), "step %u, lane %u: flag %u", step, l, flags[t]);
    }
    return 0;
}

static int run_step(test_rank *self, rig *r, uint32_t step)
{
    uint32_t how = (step + self->rank) % 3;
    fill_inputs(r, step);
    if (how == 2 && enqueue_step(self, r, EPG_MODE_AUTO))
        return 1;
    if (how < 2)
        RANK_OK(epg_exec_launch(self->device, r->execs[how], self->stream));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    for (uint32_t l = 0; l < r->scene->lanes; l++)
        r->epochs[l] += pairs_in(l);
    return 0;
}

static int is_mortal(const test_rank *self, uint32_t rank)
{
    return rank + ((const scene *)self->arg)->mortal >= self->size;
}

/* Who is lost is not waited for; who joins takes part from the next step on. */
static int follow_plan(test_rank *self, rig *r, const epg_step_plan *plans)
{
    epg_admission admission = EPG_ADMISSION_INIT;
    for (uint32_t rank = 0; rank < self->size; rank++) {
        if (!plans[rank].alive)
            RANK_OK(epg_group_mask(r->group, rank));
        if (!plans[rank].alive || plans[rank].join)
            r->alive &= ~(1u << rank);
    }
    if (plans[0].join_ranks > 0) {
        RANK_OK(epg_stepper_admission(r->stepper, &admission));
        RANK_OK(epg_group_admit(r->group, &admission, self->stream));
    }
    return 0;
}

static int take_plan(test_rank *self, rig *r, int join, int stop, epg_step_plan *plans)
{
    epg_step_report report = {.decode_tokens = 1, .stop = (uint16_t)stop, .join = (uint16_t)join};
    epg_step_plan mine;
    for (uint32_t l = 0; l < r->scene->lanes; l++) {
        report.epochs[l] = r->epochs[l];
        report.pairs[l] = pairs_in(l);
    }
    RANK_OK(epg_stepper_begin(r->stepper, &report));
    RANK_OK(epg_stepper_end(r->stepper, &mine, plans));
    return follow_plan(self, r, plans);
}

/* A rank that vanishes within a step may still have given some shares of it; what is certain is the record. */
static int note_loss(test_rank *self, rig *r, int *found)
{
    epg_group_record record = EPG_GROUP_RECORD_INIT;
    epg_status status = epg_group_check(r->group, &record);
    *found = status != EPG_OK;
    if (status == EPG_OK)
        return 0;
    RANK_CHECK(status == r->scene->loss, "status %d", (int)status);
    RANK_CHECK(is_mortal(self, record.peer), "blames rank %u", record.peer);
    RANK_OK(epg_group_clear_record(r->group));
    for (uint32_t rank = 0; rank < self->size; rank++) {
        int alive;
        RANK_OK(epg_group_alive(r->group, rank, &alive));
        RANK_CHECK(alive || is_mortal(self, rank), "rank %u is masked", rank);
        r->alive &= ~((uint32_t)!alive << rank);
    }
    return 0;
}

/* One step by the plan; *whole is 0 where a rank was lost in it. */
static int one_step(test_rank *self, rig *r, uint32_t step, const epg_step_plan *plans, int *whole)
{
    int found;
    RANK_CHECK(step < 5000, "no end");
    if (run_step(self, r, step) || note_loss(self, r, &found))
        return 1;
    if (!found && check_outputs(self, r, step))
        return 1;
    *whole = !found;
    for (uint32_t rank = 0; rank < self->size; rank++)
        r->alive |= (uint32_t)plans[rank].join << rank;
    return 0;
}

/* Nobody frees before all are through. */
static int end_life(test_rank *self, rig *r)
{
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_team_barrier(self->team));
    rig_free(self->device, r);
    free_remains(self);
    return 0;
}

/* ---- a rank that does not die ---- */

static int all_done(const test_rank *self)
{
    const scene *s = self->arg;
    int done = 1;
    for (uint32_t rank = self->size - s->mortal; rank < self->size; rank++)
        done &= atomic_load(&s->whole[rank][LIVES - 1]) >= 3;
    return done;
}

static int check_stats(test_rank *self, rig *r)
{
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    epg_team_stats team = EPG_TEAM_STATS_INIT;
    RANK_OK(epg_group_get_stats(r->group, &stats));
    RANK_OK(epg_team_get_stats(self->team, &team));
    RANK_CHECK(stats.timeouts <= r->scene->timeouts, "%llu timeouts", (unsigned long long)stats.timeouts);
    RANK_CHECK(stats.cleans == 1 && team.barriers == 1, "%llu cleans, %llu barriers", (unsigned long long)stats.cleans,
               (unsigned long long)team.barriers); /* those of the creation */
    return 0;
}

static int immortal(test_rank *self)
{
    rig *r;
    scene *s = self->arg;
    epg_step_plan plans[8];
    uint32_t everybody = (1u << self->size) - 1;
    int whole;
    if (rig_make(self, &r))
        return 1;
    for (uint32_t step = 0;; step++) {
        if (take_plan(self, r, 0, all_done(self), plans))
            return 1;
        if (plans[0].stop)
            break;
        if (one_step(self, r, step, plans, &whole))
            return 1;
        if (whole && r->alive != everybody && self->rank == 0)
            atomic_fetch_add(&s->alone, 1);
    }
    if (check_stats(self, r))
        return 1;
    return end_life(self, r);
}

/* ---- a rank that dies, and comes back ---- */

static int come_back(test_rank *self, rig **made, epg_step_plan *plans)
{
    scene *s = self->arg;
    rig *r;
    if (rig_make(self, made))
        return 1;
    r = *made;
    if (take_plan(self, r, 1, 1, plans))
        return 1;
    for (uint32_t l = 0; l < s->lanes; l++)
        r->epochs[l] = plans[0].join_epochs[l] - 1;
    for (uint32_t rank = 0; rank < self->size; rank++)
        r->alive |= (uint32_t)plans[rank].alive << rank;
    if (test_device_kind() == EPG_DEVICE_HOST)
        free_remains(self); /* at any later time */
    return 0;
}

/* The first half of a pair, and nothing after it. */
static int begin_pair(test_rank *self, rig *r)
{
    epg_step_plan plans[8];
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    if (take_plan(self, r, 0, 1, plans))
        return 1;
    args.bucket = TOKENS;
    args.tokens = &r->tokens;
    args.rows = r->rows;
    args.topk_ids = r->ids;
    args.topk_weights = r->weights;
    RANK_OK(epg_dispatch_send(r->group, &args, self->stream));
    return 0;
}

static void let_others_go_on(const test_rank *self)
{
    sched_yield();
    epg_simulation_sleep(self->device, 100000);
}

static int die(test_rank *self, rig *r)
{
    scene *s = self->arg;
    if (s->dies_inside && begin_pair(self, r))
        return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    s->remains[self->rank][self->incarnation] = r;
    uint32_t alone = atomic_load(&s->alone);
    RANK_OK(epg_team_retire(self->team, self->rank));
    while (atomic_load(&s->alone) < alone + s->steps_alone)
        let_others_go_on(self);
    return RANK_DIES;
}

static int mortal(test_rank *self)
{
    rig *r;
    scene *s = self->arg;
    epg_step_plan plans[8] = {{.tokens = 0}};
    int whole;
    if (self->incarnation == 0 ? rig_make(self, &r) : come_back(self, &r, plans))
        return 1;
    for (uint32_t step = 0; !plans[0].stop; step++) {
        if (step == s->steps_per_life && self->incarnation < LIVES - 1)
            return die(self, r);
        if (take_plan(self, r, 0, 1, plans))
            return 1;
        if (plans[0].stop)
            break;
        if (one_step(self, r, step, plans, &whole))
            return 1;
        atomic_fetch_add(&s->whole[self->rank][self->incarnation], (unsigned)whole);
    }
    return end_life(self, r);
}

static int body(test_rank *self) { return is_mortal(self, self->rank) ? mortal(self) : immortal(self); }

static void play_once(uint32_t ranks, scene s, int seed)
{
    int failures = seed < 0 ? run_ranks(ranks, 20000, body, &s)
                            : run_ranks_simulated(ranks, 20000, body, &s, (uint64_t)seed);
    if (failures)
        print_message("lanes %u, seed %d\n", s.lanes, seed);
    assert_int_equal(failures, 0);
    for (uint32_t rank = ranks - s.mortal; rank < ranks; rank++)
        for (uint32_t life = 0; life < LIVES; life++)
            assert_true(atomic_load(&s.whole[rank][life]) >= 2);
}

/* On threads and, where the device is the host's, in a number of interleavings. */
static void play(uint32_t ranks, scene s)
{
    int seeds = test_device_kind() == EPG_DEVICE_HOST ? (int)simulated_seeds(20) : 0;
    if (test_device_serial())
        skip();
    if (test_device_kind() == EPG_DEVICE_CUDA) /* a first launch may take long, and a fault should show soon */
        s.timeout_ms = s.timeout_ms < 600 ? 600 : 4000;
    for (s.lanes = 1; s.lanes <= LANES_MOST; s.lanes++)
        for (int seed = -1; seed < seeds; seed++)
            play_once(ranks, s, seed);
}

/* The others find out by a timeout, once per death, and go on alone for a while. */
static void a_rank_that_died_in_a_pair_joins_again_twice(void **state)
{
    (void)state;
    scene s = {.mortal = 1, .steps_per_life = 3, .dies_inside = 1, .steps_alone = 3, .timeout_ms = 300,
               .timeouts = LIVES - 1, .loss = EPG_ERR_TIMEOUT};
    play(2, s);
    play(4, s);
}

/* It is back before anybody's deadline: waits for the life before end with it. */
static void who_waits_for_a_life_that_is_over_learns_so_at_once(void **state)
{
    (void)state;
    scene s = {.mortal = 1, .steps_per_life = 3, .dies_inside = 1, .steps_alone = 0, .timeout_ms = 20000,
               .timeouts = 0, .loss = EPG_ERR_GONE};
    play(2, s);
    play(4, s);
}

/* Nobody was waiting for it, and some may not have noticed: the admission masks the life before. */
static void a_loss_that_nobody_noticed_is_masked_by_the_admission(void **state)
{
    (void)state;
    scene s = {.mortal = 1, .steps_per_life = 2, .dies_inside = 0, .steps_alone = 0, .timeout_ms = 20000};
    play(2, s);
    play(4, s);
}

static void several_ranks_join_again_over_the_wrap_of_the_epoch(void **state)
{
    (void)state;
    scene s = {.mortal = 2, .steps_per_life = 3, .dies_inside = 0, .steps_alone = 1, .timeout_ms = 20000,
               .first_epoch = 0xFFFFFFF0u};
    play(4, s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_that_died_in_a_pair_joins_again_twice),
        cmocka_unit_test(who_waits_for_a_life_that_is_over_learns_so_at_once),
        cmocka_unit_test(a_loss_that_nobody_noticed_is_masked_by_the_admission),
        cmocka_unit_test(several_ranks_join_again_over_the_wrap_of_the_epoch),
    };
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
