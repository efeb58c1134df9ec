/* Serving a workload once: a team of virtual ranks, one thread each, and what they counted and computed. */
#ifndef CLI_SERVE_H
#define CLI_SERVE_H

#include "epgraph/epgraph.h"
#include "progress.h"
#include "timeline.h"
#include "workload.h"

/* One position whose states are kept for the oracle. */
typedef struct serve_sample {
    uint64_t position;          /* counted over all requests */
    void *states;               /* [layers + 1][hidden] of the row type, pinned; written by the rank that serves it */
} serve_sample;

typedef struct serve_config {
    epg_device *device;
    const epg_checkpoint *checkpoint;
    epg_moe_shape shape;
    epg_dtype row_type;
    const workload *load;
    uint32_t ranks, chunk, batch;
    const uint32_t *buckets;
    uint32_t bucket_count;
    epg_step_policy policy;
    epg_mode mode;
    int eager;                  /* decode steps are not captured */
    serve_sample *samples;      /* ascending by position; none: NULL */
    uint32_t sample_count;
    timeline *timeline;         /* NULL: nothing is recorded */
    progress *bar;
} serve_config;

typedef struct serve_times {    /* in microseconds */
    double *values;
    size_t count, room;
} serve_times;

typedef struct serve_counts {
    uint64_t total, decode_only, prefill_only, mixed;       /* steps */
    uint64_t captures, replays, eager, padding;             /* graphs, over all ranks */
    uint64_t cleans, barriers;                              /* during steps, over all ranks */
} serve_counts;

typedef struct serve_result {
    uint64_t *hashes;           /* [positions] of the final hidden state */
    int32_t *tokens;            /* [generated tokens] */
    serve_counts counts;
    serve_times times;          /* of decode steps, every rank's, ascending */
    double seconds;             /* of the steps */
    epg_status status;          /* EPG_OK, or what ended the run first */
    const char *team;           /* the transport, a constant text */
    int in_setup;               /* it failed before the first step: the input is at fault */
    char message[640];
} serve_result;

/* Fills *result, which serve_result_free ends. Returns result->status. */
epg_status serve_run(const serve_config *config, serve_result *result);
void serve_result_free(serve_result *result);

uint64_t serve_states_digest(const workload *load, const serve_result *result);
uint64_t serve_tokens_digest(const workload *load, const serve_result *result);

/* The value below which `part` (0..1) of the times lie; NAN where there are none. */
double serve_percentile(const serve_times *times, double part);

#endif
