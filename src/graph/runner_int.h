/* The runner's own structures: not for other parts.
 *
 * runner.c owns the handle and runs steps; runner_capture.c makes entries; runner_pool.c is the scratch memory. */
#ifndef EPG_RUNNER_INT_H
#define EPG_RUNNER_INT_H

#include "core/core_int.h"
#include "epgraph/runner.h"
#include "graph/buckets_int.h"

/* ---- scratch memory: a bump allocator over chunks that never move ---- */

typedef struct epg__pool_mark {
    size_t chunk, offset;
} epg__pool_mark;

typedef struct epg__pool_chunk {
    void *memory;       /* as allocated */
    char *base;         /* aligned */
    size_t bytes;       /* from base */
} epg__pool_chunk;

typedef struct epg__pool {
    epg_device *device;
    epg__pool_chunk *chunks;
    size_t count, capacity;
    uint64_t bytes;
    epg__pool_mark at;
    epg__pool_mark limit; /* where `bounded`: the first place not to be handed out */
    bool bounded;
    bool may_grow;
} epg__pool;

/* Sets where the next allocation starts, and what it may do. `limit` NULL: up to the end of what there is. */
void epg__pool_seek(epg__pool *pool, epg__pool_mark at, const epg__pool_mark *limit, bool may_grow);
epg_status epg__pool_take(epg__pool *pool, size_t bytes, void **memory);
void epg__pool_free(epg__pool *pool);

/* ---- entries ---- */

/* A maximal run of segments that are all captured, as one graph, or all eager. */
typedef struct epg__span {
    uint32_t first, count;
    bool eager;
} epg__span;

typedef struct epg__bound_input {
    char *name;
    const void *address;
} epg__bound_input;

typedef struct epg__entry {
    uint32_t variant, bucket;
    epg__bound_input *inputs;
    uint32_t input_count;
    epg__pool_mark *marks;  /* [segments + 1] where each segment's scratch memory starts, from the last warm-up */
    epg_graph *graphs;      /* [spans] kept for the DOT dump; NULL where the span is eager */
    epg_exec *execs;        /* [spans] */
} epg__entry;

/* What a reset keeps of an entry: executables that the next capture may update. */
typedef struct epg__spare {
    uint32_t variant, bucket;
    epg_exec *execs;        /* [spans]; NULL where taken */
} epg__spare;

struct epg_runner {
    epg_device *device;
    epg_segment *segments;  /* names owned */
    uint32_t segment_count;
    epg__span *spans;
    uint32_t span_count;
    uint32_t *buckets;
    uint32_t bucket_count;
    epg_group **groups;
    uint32_t group_count;
    uint32_t warmups;
    bool probe;
    epg_capture_mode mode;
    void (*progress)(void *ctx, uint32_t done, uint32_t all);
    void *progress_ctx;
    epg_runner_observe_fn observe;
    void *observe_ctx;
    epg_scope_table *scopes, *own_scopes; /* the one that is entered, NULL: none; the one to destroy, or NULL */
    int ordinal;            /* of the device, for scopes */

    epg_stream stream;      /* non-blocking; warm-ups and captures only */
    epg_event event;        /* orders one stream after another; reused, since a wait keeps what it saw */
    epg_stream last;        /* where the last step went, if `has_last` */
    bool has_last;
    bool busy;              /* inside a step: a step function may not run its own runner */
    bool probed;            /* the first entry since creation or reset is captured */

    epg__entry **entries;   /* sorted by (variant, bucket) */
    uint32_t entry_count, entry_capacity;
    epg__spare *spares;
    uint32_t spare_count;
    epg__pool pool;
    epg_runner_stats stats;
};

/* Calls one segment in a scope on `stream`; its scratch memory must have been set up. A failure gets a message naming
 * segment and phase. */
epg_status epg__runner_call(epg_runner *runner, uint32_t segment, const epg_runner_step *step, uint32_t bucket,
                            epg_runner_phase phase, epg_stream stream);

/* Around a part of the runner's work, for its observer and for profilers: begin, then `status = end(.., the call)`. */
void epg__runner_begin(const epg_runner *runner, epg_runner_span span, uint32_t variant, uint32_t bucket);
epg_status epg__runner_end(const epg_runner *runner, epg_runner_span span, uint32_t variant, uint32_t bucket,
                           epg_status status);

/* Makes `after` wait for all work enqueued on `before` so far. */
epg_status epg__runner_order(epg_runner *runner, epg_stream before, epg_stream after);

/* EPG_ERR_STATE if a pair is open in a group of the runner. */
epg_status epg__runner_check_closed(const epg_runner *runner);

/* Warm-ups, probe, capture. The caller's stream and the last one used are waited for in stream order. */
epg_status epg__entry_create(epg_runner *runner, const epg_runner_step *step, uint32_t bucket, epg__entry **entry);
void epg__entry_destroy(epg_runner *runner, epg__entry *entry);

/* runner_spare.c. keep_spares takes the entries' executables out of them, for want of memory none; the entries are then
 * to be destroyed. drop_spares frees what was not taken. */
void epg__runner_keep_spares(epg_runner *runner);
void epg__runner_drop_spares(epg_runner *runner);

/* An executable for `graph`: the spare one of this variant, bucket and span if the device can update it, else new. */
epg_status epg__runner_make_exec(epg_runner *runner, const epg__entry *entry, uint32_t span, epg_graph graph,
                                 epg_exec *exec);

#endif
