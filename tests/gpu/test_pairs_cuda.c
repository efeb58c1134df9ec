/* The same pairs on the host device and on the GPU: views, outputs, flags, counters and records must agree bit for bit,
 * for every layout of rows and scales and every row type, in every mix of modes, in halves and whole, eager and
 * captured, rehearsed, with ids out of range, experts chosen twice, and rows that do not fit. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "support/device_under_test.h"
#include "support/fp8_oracle.h"
#include "support/ranks.h"

typedef struct shape {
    const char *name;
    uint32_t ranks, pairs;
    epg_group_options o;
    int dirty;          /* ids out of range and experts chosen twice */
    epg_index_type ids;
} shape;

/* What one pair left behind, as hashes. */
enum { OFFSETS, COUNTS, TOTAL, SOURCES, TOKENS, WEIGHTS, ROWS, SCALES, OUTPUT, FLAGS, RECORD, STATS, FIELDS };
static const char *const field_names[FIELDS] = {"offsets", "counts", "total",  "sources", "tokens", "weights",
                                                "rows",    "scales", "output", "flags",   "record", "stats"};

typedef struct job {
    const shape *s;
    int (*body)(struct job *j);
    unsigned mix;       /* bit (rank + pair) % 8: high-throughput */
    uint64_t *found;    /* [pairs][FIELDS] */
    test_rank self;
    int result;
} job;

/* One rank's device buffers, and what the host holds of them. */
typedef struct buffers {
    epg_group *group;
    epg_dispatch_view view;
    size_t row, scales, back;     /* bytes of a row that is sent, of its scales, of a row that comes back */
    size_t rows_seen, scales_seen; /* bytes behind the view's `rows`, and behind its `scales` where they lie apart */
    uint32_t tokens, tokens_max;
    void *rows, *row_scales, *ids, *weights, *count, *out, *expert_out;
    char *host, *seen, *seen_scales, *made;
} buffers;

