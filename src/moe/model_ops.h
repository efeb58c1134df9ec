/* The tables behind models and experts, one of each per kind of device, chosen when a handle is created. model.c and
 * experts.c keep the order of enqueues and call through them.
 *
 * What enqueues may run during capture. Every kernel computes a token's row from that row alone, in an order that is
 * fixed: it is batch-invariant. Token counts are read from device memory when the kernel runs, so a captured launch
 * serves any count up to its bucket; rows at and beyond the count are left alone. */
#ifndef EPG_MODEL_OPS_H
#define EPG_MODEL_OPS_H

#include "epgraph/experts.h"
#include "epgraph/moe.h"

static inline size_t epg__dtype_bytes(epg_dtype type) { return type == EPG_FLOAT32 ? 4 : 2; }

/* Which rows a kernel works on. */
typedef struct epg__rows {
    const uint32_t *tokens;  /* NULL: bucket */
    uint32_t bucket;         /* the most, whatever tokens says */
    uint32_t hidden;
    epg_dtype type;          /* of all rows in and out */
} epg__rows;

/* Weights are of the model's weight_type, but norms, which are float32. */
typedef struct epg__embed_args {
    epg__rows rows;
    const int32_t *ids;
    uint32_t *bad_ids;       /* counted atomically */
    uint32_t vocab;
    const void *embedding;   /* [vocab][hidden] */
    void *out;
} epg__embed_args;

/* out = in / sqrt(mean(in^2) + eps) * weight */
typedef struct epg__norm_args {
    epg__rows rows;
    const void *in;
    const float *weight;
    float eps;
    void *out;
} epg__norm_args;

/* Softmax over all experts in float32, then the topk largest, ties to the lower id, in falling order. */
typedef struct epg__gate_args {
    epg__rows rows;
    const void *in;
    const void *router;      /* [experts][hidden] */
    uint32_t experts, topk;
    uint32_t max_tokens;     /* that scratch is for */
    int renormalise;
    void *scratch;           /* the lane's */
    int32_t *ids;            /* [bucket][topk] */
    float *weights;          /* [bucket][topk] */
} epg__gate_args;

/* out = in + add, in float32; out may be in. */
typedef struct epg__residual_args {
    epg__rows rows;
    const void *in, *add;
    void *out;
} epg__residual_args;

/* next_ids[t] is the index of the largest product of row t with a row of head, ties to the lower. */
typedef struct epg__head_args {
    epg__rows rows;
    const void *in;
    const void *head;        /* [vocab][hidden] */
    uint32_t vocab;
    void *scratch;           /* the lane's */
    int32_t *next_ids;
} epg__head_args;

typedef struct epg__model_kernels {
    /* What weights are kept as, for rows of one type and a checkpoint of another. */
    epg_dtype (*weight_type)(epg_dtype row_type, epg_tensor_type checkpoint);

    /* Once shape and limits are set, and at the end (also after a create that failed, or was never called). */
    epg_status (*create)(epg_model *model);
    void (*destroy)(epg_model *model);
    size_t (*scratch_bytes)(const epg_model *model);     /* that a lane's gate and head need between kernels */

    epg_status (*embed)(epg_model *model, const epg__embed_args *args, epg_stream stream);
    epg_status (*norm)(epg_model *model, const epg__norm_args *args, epg_stream stream);
    epg_status (*gate)(epg_model *model, const epg__gate_args *args, epg_stream stream);
    epg_status (*residual)(epg_model *model, const epg__residual_args *args, epg_stream stream);
    epg_status (*head)(epg_model *model, const epg__head_args *args, epg_stream stream);
} epg__model_kernels;

typedef struct epg__experts_kernels {
    epg_status (*create)(epg_experts *experts);          /* options are set and checked */
    void (*destroy)(epg_experts *experts);               /* also after a create that failed */
    size_t (*workspace)(const epg_experts *experts, uint32_t row_capacity);
    epg_status (*run)(const epg_experts *experts, const epg_experts_args *args, epg_stream stream);
} epg__experts_kernels;

struct epg_experts {
    epg_device *device;
    epg_experts_options options;
    const epg__experts_kernels *kernels;
    void *kernels_state;                /* theirs */
};

extern const epg__model_kernels epg__model_kernels_host;
extern const epg__model_kernels epg__model_kernels_cuda;     /* in a library built without CUDA: every model */
extern const epg__experts_kernels epg__experts_kernels_host;
extern const epg__experts_kernels epg__experts_kernels_cuda; /* and every handle fails at creation */

#endif
