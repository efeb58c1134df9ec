/* Groups: expert-parallel dispatch and combine.
 *
 * A group is one rank's end of the exchange. Each pair is four operations, enqueued in this order in a lane:
 *
 *   dispatch send   every token's row goes once to each rank that owns one of its experts
 *   dispatch recv   waits for the rows of all ranks and hands them to this rank's experts
 *   (the caller's experts run)
 *   combine send    sums, per token and in float32, this rank's expert outputs, and returns one row per token
 *   combine recv    waits for the partial sums of the ranks it sent rows to and adds them in rank order
 *
 * All four may be captured; a captured pair carries nothing that the host chose per pair, so any number of pairs per
 * graph, graphs in any order, and eager pairs between them are valid. Ranks may differ in mode (low-latency or
 * high-throughput), bucket and eager or replay within one pair. Same inputs give the same bits in every such mix.
 *
 * The ranks of a group must run the same number of pairs per lane. One thread at a time per group. */
#ifndef EPGRAPH_GROUP_H
#define EPGRAPH_GROUP_H

#include <stddef.h>
#include <stdint.h>
#include "epgraph/team.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct epg_group epg_group;

#define EPG_TOPK_MAX 32
#define EPG_LANES_MAX 8

/* Row types. Combine's rows (what the experts put out, and what comes back) are float32 in a group of float32 rows, and
 * bf16 in all others: the *combine type*.
 *
 * EPG_FLOAT8_E4M3: rows of fp8 (1 sign, 4 exponent and 3 fraction bits; no infinity, 0x7F is NaN, the largest is 448),
 * with a float32 scale for each block of EPG_SCALE_BLOCK elements (the last may be shorter): an element stands for its
 * fp8 value times its block's scale. The sender quantises its bf16 rows, so that all ranks get the same bytes:
 *
 *   amax    = the largest |x| of the block's finite elements, at least 448 * 2^-126
 *   scale   = amax / 448; with scale_power_of_two, that rounded up to a power of two
 *   inverse = 448 / amax; with scale_power_of_two, 1 / scale
 *   element = x * inverse, rounded to nearest even in fp8, beyond +-448 to +-448
 *
 * in float32, each operation rounded by itself: the same bits on every device. An element that is infinite or NaN
 * becomes NaN (0x7F) and leaves the others of its block alone.
 *
 * EPG_OPAQUE: rows of row_bytes bytes, with scale_bytes bytes of scales beside each, which the library carries and does
 * not look into: for formats that it does not know. */
typedef enum epg_dtype { EPG_FLOAT32 = 0, EPG_BFLOAT16 = 1, EPG_FLOAT8_E4M3 = 2, EPG_OPAQUE = 3 } epg_dtype;
#define EPG_SCALE_BLOCK 128
typedef enum epg_index_type { EPG_INT32 = 0, EPG_INT64 = 1 } epg_index_type;

/* How received rows reach the experts. */
typedef enum epg_layout {
    EPG_LAYOUT_IN_PLACE = 0,    /* rows stay where they arrived; row_index lists them by expert */
    EPG_LAYOUT_CONTIGUOUS = 1,  /* copied expert by expert, each expert's start aligned to row_align rows */
    EPG_LAYOUT_MASKED = 2       /* copied to [local expert][rows_per_expert] with a row count per expert */
} epg_layout;

/* How a view lays out the scales of fp8 rows. In place they stay where they arrived, beside their row: row-major alone.
 * The others are what grouped-GEMM libraries with fp8 blockwise scaling load with TMA (DeepGEMM calls the first
 * "MN-major, TMA-aligned", and the second its "packed UE8M0" form, which needs scale_power_of_two):
 *
 *   row-major      float32 [row][block]
 *   column-major   float32 [block][row], in the masked layout [local expert][block][row]; each column begins at a
 *                  multiple of 16 bytes, 4 rows
 *   packed         as column-major, but a word holds the exponents of four blocks, that of block 4 * w + i in byte i
 *                  (the least significant first) of word w: the scale is 2^(byte - 127). Bytes past the last block
 *                  are 0 */
typedef enum epg_scale_layout {
    EPG_SCALES_ROW_MAJOR = 0,
    EPG_SCALES_COLUMN_MAJOR = 1,
    EPG_SCALES_PACKED = 2
} epg_scale_layout;

