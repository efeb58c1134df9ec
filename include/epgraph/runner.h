/* The graph runner: one step function, captured once per bucket, replayed for every step that fits.
 *
 * A bucket is a captured token count. A step of n tokens replays the smallest bucket that holds n; the count itself
 * lives in device memory, so the padding is never computed on or sent. A step above the largest bucket runs eagerly.
 *
 * First use of a (variant, bucket): the groups rehearse, the step function runs `warmups` times, then under capture
 * on the runner's own non-blocking stream. The runner's first entry is captured once more, before that, on a blocking
 * stream: work that escapes to the legacy stream is silently lost from a non-blocking capture, and is error 906
 * there. While that probe lasts, use of the legacy stream by other threads fails with 906 too.
 *
 * Wherever the step function is called, the stream that it is given is current in every runtime of the process, by a
 * stream scope around the call (scope.h): a library inside that launches on PyTorch's current stream, say, launches on
 * that one. A replay calls no step function, but for its eager segments, and needs no scope.
 *
 * Steps of one runner share its scratch memory, so they run one after the other, whatever streams they are given; a
 * stream must live until the runner was given another one, forgot it (epg_runner_forget_stream), was reset or
 * destroyed. One thread at a time per runner. */
#ifndef EPGRAPH_RUNNER_H
#define EPGRAPH_RUNNER_H

#include <stddef.h>
#include <stdint.h>
#include "epgraph/group.h"
#include "epgraph/scope.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct epg_runner epg_runner;

#define EPG_BUCKETS_MAX 512

typedef enum epg_runner_phase {
    EPG_PHASE_EAGER = 0,    /* a real step, launched kernel by kernel */
    EPG_PHASE_WARMUP = 1,   /* a rehearsal: groups send nothing */
    EPG_PHASE_PROBE = 2,    /* captured on a blocking stream, thrown away */
    EPG_PHASE_CAPTURE = 3
} epg_runner_phase;

/* A static input: a device address that the graph holds. */
typedef struct epg_runner_input {
    const char *name;
    const void *address;
} epg_runner_input;

/* What a step function is told. It enqueues the step's work for `bucket` tokens on `stream`, and on no other stream
 * that is not forked from it and joined again; it may not synchronise. It must enqueue the same work whenever variant
 * and bucket are the same. */
typedef struct epg_step_call {
    uint32_t size;
    uint32_t variant;
    uint32_t bucket;
    epg_runner_phase phase;
    epg_stream stream;
    epg_runner *runner;
    const epg_runner_input *inputs;
    uint32_t input_count;
} epg_step_call;

/* An error it returns ends the capture and reaches the caller of epg_runner_run. */
typedef epg_status (*epg_step_fn)(void *ctx, const epg_step_call *call);

/* A step is a list of segments; an eager one runs outside of the graphs at every step (attention that cannot be
 * captured). */
typedef struct epg_segment {
    epg_step_fn fn;
    void *ctx;
    int eager;
    const char *name;       /* copied; NULL: "step" */
} epg_segment;

/* What a runner is doing, on the host. */
typedef enum epg_runner_span {
    EPG_SPAN_FIRST_USE = 0,   /* of an entry; the next four are inside of it */
    EPG_SPAN_WARMUP = 1,      /* all of its rehearsals */
    EPG_SPAN_PROBE = 2,       /* with its repetitions */
    EPG_SPAN_CAPTURE = 3,
    EPG_SPAN_INSTANTIATE = 4, /* and the upload */
    EPG_SPAN_REPLAY = 5,      /* the launches of a captured step, eager segments between them included */
    EPG_SPAN_EAGER = 6        /* enqueueing an eager step */
} epg_runner_span;

/* Called as a span begins (1) and when it ends (0), also where it fails, on the thread that runs the runner; spans
 * nest. It may not call the runner. */
typedef void (*epg_runner_observe_fn)(void *ctx, epg_runner_span span, int begins, uint32_t variant, uint32_t bucket);

typedef struct epg_runner_options {
    uint32_t size;
    const epg_segment *segments;   /* copied */
    uint32_t segment_count;        /* at least 1 */
    const uint32_t *buckets;       /* ascending, from 1; NULL: the default list up to max_bucket */
    uint32_t bucket_count;         /* at most EPG_BUCKETS_MAX */
    uint32_t max_bucket;           /* with buckets NULL; at least 1 */
    epg_group *const *groups;      /* groups the step uses: they rehearse in warm-ups, their operations are counted */
    uint32_t group_count;
    int warmups;                   /* -1: the setting EPGRAPH_WARMUPS */
    int probe;                     /* 0: no blocking probe capture */
    epg_capture_mode mode;
    void (*progress)(void *ctx, uint32_t done, uint32_t all); /* of epg_runner_capture_all; may be NULL */
    void *progress_ctx;
    epg_runner_observe_fn observe; /* NULL: nobody is told */
    void *observe_ctx;

    /* The runtimes in which a step's stream is made current; outlives the runner. NULL: on the CUDA device the built-in
     * ones, each of which must be set or absent: one that is loaded and cannot be set makes first uses and eager steps
     * fail with EPG_ERR_UNSUPPORTED and its name (a table with best_effort goes on without it, one with a runtime of
     * that name sets it). On the host device, whose streams no other runtime knows: none. */
    epg_scope_table *scopes;
} epg_runner_options;
#define EPG_RUNNER_OPTIONS_INIT \
    {sizeof(epg_runner_options), NULL, 0, NULL, 0, 0, NULL, 0, -1, 1, EPG_CAPTURE_THREAD_LOCAL, NULL, NULL, \
     NULL, NULL, NULL}

