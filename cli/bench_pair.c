/* `epgraph bench pair`: a dispatch and its combine, replayed and eager. */
#include <string.h>
#include "bench_int.h"

#define TRY(call) do { epg_status try_status = (call); if (try_status) return try_status; } while (0)

enum { REPLAY, EAGER, VOID, DISPATCH, COMBINE, SERIES };

static const bench_column columns[] = {
    {"ranks", "ranks", BENCH_COUNT, BENCH_MAIN | BENCH_MEMORY | BENCH_LABEL},
    {"hidden", "hidden", BENCH_COUNT, BENCH_MAIN | BENCH_MEMORY | BENCH_LABEL},
    {"row_type", "rows", BENCH_TEXT, BENCH_MAIN | BENCH_MEMORY | BENCH_LABEL},
    {"layout", "layout", BENCH_TEXT, BENCH_MAIN | BENCH_MEMORY | BENCH_LABEL},
    {"mode", "mode", BENCH_TEXT, BENCH_MAIN | BENCH_LABEL},
    {"tokens", "tokens", BENCH_COUNT, BENCH_MAIN | BENCH_MEMORY},
    {"replay_us", "replayed", BENCH_TIMES, BENCH_MAIN},
    {"floor_us", "floor", BENCH_REAL, BENCH_MAIN},
    {"ratio", "ratio", BENCH_REAL, BENCH_MAIN},
    {"void_replay_us", "combine void", BENCH_TIMES, BENCH_MAIN},
    {"eager_us", "eager", BENCH_TIMES, BENCH_MAIN},
    {"dispatch_us", "dispatch", BENCH_TIMES, BENCH_MAIN},
    {"combine_us", "combine", BENCH_TIMES, BENCH_MAIN},
    {"max_tokens", "room for", BENCH_COUNT, BENCH_MEMORY},
    {"experts", NULL, BENCH_COUNT, 0},
    {"topk", NULL, BENCH_COUNT, 0},
    {"rounds", NULL, BENCH_COUNT, 0},
    {"replays", NULL, BENCH_COUNT, 0},
    {"pairs_per_graph", NULL, BENCH_COUNT, 0},
    {"dispatch_bytes", NULL, BENCH_COUNT, 0},
    {"combine_bytes", NULL, BENCH_COUNT, 0},
    {"protocol_bytes", "protocol", BENCH_BYTES, BENCH_MEMORY},
    {"expert_input_bytes", "expert input", BENCH_BYTES, BENCH_MEMORY},
    {"expert_output_bytes", "expert output", BENCH_BYTES, BENCH_MEMORY},
};
enum { COLUMNS = sizeof(columns) / sizeof(columns[0]) };

typedef struct pair_rank {
    bench_exchange exchange;
    epg_exec exec;
    epg_event between;
} pair_rank;

static epg_status replay(void *ctx, bench_rank *rank)
{
    pair_rank *r = ctx;
    for (uint32_t i = 0; i < r->exchange.what->replays; i++)
        TRY(epg_exec_launch(rank->device, r->exec, rank->stream));
    return EPG_OK;
}

static epg_status eager(void *ctx, bench_rank *rank)
{
    bench_exchange *x = &((pair_rank *)ctx)->exchange;
    uint32_t pairs = x->what->replays * x->what->pairs;
    return bench_exchange_pairs(x, x->what->mode, x->what->tokens, pairs, rank->stream);
}

/* The halves apart: an event between them, one pair to a round. */
static epg_status halves(pair_rank *r, bench_job *job)
{
    bench_rank *rank = r->exchange.rank;
    const bench_case *what = job->what;
    double *dispatch = job->series[DISPATCH].us + (size_t)rank->rank * what->rounds;
    double *combine = job->series[COMBINE].us + (size_t)rank->rank * what->rounds;
    for (uint32_t round = 0; round < what->rounds; round++) {
        TRY(epg_team_barrier(rank->team));
        TRY(epg_event_record(rank->device, rank->marks[0], rank->stream));
        TRY(bench_exchange_pair(&r->exchange, round, what->mode, what->tokens, r->between, rank->stream));
        TRY(epg_event_record(rank->device, rank->marks[1], rank->stream));
        TRY(epg_stream_synchronize(rank->device, rank->stream));
        TRY(epg_event_elapsed_us(rank->device, rank->marks[0], r->between, &dispatch[round]));
        TRY(epg_event_elapsed_us(rank->device, r->between, rank->marks[1], &combine[round]));
    }
    return EPG_OK;
}

