/* Devices: streams, events, memory, capture and graphs, with CUDA's rules on every device.
 *
 * A device is chosen when its handle is created. The `host` device runs on CPU threads and follows CUDA's rules for
 * streams, events and capture, error codes included, so that what passes on it passes on a GPU. The `cuda` device is
 * one GPU: its handles are CUDA's own (an epg_stream is a cudaStream_t, an epg_event a cudaEvent_t, an epg_graph a
 * cudaGraph_t, an epg_exec a cudaGraphExec_t), so that streams of other libraries can be passed in, and a handle that
 * was destroyed is not recognised. Calls leave the thread's current CUDA device as they find it.
 *
 * A stream is a plain handle with CUDA's special values: NULL and EPG_STREAM_LEGACY are the legacy stream. Work on
 * the legacy stream waits for all earlier work in blocking streams, and later work in blocking streams waits for it;
 * non-blocking streams take no part in that. EPG_STREAM_PER_THREAD is a blocking stream of the calling thread's own,
 * made at its first use; it may be captured like any other, and it cannot be destroyed. On the CUDA device a thread
 * should have used it once before another thread captures: a driver was seen to hang in a first use during a capture.
 *
 * A device and its handles may be used from several threads at once; one stream's calls take effect in the order in
 * which they return. Every handle must be destroyed before its device. */
#ifndef EPGRAPH_DEVICE_H
#define EPGRAPH_DEVICE_H

#include <stddef.h>
#include <stdint.h>
#include "epgraph/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct epg_device epg_device;
typedef struct epg_stream_st *epg_stream;
typedef struct epg_event_st *epg_event;
typedef struct epg_graph_st *epg_graph;     /* what a capture recorded */
typedef struct epg_exec_st *epg_exec;       /* an instantiated graph, ready to launch */

#define EPG_STREAM_LEGACY ((epg_stream)(uintptr_t)0x1)
#define EPG_STREAM_PER_THREAD ((epg_stream)(uintptr_t)0x2)

typedef enum epg_device_kind { EPG_DEVICE_HOST = 0, EPG_DEVICE_CUDA = 1 } epg_device_kind;
typedef enum epg_stream_kind { EPG_STREAM_BLOCKING = 0, EPG_STREAM_NONBLOCKING = 1 } epg_stream_kind;

/* DEVICE: the device's own. PINNED: the host's, page-locked, for copies that run beside other work. MAPPED: pinned, and
 * kernels may read and write it too, at the same address. */
typedef enum epg_memory_kind { EPG_MEMORY_DEVICE = 0, EPG_MEMORY_PINNED = 1, EPG_MEMORY_MAPPED = 2 } epg_memory_kind;
typedef enum epg_capture_mode {
    EPG_CAPTURE_GLOBAL = 0,
    EPG_CAPTURE_THREAD_LOCAL = 1,
    EPG_CAPTURE_RELAXED = 2
} epg_capture_mode;
typedef enum epg_capture_status {
    EPG_CAPTURE_NONE = 0,
    EPG_CAPTURE_ACTIVE = 1,
    EPG_CAPTURE_INVALIDATED = 2
} epg_capture_status;

typedef enum epg_log_level {
    EPG_LOG_ERROR = 0,
    EPG_LOG_WARNING = 1,
    EPG_LOG_INFO = 2,
    EPG_LOG_DEBUG = 3
} epg_log_level;
typedef void (*epg_log_fn)(void *ctx, epg_log_level level, const char *text);

typedef struct epg_device_options {
    uint32_t size;
    epg_device_kind kind;
    epg_log_fn log;         /* NULL: nothing is logged; may be called from any thread, one call at a time */
    void *log_ctx;
    epg_log_level log_level;
    int ordinal;            /* which GPU, as CUDA counts them; the host device has no use for it */
    const struct epg_simulation_options *simulation; /* NULL: worker threads; else simulation.h. Host device only */
} epg_device_options;
#define EPG_DEVICE_OPTIONS_INIT {sizeof(epg_device_options), EPG_DEVICE_HOST, NULL, NULL, EPG_LOG_WARNING, 0, NULL}

typedef struct epg_device_info {
    uint32_t size;
    epg_device_kind kind;
    char name[64];          /* "host: AMD EPYC, 2 cores"; "cuda 0: NVIDIA H200" */
    uint32_t units;         /* cores or multiprocessors */
    uint64_t memory_bytes;
    int ordinal;            /* which GPU; 0 on the host device */
} epg_device_info;
#define EPG_DEVICE_INFO_INIT {sizeof(epg_device_info), EPG_DEVICE_HOST, {0}, 0, 0, 0}

/* `options` may be NULL: the host device, no logging. EPG_ERR_UNSUPPORTED, with CUDA's reason in the message, for the
 * CUDA device where there is no driver or no GPU, or the library was built without it. */