EPG_API epg_status epg_runner_create(epg_device *device, const epg_runner_options *options, epg_runner **runner);
EPG_API void epg_runner_destroy(epg_runner *runner); /* waits for replays in flight */

typedef struct epg_runner_step {
    uint32_t size;
    uint32_t variant;                /* tells apart step functions' code paths; 0 if there is one */
    uint32_t tokens;                 /* picks the bucket; 0 takes the smallest */
    int eager;                       /* non-zero: do not use a graph */
    epg_stream stream;               /* the caller's; ordered after its earlier work and before its later work */
    const epg_runner_input *inputs;
    uint32_t input_count;
} epg_runner_step;
#define EPG_RUNNER_STEP_INIT {sizeof(epg_runner_step), 0, 0, 0, NULL, NULL, 0}

/* Enqueues one step: replayed, captured first where its entry is new, or eager. Asynchronous but for a first use. An
 * input whose address is not the one captured is EPG_ERR_MOVED by name, and nothing is enqueued. Not during capture. */
EPG_API epg_status epg_runner_run(epg_runner *runner, const epg_runner_step *step);

/* Captures every bucket of step->variant, largest first; nothing runs but rehearsals. step->tokens is not used. */
EPG_API epg_status epg_runner_capture_all(epg_runner *runner, const epg_runner_step *step);

/* To be called before a stream is destroyed on which the runner's last step may be: waits for that step, so that later
 * ones need no order after it. Does nothing if the last step was elsewhere. Not during capture. */
EPG_API epg_status epg_runner_forget_stream(epg_runner *runner, epg_stream stream);

/* Drops every entry and the pool (weights moved, say); the next use captures anew. Waits for replays in flight. The
 * executables are kept: where the new capture differs in its nodes' parameters alone, the device updates the old
 * executable, which is cheaper than to instantiate (stats.updates). epg_runner_destroy frees them. */
EPG_API epg_status epg_runner_reset(epg_runner *runner);

/* Scratch memory for a step function, 256-byte aligned, from the runner's pool: every entry shares it, so the
 * contents last one step. The same calls in the same order give the same addresses. What capture asks for must have
 * been asked for in a warm-up. */
EPG_API epg_status epg_step_alloc(const epg_step_call *call, size_t bytes, void **memory);

/* The smallest bucket that holds `tokens`; EPG_ERR_NOT_FOUND above the largest. */
EPG_API epg_status epg_runner_bucket(const epg_runner *runner, uint32_t tokens, uint32_t *bucket);

/* Writes the default list (1, 2, 4, then by 8 to 128, by 16 to 256, by 32 above, and `most` itself) and its length.
 * `buckets` has room for EPG_BUCKETS_MAX. */
EPG_API epg_status epg_default_buckets(uint32_t most, uint32_t *buckets, uint32_t *count);

typedef struct epg_runner_stats {
    uint32_t size;
    uint32_t entries;
    uint64_t captures;         /* entries captured, resets included */
    uint64_t probes;
    uint64_t replays;
    uint64_t eager;            /* steps run eagerly, asked for or too large */
    uint64_t failures;         /* captures that failed */
    uint64_t tokens;           /* tokens of replayed steps */
    uint64_t padding;          /* bucket minus tokens, over replayed steps */
    uint64_t crossings;        /* steps that needed events because the stream changed */
    double capture_us;         /* warm-ups, probe, capture and instantiation, in all */
    uint64_t pool_bytes;
    uint64_t updates;          /* executables that a capture updated instead of instantiating one */
} epg_runner_stats;
#define EPG_RUNNER_STATS_INIT {sizeof(epg_runner_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0, 0}
EPG_API epg_status epg_runner_get_stats(const epg_runner *runner, epg_runner_stats *stats);

/* Writes the graphs of an entry in DOT, one digraph per captured segment. EPG_ERR_NOT_FOUND if it was not captured. */
EPG_API epg_status epg_runner_dot(epg_runner *runner, uint32_t variant, uint32_t bucket,
                                  void (*write)(void *ctx, const char *text), void *ctx);

#ifdef __cplusplus
}
#endif
#endif
