/* The same pairs on the host device and on the GPU: views, outputs, flags, counters and records must agree bit for bit,
 * for every layout of rows and scales and every row type, in every mix of modes, in halves and whole, eager and
 * captured, rehearsed, with ids out of range, experts chosen twice, and rows that do not fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "gpu/pairs.h"
#include "support/device_under_test.h"

#define COMPARE(...) pairs_compare((pairs_shape){__VA_ARGS__})
#define BF16 .row_type = EPG_BFLOAT16
#define IN(l) .layout = EPG_LAYOUT_##l

static void one_rank(void **state)
{
    (void)state;
    COMPARE("in place", 1, 14, {.experts = 8, .hidden = 24, .topk = 3, .max_tokens = 11}, 0, EPG_INT32);
    COMPARE("aligned, epoch wraps", 1, 14, {.experts = 32, .hidden = 64, .topk = 8, .max_tokens = 40, BF16,
            IN(CONTIGUOUS), .row_align = 4, .first_epoch = 0xFFFFFFFAu}, 0, EPG_INT64);
    COMPARE("masked, overflows", 1, 14, {.experts = 16, .hidden = 1024, .topk = 8, .max_tokens = 33, BF16,
            IN(MASKED), .rows_per_expert = 5}, 1, EPG_INT32);
    COMPARE("slots overflow, a map", 1, 14, {.experts = 16, .logical_experts = 20, .hidden = 512, .topk = 4,
            .max_tokens = 60, .slots = 20, BF16, IN(CONTIGUOUS), .row_align = 8, .max_expert_rows = 90}, 1,
            EPG_INT64);
    COMPARE("a decode step's", 1, 4, {.experts = 32, .hidden = 7168, .topk = 8, .max_tokens = 128, BF16,
            IN(CONTIGUOUS)}, 0, EPG_INT32);
}

static void a_few_ranks(void **state)
{
    (void)state;
    COMPARE("two lanes, epoch wraps", 2, 14, {.experts = 8, .hidden = 24, .topk = 3, .max_tokens = 11,
            .lanes = 2, .first_epoch = 0xFFFFFFFAu}, 1, EPG_INT32);
    COMPARE("topk 32", 3, 7, {.experts = 33, .hidden = 8, .topk = 32, .max_tokens = 5}, 0, EPG_INT32);
    COMPARE("many experts", 3, 7, {.experts = 3000, .hidden = 64, .topk = 1, .max_tokens = 70, BF16}, 0,
            EPG_INT32);
    COMPARE("many tokens", 2, 4, {.experts = 16, .hidden = 8, .topk = 4, .max_tokens = 5000, .slots = 4500}, 1,
            EPG_INT32);
    COMPARE("long rows", 2, 4, {.experts = 32, .hidden = 10000, .topk = 8, .max_tokens = 30, IN(CONTIGUOUS)}, 0,
            EPG_INT32);
    COMPARE("a map, aligned", 4, 14, {.experts = 32, .logical_experts = 40, .hidden = 1024, .topk = 8,
            .max_tokens = 70, BF16, IN(CONTIGUOUS), .row_align = 16}, 1, EPG_INT64);
}

static void eight_ranks(void **state)
{
    (void)state;
    COMPARE("masked, few slots", 8, 14, {.experts = 64, .hidden = 256, .topk = 8, .max_tokens = 50, .slots = 30,
            BF16, IN(MASKED), .rows_per_expert = 40}, 1, EPG_INT32);
    COMPARE("three lanes, overflows", 8, 14, {.experts = 64, .hidden = 136, .topk = 6, .max_tokens = 90,
            .slots = 64, .lanes = 3, IN(CONTIGUOUS), .max_expert_rows = 333}, 1, EPG_INT64);
}

/* High-throughput mode routes tokens in chunks of 32, eight to a block, and of more where there are more than 256 of
 * those; it has many blocks place rows, a warp 32 at a time, unless a rank has more than 1024 experts. */
static void chunks_of_rows(void **state)
{
    (void)state;
    COMPARE("a chunk", 2, 3, {.experts = 16, .hidden = 8, .topk = 4, .max_tokens = 32}, 1, EPG_INT32);
    COMPARE("a chunk and a token", 2, 3, {.experts = 16, .hidden = 8, .topk = 4, .max_tokens = 33}, 1, EPG_INT32);
    COMPARE("a block's chunks and a token", 3, 3, {.experts = 15, .hidden = 8, .topk = 5, .max_tokens = 257,
            .slots = 200, BF16}, 1, EPG_INT64);
    COMPARE("larger chunks", 2, 2, {.experts = 4, .hidden = 8, .topk = 2, .max_tokens = 8200, .slots = 6000}, 1,
            EPG_INT32);
    COMPARE("more than 32 rows to a warp", 8, 2, {.experts = 24, .hidden = 8, .topk = 12, .max_tokens = 5000,
            IN(CONTIGUOUS), .row_align = 32, .max_expert_rows = 58000}, 1, EPG_INT32);
    COMPARE("1024 experts", 2, 3, {.experts = 2048, .hidden = 8, .topk = 3, .max_tokens = 300}, 1, EPG_INT32);
    COMPARE("more experts", 2, 3, {.experts = 4000, .hidden = 8, .topk = 3, .max_tokens = 1300}, 1, EPG_INT32);
}

