/* `epgraph bench step`: a decode step of many layers (norm, gate, dispatch, experts, combine), replayed and eager, and
 * what a replay costs the host. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "bench_int.h"

#define TRY(call) do { epg_status try_status = (call); if (try_status) return try_status; } while (0)

enum { REPLAY, EAGER, LAUNCH, RUNNER, CROSSED, SERIES }; /* RUNNER and CROSSED: what they add to LAUNCH */
enum { NODES, WEIGHT_BYTES };   /* of bench_job's numbers */

static const bench_column columns[] = {
    {"ranks", "ranks", BENCH_COUNT, BENCH_MAIN | BENCH_LABEL},
    {"mode", "mode", BENCH_TEXT, BENCH_MAIN | BENCH_LABEL},
    {"tokens", "tokens", BENCH_COUNT, BENCH_MAIN},
    {"layers", "layers", BENCH_COUNT, BENCH_MAIN},
    {"nodes", "nodes", BENCH_COUNT, BENCH_MAIN},
    {"replay_us", "replayed", BENCH_TIMES, BENCH_MAIN},
    {"floor_us", "floor", BENCH_REAL, BENCH_MAIN},
    {"ratio", "ratio", BENCH_REAL, BENCH_MAIN},
    {"eager_us", "eager", BENCH_TIMES, BENCH_MAIN},
    {"eager_ratio", "eager / replayed", BENCH_REAL, BENCH_MAIN},
    {"host_launch_us", "host: bare launch", BENCH_TIMES, BENCH_MAIN},
    {"runner_adds_us", "a runner adds", BENCH_TIMES, BENCH_MAIN},
    {"crossed_adds_us", "streams crossed: adds", BENCH_TIMES, BENCH_MAIN},
    {"hidden", NULL, BENCH_COUNT, 0},
    {"experts", NULL, BENCH_COUNT, 0},
    {"topk", NULL, BENCH_COUNT, 0},
    {"intermediate", NULL, BENCH_COUNT, 0},
    {"rounds", NULL, BENCH_COUNT, 0},
    {"replays", NULL, BENCH_COUNT, 0},
    {"weight_bytes", NULL, BENCH_COUNT, 0},
};
enum { COLUMNS = sizeof(columns) / sizeof(columns[0]) };

typedef struct step_rank {
    const bench_job *job;
    epg_group *group;
    epg_model *model;
    uint32_t *tokens;           /* of the model's buffers */
    void *in, *state;           /* [tokens][hidden] */
    epg_stream streams[2];      /* the rank's own, and another */
    epg_graph graph;
    epg_exec exec;
    epg_runner *runner;
} step_rank;

/* ---- the step ---- */

/* The first layer reads the same rows every time, the others go on with what it made of them. */
static epg_status enqueue_layer(step_rank *r, uint32_t index, uint32_t bucket, epg_stream stream)
{
    epg_model_step_args args = EPG_MODEL_STEP_ARGS_INIT;
    args.bucket = bucket;
    args.mode = r->job->what->mode;
    args.stream = stream;
    uint32_t layer = index % r->job->run->weights->shape.layers;
    return epg_model_layer(r->model, layer, r->tokens, index ? r->state : r->in, r->state, &args);
}

static epg_status enqueue_layers(step_rank *r, uint32_t bucket, epg_stream stream)
{
    for (uint32_t i = 0; i < r->job->run->options->layers; i++)
        TRY(enqueue_layer(r, i, bucket, stream));
    return EPG_OK;
}

static epg_status step(void *ctx, const epg_step_call *call)
{
    return enqueue_layers(ctx, call->bucket, call->stream);
}

/* ---- set-up ---- */

static epg_status make_model(bench_rank *rank, step_rank *r)
{
    const bench_case *what = r->job->what;
    epg_group_options options = EPG_GROUP_OPTIONS_INIT;
    epg_model_buffers buffers = EPG_MODEL_BUFFERS_INIT;
    options.experts = what->experts;
    options.hidden = what->hidden;
    options.topk = what->topk;
    options.max_tokens = what->tokens;
    options.row_type = what->row_type;
    TRY(epg_group_create(rank->team, &options, &r->group));
    TRY(epg_model_create(r->group, r->job->run->weights->checkpoint, NULL, &r->model));
    TRY(epg_model_get_buffers(r->model, &buffers));
    r->tokens = buffers.tokens;
    return epg_memcpy(rank->device, r->tokens, &what->tokens, sizeof what->tokens);
}

