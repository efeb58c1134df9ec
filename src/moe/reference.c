/* One layer for one token, in double precision: the definition that the kernels are tested against.
 *
 * Written for being evidently right, straight from the checkpoint. It shares no code with the kernels, and must not: a
 * shared mistake would pass every test. Slow. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "core/core_int.h"
#include "epgraph/moe.h"

typedef struct reference {
    const epg_checkpoint *checkpoint;
    epg_moe_shape shape;
    uint32_t layer;
    float *weights;          /* of one matrix */
    double *norm;            /* [hidden] */
    double *probability;     /* [experts] */
    int *chosen;             /* [experts] */
    double *gate, *up;       /* [intermediate] */
    double *sum, *expert;    /* [hidden] */
} reference;

/* y = W x, W being the tensor model.layers.{layer}.{part} of rows x columns. */
static epg_status apply(reference *r, const char *part, uint32_t rows, uint32_t columns, const double *x, double *y)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.%u.%s.weight", r->layer, part);
    EPG_TRY(epg_checkpoint_read(r->checkpoint, name, 0, rows, columns, r->weights));
    for (uint32_t i = 0; i < rows; i++) {
        y[i] = 0;
        for (uint32_t j = 0; j < columns; j++)
            y[i] += (double)r->weights[(size_t)i * columns + j] * x[j];
    }
    return EPG_OK;
}

/* x / sqrt(mean(x^2) + eps) * weight */
static epg_status normalise(reference *r, const float *in)
{
    char name[128];
    double squares = 0;
    uint32_t n = r->shape.hidden;
    snprintf(name, sizeof name, "model.layers.%u.post_attention_layernorm.weight", r->layer);
    EPG_TRY(epg_checkpoint_read(r->checkpoint, name, 0, 1, n, r->weights));
    for (uint32_t i = 0; i < n; i++)
        squares += (double)in[i] * in[i];
    for (uint32_t i = 0; i < n; i++)
        r->norm[i] = in[i] / sqrt(squares / n + (double)r->shape.norm_eps) * r->weights[i];
    return EPG_OK;
}

/* An expert is chosen if fewer than topk others have a larger probability, or the same one and a lower id. */
static void choose(reference *r, double *gap)
{
    double last = INFINITY, next = 0, sum = 0;
    for (uint32_t e = 0; e < r->shape.experts; e++) {
        uint32_t better = 0;
        for (uint32_t o = 0; o < r->shape.experts; o++)
            better += r->probability[o] > r->probability[e] || (r->probability[o] == r->probability[e] && o < e);
        r->chosen[e] = better < r->shape.topk;
        if (r->chosen[e]) {
            last = fmin(last, r->probability[e]);
            sum += r->probability[e];
        } else {
            next = fmax(next, r->probability[e]);
        }
    }
    if (gap)
        *gap = last > 0 ? (last - next) / last : 0;
    for (uint32_t e = 0; r->shape.norm_topk_prob && e < r->shape.experts; e++)
        r->probability[e] /= sum;
}

static epg_status route(reference *r, double *gap)
{
    double largest = -INFINITY, sum = 0;
    EPG_TRY(apply(r, "mlp.gate", r->shape.experts, r->shape.hidden, r->norm, r->probability));
    for (uint32_t e = 0; e < r->shape.experts; e++)
        largest = fmax(largest, r->probability[e]);
    for (uint32_t e = 0; e < r->shape.experts; e++)
        sum += r->probability[e] = exp(r->probability[e] - largest);
    for (uint32_t e = 0; e < r->shape.experts; e++)
        r->probability[e] /= sum;
    choose(r, gap);
    return EPG_OK;
}

/* sum += probability * down(silu(gate(x)) * up(x)) */
static epg_status add_expert(reference *r, uint32_t e)
{
    uint32_t hidden = r->shape.hidden, inner = r->shape.intermediate;
    char part[64];
    snprintf(part, sizeof part, "mlp.experts.%u.gate_proj", e);
    EPG_TRY(apply(r, part, inner, hidden, r->norm, r->gate));
    snprintf(part, sizeof part, "mlp.experts.%u.up_proj", e);
    EPG_TRY(apply(r, part, inner, hidden, r->norm, r->up));
    for (uint32_t i = 0; i < inner; i++)
        r->gate[i] = r->gate[i] / (1 + exp(-r->gate[i])) * r->up[i];
    snprintf(part, sizeof part, "mlp.experts.%u.down_proj", e);
    EPG_TRY(apply(r, part, hidden, inner, r->gate, r->expert));
    for (uint32_t i = 0; i < hidden; i++)
        r->sum[i] += r->probability[e] * r->expert[i];
    return EPG_OK;
}

static epg_status run(reference *r, const float *in, float *out, double *gap)
{
    EPG_TRY(normalise(r, in));
    EPG_TRY(route(r, gap));
    for (uint32_t e = 0; e < r->shape.experts; e++)
        if (r->chosen[e])
            EPG_TRY(add_expert(r, e));
    for (uint32_t i = 0; i < r->shape.hidden; i++)
        out[i] = (float)(in[i] + r->sum[i]);
    return EPG_OK;
}

epg_status epg_reference_layer(const epg_checkpoint *checkpoint, uint32_t layer, const float *in, float *out,
                               double *gap)
{
    reference r = {.checkpoint = checkpoint, .shape = EPG_MOE_SHAPE_INIT, .layer = layer};
    epg_status status = EPG_ERR_NO_MEMORY;
    if (!checkpoint || !in || !out)
        return epg__fail(EPG_ERR_INVALID, "epg_reference_layer: %s is NULL",
                         !checkpoint ? "checkpoint" : !in ? "in" : "out");
    EPG_TRY(epg_checkpoint_shape(checkpoint, &r.shape));
    if (layer >= r.shape.layers)
        return epg__fail(EPG_ERR_INVALID, "layer is %u, the checkpoint has %u", layer, r.shape.layers);
    size_t hidden = r.shape.hidden, inner = r.shape.intermediate, experts = r.shape.experts;
    size_t rows = inner > experts ? inner : experts;
    r.weights = epg__zalloc(hidden * rows, sizeof *r.weights, "a reference layer's weights");
    double *memory = epg__zalloc(3 * hidden + 2 * inner + experts, sizeof *memory, "a reference layer");
    r.chosen = epg__zalloc(experts, sizeof *r.chosen, "a reference layer's choice");
    if (!r.weights || !memory || !r.chosen)
        goto release;
    r.norm = memory;
    r.sum = r.norm + hidden;
    r.expert = r.sum + hidden;
    r.gate = r.expert + hidden;
    r.up = r.gate + inner;
    r.probability = r.up + inner;
    status = run(&r, in, out, gap);
release:
    free(r.chosen);
    free(memory);
    free(r.weights);
    return status;
}
