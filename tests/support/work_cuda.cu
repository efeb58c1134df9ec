#include "device/cuda_kernel_int.h"
#include "support/work.h"

static __device__ uint64_t now_ns(void)
{
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

static __device__ void meet(work *w, uint32_t mine, uint32_t theirs)
{
    volatile uint32_t *other = &w->at[theirs];
    uint32_t turn = atomicAdd(&w->at[mine], 1u) + 1;
    while (*other < turn)
        __nanosleep(1000);
}

static __global__ void epg_test_work(work_params p)
{
    if (p.gated) {
        volatile uint32_t *open = &p.w->open;
        *(volatile uint32_t *)&p.w->entered = 1;
        while (!*open)
            __nanosleep(1000);
    }
    if (p.kind == WORK_NOTE) {
        *(volatile uint32_t *)&p.w->at[p.mine] = atomicAdd(&p.w->clock, 1u) + 1;
    } else if (p.kind == WORK_MEET) {
        meet(p.w, p.mine, p.theirs);
    } else {
        uint64_t start = now_ns();
        while (now_ns() - start < (uint64_t)p.us * 1000)
            __nanosleep(1000);
    }
}

extern "C" epg_status work_launch_cuda(epg_device *device, epg_stream stream, const work_params *params)
{
    epg__cuda_launch launch = {(const void *)epg_test_work, "work", {1, 1, 1}, 1, 0, 0};
    return epg__cuda_launch_kernel(device, stream, &launch, params);
}
