/* The same pairs on the host device and on the GPU: what each left behind is kept as hashes and compared. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "gpu/pairs.h"
#include "support/device_under_test.h"
#include "support/fp8_oracle.h"
#include "support/pair_oracle.h"

/* What one pair left behind. pairs_run is given [ranks][pairs][FIELDS]. */
enum { OFFSETS, COUNTS, TOTAL, SOURCES, TOKENS, WEIGHTS, ROWS, SCALES, OUTPUT, FLAGS, RECORD, STATS, FIELDS };
static const char *const field_names[FIELDS] = {"offsets", "counts", "total",  "sources", "tokens", "weights",
                                                "rows",    "scales", "output", "flags",   "record", "stats"};

static uint64_t hash(uint64_t h, const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ ((const unsigned char *)data)[i]) * 1099511628211ull;
    return h;
}

/* The scales of a row in what was copied of a view, and one of them: 4 bytes, 1 where they are packed, and all of them
 * where they are opaque. */
static const char *scales_seen(const pairs_buffers *b, uint32_t expert, size_t row)
{
    const epg_dispatch_view *v = &b->view;
    const char *from = v->row_index ? b->seen + ((const char *)v->scales - (const char *)v->rows) : b->seen_scales;
    return from + expert * v->scale_expert_stride + row * v->scale_row_stride;
}
static size_t scale_width(const pairs_shape *s) { return s->o.row_type == EPG_OPAQUE ? s->o.scale_bytes : 4; }
static const char *scale_seen(const pairs_shape *s, const pairs_buffers *b, const char *scales, size_t block)
{
    if (s->o.scale_layout == EPG_SCALES_PACKED)
        return scales + block / 4 * b->view.scale_block_stride; /* the whole word, every time */
    return scales + block * b->view.scale_block_stride;
}

/* What an expert reads; nothing that could make a NaN, whose bits are the device's. */
static float element(const pairs_shape *s, const pairs_buffers *b, const char *row, const char *scales, uint32_t i)
{
    if (s->o.row_type == EPG_OPAQUE)
        return (float)(int8_t)row[i % s->o.row_bytes] / 64;
    if (s->o.row_type != EPG_FLOAT8_E4M3)
        return (float)pair_get(s->o.row_type, row, i);
    float scale;
    const char *at = scale_seen(s, b, scales, i / 128);
    uint32_t packed;
    memcpy(&scale, at, sizeof scale);
    memcpy(&packed, at, sizeof packed);
    if (s->o.scale_layout == EPG_SCALES_PACKED)
        scale = ldexpf(1, (int)(packed >> i / 128 % 4 * 8 & 255) - 127);
    float x = (float)fp8_value((uint8_t)row[i]) * scale;
    return fabsf(x) < 1e30f ? x : 1;
}

