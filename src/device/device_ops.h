/* The table behind every device, and what all devices share. device.c checks arguments and calls through it; the
 * entries may rely on non-NULL handles and outputs. Every entry is set: a device without an operation points it at a
 * stub that says so. */
#ifndef EPG_DEVICE_OPS_H
#define EPG_DEVICE_OPS_H

#include "core/core_int.h"
#include "device/engine_int.h"
#include "device/host_kernel_int.h"
#include "epgraph/device.h"

/* What a profiler's timeline shows of the calling thread's work, as nested ranges. */
typedef enum epg__range {
    EPG__RANGE_FIRST_USE, /* the runner's, in the order of epg_runner_span */
    EPG__RANGE_WARMUP,
    EPG__RANGE_PROBE,
    EPG__RANGE_CAPTURE,
    EPG__RANGE_INSTANTIATE,
    EPG__RANGE_REPLAY,
    EPG__RANGE_EAGER,
    EPG__RANGE_DISPATCH,  /* enqueueing a group's operations */
    EPG__RANGE_COMBINE,
    EPG__RANGE_DISPATCH_SEND, /* the halves, in the order of epg_operation */
    EPG__RANGE_DISPATCH_RECV,
    EPG__RANGE_COMBINE_SEND,
    EPG__RANGE_COMBINE_RECV,
    EPG__RANGE_COUNT
} epg__range;

typedef struct epg__device_ops {
    void (*destroy)(epg_device *device);
    uint64_t (*now_ns)(epg_device *device);
    epg_status (*synchronize)(epg_device *device);

    epg_status (*stream_create)(epg_device *device, epg_stream_kind kind, epg_stream *stream);
    epg_status (*stream_destroy)(epg_device *device, epg_stream stream);
    epg_status (*stream_synchronize)(epg_device *device, epg_stream stream);
    epg_status (*stream_query)(epg_device *device, epg_stream stream);
    epg_status (*stream_wait_event)(epg_device *device, epg_stream stream, epg_event event);

    epg_status (*event_create)(epg_device *device, epg_event *event);
    epg_status (*event_create_order)(epg_device *device, epg_event *event);
    epg_status (*event_destroy)(epg_device *device, epg_event event);
    epg_status (*event_record)(epg_device *device, epg_event event, epg_stream stream);
    epg_status (*event_query)(epg_device *device, epg_event event);
    epg_status (*event_synchronize)(epg_device *device, epg_event event);
    epg_status (*event_elapsed_us)(epg_device *device, epg_event start, epg_event stop, double *us);

    epg_status (*memory_alloc)(epg_device *device, epg_memory_kind kind, size_t bytes, void **memory);
    epg_status (*memory_free)(epg_device *device, epg_memory_kind kind, void *memory);
    epg_status (*memory_alloc_async)(epg_device *device, size_t bytes, epg_stream stream, void **memory);
    epg_status (*memory_free_async)(epg_device *device, void *memory, epg_stream stream);
    epg_status (*memory_trim)(epg_device *device, size_t keep);
    epg_status (*memory_info)(epg_device *device, uint64_t *free_bytes, uint64_t *total_bytes);
    epg_status (*memcpy_async)(epg_device *device, void *to, const void *from, size_t bytes, epg_stream stream);
    epg_status (*memset_async)(epg_device *device, void *to, int value, size_t bytes, epg_stream stream);
    epg_status (*memcpy_sync)(epg_device *device, void *to, const void *from, size_t bytes);
    epg_status (*memset_sync)(epg_device *device, void *to, int value, size_t bytes);

    epg_status (*host_func)(epg_device *device, epg_stream stream, void (*fn)(void *ctx), void *ctx, const char *name);
    epg_status (*host_launch)(epg_device *device, epg_stream stream, void (*fn)(const void *args), const void *args,
                              size_t bytes, const char *name);

    epg_status (*timestamp_async)(epg_device *device, uint64_t *at, epg_stream stream);

    epg_status (*capture_begin)(epg_device *device, epg_stream stream, epg_capture_mode mode);
    epg_status (*capture_end)(epg_device *device, epg_stream stream, epg_graph *graph);
    epg_status (*capture_query)(epg_device *device, epg_stream stream, epg_capture_status *status, uint64_t *id);
    epg_status (*capture_mode_exchange)(epg_device *device, epg_capture_mode *mode);

    epg_status (*graph_destroy)(epg_device *device, epg_graph graph);
    epg_status (*graph_node_count)(epg_device *device, epg_graph graph, size_t *nodes);
    epg_status (*graph_dot)(epg_device *device, epg_graph graph, void (*write)(void *ctx, const char *text), void *ctx);
    epg_status (*graph_instantiate)(epg_device *device, epg_graph graph, epg_exec *exec);
    epg_status (*exec_destroy)(epg_device *device, epg_exec exec);
    epg_status (*exec_launch)(epg_device *device, epg_exec exec, epg_stream stream);
    epg_status (*exec_upload)(epg_device *device, epg_exec exec, epg_stream stream);
    epg_status (*exec_update)(epg_device *device, epg_exec exec, epg_graph graph);

    /* Every push has its pop, on the same thread, on error paths too. Without a profiler they do nothing. */
    void (*range_push)(epg_device *device, epg__range range);
    void (*range_pop)(epg_device *device);

    /* What the conformance table asks of a device and no caller needs (conform_ops.c). "The probe" is a kernel that
     * does nothing. */
    epg_status (*probe_launch)(epg_device *device, epg_stream stream);
    epg_status (*probe_callback)(epg_device *device, epg_stream stream); /* one that the stream itself waits for */
    epg_status (*probe_attributes)(epg_device *device, int *block_threads); /* most threads in a block of the probe */
    epg_status (*probe_occupancy)(epg_device *device, int *blocks);         /* blocks of it that a unit holds at once */
    epg_status (*probe_last_error)(epg_device *device);   /* the calling thread's last error, which stays as it is */
    epg_status (*probe_make_current)(epg_device *device); /* binds the device to the calling thread */

    /* For epg_device_copy_rate: a kernel that copies, a multiple of 16 bytes. One fills the device, or one per unit
     * does. */
    epg_status (*copy_launch)(epg_device *device, epg_stream stream, void *to, const void *from, size_t bytes);
    int copy_fills_device;
} epg__device_ops;

/* The head of every device; a device's own struct starts with it. */
struct epg_device {
    const epg__device_ops *ops;
    epg_device_info info;
    epg_log_fn log;
    void *log_ctx;
    epg_log_level log_level;
    epg__engine *engine;       /* destroyed after the device, by device.c */
    epg__simulator *simulator; /* NULL, but on a simulated device; for the wrappers of host_kernel_int.h */
};

/* Hands a line to the device's log callback, if its level is wanted. */
void epg__log(epg_device *device, epg_log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The inside of a quoted string of a DOT dump, in pieces. */
void epg__dot_escape(const char *text, void (*write)(void *ctx, const char *text), void *ctx);

/* Create a device: device_host.c; device_cuda.c or, without CUDA, device_nocuda.c. The caller (epg_device_create) fills
 * the rest of the head. */
epg_status epg__device_host_create(epg__engine *engine, epg_device **device);
epg_status epg__device_cuda_create(const epg_device_options *options, epg_device **device);

#endif
