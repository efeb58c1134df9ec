/* What each rank does in pairs of a shape: its buffers, its random inputs, its operations; and a team of such ranks. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "gpu/pairs.h"
#include "support/fp8_oracle.h"
#include "support/pair_oracle.h"

/* Every other two pairs of an fp8 group are given fp8 rows with their scales. */
static int is_quantised(const pairs_shape *s, uint32_t pair)
{
    return s->o.row_type == EPG_FLOAT8_E4M3 && pair / 2 % 2;
}

/* Now and then, in a row that may, what is not finite. */
static uint16_t random_bf16(uint64_t *seed, uint16_t size, int any)
{
    static const uint16_t odd[] = {0x7F80, 0xFF80, 0x7FC1, 0x0001};
    uint64_t bits = pair_random(seed);
    return any && bits >> 58 == 0 ? odd[bits % 4] : (uint16_t)((bits & 0x87FF) + size);
}

static void random_row(const pairs_shape *s, const pairs_buffers *b, uint32_t pair, uint64_t *seed, char *row,
                       char *scales)
{
    uint16_t wide[1 << 14];
    if (s->o.row_type == EPG_FLOAT8_E4M3) {
        /* The row's least exponent. */
        uint16_t size = (uint16_t)(pair_random(seed) % 4 ? 110 << 7 : pair_random(seed) % 240 << 7);
        int any = pair_random(seed) % 4 == 0;
        for (uint32_t i = 0; i < s->o.hidden; i++)
            wide[i] = random_bf16(seed, size, any);
        if (is_quantised(s, pair))
            fp8_row(wide, s->o.hidden, (int)s->o.scale_power_of_two, (uint8_t *)row, (float *)scales);
        else
            memcpy(row, wide, s->o.hidden * sizeof *wide);
        return;
    }
    for (size_t i = 0; s->o.row_type == EPG_OPAQUE && i < b->row; i++)
        row[i] = (char)pair_random(seed);
    for (size_t i = 0; s->o.row_type == EPG_OPAQUE && i < b->scales; i++)
        scales[i] = (char)pair_random(seed);
    for (size_t i = 0; s->o.row_type != EPG_OPAQUE && i < s->o.hidden; i++)
        pair_put(s->o.row_type, row, i, (float)((double)(pair_random(seed) >> 11) / 9007199254740992.0 - 0.5));
}

static int32_t random_id(const pairs_shape *s, uint64_t *seed, const int32_t *before, uint32_t count)
{
    for (;;) {
        int32_t id = pair_random(seed) % 7 == 0 ? -1 : (int32_t)(pair_random(seed) % s->o.logical_experts);
        int again = 0;
        for (uint32_t i = 0; !s->dirty && id >= 0 && i < count; i++)
            again |= before[i] == id;
        if (!again)
            return s->dirty && pair_random(seed) % 40 == 0 ? (int32_t)(pair_random(seed) % 100000) - 50000 : id;
    }
}

/* Rows are bf16 where fp8 is made of them. Scales that are not beside their rows fill `row_capacity` rows, or as many
 * columns, of each expert in the masked layout. */
static void size_rows(const pairs_shape *s, pairs_buffers *b)
{
    const epg_dispatch_view *v = &b->view;
    uint32_t slots = s->o.slots ? s->o.slots : s->o.max_tokens, width = s->o.row_type == EPG_FLOAT32 ? 4 : 2;
    size_t blocks = (s->o.hidden + 127) / 128, rows = v->row_index ? (size_t)2 * s->ranks * slots : v->row_capacity;
    b->row = s->o.row_type == EPG_OPAQUE ? s->o.row_bytes : s->o.hidden * width;
    b->scales = s->o.row_type == EPG_OPAQUE ? s->o.scale_bytes : s->o.row_type == EPG_FLOAT8_E4M3 ? blocks * 4 : 0;
    b->back = s->o.hidden * width;
    b->rows_seen = rows * v->row_stride;
    b->scales_seen = 0;
    if (!v->scales || v->row_index)
        return;
    if (v->scale_expert_stride)
        b->scales_seen = v->local_experts * v->scale_expert_stride;
    else if (s->o.scale_layout == EPG_SCALES_ROW_MAJOR)
        b->scales_seen = rows * v->scale_row_stride;
    else
        b->scales_seen = (s->o.scale_layout == EPG_SCALES_PACKED ? (blocks + 3) / 4 : blocks) * v->scale_block_stride;
}

