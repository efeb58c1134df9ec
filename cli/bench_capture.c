/* `epgraph bench capture`: what a graph of pairs costs before its first replay, call by call and in a runner. */
#include <math.h>
#include <string.h>
#include <time.h>
#include "bench_int.h"

#define TRY(call) do { epg_status try_status = (call); if (try_status) return try_status; } while (0)

enum { CAPTURE, INSTANTIATE, UPLOAD, UPDATE, RUNNER, AGAIN, SERIES };
enum { KEPT = 128, DROPS = 4 }; /* most executables kept at once to tell their memory, and steps of it waited for */
enum { GRAPH_BYTES, NODES };   /* of bench_job's numbers */

static const bench_column columns[] = {
    {"ranks", "ranks", BENCH_COUNT, BENCH_MAIN | BENCH_LABEL},
    {"hidden", "hidden", BENCH_COUNT, BENCH_MAIN | BENCH_LABEL},
    {"row_type", "rows", BENCH_TEXT, BENCH_MAIN | BENCH_LABEL},
    {"layout", "layout", BENCH_TEXT, BENCH_MAIN | BENCH_LABEL},
    {"mode", "mode", BENCH_TEXT, BENCH_MAIN | BENCH_LABEL},
    {"bucket", "bucket", BENCH_COUNT, BENCH_MAIN},
    {"nodes", "nodes", BENCH_COUNT, BENCH_MAIN},
    {"capture_us", "capture", BENCH_TIMES, BENCH_MAIN},
    {"instantiate_us", "instantiate", BENCH_TIMES, BENCH_MAIN},
    {"upload_us", "upload", BENCH_TIMES, BENCH_MAIN},
    {"update_us", "update", BENCH_TIMES, BENCH_MAIN},
    {"runner_us", "runner captures", BENCH_TIMES, BENCH_MAIN},
    {"after_reset_us", "after a reset", BENCH_TIMES, BENCH_MAIN},
    {"graph_bytes", "a graph takes", BENCH_BYTES, BENCH_MAIN},
    {"pairs_per_graph", NULL, BENCH_COUNT, 0},
    {"rounds", NULL, BENCH_COUNT, 0},
    {"max_tokens", NULL, BENCH_COUNT, 0},
    {"experts", NULL, BENCH_COUNT, 0},
    {"topk", NULL, BENCH_COUNT, 0},
};
enum { COLUMNS = sizeof(columns) / sizeof(columns[0]) };

typedef struct capture_rank {
    bench_exchange exchange;
    epg_graph graph, other;     /* two captures of the same work */
    epg_exec exec[KEPT];
    epg_runner *runner;
} capture_rank;

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Notes what the work since *start took, and begins anew. */
static void lap(bench_job *job, const bench_rank *rank, int series, uint32_t round, double *start)
{
    double now = now_us();
    job->series[series].us[(size_t)rank->rank * job->what->rounds + round] = now - *start;
    *start = now_us();
}

static epg_status drop(bench_rank *rank, capture_rank *r)
{
    for (int i = 0; i < KEPT; i++)
        if (r->exec[i])
            TRY(epg_exec_destroy(rank->device, r->exec[i]));
    memset(r->exec, 0, sizeof(r->exec));
    if (r->graph)
        TRY(epg_graph_destroy(rank->device, r->graph));
    if (r->other)
        TRY(epg_graph_destroy(rank->device, r->other));
    r->graph = r->other = NULL;
    return EPG_OK;
}

