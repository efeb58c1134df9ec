/* The plain copy whose rate epg_device_copy_rate measures: 16-byte pieces, four under way per thread. */
#include <stddef.h>
#include "device/cuda_kernel_int.h"

typedef struct params {
    uint4 *to;
    const uint4 *from;
    size_t pieces;
} params;

static __global__ void __launch_bounds__(512) copy(const __grid_constant__ params p)
{
    size_t stride = (size_t)gridDim.x * blockDim.x, i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 3 * stride < p.pieces; i += 4 * stride) {
        uint4 a = p.from[i], b = p.from[i + stride], c = p.from[i + 2 * stride], d = p.from[i + 3 * stride];
        p.to[i] = a;
        p.to[i + stride] = b;
        p.to[i + 2 * stride] = c;
        p.to[i + 3 * stride] = d;
    }
    for (; i < p.pieces; i += stride)
        p.to[i] = p.from[i];
}

extern "C" epg_status epg__cuda_copy_launch(epg_device *device, epg_stream stream, void *to, const void *from,
                                            size_t bytes);
extern "C" epg_status epg__cuda_copy_launch(epg_device *device, epg_stream stream, void *to, const void *from,
                                            size_t bytes)
{
    params p = {(uint4 *)to, (const uint4 *)from, bytes / 16};
    epg__cuda_limits limits;
    epg_status status = epg__cuda_get_limits(device, &limits);
    epg__cuda_launch launch = {(const void *)copy, "copy", {limits.units * 4, 1, 1}, 512, 0, 0};
    return status == EPG_OK ? epg__cuda_launch_kernel(device, stream, &launch, &p) : status;
}
