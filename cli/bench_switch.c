/* `epgraph bench switch`: high-throughput and low-latency pairs in turn on one lane, against the same with each mode on
 * a lane of its own, where no lane ever switches but the same kernels follow one another. */
#include <string.h>
#include "bench_int.h"

#define TRY(call) do { epg_status try_status = (call); if (try_status) return try_status; } while (0)

enum { LL, HT, BOTH, APART, SERIES };

static const bench_column columns[] = {
    {"ranks", "ranks", BENCH_COUNT, BENCH_MAIN | BENCH_LABEL},
    {"hidden", "hidden", BENCH_COUNT, BENCH_MAIN | BENCH_LABEL},
    {"row_type", "rows", BENCH_TEXT, BENCH_MAIN | BENCH_LABEL},
    {"layout", "layout", BENCH_TEXT, BENCH_MAIN | BENCH_LABEL},
    {"tokens", "LL tokens", BENCH_COUNT, BENCH_MAIN},
    {"ht_tokens", "HT tokens", BENCH_COUNT, BENCH_MAIN},
    {"ll_us", "LL pair", BENCH_TIMES, BENCH_MAIN},
    {"ht_us", "HT pair", BENCH_TIMES, BENCH_MAIN},
    {"both_us", "HT and LL in turn", BENCH_TIMES, BENCH_MAIN},
    {"apart_us", "on two lanes", BENCH_TIMES, BENCH_MAIN},
    {"floor_us", "floor", BENCH_REAL, BENCH_MAIN},
    {"ratio", "ratio", BENCH_REAL, BENCH_MAIN},
    {"switch_us", "a switch adds", BENCH_TIMES, BENCH_MAIN},
    {"pairs_per_graph", NULL, BENCH_COUNT, 0},
    {"rounds", NULL, BENCH_COUNT, 0},
    {"replays", NULL, BENCH_COUNT, 0},
    {"max_tokens", NULL, BENCH_COUNT, 0},
    {"experts", NULL, BENCH_COUNT, 0},
    {"topk", NULL, BENCH_COUNT, 0},
};
enum { COLUMNS = sizeof(columns) / sizeof(columns[0]) };

typedef struct switch_rank {
    bench_exchange exchange;
    epg_exec exec[SERIES];
    int now;                    /* which of them is made or replayed */
} switch_rank;

static int is_mixed(int kind) { return kind == BOTH || kind == APART; }

/* As many pairs in each graph, so that a launch weighs as much in each. */
static epg_status pairs(void *ctx, bench_rank *rank)
{
    switch_rank *r = ctx;
    bench_exchange *x = &r->exchange;
    const bench_case *what = x->what;
    for (uint32_t i = 0; i < 2 * what->pairs; i++) {
        int high = is_mixed(r->now) ? i % 2 == 0 : r->now == HT;
        x->lane = r->now == APART && high;
        TRY(bench_exchange_pair(x, i / 2, high ? EPG_MODE_HT : EPG_MODE_LL, high ? what->ht_tokens : what->tokens, NULL,
                                rank->stream));
    }
    return EPG_OK;
}

static epg_status make_exec(bench_rank *rank, switch_rank *r)
{
    epg_graph graph;
    TRY(bench_capture_work(rank, pairs, r, &graph));
    epg_status status = epg_graph_instantiate(rank->device, graph, &r->exec[r->now]);
    epg_graph_destroy(rank->device, graph);
    return status == EPG_OK ? epg_exec_upload(rank->device, r->exec[r->now], rank->stream) : status;
}

static epg_status replay(void *ctx, bench_rank *rank)
{
    switch_rank *r = ctx;
    for (uint32_t i = 0; i < r->exchange.what->replays; i++)
        TRY(epg_exec_launch(rank->device, r->exec[r->now], rank->stream));
    return EPG_OK;
}

