/* The model on one rank: its handle, and what a layer and a step enqueue, in which order, on whatever device.
 *
 * Not its job: the arithmetic (the device's kernels, model_ops.h), the exchange (src/ep).
 * Invariants: everything is allocated at creation; layer and step only enqueue, with addresses that never change, so a
 * captured step may be replayed with other tokens and another count. */
#include <stdlib.h>
#include <string.h>
#include "core/core_int.h"
#include "moe/model_int.h"

static epg_status compare(const char *what, uint32_t groups, uint32_t checkpoints)
{
    return groups == checkpoints
               ? EPG_OK
               : epg__fail(EPG_ERR_MISMATCH, "the group's %s is %u, the checkpoint's %u", what, groups, checkpoints);
}

static epg_status bind_group(epg_model *model, epg_group *group)
{
    epg_group_options *limits = &model->limits;
    const epg_team *team = epg_group_team(group);
    EPG_TRY(epg_group_get_options(group, limits));
    if (limits->row_type != EPG_FLOAT32 && limits->row_type != EPG_BFLOAT16)
        return epg__fail(EPG_ERR_UNSUPPORTED, "a model's rows are float32 or bf16; the group's row_type is %d",
                         (int)limits->row_type);
    EPG_TRY(compare("experts", limits->experts, model->shape.experts));
    EPG_TRY(compare("logical_experts", limits->logical_experts, model->shape.experts));
    EPG_TRY(compare("hidden", limits->hidden, model->shape.hidden));
    EPG_TRY(compare("topk", limits->topk, model->shape.topk));
    model->group = group;
    model->device = epg_team_device(team);
    model->local_experts = limits->experts / epg_team_size(team);
    model->first_expert = epg_team_rank(team) * model->local_experts;
    model->kernels = model->device->info.kind == EPG_DEVICE_HOST ? &epg__model_kernels_host : &epg__model_kernels_cuda;
    return EPG_OK;
}

