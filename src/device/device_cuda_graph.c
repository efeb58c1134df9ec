/* The CUDA device's captures, graphs and executables. Not here: the dump (device_cuda_dot.c). */
#include "device/device_cuda_int.h"

_Static_assert((int)EPG_CAPTURE_GLOBAL == (int)cudaStreamCaptureModeGlobal, "capture modes are CUDA's");
_Static_assert((int)EPG_CAPTURE_THREAD_LOCAL == (int)cudaStreamCaptureModeThreadLocal, "capture modes are CUDA's");
_Static_assert((int)EPG_CAPTURE_RELAXED == (int)cudaStreamCaptureModeRelaxed, "capture modes are CUDA's");
_Static_assert((int)EPG_CAPTURE_NONE == (int)cudaStreamCaptureStatusNone, "capture states are CUDA's");
_Static_assert((int)EPG_CAPTURE_ACTIVE == (int)cudaStreamCaptureStatusActive, "capture states are CUDA's");
_Static_assert((int)EPG_CAPTURE_INVALIDATED == (int)cudaStreamCaptureStatusInvalidated, "capture states are CUDA's");

/* ---- capture ---- */

epg_status epg__cuda_capture_begin(epg_device *device, epg_stream stream, epg_capture_mode mode)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(device, "epg_capture_begin", &call));
    return epg__cuda_leave(&call, cudaStreamBeginCapture(epg__cuda_stream(stream), (enum cudaStreamCaptureMode)mode));
}

epg_status epg__cuda_capture_end(epg_device *device, epg_stream stream, epg_graph *graph)
{
    epg__cuda_call call;
    cudaGraph_t made = NULL;
    EPG_TRY(epg__cuda_enter(device, "epg_capture_end", &call));
    EPG_TRY(epg__cuda_leave(&call, cudaStreamEndCapture(epg__cuda_stream(stream), &made)));
    *graph = (epg_graph)made;
    return EPG_OK;
}

epg_status epg__cuda_capture_query(epg_device *device, epg_stream stream, epg_capture_status *status, uint64_t *id)
{
    epg__cuda_call call;
    enum cudaStreamCaptureStatus now = cudaStreamCaptureStatusNone;
    unsigned long long number = 0;
    EPG_TRY(epg__cuda_enter(device, "epg_capture_query", &call));
    cudaError_t error = id ? cudaStreamGetCaptureInfo(epg__cuda_stream(stream), &now, &number, NULL, NULL, NULL, NULL)
                           : cudaStreamIsCapturing(epg__cuda_stream(stream), &now);
    EPG_TRY(epg__cuda_leave(&call, error));
    *status = (epg_capture_status)now;
    if (id)
        *id = now == cudaStreamCaptureStatusActive ? number : 0;
    return EPG_OK;
}

epg_status epg__cuda_capture_mode_exchange(epg_device *device, epg_capture_mode *mode)
{
    epg__cuda_call call;
    enum cudaStreamCaptureMode swapped = (enum cudaStreamCaptureMode)*mode;
    EPG_TRY(epg__cuda_enter(device, "epg_capture_mode_exchange", &call));
    EPG_TRY(epg__cuda_leave(&call, cudaThreadExchangeStreamCaptureMode(&swapped)));
    *mode = (epg_capture_mode)swapped;
    return EPG_OK;
}

/* ---- graphs ---- */

epg_status epg__cuda_graph_destroy(epg_device *device, epg_graph graph)
{
    epg__cuda_call call;
    if (!graph)
        return EPG_OK;
    EPG_TRY(epg__cuda_enter(device, "epg_graph_destroy", &call));
    return epg__cuda_leave(&call, cudaGraphDestroy((cudaGraph_t)graph));
}

epg_status epg__cuda_graph_node_count(epg_device *device, epg_graph graph, size_t *nodes)
{
    epg__cuda_call call;
    size_t count = 0;
    EPG_TRY(epg__cuda_enter(device, "epg_graph_node_count", &call));
    EPG_TRY(epg__cuda_leave(&call, cudaGraphGetNodes((cudaGraph_t)graph, NULL, &count)));
    *nodes = count;
    return EPG_OK;
}

epg_status epg__cuda_graph_instantiate(epg_device *device, epg_graph graph, epg_exec *exec)
{
    epg__cuda_call call;
    cudaGraphExec_t made = NULL;
    EPG_TRY(epg__cuda_enter(device, "epg_graph_instantiate", &call));
    EPG_TRY(epg__cuda_leave(&call, cudaGraphInstantiate(&made, (cudaGraph_t)graph, 0)));
    *exec = (epg_exec)made;
    return EPG_OK;
}

/* ---- executables ---- */

epg_status epg__cuda_exec_destroy(epg_device *device, epg_exec exec)
{
    epg__cuda_call call;
    if (!exec)
        return EPG_OK;
    EPG_TRY(epg__cuda_enter(device, "epg_exec_destroy", &call));
    return epg__cuda_leave(&call, cudaGraphExecDestroy((cudaGraphExec_t)exec));
}

epg_status epg__cuda_exec_launch(epg_device *device, epg_exec exec, epg_stream stream)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(device, "epg_exec_launch", &call));
    return epg__cuda_leave(&call, cudaGraphLaunch((cudaGraphExec_t)exec, epg__cuda_stream(stream)));
}

epg_status epg__cuda_exec_upload(epg_device *device, epg_exec exec, epg_stream stream)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(device, "epg_exec_upload", &call));
    return epg__cuda_leave(&call, cudaGraphUpload((cudaGraphExec_t)exec, epg__cuda_stream(stream)));
}

static const char *update_result(enum cudaGraphExecUpdateResult result)
{
    switch (result) {
    case cudaGraphExecUpdateErrorTopologyChanged: return "nodes or dependencies were added or removed";
    case cudaGraphExecUpdateErrorNodeTypeChanged: return "a node became one of another type";
    case cudaGraphExecUpdateErrorFunctionChanged:
    case cudaGraphExecUpdateErrorUnsupportedFunctionChange: return "a node runs a kernel that cannot take its place";
    case cudaGraphExecUpdateErrorParametersChanged: return "a node's parameters changed in a way that is not supported";
    case cudaGraphExecUpdateErrorAttributesChanged: return "a node's attributes changed in a way that is not supported";
    case cudaGraphExecUpdateErrorNotSupported: return "a node cannot be updated at all";
    default: return "the driver gave no reason";
    }
}

epg_status epg__cuda_exec_update(epg_device *device, epg_exec exec, epg_graph graph)
{
    epg__cuda_call call;
    cudaGraphExecUpdateResultInfo result = {0};
    EPG_TRY(epg__cuda_enter(device, "epg_exec_update", &call));
    cudaError_t error = cudaGraphExecUpdate((cudaGraphExec_t)exec, (cudaGraph_t)graph, &result);
    epg_status status = epg__cuda_leave(&call, error);
    if (error != cudaErrorGraphExecUpdateFailure)
        return status;
    return epg__fail(EPG_ERR_MISMATCH, "epg_exec_update: %s", update_result(result.result));
}
