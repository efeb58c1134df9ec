/* One rank's group with inputs and outputs, and pairs on them whose experts hand back their input. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "bench_int.h"

#define TRY(call) do { epg_status try_status = (call); if (try_status) return try_status; } while (0)

enum { FILL_BYTES = 8 << 20, SETS_BYTES = 128 << 20, VERIFIED = 16 };

/* Values of either sign between 0.5 and 2: none is zero, none is large. Any bytes for opaque rows. */
static void fill_random(void *rows, size_t bytes, epg_dtype type, uint64_t seed)
{
    if (type == EPG_FLOAT32)
        for (size_t i = 0; i < bytes / 4; i++)
            ((uint32_t *)rows)[i] = 0x3F000000u | ((uint32_t)bench_random(&seed) & 0x80FFFFFFu);
    else if (type == EPG_BFLOAT16)
        for (size_t i = 0; i < bytes / 2; i++)
            ((uint16_t *)rows)[i] = (uint16_t)(0x3F00u | (bench_random(&seed) & 0x80FFu));
    else
        for (size_t i = 0; i < bytes; i++)
            ((uint8_t *)rows)[i] = (uint8_t)bench_random(&seed);
}

epg_status bench_random_rows(bench_rank *rank, size_t bytes, epg_dtype type, uint64_t seed, void **rows)
{
    epg_device *device = rank->device;
    size_t block = bytes < FILL_BYTES ? bytes : FILL_BYTES;
    void *values = malloc(block);
    if (!values)
        return bench_fail(rank, "no memory for %zu bytes of rows", block);
    fill_random(values, block, type, seed);
    epg_status status = epg_memory_alloc(device, EPG_MEMORY_DEVICE, bytes, rows);
    for (size_t at = 0; at < bytes && status == EPG_OK; at += block)
        status = epg_memcpy(device, (char *)*rows + at, values, bytes - at < block ? bytes - at : block);
    free(values);
    return status;
}

static epg_status copy_in(bench_exchange *x, const void *from, size_t bytes, void **to)
{
    TRY(epg_memory_alloc(x->rank->device, EPG_MEMORY_DEVICE, bytes, to));
    return epg_memcpy(x->rank->device, *to, from, bytes);
}

static epg_status make_weights(bench_exchange *x, void **weights)
{
    size_t count = (size_t)x->what->most_tokens * x->what->topk;
    float *values = malloc(count * sizeof *values);
    if (!values)
        return bench_fail(x->rank, "no memory for inputs");
    for (size_t i = 0; i < count; i++)
        values[i] = 1.0f / (float)x->what->topk;
    epg_status status = copy_in(x, values, count * sizeof *values, weights);
    free(values);
    return status;
}

int bench_exchange_returns_input(const bench_case *what)
{
    return what->layout != EPG_LAYOUT_IN_PLACE && (what->row_type == EPG_FLOAT32 || what->row_type == EPG_BFLOAT16);
}

static epg_status make_set(bench_exchange *x, const bench_routing *routing, uint32_t set)
{
    const bench_case *what = x->what;
    bench_buffers *b = &x->sets[set];
    bench_row_sizes size = bench_sizes_of(what);
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    epg_dtype combine = what->row_type == EPG_FLOAT32 ? EPG_FLOAT32 : EPG_BFLOAT16;
    epg_dtype input = what->row_type == EPG_OPAQUE ? EPG_OPAQUE : combine;
    size_t choices = (size_t)what->most_tokens * what->topk;
    uint64_t seed = (uint64_t)x->rank->rank * BENCH_SETS_MAX + set + 1;
    TRY(epg_group_view(x->group, 0, &view));
    TRY(bench_random_rows(x->rank, what->most_tokens * size.input, input, seed << 32, &b->rows));
    TRY(bench_random_rows(x->rank, what->most_tokens * size.output, combine, seed << 33, &b->out));
    TRY(copy_in(x, routing->ids + x->rank->rank * choices, choices * sizeof(int32_t), &b->ids));
    TRY(make_weights(x, &b->weights));
    if (size.input_scales)
        TRY(bench_random_rows(x->rank, what->most_tokens * size.input_scales, EPG_OPAQUE, seed << 35, &b->scales));
    if (!bench_exchange_returns_input(what))
        TRY(bench_random_rows(x->rank, view.row_capacity * size.output, combine, seed << 34, &b->expert_rows));
    return EPG_OK;
}

