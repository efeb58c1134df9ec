/* What a lane keeps of its open pair in device memory: for the kernels of every device. */
#ifndef EPG_LANE_STATE_INT_H
#define EPG_LANE_STATE_INT_H

#include <stdint.h>

/* One share of a sent token: the rank it went to and the slot there, EPG_WIRE_NONE where it could not be sent. */
typedef struct epg__share {
    uint32_t rank, slot;
} epg__share;

/* The open pair, in device memory: dispatch send stamps it, the other three halves use it. */
typedef struct epg__pair_state {
    uint32_t epoch, tokens, rehearsed, zero;
} epg__pair_state;

/* A rank that is to be taken in: which life of it, and at which epoch. Incarnation 0: none; no first life joins. */
typedef struct epg__entry {
    uint32_t incarnation, epoch;
} epg__entry;

#endif