/* Low-latency, high-throughput, or chosen by `bucket` against the setting EPGRAPH_LL_MAX_TOKENS. */
typedef enum epg_mode { EPG_MODE_AUTO = 0, EPG_MODE_LL = 1, EPG_MODE_HT = 2 } epg_mode;

/* Every field but layout, row_align, rows_per_expert, max_expert_rows, timeout_ms and scale_layout must agree across
 * ranks: creation compares them and names the one that does not. */
typedef struct epg_group_options {
    uint32_t size;
    uint32_t experts;         /* physical experts over all ranks; divisible by the team's size */
    uint32_t logical_experts; /* ids in top-k; 0: as many as experts. See epg_group_expert_map */
    uint32_t hidden;          /* elements per row, a multiple of 8; of opaque rows: of a row of combine */
    uint32_t topk;            /* experts per token, 1..EPG_TOPK_MAX */
    uint32_t max_tokens;      /* most tokens a rank sends in one pair */
    uint32_t slots;           /* rows held per source rank and bank, 1..max_tokens; 0: max_tokens (none overflows) */
    uint32_t lanes;           /* 1..EPG_LANES_MAX */
    epg_dtype row_type;
    epg_layout layout;
    uint32_t row_align;       /* contiguous layout: a power of two; 0: 1 */
    uint32_t rows_per_expert; /* masked layout: rows kept per local expert; 0: every row that can come */
    uint32_t max_expert_rows; /* other layouts: most rows over all local experts; 0: every row that can come */
    uint32_t timeout_ms;      /* 0: the setting EPGRAPH_TIMEOUT_MS; ranks may differ by a factor of less than 16 */
    uint32_t first_epoch;     /* for tests of the epoch's wrap; 0 else */
    uint32_t scale_power_of_two;   /* fp8: 1: every scale is a power of two */
    epg_scale_layout scale_layout; /* fp8 */
    uint32_t row_bytes;       /* opaque: bytes of a row, 1..EPG_ROW_BYTES_MAX; 0 else */
    uint32_t scale_bytes;     /* opaque: bytes of a row's scales, 0..EPG_ROW_BYTES_MAX; 0 else */
} epg_group_options;
#define EPG_GROUP_OPTIONS_INIT \
    {sizeof(epg_group_options), 0, 0, 0, 0, 0, 0, 1, EPG_FLOAT32, EPG_LAYOUT_IN_PLACE, 0, 0, 0, 0, 0, 0, \
     EPG_SCALES_ROW_MAJOR, 0, 0}
#define EPG_ROW_BYTES_MAX (1u << 22)

/* Collective over the team. Not during capture. The group keeps the team; destroy the group first. EPG_ERR_UNSUPPORTED
 * where a GPU has more ranks than half of CUDA_DEVICE_MAX_CONNECTIONS (epgraph/team.h), or ranks times lanes are more
 * than it can let wait for one another (127 on an H200). */
EPG_API epg_status epg_group_create(epg_team *team, const epg_group_options *options, epg_group **group);

/* Not collective. The streams that ran its operations must be idle; a peer that is still inside a pair with this rank
 * is not harmed. On the CUDA device it frees memory, which waits for kernels of every stream: where a peer on the same
 * GPU is inside a pair, until that has ended or timed out. */
EPG_API void epg_group_destroy(epg_group *group);

/* The options in force (defaults filled in). */
EPG_API epg_status epg_group_get_options(const epg_group *group, epg_group_options *options);
EPG_API epg_team *epg_group_team(const epg_group *group);

/* What one rank's dispatch sends. All pointers are device memory, read when the work runs, not when it is enqueued. On
 * the CUDA device rows, and the rows and outputs given to combine, are aligned to 16 bytes, fp8 scales to 4; opaque
 * rows and scales travel fastest where they are aligned to 16 bytes and multiples of 16. */
