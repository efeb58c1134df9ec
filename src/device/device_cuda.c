/* The CUDA device: creation, memory, the clock, errors, and the operations table.
 *
 * Not here: streams and events (device_cuda_stream.c), capture and graphs (device_cuda_graph.c), kernels
 * (device_cuda_kernel.c).
 *
 * The runtime is linked statically and opens the driver itself, so one program runs on machines with and without a
 * driver; where there is none, creation fails and names CUDA's error.
 *
 * The clock. Kernels bound their waits by the GPU's global timer, which the host cannot read without a kernel. Creation
 * reads it once beside the host's monotonic clock, and epg_device_now_ns adds that offset to the host's clock ever
 * after. The two clocks run apart by some parts per million, which is nothing to a deadline in seconds. */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "device/cuda_kernel_int.h"
#include "device/device_cuda_int.h"

/* ---- errors ---- */

/* CUDA's numbers in the status table; the first of a number is meant. */
static epg_status status_of(cudaError_t error)
{
#define MATCH(code, name, native, text) if ((native) != 0 && (int)error == (native)) return EPG_##name;
    EPG_STATUS_TABLE(MATCH)
#undef MATCH
    return (epg_status)(EPG_ERR_NATIVE + (int)error);
}

epg_status epg__cuda_fail(cudaError_t error, const char *what)
{
    return epg__fail(status_of(error), "%s: %s (%d): %s", what, cudaGetErrorName(error), (int)error,
                     cudaGetErrorString(error));
}

epg_status epg__cuda_enter(epg_device *device, const char *what, epg__cuda_call *call)
{
    int ordinal = epg__cuda_of(device)->ordinal;
    *call = (epg__cuda_call){what, ordinal, false};
    cudaError_t error = cudaGetDevice(&call->before);
    if (error == cudaSuccess && call->before != ordinal) {
        error = cudaSetDevice(ordinal);
        call->switched = error == cudaSuccess;
    }
    return error == cudaSuccess ? EPG_OK : epg__cuda_leave(call, error);
}

epg_status epg__cuda_leave(const epg__cuda_call *call, cudaError_t error)
{
    epg_status status = error == cudaSuccess ? EPG_OK : epg__cuda_fail(error, call->what);
    if (error != cudaSuccess)
        cudaGetLastError();
    if (call->switched)
        cudaSetDevice(call->before);
    return status;
}

/* ---- memory ---- */

static cudaError_t device_alloc(const epg__cuda_device *device, size_t bytes, void **memory)
{
    cudaError_t error = cudaMalloc(memory, bytes);
    if (error != cudaSuccess)
        return error;
    error = cudaMemsetAsync(*memory, 0, bytes, device->fill);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(device->fill);
    if (error != cudaSuccess)
        cudaFree(*memory);
    return error;
}

static cudaError_t pinned_alloc(epg_memory_kind kind, size_t bytes, void **memory)
{
    unsigned flags = kind == EPG_MEMORY_MAPPED ? cudaHostAllocPortable | cudaHostAllocMapped : cudaHostAllocPortable;
    cudaError_t error = cudaHostAlloc(memory, bytes, flags);
    if (error == cudaSuccess)
        memset(*memory, 0, bytes);
    return error;
}

static epg_status memory_alloc(epg_device *device, epg_memory_kind kind, size_t bytes, void **memory)
{
    epg__cuda_call call;
    void *made = NULL;
    size_t size = bytes ? bytes : 1;
    EPG_TRY(epg__cuda_enter(device, "epg_memory_alloc", &call));
    cudaError_t error = kind == EPG_MEMORY_DEVICE ? device_alloc(epg__cuda_of(device), size, &made)
                                                  : pinned_alloc(kind, size, &made);
    epg_status status = epg__cuda_leave(&call, error);
    if (status != EPG_OK)
        return epg__fail_prefix(status, "%zu bytes of %s memory: ", bytes,
                                kind == EPG_MEMORY_DEVICE ? "device" : "pinned");
    *memory = made;
    return EPG_OK;
}

static epg_status memory_free(epg_device *device, epg_memory_kind kind, void *memory)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(device, "epg_memory_free", &call));
    return epg__cuda_leave(&call, kind == EPG_MEMORY_DEVICE ? cudaFree(memory) : cudaFreeHost(memory));
}

