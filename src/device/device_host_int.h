/* The host device's parts, for its own files only.
 *
 * Invariants: one lock guards every field below, except what a comment gives to another. It is never held while a
 * kernel, a copy or a host function runs. Lock order: device, then exec. */
#ifndef EPG_DEVICE_HOST_INT_H
#define EPG_DEVICE_HOST_INT_H

#include <stddef.h>
#include "device/device_ops.h"

enum { EPG__HOST_MEMORY_ALIGN = 256 };

typedef struct epg__host_device epg__host_device;
typedef struct epg__host_capture epg__host_capture;
typedef struct epg__host_body epg__host_body;
typedef struct epg__host_block epg__host_block;

/* One recording of an event. Held by the event, the queued record, every queued wait and everyone who synchronizes. In
 * the device's list, since a simulated program that is cut off gives up what it holds without a word. */
typedef struct epg__host_record {
    epg__host_device *device;
    struct epg__host_record *next, **link;
    uint32_t refs;
    bool done;
    uint64_t time_ns; /* valid once done */
    epg__cond finished;
} epg__host_record;

typedef enum epg__host_kind {
    EPG__HOST_KERNEL,
    EPG__HOST_FUNC,
    EPG__HOST_COPY,
    EPG__HOST_SET,
    EPG__HOST_ALLOC, /* these two are graph nodes only */
    EPG__HOST_FREE,
    EPG__HOST_RELEASE, /* this kind and those below are never graph nodes */
    EPG__HOST_RECORD,
    EPG__HOST_WAIT,
    EPG__HOST_REPLAY
} epg__host_kind;

/* One piece of work: queued in a stream, or owned by a graph's node. Name and arguments lie in `tail`. */
typedef struct epg__host_work {
    struct epg__host_work *next;
    uint64_t order; /* its place among all work of the device */
    epg__host_kind kind;
    const char *name; /* never NULL */
    union {
        struct {
            void (*fn)(const void *args);
            const void *args;
        } kernel;
        struct {
            void (*fn)(void *ctx);
            void *ctx;
        } func;
        struct {
            void *to;
            const void *from;
            size_t bytes;
        } copy;
        struct {
            void *to;
            int value;
            size_t bytes;
        } set;
        epg__host_record *record; /* of RECORD and WAIT */
        struct {
            epg__host_block *block; /* the work is one of its holders */
            uint64_t turn;          /* of RELEASE: the how-manieth free of the block this is */
        } memory;
        struct {
            epg_exec exec;
            uint64_t turn; /* the how-manieth launch of exec this is */
        } replay;
    } u;
    _Alignas(max_align_t) unsigned char tail[];
} epg__host_work;

/* A set of graph nodes, by index: what the next piece of captured work depends on. */
typedef struct epg__host_frontier {
    size_t *nodes;
    size_t count;
} epg__host_frontier;

struct epg_stream_st {
    epg__host_device *device;
    struct epg_stream_st *next; /* in the device's list, until its memory is freed */
    bool legacy, blocking;      /* the legacy stream is not "blocking" */
    bool threaded;              /* a worker was started and must be joined */
    bool destroyed, exited;
    uint32_t home;              /* whose work it is: the engine's */
    epg__worker worker;
    epg__cond wake;             /* for the worker: work came, or the end */
    epg__cond progress;         /* for synchronize: a piece of work ended */
    uint32_t sync_waiters;
    epg__host_work *head, *tail; /* the head stays until it has run */
    uint64_t pushed, done;
    epg__host_capture *capture; /* NULL: not capturing */
    uint32_t chain;             /* this stream's number in its capture */
    epg__host_frontier frontier;
};

struct epg_event_st {
    epg__host_record *record; /* last recorded outside capture; NULL: never, or last recorded in a capture */
    uint64_t capture_id;      /* last recorded in that capture; 0: not */
    epg__host_frontier frontier;
};

/* What a thread (in a simulation, a host program) owns on one device. Made on first need, freed with the device, so
 * that a pointer to it names a thread for good. */
typedef struct epg__host_thread {
    struct epg__host_thread *next;
    epg_capture_mode mode;
    epg_stream stream; /* the per-thread default stream, or NULL */
} epg__host_thread;

typedef struct epg__host_node {
    epg__host_work *work;
    epg__host_frontier deps; /* indices below this node's own */
    uint32_t chain;          /* which captured stream it came from; 0: the origin */
    bool mark;               /* used by the walk at the end of a capture */
} epg__host_node;

/* What a capture recorded; never changes after, and is shared by the graph and its executables. */
struct epg__host_body {
    uint32_t refs;
    uint32_t chains;
    epg__host_node *nodes;
    size_t count, room;
    size_t memory_nodes; /* ALLOC and FREE */
    uint32_t execs;      /* executables there are; guarded by the device's lock */
};