static uint32_t choose_sets(const bench_case *what)
{
    uint64_t bytes = 2 * (uint64_t)what->ranks * what->most_tokens * bench_sizes_of(what).output;
    uint64_t sets = SETS_BYTES / bytes + 1;
    sets = sets < what->pairs ? sets : what->pairs;
    return sets < BENCH_SETS_MAX ? (uint32_t)sets : BENCH_SETS_MAX;
}

void bench_group_options(const bench_case *what, const bench_routing *routing, epg_group_options *options)
{
    options->experts = what->experts;
    options->hidden = what->hidden;
    options->topk = what->topk;
    options->max_tokens = what->most_tokens;
    options->lanes = what->lanes;
    options->row_type = what->row_type;
    options->layout = what->layout;
    if (what->row_type == EPG_OPAQUE) {
        options->row_bytes = (uint32_t)bench_sizes_of(what).input;
        options->scale_bytes = (uint32_t)bench_sizes_of(what).input_scales;
    }
    if (what->layout == EPG_LAYOUT_MASKED)
        options->rows_per_expert = routing->expert_rows;
    else
        options->max_expert_rows = routing->rank_rows;
}

/* Expert output has a row for each of the experts' input, in place too. */
epg_status bench_memory_of(const bench_case *what, const bench_routing *routing, bench_memory *memory)
{
    epg_group_options options = EPG_GROUP_OPTIONS_INIT;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    bench_group_options(what, routing, &options);
    epg_status status = epg_group_plan_bytes(&options, what->ranks, &stats);
    uint64_t rows = routing->rank_rows;
    if (what->layout == EPG_LAYOUT_MASKED)
        rows = (uint64_t)routing->expert_rows * (what->experts / what->ranks);
    *memory = (bench_memory){stats.region_bytes + stats.local_bytes, stats.expert_input_bytes,
                             rows * bench_sizes_of(what).output};
    return status;
}

epg_status bench_exchange_create(bench_rank *rank, const bench_case *what, const bench_routing *routing,
                                 bench_exchange *x)
{
    epg_group_options options = EPG_GROUP_OPTIONS_INIT;
    *x = (bench_exchange){.rank = rank, .what = what};
    bench_group_options(what, routing, &options);
    TRY(epg_group_create(rank->team, &options, &x->group));
    for (uint32_t wanted = choose_sets(what); x->set_count < wanted; x->set_count++)
        TRY(make_set(x, routing, x->set_count));
    return EPG_OK;
}

void bench_exchange_destroy(bench_exchange *x)
{
    epg_stream_synchronize(x->rank->device, x->rank->stream);
    epg_group_destroy(x->group);
    for (uint32_t set = 0; set < BENCH_SETS_MAX; set++) {
        bench_buffers *b = &x->sets[set];
        void *const memory[] = {b->rows, b->ids, b->weights, b->out, b->scales, b->expert_rows};
        for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++)
            epg_memory_free(x->rank->device, EPG_MEMORY_DEVICE, memory[i]);
    }
    *x = (bench_exchange){0};
}

static epg_status dispatch(bench_exchange *x, uint32_t index, epg_mode mode, uint32_t tokens, epg_dispatch_view *view,
                           epg_stream stream)
{
    const bench_buffers *b = &x->sets[index % x->set_count];
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    args.lane = x->lane;
    args.mode = mode;
    args.bucket = tokens;
    args.rows = b->rows;
    args.topk_ids = b->ids;
    args.topk_weights = b->weights;
    args.scales = b->scales;
    return epg_dispatch(x->group, &args, view, stream);
}

