/* Rows of a simulated program as they are sent and as an expert reads them, by row type: float32 and bf16 as they are;
 * fp8 quantised by the library, from bf16, and read as bf16; opaque rows of a byte per column, with scales. Used by the
 * ranks and by the oracle; the arithmetic is this file's own. */
#include <math.h>
#include <string.h>
#include "epgraph/group.h"
#include "sim_rows.h"

enum { EXTRA = 3, SCALES = 6 }; /* of opaque rows: bytes after the columns, and of scales; neither fills 16 bytes */

epg_dtype sim_row_type(const sim_program *p)
{
    static const epg_dtype types[] = {EPG_FLOAT32, EPG_BFLOAT16, EPG_FLOAT8_E4M3, EPG_OPAQUE};
    return types[p->shape.type];
}

static uint32_t scale_layout(const sim_program *p, uint32_t rank)
{
    int copied = p->rank[rank].layout != EPG_LAYOUT_IN_PLACE && sim_row_type(p) == EPG_FLOAT8_E4M3;
    return copied ? rank % (sim_power_of_two(p) ? 3 : 2) : EPG_SCALES_ROW_MAJOR;
}

void sim_row_options(const sim_program *p, uint32_t rank, epg_group_options *o)
{
    int opaque = sim_row_type(p) == EPG_OPAQUE;
    o->row_type = sim_row_type(p);
    o->scale_power_of_two = sim_power_of_two(p);
    o->scale_layout = (epg_scale_layout)scale_layout(p, rank);
    o->row_bytes = opaque ? p->shape.hidden + EXTRA : 0;
    o->scale_bytes = opaque ? SCALES : 0;
}

uint32_t sim_input_bytes(const sim_program *p)
{
    return sim_row_type(p) == EPG_OPAQUE ? p->shape.hidden + EXTRA : sim_row_bytes(p);
}
uint32_t sim_input_scale_bytes(const sim_program *p) { return sim_row_type(p) == EPG_OPAQUE ? SCALES : 0; }

/* ---- opaque ---- */

static uint8_t opaque_byte(const sim_program *p, uint32_t rank, uint32_t pair, uint32_t token, uint32_t i)
{
    return (uint8_t)(int)(sim_element(p, rank, pair, token, i) * 255);
}

/* Every byte counts in some column. */
static float opaque_element(const uint8_t *row, const uint8_t *scales, uint32_t column, uint32_t hidden)
{
    float value = (float)row[column] / 64 + (float)scales[column % SCALES] / 1024;
    return column < EXTRA ? value - (float)row[hidden + column] / 32 : value;
}

/* ---- fp8 ---- */

static double fp8_value(uint32_t code)
{
    uint32_t exponent = code >> 3 & 15, fraction = code & 7;
    double size = exponent ? ldexp(8 + fraction, (int)exponent - 10) : ldexp(fraction, -9);
    return code & 0x80 ? -size : size;
}

/* The nearest of all codes, of two the even one. */
static uint32_t fp8_nearest(double value)
{
    uint32_t best = 0;
    for (uint32_t code = 1; code < 0x7F; code++) {
        double now = fabs(fp8_value(code) - fabs(value)), then = fabs(fp8_value(best) - fabs(value));
        if (now < then || (now == then && code % 2 == 0))
            best = code;
    }
    return best | (value < 0 ? 0x80 : 0);
}

/* The scale of a row (it is one block), and what it is multiplied with; rows here are neither all zero nor tiny. */
static float fp8_scale(const sim_program *p, const char *row, float *inverse)
{
    float amax = 0x1p-100f, scale = 0x1p-126f;
    for (uint32_t i = 0; i < p->shape.hidden; i++)
        amax = fmaxf(amax, fabsf(sim_get(1, row, i)));
    *inverse = 448 / amax;
    if (!sim_power_of_two(p))
        return amax / 448;
    while (scale * 448 < amax)
        scale *= 2;
    *inverse = 1 / scale;
    return scale;
}

/* ---- what is sent, what arrives ---- */

void sim_fill_row(const sim_program *p, uint32_t rank, uint32_t pair, uint32_t token, char *row, char *scales)
{
    if (sim_row_type(p) != EPG_OPAQUE) {
        for (uint32_t i = 0; i < p->shape.hidden; i++)
            sim_put(sim_is_bf16(p), row, i, sim_element(p, rank, pair, token, i));
        return;
    }
    for (uint32_t i = 0; i < p->shape.hidden + EXTRA; i++)
        row[i] = (char)opaque_byte(p, rank, pair, token, i);
    for (uint32_t i = 0; i < SCALES; i++)
        scales[i] = (char)opaque_byte(p, rank, pair, token, SIM_HIDDEN + EXTRA + i);
}

void sim_arrived_row(const sim_program *p, uint32_t rank, uint32_t pair, uint32_t token, char *row)
{
    char sent[SIM_HIDDEN * 4 + EXTRA], scales[SCALES];
    float inverse, scale;
    sim_fill_row(p, rank, pair, token, sent, scales);
    if (sim_row_type(p) == EPG_FLOAT32 || sim_row_type(p) == EPG_BFLOAT16) {
        memcpy(row, sent, sim_row_bytes(p));
        return;
    }
    scale = fp8_scale(p, sent, &inverse);
    for (uint32_t i = 0; i < p->shape.hidden; i++)
        if (sim_row_type(p) == EPG_OPAQUE)
            sim_put(1, row, i, opaque_element((uint8_t *)sent, (uint8_t *)scales, i, p->shape.hidden));
        else
            sim_put(1, row, i, (float)fp8_value(fp8_nearest(sim_get(1, sent, i) * inverse)) * scale);
}

/* Where the scales of a position begin. */
static const char *scales_of(const epg_dispatch_view *v, uint32_t expert, uint32_t position)
{
    uint64_t row = v->row_index ? v->row_index[position] : position;
    if (v->scale_expert_stride)
        row = position - v->offsets[expert];
    return (const char *)v->scales + expert * v->scale_expert_stride + row * v->scale_row_stride;
}

void sim_read_row(const sim_program *p, uint32_t rank, const epg_dispatch_view *v, uint32_t expert, uint32_t position,
                  char *row)
{
    const char *from = (const char *)v->rows + (v->row_index ? v->row_index[position] : position) * v->row_stride;
    const char *scales = v->scales ? scales_of(v, expert, position) : NULL;
    float scale;
    if (!scales) {
        memcpy(row, from, sim_row_bytes(p));
        return;
    }
    memcpy(&scale, scales, sizeof scale);
    if (scale_layout(p, rank) == EPG_SCALES_PACKED) /* one block: the first byte */
        scale = ldexpf(1, (int)(uint8_t)*scales - 127);
    for (uint32_t i = 0; i < p->shape.hidden; i++)
        if (sim_row_type(p) == EPG_OPAQUE)
            sim_put(1, row, i, opaque_element((const uint8_t *)from, (const uint8_t *)scales, i, p->shape.hidden));
        else
            sim_put(1, row, i, (float)fp8_value((uint8_t)from[i]) * scale);
}
