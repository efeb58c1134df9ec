/* The kernels one by one, on plain memory: gate, experts in both row orders, norm, residual, embedding, head; and the
 * 16-bit formats. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "moe/model_host_kernels_int.h"
#include "core/number_int.h"

enum { HIDDEN = 8, EXPERTS = 6, TOKENS = 20 };

static float block_in[EPG__GEMM_ROWS * HIDDEN], block_logits[EPG__GEMM_ROWS * 64], block_pair[EPG__GEMM_ROWS * 64],
    block_inner[EPG__GEMM_ROWS * 32], block_out[EPG__GEMM_ROWS * HIDDEN];
static const epg__blocks blocks = {block_in, block_logits};

static epg__gemm choose(uint32_t k, uint32_t n)
{
    epg__gemm gemm;
    assert_int_equal(epg__gemm_choose(k, n, &gemm), EPG_OK);
    return gemm;
}

/* The router is the identity on the first EXPERTS elements: a row's elements are its logits. */
static void run_gate(const float *rows, uint32_t tokens, uint32_t topk, int renormalise, int32_t *ids, float *weights)
{
    static float router[EXPERTS * HIDDEN];
    for (int e = 0; e < EXPERTS; e++)
        router[e * HIDDEN + e] = 1;
    epg__host_gate args = {{{&tokens, TOKENS, HIDDEN, EPG_FLOAT32}, rows, router, EXPERTS, topk, TOKENS, renormalise,
                            NULL, ids, weights},
                           choose(HIDDEN, EXPERTS), blocks};
    epg__gate_run(&args);
}

static void test_gate_ties(void **state)
{
    float rows[2 * HIDDEN] = {1, 2, 2, 2, 1, 2, 0, 0, /* all the same: */ 5, 5, 5, 5, 5, 5};
    int32_t ids[6];
    float weights[6];
    (void)state;
    run_gate(rows, 2, 3, 1, ids, weights);
    int32_t expected[6] = {1, 2, 3, 0, 1, 2};
    assert_memory_equal(ids, expected, sizeof ids);
    for (int i = 0; i < 6; i++)
        assert_true(fabsf(weights[i] - 1.0f / 3) < 1e-6f);
}

static void test_gate_renormalisation(void **state)
{
    float rows[HIDDEN] = {0, 3, 1, 2}, sum = 0, plain[2], scaled[2];
    int32_t ids[2];
    (void)state;
    for (int e = 0; e < EXPERTS; e++)
        sum += expf(rows[e]);
    run_gate(rows, 1, 2, 0, ids, plain);
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[1], 3);
    assert_true(fabsf(plain[0] - expf(3) / sum) < 1e-6f && fabsf(plain[1] - expf(2) / sum) < 1e-6f);
    run_gate(rows, 1, 2, 1, ids, scaled);
    assert_true(fabsf(scaled[0] + scaled[1] - 1) < 1e-6f);
    assert_true(fabsf(scaled[0] / scaled[1] - plain[0] / plain[1]) < 1e-5f);
}

static void test_gate_takes_all_and_survives_nan(void **state)
{
    float rows[2 * HIDDEN] = {1e30f, -1e30f, 0, 1, 2, 3, 0, 0, NAN};
    int32_t ids[2 * EXPERTS];
    float weights[2 * EXPERTS];
    (void)state;
    run_gate(rows, 2, EXPERTS, 0, ids, weights);
    for (int t = 0; t < 2; t++) {
        unsigned seen = 0;
        for (int k = 0; k < EXPERTS; k++) {
            assert_in_range(ids[t * EXPERTS + k], 0, EXPERTS - 1);
            seen |= 1u << ids[t * EXPERTS + k];
        }
        assert_int_equal(seen, (1u << EXPERTS) - 1);
    }
    assert_int_equal(ids[0], 0);
    assert_true(weights[0] == 1);
}

