/* Models and experts on the host device: what their kernels need beside what every device is given, and their launches.
 *
 * Not its job: the arithmetic (model_host_kernels.c). Weights are float32: the BLAS has no other product. */
#include <stdlib.h>
#include "core/core_int.h"
#include "moe/model_host_kernels_int.h"
#include "moe/model_int.h"

typedef struct model_state {
    epg__gemm router, head;
} model_state;

typedef struct experts_state {
    epg__gemm up, down;
} experts_state;

#define LAUNCH(device, stream, fn, kernel_args, name) \
    epg_host_launch(device, stream, fn, kernel_args, sizeof *(kernel_args), name)

/* ---- models ---- */

static epg_dtype weight_type(epg_dtype row_type, epg_tensor_type checkpoint)
{
    (void)row_type, (void)checkpoint;
    return EPG_FLOAT32;
}

static epg_status create(epg_model *model)
{
    const epg_moe_shape *s = &model->shape;
    model_state *state = epg__zalloc(1, sizeof *state, "a model's choice of tiles");
    if (!state)
        return EPG_ERR_NO_MEMORY;
    model->kernels_state = state;
    EPG_TRY(epg__gemm_choose(s->hidden, s->experts, &state->router));
    return epg__gemm_choose(s->hidden, s->vocab, &state->head);
}

static void destroy(epg_model *model) { free(model->kernels_state); }

static size_t in_floats(const epg_model *model) { return (size_t)EPG__GEMM_ROWS * model->shape.hidden; }

static size_t scratch_bytes(const epg_model *model)
{
    const epg_moe_shape *s = &model->shape;
    size_t columns = s->vocab > s->experts ? s->vocab : s->experts;
    return (in_floats(model) + EPG__GEMM_ROWS * columns) * sizeof(float);
}

static epg__blocks blocks_in(const epg_model *model, void *scratch)
{
    float *in = scratch;
    return (epg__blocks){in, in + in_floats(model)};
}

static epg_status embed(epg_model *model, const epg__embed_args *args, epg_stream stream)
{
    return LAUNCH(model->device, stream, epg__embed_run, args, "embedding");
}

static epg_status norm(epg_model *model, const epg__norm_args *args, epg_stream stream)
{
    return LAUNCH(model->device, stream, epg__norm_run, args, "norm");
}

static epg_status gate(epg_model *model, const epg__gate_args *args, epg_stream stream)
{
    const model_state *state = model->kernels_state;
    epg__host_gate host = {*args, state->router, blocks_in(model, args->scratch)};
    return LAUNCH(model->device, stream, epg__gate_run, &host, "gate");
}

static epg_status residual(epg_model *model, const epg__residual_args *args, epg_stream stream)
{
    return LAUNCH(model->device, stream, epg__residual_run, args, "residual");
}

static epg_status head(epg_model *model, const epg__head_args *args, epg_stream stream)
{
    const model_state *state = model->kernels_state;
    epg__host_head host = {*args, state->head, blocks_in(model, args->scratch)};
    return LAUNCH(model->device, stream, epg__head_run, &host, "head");
}

const epg__model_kernels epg__model_kernels_host = {
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
    experts_state *state = epg__zalloc(1, sizeof *state, "the experts' choice of tiles");
    if (!state)
        return EPG_ERR_NO_MEMORY;
    experts->kernels_state = state;
    EPG_TRY(epg__gemm_choose(o->hidden, 2 * o->intermediate, &state->up));
    return epg__gemm_choose(o->intermediate, o->hidden, &state->down);
}

static void experts_destroy(epg_experts *experts) { free(experts->kernels_state); }

/* One walk gives the workspace's size and places its parts. */
static size_t place(const epg_experts_options *o, float *workspace, epg__host_experts *host)
{
    size_t rows = EPG__GEMM_ROWS, hidden = o->hidden, width = o->intermediate, used = 0;
    const size_t floats[] = {rows * hidden, rows * 2 * width, rows * width, rows * hidden,
                             o->weight_type == EPG_FLOAT32 ? 0 : 2 * hidden * width};
    float **const parts[] = {&host->in, &host->pair, &host->inner, &host->result, &host->wide};
    for (size_t i = 0; i < EPG__COUNT_OF(floats); i++) {
        *parts[i] = workspace && floats[i] ? workspace + used : NULL;
        used += (floats[i] + 15) / 16 * 16;
    }
    return used * sizeof(float);
}

static size_t workspace_bytes(const epg_experts *experts, uint32_t row_capacity)
{
    epg__host_experts host;
    (void)row_capacity;
    return place(&experts->options, NULL, &host);
}

static epg_status run(const epg_experts *experts, const epg_experts_args *args, epg_stream stream)
{
    const experts_state *state = experts->kernels_state;
    epg__host_experts host = {
        .view = *args->view,
        .shape = experts->options,
        .gemm_up = state->up,
        .gemm_down = state->down,
        .gate_up = args->gate_up,
        .down = args->down,
        .out = args->out,
    };
    place(&experts->options, args->workspace, &host);
    return LAUNCH(experts->device, stream, epg__experts_run, &host, "experts");
}

const epg__experts_kernels epg__experts_kernels_host = {
    .create = experts_create,
    .destroy = experts_destroy,
    .workspace = workspace_bytes,
    .run = run,
};