static epg_status make_rows(bench_rank *rank, step_rank *r)
{
    const bench_case *what = r->job->what;
    size_t bytes = what->tokens * bench_sizes_of(what).output;
    TRY(bench_random_rows(rank, bytes, what->row_type, rank->rank + 1, &r->in));
    return bench_random_rows(rank, bytes, what->row_type, rank->rank + 1, &r->state);
}

static epg_status layers(void *ctx, bench_rank *rank)
{
    step_rank *r = ctx;
    return enqueue_layers(r, r->job->what->tokens, rank->stream);
}

static epg_status make_graph(bench_rank *rank, step_rank *r)
{
    TRY(bench_capture_work(rank, layers, r, &r->graph));
    TRY(epg_graph_instantiate(rank->device, r->graph, &r->exec));
    return epg_exec_upload(rank->device, r->exec, rank->stream);
}

static epg_status make_runner(bench_rank *rank, step_rank *r)
{
    epg_segment segment = {step, r, 0, "layers"};
    epg_runner_options options = EPG_RUNNER_OPTIONS_INIT;
    options.segments = &segment;
    options.segment_count = 1;
    options.buckets = &r->job->what->tokens;
    options.bucket_count = 1;
    options.groups = &r->group;
    options.group_count = 1;
    return epg_runner_create(rank->device, &options, &r->runner);
}

/* All ranks before any replays: on a GPU that ranks share, to make a graph may have to wait for the device, and so for
 * a rank that waits there for this one. */
static epg_status capture_step(bench_rank *rank, step_rank *r)
{
    epg_runner_step now = EPG_RUNNER_STEP_INIT;
    now.tokens = r->job->what->tokens;
    now.stream = rank->stream;
    TRY(epg_runner_capture_all(r->runner, &now));
    return epg_team_barrier(rank->team);
}

/* ---- what is timed ---- */

static epg_status run_step(step_rank *r, int eager, uint32_t turn)
{
    epg_runner_step now = EPG_RUNNER_STEP_INIT;
    now.tokens = r->job->what->tokens;
    now.eager = eager;
    now.stream = r->streams[turn];
    return epg_runner_run(r->runner, &now);
}

static epg_status replays(void *ctx, bench_rank *rank)
{
    step_rank *r = ctx;
    (void)rank;
    for (uint32_t i = 0; i < r->job->what->replays; i++)
        TRY(run_step(r, 0, 0));
    return EPG_OK;
}

static epg_status eager(void *ctx, bench_rank *rank)
{
    step_rank *r = ctx;
    (void)rank;
    for (uint32_t i = 0; i < r->job->what->replays; i++)
        TRY(run_step(r, 1, 0));
    return EPG_OK;
}

static epg_status launch(bench_rank *rank, step_rank *r, int how, uint32_t turn)
{
    if (how == LAUNCH)
        return epg_exec_launch(rank->device, r->exec, rank->stream);
    return run_step(r, 0, how == CROSSED ? turn % 2 : 0);
}

static epg_status time_call(bench_rank *rank, step_rank *r, int how, uint32_t turn, double *us)
{
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    TRY(launch(rank, r, how, turn));
    clock_gettime(CLOCK_MONOTONIC, &end);
    *us += (double)(end.tv_sec - begin.tv_sec) * 1e6 + (double)(end.tv_nsec - begin.tv_nsec) / 1e3;
    return EPG_OK;
}

/* Calls in the ways [first, end) in turn, all waited for at the end. */
static epg_status time_batch(bench_rank *rank, step_rank *r, int first, int end, double *us)
{
    uint32_t count = r->job->what->replays;
    TRY(epg_team_barrier(rank->team));
    for (uint32_t i = 0; i < count; i++)
        for (int k = 0; k < end - first; k++) { /* each comes first as often */
            int how = first + (int)(i + (uint32_t)k) % (end - first);
            TRY(time_call(rank, r, how, i, &us[how]));
        }
    for (int i = 0; i < 2; i++)
        TRY(epg_stream_synchronize(rank->device, r->streams[i]));
    for (int how = first; how < end; how++)
        us[how] /= count;
    return EPG_OK;
}

