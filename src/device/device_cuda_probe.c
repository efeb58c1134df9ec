/* What the conformance table asks of the CUDA device and no caller needs; new streams get the probe's kernel too. */
#include "device/cuda_kernel_int.h"
#include "device/device_cuda_int.h"

epg_status epg__cuda_probe_launch(epg_device *device, epg_stream stream)
{
    epg__cuda_launch launch = {.kernel = epg__cuda_probe_kernel(), .name = "probe", .block = 1};
    int unused = 0;
    return epg__cuda_launch_kernel(device, stream, &launch, &unused);
}

static void CUDART_CB do_nothing(cudaStream_t stream, cudaError_t error, void *ctx)
{
    (void)stream, (void)error, (void)ctx;
}

epg_status epg__cuda_probe_callback(epg_device *device, epg_stream stream)
{
    epg__cuda_call call;
    EPG_TRY(epg__cuda_enter(device, "a stream callback", &call));
    return epg__cuda_leave(&call, cudaStreamAddCallback(epg__cuda_stream(stream), do_nothing, NULL, 0));
}

epg_status epg__cuda_probe_attributes(epg_device *device, int *block_threads)
{
    epg__cuda_call call;
    struct cudaFuncAttributes attributes = {0};
    EPG_TRY(epg__cuda_enter(device, "a kernel's attributes", &call));
    EPG_TRY(epg__cuda_leave(&call, cudaFuncGetAttributes(&attributes, epg__cuda_probe_kernel())));
    *block_threads = attributes.maxThreadsPerBlock;
    return EPG_OK;
}

epg_status epg__cuda_probe_occupancy(epg_device *device, int *blocks)
{
    epg__cuda_call call;
    int held = 0;
    EPG_TRY(epg__cuda_enter(device, "a kernel's occupancy", &call));
    cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&held, epg__cuda_probe_kernel(), 32, 0);
    EPG_TRY(epg__cuda_leave(&call, error));
    *blocks = held;
    return EPG_OK;
}

epg_status epg__cuda_probe_last_error(epg_device *device)
{
    (void)device;
    cudaError_t error = cudaPeekAtLastError();
    return error == cudaSuccess ? EPG_OK : epg__cuda_fail(error, "the thread's last error");
}

epg_status epg__cuda_probe_make_current(epg_device *device)
{
    cudaError_t error = cudaSetDevice(epg__cuda_of(device)->ordinal);
    return error == cudaSuccess ? EPG_OK : epg__cuda_fail(error, "making the device current");
}