struct epg_graph_st {
    epg__host_body *body;
};

struct epg__host_device {
    epg_device base;
    epg__lock lock;
    epg__cond barrier; /* a piece of work ended, for waits on several streams */
    uint32_t barrier_waiters;
    uint64_t orders; /* given out so far */
    epg_stream streams;
    epg_stream legacy;
    epg__host_thread *threads;
    epg__host_record *records;
    epg__host_capture *captures;
    uint64_t capture_ids;
    epg__host_block *blocks; /* of stream-ordered allocation */
};

static inline epg__host_device *epg__host_of(epg_device *device) { return (epg__host_device *)device; }
static inline epg__engine *epg__host_engine(epg__host_device *device) { return device->base.engine; }
static inline void epg__host_lock(epg__host_device *device) { epg__lock_take(device->base.engine, &device->lock); }
static inline void epg__host_unlock(epg__host_device *device) { epg__lock_drop(device->base.engine, &device->lock); }
static inline epg_status epg__host_wait(epg__host_device *device, epg__cond *cond, const char *what)
{
    return epg__cond_wait(device->base.engine, cond, &device->lock, what);
}

/* ---- device_host.c. With the lock held. ---- */

/* The calling thread's record; `peek` gives NULL where there is none yet, `get` makes it (NULL: no memory). */
epg__host_thread *epg__host_thread_peek(epg__host_device *device);
epg__host_thread *epg__host_thread_get(epg__host_device *device);

/* The stream behind a handle: the legacy and per-thread handles are looked up. */
epg_status epg__host_resolve(epg__host_device *device, epg_stream handle, epg_stream *stream);

/* ---- device_host_stream.c ---- */
epg__host_work *epg__host_work_create(epg__host_kind kind, const char *name, const void *args, size_t bytes);
void epg__host_work_free(epg__host_work *work); /* with the lock held, if it holds a record */
void epg__host_work_run(epg__engine *engine, const epg__host_work *work); /* a node's kinds only; without the lock */

/* With the lock held. push takes the work over on success only. */
epg_stream epg__host_stream_new(epg__host_device *device, bool legacy, bool blocking);
epg_status epg__host_push(epg_stream stream, epg__host_work *work);
bool epg__host_stream_clear(epg_stream stream); /* nothing to run, and nothing to wait for */

/* Drops what is queued in the streams of this home, or in all, whose workers were cut off. They may be used again. */
void epg__host_streams_drop(epg__host_device *device, uint32_t home, bool all);

/* Ends and joins every worker, frees every stream. Without the lock. */
void epg__host_streams_end(epg__host_device *device);

epg_status epg__host_await_all(epg__host_device *device); /* of all streams, captured or not */
epg_status epg__host_synchronize(epg_device *device);
epg_status epg__host_stream_create(epg_device *device, epg_stream_kind kind, epg_stream *stream);
epg_status epg__host_stream_destroy(epg_device *device, epg_stream stream);
epg_status epg__host_stream_synchronize(epg_device *device, epg_stream stream);
epg_status epg__host_stream_query(epg_device *device, epg_stream stream);
epg_status epg__host_memcpy_async(epg_device *device, void *to, const void *from, size_t bytes, epg_stream stream);
epg_status epg__host_memset_async(epg_device *device, void *to, int value, size_t bytes, epg_stream stream);
epg_status epg__host_memcpy_sync(epg_device *device, void *to, const void *from, size_t bytes);
epg_status epg__host_memset_sync(epg_device *device, void *to, int value, size_t bytes);
epg_status epg__host_func(epg_device *device, epg_stream stream, void (*fn)(void *ctx), void *ctx, const char *name);
epg_status epg__host_launch(epg_device *device, epg_stream stream, void (*fn)(const void *args), const void *args,
                            size_t bytes, const char *name);
epg_status epg__host_timestamp_async(epg_device *device, uint64_t *at, epg_stream stream);

/* ---- device_host_event.c ---- */
void epg__host_record_finish(epg__host_record *record); /* with the lock held */
void epg__host_record_drop(epg__host_record *record);   /* with the lock held; NULL does nothing */
void epg__host_records_end(epg__host_device *device);

epg_status epg__host_event_create(epg_device *device, epg_event *event);
epg_status epg__host_event_destroy(epg_device *device, epg_event event);
epg_status epg__host_event_record(epg_device *device, epg_event event, epg_stream stream);
epg_status epg__host_event_query(epg_device *device, epg_event event);
epg_status epg__host_event_synchronize(epg_device *device, epg_event event);
epg_status epg__host_event_elapsed_us(epg_device *device, epg_event start, epg_event stop, double *us);
epg_status epg__host_stream_wait_event(epg_device *device, epg_stream stream, epg_event event);

/* ---- device_host_capture.c. Everything but the operations themselves with the lock held; `what` is the refused
 * call. ---- */

