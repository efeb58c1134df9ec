/* A checkpoint directory: config.json, and safetensors in one file or in shards with an index.
 *
 * Not its job: what a header says (safetensors.c), what the shape means (config.c). Invariant: once open, the table
 * of tensors is sorted, without duplicates, and every entry lies inside its map. Nothing is written afterwards, so
 * any thread may read. */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/core_int.h"
#include "moe/checkpoint_int.h"
#include "core/number_int.h"

static int by_name(const void *left, const void *right)
{
    return strcmp(((const epg__tensor *)left)->name, ((const epg__tensor *)right)->name);
}

static const epg__tensor *find(const epg_checkpoint *checkpoint, const char *name)
{
    size_t low = 0, high = checkpoint->tensors.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(checkpoint->tensors.at[middle].name, name);
        if (order == 0)
            return &checkpoint->tensors.at[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static epg_status find_or_fail(const epg_checkpoint *checkpoint, const char *name, const epg__tensor **tensor)
{
    *tensor = find(checkpoint, name);
    return *tensor ? EPG_OK : epg__fail(EPG_ERR_NOT_FOUND, "%s: there is no tensor %s", checkpoint->directory, name);
}

static epg_status open_shard(epg_checkpoint *checkpoint, const char *name)
{
    epg__shard *shards = epg__grow(checkpoint->shards, checkpoint->shard_count + 1, sizeof *shards, "a table of files");
    if (!shards)
        return EPG_ERR_NO_MEMORY;
    checkpoint->shards = shards;
    char *path = epg__path_join(checkpoint->directory, name);
    if (!path)
        return EPG_ERR_NO_MEMORY;
    epg_status status = epg__shard_open(path, checkpoint->shard_count, &shards[checkpoint->shard_count],
                                        &checkpoint->tensors);
    free(path);
    if (status == EPG_OK)
        checkpoint->shard_count++;
    return status;
}

static int is_open(const epg_checkpoint *checkpoint, const char *name)
{
    for (uint32_t i = 0; i < checkpoint->shard_count; i++)
        if (strcmp(strrchr(checkpoint->shards[i].path, '/') + 1, name) == 0)
            return 1;
    return 0;
}

static epg_status open_shards(epg_checkpoint *checkpoint, const char *index, json_t *map)
{
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        if (!file)
            return epg__fail(EPG_ERR_FORMAT, "%s: weight_map names %s for tensor %s, not a file", index,
                             epg__json_kind(value), name);
        if (!*file || strchr(file, '/'))
            return epg__fail(EPG_ERR_FORMAT,
                             "%s: weight_map gives tensor %s the file \"%s\", not a file's name in this directory",
                             index, name, file);
        if (is_open(checkpoint, file))
            continue;
        epg_status status = open_shard(checkpoint, file);
        if (status != EPG_OK)
            return epg__fail_prefix(status, "tensor %s: ", name);
    }
    return EPG_OK;
}

static epg_status sort_tensors(epg_checkpoint *checkpoint)
{
    epg__tensor *at = checkpoint->tensors.at;
    if (checkpoint->tensors.count)
        qsort(at, checkpoint->tensors.count, sizeof *at, by_name);
    for (size_t i = 1; i < checkpoint->tensors.count; i++)
        if (strcmp(at[i - 1].name, at[i].name) == 0)
            return epg__fail(EPG_ERR_FORMAT, "tensor %s is in both %s and %s", at[i].name,
                             checkpoint->shards[at[i - 1].shard].path, checkpoint->shards[at[i].shard].path);
    return EPG_OK;
}

static epg_status check_map(const epg_checkpoint *checkpoint, const char *index, json_t *map)
{
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value) {
        const epg__tensor *tensor = find(checkpoint, name);
        const char *path = tensor ? checkpoint->shards[tensor->shard].path : NULL;
        if (!tensor || strcmp(strrchr(path, '/') + 1, json_string_value(value)) != 0)
            return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s is not in %s, where weight_map puts it", index, name,
                             json_string_value(value));
    }
    return EPG_OK;
}

static epg_status open_index(epg_checkpoint *checkpoint, const char *path)
{
    json_t *root;
    epg_status status;
    EPG_TRY(epg__json_read(path, &root));
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map)) {
        status = map ? epg__fail(EPG_ERR_FORMAT, "%s: weight_map is %s, not an object", path, epg__json_kind(map))
                     : epg__fail(EPG_ERR_FORMAT, "%s: the key weight_map is missing", path);
        goto release;
    }
    EPG_TRY_GOTO(open_shards(checkpoint, path, map), release);
    EPG_TRY_GOTO(sort_tensors(checkpoint), release);
    status = check_map(checkpoint, path, map);
release:
    json_decref(root);
    return status;
}

