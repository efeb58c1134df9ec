/* What the CUDA kernels of a lane are given, for C and CUDA alike: the launchers' prototypes and their one parameter
 * struct, which holds nothing that changes from pair to pair but the caller's addresses. */
#ifndef EPG_LANE_CUDA_INT_H
#define EPG_LANE_CUDA_INT_H

#include "device/cuda_kernel_int.h"
#include "ep/lane_state_int.h"
#include "ep/wire.h"
#include "epgraph/group.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The host's view of a lane (epg__lane) as its kernels see it: every pointer is device memory but record and aborted,
 * which are mapped memory, so that the host reads the one and writes the other without touching a stream. */
typedef struct epg__cuda_lane {
    epg_wire_layout wire;
    uint32_t number, rank, ranks, local_experts;
    uint32_t incarnation;        /* of this rank; stamped into its signals */
    uint32_t layout, row_align, rows_per_expert, row_capacity, fan;
    uint64_t timeout_ns;
    char *own;                   /* this rank's region */
    void *const *peers;          /* [ranks] */
    const int32_t *expert_map;
    epg__pair_state *pair;
    uint32_t *entering;          /* [1] entries in use */
    epg__entry *entries;         /* [ranks] */
    uint32_t *flags, *share_count;
    epg__share *shares;
    uint32_t *sent, *received, *returned, *place;
    uint32_t *offsets, *counts, *total;
    uint32_t *row_index, *row_source, *row_token;
    float *row_weight;
    char *expert_rows, *expert_scales;
    epg__scale_place scale_place;
    uint32_t *chosen;            /* [max_tokens][topk] physical expert of each choice, EPG_WIRE_NONE: none */
    epg__share *routed;          /* [max_tokens][fan] shares, before the chunk's first slots are known */
    uint32_t *bad_ids;           /* [EPG_CUDA_CHUNKS][2] of a chunk of tokens: how many are bad, and the first */
    uint32_t *scratch;           /* tables of the kernels, one kernel's at a time but for those that hand one on */
    uint32_t *done;              /* [1] blocks of a kernel that are through; 0 between kernels */
    epg_wire_record *record;
    const uint32_t *aborted;
} epg__cuda_lane;

/* Most threads of the kernels that are one block. */
#define EPG_CUDA_WARPS 32u
#define EPG_CUDA_BLOCK (EPG_CUDA_WARPS * 32u)
/* High-throughput mode: chunks of tokens that are routed; blocks that place rows, their warps, and the most experts of
 * a rank for that, since each warp has two words for each of them in shared memory. */
#define EPG_CUDA_CHUNKS 256u
#define EPG_CUDA_PLACERS 128u
#define EPG_CUDA_PLACER_WARPS 8u
#define EPG_CUDA_PLACED_EXPERTS 1024u

/* One struct for all kernels; each reads what it needs. */
typedef struct epg__cuda_params {
    epg__cuda_lane lane;
    epg_dispatch_args user;      /* dispatch send; bucket: of the open pair, for all */
    uint32_t is_void;
    uint32_t is_ht;              /* dispatch recv: many rows are expected */
    uint32_t chunk_shift;        /* dispatch send: tokens are routed in chunks of 2^this */
    uint32_t parts;              /* a row is worked on in so many pieces, by different blocks */
    uint32_t shared_words;       /* of dynamic shared memory */
    const void *expert_rows;     /* combine send */
    void *out;                   /* combine recv */
} epg__cuda_params;

/* For the kernels of joining again: one lane is told of members first .. first + count - 1. */
#define EPG_CUDA_MEMBERS 256u
typedef struct epg__cuda_admission {
    epg__cuda_lane lane;
    uint32_t epoch;              /* the first of those that join */
    uint32_t joins;              /* this rank is one of them */
    uint32_t first, count;
    epg_member members[EPG_CUDA_MEMBERS];
} epg__cuda_admission;

/* What a device offers, read once per group. */
typedef struct epg__cuda_shape {
    uint32_t units;              /* multiprocessors */
    uint32_t sharing;            /* ranks on the device */
    int dependent;               /* kernels may be launched before the one ahead has ended */
} epg__cuda_shape;

