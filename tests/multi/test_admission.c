/* The edges of joining again: what is refused, what is recorded, and that a newcomer overwrites nothing that is still
 * read. The whole life of a rank that comes back is test_rejoin.c's. The bodies run on every device. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "support/device_under_test.h"
#include "support/ranks.h"
#include "support/work.h"

enum { HIDDEN = 8, TOKENS = 2, SEEDS = 30 };

/* Host and device see it at one address. */
typedef struct rig {
    epg_device *device;
    epg_group *group;
    _Alignas(16) float rows[TOKENS][HIDDEN];
    _Alignas(16) float out[TOKENS][HIDDEN];
    float seen[HIDDEN];
    int32_t ids[TOKENS];
} rig;

/* Steps of a story that ranks of two threads tell each other. */
typedef struct story {
    atomic_uint joined, told, release;
    work *gate; /* of slow experts on a GPU */
    rig *remains;
} story;

static void wait_until(const test_rank *self, atomic_uint *flag)
{
    while (!atomic_load(flag)) {
        sched_yield();
        epg_simulation_sleep(self->device, 1000);
    }
}

static epg_group_options options_for(const test_rank *self)
{
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    o.experts = self->size;
    o.hidden = HIDDEN;
    o.topk = 1;
    o.max_tokens = TOKENS;
    o.layout = EPG_LAYOUT_CONTIGUOUS;
    o.timeout_ms = 20000;
    return o;
}

/* Each rank sends all its tokens to rank 0. */
static rig *rig_make(test_rank *self)
{
    epg_group_options o = options_for(self);
    void *memory;
    if (epg_memory_alloc(self->device, EPG_MEMORY_MAPPED, sizeof(rig), &memory) != EPG_OK)
        abort();
    rig *r = memset(memory, 0, sizeof *r);
    r->device = self->device;
    epg_status status = self->incarnation ? epg_group_join(self->team, &o, &r->group)
                                          : epg_group_create(self->team, &o, &r->group);
    if (status != EPG_OK) {
        fprintf(stderr, "rank %u: %s\n", self->rank, epg_message());
        abort();
    }
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t h = 0; h < HIDDEN; h++)
            r->rows[t][h] = (float)(100 * (1 + self->rank) + 1000 * self->incarnation + 10 * t + h);
    return r;
}

static void rig_free(rig *r)
{
    if (!r)
        return;
    epg_group_destroy(r->group);
    epg_memory_free(r->device, EPG_MEMORY_MAPPED, r);
}

static epg_dispatch_args args_for(const rig *r, uint32_t tokens)
{
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    args.bucket = tokens;
    args.rows = r->rows;
    args.topk_ids = r->ids;
    return args;
}

static int pair(test_rank *self, rig *r, uint32_t tokens)
{
    epg_dispatch_args args = args_for(r, tokens);
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    RANK_OK(epg_dispatch(r->group, &args, &view, self->stream));
    RANK_OK(epg_combine(r->group, 0, view.rows, r->out, self->stream));
    return 0;
}

/* What all ranks are told: the last rank joins, as incarnation `life`, at `epoch`; the others stay. */
typedef struct told {
    epg_member members[4];
    uint32_t epoch;
    epg_admission admission;
} told;

static void tell(told *t, uint32_t ranks, uint32_t life, uint32_t epoch)
{
    *t = (told){.epoch = epoch};
    for (uint32_t r = 0; r < ranks; r++)
        t->members[r] = (epg_member){r + 1 == ranks ? life : 0, r + 1 == ranks ? EPG_MEMBER_JOINS : EPG_MEMBER_STAYS};
    t->admission = (epg_admission){sizeof t->admission, ranks, t->members, &t->epoch};
}

static int dies(test_rank *self, rig *r)
{
    story *s = self->arg;
    s->remains = r;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    return RANK_DIES;
}

/* Seeds to run after the threads: a GPU is not simulated. */
static int seeds_here(void) { return test_device_kind() == EPG_DEVICE_HOST ? (int)simulated_seeds(SEEDS) : 0; }

/* Two ranks, on threads (-1) or by a seed. */
static int play(int (*body)(test_rank *self), story *s, int seed)
{
    return seed < 0 ? run_ranks(2, 0, body, s) : run_ranks_simulated(2, 0, body, s, (uint64_t)seed);
}

