/* Pairs of few, of more than 32 and of more than 64 virtual ranks, half by half: each half of all ranks is over before
 * the next begins, so that no kernel ever waits, and the bodies run under compute-sanitizer too. Experts hand back what
 * they get, and weights add up to 1 without rounding: what comes back is the input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "support/device_under_test.h"
#include "support/ranks.h"
#include "team/team_ops.h"

enum { HIDDEN = 16, TOKENS = 40, TOPK = 3, PAIRS = 4 };

/* Host and device see it at one address. */
typedef struct book {
    _Alignas(16) float rows[TOKENS][HIDDEN];
    _Alignas(16) float out[TOKENS][HIDDEN];
    int32_t ids[TOKENS * TOPK];
    float weights[TOKENS * TOPK];
} book;

/* Three experts in a row, of as many ranks: each rank has two. */
static void fill(const test_rank *self, book *b, uint32_t pair)
{
    static const float weights[TOPK] = {0.25f, 0.25f, 0.5f};
    uint32_t experts = 2 * self->size;
    for (uint32_t t = 0; t < TOKENS; t++) {
        for (uint32_t h = 0; h < HIDDEN; h++)
            b->rows[t][h] = (float)(64 * self->rank + 8 * t + h % 8 + pair);
        for (uint32_t k = 0; k < TOPK; k++) {
            b->ids[t * TOPK + k] = (int32_t)((self->rank * 5 + t * 7 + pair + 2 * k) % experts);
            b->weights[t * TOPK + k] = weights[k];
        }
    }
    memset(b->out, 0xAB, sizeof b->out);
}

/* All ranks are through. */
static int meet(test_rank *self)
{
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_team_barrier(self->team));
    return 0;
}

static int pair(test_rank *self, epg_group *group, book *b, uint32_t number)
{
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    fill(self, b, number);
    args.mode = number % 2 ? EPG_MODE_HT : EPG_MODE_LL;
    args.bucket = TOKENS;
    args.rows = b->rows;
    args.topk_ids = b->ids;
    args.topk_weights = b->weights;
    RANK_OK(epg_dispatch_send(group, &args, self->stream));
    if (meet(self))
        return 1;
    RANK_OK(epg_dispatch_recv(group, 0, &view, self->stream));
    RANK_OK(epg_combine_send(group, 0, view.rows, self->stream));
    if (meet(self))
        return 1;
    RANK_OK(epg_combine_recv(group, 0, b->out, self->stream));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_group_check(group, NULL));
    for (uint32_t t = 0; t < TOKENS; t++)
        RANK_CHECK(memcmp(b->out[t], b->rows[t], sizeof b->rows[t]) == 0, "pair %u, token %u: %g of %g", number, t,
                   (double)b->out[t][0], (double)b->rows[t][0]);
    return 0;
}

static int body(test_rank *self)
{
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    epg_group *group;
    void *memory;
    o.experts = 2 * self->size;
    o.hidden = HIDDEN;
    o.topk = TOPK;
    o.max_tokens = TOKENS;
    o.layout = EPG_LAYOUT_CONTIGUOUS;
    o.timeout_ms = 5000;
    self->team->sharing = 1; /* more ranks than could wait for one another on one GPU: here none waits */
    RANK_OK(epg_memory_alloc(self->device, EPG_MEMORY_MAPPED, sizeof(book), &memory));
    RANK_OK(epg_group_create(self->team, &o, &group));
    for (uint32_t i = 0; i < PAIRS; i++)
        if (pair(self, group, memory, i))
            return 1;
    RANK_OK(epg_group_get_stats(group, &stats));
    RANK_CHECK(stats.pairs == PAIRS && stats.flagged == 0, "%llu flagged", (unsigned long long)stats.flagged);
    if (meet(self))
        return 1;
    epg_group_destroy(group);
    RANK_OK(epg_memory_free(self->device, EPG_MEMORY_MAPPED, memory));
    return 0;
}

static void few_ranks(void **state)
{
    (void)state;
    assert_int_equal(run_ranks(4, 20000, body, NULL), 0);
}

static void more_than_32_ranks(void **state)
{
    (void)state;
    assert_int_equal(run_ranks(40, 20000, body, NULL), 0);
}

static void more_than_64_ranks(void **state)
{
    (void)state;
    assert_int_equal(run_ranks(70, 20000, body, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(few_ranks),
        cmocka_unit_test(more_than_32_ranks),
        cmocka_unit_test(more_than_64_ranks),
    };
    if (test_gpu_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
