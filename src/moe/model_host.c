/* The model on one rank of the host device: its handle, and what a layer and a step enqueue.
 *
 * Not its job: the arithmetic (kernels.c), the exchange (src/ep).
 * Invariants: everything is allocated at creation; layer and step only enqueue, with addresses that never change, so a
 * captured step may be replayed with other tokens and another count. */
#include <stdlib.h>
#include <string.h>
#include "core/core_int.h"
#include "device/device_ops.h"
#include "moe/checkpoint_int.h"
#include "moe/model_int.h"

static epg_status compare(const char *what, uint32_t groups, uint32_t checkpoints)
{
    return groups == checkpoints ? EPG_OK
                                 : epg__fail(EPG_ERR_MISMATCH, "the group's %s is %u, the checkpoint's %u", what, groups, checkpoints);
}

static epg_status bind_group(epg_model *model, epg_group *group)
{
    epg_group_options *limits = &model->limits;
    const epg_team *team = epg_group_team(group);
    const epg_device *device = epg_team_device(team);
    if (device->info.kind != EPG_DEVICE_HOST)
        return epg__fail(EPG_ERR_UNSUPPORTED, "models have kernels for the host device alone; this is %s",
                         device->info.name);
    EPG_TRY(epg_group_get_options(group, limits));
    EPG_TRY(compare("experts", limits->experts, model->shape.experts));
    EPG_TRY(compare("logical_experts", limits->logical_experts, model->shape.experts));
    EPG_TRY(compare("hidden", limits->hidden, model->shape.hidden));
    EPG_TRY(compare("topk", limits->topk, model->shape.topk));
    model->group = group;
    model->device = epg_team_device(team);
    model->local_experts = limits->experts / epg_team_size(team);
    model->first_expert = epg_team_rank(team) * model->local_experts;
    return EPG_OK;
}

static epg_status choose_tiles(epg_model *model)
{
    const epg_moe_shape *s = &model->shape;
    EPG_TRY(epg__gemm_choose(s->hidden, s->experts, &model->gemm_router));
    EPG_TRY(epg__gemm_choose(s->hidden, 2 * s->intermediate, &model->gemm_up));
    EPG_TRY(epg__gemm_choose(s->intermediate, s->hidden, &model->gemm_down));
    return epg__gemm_choose(s->hidden, s->vocab, &model->gemm_head);
}

static epg_status alloc_blocks(epg_model *model, epg__blocks *blocks)
{
    const epg_moe_shape *s = &model->shape;
    size_t row = EPG__GEMM_ROWS * sizeof(float);
    EPG_TRY(epg__model_alloc(model, s->hidden, row, &blocks->in));
    EPG_TRY(epg__model_alloc(model, 2 * (size_t)s->intermediate, row, &blocks->pair));
    EPG_TRY(epg__model_alloc(model, s->intermediate, row, &blocks->inner));
    EPG_TRY(epg__model_alloc(model, s->hidden, row, &blocks->out));
    return epg__model_alloc(model, s->vocab > s->experts ? s->vocab : s->experts, row, &blocks->logits);
}

static epg_status alloc_lane(epg_model *model, uint32_t lane)
{
    epg__lane_buffers *b = &model->lanes[lane];
    size_t tokens = model->limits.max_tokens, choices = tokens * model->limits.topk, row = epg__row_bytes(model);
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    EPG_TRY(epg_group_view(model->group, lane, &view));
    EPG_TRY(epg__model_alloc(model, tokens, row, &b->stream));
    EPG_TRY(epg__model_alloc(model, tokens, row, &b->normed));
    EPG_TRY(epg__model_alloc(model, choices, sizeof *b->topk_ids, &b->topk_ids));
    EPG_TRY(epg__model_alloc(model, choices, sizeof *b->topk_weights, &b->topk_weights));
    EPG_TRY(epg__model_alloc(model, view.row_capacity, row, &b->expert_rows));
    EPG_TRY(epg__model_alloc(model, tokens, row, &b->combined));
    return alloc_blocks(model, &b->blocks);
}

static epg_status alloc_buffers(epg_model *model, int keep_states)
{
    epg_model_buffers *b = &model->buffers;
    size_t tokens = model->limits.max_tokens, row = epg__row_bytes(model);
    EPG_TRY(epg__model_alloc(model, 1, sizeof *b->tokens, &b->tokens));
    EPG_TRY(epg__model_alloc(model, tokens, sizeof *b->ids, &b->ids));
    EPG_TRY(epg__model_alloc(model, tokens, sizeof *b->next_ids, &b->next_ids));
    EPG_TRY(epg__model_alloc(model, tokens, row, &b->hidden));
    EPG_TRY(epg__model_alloc(model, 1, sizeof *b->bad_ids, &b->bad_ids));
    if (keep_states)
        EPG_TRY(epg__model_alloc(model, (model->shape.layers + (size_t)1) * tokens, row, &b->states));
    model->lanes = epg__zalloc(model->limits.lanes, sizeof *model->lanes, "a model's lanes");
    if (!model->lanes)
        return EPG_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < model->limits.lanes; i++)
        EPG_TRY(alloc_lane(model, i));
    return EPG_OK;
}