/* 906 if `stream` is the legacy stream and a blocking stream captures. */
epg_status epg__capture_check_work(epg_stream stream, const char *what);

/* 900 where the thread's mode and the captures under way forbid calls that may touch them unseen. */
epg_status epg__capture_check_unsafe(epg__host_device *device, const char *what);

/* For a call that looks at one stream's progress. */
epg_status epg__capture_check_progress(epg_stream stream, const char *what);

/* For a call that waits for the whole device. */
epg_status epg__capture_check_device(epg__host_device *device, const char *what);

/* 907 if the event was last recorded in a capture; `kills`: that invalidates the capture. */
epg_status epg__capture_check_event(epg__host_device *device, epg_event event, bool kills, const char *what);

/* Refuses with 900 what can be no node, and invalidates the stream's capture. */
epg_status epg__capture_refuse(epg_stream stream, const char *what);

/* Returns `status`, of a call on `stream` that failed and that a capture of it now lacks: such a graph is not handed
 * out. */
epg_status epg__capture_spoil(epg_stream stream, epg_status status, const char *what);

/* On a capturing stream: appends a node (takes `work` over on success only); records an event. */
epg_status epg__capture_add(epg_stream stream, epg__host_work *work);
epg_status epg__capture_record(epg_stream stream, epg_event event);

/* The capture rules of a wait. *handled: nothing is left to enqueue. */
epg_status epg__capture_wait(epg_stream stream, epg_event event, bool *handled);

/* Takes a stream that is being destroyed out of its capture; the capture ends with its origin. */
void epg__capture_forget(epg_stream stream);
void epg__capture_drop_all(epg__host_device *device);

epg_status epg__host_capture_begin(epg_device *device, epg_stream stream, epg_capture_mode mode);
epg_status epg__host_capture_end(epg_device *device, epg_stream stream, epg_graph *graph);
epg_status epg__host_capture_query(epg_device *device, epg_stream stream, epg_capture_status *status, uint64_t *id);
epg_status epg__host_capture_mode_exchange(epg_device *device, epg_capture_mode *mode);

/* The number of the capture in which the stream is; 0: none. */
uint64_t epg__capture_id(epg_stream stream);

/* ---- device_host_pool.c. With the lock held, but for the operations. ---- */
void epg__host_block_drop(epg__host_block *block);        /* one holder less */
void epg__host_release_run(const epg__host_work *work);   /* runs a RELEASE */
void epg__host_pool_end(epg__host_device *device);        /* frees every block; no work is left */

/* epg_memory_free for the pool's memory. *found: it was that. */
epg_status epg__host_pool_free(epg__host_device *device, void *memory, bool *found);

/* A launch of `body`, in the order of launches: may its memory nodes run, and what they leave behind. */
epg_status epg__host_pool_check_launch(const epg__host_body *body);
void epg__host_pool_launched(const epg__host_body *body);

epg_status epg__host_memory_alloc_async(epg_device *device, size_t bytes, epg_stream stream, void **memory);
epg_status epg__host_memory_free_async(epg_device *device, void *memory, epg_stream stream);
epg_status epg__host_memory_trim(epg_device *device, size_t keep);

/* ---- device_host_probe.c ---- */
epg_status epg__host_probe_launch(epg_device *device, epg_stream stream);
epg_status epg__host_probe_callback(epg_device *device, epg_stream stream);
epg_status epg__host_probe_attributes(epg_device *device, int *block_threads);
epg_status epg__host_probe_occupancy(epg_device *device, int *blocks);
epg_status epg__host_probe_last_error(epg_device *device);
epg_status epg__host_probe_make_current(epg_device *device);

/* ---- device_host_copy.c ---- */
epg_status epg__host_copy_launch(epg_device *device, epg_stream stream, void *to, const void *from, size_t bytes);

/* ---- device_host_graph.c ---- */
epg__host_body *epg__host_body_create(void);
void epg__host_body_drop(epg__host_body *body); /* with the lock held */
void epg__host_replay(epg_exec exec, uint64_t turn); /* without the lock */
void epg__host_replay_drop(epg_exec exec);           /* a launch of it will never run */

epg_status epg__host_graph_destroy(epg_device *device, epg_graph graph);
epg_status epg__host_graph_node_count(epg_device *device, epg_graph graph, size_t *nodes);
epg_status epg__host_graph_dot(epg_device *device, epg_graph graph, void (*write)(void *ctx, const char *text),
                               void *ctx);
epg_status epg__host_graph_instantiate(epg_device *device, epg_graph graph, epg_exec *exec);
epg_status epg__host_exec_destroy(epg_device *device, epg_exec exec);
epg_status epg__host_exec_launch(epg_device *device, epg_exec exec, epg_stream stream);
epg_status epg__host_exec_upload(epg_device *device, epg_exec exec, epg_stream stream);

#endif