int pairs_buffers_make(test_rank *self, const pairs_shape *s, pairs_buffers *b)
{
    uint32_t most = s->o.max_tokens;
    b->view = (epg_dispatch_view)EPG_DISPATCH_VIEW_INIT;
    RANK_OK(epg_group_create(self->team, &s->o, &b->group));
    RANK_OK(epg_group_view(b->group, 0, &b->view));
    b->tokens_max = most;
    size_rows(s, b);
    size_t scales = most * b->scales, largest = b->rows_seen;
    const size_t bytes[] = {most * b->row,    (size_t)most * s->o.topk * 8, (size_t)most * s->o.topk * 4, 4,
                            most * b->back, b->view.row_capacity * b->back, scales ? scales : 1};
    void **const memory[] = {&b->rows, &b->ids, &b->weights, &b->count, &b->out, &b->expert_out, &b->row_scales};
    for (int i = 0; i < 7; i++)
        RANK_OK(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, bytes[i], memory[i]));
    for (int i = 0; i < 7; i++)
        largest = bytes[i] > largest ? bytes[i] : largest;
    b->host = malloc(largest);
    b->seen = malloc(largest);
    b->made = malloc(largest);
    b->seen_scales = malloc(b->scales_seen + scales + 1);
    RANK_CHECK(b->host && b->seen && b->made && b->seen_scales, "memory");
    if (s->o.logical_experts == s->o.experts)
        return 0;
    int32_t *map;
    for (uint32_t e = 0; e < s->o.logical_experts; e++)
        ((int32_t *)b->host)[e] = e % 11 == 10 ? -1 : (int32_t)((e * 7 + 3) % s->o.experts);
    RANK_OK(epg_group_expert_map(b->group, &map));
    RANK_OK(epg_memcpy(self->device, map, b->host, s->o.logical_experts * sizeof *map));
    return 0;
}

int pairs_buffers_free(test_rank *self, pairs_buffers *b)
{
    void *const memory[] = {b->rows, b->row_scales, b->ids, b->weights, b->count, b->out, b->expert_out};
    epg_group_destroy(b->group);
    for (int i = 0; i < 7; i++)
        RANK_OK(epg_memory_free(self->device, EPG_MEMORY_DEVICE, memory[i]));
    free(b->host);
    free(b->seen);
    free(b->seen_scales);
    free(b->made);
    return 0;
}

int pairs_fill(test_rank *self, const pairs_shape *s, pairs_buffers *b, uint32_t pair)
{
    epg_device *d = self->device;
    uint64_t seed = pair * 7919 + self->rank * 104729 + s->o.hidden;
    uint32_t most = b->tokens_max, choices = most * s->o.topk, asked;
    int32_t *ids = (int32_t *)b->seen;
    b->tokens = pair == 0 ? most : pair_random(&seed) % 5 == 0 ? 0 : (uint32_t)(pair_random(&seed) % (most + 1));
    asked = pair % 6 == 5 ? most + 3 : b->tokens; /* more than the bucket holds */
    b->tokens = asked < most ? asked : most;
    RANK_OK(epg_memcpy(d, b->count, &asked, sizeof asked));
    size_t row = is_quantised(s, pair) ? s->o.hidden : b->row;
    for (uint32_t t = 0; t < most; t++)
        random_row(s, b, pair, &seed, b->host + t * row, b->seen_scales + t * b->scales);
    RANK_OK(epg_memcpy(d, b->rows, b->host, most * row));
    if (b->scales)
        RANK_OK(epg_memcpy(d, b->row_scales, b->seen_scales, most * b->scales));
    for (uint32_t i = 0; i < choices; i++)
        ids[i] = random_id(s, &seed, ids + i - i % s->o.topk, i % s->o.topk);
    for (uint32_t i = 0; s->ids == EPG_INT64 && i < choices; i++)
        ((int64_t *)b->host)[i] = ids[i];
    if (s->ids == EPG_INT64)
        RANK_OK(epg_memcpy(d, b->ids, b->host, choices * sizeof(int64_t)));
    else
        RANK_OK(epg_memcpy(d, b->ids, ids, choices * sizeof *ids));
    for (uint32_t i = 0; i < choices; i++)
        ((float *)b->host)[i] = (float)((double)(pair_random(&seed) >> 40) / 16777216.0 - 0.25);
    RANK_OK(epg_memcpy(d, b->weights, b->host, choices * sizeof(float)));
    RANK_OK(epg_memset(d, b->out, 0xAB, most * b->back));
    RANK_OK(epg_memset(d, b->expert_out, 0x3C, b->view.row_capacity * b->back));
    return 0;
}

