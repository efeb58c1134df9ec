/* A rank that never sends, on the GPU: each wait for it ends within its bound, the record blames it, and the others go
 * on without it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "gpu/pairs.h"
#include "support/device_under_test.h"

static int wait_in_vain(pairs_job *j)
{
    test_rank *self = &j->self;
    pairs_buffers b = {0};
    epg_group_record record = EPG_GROUP_RECORD_INIT;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    uint32_t silent = self->size - 1;
    int alive;
    RANK_OK(epg_stream_create(self->device, EPG_STREAM_NONBLOCKING, &self->stream));
    if (pairs_buffers_make(self, j->s, &b))
        return 1;
    for (uint32_t pair = 0; self->rank != silent && pair < j->s->pairs; pair++) {
        uint64_t begin = epg_device_now_ns(self->device);
        if (pairs_fill(self, j->s, &b, 0) || pairs_dispatch(j, &b, pair, 0) ||
            pairs_combine(j, &b, pair, 0, b.expert_out))
            return 1;
        RANK_OK(epg_stream_synchronize(self->device, self->stream));
        uint64_t took = epg_device_now_ns(self->device) - begin, limit = j->s->o.timeout_ms * 1000000ull;
        RANK_CHECK(took < (pair ? 1 : self->size + 3) * limit, "pair %u took %llu ns", pair, (unsigned long long)took);
        RANK_CHECK(epg_group_check(b.group, &record) == EPG_ERR_TIMEOUT, "status %d", record.status);
        RANK_CHECK(record.peer == silent && record.operation == EPG_OP_DISPATCH_RECV, "blames rank %u", record.peer);
    }
    if (self->rank != silent) {
        RANK_OK(epg_group_alive(b.group, silent, &alive));
        RANK_OK(epg_group_get_stats(b.group, &stats));
        RANK_CHECK(!alive && stats.timeouts == 1 && stats.pairs == j->s->pairs && stats.flagged > 0, "%llu timeouts",
                   (unsigned long long)stats.timeouts);
        RANK_OK(epg_group_alive(b.group, 0, &alive));
        RANK_CHECK(alive, "rank 0 is masked");
    }
    RANK_OK(epg_team_barrier(self->team));
    RANK_OK(epg_stream_destroy(self->device, self->stream));
    return pairs_buffers_free(self, &b);
}

static void a_silent_rank_is_masked_and_the_others_go_on(void **state)
{
    (void)state;
    epg_device *gpu;
    pairs_shape s = {"silent", 3, 4, EPG_GROUP_OPTIONS_INIT, 0, EPG_INT32};
    if (test_device_serial())
        skip();
    s.o.experts = s.o.logical_experts = 12;
    s.o.hidden = 64;
    s.o.topk = 8;
    s.o.max_tokens = 20;
    s.o.timeout_ms = 300;
    assert_int_equal(test_device_create(&gpu), EPG_OK);
    pairs_run(gpu, &s, wait_in_vain, 0x5A, NULL);
    epg_device_destroy(gpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_silent_rank_is_masked_and_the_others_go_on)};
    if (test_gpu_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
