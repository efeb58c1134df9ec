/* A program of `epgraph simulate`: who runs what in which pair, and what goes wrong. Plain numbers only, so that it can
 * be made from a seed, cut down, printed and read back.
 *
 * All ranks run the same pairs, numbered 0 .. pairs - 1, each in a lane; how each rank runs its end of a pair is its
 * own affair. What a rank sends (rows, ids, weights) follows from `data`, the rank and the pair. */
#ifndef CLI_SIM_PROGRAM_H
#define CLI_SIM_PROGRAM_H

#include <stdint.h>
#include <stdio.h>

enum {
    SIM_RANKS = 8,
    SIM_PAIRS = 64,
    SIM_LANES = 3,
    SIM_GRAPHS = 4,
    SIM_GRAPH_PAIRS = 4,
    SIM_FAULTS = 3,
    SIM_TOKENS = 8,
    SIM_TOPK = 4,
    SIM_HIDDEN = 64,
    SIM_LOCAL_EXPERTS = 4,
    SIM_LOGICAL = SIM_RANKS * SIM_LOCAL_EXPERTS + 8
};

typedef enum sim_fault_kind {
    SIM_FAULT_NONE, SIM_FAULT_SLOW, SIM_FAULT_STOP, SIM_FAULT_DIE, SIM_FAULT_JOIN, SIM_FAULT_ABANDON, SIM_FAULT_WRAP,
    SIM_FAULT_LATE, SIM_FAULT_ANY, SIM_FAULT_KINDS
} sim_fault_kind;
extern const char *const sim_fault_names[SIM_FAULT_KINDS + 1];

typedef struct sim_shape {
    uint32_t ranks, pairs, lanes;
    uint32_t experts;       /* per rank */
    uint32_t logical, hidden, topk, tokens, slots, first_epoch;
    uint32_t type;          /* of rows: float32, bf16, fp8, opaque (sim_rows.h) */
    uint32_t skew;          /* ids are drawn from the first of so many logical experts */
    uint32_t bad;           /* chance of 100 that an id is out of range or chosen twice */
    uint32_t late;          /* chance of 100 that a store becomes visible late */
    uint32_t data;          /* seed of rows, ids and weights */
    uint32_t schedule;      /* seed of the scheduler */
} sim_shape;

typedef struct sim_rank_shape {
    uint32_t layout, align, expert_rows, rows_per_expert; /* as in epg_group_options, 0: enough */
    uint32_t timeout_ms;
    uint32_t streams;       /* 1: each lane has a stream of its own */
    uint32_t ids64, weights; /* weights 0: none given, all 1 */
    uint32_t runner;        /* 1: graphs are captured and replayed by an epg_runner */
    uint32_t warmups;       /* rehearsals before a capture */
    uint32_t early;         /* 1: captures all graphs before the first pair; 0: each where it is first used */
    uint32_t slow;          /* its moves come so many times less often; 1: it is not slow */
} sim_rank_shape;

typedef struct sim_graph {
    uint32_t pairs; /* 0: there is no such graph */
    uint32_t lane[SIM_GRAPH_PAIRS], ht[SIM_GRAPH_PAIRS], bucket[SIM_GRAPH_PAIRS];
} sim_graph;

typedef enum sim_how {
    SIM_EAGER,        /* dispatch, experts, combine */
    SIM_SPLIT,        /* the same in four calls, with time between them */
    SIM_REPLAY,       /* pair `index` of graph `graph` */
    SIM_FILL,         /* epg_group_fill, with experts */
    SIM_FILL_VOID,    /* epg_group_fill, without */
    SIM_ABANDON_SENT, /* abandoned after dispatch send */
    SIM_ABANDON_HELD, /* abandoned after dispatch recv */
    SIM_HOWS
} sim_how;

