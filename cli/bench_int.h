/* What the files of `epgraph bench` share.
 *
 *   bench_options.c    the options; bench_lists.c: those that are lists
 *   bench_routing.c    who sends how much to whom, and the bytes that a pair must move; pure
 *   bench_times.c      medians over rounds; pure
 *   bench_team.c       a thread per rank; rounds between two events
 *   bench_exchange.c   one rank's group with inputs, outputs, and the pairs on them
 *   bench_weights.c    the checkpoint of bench step
 *   bench_cases.c      every combination of the lists, each on its ranks, each a row of the table
 *   bench_pair.c ...   one file per subcommand
 *   bench_report.c     the table and the JSON; bench_plot.c: the picture */
#ifndef CLI_BENCH_INT_H
#define CLI_BENCH_INT_H

#include <stdio.h>
#include "cli.h"
#include "progress.h"

/* ---- options ---- */

enum { BENCH_OPAQUE_BLOCK = 32 }; /* elements of an opaque row for each byte of its scales */
enum { BENCH_LIST_MAX = 32, BENCH_ROUNDS_MAX = 10000 };

typedef struct bench_list {
    uint32_t values[BENCH_LIST_MAX];
    uint32_t count;
} bench_list;

typedef struct bench_options bench_options;
typedef struct bench_run bench_run;

/* What `bench NAME` is. */
typedef struct bench_what {
    const char *name, *about;
    void (*defaults)(bench_options *options);   /* sets lists and numbers of its own; NULL: none */
    int (*run)(bench_run *run);                 /* fills the table; an exit code */
    int switches;               /* its pairs are of both modes, with a number of tokens for each */
    int replays_once;           /* a round has one replay */
    int has_model;              /* what it exchanges is a model's */
} bench_what;

struct bench_options {
    const char *name;           /* "epgraph bench pair" */
    const bench_what *what;
    epg_device_options device;
    bench_list ranks, tokens, hidden;
    bench_list row_types, layouts, modes;       /* epg_dtype, epg_layout, epg_mode */
    uint32_t experts, topk;     /* experts 0: 32 for each rank */
    uint32_t ht_tokens;         /* bench switch; 0: as many as the low-latency pairs have */
    uint32_t max_tokens;        /* of the group; 0: as many as are sent */
    uint32_t rounds, replays, pairs;            /* 0: chosen per case */
    uint64_t seed;
    const char *model;          /* bench step: a checkpoint's directory; NULL: one layer of the preset's shape */
    const epg_preset *preset;
    uint32_t layers;
    const char *json, *plot;    /* NULL: not wanted */
};

/* One line of the table: what runs. */
typedef struct bench_case {
    uint32_t ranks, tokens, hidden, experts, topk;
    uint32_t ht_tokens;         /* of the other pairs, where a benchmark has two kinds; else 0 */
    uint32_t most_tokens;       /* at least the larger of the two: what groups and buffers hold */
    epg_dtype row_type;
    epg_layout layout;
    epg_mode mode;
    uint32_t lanes;
    uint32_t rounds, replays, pairs; /* rounds are timed; each has so many replays of a graph of so many pairs */
} bench_case;

/* Exits with CLI_BAD_INPUT, the option and its value named, where the options cannot be used. */
void bench_options_parse(int argc, char **argv, const bench_what *what, bench_options *options);

void bench_parse_numbers(struct argp_state *state, const char *option, const char *text, uint64_t least, uint64_t most,
                         bench_list *list);
void bench_parse_row_types(struct argp_state *state, const char *text, bench_list *list);
void bench_parse_layouts(struct argp_state *state, const char *text, bench_list *list);
void bench_parse_modes(struct argp_state *state, const char *text, bench_list *list);
const char *bench_row_type_name(epg_dtype type);
const char *bench_layout_name(epg_layout layout);
const char *bench_mode_name(epg_mode mode);

/* ---- routing ---- */

typedef struct bench_routing {
    int32_t *ids;               /* [ranks][most_tokens][topk], distinct for each token */
    uint32_t rank_rows;         /* most rows that the experts of one rank get */
    uint32_t expert_rows;       /* most rows that one expert gets */
} bench_routing;

/* Uniform random, by the seed alone. -1: no memory. */
int bench_routing_make(const bench_case *what, uint64_t seed, bench_routing *routing);
void bench_routing_free(bench_routing *routing);

uint64_t bench_random(uint64_t *state);

/* Of the first tokens of every rank. */
typedef struct bench_counts {
    uint64_t tokens;
    uint64_t copies;            /* (token, destination rank) pairs: rows that travel */
    uint64_t routes;            /* (token, expert) pairs */
} bench_counts;
bench_counts bench_count(const bench_case *what, const bench_routing *routing, uint32_t tokens);