#define FP8 .row_type = EPG_FLOAT8_E4M3
#define OPAQUE(row, scales) .row_type = EPG_OPAQUE, .row_bytes = row, .scale_bytes = scales
#define POWERS .scale_power_of_two = 1
#define SCALES(l) .scale_layout = EPG_SCALES_##l

static void fp8_on_one_rank(void **state)
{
    (void)state;
    COMPARE("in place", 1, 14, {.experts = 8, .hidden = 24, .topk = 3, .max_tokens = 11, FP8}, 1, EPG_INT32);
    COMPARE("column-major", 1, 14, {.experts = 32, .hidden = 2048, .topk = 8, .max_tokens = 39, FP8,
            IN(CONTIGUOUS), SCALES(COLUMN_MAJOR)}, 0, EPG_INT64);
    COMPARE("packed, masked", 1, 14, {.experts = 16, .hidden = 1224, .topk = 8, .max_tokens = 33, FP8,
            IN(MASKED), .rows_per_expert = 5, POWERS, SCALES(PACKED)}, 1, EPG_INT32);
    COMPARE("slots overflow", 1, 14, {.experts = 16, .hidden = 584, .topk = 4, .max_tokens = 60, .slots = 20,
            FP8, POWERS, IN(CONTIGUOUS), .row_align = 8, .max_expert_rows = 90}, 1, EPG_INT64);
    COMPARE("a decode step's", 1, 6, {.experts = 32, .hidden = 7168, .topk = 8, .max_tokens = 128, FP8,
            IN(CONTIGUOUS), .row_align = 128, SCALES(COLUMN_MAJOR)}, 0, EPG_INT32);
}

static void fp8_on_several_ranks(void **state)
{
    (void)state;
    COMPARE("in place, two lanes", 2, 14, {.experts = 8, .hidden = 1032, .topk = 3, .max_tokens = 40,
            .lanes = 2, FP8, POWERS}, 1, EPG_INT32);
    COMPARE("long rows", 2, 4, {.experts = 32, .hidden = 10008, .topk = 8, .max_tokens = 30, FP8,
            IN(CONTIGUOUS)}, 0, EPG_INT32);
    COMPARE("aligned, column-major", 4, 14, {.experts = 32, .hidden = 512, .topk = 8, .max_tokens = 70, FP8,
            IN(CONTIGUOUS), .row_align = 16, SCALES(COLUMN_MAJOR)}, 1, EPG_INT64);
    COMPARE("masked, packed", 8, 14, {.experts = 64, .hidden = 2944, .topk = 8, .max_tokens = 50, .slots = 30,
            FP8, IN(MASKED), .rows_per_expert = 41, POWERS, SCALES(PACKED)}, 1, EPG_INT32);
    COMPARE("many tokens", 2, 4, {.experts = 16, .hidden = 136, .topk = 4, .max_tokens = 1200, .slots = 1100,
            FP8}, 1, EPG_INT32);
    COMPARE("masked, row-major", 8, 7, {.experts = 64, .hidden = 128, .topk = 8, .max_tokens = 90, FP8,
            IN(MASKED)}, 0, EPG_INT32);
}

static void opaque_rows(void **state)
{
    (void)state;
    COMPARE("without scales", 1, 14, {.experts = 8, .hidden = 24, .topk = 3, .max_tokens = 11, OPAQUE(48, 0)},
            1, EPG_INT32);
    COMPARE("of odd sizes", 1, 14, {.experts = 8, .hidden = 64, .topk = 3, .max_tokens = 20, OPAQUE(77, 33),
            IN(CONTIGUOUS)}, 0, EPG_INT32);
    COMPARE("4 bits per element", 4, 14, {.experts = 32, .hidden = 2880, .topk = 4, .max_tokens = 60,
            OPAQUE(1440, 90), IN(CONTIGUOUS), .row_align = 8}, 1, EPG_INT64);
    COMPARE("in place", 8, 14, {.experts = 64, .hidden = 512, .topk = 8, .max_tokens = 40, OPAQUE(1004, 12)}, 1,
            EPG_INT32);
    COMPARE("masked", 8, 7, {.experts = 64, .hidden = 256, .topk = 8, .max_tokens = 40, OPAQUE(33, 1),
            IN(MASKED), .rows_per_expert = 30}, 1, EPG_INT32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_rank), cmocka_unit_test(a_few_ranks),
                                       cmocka_unit_test(eight_ranks), cmocka_unit_test(chunks_of_rows),
                                       cmocka_unit_test(fp8_on_one_rank), cmocka_unit_test(fp8_on_several_ranks),
                                       cmocka_unit_test(opaque_rows)};
    if (test_gpu_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