/* The single file comes first, as in Hugging Face's loader. */
static epg_status open_files(epg_checkpoint *checkpoint)
{
    char *single = epg__path_join(checkpoint->directory, "model.safetensors");
    char *index = epg__path_join(checkpoint->directory, "model.safetensors.index.json");
    epg_status status = EPG_ERR_NO_MEMORY;
    if (!single || !index)
        goto release;
    if (access(single, F_OK) == 0) {
        EPG_TRY_GOTO(open_shard(checkpoint, "model.safetensors"), release);
        status = sort_tensors(checkpoint);
    } else if (access(index, F_OK) == 0) {
        status = open_index(checkpoint, index);
    } else {
        status = epg__fail(EPG_ERR_NOT_FOUND, "%s: there is neither model.safetensors nor model.safetensors.index.json",
                           checkpoint->directory);
    }
release:
    free(single);
    free(index);
    return status;
}

static epg_status find_type(epg_checkpoint *checkpoint)
{
    const epg__tensor *tensor;
    epg__weight_info info;
    epg__weight_describe(&checkpoint->shape, EPG__WEIGHT_GATE, 0, 0, &info);
    EPG_TRY(find_or_fail(checkpoint, info.name, &tensor));
    if (!epg__dtype_is_weight(tensor->dtype, &checkpoint->type))
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s is %s; F32, BF16 and F16 are supported",
                         checkpoint->shards[tensor->shard].path, info.name, epg__dtype_name(tensor->dtype));
    return EPG_OK;
}

epg_status epg_checkpoint_open(const char *directory, epg_checkpoint **out)
{
    epg_status status = EPG_ERR_NO_MEMORY;
    if (!directory || !*directory || !out)
        return epg__fail(EPG_ERR_INVALID, "epg_checkpoint_open: %s",
                         out ? "no directory is given" : "checkpoint is NULL");
    epg_checkpoint *checkpoint = epg__zalloc(1, sizeof *checkpoint, "a checkpoint");
    if (!checkpoint)
        return EPG_ERR_NO_MEMORY;
    char *config = epg__path_join(directory, "config.json");
    checkpoint->directory = epg__strdup(directory);
    if (!config || !checkpoint->directory)
        goto close;
    EPG_TRY_GOTO(epg__config_read(config, &checkpoint->shape), close);
    EPG_TRY_GOTO(open_files(checkpoint), close);
    EPG_TRY_GOTO(find_type(checkpoint), close);
    free(config);
    *out = checkpoint;
    return EPG_OK;
close:
    free(config);
    epg_checkpoint_close(checkpoint);
    return status;
}

void epg_checkpoint_close(epg_checkpoint *checkpoint)
{
    if (!checkpoint)
        return;
    for (uint32_t i = 0; i < checkpoint->shard_count; i++)
        epg__shard_close(&checkpoint->shards[i]);
    for (size_t i = 0; i < checkpoint->tensors.count; i++)
        free(checkpoint->tensors.at[i].name);
    free(checkpoint->tensors.at);
    free(checkpoint->shards);
    free(checkpoint->directory);
    free(checkpoint);
}

epg_status epg_checkpoint_shape(const epg_checkpoint *checkpoint, epg_moe_shape *shape)
{
    if (!checkpoint || !shape)
        return epg__fail(EPG_ERR_INVALID, "epg_checkpoint_shape: %s is NULL", checkpoint ? "shape" : "checkpoint");
    EPG__CHECK_SIZE(shape, sizeof *shape);
    uint32_t size = shape->size;
    *shape = checkpoint->shape;
    shape->size = size;
    return EPG_OK;
}

epg_tensor_type epg_checkpoint_type(const epg_checkpoint *checkpoint)
{
    return checkpoint ? checkpoint->type : EPG_TENSOR_F32;
}

static void show_shape(const epg__tensor *tensor, char *text, size_t bytes)
{
    size_t used = (size_t)snprintf(text, bytes, "[");
    for (uint32_t i = 0; i < tensor->dims && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%" PRIu64, i ? ", " : "", tensor->shape[i]);
    if (used < bytes)
        snprintf(text + used, bytes - used, "]");
}

static uint64_t rows_of(const epg__tensor *tensor) { return tensor->dims == 2 ? tensor->shape[0] : 1; }

static epg_status check_read(const epg_checkpoint *checkpoint, const epg__tensor *tensor, uint64_t columns,
                             epg_tensor_type *type)
{
    const char *path = checkpoint->shards[tensor->shard].path;
    char shape[EPG__SHAPE_MAX * 22 + 3];
    show_shape(tensor, shape, sizeof shape);
    if (tensor->dims < 1 || tensor->dims > 2 || tensor->shape[tensor->dims - 1] != columns)
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s has the shape %s, not one with rows of %" PRIu64, path,
                         tensor->name, shape, columns);
    if (!epg__dtype_is_weight(tensor->dtype, type))
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s is %s; F32, BF16 and F16 are supported", path, tensor->name,
                         epg__dtype_name(tensor->dtype));
    return EPG_OK;
}