/* The two on one stream take turns call by call, so that they meet the same queue. */
static epg_status measure_host(bench_rank *rank, step_rank *r, bench_job *job)
{
    uint32_t rounds = job->what->rounds;
    for (uint32_t round = 0; round <= rounds; round++) {
        double us[SERIES] = {0};
        TRY(time_batch(rank, r, LAUNCH, CROSSED, us));
        TRY(time_batch(rank, r, CROSSED, SERIES, us));
        if (round == 0)
            continue;
        for (int how = LAUNCH; how < SERIES; how++)
            job->series[how].us[(size_t)rank->rank * rounds + round - 1] = us[how] - (how > LAUNCH ? us[LAUNCH] : 0);
    }
    return EPG_OK;
}

/* ---- the floor ---- */

/* How many of this rank's experts got a token in the layer that ran last. */
static epg_status count_experts(bench_rank *rank, const step_rank *r, uint64_t *experts)
{
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    TRY(epg_group_view(r->group, 0, &view));
    uint32_t *counts = calloc(view.local_experts, sizeof *counts);
    if (!counts)
        return bench_fail(rank, "no memory for the counts of %u experts", view.local_experts);
    epg_status status = epg_memcpy(rank->device, counts, view.counts, view.local_experts * sizeof *counts);
    for (uint32_t e = 0; e < view.local_experts && status == EPG_OK; e++)
        *experts += counts[e] > 0;
    free(counts);
    return status;
}

/* Bytes of the weights that a step of this rank must read: the router's in each layer, and those of each expert that
 * got a token, counted layer by layer. */
static epg_status weigh(bench_rank *rank, step_rank *r, uint64_t *bytes)
{
    const bench_run *run = r->job->run;
    const epg_moe_shape *shape = &run->weights->shape;
    int wide = run->info.kind == EPG_DEVICE_HOST || epg_checkpoint_type(run->weights->checkpoint) != EPG_TENSOR_BF16;
    uint64_t experts = 0, layers = run->options->layers, row = (uint64_t)shape->hidden * (wide ? 4 : 2);
    for (uint32_t i = 0; i < layers; i++) {
        TRY(enqueue_layer(r, i, r->job->what->tokens, rank->stream));
        TRY(epg_stream_synchronize(rank->device, rank->stream));
        TRY(count_experts(rank, r, &experts));
    }
    *bytes = layers * shape->experts * row + experts * 3 * shape->intermediate * row;
    return EPG_OK;
}

static epg_status sum_weights(bench_rank *rank, step_rank *r, bench_job *job)
{
    uint64_t mine = 0, all[EPG_TEAM_MAX_RANKS];
    TRY(weigh(rank, r, &mine));
    TRY(epg_team_allgather(rank->team, &mine, sizeof mine, all));
    for (uint32_t i = 0; i < job->what->ranks && rank->rank == 0; i++)
        job->numbers[WEIGHT_BYTES] += (double)all[i];
    return EPG_OK;
}

static epg_status measure(bench_rank *rank, step_rank *r, bench_job *job)
{
    size_t nodes;
    TRY(make_model(rank, r));
    TRY(make_rows(rank, r));
    TRY(epg_stream_create(rank->device, EPG_STREAM_NONBLOCKING, &r->streams[1]));
    TRY(make_runner(rank, r));
    TRY(bench_rounds(rank, eager, r, job->what->replays, &job->series[EAGER])); /* also loads the kernels */
    TRY(make_graph(rank, r));
    TRY(capture_step(rank, r));
    TRY(bench_rounds(rank, replays, r, job->what->replays, &job->series[REPLAY]));
    TRY(epg_graph_node_count(rank->device, r->graph, &nodes));
    if (rank->rank == 0)
        job->numbers[NODES] = (double)nodes;
    TRY(measure_host(rank, r, job));
    TRY(sum_weights(rank, r, job));
    return epg_group_check(r->group, NULL);
}

static void tear_down(bench_rank *rank, step_rank *r)
{
    epg_device *device = rank->device;
    epg_stream_synchronize(device, rank->stream);
    epg_runner_destroy(r->runner);
    if (r->exec)
        epg_exec_destroy(device, r->exec);
    if (r->graph)
        epg_graph_destroy(device, r->graph);
    if (r->streams[1])
        epg_stream_destroy(device, r->streams[1]);
    epg_model_destroy(r->model);
    epg_group_destroy(r->group);
    epg_memory_free(device, EPG_MEMORY_DEVICE, r->in);
    epg_memory_free(device, EPG_MEMORY_DEVICE, r->state);
}

