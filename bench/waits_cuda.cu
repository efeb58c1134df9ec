/* Kernels for bench/waits.c and bench/channels.c: two that hold a stream, and some of which each is launched once. */
#include "bench/waits.h"

static __global__ void hold(const volatile uint32_t *go, uint64_t ns)
{
    uint64_t begin, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
    do
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    while (!*go && now - begin < ns);
}

static __global__ void meet(uint32_t *words, uint32_t count, uint64_t ns)
{
    uint64_t begin, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
    atomicAdd(words, 1);
    do
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    while (*(volatile uint32_t *)words < count && now - begin < ns);
    if (*(volatile uint32_t *)words < count)
        atomicAdd(words + 1, 1);
}

/* The number keeps the compiler from making one kernel of them. */
template <int NUMBER> static __global__ void touch(uint32_t *word) { *word = NUMBER; }

/* A frame of that many bytes of local memory. */
template <int BYTES> static __global__ void frame(uint32_t *word)
{
    volatile unsigned char bytes[BYTES];
    for (int i = 0; i < BYTES; i++)
        bytes[i] = (unsigned char)(i + *word);
    *word = bytes[*word % BYTES];
}

const waits_kernels waits_kernel = {
    (const void *)hold,      (const void *)meet,        (const void *)touch<0>,     (const void *)touch<1>,
    (const void *)touch<2>,  (const void *)frame<64>,   (const void *)frame<4096>,  (const void *)frame<65536>,
};
