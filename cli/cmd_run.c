/* `epgraph run`: opens what the run needs, serves the workload, checks it, reports. Everything that can be wrong with
 * the input is found before the first step. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "check.h"
#include "cli.h"
#include "report.h"
#include "run_options.h"

#define DEFAULT_REQUESTS 64
#define SAMPLES 48

typedef struct run_state {
    run_options options;
    const char *name;           /* "epgraph run" */
    epg_device *device;
    epg_checkpoint *checkpoint;
    workload load;
    FILE *json, *timeline_file;
    timeline *timeline;
    timeline_counts timeline_counts;
    serve_config config;
    serve_sample *samples;
    uint32_t sample_count;
    progress bar;
    serve_result result;
    serve_times other_times;
    check_result check;
} run_state;

static const char *device_name(const run_state *run)
{
    return run->options.device.kind == EPG_DEVICE_CUDA ? "cuda" : "host";
}

static int open_model(run_state *run)
{
    epg_moe_shape shape = EPG_MOE_SHAPE_INIT;
    char text[700];
    if (epg_checkpoint_open(run->options.model, &run->checkpoint) || epg_checkpoint_shape(run->checkpoint, &shape))
        return cli_bad_input(run->name, epg_message());
    if (epg_device_create(&run->options.device, &run->device)) {
        snprintf(text, sizeof(text), "--device %s: %s", device_name(run), epg_message());
        return cli_bad_input(run->name, text);
    }
    if (shape.experts % run->options.ranks) {
        snprintf(text, sizeof(text), "--ranks %u does not divide the model's %u experts", run->options.ranks,
                 shape.experts);
        return cli_bad_input(run->name, text);
    }
    run->config.shape = shape;
    return CLI_OK;
}

static int open_workload(run_state *run)
{
    const run_options *options = &run->options;
    uint32_t vocab = run->config.shape.vocab;
    char message[700];
    if (!options->trace) {
        uint32_t count = options->requests ? options->requests : DEFAULT_REQUESTS;
        if (workload_synthesize(&run->load, count, options->seed, vocab))
            return cli_bad_input(run->name, "no memory for this many requests");
        return CLI_OK;
    }
    FILE *file = fopen(options->trace, "r");
    if (!file) {
        snprintf(message, sizeof(message), "--trace %s: %s", options->trace, strerror(errno));
        return cli_bad_input(run->name, message);
    }
    int status = workload_read(&run->load, file, options->trace, options->requests, options->seed, vocab, message,
                               sizeof(message));
    fclose(file);
    return status ? cli_bad_input(run->name, message) : CLI_OK;
}

static int open_output(const run_state *run, const char *option, const char *name, FILE **file)
{
    char message[700];
    if (!name || (*file = fopen(name, "w")))
        return CLI_OK;
    snprintf(message, sizeof(message), "--%s %s: %s", option, name, strerror(errno));
    return cli_bad_input(run->name, message);
}

static int open_outputs(run_state *run)
{
    int code = open_output(run, "json", run->options.json, &run->json);
    return code ? code : open_output(run, "timeline", run->options.timeline, &run->timeline_file);
}

static int configure(run_state *run)
{
    const run_options *options = &run->options;
    serve_config *config = &run->config;
    config->device = run->device;
    config->checkpoint = run->checkpoint;
    config->row_type = epg_checkpoint_type(run->checkpoint) == EPG_TENSOR_F32 ? EPG_FLOAT32 : EPG_BFLOAT16;
    config->load = &run->load;
    config->ranks = options->ranks;
    config->chunk = options->chunk;
    config->batch = options->batch;
    config->buckets = options->buckets;
    config->bucket_count = options->bucket_count;
    config->policy = options->policy;
    config->mode = options->mode;
    config->eager = options->eager;
    config->bar = &run->bar;
    if (options->check && check_choose_samples(config, SAMPLES, &run->samples, &run->sample_count))
        return cli_bad_input(run->name, "no memory for the oracle's sample");
    if (options->timeline && !(run->timeline = timeline_create(run->device, options->ranks, options->timeline_steps)))
        return cli_bad_input(run->name, "no memory for the timeline");
    config->timeline = run->timeline;
    config->samples = run->samples;
    config->sample_count = run->sample_count;
    return CLI_OK;
}

