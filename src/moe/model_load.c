/* Loads what one rank needs of a checkpoint into memory of the model: as the model's weight_type (norms as float32),
 * the rank's own experts only.
 *
 * Weights are copied even where the file's memory would serve: the checkpoint may then be closed, and a file on a
 * network is not paged in during a step. Not its job: whether the shapes suit the group (model.c). */
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

/* Reading goes straight to the weights' place, or where only the device writes there through memory of the host. The
 * copies have a stream of their own: on the legacy stream they would be refused while another rank's thread captures a
 * blocking one, as the runner's probe does. */
typedef struct loader {
    epg_model *model;
    const epg_checkpoint *checkpoint;
    void *staging;           /* NULL: the weights' place is memory of the host */
    epg_stream stream;
} loader;

static size_t weight_bytes(const epg_model *model, epg__weight weight, epg_dtype type)
{
    epg__weight_info info;
    epg__weight_describe(&model->shape, weight, 0, 0, &info);
    return (size_t)(info.rows * info.columns) * epg__dtype_bytes(type);
}

static epg_status read_to(const loader *l, epg__weight weight, uint32_t layer, uint32_t expert, epg_dtype type,
                          void *to)
{
    if (!l->staging)
        return epg__weight_read(l->checkpoint, weight, layer, expert, type, to);
    EPG_TRY(epg__weight_read(l->checkpoint, weight, layer, expert, type, l->staging));
    EPG_TRY(epg_memcpy_async(l->model->device, to, l->staging, weight_bytes(l->model, weight, type), l->stream));
    return epg_stream_synchronize(l->model->device, l->stream);
}

static epg_status load(const loader *l, epg__weight weight, uint32_t layer, epg_dtype type, void *memory_out)
{
    void *memory;
    EPG_TRY(epg__model_alloc(l->model, weight_bytes(l->model, weight, type), 1, &memory));
    memcpy(memory_out, &memory, sizeof memory);
    return read_to(l, weight, layer, 0, type, memory);
}

static epg_status load_experts(const loader *l, uint32_t layer, epg__layer_weights *weights)
{
    epg_model *model = l->model;
    epg_dtype type = model->weight_type;
    size_t bytes = weight_bytes(model, EPG__WEIGHT_DOWN, type);
    EPG_TRY(epg__model_alloc(model, model->local_experts * bytes, 2, &weights->gate_up));
    EPG_TRY(epg__model_alloc(model, model->local_experts * bytes, 1, &weights->down));
    for (uint32_t i = 0; i < model->local_experts; i++) {
        uint32_t expert = model->first_expert + i;
        char *gate = (char *)weights->gate_up + i * 2 * bytes;
        EPG_TRY(read_to(l, EPG__WEIGHT_GATE, layer, expert, type, gate));
        EPG_TRY(read_to(l, EPG__WEIGHT_UP, layer, expert, type, gate + bytes));
        EPG_TRY(read_to(l, EPG__WEIGHT_DOWN, layer, expert, type, (char *)weights->down + i * bytes));
    }
    return EPG_OK;
}

static epg_status load_all(const loader *l)
{
    epg_model *model = l->model;
    epg_dtype type = model->weight_type;
    EPG_TRY(load(l, EPG__WEIGHT_EMBEDDING, 0, type, &model->embedding));
    for (uint32_t i = 0; i < model->shape.layers; i++) {
        EPG_TRY(load(l, EPG__WEIGHT_LAYER_NORM, i, EPG_FLOAT32, &model->layers[i].norm));
        EPG_TRY(load(l, EPG__WEIGHT_ROUTER, i, type, &model->layers[i].router));
        if (model->experts)
            EPG_TRY(load_experts(l, i, &model->layers[i]));
    }
    EPG_TRY(load(l, EPG__WEIGHT_FINAL_NORM, 0, EPG_FLOAT32, &model->final_norm));
    if (!model->shape.tied_head)
        return load(l, EPG__WEIGHT_HEAD, 0, type, &model->head);
    model->head = model->embedding;
    return EPG_OK;
}

static size_t largest_weight(const epg_model *model)
{
    size_t largest = weight_bytes(model, EPG__WEIGHT_LAYER_NORM, EPG_FLOAT32);
    for (int weight = EPG__WEIGHT_EMBEDDING; weight <= EPG__WEIGHT_HEAD; weight++) {
        size_t bytes = weight_bytes(model, (epg__weight)weight, model->weight_type);
        largest = bytes > largest ? bytes : largest;
    }
    return largest;
}

static epg_status load_staged(loader *l)
{
    epg_device *device = l->model->device;
    epg_status status = EPG_ERR_NO_MEMORY;
    l->staging = epg__zalloc(1, largest_weight(l->model), "a tensor on its way");
    if (!l->staging)
        return status;
    EPG_TRY_GOTO(epg_stream_create(device, EPG_STREAM_NONBLOCKING, &l->stream), release);
    status = load_all(l);
    epg_stream_destroy(device, l->stream);
release:
    free(l->staging);
    return status;
}

epg_status epg__model_load(epg_model *model, const epg_checkpoint *checkpoint)
{
    loader l = {.model = model, .checkpoint = checkpoint};
    model->layers = epg__zalloc(model->shape.layers, sizeof *model->layers, "a model's layers");
    if (!model->layers)
        return EPG_ERR_NO_MEMORY;
    return model->device->info.kind == EPG_DEVICE_HOST ? load_all(&l) : load_staged(&l);
}