EPG_API epg_status epg_device_create(const epg_device_options *options, epg_device **device);

/* Waits for all work, then frees the device. Destroying NULL does nothing. Not during capture. */
EPG_API void epg_device_destroy(epg_device *device);
EPG_API epg_status epg_device_describe(epg_device *device, epg_device_info *info);

/* Nanoseconds on the clock by which this device's waits are bounded: on the CUDA device the GPU's global timer,
 * reckoned from the host's clock and an offset measured at creation. May run during capture. */
EPG_API uint64_t epg_device_now_ns(epg_device *device);

/* Waits for all work of all streams. 900 while any stream of the device captures, and invalidates every capture. */
EPG_API epg_status epg_device_synchronize(epg_device *device);

/* ---- streams. Creation and destruction may run during capture. ---- */

/* On the CUDA device a new stream has a kernel that does nothing, and may be busy with it for some microseconds. */
EPG_API epg_status epg_stream_create(epg_device *device, epg_stream_kind kind, epg_stream *stream);

/* Returns at once; work already issued still runs. Destroying the stream on which a capture began drops that capture.
 */
EPG_API epg_status epg_stream_destroy(epg_device *device, epg_stream stream);

/* Not during capture of that stream. On the CUDA device both also return the error of earlier work that failed. */
EPG_API epg_status epg_stream_synchronize(epg_device *device, epg_stream stream);
EPG_API epg_status epg_stream_query(epg_device *device, epg_stream stream); /* EPG_OK or EPG_ERR_NOT_READY */

/* ---- events. Recording in a capturing stream and waiting on it build dependencies in the graph. ---- */
EPG_API epg_status epg_event_create(epg_device *device, epg_event *event);

/* For ordering alone: cheaper to record on the CUDA device, and without a time. */
EPG_API epg_status epg_event_create_order(epg_device *device, epg_event *event);
EPG_API epg_status epg_event_destroy(epg_device *device, epg_event event);
EPG_API epg_status epg_event_record(epg_device *device, epg_event event, epg_stream stream);
EPG_API epg_status epg_event_query(epg_device *device, epg_event event);       /* EPG_OK or EPG_ERR_NOT_READY */
EPG_API epg_status epg_event_synchronize(epg_device *device, epg_event event);
EPG_API epg_status epg_event_elapsed_us(epg_device *device, epg_event start, epg_event stop, double *us);
EPG_API epg_status epg_stream_wait_event(epg_device *device, epg_stream stream, epg_event event);

/* ---- memory. Zero-filled, 256-byte aligned. On the CUDA device the host can read and write pinned and mapped memory
 * alone, and free may wait for work of every stream. Both calls are "potentially unsafe" in the sense of the capture
 * modes. ---- */
EPG_API epg_status epg_memory_alloc(epg_device *device, epg_memory_kind kind, size_t bytes, void **memory);

/* Also takes (as EPG_MEMORY_DEVICE) what epg_memory_alloc_async gave, once all work that uses it is done. */
EPG_API epg_status epg_memory_free(epg_device *device, epg_memory_kind kind, void *memory);

/* Stream-ordered allocation of device memory, from a pool. What it holds at first is not defined. The memory may be
 * used by work that comes after the alloc and before the free in the order of streams and events; memory freed in a
 * stream may be handed out again there before the free has run. 0 bytes give NULL; freeing NULL does nothing; freeing
 * what is not allocated is EPG_ERR_INVALID. What epg_memory_alloc gave must not be freed here.
 *
 * On a capturing stream both become nodes, and the address belongs to the graph: the same in every replay. Memory that
 * the graph allocates and does not free stays allocated after a launch; until it is freed (by epg_memory_free, by
 * epg_memory_free_async or by another graph) the next launch of the graph is EPG_ERR_INVALID. A graph with such nodes
 * has one executable at a time (a second is EPG_ERR_UNSUPPORTED). Memory that no graph allocated cannot be freed by
 * one: EPG_ERR_INVALID, which leaves the capture valid.
 *
 * Outside of the stream's own capture both are potentially unsafe, and 906 on the legacy stream while a blocking stream
 * captures. */
EPG_API epg_status epg_memory_alloc_async(epg_device *device, size_t bytes, epg_stream stream, void **memory);
EPG_API epg_status epg_memory_free_async(epg_device *device, void *memory, epg_stream stream);

/* Gives back what the pool holds unused, until it holds no more than `keep` bytes, used ones included; on the CUDA
 * device also what graphs' allocations hold unused. Potentially unsafe. */
EPG_API epg_status epg_memory_trim(epg_device *device, size_t keep);

/* Bytes that can still be allocated, and bytes there are; a look that other programs may have outdated. May run during
 * capture. */
EPG_API epg_status epg_memory_info(epg_device *device, uint64_t *free_bytes, uint64_t *total_bytes);

