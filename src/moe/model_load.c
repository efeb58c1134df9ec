/* Loads what one rank needs of a checkpoint into memory of the model: float32, the rank's own experts only.
 *
 * Weights are copied even where the file holds float32: the checkpoint may then be closed, and a file on a network is
 * not paged in during a step. Not its job: whether the shapes suit the group (model_host.c). */
#include <stdlib.h>
#include <string.h>
#include "core/core_int.h"
#include "moe/checkpoint_int.h"
#include "moe/model_int.h"

epg_status epg__model_alloc(epg_model *model, size_t count, size_t size, void *memory_out)
{
    size_t bytes;
    void *memory;
    if (!epg__mul(count, size, &bytes))
        return epg__fail(EPG_ERR_NO_MEMORY, "%zu x %zu bytes for the model do not fit in memory", count, size);
    if (model->memory_count == model->memory_room) {
        size_t room = model->memory_room ? model->memory_room * 2 : 64;
        void **grown = epg__grow(model->memory, room, sizeof *grown, "a model's table of memory");
        if (!grown)
            return EPG_ERR_NO_MEMORY;
        model->memory = grown;
        model->memory_room = room;
    }
    EPG_TRY(epg_memory_alloc(model->device, EPG_MEMORY_DEVICE, bytes ? bytes : 1, &memory));
    model->memory[model->memory_count++] = memory;
    memcpy(memory_out, &memory, sizeof memory); /* whatever type the caller's pointer has */
    return EPG_OK;
}

static epg_status load(epg_model *model, const epg_checkpoint *checkpoint, epg__weight weight, uint32_t layer, float **out)
{
    epg__weight_info info;
    epg__weight_describe(&model->shape, weight, layer, 0, &info);
    EPG_TRY(epg__model_alloc(model, info.rows * info.columns, sizeof **out, out));
    return epg__weight_read(checkpoint, weight, layer, 0, *out);
}

static epg_status load_experts(epg_model *model, const epg_checkpoint *checkpoint, uint32_t layer, epg__layer_weights *weights)
{
    size_t size = (size_t)model->shape.hidden * model->shape.intermediate;
    EPG_TRY(epg__model_alloc(model, model->local_experts * size, 2 * sizeof(float), &weights->gate_up));
    EPG_TRY(epg__model_alloc(model, model->local_experts * size, sizeof(float), &weights->down));
    for (uint32_t i = 0; i < model->local_experts; i++) {
        uint32_t expert = model->first_expert + i;
        float *gate = weights->gate_up + i * 2 * size;
        EPG_TRY(epg__weight_read(checkpoint, EPG__WEIGHT_GATE, layer, expert, gate));
        EPG_TRY(epg__weight_read(checkpoint, EPG__WEIGHT_UP, layer, expert, gate + size));
        EPG_TRY(epg__weight_read(checkpoint, EPG__WEIGHT_DOWN, layer, expert, weights->down + i * size));
    }
    return EPG_OK;
}

epg_status epg__model_load(epg_model *model, const epg_checkpoint *checkpoint)
{
    model->layers = epg__zalloc(model->shape.layers, sizeof *model->layers, "a model's layers");
    if (!model->layers)
        return EPG_ERR_NO_MEMORY;
    EPG_TRY(load(model, checkpoint, EPG__WEIGHT_EMBEDDING, 0, &model->embedding));
    for (uint32_t i = 0; i < model->shape.layers; i++) {
        EPG_TRY(load(model, checkpoint, EPG__WEIGHT_LAYER_NORM, i, &model->layers[i].norm));
        EPG_TRY(load(model, checkpoint, EPG__WEIGHT_ROUTER, i, &model->layers[i].router));
        EPG_TRY(load_experts(model, checkpoint, i, &model->layers[i]));
    }
    EPG_TRY(load(model, checkpoint, EPG__WEIGHT_FINAL_NORM, 0, &model->final_norm));
    if (!model->shape.tied_head)
        return load(model, checkpoint, EPG__WEIGHT_HEAD, 0, &model->head);
    model->head = model->embedding;
    return EPG_OK;
}
