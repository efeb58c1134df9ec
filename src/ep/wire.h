/* The wire protocol's one layout, for host and CUDA kernels alike: what lies where in a rank's symmetric region.
 *
 * region:  header, mask[ranks], incarnation[lanes][ranks], then for each lane:
 *          lane header
 *          signals [dispatch | combine][bank][source rank]   one 64-bit word
 *          marks   [bank][expert rank][slot]                 combine: 1 where the partial sum lacks a row
 *          meta    [bank][source rank][slot]                 source token, local experts, weights
 *          rows    [bank][source rank][slot][row bytes]      one copy per (token, destination rank)
 *          returns [bank][expert rank][slot][return bytes]   one pre-reduced row per (token, expert rank)
 *
 * A row is its payload and then its scales (fp8 and opaque rows), each padded to 16 bytes; rows that have scales are
 * padded to 128 bytes, so that they begin and end with a cache line, and metas to 32, so that they are whole sectors.
 * A returned row is float32 in a group of float32 rows and bf16 in all others.
 *
 * Offsets, not pointers: the same on every rank. wire.c computes them in one walk that also gives the total size.
 *
 * Reuse without barriers. A rank writes bank b of a peer for epoch e only after it saw that peer's dispatch signal of
 * e-1, which the peer sent after everything of e-2 in its order; e-2 was the last epoch to use bank b.
 * docs/protocol.md. */
#ifndef EPG_WIRE_H
#define EPG_WIRE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include "device/doorbell_int.h"

#ifdef __CUDACC__
#define EPG__WIRE_FN static inline __host__ __device__
#else
#define EPG__WIRE_FN static inline
#endif

#define EPG_WIRE_VERSION 5u
#define EPG_WIRE_NONE 0xFFFFFFFFu

/* What must agree across ranks; its bytes are hashed and, on a mismatch, compared field by field (group.c). */
typedef struct epg_wire_geometry {
    uint32_t version, ranks, experts, logical_experts, hidden, topk, max_tokens, slots, lanes, row_type, first_epoch;
    uint32_t power_of_two;           /* fp8: every scale is a power of two */
    uint32_t row_bytes, scale_bytes; /* of one row, without padding */
} epg_wire_geometry;
static_assert(sizeof(epg_wire_geometry) == 56, "geometry layout");

/* The first failure of this rank. Writer: this rank's kernels. */
typedef struct epg_wire_record {
    uint32_t taken; /* 0 free, 1 being written, 2 readable */
    uint32_t status, operation, lane, epoch, peer;
    uint64_t expected, seen, time_ns;
} epg_wire_record;
static_assert(sizeof(epg_wire_record) == 48, "record layout");

enum {
    EPG_COUNT_PAIRS, EPG_COUNT_DROPPED_TOKENS, EPG_COUNT_DROPPED_ROWS, EPG_COUNT_BAD_IDS, EPG_COUNT_FLAGGED,
    EPG_COUNT_TIMEOUTS, EPG_COUNTERS
};

typedef struct epg_wire_header {
    uint32_t version, ranks;        /* writer: the owner, at creation */
    uint64_t geometry_hash;         /* writer: the owner, at creation */
    epg__doorbell bell;             /* rung by any rank */
    uint32_t aborted;               /* writer: the abort hook */
    uint32_t rehearsal;             /* writer: the owner's stream */
    uint32_t incarnation;           /* of the owner; writer: the owner, at creation and when it joins */
    uint32_t outside;               /* 1 from epg_group_join to the admission; writer: the owner */
    epg_wire_record record;
    uint64_t counters[EPG_COUNTERS]; /* writer: the owner's kernels */
    epg_wire_geometry geometry;     /* writer: the owner, at creation; for a rank that joins its place */
} epg_wire_header;
static_assert(sizeof(epg_wire_header) == 192, "header layout");

typedef struct epg_wire_lane {
    uint32_t epoch;                 /* of the last dispatch send; writer: the owner's kernels */
    uint32_t zero;
    uint64_t beat;                  /* counts the owner's looks and ended waits; writer: the owner; read by peers */
    uint64_t spare[6];
} epg_wire_lane;
static_assert(sizeof(epg_wire_lane) == 64, "lane layout");

typedef struct epg_wire_route {
    uint32_t expert; /* local id on the destination */
    float weight;
} epg_wire_route;