epg_status epg_model_create(epg_group *group, const epg_checkpoint *checkpoint, const epg_model_options *options, epg_model **out)
{
    epg_status status;
    if (!group || !checkpoint || !out)
        return epg__fail(EPG_ERR_INVALID, "epg_model_create: %s is NULL", !group ? "group" : !checkpoint ? "checkpoint" : "model");
    if (options)
        EPG__CHECK_SIZE(options, sizeof *options);
    epg_model *model = epg__zalloc(1, sizeof *model, "a model");
    if (!model)
        return EPG_ERR_NO_MEMORY;
    model->shape.size = sizeof model->shape;
    model->limits.size = sizeof model->limits;
    model->buffers.size = sizeof model->buffers;
    EPG_TRY_GOTO(epg_checkpoint_shape(checkpoint, &model->shape), destroy);
    EPG_TRY_GOTO(bind_group(model, group), destroy);
    EPG_TRY_GOTO(epg__model_load(model, checkpoint), destroy);
    EPG_TRY_GOTO(choose_tiles(model), destroy);
    EPG_TRY_GOTO(alloc_buffers(model, options && options->keep_states), destroy);
    *out = model;
    return EPG_OK;
destroy:
    epg_model_destroy(model);
    return status;
}

void epg_model_destroy(epg_model *model)
{
    if (!model)
        return;
    for (size_t i = 0; i < model->memory_count; i++)
        epg_memory_free(model->device, EPG_MEMORY_DEVICE, model->memory[i]);
    free(model->memory);
    free(model->layers);
    free(model->lanes);
    free(model);
}

epg_status epg_model_get_buffers(epg_model *model, epg_model_buffers *buffers)
{
    if (!model || !buffers)
        return epg__fail(EPG_ERR_INVALID, "epg_model_get_buffers: %s is NULL", model ? "buffers" : "model");
    EPG__CHECK_SIZE(buffers, sizeof *buffers);
    uint32_t size = buffers->size;
    *buffers = model->buffers;
    buffers->size = size;
    return EPG_OK;
}

/* ---- what a layer enqueues ---- */

static epg_status check_args(const epg_model *model, const epg_model_step_args *args)
{
    if (!model || !args)
        return epg__fail(EPG_ERR_INVALID, "%s is NULL", model ? "args" : "model");
    EPG__CHECK_SIZE(args, sizeof *args);
    if (args->bucket > model->limits.max_tokens)
        return epg__fail(EPG_ERR_INVALID, "bucket is %u, the group's max_tokens is %u", args->bucket, model->limits.max_tokens);
    if (args->lane >= model->limits.lanes)
        return epg__fail(EPG_ERR_INVALID, "lane is %u, the group has %u", args->lane, model->limits.lanes);
    return EPG_OK;
}

static epg__rows rows_of(const epg_model *model, const uint32_t *tokens, const epg_model_step_args *args)
{
    return (epg__rows){tokens, args->bucket, model->shape.hidden, model->limits.row_type};
}

#define LAUNCH(fn, kernel_args, name) epg_host_launch(model->device, args->stream, fn, &(kernel_args), sizeof(kernel_args), name)

static epg_status enqueue_norm(epg_model *model, const epg__rows *rows, const float *weight, const void *in, void *out,
                               const epg_model_step_args *args)
{
    epg__norm_args norm = {.rows = *rows, .in = in, .weight = weight, .eps = model->shape.norm_eps, .out = out};
    return LAUNCH(epg__norm_run, norm, "norm");
}

static epg_status enqueue_gate(epg_model *model, const epg__rows *rows, uint32_t layer, const epg_model_step_args *args)
{
    epg__lane_buffers *b = &model->lanes[args->lane];
    epg__gate_args gate = {
        .rows = *rows,
        .in = b->normed,
        .router = model->layers[layer].router,
        .gemm = model->gemm_router,
        .experts = model->shape.experts,
        .topk = model->shape.topk,
        .renormalise = model->shape.norm_topk_prob == 1,
        .blocks = b->blocks,
        .ids = b->topk_ids,
        .weights = b->topk_weights,
    };
    return LAUNCH(epg__gate_run, gate, "gate");
}