/* Stream-ordered; may run during capture, where each becomes a node. */
EPG_API epg_status epg_memcpy_async(epg_device *device, void *to, const void *from, size_t bytes, epg_stream stream);
EPG_API epg_status epg_memset_async(epg_device *device, void *to, int value, size_t bytes, epg_stream stream);

/* On the legacy stream, and waited for. During capture: as any work on the legacy stream. */
EPG_API epg_status epg_memcpy(epg_device *device, void *to, const void *from, size_t bytes);
EPG_API epg_status epg_memset(epg_device *device, void *to, int value, size_t bytes);

/* ---- work ---- */

/* Runs fn(ctx) on the CPU in stream order; a node during capture, run again by each replay. fn must not call this
 * library's device functions. `name` (copied) labels the node in dumps; NULL for none. */
EPG_API epg_status epg_host_func(epg_device *device, epg_stream stream, void (*fn)(void *ctx), void *ctx,
                                 const char *name);

/* The host device's kernel launch: runs fn(args) in stream order on a copy of the `bytes` bytes at `args`. Host device
 * only (EPG_ERR_UNSUPPORTED elsewhere). May run during capture. */
EPG_API epg_status epg_host_launch(epg_device *device, epg_stream stream, void (*fn)(const void *args),
                                   const void *args, size_t bytes, const char *name);

/* Bytes per second, those read and those written together, that a plain copying kernel reaches between two arrays of
 * `bytes` bytes each; larger than the caches, so that it is the memory's rate. What a floor of other work's time is
 * reckoned with: nothing else should run meanwhile. Allocates both arrays and frees them. EPG_ERR_INVALID below 64 KiB;
 * EPG_ERR_UNSUPPORTED on a simulated device, whose time is virtual. Not during capture. */
EPG_API epg_status epg_device_copy_rate(epg_device *device, size_t bytes, double *bytes_per_second);

/* Writes the device's clock (epg_device_now_ns) to *at when the stream gets there. `at` is device or mapped memory,
 * aligned to 8 bytes. May run during capture, as a node: every replay writes anew. */
EPG_API epg_status epg_timestamp_async(epg_device *device, uint64_t *at, epg_stream stream);

/* ---- capture. docs/capture-rules.md says what each call answers, and does to a capture, while there is one. ---- */
EPG_API epg_status epg_capture_begin(epg_device *device, epg_stream stream, epg_capture_mode mode);

/* Ends the capture begun on `stream`. On failure the stream has left capture all the same and *graph is untouched. */
EPG_API epg_status epg_capture_end(epg_device *device, epg_stream stream, epg_graph *graph);

/* Status of the stream's capture and, where `id` is not NULL, a number unique to that capture (0 without one). 906
 * for the legacy stream while a blocking stream captures; that does not invalidate the capture. */
EPG_API epg_status epg_capture_query(epg_device *device, epg_stream stream, epg_capture_status *status, uint64_t *id);

/* Swaps the calling thread's capture mode with *mode (a thread starts in EPG_CAPTURE_GLOBAL). */
EPG_API epg_status epg_capture_mode_exchange(epg_device *device, epg_capture_mode *mode);

EPG_API epg_status epg_graph_destroy(epg_device *device, epg_graph graph);
EPG_API epg_status epg_graph_node_count(epg_device *device, epg_graph graph, size_t *nodes);

/* Writes the graph in Graphviz's DOT language, in pieces, through `write`. */
EPG_API epg_status epg_graph_dot(epg_device *device, epg_graph graph, void (*write)(void *ctx, const char *text),
                                 void *ctx);

/* The executable keeps what it needs; the graph may be destroyed at once. */
EPG_API epg_status epg_graph_instantiate(epg_device *device, epg_graph graph, epg_exec *exec);

/* Launches in flight run to their end; the host device waits for them here, the CUDA device does not. */
EPG_API epg_status epg_exec_destroy(epg_device *device, epg_exec exec);

/* Enqueues one replay. Branches of the graph run concurrently; two launches of one executable run one after the other.
 * 900 into a capturing stream. */
EPG_API epg_status epg_exec_launch(epg_device *device, epg_exec exec, epg_stream stream);

/* Enqueues what the first launch would otherwise have to do first. 900 into a capturing stream. */
EPG_API epg_status epg_exec_upload(epg_device *device, epg_exec exec, epg_stream stream);

/* Lets the executable's later launches run `graph`, which must differ in its nodes' parameters alone; much cheaper than
 * to instantiate. EPG_ERR_MISMATCH if it differs in more, EPG_ERR_UNSUPPORTED on the host device; the executable is as
 * it was then. */
EPG_API epg_status epg_exec_update(epg_device *device, epg_exec exec, epg_graph graph);

#ifdef __cplusplus
}
#endif
#endif
