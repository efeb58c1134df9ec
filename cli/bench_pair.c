/* `epgraph bench pair`: a dispatch and its combine, replayed and eager. */
#include <math.h>
#include "bench_int.h"

#define TRY(call) do { epg_status try_status = (call); if (try_status) return try_status; } while (0)

enum { REPLAY, EAGER, DISPATCH, COMBINE, SERIES };

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
    {"eager_us", "eager", BENCH_TIMES, BENCH_MAIN},
    {"dispatch_us", "dispatch", BENCH_TIMES, BENCH_MAIN},
    {"combine_us", "combine", BENCH_TIMES, BENCH_MAIN},
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

/* One case on all of its ranks. */
typedef struct pair_job {
    const bench_case *what;
    bench_routing routing;
    bench_series series[SERIES];
} pair_job;

typedef struct pair_rank {
    bench_exchange exchange;
    epg_graph graph;
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
    (void)rank;
    return bench_exchange_pairs(x, x->what->mode, x->what->tokens, x->what->replays * x->what->pairs, NULL);
}

/* The halves apart: an event between them, one pair to a round. */
static epg_status halves(pair_rank *r, pair_job *job)
{
    bench_rank *rank = r->exchange.rank;
    const bench_case *what = job->what;
    double *dispatch = job->series[DISPATCH].us + (size_t)rank->rank * what->rounds;
    double *combine = job->series[COMBINE].us + (size_t)rank->rank * what->rounds;
    for (uint32_t round = 0; round < what->rounds; round++) {
        TRY(epg_team_barrier(rank->team));
        TRY(epg_event_record(rank->device, rank->marks[0], rank->stream));
        TRY(bench_exchange_pairs(&r->exchange, what->mode, what->tokens, 1, r->between));
        TRY(epg_event_record(rank->device, rank->marks[1], rank->stream));
        TRY(epg_stream_synchronize(rank->device, rank->stream));
        TRY(epg_event_elapsed_us(rank->device, rank->marks[0], r->between, &dispatch[round]));
        TRY(epg_event_elapsed_us(rank->device, r->between, rank->marks[1], &combine[round]));
    }
    return EPG_OK;
}

static epg_status measure(pair_rank *r, pair_job *job)
{
    bench_rank *rank = r->exchange.rank;
    const bench_case *what = job->what;
    double parts = (double)what->replays * what->pairs;
    TRY(epg_event_create(rank->device, &r->between));
    TRY(bench_rounds(rank, eager, r, parts, &job->series[EAGER])); /* also loads the kernels */
    TRY(halves(r, job));
    TRY(bench_exchange_capture(&r->exchange, what->mode, what->tokens, what->pairs, &r->graph));
    TRY(epg_graph_instantiate(rank->device, r->graph, &r->exec));
    TRY(epg_exec_upload(rank->device, r->exec, rank->stream));
    TRY(bench_rounds(rank, replay, r, parts, &job->series[REPLAY]));
    return bench_exchange_verify(&r->exchange);
}

static epg_status run_rank(void *ctx, bench_rank *rank)
{
    pair_job *job = ctx;
    pair_rank r = {.graph = NULL};
    epg_status status = bench_exchange_create(rank, job->what, &job->routing, &r.exchange);
    if (status == EPG_OK)
        status = measure(&r, job);
    if (r.exec)
        epg_exec_destroy(rank->device, r.exec);
    if (r.graph)
        epg_graph_destroy(rank->device, r.graph);
    if (r.between)
        epg_event_destroy(rank->device, r.between);
    if (status == EPG_OK)
        status = epg_team_barrier(rank->team);
    bench_exchange_destroy(&r.exchange);
    return status;
}

static int report_case(bench_run *run, const pair_job *job)
{
    const bench_case *what = job->what;
    bench_bytes bytes = bench_bytes_of(what, &job->routing);
    bench_memory memory;
    bench_value *row = bench_table_row(&run->table);
    if (!row || bench_memory_of(what, &job->routing, &memory) != EPG_OK) {
        fprintf(stderr, "%s: %s\n", run->options->name, row ? epg_message() : "no memory for the table");
        return CLI_FAILED;
    }
    bench_times replayed = bench_series_times(&job->series[REPLAY]);
    double least = (double)(bytes.dispatch + bytes.combine) / run->copy_rate * 1e6;
    const bench_value values[COLUMNS] = {
        {.number = what->ranks}, {.number = what->hidden}, {.text = bench_row_type_name(what->row_type)},
        {.text = bench_layout_name(what->layout)}, {.text = bench_mode_name(what->mode)}, {.number = what->tokens},
        {.times = replayed}, {.number = least}, {.number = replayed.p50 / least},
        {.times = bench_series_times(&job->series[EAGER])}, {.times = bench_series_times(&job->series[DISPATCH])},
        {.times = bench_series_times(&job->series[COMBINE])}, {.number = what->experts}, {.number = what->topk},
        {.number = what->rounds}, {.number = what->replays}, {.number = what->pairs},
        {.number = (double)bytes.dispatch}, {.number = (double)bytes.combine}, {.number = (double)memory.protocol},
        {.number = (double)memory.expert_input}, {.number = (double)memory.expert_output},
    };
    for (uint32_t c = 0; c < COLUMNS; c++)
        row[c] = values[c];
    return CLI_OK;
}

static int run_case(void *ctx, const bench_case *what)
{
    bench_run *run = ctx;
    pair_job job = {.what = what};
    int failed = bench_routing_make(what, run->options->seed, &job.routing);
    for (int i = 0; i < SERIES; i++)
        failed |= bench_series_make(&job.series[i], what->ranks, what->rounds);
    if (failed)
        fprintf(stderr, "%s: no memory for %u tokens on each of %u ranks\n", run->options->name, what->tokens,
                what->ranks);
    int code = failed ? CLI_FAILED : bench_on_ranks(run->options->name, run->device, what->ranks, run_rank, &job);
    if (code == CLI_OK)
        code = report_case(run, &job);
    for (int i = 0; i < SERIES; i++)
        bench_series_free(&job.series[i]);
    bench_routing_free(&job.routing);
    progress_add(&run->bar, 1);
    progress_draw(&run->bar);
    return code;
}

int bench_pair(bench_run *run)
{
    run->table = (bench_table){.bench = "pair", .title = "A dispatch and its combine, us (10th to 90th percentile)",
                               .columns = columns, .column_count = COLUMNS, .x = "tokens", .y = "replay_us",
                               .floor = "floor_us"};
    progress_start(&run->bar, "measuring", bench_case_count(run->options));
    progress_draw(&run->bar);
    return bench_for_cases(run->options, run_case, run);
}