/* ---- the invitation ---- */

typedef struct reader_args {
    test_rank *self;
    rig *r;
    const float *from;
    atomic_uint *release;
} reader_args;

static void read_late(const void *raw)
{
    const reader_args *a = raw;
    while (!atomic_load(a->release)) {
        sched_yield();
        epg_simulation_move(a->self->device, "the experts take their time");
    }
    memcpy(a->r->seen, a->from, sizeof a->r->seen);
}

/* Experts that take their time: the rows they got must stay as they were. */
static int enqueue_slow_experts(test_rank *self, rig *r, const void *rows)
{
    story *s = self->arg;
    reader_args args = {self, r, rows, &s->release};
    if (s->gate) {
        RANK_OK(work_note(self->device, self->stream, s->gate, 1, 0));
        RANK_OK(epg_memcpy_async(self->device, r->seen, rows, sizeof r->seen, self->stream));
    } else {
        RANK_OK(epg_host_launch(self->device, self->stream, read_late, &args, sizeof args, "slow experts"));
    }
    return 0;
}

static int stays_with_slow_experts(test_rank *self)
{
    story *s = self->arg;
    if (test_device_kind() == EPG_DEVICE_CUDA)
        RANK_CHECK((s->gate = work_create(self->device)) != NULL, "memory");
    rig *r = rig_make(self);
    told t;
    epg_dispatch_args args = args_for(r, 0);
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    RANK_OK(epg_dispatch(r->group, &args, &view, self->stream)); /* epoch 1, with the rows of the life that ends */
    if (enqueue_slow_experts(self, r, view.rows))
        return 1;
    RANK_OK(epg_combine(r->group, 0, view.rows, r->out, self->stream));
    wait_until(self, &s->joined);
    tell(&t, self->size, 1, 3); /* the bank of epoch 1 again */
    RANK_OK(epg_group_admit(r->group, &t.admission, self->stream));
    atomic_store(&s->told, 1);
    if (pair(self, r, 0) || pair(self, r, 0))
        return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_group_check(r->group, NULL));
    RANK_CHECK(r->seen[0] == 200, "the experts read %g", (double)r->seen[0]);
    rig_free(r);
    if (s->gate)
        work_destroy(self->device, s->gate);
    return 0;
}

static int joins_in_a_hurry(test_rank *self)
{
    story *s = self->arg;
    rig *r = rig_make(self);
    told t;
    if (self->incarnation == 0) {
        epg_dispatch_args args = args_for(r, TOKENS);
        RANK_OK(epg_dispatch_send(r->group, &args, self->stream));
        return dies(self, r);
    }
    atomic_store(&s->joined, 1);
    wait_until(self, &s->told);
    tell(&t, self->size, 1, 3);
    RANK_OK(epg_group_admit(r->group, &t.admission, self->stream));
    if (pair(self, r, TOKENS))
        return 1;
    for (int i = 0; i < 300; i++) { /* its pair gets every chance to run too early */
        sched_yield();
        epg_simulation_sleep(self->device, 1000);
    }
    atomic_store(&s->release, 1);
    if (s->gate)
        work_open(s->gate);
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_group_check(r->group, NULL));
    RANK_CHECK(memcmp(r->out, r->rows, sizeof r->out) == 0, "its own pair");
    rig_free(r);
    rig_free(s->remains);
    return 0;
}

static int hurry(test_rank *self)
{
    return self->rank + 1 < self->size ? stays_with_slow_experts(self) : joins_in_a_hurry(self);
}

static void a_newcomer_waits_for_those_who_still_read(void **state)
{
    (void)state;
    if (test_device_serial())
        skip();
    for (int seed = -1; seed < seeds_here(); seed++) {
        story s = {.remains = NULL};
        assert_int_equal(play(hurry, &s, seed), 0);
    }
}

/* ---- told too late ---- */