/* The launchers. Each enqueues one half (or, the pair of them, both halves); none allocates or synchronises. */
epg_status epg__cuda_dispatch_send(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                   epg__cuda_params *params);
epg_status epg__cuda_dispatch_recv(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                   epg__cuda_params *params);
epg_status epg__cuda_combine_send(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                  epg__cuda_params *params);
epg_status epg__cuda_combine_recv(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                  epg__cuda_params *params);

/* Dispatch send for few tokens, of ranks up to 32; fits says whether the shapes allow it. */
int epg__cuda_send_few_fits(const epg__cuda_lane *lane, uint32_t bucket);
epg_status epg__cuda_send_few(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                              epg__cuda_params *params);

/* Both halves in one kernel, for a team of one rank; fits says whether the shapes allow it. */
int epg__cuda_local_dispatch_fits(const epg__cuda_lane *lane, uint32_t bucket);
epg_status epg__cuda_local_dispatch(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                    epg__cuda_params *params);
epg_status epg__cuda_local_combine(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                   epg__cuda_params *params);

/* A word of this rank's region, in stream order: stored, or raised where it is less. */
typedef struct epg__cuda_word {
    uint32_t *word;
    uint32_t value;
} epg__cuda_word;
epg_status epg__cuda_store_word(epg_device *device, epg_stream stream, const epg__cuda_word *word);
epg_status epg__cuda_raise_word(epg_device *device, epg_stream stream, const epg__cuda_word *word);

/* Joining again. The first puts this rank's region in the state of a place that was taken anew; of an admission's two
 * the second is for a rank that joins, once all lanes were told of all members. */
epg_status epg__cuda_clean_place(epg_device *device, epg_stream stream, const epg__cuda_admission *admission);
epg_status epg__cuda_note_members(epg_device *device, epg_stream stream, const epg__cuda_admission *admission);
epg_status epg__cuda_await_invitations(epg_device *device, epg_stream stream, const epg__cuda_admission *admission);

/* ---- launch_cuda.c ---- */

/* For a kernel whose warps each take a row, or a part of one, at a time: params->parts is chosen here. */
typedef struct epg__cuda_rows {
    const void *kernel;
    const char *name;
    uint64_t rows;
    size_t bytes;         /* of a row */
    uint32_t parts;       /* at most, of few rows */
    uint32_t per_unit;    /* blocks that one multiprocessor holds at once; 0: that many rows do come */
    uint32_t at_once;     /* pieces that a warp has under way at once, and has no more of; 0: it may have any number */
} epg__cuda_rows;
epg_status epg__cuda_launch_rows(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                 const epg__cuda_rows *rows, epg__cuda_params *params);

/* For a kernel whose blocks each take a token, or a part of one: params->parts is chosen here. */
typedef struct epg__cuda_tokens {
    const void *kernel;
    const char *name;
    uint32_t pieces;      /* of a row; a thread works on one at a time */
    uint32_t unit;        /* pieces that one block must have together */
    uint32_t per_thread;  /* most pieces of a thread; 0: any number */
    uint32_t more;        /* further blocks */
} epg__cuda_tokens;
epg_status epg__cuda_launch_tokens(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                   const epg__cuda_tokens *tokens, epg__cuda_params *params);

/* For a kernel with a table of words in shared memory; where it does not fit there, params->shared_words is 0 and the
 * table lies in the lane's scratch memory. */
#define EPG_CUDA_TABLE_BYTES (64 * 1024)
typedef struct epg__cuda_table {
    uint32_t rows, columns;
} epg__cuda_table;
epg_status epg__cuda_launch_table(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                  const void *kernel, const char *name, uint32_t blocks, uint32_t threads,
                                  epg__cuda_table table, epg__cuda_params *params);

/* Threads for that much work: whole warps, within `least` and the most a block may have. */
uint32_t epg__cuda_block_for(uint64_t threads, uint32_t least);

/* Loads every kernel, so that no first launch does. At creation. */
epg_status epg__cuda_send_prepare(epg_device *device);
epg_status epg__cuda_recv_prepare(epg_device *device);
epg_status epg__cuda_combine_prepare(epg_device *device);
epg_status epg__cuda_local_prepare(epg_device *device);
epg_status epg__cuda_local_combine_prepare(epg_device *device);
epg_status epg__cuda_admit_prepare(epg_device *device);
epg_status epg__cuda_few_prepare(epg_device *device);

#ifdef __cplusplus
}
#endif
#endif