static epg_status run_rank(void *ctx, bench_rank *rank)
{
    bench_job *job = ctx;
    step_rank r = {.job = job, .streams = {rank->stream, NULL}};
    epg_status status = measure(rank, &r, job);
    if (status == EPG_OK)
        status = epg_team_barrier(rank->team);
    tear_down(rank, &r);
    return status;
}

static epg_status report(const bench_job *job, bench_value *row)
{
    const bench_case *what = job->what;
    bench_times replayed = bench_series_times(&job->series[REPLAY]), eagerly = bench_series_times(&job->series[EAGER]);
    double least = job->numbers[WEIGHT_BYTES] / job->run->copy_rate * 1e6;
    const bench_value values[COLUMNS] = {
        {.number = what->ranks}, {.text = bench_mode_name(what->mode)}, {.number = what->tokens},
        {.number = job->run->options->layers}, {.number = job->numbers[NODES]}, {.times = replayed}, {.number = least},
        {.number = replayed.p50 / least}, {.times = eagerly}, {.number = eagerly.p50 / replayed.p50},
        {.times = bench_series_times(&job->series[LAUNCH])}, {.times = bench_series_times(&job->series[RUNNER])},
        {.times = bench_series_times(&job->series[CROSSED])},
        {.number = what->hidden}, {.number = what->experts}, {.number = what->topk},
        {.number = job->run->weights->shape.intermediate}, {.number = what->rounds}, {.number = what->replays},
        {.number = job->numbers[WEIGHT_BYTES]},
    };
    memcpy(row, values, sizeof(values));
    return EPG_OK;
}

/* ---- the command ---- */

static void defaults(bench_options *options)
{
    options->modes = (bench_list){{EPG_MODE_LL}, 1};
    options->layouts = (bench_list){{EPG_LAYOUT_IN_PLACE}, 1};
    options->layers = 48;
    options->rounds = 21;
}

/* The exchange is the model's. */
static bench_options options_of(const bench_options *given, const bench_weights *weights)
{
    bench_options options = *given;
    epg_tensor_type type = epg_checkpoint_type(weights->checkpoint);
    options.hidden = (bench_list){{weights->shape.hidden}, 1};
    options.experts = weights->shape.experts;
    options.topk = weights->shape.topk;
    options.row_types = (bench_list){{type == EPG_TENSOR_F32 ? EPG_FLOAT32 : EPG_BFLOAT16}, 1};
    return options;
}

static int check_ranks(const bench_options *options)
{
    for (uint32_t i = 0; i < options->ranks.count; i++)
        if (options->experts % options->ranks.values[i]) {
            fprintf(stderr, "%s: --ranks: %u does not divide the model's %u experts\n", options->name,
                    options->ranks.values[i], options->experts);
            return CLI_BAD_INPUT;
        }
    return CLI_OK;
}

static int run_cases(bench_run *run)
{
    static const bench_steps steps = {SERIES, run_rank, report};
    const bench_options *given = run->options;
    bench_options options = options_of(given, run->weights);
    run->options = &options;
    int code = check_ranks(&options);
    if (code == CLI_OK)
        code = bench_run_cases(run, &steps);
    run->options = given;
    return code;
}

static int run_step_bench(bench_run *run)
{
    char message[700];
    bench_weights weights;
    int code = CLI_OK;
    run->weights = &weights;
    run->table = (bench_table){.bench = "step", .columns = columns, .column_count = COLUMNS, .x = "tokens",
                               .y = "replay_us", .floor = "floor_us",
                               .title = "A decode step's layers, us (10th to 90th percentile)"};
    if (bench_weights_open(run->options, &weights, message, sizeof(message))) {
        fprintf(stderr, "%s: %s\n", run->options->name, message);
        code = CLI_BAD_INPUT;
    } else
        code = run_cases(run);
    bench_weights_close(&weights);
    return code;
}

const bench_what bench_step = {
    "step",
    "What the layers of a decode step take (48 of them: norm, gate, dispatch, experts, combine), replayed and eager, "
    "and the host's time of a replay: a bare launch, and what a runner adds on one stream, and on two in turn.",
    defaults, run_step_bench, 0, 0, 1};