typedef struct epg_dispatch_args {
    uint32_t size;
    uint32_t lane;
    epg_mode mode;
    uint32_t bucket;               /* most tokens of this call, 0..max_tokens */
    const uint32_t *tokens;        /* [1] tokens to send; NULL: bucket. Those beyond bucket are dropped and counted */
    const void *rows;              /* [bucket][hidden] of the group's row type; opaque: [bucket][row_bytes]; fp8: of
                                      input_type */
    const void *topk_ids;          /* [bucket][topk] logical expert ids, -1: not routed */
    epg_index_type topk_type;
    const float *topk_weights;     /* [bucket][topk]; NULL: all 1 */
    epg_dtype input_type;          /* fp8: EPG_BFLOAT16: this rank quantises; EPG_FLOAT8_E4M3: rows are fp8, with scales
                                      (powers of two where the group says so). Other groups do not look at it */
    const void *scales;            /* fp8 input: float32 [bucket][blocks]; opaque: [bucket][scale_bytes]; else NULL */
} epg_dispatch_args;
#define EPG_DISPATCH_ARGS_INIT \
    {sizeof(epg_dispatch_args), 0, EPG_MODE_AUTO, 0, NULL, NULL, NULL, EPG_INT32, NULL, EPG_BFLOAT16, NULL}

/* What the experts see: device addresses, fixed for a lane's lifetime (so a captured graph may hold them), whose
 * contents are valid from dispatch recv to this lane's next dispatch send.
 *
 * Row positions p of local expert e run from offsets[e] to offsets[e] + counts[e] - 1, ordered by source rank, then by
 * source token. The expert's output for position p goes to row p of the buffer given to combine.
 *
 * The row of position p is at `rows` + r * row_stride bytes, where r is row_index[p] in place, else p. The scale of its
 * block b (packed: word b / 4) is at
 *   `scales` + e * scale_expert_stride + r * scale_row_stride + b * scale_block_stride bytes
 * where, in the masked layout, r counts from the expert's first row: p - offsets[e]. */
typedef struct epg_dispatch_view {
    uint32_t size;
    uint32_t local_experts;
    uint32_t first_expert;         /* physical id of local expert 0 */
    uint32_t row_capacity;         /* rows of the expert output buffer */
    const void *rows;              /* position p is row row_index[p] in place (of 2 * ranks * slots), row p in the
                                      other layouts (of row_capacity); aligned to 16 bytes, as each row is */
    const uint32_t *row_index;     /* [row_capacity], in-place layout; NULL in the others */
    const uint32_t *offsets;       /* [local_experts + 1] first position of each expert; the last is the end */
    const uint32_t *counts;        /* [local_experts] rows of each expert */
    const uint32_t *total;         /* [1] rows over all experts */
    const uint32_t *row_source;    /* [row_capacity] source rank of position p */
    const uint32_t *row_token;     /* [row_capacity] token index on the source rank */
    const float *row_weight;       /* [row_capacity] top-k weight; combine applies it, so experts must not */
    uint64_t row_stride;           /* bytes; a multiple of 16. Rows without scales, and rows of a multiple of 16 bytes
                                      that are not in place, follow each other without a gap */
    const void *scales;            /* of fp8 rows, as scale_layout says, and of opaque rows; NULL: there are none */
    uint64_t scale_expert_stride;  /* bytes; 0 but in the masked layout */
    uint64_t scale_row_stride;     /* bytes; of row-major and opaque scales a multiple of 16 */
    uint64_t scale_block_stride;   /* bytes; of column-major and packed scales a multiple of 16; opaque: 1 */
} epg_dispatch_view;
#define EPG_DISPATCH_VIEW_INIT \
    {sizeof(epg_dispatch_view), 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, 0, 0, 0}

/* Enqueue on `stream`. Each may run during capture, allocates nothing and never synchronises. An operation out of its
 * order in the lane is EPG_ERR_STATE and enqueues nothing.
 *
 * combine recv writes out[t][hidden] (combine type) for every t below the pair's token count and leaves the rest alone;
 * a token without a live expert gets zeros. expert_rows is [row_capacity][hidden] of the combine type, read by combine
 * send. */
EPG_API epg_status epg_dispatch_send(epg_group *group, const epg_dispatch_args *args, epg_stream stream);
EPG_API epg_status epg_dispatch_recv(epg_group *group, uint32_t lane, epg_dispatch_view *view, epg_stream stream);
EPG_API epg_status epg_combine_send(epg_group *group, uint32_t lane, const void *expert_rows, epg_stream stream);
EPG_API epg_status epg_combine_recv(epg_group *group, uint32_t lane, void *out, epg_stream stream);

