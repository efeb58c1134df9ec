/* A benchmark's routing and the bytes it makes a pair move, against counts made the slow way and bytes worked out by
 * hand; and percentiles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "../../cli/bench_int.h"

enum { MOST_EXPERTS = 64 };

static bench_case a_case(uint32_t ranks, uint32_t tokens, epg_layout layout)
{
    return (bench_case){.ranks = ranks, .tokens = tokens, .most_tokens = tokens, .hidden = 16, .experts = MOST_EXPERTS,
                        .topk = 8, .row_type = EPG_BFLOAT16, .layout = layout, .pairs = 1};
}

/* Rows that each (token, rank) and each expert gets, from the ids alone. */
static void counts_are_those_of_the_ids(void **state)
{
    (void)state;
    bench_case what = a_case(4, 50, EPG_LAYOUT_CONTIGUOUS);
    bench_routing routing;
    uint32_t rows[MOST_EXPERTS] = {0}, rank_rows[4] = {0}, expert_most = 0, rank_most = 0;
    uint64_t copies = 0;
    assert_int_equal(bench_routing_make(&what, 3, &routing), 0);
    for (uint32_t t = 0; t < 200; t++) {
        uint64_t experts = 0, ranks = 0;
        for (uint32_t k = 0; k < 8; k++) {
            int32_t id = routing.ids[t * 8 + k];
            assert_in_range(id, 0, MOST_EXPERTS - 1);
            experts |= (uint64_t)1 << id;
            ranks |= (uint64_t)1 << (id / 16);
            rows[id]++;
            rank_rows[id / 16]++;
        }
        assert_int_equal(__builtin_popcountll(experts), 8); /* distinct */
        copies += (uint64_t)__builtin_popcountll(ranks);
    }
    for (int e = 0; e < MOST_EXPERTS; e++)
        expert_most = rows[e] > expert_most ? rows[e] : expert_most;
    for (int r = 0; r < 4; r++)
        rank_most = rank_rows[r] > rank_most ? rank_rows[r] : rank_most;
    bench_counts counts = bench_count(&what, &routing, 50);
    assert_int_equal(counts.tokens, 200);
    assert_int_equal(counts.copies, copies);
    assert_int_equal(counts.routes, 1600);
    assert_int_equal(routing.expert_rows, expert_most);
    assert_int_equal(routing.rank_rows, rank_most);
    bench_routing_free(&routing);
}

/* The first 3 of 5 tokens of each of 2 ranks, whose destinations are 1, 2, 2, and 2, 1, 1. */
static void first_tokens_are_counted_of_every_rank(void **state)
{
    (void)state;
    int32_t ids[] = {0, 1, 0, 2, 3, 1, 0, 3, 0, 3, 1, 2, 3, 2, 1, 0, 0, 2, 0, 2};
    bench_routing routing = {.ids = ids};
    bench_case what = {.ranks = 2, .tokens = 3, .ht_tokens = 5, .most_tokens = 5, .experts = 4, .topk = 2};
    bench_counts counts = bench_count(&what, &routing, 3);
    assert_int_equal(counts.tokens, 6);
    assert_int_equal(counts.copies, 1 + 2 + 2 + 2 + 1 + 1);
    assert_int_equal(counts.routes, 12);
    assert_int_equal(bench_count(&what, &routing, 5).copies, 9 + 2 + 2 + 2 + 2);
}

static void a_seed_is_a_routing(void **state)
{
    (void)state;
    bench_case what = a_case(2, 20, EPG_LAYOUT_MASKED);
    bench_routing a, b, c;
    assert_int_equal(bench_routing_make(&what, 1, &a), 0);
    assert_int_equal(bench_routing_make(&what, 1, &b), 0);
    assert_int_equal(bench_routing_make(&what, 2, &c), 0);
    assert_memory_equal(a.ids, b.ids, 40 * 8 * sizeof(int32_t));
    assert_memory_not_equal(a.ids, c.ids, 40 * 8 * sizeof(int32_t));
    bench_routing_free(&a);
    bench_routing_free(&b);
    bench_routing_free(&c);
}