/* All in turn in each round, so that they see the same machine. The first round warms up. */
static epg_status measure(bench_rank *rank, switch_rank *r, bench_job *job)
{
    const bench_case *what = job->what;
    double us, parts = (double)what->replays * what->pairs;
    r->now = APART;
    TRY(pairs(r, rank)); /* loads the kernels */
    TRY(epg_stream_synchronize(rank->device, rank->stream));
    TRY(epg_team_barrier(rank->team)); /* to make a graph may wait for the device, on which no rank must wait then */
    for (r->now = 0; r->now < SERIES; r->now++)
        TRY(make_exec(rank, r));
    for (uint32_t round = 0; round <= what->rounds; round++)
        for (r->now = 0; r->now < SERIES; r->now++) {
            double *mine = job->series[r->now].us + (size_t)rank->rank * what->rounds;
            TRY(bench_time(rank, replay, r, &us));
            if (round > 0)
                mine[round - 1] = us / parts / (is_mixed(r->now) ? 1 : 2);
        }
    return bench_exchange_verify(&r->exchange);
}

static epg_status run_rank(void *ctx, bench_rank *rank)
{
    bench_job *job = ctx;
    switch_rank r = {.now = 0};
    epg_status status = bench_exchange_create(rank, job->what, &job->routing, &r.exchange);
    if (status == EPG_OK)
        status = measure(rank, &r, job);
    for (int kind = 0; kind < SERIES; kind++)
        if (r.exec[kind])
            epg_exec_destroy(rank->device, r.exec[kind]);
    if (status == EPG_OK)
        status = epg_team_barrier(rank->team);
    bench_exchange_destroy(&r.exchange);
    return status;
}

/* In each round: what the two in turn take beyond the two on lanes of their own, over the two switches. */
static bench_times switch_times(const bench_job *job)
{
    double added[BENCH_ROUNDS_MAX];
    for (uint32_t round = 0; round < job->what->rounds; round++)
        added[round] = (bench_series_round(&job->series[BOTH], round) -
                        bench_series_round(&job->series[APART], round)) / 2;
    return bench_times_of(added, job->what->rounds);
}

/* The least time of one pair of each mode. */
static double floor_us(const bench_job *job)
{
    const uint32_t tokens[] = {job->what->tokens, job->what->ht_tokens};
    double bytes = 0;
    for (int i = 0; i < 2; i++) {
        bench_counts counts = bench_count(job->what, &job->routing, tokens[i]);
        bench_bytes moved = bench_bytes_of(job->what, &counts);
        bytes += (double)(moved.dispatch + moved.combine);
    }
    return bytes / job->run->copy_rate * 1e6;
}

static epg_status report(const bench_job *job, bench_value *row)
{
    const bench_case *what = job->what;
    bench_times both = bench_series_times(&job->series[BOTH]);
    double least = floor_us(job);
    const bench_value values[COLUMNS] = {
        {.number = what->ranks}, {.number = what->hidden}, {.text = bench_row_type_name(what->row_type)},
        {.text = bench_layout_name(what->layout)}, {.number = what->tokens}, {.number = what->ht_tokens},
        {.times = bench_series_times(&job->series[LL])}, {.times = bench_series_times(&job->series[HT])},
        {.times = both}, {.times = bench_series_times(&job->series[APART])}, {.number = least},
        {.number = both.p50 / least}, {.times = switch_times(job)},
        {.number = what->pairs}, {.number = what->rounds}, {.number = what->replays}, {.number = what->most_tokens},
        {.number = what->experts}, {.number = what->topk},
    };
    memcpy(row, values, sizeof(values));
    return EPG_OK;
}

static void defaults(bench_options *options)
{
    options->modes = (bench_list){{EPG_MODE_LL}, 1}; /* each line has both */
    options->layouts = (bench_list){{EPG_LAYOUT_CONTIGUOUS}, 1};
    options->rounds = 31;
}

static int run_switch(bench_run *run)
{
    static const bench_steps steps = {SERIES, run_rank, report};
    run->table = (bench_table){.bench = "switch", .columns = columns, .column_count = COLUMNS, .x = "tokens",
                               .y = "both_us",
                               .floor = "floor_us",
                               .title = "Pairs of one mode, and of both in turn, us (10th to 90th percentile)"};
    return bench_run_cases(run, &steps);
}

const bench_what bench_switch = {
    "switch",
    "What a switch of modes adds: high-throughput and low-latency pairs in turn in one graph, against the same with "
    "each mode on a lane of its own; beside them, graphs of as many pairs of each.",
    defaults, run_switch, 1, 0, 0};