static int late_stays(test_rank *self)
{
    story *s = self->arg;
    rig *r = rig_make(self);
    epg_group_record record = EPG_GROUP_RECORD_INIT;
    told t;
    int alive;
    wait_until(self, &s->joined);
    RANK_OK(epg_group_mask(r->group, self->size - 1));
    if (pair(self, r, TOKENS) || pair(self, r, TOKENS))
        return 1;
    tell(&t, self->size, 1, 2);
    RANK_OK(epg_group_admit(r->group, &t.admission, self->stream)); /* epoch 2 has run */
    if (pair(self, r, TOKENS))
        return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_CHECK(epg_group_check(r->group, &record) == EPG_ERR_PAIRS, "status %d", record.status);
    RANK_CHECK(record.operation == EPG_OP_JOIN && record.peer == self->size - 1, "operation %d", record.operation);
    RANK_CHECK(record.expected == 2 && record.seen == 2, "seen %llu", (unsigned long long)record.seen);
    RANK_OK(epg_group_alive(r->group, self->size - 1, &alive));
    RANK_CHECK(!alive, "taken in all the same");
    atomic_store(&s->told, 1);
    RANK_CHECK(memcmp(r->out, r->rows, sizeof r->out) == 0, "goes on alone");
    wait_until(self, &s->release);
    rig_free(r);
    return 0;
}

static int late_joins(test_rank *self)
{
    story *s = self->arg;
    rig *r = rig_make(self);
    told t;
    if (self->incarnation == 0)
        return dies(self, r);
    atomic_store(&s->joined, 1);
    wait_until(self, &s->told);
    tell(&t, self->size, 1, 2);
    RANK_OK(epg_group_admit(r->group, &t.admission, self->stream));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_CHECK(epg_group_check(r->group, NULL) == EPG_ERR_MASKED, "not told");
    RANK_CHECK(strstr(epg_message(), "join"), "message");
    atomic_store(&s->release, 1);
    rig_free(r);
    rig_free(s->remains);
    return 0;
}

static int late(test_rank *self) { return self->rank + 1 < self->size ? late_stays(self) : late_joins(self); }

static void an_admission_after_its_epoch_is_recorded(void **state)
{
    (void)state;
    if (test_device_serial())
        skip();
    for (int seed = -1; seed < seeds_here(); seed++) {
        story s = {.remains = NULL};
        assert_int_equal(play(late, &s, seed), 0);
    }
}

/* ---- before the admission; what is refused ---- */

static int replays_too_early(test_rank *self)
{
    story *s = self->arg;
    rig *r = rig_make(self);
    epg_graph graph;
    epg_exec exec;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    epg_dispatch_args args = args_for(r, TOKENS);
    if (self->incarnation == 0)
        return dies(self, r);
    RANK_CHECK(epg_dispatch_send(r->group, &args, self->stream) == EPG_ERR_STATE, "an eager operation");
    RANK_CHECK(strstr(epg_message(), "was not admitted yet"), "message");
    RANK_OK(epg_group_rehearse(r->group, 1, self->stream));
    if (pair(self, r, TOKENS))
        return 1;
    RANK_OK(epg_group_rehearse(r->group, 0, self->stream));
    RANK_OK(epg_capture_begin(self->device, self->stream, EPG_CAPTURE_THREAD_LOCAL));
    if (pair(self, r, TOKENS))
        return 1;
    RANK_OK(epg_capture_end(self->device, self->stream, &graph));
    RANK_OK(epg_graph_instantiate(self->device, graph, &exec));
    RANK_OK(epg_graph_destroy(self->device, graph));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_group_check(r->group, NULL));
    RANK_OK(epg_exec_launch(self->device, exec, self->stream));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_CHECK(epg_group_check(r->group, NULL) == EPG_ERR_STATE, "a replay");
    RANK_CHECK(strstr(epg_message(), "before the rank was admitted"), "message");
    RANK_OK(epg_group_get_stats(r->group, &stats));
    RANK_CHECK(stats.pairs == 0, "%llu pairs", (unsigned long long)stats.pairs);
    RANK_OK(epg_group_clear_record(r->group));
    told t;
    tell(&t, self->size, 1, 1);
    RANK_OK(epg_group_admit(r->group, &t.admission, self->stream));
    RANK_OK(epg_exec_launch(self->device, exec, self->stream));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_group_check(r->group, NULL));
    RANK_CHECK(memcmp(r->out, r->rows, sizeof r->out) == 0, "after the admission");
    RANK_OK(epg_exec_destroy(self->device, exec));
    rig_free(r);
    rig_free(s->remains);
    return 0;
}

