#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "support/pair_oracle.h"

static uint64_t next(uint64_t *s)
{
    uint64_t z = (*s += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static double get(epg_dtype type, const void *rows, size_t i)
{
    if (type == EPG_FLOAT32)
        return ((const float *)rows)[i];
    uint32_t wide = (uint32_t)((const uint16_t *)rows)[i] << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

static void put(epg_dtype type, void *rows, size_t i, float value)
{
    uint32_t bits;
    if (type == EPG_FLOAT32) {
        ((float *)rows)[i] = value;
        return;
    }
    memcpy(&bits, &value, 4);
    ((uint16_t *)rows)[i] = (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

static size_t width(epg_dtype type) { return type == EPG_FLOAT32 ? 4 : 2; }

int pair_input_make(const pair_case *c, uint32_t rank, uint64_t pair, pair_input *in)
{
    uint64_t s = c->seed * 1000003 + rank * 7919 + pair * 104729;
    size_t row = c->hidden * width(c->type);
    in->tokens = next(&s) % 5 == 0 ? 0 : (uint32_t)(next(&s) % (c->max_tokens + 1));
    in->rows = calloc(c->max_tokens, row);
    in->ids = calloc((size_t)c->max_tokens * c->topk, sizeof *in->ids);
    in->weights = calloc((size_t)c->max_tokens * c->topk, sizeof *in->weights);
    in->out = malloc(c->max_tokens * row);
    if (!in->rows || !in->ids || !in->weights || !in->out)
        return 1;
    memset(in->out, 0xAB, c->max_tokens * row);
    for (size_t i = 0; i < (size_t)c->max_tokens * c->hidden; i++)
        put(c->type, in->rows, i, (float)((double)(next(&s) >> 11) / 9007199254740992.0 - 0.5));
    for (uint32_t t = 0; t < c->max_tokens; t++)
        for (uint32_t k = 0; k < c->topk; k++) {
            int32_t id, again = 1;
            while (again) {
                id = next(&s) % 7 == 0 ? -1 : (int32_t)(next(&s) % c->experts);
                again = 0;
                for (uint32_t j = 0; j < k && id >= 0; j++)
                    again |= in->ids[t * c->topk + j] == id;
            }
            in->ids[t * c->topk + k] = id;
            in->weights[t * c->topk + k] = (float)((next(&s) >> 40) / 16777216.0);
        }
    return 0;
}

void pair_input_free(pair_input *in)
{
    free(in->rows);
    free(in->ids);
    free(in->weights);
    free(in->out);
}

void pair_experts_run(const void *raw)
{
    const pair_experts_args *a = raw;
    for (uint32_t e = 0; e < a->view.local_experts; e++) {
        float scale = 1 + (float)(a->view.first_expert + e) / 8, add = (float)(a->view.first_expert + e) / 16;
        for (uint32_t p = a->view.offsets[e]; p < a->view.offsets[e] + a->view.counts[e]; p++) {
            size_t row = a->view.row_index ? a->view.row_index[p] : p;
            for (uint32_t i = 0; i < a->hidden; i++)
                put(a->type, a->out, (size_t)p * a->hidden + i,
                    (float)get(a->type, a->view.rows, row * a->hidden + i) * scale + add);
        }
    }
}

double pair_error(const pair_case *c, const pair_input *in)
{
    double worst = 0, largest = 1e-30;
    size_t row = c->hidden * width(c->type);
    for (uint32_t t = 0; t < in->tokens; t++)
        for (uint32_t i = 0; i < c->hidden; i++) {
            double x = get(c->type, in->rows, (size_t)t * c->hidden + i), y = 0;
            for (uint32_t k = 0; k < c->topk; k++) {
                int32_t e = in->ids[t * c->topk + k];
                if (e >= 0)
                    y += (double)in->weights[t * c->topk + k] * (x * (1 + e / 8.0) + e / 16.0);
            }
            double got = get(c->type, in->out, (size_t)t * c->hidden + i);
            largest = fmax(largest, fabs(y));
            worst = fmax(worst, isfinite(got) ? fabs(got - y) : 1e30);
        }
    for (size_t b = in->tokens * row; b < c->max_tokens * row; b++)
        if (((unsigned char *)in->out)[b] != 0xAB)
            return 1e30;
    return worst / largest;
}
