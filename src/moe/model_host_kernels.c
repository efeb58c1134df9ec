/* The host kernels of the MoE model: embedding, norm, gate, experts, residual, head.
 *
 * Not their job: what is enqueued when (model.c), moving rows between ranks (src/ep).
 * Invariant: a row's result depends on that row alone. Loops over a row run in index order; products go through
 * gemm_tile.c, whose blocks are padded with zeros. */
#include <math.h>
#include <string.h>
#include "core/number_int.h"
#include "moe/model_host_kernels_int.h"

static uint32_t live(const epg__rows *rows)
{
    uint32_t tokens = rows->tokens ? *rows->tokens : rows->bucket;
    return tokens < rows->bucket ? tokens : rows->bucket;
}

static void load_row(epg_dtype type, const void *rows, size_t row, uint32_t hidden, float *out)
{
    if (type == EPG_FLOAT32) {
        memcpy(out, (const float *)rows + row * hidden, hidden * sizeof *out);
        return;
    }
    const uint16_t *in = (const uint16_t *)rows + row * hidden;
    for (uint32_t i = 0; i < hidden; i++)
        out[i] = epg__bf16_to_float(in[i]);
}

static void store_row(epg_dtype type, void *rows, size_t row, uint32_t hidden, const float *in)
{
    if (type == EPG_FLOAT32) {
        memcpy((float *)rows + row * hidden, in, hidden * sizeof *in);
        return;
    }
    uint16_t *out = (uint16_t *)rows + row * hidden;
    for (uint32_t i = 0; i < hidden; i++)
        out[i] = epg__float_to_bf16(in[i]);
}

static float get(epg_dtype type, const void *rows, size_t i)
{
    return type == EPG_FLOAT32 ? ((const float *)rows)[i] : epg__bf16_to_float(((const uint16_t *)rows)[i]);
}

static void put(epg_dtype type, void *rows, size_t i, float value)
{
    if (type == EPG_FLOAT32)
        ((float *)rows)[i] = value;
    else
        ((uint16_t *)rows)[i] = epg__float_to_bf16(value);
}

static uint32_t block_rows(uint32_t row, uint32_t end)
{
    return end - row < EPG__GEMM_ROWS ? end - row : EPG__GEMM_ROWS;
}

/* Rows beyond `count` become zeros: what stood there before may be infinite, and is slow if it is subnormal. */
static void load_block(const epg__rows *rows, const void *in, uint32_t first, uint32_t count, float *block)
{
    for (uint32_t i = 0; i < count; i++)
        load_row(rows->type, in, first + i, rows->hidden, block + (size_t)i * rows->hidden);
    memset(block + (size_t)count * rows->hidden, 0, (size_t)(EPG__GEMM_ROWS - count) * rows->hidden * sizeof *block);
}

void epg__embed_run(const void *raw)
{
    const epg__embed_args *a = raw;
    uint32_t tokens = live(&a->rows);
    for (uint32_t t = 0; t < tokens; t++) {
        int32_t id = a->ids[t];
        if (id < 0 || (uint32_t)id >= a->vocab) {
            __atomic_fetch_add(a->bad_ids, 1, __ATOMIC_RELAXED);
            id = 0;
        }
        store_row(a->rows.type, a->out, t, a->rows.hidden, (const float *)a->embedding + (size_t)id * a->rows.hidden);
    }
}

void epg__norm_run(const void *raw)
{
    const epg__norm_args *a = raw;
    uint32_t tokens = live(&a->rows), hidden = a->rows.hidden;
    for (uint32_t t = 0; t < tokens; t++) {
        size_t row = (size_t)t * hidden;
        double squares = 0; /* in order; a float32 sum over 7168 elements would cost three digits */
        for (uint32_t i = 0; i < hidden; i++) {
            double value = (double)get(a->rows.type, a->in, row + i);
            squares += value * value;
        }
        float scale = (float)(1 / sqrt(squares / hidden + (double)a->eps));
        for (uint32_t i = 0; i < hidden; i++)
            put(a->rows.type, a->out, row + i, get(a->rows.type, a->in, row + i) * scale * a->weight[i]);
    }
}

static void softmax(float *values, uint32_t count)
{
    float largest = values[0], sum = 0;
    for (uint32_t i = 1; i < count; i++)
        largest = values[i] > largest ? values[i] : largest;
    for (uint32_t i = 0; i < count; i++)
        sum += values[i] = expf(values[i] - largest);
    for (uint32_t i = 0; i < count; i++)
        values[i] /= sum;
}

/* Every choice is a valid id, even where a probability is not a number. Chosen entries become -1. */
static uint32_t take_largest(float *values, uint32_t count, float *value)
{
    uint32_t best = count;
    for (uint32_t i = 0; i < count; i++)
        if (!(values[i] < 0) && (best == count || values[i] > values[best]))
            best = i;
    *value = values[best];
    values[best] = -1;
    return best;
}

