/* What the CUDA kernels of models and experts are given, for C and CUDA alike. No launcher allocates or synchronises;
 * all may run during capture once the kernels are prepared. */
#ifndef EPG_MOE_CUDA_INT_H
#define EPG_MOE_CUDA_INT_H

#include "device/cuda_kernel_int.h"
#include "moe/model_ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a device offers, read once per handle. */
typedef struct epg__moe_launch {
    uint32_t units;
    int dependent;                /* kernels may be launched before the one ahead has ended */
} epg__moe_launch;

/* ---- products: rows times the transposed weights of their group ---- */

typedef enum epg__product_kind {
    EPG__PRODUCT_ROWS,            /* out[p][m], of the row type */
    EPG__PRODUCT_GATED,           /* out[p][m / 2] = silu(first half) * second half, of the row type */
    EPG__PRODUCT_BEST             /* best[p] = the largest, as epg__best_key; only raised, so it starts at 0 */
} epg__product_kind;
enum { EPG__PRODUCT_KINDS = 3 };

/* Positions p of group g run from offsets[g] to offsets[g] + min(counts[g], limit) - 1. */
typedef struct epg__product {
    const void *rows;             /* position p is row row_index[p]; [k] each */
    const uint32_t *row_index;    /* NULL: row p */
    const uint32_t *offsets;      /* NULL: 0, for one group */
    const uint32_t *counts;       /* NULL: limit */
    uint32_t limit, groups;
    uint32_t m, k;                /* GATED: m even */
    const void *weights;          /* [groups][m][k] */
    void *out;
    uint64_t *best;
} epg__product;

/* Kernels for one pair of types, chosen at creation. */
typedef struct epg__product_kernels {
    epg_status (*launch)(epg_device *device, epg_stream stream, const struct epg__product_kernels *self,
                         epg__product_kind kind, const epg__product *product);
    const void *kernel[EPG__PRODUCT_KINDS];
    const char *name[EPG__PRODUCT_KINDS];
    uint32_t blocks[EPG__PRODUCT_KINDS];       /* that the device holds at once */
    int dependent;
} epg__product_kernels;

/* Any types, any shape: sums in float32, piece by piece in the order of k. */
epg_status epg__product_plain(epg_device *device, epg_dtype row_type, epg_dtype weight_type,
                              epg__product_kernels *kernels);

/* bf16 rows and weights on tensor cores, at most so many groups. k is a multiple of 8, as is the width of what is
 * written but for BEST. A row's bits do not depend on how many rows there are: every tile has one instruction and one
 * order of k.
 */
#define EPG__PRODUCT_GROUPS 1024u /* a table of them lies in shared memory */
epg_status epg__product_mma(epg_device *device, uint32_t groups, epg__product_kernels *kernels);

/* ---- rows ---- */

epg_status epg__moe_prepare(epg_device *device, epg__moe_launch *shape);
epg_status epg__cuda_embed(epg_device *device, epg_stream stream, const epg__moe_launch *shape, epg_dtype weight_type,
                           const epg__embed_args *args);
epg_status epg__cuda_norm(epg_device *device, epg_stream stream, const epg__moe_launch *shape,
                          const epg__norm_args *args);
epg_status epg__cuda_residual(epg_device *device, epg_stream stream, const epg__moe_launch *shape,
                              const epg__residual_args *args);

/* scratch: epg__gate_scratch bytes, zeroed once: kernels leave what must be zero as they found it. */
size_t epg__gate_scratch(uint32_t max_tokens, uint32_t experts);
epg_status epg__cuda_gate(epg_device *device, epg_stream stream, const epg__moe_launch *shape, epg_dtype weight_type,
                          const epg__gate_args *args);

/* next_ids[t] from best[t], which is 0 again after it. */
typedef struct epg__take_args {
    epg__rows rows;
    uint64_t *best;
    int32_t *next_ids;
} epg__take_args;
epg_status epg__cuda_take_best(epg_device *device, epg_stream stream, const epg__moe_launch *shape,
                               const epg__take_args *args);

#ifdef __cplusplus
}
#endif
#endif