static void test_gate_leaves_padding_alone(void **state)
{
    float rows[TOKENS * HIDDEN] = {0}, weights[TOKENS];
    int32_t ids[TOKENS];
    (void)state;
    memset(ids, 0x77, sizeof ids);
    run_gate(rows, 17, 1, 0, ids, weights);
    assert_int_equal(ids[16], 0);
    assert_int_equal(ids[17], 0x77777777);
}

/* Expert e with intermediate 1: gate and up read elements 0 and 1, down spreads over all by (e + 1). */
static void fill_expert(uint32_t e, float *gate_up, float *down)
{
    gate_up[e * 2 * HIDDEN] = 1;
    gate_up[(e * 2 + 1) * HIDDEN + 1] = 1;
    for (int i = 0; i < HIDDEN; i++)
        down[e * HIDDEN + i] = (float)(e + 1);
}

static void run_experts(epg_dtype type, const uint32_t *index)
{
    float gate_up[2 * 2 * HIDDEN] = {0}, down[2 * HIDDEN] = {0}, rows[64 * HIDDEN] = {0}, out[64 * HIDDEN];
    uint16_t half_rows[64 * HIDDEN], half_out[64 * HIDDEN];
    uint32_t offsets[3] = {0, 24, 48}, counts[2] = {19, 3};
    for (uint32_t e = 0; e < 2; e++)
        fill_expert(e, gate_up, down);
    for (int r = 0; r < 64; r++) {
        rows[r * HIDDEN] = (float)r / 4 - 3;
        rows[r * HIDDEN + 1] = (float)(r % 5);
    }
    for (int i = 0; i < 64 * HIDDEN; i++) {
        half_rows[i] = epg__float_to_bf16(rows[i]);
        out[i] = 99;
        half_out[i] = epg__float_to_bf16(99);
    }
    epg__host_experts args = {.view = EPG_DISPATCH_VIEW_INIT, .shape = {0, 2, HIDDEN, 1, type, EPG_FLOAT32},
                              .gate_up = gate_up, .down = down, .in = block_in, .pair = block_pair,
                              .inner = block_inner, .result = block_out};
    args.gemm_up = choose(HIDDEN, 2);
    args.gemm_down = choose(1, HIDDEN);
    args.out = type == EPG_FLOAT32 ? (void *)out : half_out;
    args.view.local_experts = 2;
    args.view.rows = type == EPG_FLOAT32 ? (const void *)rows : half_rows;
    args.view.row_index = index;
    args.view.offsets = offsets;
    args.view.counts = counts;
    epg__experts_run(&args);
    for (uint32_t p = 0; p < 64; p++) {
        uint32_t e = p >= 24, inside = p < 19 || (p >= 24 && p < 27), r = index ? index[p] : p;
        float gate = rows[r * HIDDEN], want = gate / (1 + expf(-gate)) * rows[r * HIDDEN + 1] * (float)(e + 1);
        if (!inside)
            want = 99;
        float got = type == EPG_FLOAT32 ? out[p * HIDDEN + 7] : epg__bf16_to_float(half_out[p * HIDDEN + 7]);
        assert_true(fabsf(got - want) <= (type == EPG_FLOAT32 ? 1e-6f : 0.004f) * fabsf(want));
    }
}

static void test_experts(void **state)
{
    uint32_t index[64];
    (void)state;
    for (uint32_t p = 0; p < 64; p++)
        index[p] = (p * 29 + 3) % 64;
    run_experts(EPG_FLOAT32, NULL);
    run_experts(EPG_FLOAT32, index);
    run_experts(EPG_BFLOAT16, NULL);
    run_experts(EPG_BFLOAT16, index);
}