static epg_status enqueue_experts(epg_model *model, uint32_t layer, const epg_dispatch_view *view, const epg_model_step_args *args)
{
    epg__lane_buffers *b = &model->lanes[args->lane];
    epg__experts_args experts = {
        .view = *view,
        .hidden = model->shape.hidden,
        .intermediate = model->shape.intermediate,
        .type = model->limits.row_type,
        .gate_up = model->layers[layer].gate_up,
        .down = model->layers[layer].down,
        .gemm_up = model->gemm_up,
        .gemm_down = model->gemm_down,
        .blocks = b->blocks,
        .out = b->expert_rows,
    };
    return LAUNCH(epg__experts_run, experts, "experts");
}

/* dispatch, experts, combine: one pair. */
static epg_status enqueue_pair(epg_model *model, const epg__rows *rows, uint32_t layer, const epg_model_step_args *args)
{
    epg__lane_buffers *b = &model->lanes[args->lane];
    epg_dispatch_args dispatch = EPG_DISPATCH_ARGS_INIT;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    dispatch.lane = args->lane;
    dispatch.mode = args->mode;
    dispatch.bucket = args->bucket;
    dispatch.tokens = rows->tokens;
    dispatch.rows = b->normed;
    dispatch.topk_ids = b->topk_ids;
    dispatch.topk_weights = b->topk_weights;
    EPG_TRY(epg_dispatch(model->group, &dispatch, &view, args->stream));
    EPG_TRY(enqueue_experts(model, layer, &view, args));
    return epg_combine(model->group, args->lane, b->expert_rows, b->combined, args->stream);
}

epg_status epg_model_layer(epg_model *model, uint32_t layer, const uint32_t *tokens, const void *in, void *out,
                           const epg_model_step_args *args)
{
    EPG_TRY(check_args(model, args));
    if (layer >= model->shape.layers || !in || !out)
        return epg__fail(EPG_ERR_INVALID, "epg_model_layer: layer is %u of %u, in is %p, out is %p", layer,
                         model->shape.layers, in, out);
    epg__lane_buffers *b = &model->lanes[args->lane];
    epg__rows rows = rows_of(model, tokens, args);
    EPG_TRY(enqueue_norm(model, &rows, model->layers[layer].norm, in, b->normed, args));
    EPG_TRY(enqueue_gate(model, &rows, layer, args));
    EPG_TRY(enqueue_pair(model, &rows, layer, args));
    epg__residual_args residual = {.rows = rows, .in = in, .add = b->combined, .out = out};
    return LAUNCH(epg__residual_run, residual, "residual");
}

/* ---- a step ---- */

static epg_status enqueue_embed(epg_model *model, const epg__rows *rows, void *out, const epg_model_step_args *args)
{
    epg__embed_args embed = {
        .rows = *rows,
        .ids = model->buffers.ids,
        .bad_ids = model->buffers.bad_ids,
        .vocab = model->shape.vocab,
        .embedding = model->embedding,
        .out = out,
    };
    return LAUNCH(epg__embed_run, embed, "embedding");
}

static epg_status enqueue_head(epg_model *model, const epg__rows *rows, const epg_model_step_args *args)
{
    epg__head_args head = {
        .rows = *rows,
        .in = model->buffers.hidden,
        .head = model->head,
        .gemm = model->gemm_head,
        .blocks = model->lanes[args->lane].blocks,
        .next_ids = model->buffers.next_ids,
    };
    return LAUNCH(epg__head_run, head, "head");
}

/* Where the input of layer `index` stands: kept states have a place each, else one buffer is updated in place. */
static void *state_at(epg_model *model, uint32_t index, uint32_t lane)
{
    if (!model->buffers.states)
        return model->lanes[lane].stream;
    return (char *)model->buffers.states + index * epg__row_bytes(model) * model->limits.max_tokens;
}

epg_status epg_model_step(epg_model *model, const epg_model_step_args *args)
{
    EPG_TRY(check_args(model, args));
    epg__rows rows = rows_of(model, model->buffers.tokens, args);
    uint32_t layers = model->shape.layers;
    EPG_TRY(enqueue_embed(model, &rows, state_at(model, 0, args->lane), args));
    for (uint32_t i = 0; i < layers; i++)
        EPG_TRY(epg_model_layer(model, i, rows.tokens, state_at(model, i, args->lane), state_at(model, i + 1, args->lane), args));
    EPG_TRY(enqueue_norm(model, &rows, model->final_norm, state_at(model, layers, args->lane), model->buffers.hidden, args));
    return args->head ? enqueue_head(model, &rows, args) : EPG_OK;
}
