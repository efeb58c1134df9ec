/* The experts of one rank: gated feed-forward networks on the rows that dispatch hands out, for an engine that has its
 * own weights, or that runs other layers around them.
 *
 *   out[p] = down(silu(gate(x)) * up(x)), x the row at position p, for every position p of a dispatch view
 *
 * Row counts are read on the device when the work runs, so a captured call serves whatever its peers send. The top-k
 * weight is combine's to apply. A row's bits depend on that row and its expert's weights alone: not on its position,
 * its neighbours or how many rows there are. */
#ifndef EPGRAPH_EXPERTS_H
#define EPGRAPH_EXPERTS_H

#include <stddef.h>
#include <stdint.h>
#include "epgraph/group.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct epg_experts epg_experts;

typedef struct epg_experts_options {
    uint32_t size;
    uint32_t local_experts;    /* as in the view */
    uint32_t hidden;           /* elements per row, a multiple of 8 */
    uint32_t intermediate;     /* inner width of an expert */
    epg_dtype row_type;        /* of the view's rows and of out: EPG_FLOAT32 or EPG_BFLOAT16, as the next */
    epg_dtype weight_type;
} epg_experts_options;
#define EPG_EXPERTS_OPTIONS_INIT {sizeof(epg_experts_options), 0, 0, 0, EPG_FLOAT32, EPG_FLOAT32}

/* Chooses the kernels for these shapes and this device. Not during capture. On the host device it may take up to a
 * second for large shapes and sets OpenBLAS to one thread, process-wide, as epg_model_create does. Sums are in float32;
 * on the CUDA device the inner row, silu(gate) * up, is rounded to the row type. */
EPG_API epg_status epg_experts_create(epg_device *device, const epg_experts_options *options, epg_experts **experts);

/* No call that it enqueued may still run. Destroying NULL does nothing. */
EPG_API void epg_experts_destroy(epg_experts *experts);

/* Bytes of workspace that a call needs for views of that row capacity. May run during capture. */
EPG_API epg_status epg_experts_workspace(const epg_experts *experts, uint32_t row_capacity, size_t *bytes);

/* All pointers but `view` are device memory, aligned to 16 bytes, read and written when the work runs. */
typedef struct epg_experts_args {
    uint32_t size;
    const epg_dispatch_view *view; /* copied; local_experts must be the options'. row_stride 0: hidden elements */
    const void *gate_up;           /* [local_experts][2 * intermediate][hidden]: gate's rows, then up's */
    const void *down;              /* [local_experts][hidden][intermediate] */
    void *workspace;               /* may be shared by calls that do not overlap */
    size_t workspace_bytes;
    void *out;                     /* [row_capacity][hidden] of the row type; rows of no position are left alone */
} epg_experts_args;
#define EPG_EXPERTS_ARGS_INIT {sizeof(epg_experts_args), NULL, NULL, NULL, NULL, 0, NULL}

/* Enqueues the experts of one view. May run during capture, allocates nothing and never synchronises. Thread-safe for
 * calls with different workspaces. */
EPG_API epg_status epg_experts_run(epg_experts *experts, const epg_experts_args *args, epg_stream stream);

#ifdef __cplusplus
}
#endif
#endif
