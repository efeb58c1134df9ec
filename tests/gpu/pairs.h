/* Pairs of a shape on any device, for test_pairs_cuda.c and test_silent_rank_cuda.c: a rank's buffers and its random
 * inputs (pairs_ranks.c), and the same pairs on the host device and on the GPU (pairs_compare.c). */
#ifndef TESTS_GPU_PAIRS_H
#define TESTS_GPU_PAIRS_H

#include <stddef.h>
#include <stdint.h>
#include "support/ranks.h"

typedef struct pairs_shape {
    const char *name;
    uint32_t ranks, pairs;
    epg_group_options o;
    int dirty;          /* ids out of range and experts chosen twice */
    epg_index_type ids;
} pairs_shape;

/* One rank's device buffers, and what the host holds of them. */
typedef struct pairs_buffers {
    epg_group *group;
    epg_dispatch_view view;
    size_t row, scales, back;     /* bytes of a row that is sent, of its scales, of a row that comes back */
    size_t rows_seen, scales_seen; /* bytes behind the view's `rows`, and behind its `scales` where they lie apart */
    uint32_t tokens, tokens_max;
    void *rows, *row_scales, *ids, *weights, *count, *out, *expert_out;
    char *host, *seen, *seen_scales, *made;
} pairs_buffers;

/* A rank's part. */
typedef struct pairs_job {
    const pairs_shape *s;
    int (*body)(struct pairs_job *j);
    unsigned mix;       /* bit (rank + pair) % 8: high-throughput */
    uint64_t *found;    /* what pairs_run was given */
    test_rank self;
    int result;
} pairs_job;

int pairs_buffers_make(test_rank *self, const pairs_shape *s, pairs_buffers *b);
int pairs_buffers_free(test_rank *self, pairs_buffers *b);

/* The rank's tokens of pair number `pair`, a function of shape, rank and number alone. */
int pairs_fill(test_rank *self, const pairs_shape *s, pairs_buffers *b, uint32_t pair);

/* Enqueue a pair's operations, whole or in halves by its number. `rows` are what the experts made. */
int pairs_dispatch(const pairs_job *j, pairs_buffers *b, uint32_t pair, uint32_t lane);
int pairs_combine(const pairs_job *j, pairs_buffers *b, uint32_t pair, uint32_t lane, const void *rows);

/* Calls `body` on every rank of a team of threads; fails the test unless all return 0. */
void pairs_run(epg_device *device, const pairs_shape *s, int (*body)(pairs_job *j), unsigned mix, uint64_t *found);

/* The shape's pairs on the host device and, in every mix of modes, on the GPU: fails the test unless views, outputs,
 * flags, counters and records are the same bits. What is 0 in the shape's options has a default. */
void pairs_compare(pairs_shape s);

#endif
