/* Models and experts on the CUDA device: which kernels serve which types, and their launches.
 *
 * Weights are kept as bf16 where both rows and checkpoint are bf16, which is what the tensor cores take; else as
 * float32, on the plain kernels. */
#include <stdlib.h>
#include "core/core_int.h"
#include "moe/moe_cuda_int.h"
#include "moe/model_int.h"

typedef struct model_state {
    epg__moe_launch shape;
    epg__product_kernels head;
} model_state;

static int suits_mma(epg_dtype row_type, epg_dtype weight_type)
{
    return row_type == EPG_BFLOAT16 && weight_type == EPG_BFLOAT16;
}

/* ---- models ---- */

static epg_dtype weight_type(epg_dtype row_type, epg_tensor_type checkpoint)
{
    return row_type == EPG_BFLOAT16 && checkpoint == EPG_TENSOR_BF16 ? EPG_BFLOAT16 : EPG_FLOAT32;
}

static epg_status create(epg_model *model)
{
    model_state *state = epg__zalloc(1, sizeof *state, "a model's CUDA state");
    if (!state)
        return EPG_ERR_NO_MEMORY;
    model->kernels_state = state;
    EPG_TRY(epg__moe_prepare(model->device, &state->shape));
    if (suits_mma(model->limits.row_type, model->weight_type))
        return epg__product_mma(model->device, 1, &state->head);
    return epg__product_plain(model->device, model->limits.row_type, model->weight_type, &state->head);
}

static void destroy(epg_model *model) { free(model->kernels_state); }

/* The gate's, then the head's [max_tokens]. */
static size_t gate_bytes(const epg_model *model)
{
    return (epg__gate_scratch(model->limits.max_tokens, model->shape.experts) + 255) / 256 * 256;
}

static size_t scratch_bytes(const epg_model *model)
{
    return gate_bytes(model) + model->limits.max_tokens * sizeof(uint64_t);
}

static epg_status check_rows(const char *what, const void *rows)
{
    if ((uintptr_t)rows % 16)
        return epg__fail(EPG_ERR_INVALID, "epg_model_layer: %s is %p, not aligned to 16 bytes", what, rows);
    return EPG_OK;
}

static epg_status embed(epg_model *model, const epg__embed_args *args, epg_stream stream)
{
    const model_state *state = model->kernels_state;
    return epg__cuda_embed(model->device, stream, &state->shape, model->weight_type, args);
}

static epg_status norm(epg_model *model, const epg__norm_args *args, epg_stream stream)
{
    const model_state *state = model->kernels_state;
    EPG_TRY(check_rows("in", args->in));
    return epg__cuda_norm(model->device, stream, &state->shape, args);
}

static epg_status gate(epg_model *model, const epg__gate_args *args, epg_stream stream)
{
    const model_state *state = model->kernels_state;
    return epg__cuda_gate(model->device, stream, &state->shape, model->weight_type, args);
}

static epg_status residual(epg_model *model, const epg__residual_args *args, epg_stream stream)
{
    const model_state *state = model->kernels_state;
    EPG_TRY(check_rows("out", args->out));
    return epg__cuda_residual(model->device, stream, &state->shape, args);
}

static epg_status head(epg_model *model, const epg__head_args *args, epg_stream stream)
{
    const model_state *state = model->kernels_state;
    uint64_t *best = (uint64_t *)((char *)args->scratch + gate_bytes(model));
    epg__product product = {
        .rows = args->in,
        .counts = args->rows.tokens,
        .limit = args->rows.bucket,
        .groups = 1,
        .m = args->vocab,
        .k = args->rows.hidden,
        .weights = args->head,
        .best = best,
    };
    epg__take_args take = {args->rows, best, args->next_ids};
    EPG_TRY(state->head.launch(model->device, stream, &state->head, EPG__PRODUCT_BEST, &product));
    return epg__cuda_take_best(model->device, stream, &state->shape, &take);
}

const epg__model_kernels epg__model_kernels_cuda = {
    .weight_type = weight_type,
    .create = create,
    .destroy = destroy,
    .scratch_bytes = scratch_bytes,
    .embed = embed,
    .norm = norm,
    .gate = gate,
    .residual = residual,
    .head = head,
};

/* ---- experts ---- */

static epg_status experts_create(epg_experts *experts)
{
    const epg_experts_options *o = &experts->options;
    epg__product_kernels *products = epg__zalloc(1, sizeof *products, "the experts' CUDA state");
    if (!products)
        return EPG_ERR_NO_MEMORY;
    experts->kernels_state = products;
    if (suits_mma(o->row_type, o->weight_type) && o->intermediate % 8 == 0 && o->local_experts <= EPG__PRODUCT_GROUPS)
        return epg__product_mma(experts->device, o->local_experts, products);
    return epg__product_plain(experts->device, o->row_type, o->weight_type, products);
}

static void experts_destroy(epg_experts *experts) { free(experts->kernels_state); }

/* The inner rows. */
static size_t workspace_bytes(const epg_experts *experts, uint32_t row_capacity)
{
    const epg_experts_options *o = &experts->options;
    return (size_t)row_capacity * o->intermediate * epg__dtype_bytes(o->row_type);
}

static epg_status run(const epg_experts *experts, const epg_experts_args *args, epg_stream stream)
{
    const epg_experts_options *o = &experts->options;
    const epg__product_kernels *products = experts->kernels_state;
    epg__product up = {
        .rows = args->view->rows,
        .row_index = args->view->row_index,
        .offsets = args->view->offsets,
        .counts = args->view->counts,
        .limit = UINT32_MAX,
        .groups = o->local_experts,
        .m = 2 * o->intermediate,
        .k = o->hidden,
        .weights = args->gate_up,
        .out = args->workspace,
    };
    epg__product down = up;
    down.rows = args->workspace;
    down.row_index = NULL;
    down.m = o->hidden;
    down.k = o->intermediate;
    down.weights = args->down;
    down.out = args->out;
    EPG_TRY(products->launch(experts->device, stream, products, EPG__PRODUCT_GATED, &up));
    return products->launch(experts->device, stream, products, EPG__PRODUCT_ROWS, &down);
}

const epg__experts_kernels epg__experts_kernels_cuda = {
    .create = experts_create,
    .destroy = experts_destroy,
    .workspace = workspace_bytes,
    .run = run,
};
