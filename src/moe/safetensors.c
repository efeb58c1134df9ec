/* One safetensors file: mapped, and its header checked whole before anything believes it.
 *
 * Not its job: which tensors a model needs (weights.c), and which files a checkpoint has (checkpoint_read.c).
 *
 * Format (github.com/huggingface/safetensors): 8 bytes little-endian header length, the header in JSON, the data.
 * Each header entry is {"dtype", "shape", "data_offsets": [begin, end]}, offsets relative to the data, and the
 * tensors fill the data without holes or overlaps. After epg__shard_open every tensor's bytes lie inside the map. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/core_int.h"
#include "moe/checkpoint_int.h"

static const struct {
    const char *name;
    uint32_t bytes;
    int weight; /* an epg_tensor_type, -1: not for weights */
} dtypes[] = {
    {"F32", 4, EPG_TENSOR_F32}, {"BF16", 2, EPG_TENSOR_BF16}, {"F16", 2, EPG_TENSOR_F16}, {"F64", 8, -1},
    {"I64", 8, -1}, {"I32", 4, -1}, {"I16", 2, -1}, {"I8", 1, -1}, {"U64", 8, -1}, {"U32", 4, -1}, {"U16", 2, -1},
    {"U8", 1, -1}, {"BOOL", 1, -1}, {"F8_E4M3", 1, -1}, {"F8_E5M2", 1, -1},
};

/* What the reference implementation allows; it bounds the memory a hostile length can make the parser take. */
enum { HEADER_BYTES_MAX = 100000000 };

const char *epg__dtype_name(uint32_t dtype) { return dtypes[dtype].name; }

int epg__dtype_is_weight(uint32_t dtype, epg_tensor_type *type)
{
    if (dtypes[dtype].weight < 0)
        return 0;
    *type = (epg_tensor_type)dtypes[dtype].weight;
    return 1;
}

static epg_status map_file(const char *path, epg__shard *shard)
{
    struct stat info;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return epg__fail(errno == ENOENT ? EPG_ERR_NOT_FOUND : EPG_ERR_IO, "%s: %s", path, strerror(errno));
    if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(file);
        return epg__fail(EPG_ERR_IO, "%s: not a regular file", path);
    }
    shard->bytes = (size_t)info.st_size;
    shard->map = shard->bytes ? mmap(NULL, shard->bytes, PROT_READ, MAP_PRIVATE, file, 0) : NULL;
    int error = errno;
    close(file);
    if (shard->map == MAP_FAILED) {
        shard->map = NULL;
        return epg__fail(EPG_ERR_IO, "%s: cannot map %zu bytes: %s", path, shard->bytes, strerror(error));
    }
    return EPG_OK;
}

static epg_status parse_header(epg__shard *shard, json_t **root)
{
    const unsigned char *map = shard->map;
    uint64_t length = 0;
    json_error_t error;
    if (shard->bytes < 8)
        return epg__fail(EPG_ERR_FORMAT, "%s: %zu bytes are too few for a safetensors file", shard->path, shard->bytes);
    for (int i = 7; i >= 0; i--)
        length = length << 8 | map[i];
    if (length > HEADER_BYTES_MAX || length > shard->bytes - 8)
        return epg__fail(EPG_ERR_FORMAT,
                         "%s: the header says it has %" PRIu64 " bytes, the file has %zu (at most %d are allowed)",
                         shard->path, length, shard->bytes - 8, HEADER_BYTES_MAX);
    shard->data = map + 8 + length;
    shard->data_bytes = shard->bytes - 8 - (size_t)length;
    *root = json_loadb((const char *)map + 8, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!*root)
        return epg__fail(EPG_ERR_FORMAT, "%s: the header is not valid JSON: %s (byte %d)", shard->path, error.text,
                         error.position);
    if (!json_is_object(*root)) {
        epg__fail(EPG_ERR_FORMAT, "%s: the header is %s, not an object", shard->path, epg__json_kind(*root));
        json_decref(*root);
        return EPG_ERR_FORMAT;
    }
    return EPG_OK;
}

static epg_status get_count(const char *path, const char *name, const char *key, const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value))
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s: %s holds %s, not a whole number", path, name, key,
                         epg__json_kind(value));
    if (json_integer_value(value) < 0)
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s: %s holds the negative number %lld", path, name, key,
                         (long long)json_integer_value(value));
    *out = (uint64_t)json_integer_value(value);
    return EPG_OK;
}

static epg_status parse_dtype(const char *path, const char *name, const json_t *entry, epg__tensor *tensor)
{
    const json_t *value = json_object_get(entry, "dtype");
    if (!value)
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s has no dtype", path, name);
    if (!json_is_string(value))
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s: dtype is %s, not a string", path, name, epg__json_kind(value));
    for (uint32_t i = 0; i < EPG__COUNT_OF(dtypes); i++)
        if (strcmp(dtypes[i].name, json_string_value(value)) == 0) {
            tensor->dtype = i;
            return EPG_OK;
        }
    return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s has the unknown dtype %s", path, name, json_string_value(value));
}

static epg_status parse_shape(const char *path, const char *name, const json_t *entry, epg__tensor *tensor,
                              uint64_t *bytes)
{
    const json_t *shape = json_object_get(entry, "shape");
    uint64_t product = dtypes[tensor->dtype].bytes;
    if (!shape)
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s has no shape", path, name);
    if (!json_is_array(shape))
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s: shape is %s, not an array", path, name, epg__json_kind(shape));
    if (json_array_size(shape) > EPG__SHAPE_MAX)
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s has %zu dimensions, at most %d are read", path, name,
                         json_array_size(shape), EPG__SHAPE_MAX);
    tensor->dims = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < tensor->dims; i++) {
        EPG_TRY(get_count(path, name, "shape", json_array_get(shape, i), &tensor->shape[i]));
        if (__builtin_mul_overflow(product, tensor->shape[i], &product))
            return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s: the bytes of its shape do not fit in 64 bits (dimension "
                             "%u is %" PRIu64 ")", path, name, i, tensor->shape[i]);
    }
    *bytes = product;
    return EPG_OK;
}

