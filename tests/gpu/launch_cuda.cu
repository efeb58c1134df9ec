/* Kernels for test_cuda_launch.c and test_streams_cuda.c. */
#include "gpu/launch.h"

/* The last word of the dynamic shared memory, written by the last thread and read by the first. */
static __global__ void test_shared(launch_params p)
{
    extern __shared__ uint32_t words[];
    if (threadIdx.x == blockDim.x - 1)
        words[p.count - 1] = p.value;
    __syncthreads();
    if (threadIdx.x == 0)
        *p.out = words[p.count - 1];
}

/* out = out * 3 + value, behind the kernel ahead of it. */
static __global__ void test_chain(launch_params p)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    *(volatile uint32_t *)p.out = *(volatile uint32_t *)p.out * 3 + p.value;
}

/* Counts this kernel in out[0] and waits, 50 ms at most, until `count` have come; out[1] counts those that gave up. */
static __global__ void test_meet(launch_params p)
{
    uint64_t begin, now;
    volatile uint32_t *come = p.out;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    atomicAdd(p.out, 1);
    do
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (*come < p.count && now - begin < 50000000);
    if (*come < p.count)
        atomicAdd(p.out + 1, 1);
}

extern "C" const void *launch_kernel(launch_which which)
{
    static const void *const kernels[] = {(const void *)test_shared, (const void *)test_chain, (const void *)test_meet};
    return kernels[which];
}
