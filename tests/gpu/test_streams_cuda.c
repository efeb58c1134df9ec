/* Streams of the CUDA device that are used for the first time by several threads at once: what waits in one, with work
 * behind it, may not hold up another. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "gpu/launch.h"
#include "support/device_under_test.h"
#include "support/ranks.h"

enum { RANKS = 8, ROUNDS = 12 };

typedef struct meeting {
    uint32_t *words[ROUNDS]; /* device memory, one allocation each */
} meeting;

static int make(test_rank *self, meeting *m)
{
    epg__cuda_launch launch = {.kernel = launch_kernel(LAUNCH_MEET)};
    for (int i = 0; i < ROUNDS && self->rank == 0; i++) {
        void *memory;
        RANK_OK(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, 2 * sizeof(uint32_t), &memory));
        m->words[i] = memory;
    }
    RANK_OK(epg__cuda_kernel_prepare(self->device, launch.kernel, 0));
    return 0;
}

/* Each rank's first work in its stream waits for all others', and has more behind it. */
static int meet(test_rank *self, uint32_t *words)
{
    epg__cuda_launch launch = {.kernel = launch_kernel(LAUNCH_MEET), .name = "meet", .block = 1};
    launch_params wait = {words, self->size, 0}, behind = {words, 0, 0};
    epg_stream stream;
    RANK_OK(epg_stream_create(self->device, EPG_STREAM_NONBLOCKING, &stream));
    RANK_OK(epg_team_barrier(self->team));
    RANK_OK(epg__cuda_launch_kernel(self->device, stream, &launch, &wait));
    for (int i = 0; i < 3; i++)
        RANK_OK(epg__cuda_launch_kernel(self->device, stream, &launch, &behind));
    RANK_OK(epg_stream_synchronize(self->device, stream));
    RANK_OK(epg_team_barrier(self->team));
    RANK_OK(epg_stream_destroy(self->device, stream));
    return 0;
}

static int body(test_rank *self)
{
    meeting *m = self->arg;
    uint32_t seen[2];
    if (make(self, m))
        return 1;
    RANK_OK(epg_team_barrier(self->team));
    for (int i = 0; i < ROUNDS; i++) {
        if (meet(self, m->words[i]))
            return 1;
        RANK_OK(epg_memcpy(self->device, seen, m->words[i], sizeof seen));
        RANK_CHECK(seen[0] == 4 * self->size && seen[1] == 0, "round %d: %u came, %u gave up", i, seen[0], seen[1]);
    }
    RANK_OK(epg_team_barrier(self->team));
    for (int i = 0; i < ROUNDS && self->rank == 0; i++)
        RANK_OK(epg_memory_free(self->device, EPG_MEMORY_DEVICE, m->words[i]));
    return 0;
}

static void first_uses_at_once_do_not_wait_for_one_another(void **state)
{
    meeting m;
    (void)state;
    if (test_device_serial())
        skip();
    assert_int_equal(run_ranks(RANKS, 20000, body, &m), 0);
}

static epg_status create_group(test_rank *self, epg_group **group)
{
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    o.experts = self->size;
    o.hidden = 16;
    o.topk = 1;
    o.max_tokens = 4;
    return epg_group_create(self->team, &o, group);
}

static int just_enough(test_rank *self)
{
    epg_group *group;
    RANK_OK(create_group(self, &group));
    RANK_OK(epg_team_barrier(self->team));
    epg_group_destroy(group);
    return 0;
}

/* Ranks that could hold one another up are refused, with the number that would do. */
static int too_many(test_rank *self)
{
    epg_group *group;
    RANK_CHECK(create_group(self, &group) == EPG_ERR_UNSUPPORTED, "created");
    RANK_CHECK(strstr(epg_message(), "17 ranks on one GPU") &&
               strstr(epg_message(), "CUDA_DEVICE_MAX_CONNECTIONS is 32, good for 16 ranks"), "%s", epg_message());
    return 0;
}

static void more_ranks_than_can_wait_are_refused(void **state)
{
    (void)state;
    if (strcmp(getenv("CUDA_DEVICE_MAX_CONNECTIONS"), "32"))
        skip(); /* somebody set another number */
    assert_int_equal(run_ranks(16, 20000, just_enough, NULL), 0);
    assert_int_equal(run_ranks(17, 20000, too_many, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_uses_at_once_do_not_wait_for_one_another),
        cmocka_unit_test(more_ranks_than_can_wait_are_refused),
    };
    if (test_gpu_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