static epg_status parse_offsets(const epg__shard *shard, const char *name, const json_t *entry, epg__tensor *tensor,
                                uint64_t bytes)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    if (!offsets)
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s has no data_offsets", shard->path, name);
    if (!json_is_array(offsets) || json_array_size(offsets) != 2)
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s: data_offsets is not an array of two numbers", shard->path,
                         name);
    EPG_TRY(get_count(shard->path, name, "data_offsets", json_array_get(offsets, 0), &tensor->begin));
    EPG_TRY(get_count(shard->path, name, "data_offsets", json_array_get(offsets, 1), &tensor->end));
    if (tensor->begin > tensor->end || tensor->end > shard->data_bytes)
        return epg__fail(EPG_ERR_FORMAT,
                         "%s: tensor %s: data_offsets are [%" PRIu64 ", %" PRIu64 "], the file has %zu bytes of data",
                         shard->path, name, tensor->begin, tensor->end, shard->data_bytes);
    if (tensor->end - tensor->begin != bytes)
        return epg__fail(EPG_ERR_FORMAT,
                         "%s: tensor %s: data_offsets hold %" PRIu64 " bytes, its shape and dtype need %" PRIu64,
                         shard->path, name, tensor->end - tensor->begin, bytes);
    return EPG_OK;
}

static epg_status parse_tensor(const epg__shard *shard, const char *name, const json_t *entry, epg__tensor *tensor)
{
    uint64_t bytes = 0;
    if (!json_is_object(entry))
        return epg__fail(EPG_ERR_FORMAT, "%s: tensor %s is %s, not an object", shard->path, name,
                         epg__json_kind(entry));
    EPG_TRY(parse_dtype(shard->path, name, entry, tensor));
    EPG_TRY(parse_shape(shard->path, name, entry, tensor, &bytes));
    return parse_offsets(shard, name, entry, tensor, bytes);
}

static epg_status add_tensor(epg__tensor_list *list, const epg__tensor *tensor, const char *name)
{
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 64;
        epg__tensor *at = epg__grow(list->at, room, sizeof *at, "a table of tensors");
        if (!at)
            return EPG_ERR_NO_MEMORY;
        list->at = at;
        list->room = room;
    }
    list->at[list->count] = *tensor;
    list->at[list->count].name = epg__strdup(name);
    if (!list->at[list->count].name)
        return EPG_ERR_NO_MEMORY;
    list->count++;
    return EPG_OK;
}

static int by_begin(const void *left, const void *right)
{
    const epg__tensor *a = left, *b = right;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return a->end < b->end ? -1 : a->end > b->end;
}

/* A lie that survives the other checks shows here: two tensors on the same bytes, or bytes that belong to none. */
static epg_status check_cover(const epg__shard *shard, epg__tensor *at, size_t count)
{
    uint64_t end = 0;
    qsort(at, count, sizeof *at, by_begin);
    for (size_t i = 0; i < count; i++) {
        if (at[i].begin < end)
            return epg__fail(EPG_ERR_FORMAT,
                             "%s: tensor %s starts at byte %" PRIu64 ", inside tensor %s, which ends at %" PRIu64,
                             shard->path, at[i].name, at[i].begin, at[i - 1].name, end);
        if (at[i].begin > end)
            return epg__fail(EPG_ERR_FORMAT,
                             "%s: tensor %s starts at byte %" PRIu64 ", but the one before it ends at %" PRIu64,
                             shard->path, at[i].name, at[i].begin, end);
        end = at[i].end;
    }
    if (end != shard->data_bytes)
        return epg__fail(EPG_ERR_FORMAT, "%s: the tensors end at byte %" PRIu64 " of %zu", shard->path, end,
                         shard->data_bytes);
    return EPG_OK;
}

static epg_status parse_entries(const epg__shard *shard, uint32_t index, json_t *root, epg__tensor_list *list)
{
    size_t first = list->count;
    const char *name;
    json_t *entry;
    json_object_foreach(root, name, entry) {
        epg__tensor tensor = {0};
        if (strcmp(name, "__metadata__") == 0)
            continue;
        tensor.shard = index;
        EPG_TRY(parse_tensor(shard, name, entry, &tensor));
        EPG_TRY(add_tensor(list, &tensor, name));
    }
    return list->count == first ? check_cover(shard, NULL, 0)
                                : check_cover(shard, list->at + first, list->count - first);
}

epg_status epg__shard_open(const char *path, uint32_t index, epg__shard *shard, epg__tensor_list *list)
{
    epg_status status;
    json_t *root;
    memset(shard, 0, sizeof *shard);
    shard->path = epg__strdup(path);
    if (!shard->path)
        return EPG_ERR_NO_MEMORY;
    EPG_TRY_GOTO(map_file(path, shard), close);
    EPG_TRY_GOTO(parse_header(shard, &root), close);
    status = parse_entries(shard, index, root, list);
    json_decref(root);
    if (status == EPG_OK)
        return EPG_OK;
close:
    epg__shard_close(shard);
    return status;
}

void epg__shard_close(epg__shard *shard)
{
    if (shard->map)
        munmap(shard->map, shard->bytes);
    free(shard->path);
    memset(shard, 0, sizeof *shard);
}