static uint64_t next(uint64_t *s)
{
    uint64_t z = (*s += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static uint64_t hash(uint64_t h, const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ ((const unsigned char *)data)[i]) * 1099511628211ull;
    return h;
}

static float get(epg_dtype type, const void *row, size_t i)
{
    uint32_t bits;
    float value;
    if (type == EPG_FLOAT32)
        return ((const float *)row)[i];
    bits = (uint32_t)((const uint16_t *)row)[i] << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void put(epg_dtype type, void *row, size_t i, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (type == EPG_FLOAT32)
        ((float *)row)[i] = value;
    else
        ((uint16_t *)row)[i] = (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* Every other two pairs of an fp8 group are given fp8 rows with their scales. */
static int is_quantised(const shape *s, uint32_t pair) { return s->o.row_type == EPG_FLOAT8_E4M3 && pair / 2 % 2; }

/* Now and then, in a row that may, what is not finite. */
static uint16_t random_bf16(uint64_t *seed, uint16_t size, int any)
{
    static const uint16_t odd[] = {0x7F80, 0xFF80, 0x7FC1, 0x0001};
    uint64_t bits = next(seed);
    return any && bits >> 58 == 0 ? odd[bits % 4] : (uint16_t)((bits & 0x87FF) + size);
}

static void random_row(const shape *s, const buffers *b, uint32_t pair, uint64_t *seed, char *row, char *scales)
{
    uint16_t wide[1 << 14];
    if (s->o.row_type == EPG_FLOAT8_E4M3) {
        uint16_t size = (uint16_t)(next(seed) % 4 ? 110 << 7 : next(seed) % 240 << 7); /* the row's least exponent */
        int any = next(seed) % 4 == 0;
        for (uint32_t i = 0; i < s->o.hidden; i++)
            wide[i] = random_bf16(seed, size, any);
        if (is_quantised(s, pair))
            fp8_row(wide, s->o.hidden, (int)s->o.scale_power_of_two, (uint8_t *)row, (float *)scales);
        else
            memcpy(row, wide, s->o.hidden * sizeof *wide);
        return;
    }
    for (size_t i = 0; s->o.row_type == EPG_OPAQUE && i < b->row; i++)
        row[i] = (char)next(seed);
    for (size_t i = 0; s->o.row_type == EPG_OPAQUE && i < b->scales; i++)
        scales[i] = (char)next(seed);
    for (size_t i = 0; s->o.row_type != EPG_OPAQUE && i < s->o.hidden; i++)
        put(s->o.row_type, row, i, (float)((double)(next(seed) >> 11) / 9007199254740992.0 - 0.5));
}

static int32_t random_id(const shape *s, uint64_t *seed, const int32_t *before, uint32_t count)
{
    for (;;) {
        int32_t id = next(seed) % 7 == 0 ? -1 : (int32_t)(next(seed) % s->o.logical_experts);
        int again = 0;
        for (uint32_t i = 0; !s->dirty && id >= 0 && i < count; i++)
            again |= before[i] == id;
        if (!again)
            return s->dirty && next(seed) % 40 == 0 ? (int32_t)(next(seed) % 100000) - 50000 : id;
    }
}

/* Rows are bf16 where fp8 is made of them. Scales that are not beside their rows fill `row_capacity` rows, or as many
 * columns, of each expert in the masked layout. */
static void size_rows(const shape *s, buffers *b)
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

static int buffers_make(test_rank *self, const shape *s, buffers *b)
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

static int buffers_free(test_rank *self, buffers *b)
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

static int fill_inputs(test_rank *self, const shape *s, buffers *b, uint32_t pair)
{
    epg_device *d = self->device;
    uint64_t seed = pair * 7919 + self->rank * 104729 + s->o.hidden;
    uint32_t most = b->tokens_max, choices = most * s->o.topk, asked;
    int32_t *ids = (int32_t *)b->seen;
    b->tokens = pair == 0 ? most : next(&seed) % 5 == 0 ? 0 : (uint32_t)(next(&seed) % (most + 1));
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
        ((float *)b->host)[i] = (float)((double)(next(&seed) >> 40) / 16777216.0 - 0.25);
    RANK_OK(epg_memcpy(d, b->weights, b->host, choices * sizeof(float)));
    RANK_OK(epg_memset(d, b->out, 0xAB, most * b->back));
    RANK_OK(epg_memset(d, b->expert_out, 0x3C, b->view.row_capacity * b->back));
    return 0;
}

static int enqueue_dispatch(test_rank *self, const job *j, buffers *b, uint32_t pair, uint32_t lane)
{
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

static int enqueue_combine(test_rank *self, buffers *b, uint32_t pair, uint32_t lane, const void *rows)
{
    if (pair % 4 < 2) {
        RANK_OK(epg_combine(b->group, lane, rows, b->out, self->stream));
    } else {
        RANK_OK(epg_combine_send(b->group, lane, rows, self->stream));
        RANK_OK(epg_combine_recv(b->group, lane, b->out, self->stream));
    }
    return 0;
}

/* The scales of a row in what was copied of a view, and one of them: 4 bytes, 1 where they are packed, and all of them
 * where they are opaque. */
static const char *scales_seen(const buffers *b, uint32_t expert, size_t row)
{
    const epg_dispatch_view *v = &b->view;
    const char *from = v->row_index ? b->seen + ((const char *)v->scales - (const char *)v->rows) : b->seen_scales;
    return from + expert * v->scale_expert_stride + row * v->scale_row_stride;
}
static size_t scale_width(const shape *s) { return s->o.row_type == EPG_OPAQUE ? s->o.scale_bytes : 4; }
static const char *scale_seen(const shape *s, const buffers *b, const char *scales, size_t block)
{
    if (s->o.scale_layout == EPG_SCALES_PACKED)
        return scales + block / 4 * b->view.scale_block_stride; /* the whole word, every time */
    return scales + block * b->view.scale_block_stride;
}

/* What an expert reads; nothing that could make a NaN, whose bits are the device's. */
static float element(const shape *s, const buffers *b, const char *row, const char *scales, uint32_t i)
{
    if (s->o.row_type == EPG_OPAQUE)
        return (float)(int8_t)row[i % s->o.row_bytes] / 64;
    if (s->o.row_type != EPG_FLOAT8_E4M3)
        return get(s->o.row_type, row, i);
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
static int see_view(test_rank *self, const shape *s, buffers *b, uint64_t *found)
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
                put(s->o.row_type, b->made + p * b->back, i, element(s, b, in, scales, i) * scale + add);
        }
    free(words);
    return 0;
}

static int see_result(test_rank *self, buffers *b, uint32_t lane, int rehearsed, uint64_t *found)
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
static int is_combine_row(const shape *s, const buffers *b)
{
    return !b->view.row_index && s->o.row_type <= EPG_BFLOAT16;
}

/* Captured, with identity experts where that can be, and replayed twice; a rehearsal once. */
static int replay_pair(test_rank *self, const job *j, buffers *b, uint32_t pair, uint32_t lane, int rehearsed)
{
    epg_graph graph;
    epg_exec exec;
    RANK_OK(epg_capture_begin(self->device, self->stream, EPG_CAPTURE_THREAD_LOCAL));
    if (enqueue_dispatch(self, j, b, pair, lane) ||
        enqueue_combine(self, b, pair, lane, is_combine_row(j->s, b) ? b->view.rows : b->expert_out))
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

static int run_pair(test_rank *self, const job *j, buffers *b, uint32_t pair)
{
    uint64_t *found = j->found + (size_t)pair * FIELDS;
    uint32_t lane = pair % j->s->o.lanes;
    int rehearsed = pair % 7 == 4, captured = pair % 3 == 1;
    if (fill_inputs(self, j->s, b, pair))
        return 1;
    if (rehearsed)
        RANK_OK(epg_group_rehearse(b->group, 1, self->stream));
    if (captured ? replay_pair(self, j, b, pair, lane, rehearsed) : enqueue_dispatch(self, j, b, pair, lane))
        return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    if (see_view(self, j->s, b, found))
        return 1;
    if (!captured) {
        RANK_OK(epg_memcpy(self->device, b->expert_out, b->made, b->view.row_capacity * b->back));
        if (enqueue_combine(self, b, pair, lane, b->expert_out))
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

static int run_rank(job *j)
{
    test_rank *self = &j->self;
    buffers b = {0};
    RANK_OK(epg_stream_create(self->device, EPG_STREAM_NONBLOCKING, &self->stream));
    if (buffers_make(self, j->s, &b))
        return 1;
    for (uint32_t pair = 0; pair < j->s->pairs; pair++)
        if (run_pair(self, j, &b, pair))
            return 1;
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_team_barrier(self->team));
    RANK_OK(epg_stream_destroy(self->device, self->stream));
    return buffers_free(self, &b);
}

static void *thread_main(void *arg)
{
    job *j = arg;
    j->result = j->body(j);
    if (j->result)
        epg_team_abort(j->self.team, "a test's rank failed");
    return NULL;
}

enum { RANKS_MOST = 8 };

static void run_on(epg_device *device, const shape *s, int (*body)(job *j), unsigned mix, uint64_t *found)
{
    epg_team *teams[RANKS_MOST];
    pthread_t threads[RANKS_MOST];
    job jobs[RANKS_MOST];
    epg_team_options options = EPG_TEAM_OPTIONS_INIT;
    options.timeout_ms = 60000;
    assert_int_equal(epg_team_create_threads(device, &options, s->ranks, teams), EPG_OK);
    for (uint32_t r = 0; r < s->ranks; r++) {
        test_rank self = {.device = device, .team = teams[r], .rank = r, .size = s->ranks};
        jobs[r] = (job){s, body, mix, found ? found + (size_t)r * s->pairs * FIELDS : NULL, self, 0};
        assert_int_equal(pthread_create(&threads[r], NULL, thread_main, &jobs[r]), 0);
    }
    for (uint32_t r = 0; r < s->ranks; r++)
        pthread_join(threads[r], NULL);
    for (uint32_t r = 0; r < s->ranks; r++) {
        epg_team_destroy(teams[r]);
        assert_int_equal(jobs[r].result, 0);
    }
}

static void compare(shape s)
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
    run_on(host, &s, run_rank, 0x36, expected);
    for (size_t m = 0; m < sizeof mixes / sizeof *mixes; m++) {
        memset(found, 0, count * sizeof *found);
        run_on(gpu, &s, run_rank, mixes[m], found);
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

/* ---- a rank that never sends ---- */

static int wait_in_vain(job *j)
{
    test_rank *self = &j->self;
    buffers b = {0};
    epg_group_record record = EPG_GROUP_RECORD_INIT;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    uint32_t silent = self->size - 1;
    int alive;
    RANK_OK(epg_stream_create(self->device, EPG_STREAM_NONBLOCKING, &self->stream));
    if (buffers_make(self, j->s, &b))
        return 1;
    for (uint32_t pair = 0; self->rank != silent && pair < j->s->pairs; pair++) {
        uint64_t begin = epg_device_now_ns(self->device);
        if (fill_inputs(self, j->s, &b, 0) || enqueue_dispatch(self, j, &b, pair, 0) ||
            enqueue_combine(self, &b, pair, 0, b.expert_out))
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
    return buffers_free(self, &b);
}

static void a_silent_rank_is_masked_and_the_others_go_on(void **state)
{
    (void)state;
    epg_device *gpu;
    shape s = {"silent", 3, 4, EPG_GROUP_OPTIONS_INIT, 0, EPG_INT32};
    if (test_device_serial())
        skip();
    s.o.experts = s.o.logical_experts = 12;
    s.o.hidden = 64;
    s.o.topk = 8;
    s.o.max_tokens = 20;
    s.o.timeout_ms = 300;
    assert_int_equal(test_device_create(&gpu), EPG_OK);
    run_on(gpu, &s, wait_in_vain, 0x5A, NULL);
    epg_device_destroy(gpu);
}

#define BF16 .row_type = EPG_BFLOAT16
#define IN(l) .layout = EPG_LAYOUT_##l

static void one_rank(void **state)
{
    (void)state;
    compare((shape){"in place", 1, 14, {.experts = 8, .hidden = 24, .topk = 3, .max_tokens = 11}, 0, EPG_INT32});
    compare((shape){"aligned, epoch wraps", 1, 14, {.experts = 32, .hidden = 64, .topk = 8, .max_tokens = 40, BF16,
                    IN(CONTIGUOUS), .row_align = 4, .first_epoch = 0xFFFFFFFAu}, 0, EPG_INT64});
    compare((shape){"masked, overflows", 1, 14, {.experts = 16, .hidden = 1024, .topk = 8, .max_tokens = 33, BF16,
                    IN(MASKED), .rows_per_expert = 5}, 1, EPG_INT32});
    compare((shape){"slots overflow, a map", 1, 14, {.experts = 16, .logical_experts = 20, .hidden = 512, .topk = 4,
                    .max_tokens = 60, .slots = 20, BF16, IN(CONTIGUOUS), .row_align = 8, .max_expert_rows = 90}, 1,
                    EPG_INT64});
    compare((shape){"a decode step's", 1, 4, {.experts = 32, .hidden = 7168, .topk = 8, .max_tokens = 128, BF16,
                    IN(CONTIGUOUS)}, 0, EPG_INT32});
}

static void a_few_ranks(void **state)
{
    (void)state;
    compare((shape){"two lanes, epoch wraps", 2, 14, {.experts = 8, .hidden = 24, .topk = 3, .max_tokens = 11,
                    .lanes = 2, .first_epoch = 0xFFFFFFFAu}, 1, EPG_INT32});
    compare((shape){"topk 32", 3, 7, {.experts = 33, .hidden = 8, .topk = 32, .max_tokens = 5}, 0, EPG_INT32});
    compare((shape){"many experts", 3, 7, {.experts = 3000, .hidden = 64, .topk = 1, .max_tokens = 70, BF16}, 0,
                    EPG_INT32});
    compare((shape){"many tokens", 2, 4, {.experts = 16, .hidden = 8, .topk = 4, .max_tokens = 5000, .slots = 4500}, 1,
                    EPG_INT32});
    compare((shape){"long rows", 2, 4, {.experts = 32, .hidden = 10000, .topk = 8, .max_tokens = 30, IN(CONTIGUOUS)}, 0,
                    EPG_INT32});
    compare((shape){"a map, aligned", 4, 14, {.experts = 32, .logical_experts = 40, .hidden = 1024, .topk = 8,
                    .max_tokens = 70, BF16, IN(CONTIGUOUS), .row_align = 16}, 1, EPG_INT64});
}

static void eight_ranks(void **state)
{
    (void)state;
    compare((shape){"masked, few slots", 8, 14, {.experts = 64, .hidden = 256, .topk = 8, .max_tokens = 50, .slots = 30,
                    BF16, IN(MASKED), .rows_per_expert = 40}, 1, EPG_INT32});
    compare((shape){"three lanes, overflows", 8, 14, {.experts = 64, .hidden = 136, .topk = 6, .max_tokens = 90,
                    .slots = 64, .lanes = 3, IN(CONTIGUOUS), .max_expert_rows = 333}, 1, EPG_INT64});
}

#define FP8 .row_type = EPG_FLOAT8_E4M3
#define OPAQUE(row, scales) .row_type = EPG_OPAQUE, .row_bytes = row, .scale_bytes = scales
#define POWERS .scale_power_of_two = 1
#define SCALES(l) .scale_layout = EPG_SCALES_##l

static void fp8_on_one_rank(void **state)
{
    (void)state;
    compare((shape){"in place", 1, 14, {.experts = 8, .hidden = 24, .topk = 3, .max_tokens = 11, FP8}, 1, EPG_INT32});
    compare((shape){"column-major", 1, 14, {.experts = 32, .hidden = 2048, .topk = 8, .max_tokens = 39, FP8,
                    IN(CONTIGUOUS), SCALES(COLUMN_MAJOR)}, 0, EPG_INT64});
    compare((shape){"packed, masked", 1, 14, {.experts = 16, .hidden = 1224, .topk = 8, .max_tokens = 33, FP8,
                    IN(MASKED), .rows_per_expert = 5, POWERS, SCALES(PACKED)}, 1, EPG_INT32});
    compare((shape){"slots overflow", 1, 14, {.experts = 16, .hidden = 584, .topk = 4, .max_tokens = 60, .slots = 20,
                    FP8, POWERS, IN(CONTIGUOUS), .row_align = 8, .max_expert_rows = 90}, 1, EPG_INT64});
    compare((shape){"a decode step's", 1, 6, {.experts = 32, .hidden = 7168, .topk = 8, .max_tokens = 128, FP8,
                    IN(CONTIGUOUS), .row_align = 128, SCALES(COLUMN_MAJOR)}, 0, EPG_INT32});
}

static void fp8_on_several_ranks(void **state)
{
    (void)state;
    compare((shape){"in place, two lanes", 2, 14, {.experts = 8, .hidden = 1032, .topk = 3, .max_tokens = 40,
                    .lanes = 2, FP8, POWERS}, 1, EPG_INT32});
    compare((shape){"long rows", 2, 4, {.experts = 32, .hidden = 10008, .topk = 8, .max_tokens = 30, FP8,
                    IN(CONTIGUOUS)}, 0, EPG_INT32});
    compare((shape){"aligned, column-major", 4, 14, {.experts = 32, .hidden = 512, .topk = 8, .max_tokens = 70, FP8,
                    IN(CONTIGUOUS), .row_align = 16, SCALES(COLUMN_MAJOR)}, 1, EPG_INT64});
    compare((shape){"masked, packed", 8, 14, {.experts = 64, .hidden = 2944, .topk = 8, .max_tokens = 50, .slots = 30,
                    FP8, IN(MASKED), .rows_per_expert = 41, POWERS, SCALES(PACKED)}, 1, EPG_INT32});
    compare((shape){"many tokens", 2, 4, {.experts = 16, .hidden = 136, .topk = 4, .max_tokens = 1200, .slots = 1100,
                    FP8}, 1, EPG_INT32});
    compare((shape){"masked, row-major", 8, 7, {.experts = 64, .hidden = 128, .topk = 8, .max_tokens = 90, FP8,
                    IN(MASKED)}, 0, EPG_INT32});
}

static void opaque_rows(void **state)
{
    (void)state;
    compare((shape){"without scales", 1, 14, {.experts = 8, .hidden = 24, .topk = 3, .max_tokens = 11, OPAQUE(48, 0)},
                    1, EPG_INT32});
    compare((shape){"of odd sizes", 1, 14, {.experts = 8, .hidden = 64, .topk = 3, .max_tokens = 20, OPAQUE(77, 33),
                    IN(CONTIGUOUS)}, 0, EPG_INT32});
    compare((shape){"4 bits per element", 4, 14, {.experts = 32, .hidden = 2880, .topk = 4, .max_tokens = 60,
                    OPAQUE(1440, 90), IN(CONTIGUOUS), .row_align = 8}, 1, EPG_INT64});
    compare((shape){"in place", 8, 14, {.experts = 64, .hidden = 512, .topk = 8, .max_tokens = 40, OPAQUE(1004, 12)}, 1,
                    EPG_INT32});
    compare((shape){"masked", 8, 7, {.experts = 64, .hidden = 256, .topk = 8, .max_tokens = 40, OPAQUE(33, 1),
                    IN(MASKED), .rows_per_expert = 30}, 1, EPG_INT32});
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_rank), cmocka_unit_test(a_few_ranks),
                                       cmocka_unit_test(eight_ranks), cmocka_unit_test(fp8_on_one_rank),
                                       cmocka_unit_test(fp8_on_several_ranks), cmocka_unit_test(opaque_rows),
                                       cmocka_unit_test(a_silent_rank_is_masked_and_the_others_go_on)};
    if (test_device_kind() != EPG_DEVICE_CUDA) {
        puts("EPGRAPH_TEST_DEVICE is not cuda");
        return 77;
    }
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