typedef struct epg_wire_meta {
    uint32_t token;  /* index on the source rank */
    uint32_t count;  /* routes that follow, 1..topk, in top-k order */
} epg_wire_meta;

/* Offsets from the region's start; `lane` and what follows it are relative to a lane's start. */
typedef struct epg_wire_layout {
    epg_wire_geometry geometry;
    size_t row_bytes;                  /* of a row: the two parts that follow, and padding */
    size_t payload_bytes, scale_bytes; /* padded; the scales begin at payload_bytes */
    size_t return_bytes, meta_bytes;
    size_t mask;        /* [ranks] how many lives of that rank the owner has given up: 0 none, i + 1: the i-th, too */
    size_t incarnation; /* [lanes][ranks] the life of that rank with which the owner's lane exchanges */
    size_t lanes, lane_bytes;
    size_t signals, marks, meta, rows, returns;
    size_t total;
} epg_wire_layout;

/* False where a size does not fit in memory at all. */
int epg__wire_plan(const epg_wire_geometry *geometry, epg_wire_layout *layout);
uint64_t epg__wire_hash(const epg_wire_geometry *geometry);

/* ---- signals: epoch in the high half; below it 8 bits of incarnation, a void bit, and count + 1 in 23 bits. A word of
 * 0 was never written. ---- */
enum { EPG_WIRE_DISPATCH = 0, EPG_WIRE_COMBINE = 1 };
#define EPG_WIRE_COUNT_MAX 0x7FFFFEu
#define EPG_WIRE_VOID 0x800000u

EPG__WIRE_FN uint64_t epg__signal_make(uint32_t epoch, uint32_t incarnation, uint32_t count, int is_void)
{
    uint32_t low = (incarnation & 0xFFu) << 24 | (is_void ? EPG_WIRE_VOID : 0) | (count + 1);
    return (uint64_t)epoch << 32 | low;
}
EPG__WIRE_FN uint32_t epg__signal_epoch(uint64_t signal) { return (uint32_t)(signal >> 32); }
EPG__WIRE_FN uint32_t epg__signal_incarnation(uint64_t signal) { return (uint32_t)signal >> 24; }
EPG__WIRE_FN uint32_t epg__signal_count(uint64_t signal) { return ((uint32_t)signal & 0x7FFFFFu) - 1; }
EPG__WIRE_FN int epg__signal_is_void(uint64_t signal) { return ((uint32_t)signal & EPG_WIRE_VOID) != 0; }

/* ---- addresses ---- */
EPG__WIRE_FN char *epg__lane_at(const epg_wire_layout *w, void *region, uint32_t lane)
{
    return (char *)region + w->lanes + lane * w->lane_bytes;
}
EPG__WIRE_FN uint64_t *epg__signal_at(const epg_wire_layout *w, char *lane, uint32_t kind, uint32_t bank, uint32_t rank)
{
    return (uint64_t *)(lane + w->signals) + (kind * 2 + bank) * w->geometry.ranks + rank;
}
/* Index of (bank, rank, slot) in marks, meta, rows and returns. */
EPG__WIRE_FN size_t epg__slot_index(const epg_wire_layout *w, uint32_t bank, uint32_t rank, uint32_t slot)
{
    return ((size_t)bank * w->geometry.ranks + rank) * w->geometry.slots + slot;
}
EPG__WIRE_FN uint32_t *epg__mark_at(const epg_wire_layout *w, char *lane, size_t index)
{
    return (uint32_t *)(lane + w->marks) + index;
}
EPG__WIRE_FN epg_wire_meta *epg__meta_at(const epg_wire_layout *w, char *lane, size_t index)
{
    return (epg_wire_meta *)(lane + w->meta + index * w->meta_bytes);
}
EPG__WIRE_FN epg_wire_route *epg__routes_of(epg_wire_meta *meta) { return (epg_wire_route *)(meta + 1); }
EPG__WIRE_FN char *epg__row_at(const epg_wire_layout *w, char *lane, size_t index)
{
    return lane + w->rows + index * w->row_bytes;
}
EPG__WIRE_FN char *epg__return_at(const epg_wire_layout *w, char *lane, size_t index)
{
    return lane + w->returns + index * w->return_bytes;
}

#endif