/* The caller's experts, or ours. */
static epg_status choose_experts(epg_model *model, const epg_model_options *options)
{
    epg_experts_options experts = EPG_EXPERTS_OPTIONS_INIT;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    if (options->experts) {
        model->experts_fn = options->experts;
        model->experts_ctx = options->experts_ctx;
        return EPG_OK;
    }
    experts.local_experts = model->local_experts;
    experts.hidden = model->shape.hidden;
    experts.intermediate = model->shape.intermediate;
    experts.row_type = model->limits.row_type;
    experts.weight_type = model->weight_type;
    EPG_TRY(epg_experts_create(model->device, &experts, &model->experts));
    EPG_TRY(epg_group_view(model->group, 0, &view));
    return epg_experts_workspace(model->experts, view.row_capacity, &model->workspace_bytes);
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
    EPG_TRY(epg__model_alloc(model, model->kernels->scratch_bytes(model), 1, &b->scratch));
    EPG_TRY(epg__model_alloc(model, tokens, row, &b->combined));
    if (!model->experts)
        return EPG_OK;
    EPG_TRY(epg__model_alloc(model, view.row_capacity, row, &b->expert_rows));
    return epg__model_alloc(model, model->workspace_bytes, 1, &b->workspace);
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

epg_status epg_model_create(epg_group *group, const epg_checkpoint *checkpoint, const epg_model_options *options,
                            epg_model **out)
{
    epg_status status;
    if (!group || !checkpoint || !out)
        return epg__fail(EPG_ERR_INVALID, "epg_model_create: %s is NULL",
                         !group ? "group" : !checkpoint ? "checkpoint" : "model");
    epg_model_options chosen = EPG_MODEL_OPTIONS_INIT;
    if (options) {
        EPG__CHECK_SIZE(options, offsetof(epg_model_options, experts));
        memcpy(&chosen, options, options->size < sizeof chosen ? options->size : sizeof chosen);
    }
    epg_model *model = epg__zalloc(1, sizeof *model, "a model");
    if (!model)
        return EPG_ERR_NO_MEMORY;
    model->shape.size = sizeof model->shape;
    model->limits.size = sizeof model->limits;
    model->buffers.size = sizeof model->buffers;
    model->mark = chosen.mark;
    model->mark_ctx = chosen.mark_ctx;
    EPG_TRY_GOTO(epg_checkpoint_shape(checkpoint, &model->shape), destroy);
    EPG_TRY_GOTO(bind_group(model, group), destroy);
    model->weight_type = model->kernels->weight_type(model->limits.row_type, epg_checkpoint_type(checkpoint));
    EPG_TRY_GOTO(model->kernels->create(model), destroy);
    EPG_TRY_GOTO(choose_experts(model, &chosen), destroy);
    EPG_TRY_GOTO(epg__model_load(model, checkpoint), destroy);
    EPG_TRY_GOTO(alloc_buffers(model, chosen.keep_states), destroy);
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
    if (model->kernels)
        model->kernels->destroy(model);
    epg_experts_destroy(model->experts);
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
        return epg__fail(EPG_ERR_INVALID, "bucket is %u, the group's max_tokens is %u", args->bucket,
                         model->limits.max_tokens);
    if (args->lane >= model->limits.lanes)
        return epg__fail(EPG_ERR_INVALID, "lane is %u, the group has %u", args->lane, model->limits.lanes);
    return EPG_OK;
}

static epg__rows rows_of(const epg_model *model, const uint32_t *tokens, const epg_model_step_args *args)
{
    return (epg__rows){tokens, args->bucket, model->shape.hidden, model->limits.row_type};
}

static epg_status mark(const epg_model *model, uint32_t layer, epg_model_phase phase, const epg_model_step_args *args)
{
    return model->mark ? model->mark(model->mark_ctx, layer, phase, args->stream) : EPG_OK;
}

static epg_status enqueue_norm(epg_model *model, const epg__rows *rows, const float *weight, const void *in, void *out,
                               const epg_model_step_args *args)
{
    epg__norm_args norm = {.rows = *rows, .in = in, .weight = weight, .eps = model->shape.norm_eps, .out = out};
    return model->kernels->norm(model, &norm, args->stream);
}

static epg_status enqueue_gate(epg_model *model, const epg__rows *rows, uint32_t layer, const epg_model_step_args *args)
{
    epg__lane_buffers *b = &model->lanes[args->lane];
    epg__gate_args gate = {
        .rows = *rows,
        .in = b->normed,
        .router = model->layers[layer].router,
        .experts = model->shape.experts,
        .topk = model->shape.topk,
        .max_tokens = model->limits.max_tokens,
        .renormalise = model->shape.norm_topk_prob == 1,
        .scratch = b->scratch,
        .ids = b->topk_ids,
        .weights = b->topk_weights,
    };
    return model->kernels->gate(model, &gate, args->stream);
}

static epg_status enqueue_experts(epg_model *model, uint32_t layer, const epg_dispatch_view *view,
                                  const epg_model_step_args *args, const void **expert_rows)
{
    epg__lane_buffers *b = &model->lanes[args->lane];
    epg_experts_args experts = EPG_EXPERTS_ARGS_INIT;
    if (model->experts_fn)
        return model->experts_fn(model->experts_ctx, layer, view, args->stream, expert_rows);
    experts.view = view;
    experts.gate_up = model->layers[layer].gate_up;
    experts.down = model->layers[layer].down;
    experts.workspace = b->workspace;
    experts.workspace_bytes = model->workspace_bytes;
    experts.out = b->expert_rows;
    *expert_rows = b->expert_rows;
    return epg_experts_run(model->experts, &experts, args->stream);
}

/* dispatch, experts, combine: one pair. */
static epg_status enqueue_pair(epg_model *model, const epg__rows *rows, uint32_t layer, const epg_model_step_args *args)
{
    epg__lane_buffers *b = &model->lanes[args->lane];
    epg_dispatch_args dispatch = EPG_DISPATCH_ARGS_INIT;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    const void *expert_rows = NULL;
    dispatch.lane = args->lane;
    dispatch.mode = args->mode;
    dispatch.bucket = args->bucket;
    dispatch.tokens = rows->tokens;
    dispatch.rows = b->normed;
    dispatch.topk_ids = b->topk_ids;
    dispatch.topk_weights = b->topk_weights;
    EPG_TRY(mark(model, layer, EPG_MODEL_DISPATCH, args));
    EPG_TRY(epg_dispatch(model->group, &dispatch, &view, args->stream));
    EPG_TRY(mark(model, layer, EPG_MODEL_EXPERTS, args));
    EPG_TRY(enqueue_experts(model, layer, &view, args, &expert_rows));
    EPG_TRY(mark(model, layer, EPG_MODEL_COMBINE, args));
    return epg_combine(model->group, args->lane, expert_rows, b->combined, args->stream);
}

static epg_status enqueue_layer(epg_model *model, const epg__rows *rows, uint32_t layer, const void *in, void *out,
                                const epg_model_step_args *args)
{
    epg__lane_buffers *b = &model->lanes[args->lane];
    EPG_TRY(mark(model, layer, EPG_MODEL_NORM, args));
    EPG_TRY(enqueue_norm(model, rows, model->layers[layer].norm, in, b->normed, args));
    EPG_TRY(mark(model, layer, EPG_MODEL_GATE, args));
    EPG_TRY(enqueue_gate(model, rows, layer, args));
    EPG_TRY(enqueue_pair(model, rows, layer, args));
    EPG_TRY(mark(model, layer, EPG_MODEL_ADD, args));
    epg__residual_args residual = {.rows = *rows, .in = in, .add = b->combined, .out = out};
    return model->kernels->residual(model, &residual, args->stream);
}

epg_status epg_model_layer(epg_model *model, uint32_t layer, const uint32_t *tokens, const void *in, void *out,
                           const epg_model_step_args *args)
{
    EPG_TRY(check_args(model, args));
    if (layer >= model->shape.layers || !in || !out)
        return epg__fail(EPG_ERR_INVALID, "epg_model_layer: layer is %u of %u, in is %p, out is %p", layer,
                         model->shape.layers, in, out);
    epg__rows rows = rows_of(model, tokens, args);
    EPG_TRY(enqueue_layer(model, &rows, layer, in, out, args));
    return mark(model, layer, EPG_MODEL_END, args);
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
    return model->kernels->embed(model, &embed, args->stream);
}

static epg_status enqueue_head(epg_model *model, const epg__rows *rows, const epg_model_step_args *args)
{
    epg__head_args head = {
        .rows = *rows,
        .in = model->buffers.hidden,
        .head = model->head,
        .vocab = model->shape.vocab,
        .scratch = model->lanes[args->lane].scratch,
        .next_ids = model->buffers.next_ids,
    };
    return model->kernels->head(model, &head, args->stream);
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
    EPG_TRY(mark(model, 0, EPG_MODEL_EMBED, args));
    EPG_TRY(enqueue_embed(model, &rows, state_at(model, 0, args->lane), args));
    for (uint32_t i = 0; i < layers; i++)
        EPG_TRY(
            enqueue_layer(model, &rows, i, state_at(model, i, args->lane), state_at(model, i + 1, args->lane), args));
    void *last = state_at(model, layers, args->lane);
    EPG_TRY(mark(model, layers, EPG_MODEL_HEAD, args));
    EPG_TRY(enqueue_norm(model, &rows, model->final_norm, last, model->buffers.hidden, args));
    if (args->head)
        EPG_TRY(enqueue_head(model, &rows, args));
    return mark(model, layers, EPG_MODEL_END, args);
}