/* A run that ends before its first step ends because of its input, unless time, memory or a peer is to blame. */
static int exit_code(const serve_result *result)
{
    switch (result->status) {
    case EPG_ERR_NO_MEMORY:
    case EPG_ERR_TIMEOUT:
    case EPG_ERR_ABORTED:
    case EPG_ERR_SYSTEM: return CLI_FAILED;
    default: return result->in_setup ? CLI_BAD_INPUT : CLI_FAILED;
    }
}

/* Of a run that failed, too: what was recorded until then. */
static int write_timeline(run_state *run)
{
    if (!run->timeline || timeline_is_empty(run->timeline) ||
        !timeline_write(run->timeline, run->timeline_file, &run->timeline_counts))
        return CLI_OK;
    fprintf(stderr, "%s: --timeline %s could not be written: %s\n", run->name, run->options.timeline, strerror(errno));
    return CLI_FAILED;
}

static int serve(run_state *run)
{
    progress_start(&run->bar, "serving", run->load.positions);
    epg_status status = serve_run(&run->config, &run->result);
    progress_finish(&run->bar);
    int written = write_timeline(run);
    if (status) {
        fprintf(stderr, "%s: %s\n", run->name, run->result.message);
        return exit_code(&run->result);
    }
    if (written != CLI_OK)
        return written;
    if (run->options.check && check_run(&run->config, &run->result, &run->other_times, &run->check)) {
        fprintf(stderr, "%s: %s\n", run->name, run->check.message);
        return CLI_FAILED;
    }
    return CLI_OK;
}

static int report_all(run_state *run)
{
    epg_device_info info = EPG_DEVICE_INFO_INIT;
    epg_device_describe(run->device, &info);
    report out = {.config = &run->config, .result = &run->result, .check = &run->check, .device = device_name(run),
                  .team = run->result.team, .model = run->options.model, .trace = run->options.trace};
    out.replay_times = run->options.eager ? &run->other_times : &run->result.times;
    out.eager_times = run->options.eager ? &run->result.times : &run->other_times;
    if (run->json && report_json(&out, run->json)) {
        fprintf(stderr, "%s: --json %s could not be written: %s\n", run->name, run->options.json, strerror(errno));
        return CLI_FAILED;
    }
    out.device = info.name;
    if (run->timeline)
        out.timeline = &run->timeline_counts, out.timeline_file = run->options.timeline;
    report_print(&out, stdout);
    if (fflush(stdout)) {
        fprintf(stderr, "%s: standard output could not be written: %s\n", run->name, strerror(errno));
        return CLI_FAILED;
    }
    if (check_held(&run->check))
        return CLI_OK;
    fprintf(stderr, "%s: a check did not hold: %s\n", run->name, run->check.message);
    return CLI_FAILED;
}

/* No empty file is left where a run ended before its figures; devices and pipes are left alone. */
static void close_output(FILE *file, const char *name)
{
    struct stat info;
    if (!file)
        return;
    int empty = !fstat(fileno(file), &info) && S_ISREG(info.st_mode) && info.st_size == 0;
    fclose(file);
    if (empty)
        remove(name);
}

static void tear_down(run_state *run)
{
    close_output(run->json, run->options.json);
    close_output(run->timeline_file, run->options.timeline);
    timeline_destroy(run->timeline);
    serve_result_free(&run->result);
    free(run->other_times.values);
    check_free_samples(run->device, run->samples, run->sample_count);
    workload_free(&run->load);
    epg_checkpoint_close(run->checkpoint);
    epg_device_destroy(run->device);
}

int cmd_run(int argc, char **argv)
{
    run_state run = {.name = argv[0]};
    int (*const stages[])(run_state *) = {open_model, open_workload, open_outputs, configure, serve, report_all};
    int code = CLI_OK;
    run_options_parse(argc, argv, &run.options);
    for (size_t i = 0; i < sizeof(stages) / sizeof(stages[0]) && code == CLI_OK; i++)
        code = stages[i](&run);
    tear_down(&run);
    return code;
}