/* Hashes what the experts see, and does their work on the host. */
static int see_view(test_rank *self, const pairs_shape *s, pairs_buffers *b, uint64_t *found)
{
    epg_device *d = self->device;
    const epg_dispatch_view *v = &b->view;
    uint32_t experts = v->local_experts, capacity = v->row_capacity;
    uint32_t *words = malloc((2 * (size_t)experts + 1 + 4 * (size_t)capacity) * sizeof *words);
    RANK_CHECK(words, "memory");
    uint32_t *offsets = words, *counts = offsets + experts + 1, *source = counts + experts, *token = source + capacity;
    uint32_t *weight = token + capacity, *index = weight + capacity, total;
    RANK_OK(epg_memcpy(d, offsets, v->offsets, (experts + 1) * sizeof *words));
    RANK_OK(epg_memcpy(d, counts, v->counts, experts * sizeof *words));
    RANK_OK(epg_memcpy(d, &total, v->total, sizeof total));
    RANK_OK(epg_memcpy(d, source, v->row_source, capacity * sizeof *words));
    RANK_OK(epg_memcpy(d, token, v->row_token, capacity * sizeof *words));
    RANK_OK(epg_memcpy(d, weight, v->row_weight, capacity * sizeof *words));
    if (v->row_index)
        RANK_OK(epg_memcpy(d, index, v->row_index, capacity * sizeof *words));
    RANK_OK(epg_memcpy(d, b->seen, v->rows, b->rows_seen));
    if (b->scales_seen)
        RANK_OK(epg_memcpy(d, b->seen_scales, v->scales, b->scales_seen));
    memset(b->made, 0, capacity * b->back);
    found[OFFSETS] = hash(1, offsets, (experts + 1) * sizeof *words);
    found[COUNTS] = hash(2, counts, experts * sizeof *words);
    found[TOTAL] = total;
    for (uint32_t e = 0; e < experts; e++)
        for (uint32_t p = offsets[e]; p < offsets[e] + counts[e]; p++) {
            size_t at = v->row_index ? index[p] : p;
            const char *in = b->seen + at * v->row_stride;
            float scale = 1 + (float)(v->first_expert + e) / 8, add = (float)(v->first_expert + e) / 16;
            found[SOURCES] = hash(found[SOURCES], &source[p], 4);
            found[TOKENS] = hash(found[TOKENS], &token[p], 4);
            found[WEIGHTS] = hash(found[WEIGHTS], &weight[p], 4);
            found[ROWS] = hash(found[ROWS], in, s->o.row_type == EPG_FLOAT8_E4M3 ? s->o.hidden : b->row);
            const char *scales = scales_seen(b, e, v->scale_expert_stride ? p - offsets[e] : at);
            for (size_t i = 0; i < b->scales; i += scale_width(s))
                found[SCALES] = hash(found[SCALES], scale_seen(s, b, scales, i / scale_width(s)), scale_width(s));
            for (uint32_t i = 0; i < s->o.hidden; i++)
                pair_put(s->o.row_type, b->made + p * b->back, i, element(s, b, in, scales, i) * scale + add);
        }
    free(words);
    return 0;
}

static int see_result(test_rank *self, pairs_buffers *b, uint32_t lane, int rehearsed, uint64_t *found)
{
    epg_group_record record = EPG_GROUP_RECORD_INIT;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    const uint32_t *flags;
    RANK_OK(epg_memcpy(self->device, b->seen, b->out, b->tokens_max * b->back));
    found[OUTPUT] = hash(3, b->seen, b->tokens_max * b->back);
    RANK_OK(epg_group_flags(b->group, lane, &flags));
    RANK_OK(epg_memcpy(self->device, b->seen, flags, b->tokens_max * sizeof *flags));
    found[FLAGS] = hash(4, b->seen, (rehearsed ? 0 : b->tokens) * sizeof *flags);
    (void)epg_group_check(b->group, &record);
    record.time_ns = 0;
    found[RECORD] = hash(5, (char *)&record + sizeof record.size, sizeof record - sizeof record.size);
    RANK_OK(epg_group_get_stats(b->group, &stats));
    const uint64_t counted[] = {stats.issued,   stats.captured, stats.pairs,   stats.dropped_tokens,
                                stats.dropped_rows, stats.bad_ids,  stats.flagged, stats.timeouts};
    found[STATS] = hash(6, counted, sizeof counted);
    return 0;
}

/* Rows that were copied for the experts can be their output, unless they are fp8 or opaque. */
static int is_combine_row(const pairs_shape *s, const pairs_buffers *b)
{
    return !b->view.row_index && s->o.row_type <= EPG_BFLOAT16;
}