/* Each call by itself. A device that cannot update leaves that time out. */
static epg_status time_calls(bench_rank *rank, capture_rank *r, bench_job *job, uint32_t round)
{
    double start = now_us();
    TRY(bench_capture_work(rank, bench_exchange_case_pairs, &r->exchange, &r->graph));
    lap(job, rank, CAPTURE, round, &start);
    TRY(epg_graph_instantiate(rank->device, r->graph, &r->exec[0]));
    lap(job, rank, INSTANTIATE, round, &start);
    TRY(epg_exec_upload(rank->device, r->exec[0], rank->stream));
    TRY(epg_stream_synchronize(rank->device, rank->stream));
    lap(job, rank, UPLOAD, round, &start);
    TRY(bench_capture_work(rank, bench_exchange_case_pairs, &r->exchange, &r->other));
    start = now_us();
    epg_status updated = epg_exec_update(rank->device, r->exec[0], r->other);
    lap(job, rank, UPDATE, round, &start);
    if (updated == EPG_ERR_UNSUPPORTED)
        job->series[UPDATE].us[(size_t)rank->rank * job->what->rounds + round] = NAN;
    else if (updated != EPG_OK)
        return updated;
    return drop(rank, r);
}

/* Device memory is taken in large steps, and what earlier graphs left may be used first: executables are made until
 * free memory has gone down a few times, and those between the first and the last step share what they took. */
static epg_status find_memory(bench_rank *rank, capture_rank *r, double *bytes)
{
    uint64_t free_bytes, all, last = UINT64_MAX, first = 0;
    int drops = -1, first_made = 0; /* the first look is no drop */
    for (int i = 0; i < KEPT && drops < DROPS; i++) {
        TRY(epg_graph_instantiate(rank->device, r->graph, &r->exec[i]));
        TRY(epg_exec_upload(rank->device, r->exec[i], rank->stream));
        TRY(epg_stream_synchronize(rank->device, rank->stream));
        TRY(epg_memory_info(rank->device, &free_bytes, &all));
        if (free_bytes >= last)
            continue;
        last = free_bytes;
        if (++drops == 1)
            first = free_bytes, first_made = i;
        else if (drops > 1)
            *bytes = (double)(first - free_bytes) / (i - first_made);
    }
    return EPG_OK;
}

/* By one rank, while the others neither make nor free anything. On the host other programs do. */
static epg_status measure_memory(bench_rank *rank, capture_rank *r, bench_job *job)
{
    TRY(epg_team_barrier(rank->team));
    if (rank->rank == 0)
        job->numbers[GRAPH_BYTES] = NAN;
    if (rank->rank == 0 && job->run->info.kind != EPG_DEVICE_HOST) {
        TRY(bench_capture_work(rank, bench_exchange_case_pairs, &r->exchange, &r->graph));
        TRY(find_memory(rank, r, &job->numbers[GRAPH_BYTES]));
        TRY(drop(rank, r));
    }
    return epg_team_barrier(rank->team);
}

/* ---- in a runner ---- */

static epg_status step(void *ctx, const epg_step_call *call)
{
    bench_exchange *x = ctx;
    return bench_exchange_pairs(x, x->what->mode, call->bucket, x->what->pairs, call->stream);
}

static epg_status make_runner(bench_rank *rank, capture_rank *r, const bench_case *what)
{
    epg_segment segment = {step, &r->exchange, 0, "pairs"};
    epg_runner_options options = EPG_RUNNER_OPTIONS_INIT;
    options.segments = &segment;
    options.segment_count = 1;
    options.buckets = &what->tokens;
    options.bucket_count = 1;
    options.groups = &r->exchange.group;
    options.group_count = 1;
    return epg_runner_create(rank->device, &options, &r->runner);
}

/* Capture alone, then one replay. On a GPU that ranks share, to make a graph may have to wait for the device, and so
 * for a rank that waits there for this one: no rank replays before all have captured. */
static epg_status time_capture(bench_rank *rank, capture_rank *r, bench_job *job, int series, uint32_t round)
{
    epg_runner_step now = EPG_RUNNER_STEP_INIT;
    now.tokens = job->what->tokens;
    now.stream = rank->stream;
    TRY(epg_team_barrier(rank->team));
    double start = now_us();
    TRY(epg_runner_capture_all(r->runner, &now));
    lap(job, rank, series, round, &start);
    TRY(epg_team_barrier(rank->team));
    TRY(epg_runner_run(r->runner, &now));
    return epg_stream_synchronize(rank->device, rank->stream);
}

/* First the warm-ups, probe, capture, instantiation and upload. After a reset the same, but that the executable is
 * updated where the device can. */
