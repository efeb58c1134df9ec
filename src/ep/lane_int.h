/* One lane of a group: what its kernels need. Filled at creation; a kernel gets a pointer to it and nothing from the
 * host that changes from pair to pair but a buffer's address. */
#ifndef EPG_LANE_INT_H
#define EPG_LANE_INT_H

#include "core/core_int.h"
#include "device/host_kernel_int.h"
#include "ep/group_int.h"
#include "ep/lane_state_int.h"
#include "ep/wire.h"

typedef struct epg__lane {
    const epg_wire_layout *wire;
    epg_device *device;
    epg__simulator *sim;         /* the device's */
    uint32_t number, rank, ranks, local_experts, first_expert;
    uint32_t incarnation;        /* of this rank; stamped into its signals */
    uint32_t layout, row_align, rows_per_expert, row_capacity, fan; /* fan: most shares of a token, min(topk, ranks) */
    uint32_t spin;
    uint64_t timeout_ns;
    void *const *peers;          /* [ranks] regions; peers[rank] is this rank's own */
    const int32_t *expert_map;   /* [logical experts] */

    /* Local device memory, all in one block (lane.c). */
    void *block;
    epg__pair_state *pair;
    uint32_t *entering;          /* [1] entries in use */
    epg__entry *entries;         /* [ranks] */
    uint32_t *flags;             /* [max_tokens] */
    uint32_t *share_count;       /* [max_tokens] */
    epg__share *shares;          /* [max_tokens][fan], by rank */
    uint32_t *sent;              /* [ranks] rows sent in this pair */
    uint32_t *received;          /* [ranks] rows received in this pair */
    uint32_t *returned;          /* [ranks] 1: the partial sums of this rank arrived */
    uint32_t *place;             /* [ranks][slots][topk] position of each route, EPG_WIRE_NONE: none */
    uint32_t *offsets, *counts, *total, *cursor; /* [local experts + 1], [local experts], [1], [local experts] */
    uint32_t *row_index, *row_source, *row_token; /* [row_capacity] */
    float *row_weight;           /* [row_capacity] */
    float *sum;                  /* [hidden] */
    char *staged;                /* [row bytes] a row as it travels, where that is not how the caller has it */
    char *expert_rows;           /* [row_capacity][payload bytes]; NULL in place */
    char *expert_scales;         /* behind them, as scale_place says; NULL in place and where rows have none */
    epg__scale_place scale_place;
    uint32_t scale_layout;
} epg__lane;

/* Arguments of the four kernels. A void form does what the protocol needs and sends no rows. */
typedef struct epg__dispatch_send_args {
    epg__lane *lane;
    epg_dispatch_args user; /* tokens, rows, ids, weights, bucket */
    int is_void;
} epg__dispatch_send_args;
typedef struct epg__half_args {
    epg__lane *lane;
    int is_void;
    const void *expert_rows;
    void *out;
} epg__half_args;

/* The kernels of a device. LL and HT are chosen when an operation is enqueued, by picking one of two functions. */
void epg__dispatch_send_ll_host(const void *args);
void epg__dispatch_send_ht_host(const void *args);
void epg__dispatch_recv_ll_host(const void *args);
void epg__dispatch_recv_ht_host(const void *args);
void epg__combine_send_ll_host(const void *args);
void epg__combine_send_ht_host(const void *args);
void epg__combine_recv_host(const void *args);

/* Creates a lane's local memory; bytes for planning with `device` NULL. */
epg_status epg__lane_plan(epg__lane *lane, size_t *local_bytes, size_t *expert_bytes);
epg_status epg__lane_create(epg__lane *lane);
void epg__lane_destroy(epg__lane *lane);

/* ---- for the kernels ---- */
static inline epg_wire_header *epg__header_of(const epg__lane *lane, uint32_t rank)
{
    return (epg_wire_header *)lane->peers[rank];
}
static inline uint32_t *epg__mask_of(const epg__lane *lane, uint32_t rank)
{
    return (uint32_t *)((char *)lane->peers[rank] + lane->wire->mask);
}
/* [ranks] the life of each rank with which this lane exchanges. Only its own kernels write it. */
static inline uint32_t *epg__lives_of(const epg__lane *lane)
{
    return (uint32_t *)((char *)lane->peers[lane->rank] + lane->wire->incarnation) + (size_t)lane->number * lane->ranks;
}
static inline uint32_t epg__life_of(const epg__lane *lane, uint32_t rank)
{
    return __atomic_load_n(&epg__lives_of(lane)[rank], __ATOMIC_RELAXED);
}
/* What is masked is a life of a rank, and that for ever. */
static inline int epg__rank_alive(const epg__lane *lane, uint32_t rank)
{
    return epg__life_of(lane, rank) >= epg__word_load(lane->sim, &epg__mask_of(lane, lane->rank)[rank]);
}
static inline void epg__give_up(const epg__lane *lane, uint32_t rank, uint32_t incarnation)
{
    epg__word_raise(lane->sim, &epg__mask_of(lane, lane->rank)[rank], incarnation + 1);
}
static inline char *epg__own_lane(const epg__lane *lane)
{
    return epg__lane_at(lane->wire, lane->peers[lane->rank], lane->number);
}
static inline void epg__count(const epg__lane *lane, int counter, uint64_t by)
{
    if (by)
        __atomic_add_fetch(&epg__header_of(lane, lane->rank)->counters[counter], by, __ATOMIC_RELAXED);
}

/* Keeps the first failure; later ones are dropped. */
void epg__record_failure(const epg__lane *lane, epg_status status, epg_operation operation, uint32_t peer,
                         uint64_t expected, uint64_t seen);

/* Stores a signal at `peer` and rings it. */
void epg__send_signal(const epg__lane *lane, uint32_t kind, uint32_t peer, uint32_t count, int is_void);

/* Waits for `peer`'s signal of the open pair; 1 with *count, or 0 where there is nothing to be had: void, masked,
 * expired, aborted. */
int epg__await_signal(const epg__lane *lane, uint32_t kind, uint32_t peer, uint32_t *count);

/* As above, for the invitation of a rank that stays: its dispatch signal of the lane's last epoch. */
int epg__await_invitation(const epg__lane *lane, uint32_t peer);

/* ---- joining again (admit_host.c) ---- */

/* Dispatch send, after it opened its pair: takes in the ranks whose epoch this is. */
void epg__admit_due(epg__lane *lane);

/* 1 where `rank` is taken in with the next pair: this pair's dispatch signal, without rows, is its invitation. */
int epg__is_invited(const epg__lane *lane, uint32_t rank);

/* The kernel of epg_group_admit. `members` has room for all ranks. */
typedef struct epg__admit_args {
    epg__lane *lanes; /* [lane_count] */
    uint32_t lane_count, joins; /* joins: this rank is one of those that join */
    uint32_t epochs[EPG_LANES_MAX];
    epg_member members[];
} epg__admit_args;
void epg__admit_host(const void *args);

#endif