int pairs_dispatch(const pairs_job *j, pairs_buffers *b, uint32_t pair, uint32_t lane)
{
    const test_rank *self = &j->self;
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    args.lane = lane;
    args.mode = j->mix >> ((self->rank + pair) % 8) & 1 ? EPG_MODE_HT : EPG_MODE_LL;
    args.bucket = b->tokens_max;
    args.tokens = b->count;
    args.rows = b->rows;
    if (is_quantised(j->s, pair))
        args.input_type = EPG_FLOAT8_E4M3;
    if (is_quantised(j->s, pair) || j->s->o.scale_bytes)
        args.scales = b->row_scales;
    args.topk_ids = b->ids;
    args.topk_type = j->s->ids;
    args.topk_weights = pair % 4 == 3 ? NULL : b->weights;
    if (pair % 2) {
        RANK_OK(epg_dispatch_send(b->group, &args, self->stream));
        RANK_OK(epg_dispatch_recv(b->group, lane, &b->view, self->stream));
    } else {
        RANK_OK(epg_dispatch(b->group, &args, &b->view, self->stream));
    }
    return 0;
}

int pairs_combine(const pairs_job *j, pairs_buffers *b, uint32_t pair, uint32_t lane, const void *rows)
{
    const test_rank *self = &j->self;
    if (pair % 4 < 2) {
        RANK_OK(epg_combine(b->group, lane, rows, b->out, self->stream));
    } else {
        RANK_OK(epg_combine_send(b->group, lane, rows, self->stream));
        RANK_OK(epg_combine_recv(b->group, lane, b->out, self->stream));
    }
    return 0;
}

static void *thread_main(void *arg)
{
    pairs_job *j = arg;
    j->result = j->body(j);
    if (j->result)
        epg_team_abort(j->self.team, "a test's rank failed");
    return NULL;
}

enum { RANKS_MOST = 8 };

void pairs_run(epg_device *device, const pairs_shape *s, int (*body)(pairs_job *j), unsigned mix, uint64_t *found)
{
    epg_team *teams[RANKS_MOST];
    pthread_t threads[RANKS_MOST];
    pairs_job jobs[RANKS_MOST];
    epg_team_options options = EPG_TEAM_OPTIONS_INIT;
    options.timeout_ms = 60000;
    assert_int_equal(epg_team_create_threads(device, &options, s->ranks, teams), EPG_OK);
    for (uint32_t r = 0; r < s->ranks; r++) {
        test_rank self = {.device = device, .team = teams[r], .rank = r, .size = s->ranks};
        jobs[r] = (pairs_job){s, body, mix, found, self, 0};
        assert_int_equal(pthread_create(&threads[r], NULL, thread_main, &jobs[r]), 0);
    }
    for (uint32_t r = 0; r < s->ranks; r++)
        pthread_join(threads[r], NULL);
    for (uint32_t r = 0; r < s->ranks; r++) {
        epg_team_destroy(teams[r]);
        assert_int_equal(jobs[r].result, 0);
    }
}
