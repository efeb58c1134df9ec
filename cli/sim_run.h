/* Runs a simulated program once, and keeps what every rank saw. What it should have seen is sim_check.h's business. */
#ifndef CLI_SIM_RUN_H
#define CLI_SIM_RUN_H

#include "epgraph/epgraph.h"
#include "sim_program.h"

/* One expert row as the experts saw it; its bytes are row `number` of sim_seen.rows. */
typedef struct sim_row {
    uint32_t expert, position, source, token;
    float weight;
} sim_row;

/* One rank's end of one pair. */
typedef struct sim_seen {
    int begun, held, finished;  /* its inputs were set; its experts ran; its combine recv ended */
    uint32_t total, row_count, row_room;
    uint32_t offsets[SIM_LOCAL_EXPERTS + 1], counts[SIM_LOCAL_EXPERTS];
    sim_row *rows;
    char *row_bytes;
    char *out;                  /* [tokens of the shape][row bytes] */
    uint32_t flags[SIM_TOKENS];
} sim_seen;

/* How one rank ended; of the last of its lives. */
typedef struct sim_end {
    int ended;                  /* 0: it died, or never got to its end */
    uint32_t life;
    epg_group_record record;
    epg_group_stats stats;
    epg_runner_stats runner;
    int alive[SIM_RANKS];
    uint64_t issued, captured;  /* operations that this rank asked for, by our own count */
    uint64_t time_ns;
} sim_end;

typedef struct sim_result {
    sim_seen seen[SIM_RANKS][SIM_PAIRS];
    sim_end end[SIM_RANKS];
    int struck[SIM_FAULTS];     /* 1: the fault came to pass */
    epg_status status;          /* of the simulation as a whole */
    char trouble[600];          /* what went wrong in a call, in a rehearsal, or in the simulation; "": nothing */
    uint64_t moves, digest, time_ns;
    void *memory;
} sim_result;

typedef void (*sim_trace_fn)(void *ctx, uint64_t time_ns, const char *who, const char *what);

/* The pair at which a rank that died takes part again; its program's pairs where none does. */
uint32_t sim_join_pair(const sim_program *program, uint32_t *rank);

/* `schedule` is the scheduler's seed. Returns 0, or -1 without memory. Free the result either way. */
int sim_run(const sim_program *program, uint32_t schedule, sim_trace_fn trace, void *trace_ctx, sim_result *result);
void sim_result_free(sim_result *result);

#endif