static epg_status memory_alloc_async(epg_device *device, size_t bytes, epg_stream stream, void **memory)
{
    epg__cuda_call call;
    void *made = NULL;
    EPG_TRY(epg__cuda_enter(device, "epg_memory_alloc_async", &call));
    EPG_TRY(epg__cuda_leave(&call, cudaMallocAsync(&made, bytes, epg__cuda_stream(stream))));
    *memory = made;
    return EPG_OK;
}

static epg_status memory_free_async(epg_device *device, void *memory, epg_stream stream)
{
    epg__cuda_call call;
    if (!memory)
        return EPG_OK;
    EPG_TRY(epg__cuda_enter(device, "epg_memory_free_async", &call));
    return epg__cuda_leave(&call, cudaFreeAsync(memory, epg__cuda_stream(stream)));
}

static epg_status memory_trim(epg_device *device, size_t keep)
{
    epg__cuda_call call;
    cudaMemPool_t pool;
    EPG_TRY(epg__cuda_enter(device, "epg_memory_trim", &call));
    cudaError_t error = cudaDeviceGetDefaultMemPool(&pool, epg__cuda_of(device)->ordinal);
    if (error == cudaSuccess)
        error = cudaMemPoolTrimTo(pool, keep);
    if (error == cudaSuccess) /* graphs' allocations come from a pool of their own, which all graphs share */
        error = cudaDeviceGraphMemTrim(epg__cuda_of(device)->ordinal);
    return epg__cuda_leave(&call, error);
}

static epg_status memory_info(epg_device *device, uint64_t *free_bytes, uint64_t *total_bytes)
{
    epg__cuda_call call;
    size_t available = 0, total = 0;
    EPG_TRY(epg__cuda_enter(device, "epg_memory_info", &call));
    EPG_TRY(epg__cuda_leave(&call, cudaMemGetInfo(&available, &total)));
    *free_bytes = available;
    *total_bytes = total;
    return EPG_OK;
}

/* ---- the clock ---- */

static uint64_t host_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t device_now_ns(epg_device *device) { return host_ns() + epg__cuda_of(device)->clock_offset; }

/* The narrowest of several readings: the kernel ran somewhere between the two looks at the host's clock. */
static epg_status set_clock(epg__cuda_device *device)
{
    enum { READINGS = 8 };
    uint64_t *ns, narrowest = UINT64_MAX;
    epg__cuda_launch launch = {.kernel = epg__cuda_clock_kernel(), .name = "clock", .block = 1};
    EPG_TRY(epg__cuda_kernel_prepare(&device->base, launch.kernel, 0));
    EPG_TRY(memory_alloc(&device->base, EPG_MEMORY_MAPPED, sizeof *ns, (void **)&ns));
    epg_status status = EPG_OK;
    for (int i = 0; i < READINGS && status == EPG_OK; i++) {
        uint64_t before = host_ns();
        status = epg__cuda_launch_kernel(&device->base, (epg_stream)device->fill, &launch, &ns);
        if (status == EPG_OK)
            status = epg__cuda_stream_synchronize(&device->base, (epg_stream)device->fill);
        uint64_t took = host_ns() - before;
        if (status != EPG_OK || took >= narrowest)
            continue;
        narrowest = took;
        device->clock_offset = *ns - (before + took / 2);
    }
    epg_status freed = memory_free(&device->base, EPG_MEMORY_MAPPED, ns);
    return status != EPG_OK ? status : freed;
}

static epg_status timestamp_async(epg_device *device, uint64_t *at, epg_stream stream)
{
    epg__cuda_launch launch = {.kernel = epg__cuda_clock_kernel(), .name = "epg_timestamp_async", .block = 1};
    return epg__cuda_launch_kernel(device, stream, &launch, &at);
}

/* ---- creation ---- */

static void device_destroy(epg_device *base)
{
    epg__cuda_device *device = epg__cuda_of(base);
    epg__cuda_call call;
    if (epg__cuda_enter(base, "epg_device_destroy", &call) == EPG_OK) {
        cudaDeviceSynchronize();
        epg__cuda_leave(&call, device->fill ? cudaStreamDestroy(device->fill) : cudaSuccess);
    }
    free(device);
}

