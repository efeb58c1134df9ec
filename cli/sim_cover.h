/* Counts what the programs of a range of seeds held, so that one sees what was tried. */
#ifndef CLI_SIM_COVER_H
#define CLI_SIM_COVER_H

#include "sim_run.h"

typedef struct sim_cover {
    uint64_t programs, pairs, ends, eager, split, replayed, fills, voids, mixed, buckets_differ, empty, rehearsed;
    uint64_t graphs, odd_graphs, replays, by_runner, waits, maps;
    uint64_t lanes, streams, layouts[3], types[4], ids64, unweighted;
    uint64_t overflowed, bad_ids, flagged;
    uint64_t slow, stopped, died, joined, abandoned, wrapped, late, untroubled;
    uint64_t moves, digest;
    double virtual_s;
} sim_cover;

void sim_cover_add(sim_cover *cover, const sim_program *program, const sim_result *result, uint64_t seen_digest);
void sim_cover_print(const sim_cover *cover, FILE *stream);

#endif
