#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "support/fp8_oracle.h"
#include "support/pair_oracle.h"

uint64_t pair_random(uint64_t *s)
{
    uint64_t z = (*s += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

uint32_t pair_width(epg_dtype type) { return type == EPG_FLOAT32 ? 4 : 2; }

double pair_get(epg_dtype type, const void *rows, size_t i)
{
    return type == EPG_FLOAT32 ? ((const float *)rows)[i] : bf16_value(((const uint16_t *)rows)[i]);
}

static uint16_t to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

void pair_put(epg_dtype type, void *rows, size_t i, float value)
{
    if (type == EPG_FLOAT32)
        ((float *)rows)[i] = value;
    else
        ((uint16_t *)rows)[i] = to_bf16(value);
}

static uint32_t blocks_of(const pair_case *c) { return (c->hidden + 127) / 128; }
static int is_quantised(const pair_case *c)
{
    return c->type == EPG_FLOAT8_E4M3 && c->input_type == EPG_FLOAT8_E4M3;
}

/* Bytes of an input row, and of its scales. */
static size_t row_size(const pair_case *c)
{
    if (c->type == EPG_OPAQUE)
        return c->row_bytes;
    return (size_t)c->hidden * (is_quantised(c) ? 1 : pair_width(c->type));
}
static size_t scale_size(const pair_case *c)
{
    return c->type == EPG_OPAQUE ? c->scale_bytes : is_quantised(c) ? blocks_of(c) * sizeof(float) : 0;
}

/* What an expert reads in a column of an fp8 row. */
static float fp8_element(uint8_t code, float scale)
{
    return (float)bf16_value(to_bf16((float)fp8_value(code) * scale));
}

/* The same of an opaque row: bytes of the column and of those `hidden` after it, weighted so that none can stand in for
 * another. */
static float opaque_element(const pair_case *c, const uint8_t *row, const uint8_t *scales, uint32_t column)
{
    float sum = 0;
    for (uint32_t i = column; i < c->row_bytes; i += c->hidden)
        sum = sum / 2 + (float)row[i];
    for (uint32_t i = column; i < c->scale_bytes; i += c->hidden)
        sum = sum / 3 - (float)scales[i];
    return (float)bf16_value(to_bf16(sum / 256));
}

static void make_bf16_row(uint64_t *s, uint16_t *row, uint32_t count)
{
    float reach = ldexpf(1, (int)(pair_random(s) % 40) - 20); /* rows of very different sizes */
    for (uint32_t i = 0; i < count; i++)
        row[i] = to_bf16((float)((double)(pair_random(s) >> 11) / 9007199254740992.0 - 0.5) * reach);
}

static int make_rows(const pair_case *c, uint64_t *s, pair_input *in)
{
    uint16_t *wide = malloc(c->hidden * sizeof *wide);
    if (!wide)
        return 1;
    for (uint32_t t = 0; t < c->max_tokens; t++) {
        char *row = (char *)in->rows + t * row_size(c), *scales = (char *)in->scales + t * scale_size(c);
        if (c->type == EPG_FLOAT8_E4M3) {
            make_bf16_row(s, is_quantised(c) ? wide : (uint16_t *)row, c->hidden);
            if (is_quantised(c))
                fp8_row(wide, c->hidden, (int)c->power_of_two, (uint8_t *)row, (float *)scales);
            continue;
        }
        for (uint32_t i = 0; c->type == EPG_OPAQUE && i < c->row_bytes; i++)
            row[i] = (char)(pair_random(s) >> 33);
        for (uint32_t i = 0; c->type == EPG_OPAQUE && i < c->scale_bytes; i++)
            scales[i] = (char)(pair_random(s) >> 33);
        for (uint32_t i = 0; c->type != EPG_OPAQUE && i < c->hidden; i++)
            pair_put(c->type, row, i, (float)((double)(pair_random(s) >> 11) / 9007199254740992.0 - 0.5));
    }
    free(wide);
    return 0;
}

int pair_input_make(const pair_case *c, uint32_t rank, uint64_t pair, pair_input *in)
{
    uint64_t s = c->seed * 1000003 + rank * 7919 + pair * 104729;
    size_t out = (size_t)c->max_tokens * c->hidden * pair_width(c->type);
    in->tokens = pair_random(&s) % 5 == 0 ? 0 : (uint32_t)(pair_random(&s) % (c->max_tokens + 1));
    in->rows = calloc(c->max_tokens, row_size(c));
    in->scales = scale_size(c) ? calloc(c->max_tokens, scale_size(c)) : NULL;
    in->ids = calloc((size_t)c->max_tokens * c->topk, sizeof *in->ids);
    in->weights = calloc((size_t)c->max_tokens * c->topk, sizeof *in->weights);
    in->out = malloc(out);
    if (!in->rows || !in->ids || !in->weights || !in->out || (scale_size(c) && !in->scales) || make_rows(c, &s, in))
        return 1;
    memset(in->out, 0xAB, out);
    for (uint32_t t = 0; t < c->max_tokens; t++)
        for (uint32_t k = 0; k < c->topk; k++) {
            int32_t id, again = 1;
            while (again) {
                id = pair_random(&s) % 7 == 0 ? -1 : (int32_t)(pair_random(&s) % c->experts);
                again = 0;
                for (uint32_t j = 0; j < k && id >= 0; j++)
                    again |= in->ids[t * c->topk + j] == id;
            }
            in->ids[t * c->topk + k] = id;
            in->weights[t * c->topk + k] = (float)((pair_random(&s) >> 40) / 16777216.0);
        }
    return 0;
}

void pair_input_free(pair_input *in)
{
    free(in->rows);
    free(in->scales);
    free(in->ids);
    free(in->weights);
    free(in->out);
}

/* ---- experts, through the view ---- */

static float view_scale(const pair_experts_args *a, uint32_t expert, uint32_t position, uint32_t block)
{
    const epg_dispatch_view *v = &a->view;
    int packed = a->c.scale_layout == EPG_SCALES_PACKED;
    uint64_t row = v->row_index ? v->row_index[position] : position;
    if (v->scale_expert_stride) /* masked */
        row = position - v->offsets[expert];
    const char *at = (const char *)v->scales + expert * v->scale_expert_stride + row * v->scale_row_stride +
                     (packed ? block / 4 : block) * v->scale_block_stride;
    if (!packed)
        return *(const float *)at;
    return ldexpf(1, (int)(*(const uint32_t *)at >> block % 4 * 8 & 255) - 127);
}

static float view_element(const pair_experts_args *a, uint32_t expert, uint32_t position, uint32_t column)
{
    const epg_dispatch_view *v = &a->view;
    size_t index = v->row_index ? v->row_index[position] : position;
    const char *row = (const char *)v->rows + index * v->row_stride;
    if (a->c.type == EPG_FLOAT8_E4M3)
        return fp8_element((uint8_t)row[column], view_scale(a, expert, position, column / 128));
    if (a->c.type != EPG_OPAQUE)
        return (float)pair_get(a->c.type, row, column);
    if (v->scale_expert_stride)
        index = position - v->offsets[expert];
    const char *scales = (const char *)v->scales + expert * v->scale_expert_stride + index * v->scale_row_stride;
    return opaque_element(&a->c, (const uint8_t *)row, (const uint8_t *)scales, column);
}

/* What expert e makes of an element. */
static float expert_of(uint32_t e, float x) { return x * (1 + (float)e / 8) + (float)e / 16; }

void pair_experts_run(const void *raw)
{
    const pair_experts_args *a = raw;
    for (uint32_t e = 0; e < a->view.local_experts; e++)
        for (uint32_t p = a->view.offsets[e]; p < a->view.offsets[e] + a->view.counts[e]; p++)
            for (uint32_t i = 0; i < a->c.hidden; i++)
                pair_put(a->c.type, a->out, (size_t)p * a->c.hidden + i,
                         expert_of(a->view.first_expert + e, view_element(a, e, p, i)));
}

/* ---- what must come back ---- */

/* The elements of a token's row as its experts read them. */
static void read_row(const pair_case *c, const pair_input *in, uint32_t token, float *x)
{
    const char *row = (const char *)in->rows + token * row_size(c);
    const char *scales = (const char *)in->scales + token * scale_size(c);
    uint8_t *codes = malloc(c->hidden);
    float *made = malloc(blocks_of(c) * sizeof *made);
    if (c->type == EPG_FLOAT8_E4M3 && !is_quantised(c))
        fp8_row((const uint16_t *)row, c->hidden, (int)c->power_of_two, codes, made);
    for (uint32_t i = 0; i < c->hidden; i++)
        if (c->type == EPG_OPAQUE)
            x[i] = opaque_element(c, (const uint8_t *)row, (const uint8_t *)scales, i);
        else if (is_quantised(c))
            x[i] = fp8_element((uint8_t)row[i], ((const float *)scales)[i / 128]);
        else if (c->type == EPG_FLOAT8_E4M3)
            x[i] = fp8_element(codes[i], made[i / 128]);
        else
            x[i] = (float)pair_get(c->type, row, i);
    free(codes);
    free(made);
}

static float rounded(epg_dtype type, float value)
{
    return type == EPG_FLOAT32 ? value : (float)bf16_value(to_bf16(value));
}

/* Each rank's experts in top-k order, then the ranks in order. */
static float answer(const pair_case *c, const pair_input *in, uint32_t token, float x, uint32_t ranks)
{
    uint32_t local = c->experts / ranks;
    float sum = 0;
    for (uint32_t r = 0; r < ranks; r++) {
        float part = 0;
        int any = 0;
        for (uint32_t k = 0; k < c->topk; k++) {
            int32_t e = in->ids[token * c->topk + k];
            if (e < 0 || (uint32_t)e / local != r)
                continue;
            part += in->weights[token * c->topk + k] * rounded(c->type, expert_of((uint32_t)e, x));
            any = 1;
        }
        if (any)
            sum += rounded(c->type, part);
    }
    return rounded(c->type, sum);
}

uint32_t pair_wrong_token(const pair_case *c, const pair_input *in, uint32_t ranks)
{
    float *x = malloc(c->hidden * sizeof *x);
    uint32_t t, right = 1;
    for (t = 0; t < in->tokens && right; t++) {
        read_row(c, in, t, x);
        for (uint32_t i = 0; i < c->hidden; i++) {
            float want = answer(c, in, t, x[i], ranks);
            float got = (float)pair_get(c->type, in->out, (size_t)t * c->hidden + i);
            right &= memcmp(&want, &got, sizeof want) == 0;
        }
    }
    free(x);
    return right ? t : t - 1;
}

double pair_error(const pair_case *c, const pair_input *in)
{
    double worst = 0, largest = 1e-30;
    size_t row = (size_t)c->hidden * pair_width(c->type);
    float *read = malloc(c->hidden * sizeof *read);
    for (uint32_t t = 0; t < in->tokens; t++) {
        read_row(c, in, t, read);
        for (uint32_t i = 0; i < c->hidden; i++) {
            double x = read[i], y = 0;
            for (uint32_t k = 0; k < c->topk; k++) {
                int32_t e = in->ids[t * c->topk + k];
                if (e >= 0)
                    y += (double)in->weights[t * c->topk + k] * (x * (1 + e / 8.0) + e / 16.0);
            }
            double got = pair_get(c->type, in->out, (size_t)t * c->hidden + i);
            largest = fmax(largest, fabs(y));
            worst = fmax(worst, isfinite(got) ? fabs(got - y) : 1e30);
        }
    }
    free(read);
    for (size_t b = in->tokens * row; b < c->max_tokens * row; b++)
        if (((unsigned char *)in->out)[b] != 0xAB)
            return 1e30;
    return worst / largest;
}