/* Pairs replayed from graphs, as they are or with a void combine: next to nothing but dispatch. */
static epg_status replays(pair_rank *r, bench_job *job, int is_void)
{
    bench_rank *rank = r->exchange.rank;
    const bench_case *what = job->what;
    epg_graph graph;
    bench_work work = is_void ? bench_exchange_void_pairs : bench_exchange_case_pairs;
    TRY(bench_capture_work(rank, work, &r->exchange, &graph));
    epg_status status = epg_graph_instantiate(rank->device, graph, &r->exec);
    epg_graph_destroy(rank->device, graph);
    TRY(status);
    TRY(epg_exec_upload(rank->device, r->exec, rank->stream));
    TRY(bench_rounds(rank, replay, r, (double)what->replays * what->pairs, &job->series[is_void ? VOID : REPLAY]));
    TRY(epg_exec_destroy(rank->device, r->exec));
    r->exec = NULL;
    return EPG_OK;
}

static epg_status measure(pair_rank *r, bench_job *job)
{
    bench_rank *rank = r->exchange.rank;
    const bench_case *what = job->what;
    double parts = (double)what->replays * what->pairs;
    TRY(epg_event_create(rank->device, &r->between));
    TRY(bench_rounds(rank, eager, r, parts, &job->series[EAGER])); /* also loads the kernels */
    TRY(halves(r, job));
    TRY(replays(r, job, 1));
    TRY(replays(r, job, 0));
    return bench_exchange_verify(&r->exchange);
}

static epg_status run_rank(void *ctx, bench_rank *rank)
{
    bench_job *job = ctx;
    pair_rank r = {.exec = NULL};
    epg_status status = bench_exchange_create(rank, job->what, &job->routing, &r.exchange);
    if (status == EPG_OK)
        status = measure(&r, job);
    if (r.exec)
        epg_exec_destroy(rank->device, r.exec);
    if (r.between)
        epg_event_destroy(rank->device, r.between);
    if (status == EPG_OK)
        status = epg_team_barrier(rank->team);
    bench_exchange_destroy(&r.exchange);
    return status;
}

static epg_status report(const bench_job *job, bench_value *row)
{
    const bench_case *what = job->what;
    bench_counts counts = bench_count(what, &job->routing, what->tokens);
    bench_bytes bytes = bench_bytes_of(what, &counts);
    bench_memory memory;
    TRY(bench_memory_of(what, &job->routing, &memory));
    bench_times replayed = bench_series_times(&job->series[REPLAY]);
    double least = (double)(bytes.dispatch + bytes.combine) / job->run->copy_rate * 1e6;
    const bench_value values[COLUMNS] = {
        {.number = what->ranks}, {.number = what->hidden}, {.text = bench_row_type_name(what->row_type)},
        {.text = bench_layout_name(what->layout)}, {.text = bench_mode_name(what->mode)}, {.number = what->tokens},
        {.times = replayed}, {.number = least}, {.number = replayed.p50 / least},
        {.times = bench_series_times(&job->series[VOID])}, {.times = bench_series_times(&job->series[EAGER])},
        {.times = bench_series_times(&job->series[DISPATCH])}, {.times = bench_series_times(&job->series[COMBINE])},
        {.number = what->most_tokens}, {.number = what->experts}, {.number = what->topk}, {.number = what->rounds},
        {.number = what->replays}, {.number = what->pairs}, {.number = (double)bytes.dispatch},
        {.number = (double)bytes.combine}, {.number = (double)memory.protocol},
        {.number = (double)memory.expert_input}, {.number = (double)memory.expert_output},
    };
    memcpy(row, values, sizeof(values));
    return EPG_OK;
}

static int run_pair(bench_run *run)
{
    static const bench_steps steps = {SERIES, run_rank, report};
    run->table = (bench_table){.bench = "pair", .title = "A dispatch and its combine, us (10th to 90th percentile)",
                               .columns = columns, .column_count = COLUMNS, .x = "tokens", .y = "replay_us",
                               .floor = "floor_us"};
    return bench_run_cases(run, &steps);
}

const bench_what bench_pair = {
    "pair", "What a dispatch and its combine take: replayed from a graph, and eagerly. Experts hand back their input.",
    NULL, run_pair, 0, 0, 0};