static void a_replay_before_the_admission_is_recorded(void **state)
{
    (void)state;
    story s = {.remains = NULL};
    assert_int_equal(run_ranks_both(1, 0, replays_too_early, &s, (uint64_t)seeds_here()), 0);
}

static int is_refused(test_rank *self)
{
    rig *r = rig_make(self);
    epg_group_options o = options_for(self);
    epg_group *group = NULL;
    epg_dispatch_args args = args_for(r, TOKENS);
    told t;
    tell(&t, self->size, 0, 1);
    if (self->incarnation == 0) {
        epg_graph graph;
        RANK_CHECK(epg_group_join(self->team, &o, &group) == EPG_ERR_STATE, "join in a first life");
        RANK_CHECK(epg_group_admit(r->group, &t.admission, self->stream) == EPG_ERR_INVALID, "incarnation 0");
        t.members[0].incarnation = 1;
        RANK_CHECK(epg_group_admit(r->group, &t.admission, self->stream) == EPG_ERR_INVALID, "another incarnation");
        t.members[0] = (epg_member){0, EPG_MEMBER_GONE};
        RANK_CHECK(epg_group_admit(r->group, &t.admission, self->stream) == EPG_ERR_STATE, "gone itself");
        RANK_CHECK(strstr(epg_message(), "this rank, 0, is gone in the admission"), "message");
        t.members[0].state = EPG_MEMBER_STAYS;
        t.admission.ranks = 9;
        RANK_CHECK(epg_group_admit(r->group, &t.admission, self->stream) == EPG_ERR_INVALID, "another team");
        t.admission.ranks = self->size;
        RANK_OK(epg_capture_begin(self->device, self->stream, EPG_CAPTURE_THREAD_LOCAL));
        RANK_CHECK(epg_group_admit(r->group, &t.admission, self->stream) == EPG_ERR_STATE, "captured");
        RANK_OK(epg_capture_end(self->device, self->stream, &graph));
        RANK_OK(epg_graph_destroy(self->device, graph));
        RANK_OK(epg_dispatch_send(r->group, &args, self->stream));
        RANK_CHECK(epg_group_admit(r->group, &t.admission, self->stream) == EPG_ERR_STATE, "a pair is open");
        RANK_CHECK(strstr(epg_message(), "dispatch recv is missing"), "message");
        RANK_OK(epg_pair_abandon(r->group, 0, self->stream));
        return dies(self, r);
    }
    story *s = self->arg;
    RANK_CHECK(epg_group_join(self->team, &o, &group) == EPG_ERR_NOT_FOUND, "there was one group only");
    t.members[0] = (epg_member){1, EPG_MEMBER_STAYS};
    RANK_CHECK(epg_group_admit(r->group, &t.admission, self->stream) == EPG_ERR_STATE, "it joins, and does not stay");
    rig_free(r);
    rig_free(s->remains);
    return 0;
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    story s = {.remains = NULL};
    assert_int_equal(run_ranks(1, 0, is_refused, &s), 0);
}

static int other_options(test_rank *self)
{
    story *s = self->arg;
    if (self->incarnation == 0)
        return dies(self, rig_make(self));
    epg_group_options o = options_for(self);
    epg_group *group = NULL;
    o.first_epoch = 7; /* the same sizes */
    RANK_CHECK(epg_group_join(self->team, &o, &group) == EPG_ERR_MISMATCH && !group, "joined");
    RANK_CHECK(strstr(epg_message(), "first_epoch is 0 on rank 0 and 7"), "message");
    rig_free(s->remains);
    return 0;
}

static void a_group_joined_with_other_options_is_refused(void **state)
{
    (void)state;
    story s = {.remains = NULL};
    assert_int_equal(run_ranks(1, 0, other_options, &s), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_newcomer_waits_for_those_who_still_read),
        cmocka_unit_test(an_admission_after_its_epoch_is_recorded),
        cmocka_unit_test(a_replay_before_the_admission_is_recorded),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(a_group_joined_with_other_options_is_refused),
    };
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
