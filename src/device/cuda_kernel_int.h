/* How a kernel of the CUDA device is launched, for the parts that have kernels: C and C++, so that a .cu file needs no
 * other header of the library and no CUDA call of its own.
 *
 * A kernel takes one struct by value. Nothing here allocates or synchronises but epg__cuda_kernel_prepare, which is for
 * a handle's creation: a launch may run during capture. */
#ifndef EPG_CUDA_KERNEL_INT_H
#define EPG_CUDA_KERNEL_INT_H

#include <stdint.h>
#include "epgraph/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct epg__cuda_launch {
    const void *kernel;     /* the __global__ function */
    const char *name;       /* for messages */
    uint32_t grid[3];       /* 0 counts as 1 */
    uint32_t block;         /* threads */
    uint32_t shared_bytes;  /* dynamic; above 48 KiB only once prepared for as much */
    int dependent;          /* may start before the kernel ahead of it has ended: it waits itself (griddepcontrol) */
} epg__cuda_launch;

/* Enqueues the kernel; `params` points to its one argument, which is copied. EPG_ERR_UNSUPPORTED unless the device is a
 * CUDA device. */
epg_status epg__cuda_launch_kernel(epg_device *device, epg_stream stream, const epg__cuda_launch *launch,
                                   const void *params);

/* Loads the kernel and allows it `shared_bytes` of dynamic shared memory. The first launch of a kernel that was not
 * prepared may load its module, which waits for the device. */
epg_status epg__cuda_kernel_prepare(epg_device *device, const void *kernel, uint32_t shared_bytes);

/* How many blocks of `block` threads one multiprocessor holds at once. */
epg_status epg__cuda_kernel_blocks(epg_device *device, const void *kernel, uint32_t block, uint32_t shared_bytes,
                                   uint32_t *per_unit);

typedef struct epg__cuda_limits {
    uint32_t units;    /* multiprocessors */
    uint32_t compute;  /* 90: compute capability 9.0 */
} epg__cuda_limits;
epg_status epg__cuda_get_limits(epg_device *device, epg__cuda_limits *limits);

#ifdef __cplusplus
}
#endif
#endif
