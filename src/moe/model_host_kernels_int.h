/* The host's kernels of the MoE model. Each takes one struct of arguments, which the launch copies: what every device
 * is given, and what this one has chosen for it. */
#ifndef EPG_MODEL_HOST_KERNELS_INT_H
#define EPG_MODEL_HOST_KERNELS_INT_H

#include "moe/gemm_tile_int.h"
#include "moe/model_ops.h"

/* Blocks of EPG__GEMM_ROWS float32 rows between a kernel's products; one lane's kernels use them one after the other.
 */
typedef struct epg__blocks {
    float *in;      /* [hidden] */
    float *logits;  /* [max(vocab, experts)] */
} epg__blocks;

typedef struct epg__host_gate {
    epg__gate_args user;
    epg__gemm gemm;
    epg__blocks blocks;
} epg__host_gate;

typedef struct epg__host_head {
    epg__head_args user;
    epg__gemm gemm;
    epg__blocks blocks;
} epg__host_head;

typedef struct epg__host_experts {
    epg_dispatch_view view;
    epg_experts_options shape;
    epg__gemm gemm_up, gemm_down;
    const void *gate_up, *down;
    void *out;
    float *in;      /* [EPG__GEMM_ROWS][hidden], as are the next three, but for their width: */
    float *pair;    /* 2 * intermediate: gate, then up */
    float *inner;   /* intermediate */
    float *result;  /* hidden */
    float *wide;    /* one expert's gate_up or down as float32; NULL: they are float32 */
} epg__host_experts;

void epg__embed_run(const void *args);      /* epg__embed_args */
void epg__norm_run(const void *args);       /* epg__norm_args */
void epg__gate_run(const void *args);
void epg__experts_run(const void *args);
void epg__residual_run(const void *args);   /* epg__residual_args */
void epg__head_run(const void *args);

#endif