static void test_norm_and_residual(void **state)
{
    float in[2 * HIDDEN] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, weight[HIDDEN] = {1, 1, 1, 1, 1, 1, 1, 2};
    float out[2 * HIDDEN] = {0};
    uint32_t tokens = 1;
    epg__rows rows = {&tokens, 2, HIDDEN, EPG_FLOAT32};
    epg__norm_args norm = {rows, in, weight, 1e-6f, out};
    (void)state;
    epg__norm_run(&norm);
    double rms = sqrt(204.0 / 8);
    assert_true(fabs((double)out[0] - 1 / rms) < 1e-6 && fabs((double)out[7] - 16 / rms) < 1e-6 && out[8] == 0);
    epg__residual_args residual = {rows, in, out, in};
    epg__residual_run(&residual);
    assert_true(in[0] == 1 + out[0] && in[7] == 8 + out[7] && in[8] == 9);
    tokens = 5; /* more than the bucket: the bucket holds */
    rows.bucket = 1;
    residual.rows = rows;
    epg__residual_run(&residual);
    assert_true(in[8] == 9);
}

static void test_embedding_and_head(void **state)
{
    float table[10 * HIDDEN] = {0}, out[3 * HIDDEN];
    int32_t ids[3] = {7, 10, INT32_MIN}, next[3] = {-5, -5, -5};
    uint32_t bad = 0;
    (void)state;
    for (int v = 0; v < 10; v++)
        table[v * HIDDEN] = v == 4 || v == 8 ? 9 : (float)v;
    epg__embed_args embed = {{NULL, 3, HIDDEN, EPG_FLOAT32}, ids, &bad, 10, table, out};
    epg__embed_run(&embed);
    assert_int_equal(bad, 2);
    assert_true(out[0] == 7 && out[HIDDEN] == 0 && out[2 * HIDDEN] == 0);
    epg__host_head head = {{{NULL, 2, HIDDEN, EPG_FLOAT32}, out, table, 10, NULL, next}, choose(HIDDEN, 10), blocks};
    epg__head_run(&head);
    assert_int_equal(next[0], 4); /* 4, 8 and 9 tie */
    assert_int_equal(next[1], 0);
    assert_int_equal(next[2], -5);
}

static void test_formats(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 65536; half++) { /* every finite number survives the way there and back */
        float b = epg__bf16_to_float((uint16_t)half), f = epg__f16_to_float((uint16_t)half);
        if (!isnan(b))
            assert_int_equal(epg__float_to_bf16(b), half);
        if (!isnan(f))
            assert_int_equal(epg__float_to_f16(f), half);
        else
            assert_true(isnan(epg__f16_to_float(epg__float_to_f16(f))));
    }
    assert_true(epg__f16_to_float(0x3C00) == 1 && epg__f16_to_float(0x0001) == 0x1p-24f);
    assert_true(epg__f16_to_float(0x7BFF) == 65504);
    assert_int_equal(epg__float_to_f16(65519.99f), 0x7BFF);
    assert_int_equal(epg__float_to_f16(65520), 0x7C00);
    assert_int_equal(epg__float_to_f16(0x1p-25f), 0);              /* half of the least: to even */
    assert_int_equal(epg__float_to_f16(0x1.8p-24f), 2);
    assert_int_equal(epg__float_to_f16(1 + 0x1p-11f), 0x3C00);     /* ties to even, both ways */
    assert_int_equal(epg__float_to_f16(1 + 0x1.8p-10f), 0x3C02);
    assert_int_equal(epg__float_to_bf16(1 + 0x1p-8f), 0x3F80);
    assert_int_equal(epg__float_to_bf16(1 + 0x1.8p-7f), 0x3F82);
    assert_true(isnan(epg__bf16_to_float(epg__float_to_bf16(epg__bits_float(0x7F800001)))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gate_ties),
        cmocka_unit_test(test_gate_renormalisation),
        cmocka_unit_test(test_gate_takes_all_and_survives_nan),
        cmocka_unit_test(test_gate_leaves_padding_alone),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_norm_and_residual),
        cmocka_unit_test(test_embedding_and_head),
        cmocka_unit_test(test_formats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