static const epg__device_ops cuda_ops = {
    .destroy = device_destroy,
    .now_ns = device_now_ns,
    .synchronize = epg__cuda_synchronize,
    .stream_create = epg__cuda_stream_create,
    .stream_destroy = epg__cuda_stream_destroy,
    .stream_synchronize = epg__cuda_stream_synchronize,
    .stream_query = epg__cuda_stream_query,
    .stream_wait_event = epg__cuda_stream_wait_event,
    .event_create = epg__cuda_event_create,
    .event_create_order = epg__cuda_event_create_order,
    .event_destroy = epg__cuda_event_destroy,
    .event_record = epg__cuda_event_record,
    .event_query = epg__cuda_event_query,
    .event_synchronize = epg__cuda_event_synchronize,
    .event_elapsed_us = epg__cuda_event_elapsed_us,
    .memory_alloc = memory_alloc,
    .memory_free = memory_free,
    .memory_alloc_async = memory_alloc_async,
    .memory_free_async = memory_free_async,
    .memory_trim = memory_trim,
    .memory_info = memory_info,
    .memcpy_async = epg__cuda_memcpy_async,
    .memset_async = epg__cuda_memset_async,
    .memcpy_sync = epg__cuda_memcpy_sync,
    .memset_sync = epg__cuda_memset_sync,
    .host_func = epg__cuda_host_func,
    .host_launch = epg__cuda_host_launch,
    .timestamp_async = timestamp_async,
    .capture_begin = epg__cuda_capture_begin,
    .capture_end = epg__cuda_capture_end,
    .capture_query = epg__cuda_capture_query,
    .capture_mode_exchange = epg__cuda_capture_mode_exchange,
    .graph_destroy = epg__cuda_graph_destroy,
    .graph_node_count = epg__cuda_graph_node_count,
    .graph_dot = epg__cuda_graph_dot,
    .graph_instantiate = epg__cuda_graph_instantiate,
    .exec_destroy = epg__cuda_exec_destroy,
    .exec_launch = epg__cuda_exec_launch,
    .exec_upload = epg__cuda_exec_upload,
    .exec_update = epg__cuda_exec_update,
    .range_push = epg__cuda_range_push,
    .range_pop = epg__cuda_range_pop,
    .probe_launch = epg__cuda_probe_launch,
    .probe_callback = epg__cuda_probe_callback,
    .probe_attributes = epg__cuda_probe_attributes,
    .probe_occupancy = epg__cuda_probe_occupancy,
    .probe_last_error = epg__cuda_probe_last_error,
    .probe_make_current = epg__cuda_probe_make_current,
    .copy_launch = epg__cuda_copy_launch,
    .copy_fills_device = 1,
};

/* Is there such a GPU? All of CUDA's reasons why not (no driver, one too old, none visible) mean the same here. */
static epg_status check_ordinal(int ordinal)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) {
        cudaGetLastError();
        return epg__fail(EPG_ERR_UNSUPPORTED, "no CUDA device can be used: %s (%d): %s", cudaGetErrorName(error),
                         (int)error, cudaGetErrorString(error));
    }
    if (ordinal < 0 || ordinal >= count)
        return epg__fail(EPG_ERR_INVALID, "there is no CUDA device %d; this machine shows %d", ordinal, count);
    return EPG_OK;
}

static cudaError_t fill_info(epg__cuda_device *device)
{
    struct cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device->ordinal);
    if (error != cudaSuccess)
        return error;
    epg_device_info *info = &device->base.info;
    *info = (epg_device_info){.size = sizeof *info, .kind = EPG_DEVICE_CUDA};
    info->units = (uint32_t)properties.multiProcessorCount;
    info->memory_bytes = properties.totalGlobalMem;
    info->ordinal = device->ordinal;
    snprintf(info->name, sizeof info->name, "cuda %d: %.48s", device->ordinal, properties.name);
    return cudaSuccess;
}

static epg_status fill_device(epg__cuda_device *device)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(&device->base, "epg_device_create", &call));
    cudaError_t error = fill_info(device);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&device->fill, cudaStreamNonBlocking);
    EPG_TRY(epg__cuda_leave(&call, error));
    EPG_TRY(epg__cuda_kernel_prepare(&device->base, epg__cuda_probe_kernel(), 0));
    return set_clock(device);
}

epg_status epg__device_cuda_create(const epg_device_options *options, epg_device **device)
{
    EPG_TRY(check_ordinal(options->ordinal));
    epg__cuda_device *made = epg__zalloc(1, sizeof *made, "a device");
    if (!made)
        return EPG_ERR_NO_MEMORY;
    made->base.ops = &cuda_ops;
    made->ordinal = options->ordinal;
    epg__cuda_ranges_create(made);
    epg_status status = fill_device(made);
    if (status != EPG_OK) {
        char kept[512];
        snprintf(kept, sizeof kept, "%s", epg_message());
        device_destroy(&made->base);
        return epg__fail(status, "%s", kept);
    }
    *device = &made->base;
    return EPG_OK;
}