static epg_status time_runner(bench_rank *rank, capture_rank *r, bench_job *job, uint32_t round)
{
    TRY(make_runner(rank, r, job->what));
    TRY(time_capture(rank, r, job, RUNNER, round));
    TRY(epg_runner_reset(r->runner));
    TRY(time_capture(rank, r, job, AGAIN, round));
    epg_runner_destroy(r->runner);
    r->runner = NULL;
    return EPG_OK;
}

static epg_status measure(bench_rank *rank, capture_rank *r, bench_job *job)
{
    const bench_case *what = job->what;
    size_t nodes;
    TRY(bench_exchange_pairs(&r->exchange, what->mode, what->tokens, 1, rank->stream)); /* loads the kernels */
    TRY(epg_stream_synchronize(rank->device, rank->stream));
    TRY(bench_capture_work(rank, bench_exchange_case_pairs, &r->exchange, &r->graph));
    TRY(epg_graph_node_count(rank->device, r->graph, &nodes));
    TRY(drop(rank, r));
    if (rank->rank == 0)
        job->numbers[NODES] = (double)nodes;
    TRY(measure_memory(rank, r, job));
    for (uint32_t round = 0; round < what->rounds; round++) {
        TRY(epg_team_barrier(rank->team));
        TRY(time_calls(rank, r, job, round));
        TRY(time_runner(rank, r, job, round));
    }
    return bench_exchange_verify(&r->exchange);
}

static epg_status run_rank(void *ctx, bench_rank *rank)
{
    bench_job *job = ctx;
    capture_rank r = {.runner = NULL};
    epg_status status = bench_exchange_create(rank, job->what, &job->routing, &r.exchange);
    if (status == EPG_OK)
        status = measure(rank, &r, job);
    epg_runner_destroy(r.runner);
    drop(rank, &r);
    if (status == EPG_OK)
        status = epg_team_barrier(rank->team);
    bench_exchange_destroy(&r.exchange);
    return status;
}

static epg_status report(const bench_job *job, bench_value *row)
{
    const bench_case *what = job->what;
    const bench_value values[COLUMNS] = {
        {.number = what->ranks}, {.number = what->hidden}, {.text = bench_row_type_name(what->row_type)},
        {.text = bench_layout_name(what->layout)}, {.text = bench_mode_name(what->mode)}, {.number = what->tokens},
        {.number = job->numbers[NODES]}, {.times = bench_series_times(&job->series[CAPTURE])},
        {.times = bench_series_times(&job->series[INSTANTIATE])}, {.times = bench_series_times(&job->series[UPLOAD])},
        {.times = bench_series_times(&job->series[UPDATE])}, {.times = bench_series_times(&job->series[RUNNER])},
        {.times = bench_series_times(&job->series[AGAIN])}, {.number = job->numbers[GRAPH_BYTES]},
        {.number = what->pairs}, {.number = what->rounds}, {.number = what->most_tokens},
        {.number = what->experts}, {.number = what->topk},
    };
    memcpy(row, values, sizeof(values));
    return EPG_OK;
}

static void defaults(bench_options *options)
{
    options->layouts = (bench_list){{EPG_LAYOUT_CONTIGUOUS}, 1};
    options->modes = (bench_list){{EPG_MODE_LL}, 1};
    options->pairs = 48;
    options->rounds = 11;
}

static int run_capture(bench_run *run)
{
    static const bench_steps steps = {SERIES, run_rank, report};
    run->table = (bench_table){.bench = "capture", .columns = columns, .column_count = COLUMNS, .x = "bucket",
                               .y = "runner_us",
                               .title = "What a graph of pairs costs, us of the host (10th to 90th percentile)"};
    return bench_run_cases(run, &steps);
}

const bench_what bench_capture = {
    "capture",
    "What a graph of pairs (48 of them) costs before its first replay: its capture, instantiation, upload and update, "
    "each call by itself; and a runner's capture of a bucket, with warm-ups and probe, at first and after a reset.",
    defaults, run_capture, 0, 1, 0};