/* The tensor's bytes may start at any address: they are copied out, never dereferenced as numbers. */
static void widen(epg_tensor_type type, const unsigned char *from, uint64_t count, float *out)
{
    uint16_t half;
    if (type == EPG_TENSOR_F32) {
        memcpy(out, from, count * sizeof *out);
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        memcpy(&half, from + i * 2, 2);
        out[i] = type == EPG_TENSOR_BF16 ? epg__bf16_to_float(half) : epg__f16_to_float(half);
    }
}

epg_status epg_checkpoint_read(const epg_checkpoint *checkpoint, const char *name, uint64_t first, uint64_t rows,
                               uint64_t columns, float *out)
{
    const epg__tensor *tensor;
    epg_tensor_type type;
    if (!checkpoint || !name || (!out && rows && columns))
        return epg__fail(EPG_ERR_INVALID, "epg_checkpoint_read: %s is NULL",
                         !checkpoint ? "checkpoint" : !name ? "tensor" : "out");
    EPG_TRY(find_or_fail(checkpoint, name, &tensor));
    EPG_TRY(check_read(checkpoint, tensor, columns, &type));
    const epg__shard *shard = &checkpoint->shards[tensor->shard];
    if (first > rows_of(tensor) || rows > rows_of(tensor) - first)
        return epg__fail(EPG_ERR_FORMAT,
                         "%s: tensor %s has %" PRIu64 " rows; %" PRIu64 " from row %" PRIu64 " on were asked for",
                         shard->path, name, rows_of(tensor), rows, first);
    uint64_t row_bytes = columns * (type == EPG_TENSOR_F32 ? 4 : 2);
    if (rows && columns)
        widen(type, shard->data + tensor->begin + first * row_bytes, rows * columns, out);
    return EPG_OK;
}

static int all_zero(epg_dtype type, const void *values, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (type == EPG_FLOAT32 ? ((const float *)values)[i] != 0 : (((const uint16_t *)values)[i] & 0x7FFF) != 0)
            return 0;
    return 1;
}

/* Row by row through float32, but where the file has bf16 already. */
static epg_status read_bf16(const epg_checkpoint *checkpoint, const epg__tensor *tensor, const epg__weight_info *info,
                            uint16_t *out)
{
    epg_tensor_type type;
    EPG_TRY(check_read(checkpoint, tensor, info->columns, &type));
    if (type == EPG_TENSOR_BF16) {
        memcpy(out, checkpoint->shards[tensor->shard].data + tensor->begin, info->rows * info->columns * sizeof *out);
        return EPG_OK;
    }
    float *row = epg__zalloc(info->columns, sizeof *row, "a row of a tensor");
    epg_status status = row ? EPG_OK : EPG_ERR_NO_MEMORY;
    for (uint64_t r = 0; r < info->rows && status == EPG_OK; r++) {
        status = epg_checkpoint_read(checkpoint, info->name, r, 1, info->columns, row);
        for (uint64_t i = 0; i < info->columns && status == EPG_OK; i++)
            out[r * info->columns + i] = epg__float_to_bf16(row[i]);
    }
    free(row);
    return status;
}

epg_status epg__weight_read(const epg_checkpoint *checkpoint, epg__weight weight, uint32_t layer, uint32_t expert,
                            epg_dtype type, void *out)
{
    const epg__tensor *tensor;
    epg__weight_info info;
    char shape[EPG__SHAPE_MAX * 22 + 3];
    epg__weight_describe(&checkpoint->shape, weight, layer, expert, &info);
    EPG_TRY(find_or_fail(checkpoint, info.name, &tensor));
    const char *path = checkpoint->shards[tensor->shard].path;
    int fits = info.vector ? tensor->dims == 1 && tensor->shape[0] == info.columns
                           : tensor->dims == 2 && tensor->shape[0] == info.rows && tensor->shape[1] == info.columns;
    if (!fits) {
        show_shape(tensor, shape, sizeof shape);
        if (info.vector)
            return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s has the shape %s, config.json makes it [%" PRIu64 "]",
                             path, info.name, shape, info.columns);
        return epg__fail(EPG_ERR_FORMAT,
                         "%s: tensor %s has the shape %s, config.json makes it [%" PRIu64 ", %" PRIu64 "]", path,
                         info.name, shape, info.rows, info.columns);
    }
    EPG_TRY(type == EPG_FLOAT32 ? epg_checkpoint_read(checkpoint, info.name, 0, info.rows, info.columns, out)
                                : read_bf16(checkpoint, tensor, &info, out));
    if (all_zero(type, out, info.rows * info.columns))
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s is all zero", path, info.name);
    return EPG_OK;
}
