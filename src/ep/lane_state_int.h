/* What a lane keeps of its open pair in device memory: for the kernels of every device. */
#ifndef EPG_LANE_STATE_INT_H
#define EPG_LANE_STATE_INT_H

#include <stddef.h>
#include <stdint.h>

/* One share of a sent token: the rank it went to and the slot there, EPG_WIRE_NONE where it could not be sent. */
typedef struct epg__share {
    uint32_t rank, slot;
} epg__share;

/* Where the scales of expert rows that are copied lie: those of position p begin at
 * p / group * expert + p % group * row, in bytes, and `block` separates one from the next. */
typedef struct epg__scale_place {
    uint32_t layout; /* epg_scale_layout */
    uint32_t group;  /* positions of one expert in the masked layout, else all */
    uint32_t blocks; /* scales of a row; of opaque rows 0: bytes, copied as they are */
    size_t expert, row, block;
} epg__scale_place;

/* The open pair, in device memory: dispatch send stamps it, the other three halves use it. */
typedef struct epg__pair_state {
    uint32_t epoch, tokens, rehearsed, zero;
} epg__pair_state;

/* A rank that is to be taken in: which life of it, and at which epoch. Incarnation 0: none; no first life joins. */
typedef struct epg__entry {
    uint32_t incarnation, epoch;
} epg__entry;

#endif
