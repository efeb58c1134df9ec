/* Who sends how much to whom in a benchmark, and the bytes of rows that must be moved for it. */
#include <stdlib.h>
#include <string.h>
#include "bench_int.h"

uint64_t bench_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

/* Draws until the expert is one that the token has not. */
static int32_t draw(const int32_t *before, uint32_t count, uint32_t experts, uint64_t *state)
{
    for (;;) {
        int32_t id = (int32_t)(bench_random(state) % experts);
        uint32_t k = 0;
        while (k < count && before[k] != id)
            k++;
        if (k == count)
            return id;
    }
}

static uint32_t destinations(const bench_case *what, const int32_t *ids)
{
    uint32_t local = what->experts / what->ranks, count = 0;
    for (uint32_t k = 0; k < what->topk; k++) {
        int known = 0;
        for (uint32_t before = 0; before < k; before++)
            known |= (uint32_t)ids[before] / local == (uint32_t)ids[k] / local;
        count += !known;
    }
    return count;
}

bench_counts bench_count(const bench_case *what, const bench_routing *routing, uint32_t tokens)
{
    bench_counts counts = {(uint64_t)what->ranks * tokens, 0, (uint64_t)what->ranks * tokens * what->topk};
    for (uint32_t rank = 0; rank < what->ranks; rank++)
        for (uint32_t t = 0; t < tokens; t++)
            counts.copies += destinations(what, routing->ids + ((size_t)rank * what->most_tokens + t) * what->topk);
    return counts;
}

static void find_most(const bench_case *what, const uint32_t *per_expert, bench_routing *routing)
{
    uint32_t local = what->experts / what->ranks;
    for (uint32_t rank = 0; rank < what->ranks; rank++) {
        uint32_t rows = 0;
        for (uint32_t e = rank * local; e < (rank + 1) * local; e++) {
            rows += per_expert[e];
            if (per_expert[e] > routing->expert_rows)
                routing->expert_rows = per_expert[e];
        }
        if (rows > routing->rank_rows)
            routing->rank_rows = rows;
    }
}

/* A rank's n-th token goes where it goes, however many there may be. */
static uint64_t token_seed(uint64_t seed, uint64_t rank, uint64_t token)
{
    return seed * 77 + (rank << 32 | token) * 0xD1B54A32D192ED03u;
}

int bench_routing_make(const bench_case *what, uint64_t seed, bench_routing *routing)
{
    uint64_t tokens = (uint64_t)what->ranks * what->most_tokens;
    uint32_t *per_expert = calloc(what->experts, sizeof *per_expert);
    *routing = (bench_routing){.ids = calloc(tokens * what->topk, sizeof *routing->ids)};
    if (!per_expert || !routing->ids) {
        free(per_expert);
        bench_routing_free(routing);
        return -1;
    }
    for (uint64_t t = 0; t < tokens; t++) {
        int32_t *ids = routing->ids + t * what->topk;
        uint64_t state = token_seed(seed, t / what->most_tokens, t % what->most_tokens);
        for (uint32_t k = 0; k < what->topk; k++) {
            ids[k] = draw(ids, k, what->experts, &state);
            per_expert[ids[k]]++;
        }
    }
    find_most(what, per_expert, routing);
    free(per_expert);
    return 0;
}

void bench_routing_free(bench_routing *routing)
{
    free(routing->ids);
    *routing = (bench_routing){0};
}

/* fp8 rows are quantised by the sender, so the caller has bf16; opaque ones are laid out as MXFP8 would be: a byte for
 * each element and a byte of scale for each 32. Combine carries float32 for float32, and bf16 else. */
bench_row_sizes bench_sizes_of(const bench_case *what)
{
    size_t hidden = what->hidden, half = 2 * hidden;
    switch (what->row_type) {
    case EPG_FLOAT32: return (bench_row_sizes){4 * hidden, 0, 4 * hidden, 4 * hidden};
    case EPG_BFLOAT16: return (bench_row_sizes){half, 0, half, half};
    case EPG_FLOAT8_E4M3:
        return (bench_row_sizes){half, 0, hidden + 4 * ((hidden + EPG_SCALE_BLOCK - 1) / EPG_SCALE_BLOCK), half};
    case EPG_OPAQUE: {
        size_t scales = (hidden + BENCH_OPAQUE_BLOCK - 1) / BENCH_OPAQUE_BLOCK;
        return (bench_row_sizes){hidden, scales, hidden + scales, half};
    }
    }
    return (bench_row_sizes){0};
}

/* Between ranks a row is written once for each destination, there copied for each expert (but in place), and the
 * partial sums take the same way back. On one rank nothing travels: rows go straight to their experts, and in place
 * into the slots. */
bench_bytes bench_bytes_of(const bench_case *what, const bench_counts *counts)
{
    bench_row_sizes size = bench_sizes_of(what);
    uint64_t tokens = counts->tokens, copies = counts->copies, routes = counts->routes;
    int in_place = what->layout == EPG_LAYOUT_IN_PLACE;
    uint64_t written = copies + (in_place ? 0 : copies + routes), back = routes + 2 * copies + tokens;
    if (what->ranks == 1) {
        written = in_place ? copies : routes;
        back = routes + tokens;
    }
    return (bench_bytes){tokens * (size.input + size.input_scales) + written * size.wire, back * size.output};
}
