/* Between timeline.c (recording) and timeline_write.c. */
#ifndef CLI_TIMELINE_INT_H
#define CLI_TIMELINE_INT_H

#include "timeline.h"

typedef struct timeline_span {
    timeline_kind kind;
    uint32_t bucket;
    int64_t step;               /* -1: before the first */
    uint64_t begin, end;        /* of epg_device_now_ns */
} timeline_span;

typedef struct timeline_step {
    epg_step_phase phase;
    epg_mode mode;
    uint32_t bucket, tokens, pairs, epoch;
    int replayed;
    uint64_t enqueued;          /* when the span that enqueued it begins; 0: none was kept */
} timeline_step;

/* Where a mark of the model begins a phase. */
typedef struct timeline_place {
    uint32_t layer;
    epg_model_phase phase;
} timeline_place;

enum { TIMELINE_DEPTH = 8 };

struct timeline_rank {
    timeline *line;
    uint32_t rank;
    epg_stream stream;

    timeline_span *spans;       /* in the order of their begins */
    size_t span_count, span_room;
    size_t open[TIMELINE_DEPTH];/* those that have not ended, by index; SIZE_MAX: not kept */
    uint32_t depth;

    /* A step's timestamps: its begin, the model's marks, its end. Every replay writes the same slots, so they are
     * copied behind each step, in stream order, and taken before the next one is enqueued. */
    uint32_t slots, marks;      /* marks of the last epg_model_step */
    timeline_place *places;     /* [slots] */
    uint64_t *device_stamps, *pinned_stamps; /* [slots] */
    uint64_t *stamps;           /* [steps][slots] */
    timeline_step *steps;
    uint32_t step_count;        /* kept */
    int64_t step;               /* the number of the running one, or of the last; -1: none yet */
    int kept;                   /* the running one is kept */
    uint64_t lost;
};

/* The device's clock minus the host's idea of it, at a time of the host's. */
typedef struct timeline_clock {
    uint64_t host;
    int64_t ahead;
} timeline_clock;

struct timeline {
    epg_device *device;
    uint32_t ranks, limit;
    timeline_rank *parts;       /* [ranks] */
    timeline_clock clocks[2];   /* rank 0's, at its begin and its end */
    int clock_count;
};

#endif
