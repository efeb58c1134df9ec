/* The CUDA device's streams, events and copies. Not here: host functions (device_cuda_host.c), kernels
 * (device_cuda_kernel.c). */
#include "device/device_cuda_int.h"

epg_status epg__cuda_synchronize(epg_device *device)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(device, "epg_device_synchronize", &call));
    return epg__cuda_leave(&call, cudaDeviceSynchronize());
}

/* ---- streams ---- */

/* A new stream gets a kernel that does nothing. The driver gives streams channels as work comes, and where two threads
 * give new streams their first work at once it may give both the same: then what waits in one stream, with more behind
 * it, holds up the other. From its second work on a stream keeps clear of channels that are held up, while at most
 * half of them are (bench/channels.c, docs/results-h200.md). */
epg_status epg__cuda_stream_create(epg_device *device, epg_stream_kind kind, epg_stream *stream)
{
    epg__cuda_call call;
    cudaStream_t made = NULL;
    EPG_TRY(epg__cuda_enter(device, "epg_stream_create", &call));
    unsigned flags = kind == EPG_STREAM_NONBLOCKING ? cudaStreamNonBlocking : cudaStreamDefault;
    EPG_TRY(epg__cuda_leave(&call, cudaStreamCreateWithFlags(&made, flags)));
    epg_status status = epg__cuda_probe_launch(device, (epg_stream)made);
    if (status != EPG_OK) {
        if (cudaStreamDestroy(made) != cudaSuccess)
            cudaGetLastError();
        return epg__fail_prefix(status, "epg_stream_create: ");
    }
    *stream = (epg_stream)made;
    return EPG_OK;
}

epg_status epg__cuda_stream_destroy(epg_device *device, epg_stream stream)
{
    epg__cuda_call call;
    if (!stream)
        return EPG_OK;
    if (stream == EPG_STREAM_LEGACY || stream == EPG_STREAM_PER_THREAD)
        return epg__fail(EPG_ERR_HANDLE, "epg_stream_destroy: a default stream cannot be destroyed");
    EPG_TRY(epg__cuda_enter(device, "epg_stream_destroy", &call));
    return epg__cuda_leave(&call, cudaStreamDestroy(epg__cuda_stream(stream)));
}

epg_status epg__cuda_stream_synchronize(epg_device *device, epg_stream stream)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(device, "epg_stream_synchronize", &call));
    return epg__cuda_leave(&call, cudaStreamSynchronize(epg__cuda_stream(stream)));
}

epg_status epg__cuda_stream_query(epg_device *device, epg_stream stream)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(device, "epg_stream_query", &call));
    return epg__cuda_leave(&call, cudaStreamQuery(epg__cuda_stream(stream)));
}

epg_status epg__cuda_stream_wait_event(epg_device *device, epg_stream stream, epg_event event)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(device, "epg_stream_wait_event", &call));
    return epg__cuda_leave(&call, cudaStreamWaitEvent(epg__cuda_stream(stream), epg__cuda_event(event), 0));
}

/* ---- events ---- */

static epg_status create_event(epg_device *device, unsigned flags, epg_event *event)
{
    epg__cuda_call call;
    cudaEvent_t made = NULL;
    EPG_TRY(epg__cuda_enter(device, "epg_event_create", &call));
    EPG_TRY(epg__cuda_leave(&call, cudaEventCreateWithFlags(&made, flags)));
    *event = (epg_event)made;
    return EPG_OK;
}

epg_status epg__cuda_event_create(epg_device *device, epg_event *event)
{
    return create_event(device, cudaEventDefault, event);
}

epg_status epg__cuda_event_create_order(epg_device *device, epg_event *event)
{
    return create_event(device, cudaEventDisableTiming, event);
}

epg_status epg__cuda_event_destroy(epg_device *device, epg_event event)
{
    epg__cuda_call call;
    if (!event)
        return EPG_OK;
    EPG_TRY(epg__cuda_enter(device, "epg_event_destroy", &call));
    return epg__cuda_leave(&call, cudaEventDestroy(epg__cuda_event(event)));
}

epg_status epg__cuda_event_record(epg_device *device, epg_event event, epg_stream stream)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(device, "epg_event_record", &call));
    return epg__cuda_leave(&call, cudaEventRecord(epg__cuda_event(event), epg__cuda_stream(stream)));
}

epg_status epg__cuda_event_query(epg_device *device, epg_event event)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(device, "epg_event_query", &call));
    return epg__cuda_leave(&call, cudaEventQuery(epg__cuda_event(event)));
}

epg_status epg__cuda_event_synchronize(epg_device *device, epg_event event)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(device, "epg_event_synchronize", &call));
    return epg__cuda_leave(&call, cudaEventSynchronize(epg__cuda_event(event)));
}

epg_status epg__cuda_event_elapsed_us(epg_device *device, epg_event start, epg_event stop, double *us)
{
    epg__cuda_call call;
    float ms = 0;
    EPG_TRY(epg__cuda_enter(device, "epg_event_elapsed_us", &call));
    EPG_TRY(epg__cuda_leave(&call, cudaEventElapsedTime(&ms, epg__cuda_event(start), epg__cuda_event(stop))));
    *us = (double)ms * 1000.0;
    return EPG_OK;
}

/* ---- copies ---- */

epg_status epg__cuda_memcpy_async(epg_device *device, void *to, const void *from, size_t bytes, epg_stream stream)
{
    epg__cuda_call call;
    if (bytes == 0)
        return EPG_OK;
    EPG_TRY(epg__cuda_enter(device, "epg_memcpy_async", &call));
    return epg__cuda_leave(&call, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, epg__cuda_stream(stream)));
}

epg_status epg__cuda_memset_async(epg_device *device, void *to, int value, size_t bytes, epg_stream stream)
{
    epg__cuda_call call;
    if (bytes == 0)
        return EPG_OK;
    EPG_TRY(epg__cuda_enter(device, "epg_memset_async", &call));
    return epg__cuda_leave(&call, cudaMemsetAsync(to, value, bytes, epg__cuda_stream(stream)));
}

/* CUDA's own calls return before the bytes are there when they go from device to device or come from pageable memory,
 * and a non-blocking stream would then read too early. The wait is made in relaxed mode, so that it is permitted
 * wherever the copy was. */
static cudaError_t wait_for_legacy(cudaError_t error)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    if (error == cudaSuccess)
        error = cudaThreadExchangeStreamCaptureMode(&mode);
    if (error != cudaSuccess)
        return error;
    error = cudaStreamSynchronize(cudaStreamLegacy);
    cudaError_t back = cudaThreadExchangeStreamCaptureMode(&mode);
    return error != cudaSuccess ? error : back;
}

epg_status epg__cuda_memcpy_sync(epg_device *device, void *to, const void *from, size_t bytes)
{
    epg__cuda_call call;
    if (bytes == 0)
        return EPG_OK;
    EPG_TRY(epg__cuda_enter(device, "epg_memcpy", &call));
    return epg__cuda_leave(&call, wait_for_legacy(cudaMemcpy(to, from, bytes, cudaMemcpyDefault)));
}

epg_status epg__cuda_memset_sync(epg_device *device, void *to, int value, size_t bytes)
{
    epg__cuda_call call;
    if (bytes == 0)
        return EPG_OK;
    EPG_TRY(epg__cuda_enter(device, "epg_memset", &call));
    return epg__cuda_leave(&call, wait_for_legacy(cudaMemset(to, value, bytes)));
}
