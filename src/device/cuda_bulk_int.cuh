/* Bulk copies from shared memory to global memory (sm_90): one thread starts one, and a unit of the multiprocessor does
 * it. A copy goes through the async proxy, so that both its ends are fenced:
 *
 *   all threads    store to shared memory, epg__bulk_ready
 *   a barrier      of those threads
 *   one thread     epg__bulk_store, as often as it likes, then epg__bulk_commit
 *   the same       epg__bulk_await_reads, before shared memory is written again
 *   the same       epg__bulk_await_writes, before it, or who synchronises with it, releases anything to another rank
 *
 * Addresses and sizes are multiples of 16 bytes. */
#ifndef EPG_CUDA_BULK_INT_CUH
#define EPG_CUDA_BULK_INT_CUH

#include <stdint.h>

#if __CUDA_ARCH__ >= 900

/* What this thread stored to shared memory will be seen by bulk copies that are started after the barrier. */
static __device__ inline void epg__bulk_ready(void) { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

static __device__ inline void epg__bulk_store(void *to, const void *shared, uint32_t bytes)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
                 "r"((uint32_t)__cvta_generic_to_shared(shared)), "r"(bytes)
                 : "memory");
}

static __device__ inline void epg__bulk_commit(void) { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

/* Everything this thread has committed was read from shared memory. */
static __device__ inline void epg__bulk_await_reads(void)
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/* Everything this thread has committed is written, and comes before what it does next. */
static __device__ inline void epg__bulk_await_writes(void)
{
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");
}

#endif
#endif
