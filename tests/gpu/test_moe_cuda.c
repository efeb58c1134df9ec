/* The CUDA kernels of a model one by one, against sums in double precision made here: embedding, norm, residual, gate,
 * head. Rows beyond the count are left alone, and a row's bits do not depend on what stands beside it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "moe/moe_cuda_int.h"
#include "support/device_under_test.h"

#define OK(call) assert_int_equal((call), EPG_OK)

enum { TOKENS = 70, MOST = 73, PATTERN = 0x5A };

typedef struct fixture {
    epg_device *device;
    epg_stream stream;
    epg__moe_launch shape;
    void *memory[16];       /* freed at the end */
    int count;
} fixture;

/* Values on the device in a type, and here as what the device has. */
typedef struct values {
    epg_dtype type;
    size_t count;
    float *host;
    void *device;
} values;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    return !f || test_device_create(&f->device) != EPG_OK ||
           epg_stream_create(f->device, EPG_STREAM_NONBLOCKING, &f->stream) != EPG_OK ||
           epg__moe_prepare(f->device, &f->shape) != EPG_OK;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    for (int i = 0; i < f->count; i++)
        epg_memory_free(f->device, EPG_MEMORY_DEVICE, f->memory[i]);
    epg_stream_destroy(f->device, f->stream);
    epg_device_destroy(f->device);
    free(f);
    return 0;
}

static void *device_memory(fixture *f, size_t bytes)
{
    void *memory = NULL;
    OK(epg_memory_alloc(f->device, EPG_MEMORY_DEVICE, bytes, &memory));
    assert_true(f->count < 16);
    return f->memory[f->count++] = memory;
}

static size_t width(epg_dtype type) { return type == EPG_FLOAT32 ? 4 : 2; }

