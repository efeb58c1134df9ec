/* Host functions on the CUDA device.
 *
 * CUDA keeps no name with a host function. One that is captured with a name is enqueued in a box that carries it; the
 * graph owns the box as a CUDA user object, so that it lives as long as the graph and its executables. */
#include <stdlib.h>
#include <string.h>
#include "device/device_cuda_int.h"

typedef struct box {
    void (*fn)(void *ctx);
    void *ctx;
    char name[];
} box;

static void CUDART_CB run_box(void *arg)
{
    const box *b = arg;
    b->fn(b->ctx);
}

static void CUDART_CB free_box(void *arg) { free(arg); }

const char *epg__cuda_host_name(const struct cudaHostNodeParams *params)
{
    return params->fn == run_box ? ((const box *)params->userData)->name : NULL;
}

/* The graph being captured on `stream`; NULL where the stream does not capture, or cannot be asked. */
static cudaGraph_t graph_under_capture(epg_stream stream)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaGraph_t graph = NULL;
    if (cudaStreamGetCaptureInfo(epg__cuda_stream(stream), &status, NULL, &graph, NULL, NULL, NULL) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    return status == cudaStreamCaptureStatusActive ? graph : NULL;
}

/* The graph owns the box from here on, also where the launch fails. */
static cudaError_t give_to_graph(cudaGraph_t graph, box *made)
{
    cudaUserObject_t object;
    cudaError_t error = cudaUserObjectCreate(&object, made, free_box, 1, cudaUserObjectNoDestructorSync);
    if (error != cudaSuccess) {
        free(made);
        return error;
    }
    error = cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove);
    if (error != cudaSuccess)
        cudaUserObjectRelease(object, 1);
    return error;
}

static cudaError_t launch_named(cudaGraph_t graph, epg_stream stream, void (*fn)(void *ctx), void *ctx,
                                const char *name)
{
    size_t text = strlen(name) + 1, total;
    box *made = epg__add(sizeof *made, text, &total) ? malloc(total) : NULL;
    if (!made)
        return cudaErrorMemoryAllocation;
    *made = (box){.fn = fn, .ctx = ctx};
    memcpy(made->name, name, text);
    cudaError_t error = give_to_graph(graph, made);
    return error == cudaSuccess ? cudaLaunchHostFunc(epg__cuda_stream(stream), run_box, made) : error;
}

epg_status epg__cuda_host_func(epg_device *device, epg_stream stream, void (*fn)(void *ctx), void *ctx,
                                const char *name)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(device, "epg_host_func", &call));
    cudaGraph_t graph = name ? graph_under_capture(stream) : NULL;
    return epg__cuda_leave(&call, graph ? launch_named(graph, stream, fn, ctx, name)
                                        : cudaLaunchHostFunc(epg__cuda_stream(stream), fn, ctx));
}

epg_status epg__cuda_host_launch(epg_device *device, epg_stream stream, void (*fn)(const void *args), const void *args,
                                 size_t bytes, const char *name)
{
    (void)stream, (void)fn, (void)args, (void)bytes;
    return epg__fail(EPG_ERR_UNSUPPORTED, "epg_host_launch: \"%s\" is a kernel of the host device; this is %s",
                     name ? name : "kernel", device->info.name);
}