/* Captured, with identity experts where that can be, and replayed twice; a rehearsal once. */
static int replay_pair(const pairs_job *j, pairs_buffers *b, uint32_t pair, uint32_t lane, int rehearsed)
{
    const test_rank *self = &j->self;
    epg_graph graph;
    epg_exec exec;
    RANK_OK(epg_capture_begin(self->device, self->stream, EPG_CAPTURE_THREAD_LOCAL));
    if (pairs_dispatch(j, b, pair, lane) ||
        pairs_combine(j, b, pair, lane, is_combine_row(j->s, b) ? b->view.rows : b->expert_out))
        return 1;
    RANK_OK(epg_capture_end(self->device, self->stream, &graph));
    RANK_OK(epg_graph_instantiate(self->device, graph, &exec));
    RANK_OK(epg_graph_destroy(self->device, graph));
    for (int i = 0; i < (rehearsed ? 1 : 2); i++)
        RANK_OK(epg_exec_launch(self->device, exec, self->stream));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_exec_destroy(self->device, exec));
    return 0;
}

static int run_pair(test_rank *self, const pairs_job *j, pairs_buffers *b, uint32_t pair)
{
    uint64_t *found = j->found + ((size_t)self->rank * j->s->pairs + pair) * FIELDS;
    uint32_t lane = pair % j->s->o.lanes;
    int rehearsed = pair % 7 == 4, captured = pair % 3 == 1;
    if (pairs_fill(self, j->s, b, pair))
        return 1;
    if (rehearsed)
        RANK_OK(epg_group_rehearse(b->group, 1, self->stream));
    if (captured ? replay_pair(j, b, pair, lane, rehearsed) : pairs_dispatch(j, b, pair, lane))
        return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    if (see_view(self, j->s, b, found))
        return 1;
    if (!captured) {
        RANK_OK(epg_memcpy(self->device, b->expert_out, b->made, b->view.row_capacity * b->back));
        if (pairs_combine(j, b, pair, lane, b->expert_out))
            return 1;
    }
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    if (see_result(self, b, lane, rehearsed, found))
        return 1;
    if (pair % 3 == 2)
        RANK_OK(epg_group_clear_record(b->group));
    if (rehearsed)
        RANK_OK(epg_group_rehearse(b->group, 0, self->stream));
    return 0;
}

static int run_rank(pairs_job *j)
{
    test_rank *self = &j->self;
    pairs_buffers b = {0};
    RANK_OK(epg_stream_create(self->device, EPG_STREAM_NONBLOCKING, &self->stream));
    if (pairs_buffers_make(self, j->s, &b))
        return 1;
    for (uint32_t pair = 0; pair < j->s->pairs; pair++)
        if (run_pair(self, j, &b, pair))
            return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_team_barrier(self->team));
    RANK_OK(epg_stream_destroy(self->device, self->stream));
    return pairs_buffers_free(self, &b);
}

void pairs_compare(pairs_shape s)
{
    static const unsigned mixes[] = {0x00, 0xFF, 0x5A};
    size_t count = (size_t)s.ranks * s.pairs * FIELDS;
    uint64_t *expected = calloc(count, sizeof *expected), *found = calloc(count, sizeof *found);
    epg_device *host, *gpu;
    if (s.ranks > 1 && test_device_serial())
        skip();
    s.o.size = sizeof s.o;
    s.o.lanes = s.o.lanes ? s.o.lanes : 1;
    s.o.logical_experts = s.o.logical_experts ? s.o.logical_experts : s.o.experts;
    s.o.timeout_ms = 10000;
    assert_non_null(expected);
    assert_non_null(found);
    assert_int_equal(epg_device_create(NULL, &host), EPG_OK);
    assert_int_equal(test_device_create(&gpu), EPG_OK);
    pairs_run(host, &s, run_rank, 0x36, expected);
    for (size_t m = 0; m < sizeof mixes / sizeof *mixes; m++) {
        memset(found, 0, count * sizeof *found);
        pairs_run(gpu, &s, run_rank, mixes[m], found);
        for (size_t i = 0; i < count; i++)
            if (expected[i] != found[i])
                fail_msg("%s, mix 0x%02X: rank %zu, pair %zu: %s differ", s.name, mixes[m], i / FIELDS / s.pairs,
                         i / FIELDS % s.pairs, field_names[i % FIELDS]);
    }
    epg_device_destroy(gpu);
    epg_device_destroy(host);
    free(expected);
    free(found);
}