static void choose(const epg__gate_args *a, float *logits, uint32_t token)
{
    int32_t *ids = a->ids + (size_t)token * a->topk;
    float *weights = a->weights + (size_t)token * a->topk, sum = 0;
    softmax(logits, a->experts);
    for (uint32_t k = 0; k < a->topk; k++) {
        ids[k] = (int32_t)take_largest(logits, a->experts, &weights[k]);
        sum += weights[k];
    }
    for (uint32_t k = 0; a->renormalise && k < a->topk; k++)
        weights[k] /= sum;
}

void epg__gate_run(const void *raw)
{
    const epg__host_gate *h = raw;
    const epg__gate_args *a = &h->user;
    uint32_t tokens = live(&a->rows);
    for (uint32_t t = 0; t < tokens; t += EPG__GEMM_ROWS) {
        uint32_t count = block_rows(t, tokens);
        load_block(&a->rows, a->in, t, count, h->blocks.in);
        epg__gemm_run(&h->gemm, count, h->blocks.in, a->router, h->blocks.logits);
        for (uint32_t i = 0; i < count; i++)
            choose(a, h->blocks.logits + (size_t)i * a->experts, t + i);
    }
}

static void gather(const epg__host_experts *a, uint32_t first, uint32_t count)
{
    size_t hidden = a->shape.hidden;
    for (uint32_t i = 0; i < count; i++) {
        size_t row = a->view.row_index ? a->view.row_index[first + i] : first + i;
        load_row(a->shape.row_type, a->view.rows, row, a->shape.hidden, a->in + i * hidden);
    }
    memset(a->in + count * hidden, 0, (EPG__GEMM_ROWS - count) * hidden * sizeof(float));
}

static void activate(const epg__host_experts *a, uint32_t count)
{
    size_t width = a->shape.intermediate;
    for (uint32_t i = 0; i < count; i++) {
        const float *gate = a->pair + i * 2 * width, *up = gate + width;
        float *out = a->inner + i * width;
        for (uint32_t j = 0; j < width; j++)
            out[j] = gate[j] / (1 + expf(-gate[j])) * up[j];
    }
    memset(a->inner + count * width, 0, (EPG__GEMM_ROWS - count) * width * sizeof(float));
}

/* The weights of one expert as float32; those of bf16 are widened into `wide`, which the next call overwrites. */
static const float *weights_of(const epg__host_experts *a, const void *weights, uint32_t expert, size_t size)
{
    if (!a->wide)
        return (const float *)weights + expert * size;
    const uint16_t *from = (const uint16_t *)weights + expert * size;
    for (size_t i = 0; i < size; i++)
        a->wide[i] = epg__bf16_to_float(from[i]);
    return a->wide;
}

static void run_up(const epg__host_experts *a, const float *gate_up, uint32_t first, uint32_t count)
{
    gather(a, first, count);
    epg__gemm_run(&a->gemm_up, count, a->in, gate_up, a->pair);
    activate(a, count);
}

static void run_down(const epg__host_experts *a, const float *down, uint32_t first, uint32_t count)
{
    epg__gemm_run(&a->gemm_down, count, a->inner, down, a->result);
    for (uint32_t i = 0; i < count; i++)
        store_row(a->shape.row_type, a->out, first + i, a->shape.hidden, a->result + (size_t)i * a->shape.hidden);
}

static void run_expert(const epg__host_experts *a, uint32_t expert, uint32_t first, uint32_t end)
{
    size_t size = (size_t)a->shape.hidden * a->shape.intermediate;
    for (uint32_t p = first; p < end; p += EPG__GEMM_ROWS) {
        uint32_t count = block_rows(p, end);
        run_up(a, weights_of(a, a->gate_up, expert, 2 * size), p, count);
        run_down(a, weights_of(a, a->down, expert, size), p, count);
    }
}

void epg__experts_run(const void *raw)
{
    const epg__host_experts *a = raw;
    for (uint32_t e = 0; e < a->view.local_experts; e++)
        run_expert(a, e, a->view.offsets[e], a->view.offsets[e] + a->view.counts[e]);
}

void epg__residual_run(const void *raw)
{
    const epg__residual_args *a = raw;
    size_t count = (size_t)live(&a->rows) * a->rows.hidden;
    for (size_t i = 0; i < count; i++)
        put(a->rows.type, a->out, i, get(a->rows.type, a->in, i) + get(a->rows.type, a->add, i));
}

void epg__head_run(const void *raw)
{
    const epg__host_head *h = raw;
    const epg__head_args *a = &h->user;
    uint32_t tokens = live(&a->rows);
    for (uint32_t t = 0; t < tokens; t += EPG__GEMM_ROWS) {
        uint32_t count = block_rows(t, tokens);
        load_block(&a->rows, a->in, t, count, h->blocks.in);
        epg__gemm_run(&h->gemm, count, h->blocks.in, a->head, h->blocks.logits);
        for (uint32_t i = 0; i < count; i++) {
            const float *logits = h->blocks.logits + (size_t)i * a->vocab;
            uint32_t best = 0;
            for (uint32_t v = 1; v < a->vocab; v++)
                best = logits[v] > logits[best] ? v : best;
            a->next_ids[t + i] = (int32_t)best;
        }
    }
}
