/* What sim_run.c (the run as a whole) and sim_rank.c (one rank's program) share. */
#ifndef CLI_SIM_RANK_INT_H
#define CLI_SIM_RANK_INT_H

#include "epgraph/simulation.h"
#include "sim_run.h"

enum { SIM_LIVES = 2 };

/* The buffers of one captured pair, or of the eager pairs of a lane. `now` is the pair whose inputs they hold. */
typedef struct sim_buffers {
    struct sim_rank *rank;
    uint32_t lane;
    uint32_t now;               /* SIM_REHEARSED: none, operations must do nothing */
    uint32_t tokens;            /* the count that dispatch send reads */
    char *rows, *scales, *out, *expert_out;
    int32_t *ids32;
    int64_t *ids64;
    float *weights;
    epg_dispatch_view view;
    const uint32_t *flags;
} sim_buffers;
#define SIM_REHEARSED 0xFFFFFFFFu

typedef struct sim_run_state sim_run_state;

typedef struct sim_rank {
    sim_run_state *run;
    const sim_program *program;
    const sim_rank_shape *shape;
    uint32_t number, life;
    epg_device *device;
    epg_team *team;
    epg_group *group;
    epg_stream stream[SIM_LANES]; /* of each lane; all the same where lanes share one */
    epg_stream capture[SIM_LANES];
    epg_runner *runner;
    epg_exec exec[SIM_GRAPHS];
    uint32_t ready_graphs;      /* bit g: captured */
    uint32_t holds;             /* above 0: it is in a call that holds memory, which nobody could free after a kill */
    int doomed;                 /* it is about to be killed, and goes into no such call any more */
    int32_t *map;
    sim_buffers graph[SIM_GRAPHS][SIM_GRAPH_PAIRS], eager[SIM_LANES];
    char *memory;
    uint32_t begun;             /* pairs whose inputs were set, on the device */
    int admitted, done;
    uint64_t issued, captured;
} sim_rank;

struct sim_run_state {
    const sim_program *program;
    epg_device *device;
    epg_team *teams[SIM_RANKS];
    sim_rank ranks[SIM_LIVES][SIM_RANKS];
    uint32_t life[SIM_RANKS];
    uint32_t join_pair, join_rank;
    int join_ready;             /* the rank that joins has its group */
    sim_result *result;
};

/* Keeps the first thing that went wrong. */
void sim_trouble(sim_run_state *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A rank's whole program, in one of its lives. */
void sim_rank_live(sim_rank *rank);
void sim_rank_destroy(sim_rank *rank);

/* The kernels of the harness. */
void sim_load_kernel(const void *args);    /* sets a pair's inputs */
void sim_experts_kernel(const void *args); /* keeps the view, runs the experts */
void sim_finish_kernel(const void *args);  /* keeps output and flags */
void sim_map_kernel(const void *args);     /* sets the expert map */
typedef struct sim_load_args {
    sim_buffers *buffers;
    uint32_t pair; /* or SIM_REHEARSED */
} sim_load_args;
typedef struct sim_buffers_args {
    sim_buffers *buffers;
} sim_buffers_args;
typedef struct sim_map_args {
    sim_rank *rank;
    uint32_t map;
} sim_map_args;

#endif
