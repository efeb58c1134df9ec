/* The CUDA device's parts, for its own files only: the one place of the library that calls the CUDA runtime.
 *
 * Handles are CUDA's own: an epg_stream is a cudaStream_t, an epg_event a cudaEvent_t, an epg_graph a cudaGraph_t, an
 * epg_exec a cudaGraphExec_t, so that streams of other libraries can be passed in, and nothing is looked up on the
 * enqueue path. A handle that was destroyed is therefore not recognised.
 *
 * Invariants: every call leaves the thread's current device as it was, and no error of ours behind in CUDA's "last
 * error", where another library would take it for its own. */
#ifndef EPG_DEVICE_CUDA_INT_H
#define EPG_DEVICE_CUDA_INT_H

#include <cuda_runtime_api.h>
#include "device/device_ops.h"

typedef struct epg__cuda_device {
    epg_device base;
    int ordinal;
    uint64_t clock_offset;  /* of the GPU's global timer from the host's monotonic clock, modulo 2^64 */
    cudaStream_t fill;      /* non-blocking; zeroes new memory and touches no other stream */
    struct nvtxDomainRegistration_st *ranges; /* NULL: there is no profiler */
    struct nvtxStringRegistration_st *range_names[EPG__RANGE_COUNT];
} epg__cuda_device;

static inline epg__cuda_device *epg__cuda_of(epg_device *device) { return (epg__cuda_device *)device; }
static inline cudaStream_t epg__cuda_stream(epg_stream stream) { return (cudaStream_t)stream; }
static inline cudaEvent_t epg__cuda_event(epg_event event) { return (cudaEvent_t)event; }

/* ---- device_cuda.c ---- */

/* One public call: makes the device current on this thread, and puts back what was. */
typedef struct epg__cuda_call {
    const char *what;   /* the public function */
    int before;
    bool switched;
} epg__cuda_call;

epg_status epg__cuda_enter(epg_device *device, const char *what, epg__cuda_call *call);

/* Ends the call; `error` is its outcome, made into a status. */
epg_status epg__cuda_leave(const epg__cuda_call *call, cudaError_t error);

/* The status for a CUDA error, with this thread's message. */
epg_status epg__cuda_fail(cudaError_t error, const char *what);

/* ---- device_cuda_kernels.cu: kernels of the device's own ---- */
const void *epg__cuda_probe_kernel(void); /* does nothing; its argument is one int */
const void *epg__cuda_clock_kernel(void); /* writes the GPU's global timer to its argument, a uint64_t pointer */

/* ---- device_cuda_stream.c ---- */
epg_status epg__cuda_synchronize(epg_device *device);
epg_status epg__cuda_stream_create(epg_device *device, epg_stream_kind kind, epg_stream *stream);
epg_status epg__cuda_stream_destroy(epg_device *device, epg_stream stream);
epg_status epg__cuda_stream_synchronize(epg_device *device, epg_stream stream);
epg_status epg__cuda_stream_query(epg_device *device, epg_stream stream);
epg_status epg__cuda_stream_wait_event(epg_device *device, epg_stream stream, epg_event event);
epg_status epg__cuda_event_create(epg_device *device, epg_event *event);
epg_status epg__cuda_event_create_order(epg_device *device, epg_event *event);
epg_status epg__cuda_event_destroy(epg_device *device, epg_event event);
epg_status epg__cuda_event_record(epg_device *device, epg_event event, epg_stream stream);
epg_status epg__cuda_event_query(epg_device *device, epg_event event);
epg_status epg__cuda_event_synchronize(epg_device *device, epg_event event);
epg_status epg__cuda_event_elapsed_us(epg_device *device, epg_event start, epg_event stop, double *us);
epg_status epg__cuda_memcpy_async(epg_device *device, void *to, const void *from, size_t bytes, epg_stream stream);
epg_status epg__cuda_memset_async(epg_device *device, void *to, int value, size_t bytes, epg_stream stream);
epg_status epg__cuda_memcpy_sync(epg_device *device, void *to, const void *from, size_t bytes);
epg_status epg__cuda_memset_sync(epg_device *device, void *to, int value, size_t bytes);

/* ---- device_cuda_host.c: host functions, and the names that graphs keep of them ---- */
epg_status epg__cuda_host_func(epg_device *device, epg_stream stream, void (*fn)(void *ctx), void *ctx,
                                const char *name);
epg_status epg__cuda_host_launch(epg_device *device, epg_stream stream, void (*fn)(const void *args), const void *args,
                                 size_t bytes, const char *name);

/* The name under which a graph's host function was enqueued; NULL if it was without one, or not by us. */
const char *epg__cuda_host_name(const struct cudaHostNodeParams *params);

/* ---- device_cuda_range.c ---- */
void epg__cuda_ranges_create(epg__cuda_device *device);
void epg__cuda_range_push(epg_device *device, epg__range range);
void epg__cuda_range_pop(epg_device *device);

/* ---- device_cuda_probe.c ---- */
epg_status epg__cuda_probe_launch(epg_device *device, epg_stream stream);
epg_status epg__cuda_probe_callback(epg_device *device, epg_stream stream);
epg_status epg__cuda_probe_attributes(epg_device *device, int *block_threads);
epg_status epg__cuda_probe_occupancy(epg_device *device, int *blocks);
epg_status epg__cuda_probe_last_error(epg_device *device);
epg_status epg__cuda_probe_make_current(epg_device *device);

/* ---- device_cuda_copy.cu ---- */
epg_status epg__cuda_copy_launch(epg_device *device, epg_stream stream, void *to, const void *from, size_t bytes);

/* ---- device_cuda_graph.c ---- */
epg_status epg__cuda_capture_begin(epg_device *device, epg_stream stream, epg_capture_mode mode);
epg_status epg__cuda_capture_end(epg_device *device, epg_stream stream, epg_graph *graph);
epg_status epg__cuda_capture_query(epg_device *device, epg_stream stream, epg_capture_status *status, uint64_t *id);
epg_status epg__cuda_capture_mode_exchange(epg_device *device, epg_capture_mode *mode);
epg_status epg__cuda_graph_destroy(epg_device *device, epg_graph graph);
epg_status epg__cuda_graph_node_count(epg_device *device, epg_graph graph, size_t *nodes);
epg_status epg__cuda_graph_instantiate(epg_device *device, epg_graph graph, epg_exec *exec);
epg_status epg__cuda_exec_destroy(epg_device *device, epg_exec exec);
epg_status epg__cuda_exec_launch(epg_device *device, epg_exec exec, epg_stream stream);
epg_status epg__cuda_exec_upload(epg_device *device, epg_exec exec, epg_stream stream);
epg_status epg__cuda_exec_update(epg_device *device, epg_exec exec, epg_graph graph);

/* ---- device_cuda_dot.c ---- */
epg_status epg__cuda_graph_dot(epg_device *device, epg_graph graph, void (*write)(void *ctx, const char *text),
                                void *ctx);

#endif
