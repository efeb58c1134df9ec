/* The kernels of bench/waits.c, for C. */
#ifndef BENCH_WAITS_H
#define BENCH_WAITS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct waits_kernels {
    const void *hold;          /* (const volatile uint32_t *go, uint64_t ns): until *go, at most ns */
    const void *touch;         /* these (uint32_t *word): a store */
    const void *prepared, *unprepared;
    const void *little_frame, *frame, *larger_frame; /* with 64 bytes, 4 and 64 KiB of local memory a thread */
} waits_kernels;
extern const waits_kernels waits_kernel;

#ifdef __cplusplus
}
#endif
#endif
