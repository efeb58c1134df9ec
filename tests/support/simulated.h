/* What the tests of the simulator share: a simulated device, and programs whose kernels count their steps. */
#ifndef TESTS_SIMULATED_H
#define TESTS_SIMULATED_H

#include "epgraph/epgraph.h"

#define SECOND 1000000000ull

/* cmocka's asserts jump, and must not jump out of a fiber: programs count what is wrong. */
typedef struct world {
    epg_device *d;
    epg_stream stream;
    epg_event event;
    uint32_t words[4];
    uint64_t signal;
    uint64_t times[4], counts[4];
    uint32_t early, torn, wrong;
} world;

typedef struct step_args {
    world *w;
    uint32_t program, steps;
} step_args;

static inline void want(world *w, int condition) { w->wrong += !condition; }

/* Aborts where it cannot be made. */
epg_device *simulated_device(uint64_t seed, uint32_t late_percent, uint64_t max_moves);

/* A kernel: makes `steps` moves and counts them in counts[program]. */
void step_kernel(const void *args);

/* A program: runs step_kernel four times, 50 steps each. */
void stepping(void *ctx, uint32_t program);

/* A kernel on a world's address: stores words[0], words[1], then the signal with release, then words[2]. */
void write_words(const void *args);

#endif