/* Send and recv in one call. */
EPG_API epg_status epg_dispatch(epg_group *group, const epg_dispatch_args *args, epg_dispatch_view *view,
                                epg_stream stream);
EPG_API epg_status epg_combine(epg_group *group, uint32_t lane, const void *expert_rows, void *out, epg_stream stream);

/* Ends a pair broken between its halves: the operations still missing are enqueued in a void form, peers get void
 * signals and go on, and tokens that wanted this rank's experts are flagged there. Where the pair was opened in a
 * capture that has ended or failed meanwhile, nothing ran: only the order is put back. EPG_OK with nothing done if no
 * pair is open. */
EPG_API epg_status epg_pair_abandon(epg_group *group, uint32_t lane, epg_stream stream);

/* The view a lane's dispatch recv would return: for sizing buffers before the first pair. May run during capture. */
EPG_API epg_status epg_group_view(epg_group *group, uint32_t lane, epg_dispatch_view *view);

/* Runs the experts of one pair on the rows in `view`, enqueued on `stream`; *expert_rows is the output buffer. */
typedef epg_status (*epg_experts_fn)(void *ctx, uint32_t index, const epg_dispatch_view *view, epg_stream stream,
                                     const void **expert_rows);

/* Enqueues `pairs` whole pairs in which this rank sends no tokens, so that a lane runs as many pairs here as
 * elsewhere. Rows that peers send are given to `experts`; where it is NULL they are answered void, which flags them
 * at their owners. */
EPG_API epg_status epg_group_fill(epg_group *group, uint32_t lane, uint32_t pairs, epg_experts_fn experts, void *ctx,
                                  epg_stream stream);

/* Rehearsal: while on, in stream order, the group's operations send nothing, wait for nothing and leave the epoch
 * alone; views are empty. The runner's warm-ups use it. Must not be captured (EPG_ERR_STATE). */
EPG_API epg_status epg_group_rehearse(epg_group *group, int on, epg_stream stream);

/* Device arrays that a caller may read or write in stream order:
 *   expert map   [logical_experts] physical id of each logical expert, -1: nowhere; identity at creation; may change
 *                between replays
 *   flags        [max_tokens] of a lane: after combine recv, 1 where token t lacks a share (a masked, void
 *                or overflowed one) */
EPG_API epg_status epg_group_expert_map(epg_group *group, int32_t **map);
EPG_API epg_status epg_group_flags(epg_group *group, uint32_t lane, const uint32_t **flags);

/* ---- failures ---- */

typedef enum epg_operation {
    EPG_OP_NONE = 0,
    EPG_OP_DISPATCH_SEND = 1,
    EPG_OP_DISPATCH_RECV = 2,
    EPG_OP_COMBINE_SEND = 3,
    EPG_OP_COMBINE_RECV = 4,
    EPG_OP_JOIN = 5             /* epg_group_admit */
} epg_operation;

/* The first failure of this rank's device work: the first cause, not what followed from it. */
typedef struct epg_group_record {
    uint32_t size;
    epg_status status;        /* EPG_OK: nothing failed. Else EPG_ERR_TIMEOUT, ABORTED, MASKED, GONE, PAIRS, ROUTING,
                                 OVERFLOW or STATE */
    epg_operation operation;
    uint32_t lane;
    uint32_t epoch;
    uint32_t peer;            /* the rank waited for */
    uint64_t expected;        /* the signal's epoch; ROUTING: the number of logical experts; OVERFLOW: the capacity */
    uint64_t seen;            /* the epoch last seen there; ROUTING: the id, sign-extended; OVERFLOW: the rows that
                                 came */
    uint64_t time_ns;         /* on the device's clock */
} epg_group_record;
#define EPG_GROUP_RECORD_INIT {sizeof(epg_group_record), EPG_OK, EPG_OP_NONE, 0, 0, 0, 0, 0, 0}

/* Reads the record without waiting; from any thread. Returns its status, with a sentence in epg_message(). */
EPG_API epg_status epg_group_check(epg_group *group, epg_group_record *record);

/* Forgets the record (not the mask), so that the next failure is recorded. */
EPG_API epg_status epg_group_clear_record(epg_group *group);

/* 1 while the rank takes part in every lane, 0 from when it is masked until it has joined again in all of them. Masking
 * is local to this rank: epg_group_mask does by hand what an expired wait does. It masks the life of that rank that was
 * admitted last, and those before. */