epg_status bench_exchange_pair(bench_exchange *x, uint32_t index, epg_mode mode, uint32_t tokens, epg_event between,
                               epg_stream stream)
{
    const bench_buffers *b = &x->sets[index % x->set_count];
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    TRY(dispatch(x, index, mode, tokens, &view, stream));
    if (between)
        TRY(epg_event_record(x->rank->device, between, stream));
    return epg_combine(x->group, x->lane, b->expert_rows ? b->expert_rows : view.rows, b->out, stream);
}

epg_status bench_exchange_pairs(bench_exchange *x, epg_mode mode, uint32_t tokens, uint32_t pairs,
                                epg_stream stream)
{
    for (uint32_t i = 0; i < pairs; i++)
        TRY(bench_exchange_pair(x, i, mode, tokens, NULL, stream));
    return EPG_OK;
}

epg_status bench_exchange_case_pairs(void *ctx, bench_rank *rank)
{
    bench_exchange *x = ctx;
    return bench_exchange_pairs(x, x->what->mode, x->what->tokens, x->what->pairs, rank->stream);
}

epg_status bench_exchange_void_pairs(void *ctx, bench_rank *rank)
{
    bench_exchange *x = ctx;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    for (uint32_t i = 0; i < x->what->pairs; i++) {
        TRY(dispatch(x, i, x->what->mode, x->what->tokens, &view, rank->stream));
        TRY(epg_pair_abandon(x->group, x->lane, rank->stream));
    }
    return EPG_OK;
}

static float value_at(const void *rows, epg_dtype type, size_t index)
{
    if (type == EPG_FLOAT32)
        return ((const float *)rows)[index];
    uint32_t bits = (uint32_t)((const uint16_t *)rows)[index] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Weights sum to 1 and experts return their input, so each token gets its row back, but for the rounding of as many
 * partial sums as it has destinations. */
static epg_status compare(const bench_exchange *x, const void *sent, const void *got, size_t elements)
{
    epg_dtype type = x->what->row_type;
    double limit = type == EPG_FLOAT32 ? 1e-5 : 0.02;
    for (size_t i = 0; i < elements; i++) {
        double want = value_at(sent, type, i), have = value_at(got, type, i);
        if (!(fabs(have - want) <= limit * fabs(want)))
            return bench_fail(x->rank, "token %zu, element %zu came back as %g, not as %g", i / x->what->hidden,
                              i % x->what->hidden, have, want);
    }
    return EPG_OK;
}

static epg_status verify_rows(bench_exchange *x)
{
    const bench_buffers *b = &x->sets[0];
    size_t tokens = x->what->tokens < VERIFIED ? x->what->tokens : VERIFIED;
    size_t bytes = tokens * bench_sizes_of(x->what).output;
    void *sent = malloc(bytes), *got = malloc(bytes);
    epg_status status = sent && got ? EPG_OK : bench_fail(x->rank, "no memory for %zu rows to compare", tokens);
    if (status == EPG_OK)
        status = epg_memcpy(x->rank->device, sent, b->rows, bytes);
    if (status == EPG_OK)
        status = epg_memcpy(x->rank->device, got, b->out, bytes);
    if (status == EPG_OK)
        status = compare(x, sent, got, tokens * x->what->hidden);
    free(sent);
    free(got);
    return status;
}

epg_status bench_exchange_verify(bench_exchange *x)
{
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    TRY(epg_stream_synchronize(x->rank->device, x->rank->stream));
    TRY(epg_group_check(x->group, NULL));
    TRY(epg_group_get_stats(x->group, &stats));
    if (stats.dropped_rows || stats.dropped_tokens || stats.flagged || stats.bad_ids)
        return bench_fail(x->rank, "%llu rows were dropped, %llu tokens flagged, %llu ids bad",
                          (unsigned long long)stats.dropped_rows, (unsigned long long)stats.flagged,
                          (unsigned long long)stats.bad_ids);
    return bench_exchange_returns_input(x->what) ? verify_rows(x) : EPG_OK;
}