typedef struct sim_part {
    uint32_t how, graph, index;
    uint32_t ht, bucket;
    uint32_t tokens;     /* the count in device memory; may be above the bucket */
    uint32_t map;        /* the expert map in force from here on */
    uint32_t delay;      /* the host sleeps so many ns before it */
    uint32_t wait;       /* 1: the host waits for it */
    uint32_t rehearse;   /* 1: rehearsed before it is run (eager) */
} sim_part;

typedef struct sim_fault {
    uint32_t kind;  /* stop, die or join; none: there is no such fault */
    uint32_t rank;
    uint32_t pair;  /* counted from when this rank's end of this pair is enqueued and its turn comes ... */
    uint32_t after; /* ... so many ns later */
    uint32_t time;  /* stop: ns; join: ns from its death to its return */
    uint32_t back;  /* join: the first pair in which it takes part again, above `pair`; 0 else */
} sim_fault;

typedef struct sim_program {
    sim_shape shape;
    uint32_t lane[SIM_PAIRS];
    sim_rank_shape rank[SIM_RANKS];
    sim_graph graph[SIM_RANKS][SIM_GRAPHS];
    sim_part part[SIM_RANKS][SIM_PAIRS];
    sim_fault fault[SIM_FAULTS];
} sim_program;

/* The program of a seed. `fault` says what may go wrong. */
void sim_generate(uint64_t seed, uint32_t ranks, uint32_t pairs, sim_fault_kind fault, sim_program *program);

/* Makes a program valid that was cut down: every field in its range, and a replay that is no longer whole or whose
 * lanes no longer fit becomes eager pairs. A valid program is left as it is. */
void sim_repair(sim_program *program);

/* Pairs of the replay that begins at `pair` on `rank`; 0 where none begins there. */
uint32_t sim_replay_pairs(const sim_program *program, uint32_t rank, uint32_t pair);

/* 1 where rank's fault makes it lose its peers: it dies, or stops for longer than somebody's timeout. */
int sim_is_suspect(const sim_program *program, uint32_t rank);

/* As text, one thing a line. sim_read returns 0, or writes a sentence with the line and returns -1. */
void sim_print(const sim_program *program, FILE *stream);
int sim_read(FILE *stream, sim_program *program, char *message, size_t bytes);

/* ---- what ranks send: functions of the program alone ---- */
uint64_t sim_hash(uint64_t a, uint64_t b, uint64_t c, uint64_t d);
void sim_ids(const sim_program *program, uint32_t rank, uint32_t pair, uint32_t token, int64_t *ids); /* [topk] */
float sim_weight(const sim_program *program, uint32_t rank, uint32_t pair, uint32_t token, uint32_t k);
float sim_element(const sim_program *program, uint32_t rank, uint32_t pair, uint32_t token, uint32_t column);
int32_t sim_mapped(const sim_program *program, uint32_t map, uint32_t logical); /* physical id in that map, or -1 */

/* Elements of a row of combine, and what an expert makes of one. */
float sim_get(uint32_t bf16, const void *row, uint32_t column);
void sim_put(uint32_t bf16, void *row, uint32_t column, float value);
static inline uint32_t sim_is_bf16(const sim_program *p) { return p->shape.type != 0; }
static inline uint32_t sim_row_bytes(const sim_program *p) { return p->shape.hidden * (sim_is_bf16(p) ? 2 : 4); }
static inline float sim_expert(uint32_t physical, float x)
{
    return x * (1 + (float)physical / 8) + (float)physical / 16;
}

/* Tokens that a rank's end of a pair sends: 0 where it fills. */
static inline uint32_t sim_tokens_sent(const sim_part *part)
{
    if (part->how == SIM_FILL || part->how == SIM_FILL_VOID)
        return 0;
    return part->tokens < part->bucket ? part->tokens : part->bucket;
}
static inline int sim_is_void(const sim_part *part)
{
    return part->how == SIM_FILL_VOID || part->how == SIM_ABANDON_SENT || part->how == SIM_ABANDON_HELD;
}

#endif
