/* Launching kernels of other parts on the CUDA device. */
#include "device/cuda_kernel_int.h"
#include "device/device_cuda_int.h"

static epg_status check_kind(const epg_device *device, const char *what)
{
    if (device->info.kind == EPG_DEVICE_CUDA)
        return EPG_OK;
    return epg__fail(EPG_ERR_UNSUPPORTED, "\"%s\" is a kernel of the CUDA device; %s cannot run it", what,
                     device->info.name);
}

static dim3 grid_of(const epg__cuda_launch *launch)
{
    dim3 grid = {1, 1, 1};
    grid.x = launch->grid[0] ? launch->grid[0] : 1;
    grid.y = launch->grid[1] ? launch->grid[1] : 1;
    grid.z = launch->grid[2] ? launch->grid[2] : 1;
    return grid;
}

epg_status epg__cuda_launch_kernel(epg_device *device, epg_stream stream, const epg__cuda_launch *launch,
                                   const void *params)
{
    epg__cuda_call call;
    cudaLaunchAttribute dependent = {.id = cudaLaunchAttributeProgrammaticStreamSerialization,
                                     .val.programmaticStreamSerializationAllowed = 1};
    cudaLaunchConfig_t config = {.gridDim = grid_of(launch), .blockDim = {launch->block, 1, 1}};
    void *args[1] = {(void *)params};
    EPG_TRY(check_kind(device, launch->name));
    EPG_TRY(epg__cuda_enter(device, launch->name, &call));
    config.dynamicSmemBytes = launch->shared_bytes;
    config.stream = epg__cuda_stream(stream);
    config.attrs = &dependent;
    config.numAttrs = launch->dependent ? 1 : 0;
    return epg__cuda_leave(&call, cudaLaunchKernelExC(&config, launch->kernel, args));
}

epg_status epg__cuda_kernel_prepare(epg_device *device, const void *kernel, uint32_t shared_bytes)
{
    epg__cuda_call call;
    struct cudaFuncAttributes attributes;
    EPG_TRY(check_kind(device, "a kernel to prepare"));
    EPG_TRY(epg__cuda_enter(device, "preparing a kernel", &call));
    cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error == cudaSuccess && (int)shared_bytes > attributes.maxDynamicSharedSizeBytes)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
    return epg__cuda_leave(&call, error);
}

epg_status epg__cuda_kernel_blocks(epg_device *device, const void *kernel, uint32_t block, uint32_t shared_bytes,
                                   uint32_t *per_unit)
{
    epg__cuda_call call;
    int blocks = 0;
    EPG_TRY(check_kind(device, "a kernel to place"));
    EPG_TRY(epg__cuda_enter(device, "placing a kernel", &call));
    cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, (int)block, shared_bytes);
    EPG_TRY(epg__cuda_leave(&call, error));
    *per_unit = (uint32_t)blocks;
    return EPG_OK;
}

epg_status epg__cuda_get_limits(epg_device *device, epg__cuda_limits *limits)
{
    static const enum cudaDeviceAttr wanted[] = {
        cudaDevAttrMultiProcessorCount, cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor,
    };
    int value[EPG__COUNT_OF(wanted)] = {0};
    epg__cuda_call call;
    cudaError_t error = cudaSuccess;
    EPG_TRY(check_kind(device, "the CUDA device's limits"));
    EPG_TRY(epg__cuda_enter(device, "the CUDA device's limits", &call));
    for (size_t i = 0; i < EPG__COUNT_OF(wanted) && error == cudaSuccess; i++)
        error = cudaDeviceGetAttribute(&value[i], wanted[i], epg__cuda_of(device)->ordinal);
    EPG_TRY(epg__cuda_leave(&call, error));
    limits->units = (uint32_t)value[0];
    limits->compute = (uint32_t)(value[1] * 10 + value[2]);
    return EPG_OK;
}
