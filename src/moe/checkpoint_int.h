/* Checkpoints, inside src/moe: mapped safetensors files, the table of their tensors, and the names of a model's
 * tensors. */
#ifndef EPG_CHECKPOINT_INT_H
#define EPG_CHECKPOINT_INT_H

#include "epgraph/moe.h"

enum { EPG__SHAPE_MAX = 8 };

/* One mapped file. */
typedef struct epg__shard {
    char *path;
    void *map;
    size_t bytes;
    const unsigned char *data;  /* behind the header */
    size_t data_bytes;
} epg__shard;

/* One tensor: checked against its file when the file was opened, so that reading needs no further check of offsets. */
typedef struct epg__tensor {
    char *name;
    uint32_t shard;
    uint32_t dtype;             /* index into the table of epg__dtype_name */
    uint32_t dims;
    uint64_t shape[EPG__SHAPE_MAX];
    uint64_t begin, end;        /* in the file's data */
} epg__tensor;

typedef struct epg__tensor_list {
    epg__tensor *at;
    size_t count, room;
} epg__tensor_list;

struct epg_checkpoint {
    char *directory;
    epg_moe_shape shape;
    epg_tensor_type type;
    epg__shard *shards;
    uint32_t shard_count;
    epg__tensor_list tensors;   /* sorted by name once open */
};

/* The header formats: what a file calls its types. 1 if it is one that weights may have, with *type set. */
const char *epg__dtype_name(uint32_t dtype);
int epg__dtype_is_weight(uint32_t dtype, epg_tensor_type *type);

/* Maps a safetensors file, checks its header whole and appends its tensors to the list. On failure the shard is
 * closed and the list may hold tensors of it; the caller frees the list as ever. */
epg_status epg__shard_open(const char *path, uint32_t index, epg__shard *shard, epg__tensor_list *list);
void epg__shard_close(epg__shard *shard);

/* Reads a file of JSON; *root is a json_t object. EPG_ERR_NOT_FOUND if there is no such file. */
struct json_t;
epg_status epg__json_read(const char *path, struct json_t **root);
const char *epg__json_kind(const struct json_t *value); /* "a string": for messages */

/* config.json into a shape. */
epg_status epg__config_read(const char *path, epg_moe_shape *shape);

/* EPG_ERR_INVALID names the field that no model could have. */
epg_status epg__shape_check(const epg_moe_shape *shape);

/* "directory/name", to be freed; NULL without memory. */
char *epg__path_join(const char *directory, const char *name);

/* Names of a model's tensors, written once for reader and writer. `name` holds EPG__NAME_BYTES. */
enum { EPG__NAME_BYTES = 128 };
typedef enum epg__weight {
    EPG__WEIGHT_EMBEDDING,
    EPG__WEIGHT_LAYER_NORM,
    EPG__WEIGHT_ROUTER,
    EPG__WEIGHT_GATE,
    EPG__WEIGHT_UP,
    EPG__WEIGHT_DOWN,
    EPG__WEIGHT_FINAL_NORM,
    EPG__WEIGHT_HEAD
} epg__weight;

/* Where a weight is and what shape it has; a vector has rows 1. */
typedef struct epg__weight_info {
    char name[EPG__NAME_BYTES];
    uint64_t rows, columns;
    int vector;
} epg__weight_info;
void epg__weight_describe(const epg_moe_shape *shape, epg__weight weight, uint32_t layer, uint32_t expert,
                          epg__weight_info *info);

/* Reads a whole weight, of exactly this shape, as float32 or bf16 into out; a tensor of another type is rounded to
 * bf16. A tensor without a value other than 0 is EPG_ERR_FORMAT. */
epg_status epg__weight_read(const epg_checkpoint *checkpoint, epg__weight weight, uint32_t layer, uint32_t expert,
                            epg_dtype type, void *out);

#endif