EPG_API epg_status epg_group_alive(epg_group *group, uint32_t rank, int *alive);
EPG_API epg_status epg_group_mask(epg_group *group, uint32_t rank);

/* ---- joining again ----
 *
 * A rank that was lost comes back as a later incarnation of itself, on the same place in the team:
 *
 *   it:         epg_team_rejoin, epg_group_join, then a step report with `join` set
 *   all ranks:  the plan of that step names the epochs; epg_group_admit with epg_stepper_admission's answer
 *   the others: this step's pairs, still without it
 *   all ranks:  the next step's pairs, it among them; graphs captured before take it back as they are */

typedef enum epg_member_state {
    EPG_MEMBER_GONE = 0,      /* takes no part */
    EPG_MEMBER_STAYS = 1,     /* has taken part and goes on */
    EPG_MEMBER_JOINS = 2      /* takes part from the admission's epochs on */
} epg_member_state;

typedef struct epg_member {
    uint32_t incarnation;
    uint32_t state;           /* epg_member_state */
} epg_member;

/* Who takes part from which epochs on; the same on every rank. */
typedef struct epg_admission {
    uint32_t size;
    uint32_t ranks;           /* the team's size */
    const epg_member *members;/* [ranks] */
    const uint32_t *epochs;   /* [lanes] the first epoch of those that join */
} epg_admission;
#define EPG_ADMISSION_INIT {sizeof(epg_admission), 0, NULL, NULL}

/* A new group on the place, and with the options, of one that was lost with an earlier incarnation of this rank; groups
 * are joined in the order in which they were created. Where it fails, retire the place and take it anew. Not
 * collective, not during capture. Its region is clean on return, so report `join` after it. Until epg_group_admit it
 * can rehearse and capture, and nothing else: an eager operation is EPG_ERR_STATE, a replay a rehearsal that leaves a
 * record of EPG_ERR_STATE. The group of the life before is still to be destroyed: on a GPU when no step is in flight,
 * since freeing memory waits there for kernels of other streams, which may wait for this rank. */
EPG_API epg_status epg_group_join(epg_team *team, const epg_group_options *options, epg_group **group);

/* Enqueues the admission on `stream`: after the earlier pairs of all lanes and before all later ones, with no pair
 * open, not captured; ahead of the epochs by any number of pairs. `admission` is copied.
 *
 * Where this rank stays: masks what is gone, with every earlier incarnation of those that join, and takes these in when
 * each lane comes to its epoch. A lane that is past it leaves a record of EPG_ERR_PAIRS with the operation "join", and
 * the rank stays masked. Where this rank joins: takes epochs, masks and incarnations from the admission and waits,
 * bounded, until every rank that stays has ended the pairs whose memory it is about to write. */
EPG_API epg_status epg_group_admit(epg_group *group, const epg_admission *admission, epg_stream stream);

typedef struct epg_group_stats {
    uint32_t size;
    uint64_t issued;            /* operations enqueued by the host, eager and captured */
    uint64_t captured;          /* of those, captured */
    uint64_t cleans;            /* times the group zeroed its signals: once, at creation */
    uint64_t pairs;             /* pairs that ran on the device, replays included, all lanes */
    uint64_t dropped_tokens;    /* tokens beyond a bucket */
    uint64_t dropped_rows;      /* rows without a slot at the sender or without a place at the receiver */
    uint64_t bad_ids;           /* choices taken as -1: an id out of range, an expert chosen twice, a bad map entry */
    uint64_t flagged;           /* tokens that lacked a share */
    uint64_t timeouts;
    uint64_t region_bytes;      /* symmetric memory of this rank */
    uint64_t local_bytes;       /* other protocol memory of this rank */
    uint64_t expert_input_bytes;/* rows and scales copied for the experts (0 in place) */
} epg_group_stats;
#define EPG_GROUP_STATS_INIT {sizeof(epg_group_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/* Device counters are read as they stand: exact once the streams are idle. */
EPG_API epg_status epg_group_get_stats(epg_group *group, epg_group_stats *stats);

/* The bytes a rank would need for `ranks` ranks under `options`, without creating anything. */
EPG_API epg_status epg_group_plan_bytes(const epg_group_options *options, uint32_t ranks, epg_group_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
