/* What a run did when, for --timeline: every rank's thread records its own part while it serves, and the whole is
 * written at the end as Chrome trace events.
 *
 * Two rows per rank: "host" holds what the rank's thread did, "stream" what its stream worked at, by timestamps that
 * the device wrote between the phases of the model. Everything is allocated before the first step, for the first
 * `steps` steps; what comes later is counted and not kept. Functions that take a timeline_rank do nothing where it is
 * NULL. */
#ifndef CLI_TIMELINE_H
#define CLI_TIMELINE_H

#include <stdio.h>
#include "epgraph/epgraph.h"

typedef struct timeline timeline;
typedef struct timeline_rank timeline_rank;

/* Of the host's row. The first are the runner's, in its order. */
typedef enum timeline_kind {
    TIMELINE_FIRST_USE = EPG_SPAN_FIRST_USE,
    TIMELINE_WARMUP = EPG_SPAN_WARMUP,
    TIMELINE_PROBE = EPG_SPAN_PROBE,
    TIMELINE_CAPTURE = EPG_SPAN_CAPTURE,
    TIMELINE_INSTANTIATE = EPG_SPAN_INSTANTIATE,
    TIMELINE_REPLAY = EPG_SPAN_REPLAY,
    TIMELINE_EAGER = EPG_SPAN_EAGER,
    TIMELINE_EXCHANGE,      /* of the ranks' reports: until the plan is there */
    TIMELINE_WAIT,          /* for the stream */
    TIMELINE_KINDS
} timeline_kind;

/* NULL: no memory. Nothing that the ranks record is allocated yet. */
timeline *timeline_create(epg_device *device, uint32_t ranks, uint32_t steps);
void timeline_destroy(timeline *line);

/* By the rank's thread: memory for its part, timestamps on `stream`. Called by rank 0 it also compares the clocks.
 * `buckets`: how many the runner captures. */
epg_status timeline_open(timeline *line, uint32_t rank, uint32_t layers, uint32_t buckets, epg_stream stream,
                         timeline_rank **self);

/* Its stream is idle. Ends what is still open; what was recorded stays. */
void timeline_close(timeline_rank *self);

/* ---- the host's row; spans nest ---- */
void timeline_begin(timeline_rank *self, timeline_kind kind, uint32_t bucket);
void timeline_end(timeline_rank *self);
void timeline_observe(void *self, epg_runner_span span, int begins, uint32_t variant, uint32_t bucket);

/* ---- the stream's row ---- */

/* Begins the next step, ahead of all that it enqueues. `epoch` is its first pair's. */
epg_status timeline_step_begin(timeline_rank *self, const epg_step_plan *plan, uint32_t tokens, uint32_t epoch);

/* Ahead of every epg_model_step, in a capture too; then the model's marks. */
void timeline_model_begin(timeline_rank *self);
epg_status timeline_mark(void *self, uint32_t layer, epg_model_phase phase, epg_stream stream);

/* Behind all that the step enqueued; and once the stream is idle. */
epg_status timeline_step_end(timeline_rank *self);
void timeline_step_done(timeline_rank *self);

/* ---- at the end ---- */

typedef struct timeline_counts {
    uint64_t events;            /* written, descriptions of rows not counted */
    uint64_t steps, steps_over; /* of one rank: kept; beyond the first */
    uint64_t lost;              /* spans for which there was no room or whose times are no span, over all ranks */
} timeline_counts;

/* 1 if nothing was recorded. */
int timeline_is_empty(const timeline *line);

/* 0, or -1 where the file could not be written. */
int timeline_write(const timeline *line, FILE *file, timeline_counts *counts);

#endif