/* Rows of 32 bytes; 10 tokens on each of 2 ranks, 30 copies, 160 routes. */
static void bytes_are_those_worked_out_by_hand(void **state)
{
    (void)state;
    bench_counts counts = {20, 30, 160};
    bench_case what = a_case(2, 10, EPG_LAYOUT_CONTIGUOUS);
    bench_bytes bytes = bench_bytes_of(&what, &counts);
    assert_int_equal(bytes.dispatch, 32 * (20 + 30 + 30 + 160));
    assert_int_equal(bytes.combine, 32 * (160 + 30 + 30 + 20));
    what.layout = EPG_LAYOUT_MASKED;
    assert_int_equal(bench_bytes_of(&what, &counts).dispatch, bytes.dispatch);
    what.layout = EPG_LAYOUT_IN_PLACE;
    assert_int_equal(bench_bytes_of(&what, &counts).dispatch, 32 * (20 + 30));
    assert_int_equal(bench_bytes_of(&what, &counts).combine, bytes.combine);
    what.row_type = EPG_FLOAT32;
    assert_int_equal(bench_bytes_of(&what, &counts).combine, 2 * bytes.combine);
    what = a_case(1, 10, EPG_LAYOUT_CONTIGUOUS); /* nothing travels */
    counts = (bench_counts){10, 10, 80};
    assert_int_equal(bench_bytes_of(&what, &counts).dispatch, 32 * (10 + 80));
    assert_int_equal(bench_bytes_of(&what, &counts).combine, 32 * (80 + 10));
    what.layout = EPG_LAYOUT_IN_PLACE;
    assert_int_equal(bench_bytes_of(&what, &counts).dispatch, 32 * (10 + 10));
}

/* 256 elements: 512 bytes in bf16, 256 and two float32 scales in fp8, 256 and 8 bytes of scales opaque. */
static void bytes_of_rows_with_scales(void **state)
{
    (void)state;
    bench_counts counts = {20, 30, 160};
    bench_case what = a_case(2, 10, EPG_LAYOUT_CONTIGUOUS);
    what.hidden = 256;
    what.row_type = EPG_FLOAT8_E4M3;
    assert_int_equal(bench_bytes_of(&what, &counts).dispatch, 20 * 512 + (30 + 30 + 160) * 264);
    assert_int_equal(bench_bytes_of(&what, &counts).combine, (160 + 30 + 30 + 20) * 512);
    what.row_type = EPG_OPAQUE;
    assert_int_equal(bench_bytes_of(&what, &counts).dispatch, (20 + 30 + 30 + 160) * 264);
    assert_int_equal(bench_bytes_of(&what, &counts).combine, (160 + 30 + 30 + 20) * 512);
    what.layout = EPG_LAYOUT_IN_PLACE;
    assert_int_equal(bench_bytes_of(&what, &counts).dispatch, (20 + 30) * 264);
}

static void times_are_the_slowest_ranks(void **state)
{
    (void)state;
    bench_series series;
    assert_int_equal(bench_series_make(&series, 2, 11), 0);
    for (int i = 0; i < 11; i++) {
        series.us[i] = 100 - i;                    /* 90 .. 100, but for ... */
        series.us[11 + i] = i == 5 ? 1000 : 1;
    }
    bench_times times = bench_series_times(&series);
    assert_true(times.p10 == 91 && times.p50 == 96 && times.p90 == 100); /* ... 95, which is 1000 */
    bench_series_free(&series);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_those_of_the_ids), cmocka_unit_test(first_tokens_are_counted_of_every_rank),
        cmocka_unit_test(a_seed_is_a_routing),
        cmocka_unit_test(bytes_are_those_worked_out_by_hand), cmocka_unit_test(bytes_of_rows_with_scales),
        cmocka_unit_test(times_are_the_slowest_ranks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