/* Bytes of rows that dispatch and combine of all ranks must read and write (docs/benchmarks.md). */
typedef struct bench_bytes {
    uint64_t dispatch, combine;
} bench_bytes;
bench_bytes bench_bytes_of(const bench_case *what, const bench_counts *counts);

/* Bytes of one row: as the caller has it, with its scales; as it travels and is copied for experts, with its scales; as
 * experts return it and combine carries it. */
typedef struct bench_row_sizes {
    size_t input, input_scales, wire, output;
} bench_row_sizes;
bench_row_sizes bench_sizes_of(const bench_case *what);

/* ---- ranks ---- */

typedef struct bench_team bench_team;

/* One rank's thread. */
typedef struct bench_rank {
    bench_team *all;
    epg_device *device;
    epg_team *team;
    uint32_t rank;
    epg_stream stream;
    epg_event marks[2];
    char problem[256];          /* what bench_fail was told; "": epg_message() has it */
} bench_rank;

/* For what is wrong and no call's failure: notes the sentence and returns a status for `body` to return. */
epg_status bench_fail(bench_rank *rank, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Runs `body` on a thread for each of `ranks` ranks. The first failure aborts the others and is printed after `name`.
 * An exit code. */
int bench_on_ranks(const char *name, epg_device *device, uint32_t ranks,
                   epg_status (*body)(void *ctx, bench_rank *rank), void *ctx);

/* Times of one kind of work: [ranks][rounds], in us. */
typedef struct bench_series {
    double *us;
    uint32_t ranks, rounds;
} bench_series;

int bench_series_make(bench_series *series, uint32_t ranks, uint32_t rounds);
void bench_series_free(bench_series *series);

/* Where half of the rounds lie, between the 10th and the 90th percentile; NAN where nothing was measured. */
typedef struct bench_times {
    double p10, p50, p90;
} bench_times;
#define BENCH_NO_TIMES ((bench_times){NAN, NAN, NAN})

/* The slowest rank's time of a round; NAN where a rank noted that. */
double bench_series_round(const bench_series *series, uint32_t round);

/* Of the slowest rank in each round. None, where a round is NAN. */
bench_times bench_series_times(const bench_series *series);
bench_times bench_times_of(double *us, uint32_t count); /* sorts them */

/* Runs `work` once to warm up, then `rounds` times, all ranks starting together; what it enqueued is waited for and
 * timed on the stream. Each time is divided by `parts`. */
typedef epg_status (*bench_work)(void *ctx, bench_rank *rank);
epg_status bench_time(bench_rank *rank, bench_work work, void *ctx, double *us); /* one round */
epg_status bench_rounds(bench_rank *rank, bench_work work, void *ctx, double parts, bench_series *series);

/* What `work` enqueues on the rank's stream, captured. No graph is left where that fails. */
epg_status bench_capture_work(bench_rank *rank, bench_work work, void *ctx, epg_graph *graph);

/* ---- the exchange ---- */

/* Bytes that one rank needs: for the protocol (symmetric and local), and apart from it the experts' rows. */
typedef struct bench_memory {
    uint64_t protocol, expert_input, expert_output;
} bench_memory;
epg_status bench_memory_of(const bench_case *what, const bench_routing *routing, bench_memory *memory);

/* Fills in a group's options; it holds exactly the rows that the routing brings. */
void bench_group_options(const bench_case *what, const bench_routing *routing, epg_group_options *options);

enum { BENCH_SETS_MAX = 8 };

typedef struct bench_buffers {
    void *rows, *ids, *weights, *out;
    void *scales;               /* opaque rows; NULL else */
    void *expert_rows;          /* where combine cannot take the experts' input: random rows; NULL else */
} bench_buffers;

typedef struct bench_exchange {
    bench_rank *rank;
    const bench_case *what;
    epg_group *group;
    bench_buffers sets[BENCH_SETS_MAX];
    uint32_t set_count;         /* pairs take the sets in turn */
    uint32_t lane;              /* of the pairs that are enqueued from now on */
} bench_exchange;

/* Random rows and weights of 1 / topk; as many sets of inputs and outputs as keep them from lying in a cache, where a
 * graph has several pairs. */
epg_status bench_exchange_create(bench_rank *rank, const bench_case *what, const bench_routing *routing,
                                 bench_exchange *exchange);
void bench_exchange_destroy(bench_exchange *exchange);

/* Enqueues pair number `index`, whose experts hand back their input. `between`, where not NULL, is recorded between
 * dispatch and combine. */
epg_status bench_exchange_pair(bench_exchange *exchange, uint32_t index, epg_mode mode, uint32_t tokens,
                               epg_event between, epg_stream stream);

/* Pairs from number 0 on. */
epg_status bench_exchange_pairs(bench_exchange *exchange, epg_mode mode, uint32_t tokens, uint32_t pairs,
                                epg_stream stream);

/* Work of a bench_exchange: as many pairs as its case has in a graph; the same with a void combine, which is what a
 * dispatch takes by itself. */
epg_status bench_exchange_case_pairs(void *exchange, bench_rank *rank);
epg_status bench_exchange_void_pairs(void *exchange, bench_rank *rank);

/* Do the experts' input rows serve as their output? Neither in place, where an index leads to them, nor in fp8. */
int bench_exchange_returns_input(const bench_case *what);

/* Nothing failed, nothing was dropped, and what came back is what was sent, where experts
 * hand back their input. */
epg_status bench_exchange_verify(bench_exchange *exchange);

/* Device memory of random values: bf16, float32, or any bytes. The same block again and again where it is large. */
epg_status bench_random_rows(bench_rank *rank, size_t bytes, epg_dtype type, uint64_t seed, void **rows);

/* ---- weights ---- */

enum { BENCH_PATH_MAX = 1024 };

typedef struct bench_weights {
    epg_checkpoint *checkpoint;
    epg_moe_shape shape;
    char directory[BENCH_PATH_MAX]; /* "", or what is removed at the end */
} bench_weights;

/* 0, or -1 with a sentence in `message`; to be closed in either case. */
int bench_weights_open(const bench_options *options, bench_weights *weights, char *message, size_t bytes);
void bench_weights_close(bench_weights *weights);

/* ---- what comes out ---- */

typedef enum bench_kind {
    BENCH_TEXT,     /* a constant text */
    BENCH_COUNT,
    BENCH_REAL,
    BENCH_TIMES,    /* us, with spread */
    BENCH_BYTES
} bench_kind;

enum { BENCH_COLUMNS_MAX = 64 };
enum { BENCH_MAIN = 1, BENCH_MEMORY = 2, BENCH_LABEL = 4 }; /* in which table; a label tells lines of a plot apart */

typedef struct bench_column {
    const char *key;            /* in the JSON */
    const char *heading;
    bench_kind kind;
    int where;
} bench_column;

typedef struct bench_value {
    const char *text;
    double number;              /* NAN: none */
    bench_times times;
} bench_value;

typedef struct bench_table {
    const char *bench;          /* "pair" */
    const char *title;
    const bench_column *columns;
    uint32_t column_count;
    const char *x, *y, *floor;  /* keys of a plot's axes, and of the floor drawn below y; floor may be NULL */
    bench_value *values;        /* [rows][column_count] */
    uint32_t rows, room;
} bench_table;

/* A new row, zeroed; NULL if there is no memory. */
bench_value *bench_table_row(bench_table *table);
void bench_table_free(bench_table *table);

typedef struct bench_plot bench_plot;

/* One run of the command, whichever subcommand. */
struct bench_run {
    const bench_options *options;
    epg_device *device;
    epg_device_info info;
    double copy_rate;           /* bytes per second, read and written */
    FILE *json;
    bench_plot *plot;
    progress bar;
    bench_table table;
    const bench_weights *weights; /* bench step */
};

int bench_report(bench_run *run); /* prints and writes all that is wanted; an exit code */

/* Starts gnuplot now, so that it is missed before anything is measured. NULL, with a sentence in `message`, where it
 * cannot be started or `path` not be written. */
bench_plot *bench_plot_open(const char *path, char *message, size_t bytes);
int bench_plot_draw(bench_plot *plot, const bench_table *table, const char *device); /* 0, or -1 if gnuplot failed */
void bench_plot_close(bench_plot *plot); /* NULL does nothing */

/* ---- the subcommands ---- */

extern const bench_what bench_pair, bench_step, bench_switch, bench_capture;

enum { BENCH_SERIES_MAX = 8 };

/* One case on all of its ranks. */
typedef struct bench_job {
    bench_run *run;
    const bench_case *what;
    bench_routing routing;
    bench_series series[BENCH_SERIES_MAX];
    double numbers[2];          /* what a benchmark counts beside its times; written by rank 0 */
} bench_job;

/* What a benchmark does with each case: `body` on every rank, its argument a bench_job; then `report`, which fills a
 * row of zeros. */
typedef struct bench_steps {
    uint32_t series;            /* how many a job needs */
    epg_status (*body)(void *job, bench_rank *rank);
    epg_status (*report)(const bench_job *job, bench_value *row);
} bench_steps;

/* Runs all cases of the options; an exit code. */
int bench_run_cases(bench_run *run, const bench_steps *steps);

#endif
