/* The kernels of bench/waits.c and bench/channels.c, for C. */
#ifndef BENCH_WAITS_H
#define BENCH_WAITS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct waits_kernels {
    const void *hold;          /* (const volatile uint32_t *go, uint64_t ns): until *go, at most ns */
    const void *meet;          /* (uint32_t *words, uint32_t count, uint64_t ns): until words[0] counts so many, at most
                                * ns; words[1] counts who gave up */
    const void *touch;         /* these (uint32_t *word): a store */
    const void *prepared, *unprepared;
    const void *little_frame, *frame, *larger_frame; /* with 64 bytes, 4 and 64 KiB of local memory a thread */
} waits_kernels;
extern const waits_kernels waits_kernel;

#ifdef __cplusplus
}
#endif
#endif
