/* Runs one function on every rank of a team, each on its own thread. cmocka's asserts jump, so they are for the main
 * thread only: a rank's body uses RANK_CHECK, which prints and returns. */
#ifndef TESTS_RANKS_H
#define TESTS_RANKS_H

#include <stdint.h>
#include <stdio.h>
#include "epgraph/epgraph.h"

typedef struct test_rank {
    epg_device *device;
    epg_team *team;
    epg_stream stream; /* non-blocking, this rank's own */
    uint32_t rank, size;
    uint32_t incarnation;
    void *arg;
} test_rank;

/* What a body returns where its rank dies: its place is retired once its stream is idle, and the body is called again
 * as the next incarnation, with a team handle and a stream of its own. */
#define RANK_DIES (-1)

/* 0 if every body returned 0 in its last life, else how many did not. timeout_ms bounds the team's collective calls (0:
 * default). */
int run_ranks(uint32_t size, uint32_t timeout_ms, int (*body)(test_rank *self), void *arg);

/* The same on a simulated device: one thread, interleaved by `seed`, with stores that land late. A body uses nothing of
 * the system's that blocks. */
int run_ranks_simulated(uint32_t size, uint32_t timeout_ms, int (*body)(test_rank *self), void *arg, uint64_t seed);

/* How many seeds of `seeds` to run: all, and one under ThreadSanitizer, which is told of each switch between a simulated
 * device's fibers as of an order, so that it sees no race there; what else a seed can show, other builds show. */
uint64_t simulated_seeds(uint64_t seeds);

/* On threads, then for simulated_seeds(seeds) seeds from 0 on; stops at the first that fails. */
int run_ranks_both(uint32_t size, uint32_t timeout_ms, int (*body)(test_rank *self), void *arg, uint64_t seeds);

#define RANK_CHECK(condition, ...)                                                               \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "rank %u, %s:%d: %s: ", self->rank, __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                                        \
            fprintf(stderr, " [%s]\n", epg_message());                                           \
            return 1;                                                                            \
        }                                                                                        \
    } while (0)
#define RANK_OK(call) RANK_CHECK((call) == EPG_OK, "not EPG_OK")

#endif