static float widened(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Sends the host's values, rounded to the type, and keeps them as rounded. */
static void put(fixture *f, values *v)
{
    uint16_t *halves = malloc(v->count * sizeof *halves);
    assert_non_null(halves);
    for (size_t i = 0; v->type == EPG_BFLOAT16 && i < v->count; i++) {
        uint32_t bits;
        memcpy(&bits, &v->host[i], sizeof bits);
        halves[i] = (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
        if (isnan(v->host[i]))
            halves[i] = 0x7FC0;
        v->host[i] = widened(halves[i]);
    }
    OK(epg_memcpy(f->device, v->device, v->type == EPG_FLOAT32 ? (void *)v->host : (void *)halves,
                  v->count * width(v->type)));
    free(halves);
}

static values make(fixture *f, epg_dtype type, size_t count, uint64_t seed)
{
    values v = {type, count, malloc(count * sizeof(float)), device_memory(f, count * width(type))};
    assert_non_null(v.host);
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        v.host[i] = (float)(int32_t)(seed >> 32) * 0x1p-31f;
    }
    put(f, &v);
    return v;
}

/* Memory for the result, filled with a pattern. */
static values make_out(fixture *f, epg_dtype type, size_t count)
{
    values v = {type, count, malloc(count * sizeof(float)), device_memory(f, count * width(type))};
    assert_non_null(v.host);
    OK(epg_memset(f->device, v.device, PATTERN, count * width(type)));
    return v;
}

static void get(fixture *f, values *v)
{
    uint16_t *halves = malloc(v->count * sizeof(float));
    assert_non_null(halves);
    OK(epg_stream_synchronize(f->device, f->stream));
    OK(epg_memcpy(f->device, halves, v->device, v->count * width(v->type)));
    for (size_t i = 0; i < v->count; i++)
        v->host[i] = v->type == EPG_FLOAT32 ? ((float *)(void *)halves)[i] : widened(halves[i]);
    free(halves);
}

static uint32_t *device_count(fixture *f, uint32_t tokens)
{
    uint32_t *count = device_memory(f, sizeof tokens);
    OK(epg_memcpy(f->device, count, &tokens, sizeof tokens));
    return count;
}

static float pattern(epg_dtype type)
{
    uint32_t bits = type == EPG_FLOAT32 ? 0x5A5A5A5Au : 0x5A5A0000u;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void check(const values *v, size_t i, double expected)
{
    double error = fabs((double)v->host[i] - expected), bound = v->type == EPG_FLOAT32 ? 2e-6 : 8e-3;
    if (!(error <= bound * (fabs(expected) + 1e-3)))
        fail_msg("element %zu is %.9g, not %.9g", i, (double)v->host[i], expected);
}

static void check_rest(const values *v, uint32_t hidden)
{
    for (size_t i = (size_t)TOKENS * hidden; i < v->count; i++)
        assert_true(v->host[i] == pattern(v->type));
}

static void norm_is_right(fixture *f, epg_dtype type, uint32_t hidden)
{
    values in = make(f, type, (size_t)MOST * hidden, 1), weight = make(f, EPG_FLOAT32, hidden, 2),
           out = make_out(f, type, in.count);
    epg__norm_args args = {{device_count(f, TOKENS), MOST, hidden, type}, in.device, weight.device, 1e-6f, out.device};
    OK(epg__cuda_norm(f->device, f->stream, &f->shape, &args));
    get(f, &out);
    for (uint32_t t = 0; t < TOKENS; t++) {
        double squares = 0;
        for (uint32_t i = 0; i < hidden; i++)
            squares += (double)in.host[t * hidden + i] * (double)in.host[t * hidden + i];
        for (uint32_t i = 0; i < hidden; i++)
            check(&out, t * hidden + i,
                  (double)in.host[t * hidden + i] / sqrt(squares / hidden + 1e-6) * (double)weight.host[i]);
    }
    check_rest(&out, hidden);
    free(in.host), free(weight.host), free(out.host);
}

static void norms(void **state)
{
    norm_is_right(*state, EPG_FLOAT32, 8);
    norm_is_right(*state, EPG_BFLOAT16, 2048);
    norm_is_right(*state, EPG_FLOAT32, 7168);
}

static void residuals(void **state)
{
    fixture *f = *state;
    for (int t = 0; t < 2; t++) {
        epg_dtype type = (epg_dtype)t;
        values in = make(f, type, (size_t)MOST * 200, 1), add = make(f, type, in.count, 2),
               out = make_out(f, type, in.count);
        epg__residual_args args = {{device_count(f, TOKENS), MOST, 200, type}, in.device, add.device, out.device};
        OK(epg__cuda_residual(f->device, f->stream, &f->shape, &args));
        get(f, &out);
        for (size_t i = 0; i < TOKENS * 200; i++)
            check(&out, i, (double)in.host[i] + (double)add.host[i]);
        check_rest(&out, 200);
        free(in.host), free(add.host), free(out.host);
    }
}

static void embeddings(void **state)
{
    enum { HIDDEN = 72, VOCAB = 50 };
    fixture *f = *state;
    int32_t ids[MOST];
    uint32_t bad = 0;
    values table = make(f, EPG_BFLOAT16, (size_t)VOCAB * HIDDEN, 1),
           out = make_out(f, EPG_FLOAT32, (size_t)MOST * HIDDEN);
    int32_t *d_ids = device_memory(f, sizeof ids);
    uint32_t *d_bad = device_memory(f, sizeof bad);
    for (int t = 0; t < MOST; t++)
        ids[t] = t == 3 ? -1 : t == 5 ? VOCAB : (t * 7) % VOCAB;
    OK(epg_memcpy(f->device, d_ids, ids, sizeof ids));
    epg__embed_args args = {
        {device_count(f, TOKENS), MOST, HIDDEN, EPG_FLOAT32}, d_ids, d_bad, VOCAB, table.device, out.device};
    OK(epg__cuda_embed(f->device, f->stream, &f->shape, EPG_BFLOAT16, &args));
    get(f, &out);
    OK(epg_memcpy(f->device, &bad, d_bad, sizeof bad));
    assert_int_equal(bad, 2);
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < HIDDEN; i++)
            assert_true(out.host[t * HIDDEN + i] ==
                        table.host[(ids[t] < 0 || ids[t] >= VOCAB ? 0 : ids[t]) * HIDDEN + i]);
    check_rest(&out, HIDDEN);
    free(table.host), free(out.host);
}

/* ---- the gate ---- */

typedef struct choice {
    int32_t ids[MOST * EPG_TOPK_MAX];
    float weights[MOST * EPG_TOPK_MAX];
} choice;

typedef struct gate_bed {
    uint32_t hidden, experts, topk;
    values rows, router;
    void *scratch;
    uint32_t *live;
    int32_t *ids;
    float *weights;
} gate_bed;

/* Of `tokens` rows from row `first` on; an odd number in a bucket of two more. */
static void run_gate(fixture *f, gate_bed *g, uint32_t first, uint32_t tokens, int renormalise, choice *c)
{
    epg__gate_args args = {{g->live, tokens + tokens % 2 * 2, g->hidden, g->rows.type},
                           NULL,
                           g->router.device,
                           g->experts,
                           g->topk,
                           MOST,
                           renormalise,
                           g->scratch,
                           g->ids,
                           g->weights};
    args.in = (char *)g->rows.device + (size_t)first * g->hidden * width(g->rows.type);
    OK(epg_memcpy(f->device, g->live, &tokens, sizeof tokens));
    OK(epg_memset(f->device, g->ids, 0xEE, sizeof c->ids));
    OK(epg__cuda_gate(f->device, f->stream, &f->shape, g->router.type, &args));
    OK(epg_stream_synchronize(f->device, f->stream));
    OK(epg_memcpy(f->device, c->ids, g->ids, sizeof c->ids));
    OK(epg_memcpy(f->device, c->weights, g->weights, sizeof c->weights));
}

static gate_bed make_gate(fixture *f, uint32_t hidden, uint32_t experts, uint32_t topk, epg_dtype rows,
                          epg_dtype weights)
{
    gate_bed g = {.hidden = hidden, .experts = experts, .topk = topk};
    g.rows = make(f, rows, (size_t)MOST * hidden, 11);
    g.router = make(f, weights, (size_t)experts * hidden, 12);
    g.scratch = device_memory(f, epg__gate_scratch(MOST, experts));
    g.live = device_memory(f, sizeof *g.live);
    g.ids = device_memory(f, sizeof ((choice *)0)->ids);
    g.weights = device_memory(f, sizeof ((choice *)0)->weights);
    return g;
}

static void probabilities(const gate_bed *g, uint32_t token, double *p)
{
    double largest = -1e300, sum = 0;
    for (uint32_t e = 0; e < g->experts; e++) {
        p[e] = 0;
        for (uint32_t i = 0; i < g->hidden; i++)
            p[e] += (double)g->router.host[e * g->hidden + i] * (double)g->rows.host[token * g->hidden + i];
        largest = fmax(largest, p[e]);
    }
    for (uint32_t e = 0; e < g->experts; e++)
        sum += p[e] = exp(p[e] - largest);
    for (uint32_t e = 0; e < g->experts; e++)
        p[e] /= sum;
}

/* Each choice is the largest that is left, up to rounding, with its own probability. */
static void check_choice(const gate_bed *g, const choice *c, uint32_t token, int renormalise)
{
    double *p = calloc(g->experts, sizeof *p), sum = 0;
    assert_non_null(p);
    probabilities(g, token, p);
    for (uint32_t k = 0; k < g->topk; k++)
        sum += p[c->ids[token * g->topk + k]];
    for (uint32_t k = 0; k < g->topk; k++) {
        int32_t id = c->ids[token * g->topk + k];
        double largest = 0, expected = renormalise ? p[id] / sum : p[id];
        for (uint32_t e = 0; e < g->experts; e++)
            largest = fmax(largest, p[e]);
        assert_in_range(id, 0, g->experts - 1);
        assert_true(p[id] >= largest * (1 - 1e-4));
        assert_true(fabs((double)c->weights[token * g->topk + k] - expected) <= 1e-4 * expected);
        p[id] = -1;
    }
    free(p);
}

static void gate_is_right(fixture *f, uint32_t hidden, uint32_t experts, uint32_t topk, epg_dtype rows,
                          epg_dtype weights)
{
    choice *all = malloc(sizeof *all), *one = malloc(sizeof *one);
    gate_bed g = make_gate(f, hidden, experts, topk, rows, weights);
    static const uint32_t counts[] = {1, 2, 3, 1, 5, 8, 1, 15, 16, 17, 40, 1, 2};
    assert_true(all && one);
    for (int renormalise = 0; renormalise < 2; renormalise++) {
        run_gate(f, &g, 0, TOKENS, renormalise, all);
        for (uint32_t t = 0; t < TOKENS; t++)
            check_choice(&g, all, t, renormalise);
        assert_int_equal(all->ids[TOKENS * topk], (int32_t)0xEEEEEEEE);
        for (uint32_t i = 0; i < sizeof counts / sizeof *counts; i++) { /* the same bits, however many at once */
            uint32_t count = counts[i], first = i * 3 % (TOKENS - count);
            run_gate(f, &g, first, count, renormalise, one);
            assert_memory_equal(one->ids, all->ids + first * topk, count * topk * sizeof(int32_t));
            assert_memory_equal(one->weights, all->weights + first * topk, count * topk * sizeof(float));
            assert_int_equal(one->ids[count * topk], (int32_t)0xEEEEEEEE);
        }
    }
    free(all), free(one), free(g.rows.host), free(g.router.host);
}

static void gates(void **state) { gate_is_right(*state, 2048, 128, 8, EPG_BFLOAT16, EPG_BFLOAT16); }
static void gates_of_float32(void **state) { gate_is_right(*state, 64, 19, 4, EPG_FLOAT32, EPG_FLOAT32); }
static void gates_of_wide_rows(void **state) { gate_is_right(*state, 2312, 24, 3, EPG_BFLOAT16, EPG_BFLOAT16); }
static void gates_of_many_experts(void **state) { gate_is_right(*state, 40, 520, 8, EPG_BFLOAT16, EPG_BFLOAT16); }
static void gates_of_mixed_types(void **state) { gate_is_right(*state, 72, 300, 32, EPG_BFLOAT16, EPG_FLOAT32); }

/* Experts 3, 40 and 41 tie, and rows that are not numbers still get valid ids, each once. */
static void gates_with_ties_and_without_numbers(void **state)
{
    enum { HIDDEN = 64, EXPERTS = 50, TOPK = 6 };
    fixture *f = *state;
    choice *c = malloc(sizeof *c);
    gate_bed g = make_gate(f, HIDDEN, EXPERTS, TOPK, EPG_FLOAT32, EPG_FLOAT32);
    assert_non_null(c);
    for (int i = 0; i < HIDDEN; i++) {
        g.router.host[3 * HIDDEN + i] = g.router.host[40 * HIDDEN + i] = g.router.host[41 * HIDDEN + i] =
            3 * g.rows.host[i];
        g.rows.host[HIDDEN + i] = NAN;
    }
    put(f, &g.rows);
    put(f, &g.router);
    run_gate(f, &g, 0, 2, 1, c);
    assert_int_equal(c->ids[0], 3);
    assert_int_equal(c->ids[1], 40);
    assert_int_equal(c->ids[2], 41);
    assert_true(c->weights[0] == c->weights[1] && c->weights[1] == c->weights[2]);
    uint64_t seen = 0;
    for (int k = 0; k < TOPK; k++) {
        assert_in_range(c->ids[TOPK + k], 0, EXPERTS - 1);
        assert_false(seen >> c->ids[TOPK + k] & 1);
        seen |= (uint64_t)1 << c->ids[TOPK + k];
    }
    free(c), free(g.rows.host), free(g.router.host);
}

/* ---- the head ---- */

static double logit(const values *rows, const values *head, uint32_t hidden, uint32_t token, uint32_t id)
{
    double sum = 0;
    for (uint32_t i = 0; i < hidden; i++)
        sum += (double)rows->host[token * hidden + i] * (double)head->host[id * hidden + i];
    return sum;
}

/* Id 7 is id 2 again, so 7 never wins; rows 1000.. are of no one. */
static void head_is_right(fixture *f, epg_dtype type, uint32_t hidden, uint32_t vocab)
{
    values rows = make(f, type, (size_t)MOST * hidden, 21), head = make(f, type, (size_t)vocab * hidden, 22);
    epg__product_kernels kernels;
    uint64_t *best = device_memory(f, MOST * sizeof *best);
    int32_t *d_next = device_memory(f, MOST * sizeof *d_next), next[MOST];
    memcpy(head.host + 7 * hidden, head.host + 2 * hidden, hidden * sizeof(float));
    for (uint32_t i = 0; i < hidden; i++) /* token 4 wants id 2, token 5 has equal logits everywhere */
        rows.host[4 * hidden + i] = 4 * head.host[2 * hidden + i], rows.host[5 * hidden + i] = 0;
    put(f, &head);
    put(f, &rows);
    OK(type == EPG_FLOAT32 ? epg__product_plain(f->device, type, type, &kernels)
                           : epg__product_mma(f->device, 1, &kernels));
    for (uint32_t tokens = 1; tokens <= TOKENS; tokens += 6) { /* the second finds what the first left */
        epg__product product = {.rows = rows.device,
                                .counts = device_count(f, tokens),
                                .limit = MOST,
                                .groups = 1,
                                .m = vocab,
                                .k = hidden,
                                .weights = head.device,
                                .best = best};
        epg__take_args take = {{product.counts, MOST, hidden, type}, best, d_next};
        OK(epg_memset(f->device, d_next, PATTERN, sizeof next));
        OK(kernels.launch(f->device, f->stream, &kernels, EPG__PRODUCT_BEST, &product));
        OK(epg__cuda_take_best(f->device, f->stream, &f->shape, &take));
        OK(epg_stream_synchronize(f->device, f->stream));
        OK(epg_memcpy(f->device, next, d_next, sizeof next));
        for (uint32_t t = 0; t < tokens; t++) {
            double largest = -1e300;
            assert_in_range(next[t], 0, vocab - 1);
            for (uint32_t v = 0; v < vocab; v++)
                largest = fmax(largest, logit(&rows, &head, hidden, t, v));
            assert_true(logit(&rows, &head, hidden, t, (uint32_t)next[t]) >= largest - 1e-4 * (1 + fabs(largest)));
            assert_true(next[t] != 7 && (t != 4 || next[t] == 2) && (t != 5 || next[t] == 0));
        }
        for (uint32_t t = tokens; t < MOST; t++)
            assert_int_equal(next[t], 0x5A5A5A5A);
    }
    free(rows.host), free(head.host);
}

static void heads(void **state) { head_is_right(*state, EPG_BFLOAT16, 200, 1003); }
static void heads_of_float32(void **state) { head_is_right(*state, EPG_FLOAT32, 64, 301); }

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(norms), T(residuals), T(embeddings), T(gates), T(gates_of_float32), T(gates_of_mixed_types),
        T(gates_of_wide_rows), T(gates_of_many_experts), T(gates_with_ties_and_without_numbers), T(heads),
        T(heads_of_float32),
    };
    if (test_gpu_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
