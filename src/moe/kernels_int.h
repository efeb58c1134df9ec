/* The host kernels of the MoE model. Each takes one struct of arguments, which the launch copies.
 *
 * Every kernel computes a token's row from that row alone, in an order that is fixed: it is batch-invariant. Token
 * counts are read from device memory when the kernel runs, so a captured launch serves any count up to its bucket;
 * rows at and beyond the count are left alone. */
#ifndef EPG_KERNELS_INT_H
#define EPG_KERNELS_INT_H

#include "epgraph/group.h"
#include "moe/gemm_tile_int.h"

/* Which rows a kernel works on. */
typedef struct epg__rows {
    const uint32_t *tokens;  /* NULL: bucket */
    uint32_t bucket;         /* the most, whatever tokens says */
    uint32_t hidden;
    epg_dtype type;          /* of all rows in and out */
} epg__rows;

/* Blocks of EPG__GEMM_ROWS float32 rows between a kernel's products; one lane's kernels use them one after the other.
 */
typedef struct epg__blocks {
    float *in;      /* [hidden] */
    float *pair;    /* [2 * intermediate] gate, then up */
    float *inner;   /* [intermediate] */
    float *out;     /* [hidden] */
    float *logits;  /* [max(vocab, experts)] */
} epg__blocks;

typedef struct epg__embed_args {
    epg__rows rows;
    const int32_t *ids;
    uint32_t *bad_ids;       /* counted atomically */
    uint32_t vocab;
    const float *embedding;
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
    const float *router;     /* [experts][hidden] */
    epg__gemm gemm;
    uint32_t experts, topk;
    int renormalise;
    epg__blocks blocks;
    int32_t *ids;            /* [bucket][topk] */
    float *weights;          /* [bucket][topk] */
} epg__gate_args;

/* out[p] = down(silu(gate(x)) * up(x)) for every position p of the view. The top-k weight is combine's to apply. */
typedef struct epg__experts_args {
    epg_dispatch_view view;
    uint32_t hidden, intermediate;
    epg_dtype type;
    const float *gate_up;    /* [local experts][2 * intermediate][hidden] */
    const float *down;       /* [local experts][hidden][intermediate] */
    epg__gemm gemm_up, gemm_down;
    epg__blocks blocks;
    void *out;               /* [row_capacity][hidden] */
} epg__experts_args;

/* out = in + add, in float32; out may be in. */
typedef struct epg__residual_args {
    epg__rows rows;
    const void *in, *add;
    void *out;
} epg__residual_args;

typedef struct epg__head_args {
    epg__rows rows;
    const void *in;
    const float *head;       /* [vocab][hidden] */
    epg__gemm gemm;
    epg__blocks blocks;
    int32_t *next_ids;
} epg__head_args;

void epg__embed_run(const void *args);
void epg__norm_run(const void *args);
void epg__gate_run(const void *args);
void epg__experts_run(const void *args);
void epg__residual_run(const void *args);
void epg__head_run(const void *args);

#endif
