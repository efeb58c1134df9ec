/* What a CUDA kernel may do to memory that other ranks see, and how it waits: the counterpart of host_kernel_int.h.
 *
 * Pairing: epg__signal_store (release) is read by epg__signal_load (acquire), both at system scope; whatever the writer
 * stored before it, rows included, is visible to the reader after it. Where many threads stored the rows, each block
 * passes epg__block_done before one thread stores the signal. */
#ifndef EPG_CUDA_ORDER_INT_CUH
#define EPG_CUDA_ORDER_INT_CUH

#include <stdint.h>

/* Partner: epg__signal_load in the waiter. */
static __device__ inline void epg__signal_store(uint64_t *word, uint64_t value)
{
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

/* Partner: epg__signal_store in the sender. */
static __device__ inline uint64_t epg__signal_load(const uint64_t *word)
{
    uint64_t value;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
    return value;
}

/* A signal whose one reader comes later in this kernel's own stream: the kernel's end is the release. */
static __device__ inline void epg__signal_leave(uint64_t *word, uint64_t value)
{
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

/* Words that carry no data behind them: masks, the abort word. A load orders nothing. */
static __device__ inline uint32_t epg__word_load(const uint32_t *word)
{
    uint32_t value;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}
static __device__ inline void epg__word_store(uint32_t *word, uint32_t value)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}

/* True in every thread of the last of `blocks` blocks that get here; what all of them stored is visible to it, and what
 * it stores next with release comes after that at every rank: the barrier orders a block's stores before its count, the
 * counts order the blocks (each releases, and the last acquires), and a release is cumulative. Leaves *done at 0 for the
 * next kernel. A fence of the whole system here as well was rejected: the signal's release is one. */
static __device__ inline bool epg__block_done(uint32_t *done, uint32_t blocks)
{
    __shared__ uint32_t is_last;
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t before;
        asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(done) : "memory");
        is_last = before == blocks - 1;
        if (is_last)
            *done = 0;
    }
    __syncthreads();
    return is_last;
}

/* Nanoseconds on the clock of all waits. */
static __device__ inline uint64_t epg__now_ns(void)
{
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

/* Returns once everything before this kernel in its stream is done and visible: first in every kernel that may have
 * been launched early (a programmatic dependent launch), in all its threads, since one that ended without it would let
 * the kernel behind it start too soon. */
static __device__ inline void epg__await_earlier_kernels(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next kernel of the stream may be brought onto the device. Never before a wait for another rank: blocks that have
 * nothing to do but wait would take the room of that rank's sender. */
static __device__ inline void epg__admit_next_kernel(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif
