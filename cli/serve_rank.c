/* One rank's thread: sets up its end of the group, then runs step after step until every rank is done.
 *
 * A prefill chunk runs eagerly; decode and idle steps go through the runner, which replays a captured graph. Ranks
 * meet in the exchange alone: no rank waits for another's phase. The report of the next step is offered while this
 * one runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "digest.h"
#include "serve_int.h"

#define TRY(call) do { epg_status try_status = (call); if (try_status) return try_status; } while (0)

/* Keeps the run's first failure. It is kept before the team is aborted, so what follows from it finds it there. */
static void record_failure(serve_rank *rank, epg_status status, const char *message)
{
    serve_result *result = rank->shared->result;
    char text[sizeof(result->message)];
    if (rank->stepping)
        snprintf(text, sizeof(text), "rank %u: %s", rank->rank, message);
    else
        snprintf(text, sizeof(text), "%s", message);
    pthread_mutex_lock(&rank->shared->lock);
    if (!result->status) {
        result->status = status;
        result->in_setup = !rank->stepping;
        memcpy(result->message, text, sizeof(text));
    }
    pthread_mutex_unlock(&rank->shared->lock);
    epg_team_abort(rank->team, text);
}

static size_t row_bytes(const serve_config *config)
{
    return (size_t)config->shape.hidden * (config->row_type == EPG_FLOAT32 ? 4 : 2);
}

/* ---- set-up ---- */

static epg_status create_group(serve_rank *rank)
{
    const serve_config *config = rank->shared->config;
    epg_group_options options = EPG_GROUP_OPTIONS_INIT;
    options.experts = config->shape.experts;
    options.hidden = config->shape.hidden;
    options.topk = config->shape.topk;
    options.max_tokens = rank->max_tokens;
    options.row_type = config->row_type;
    TRY(epg_group_create(rank->team, &options, &rank->group));
    epg_model_options model_options = EPG_MODEL_OPTIONS_INIT;
    model_options.keep_states = config->sample_count > 0;
    model_options.mark = rank->line ? timeline_mark : NULL;
    model_options.mark_ctx = rank->line;
    TRY(epg_model_create(rank->group, config->checkpoint, &model_options, &rank->model));
    return epg_model_get_buffers(rank->model, &rank->buffers);
}

/* The captured step. Its mode depends on the bucket alone, so that an entry always holds the same work. */
static epg_status decode_step(void *ctx, const epg_step_call *call)
{
    serve_rank *rank = ctx;
    epg_model_step_args args = EPG_MODEL_STEP_ARGS_INIT;
    args.bucket = call->bucket;
    args.mode = rank->shared->config->mode;
    args.stream = call->stream;
    timeline_model_begin(rank->line);
    return epg_model_step(rank->model, &args);
}

static epg_runner_step runner_step(const serve_rank *rank, uint32_t tokens)
{
    epg_runner_step step = EPG_RUNNER_STEP_INIT;
    step.tokens = tokens;
    step.eager = rank->shared->config->eager;
    step.stream = rank->stream;
    step.inputs = rank->inputs;
    step.input_count = 2;
    return step;
}

static epg_status create_runner(serve_rank *rank)
{
    const serve_config *config = rank->shared->config;
    epg_segment segment = {decode_step, rank, 0, "decode"};
    epg_runner_options options = EPG_RUNNER_OPTIONS_INIT;
    options.segments = &segment;
    options.segment_count = 1;
    options.buckets = config->buckets;
    options.bucket_count = config->bucket_count;
    options.groups = &rank->group;
    options.group_count = 1;
    options.observe = rank->line ? timeline_observe : NULL;
    options.observe_ctx = rank->line;
    TRY(epg_runner_create(config->device, &options, &rank->runner));
    rank->inputs[0] = (epg_runner_input){"token count", rank->buffers.tokens};
    rank->inputs[1] = (epg_runner_input){"token ids", rank->buffers.ids};
    if (config->eager)
        return EPG_OK;
    /* Now rather than at first use, so that no step's time holds a capture. */
    epg_runner_step step = runner_step(rank, 0);
    return epg_runner_capture_all(rank->runner, &step);
}

/* The coordinator's threshold for automatic mode is the one that groups use. */
static uint32_t ll_max_tokens(uint32_t otherwise)
{
    epg_setting_info info;
    for (size_t i = 0; i < epg_setting_count(); i++)
        if (!epg_setting_get(i, &info) && !strcmp(info.name, "EPGRAPH_LL_MAX_TOKENS"))
            return (uint32_t)strtoul(info.value, NULL, 10);
    return otherwise;
}

static epg_status create_stepper(serve_rank *rank)
{
    const serve_config *config = rank->shared->config;
    epg_step_config step = EPG_STEP_CONFIG_INIT;
    step.policy = config->policy;
    step.chunk = config->chunk;
    step.ll_max_tokens = ll_max_tokens(step.ll_max_tokens);
    step.mode = config->mode;
    step.buckets = config->buckets;
    step.bucket_count = config->bucket_count;
    return epg_stepper_create(rank->team, &step, &rank->stepper);
}

static epg_status allocate(serve_rank *rank)
{
    const serve_config *config = rank->shared->config;
    epg_device *device = config->device;
    size_t most = rank->max_tokens;
    void *memory[4] = {NULL, NULL, NULL, NULL};
    const size_t bytes[4] = {sizeof(uint32_t), most * sizeof(int32_t), most * sizeof(int32_t),
                             most * row_bytes(config)};
    epg_status status = EPG_OK;
    for (int i = 0; i < 4 && !status; i++)
        status = epg_memory_alloc(device, EPG_MEMORY_PINNED, bytes[i], &memory[i]);
    rank->token_count = memory[0];
    rank->ids = memory[1];
    rank->next_ids = memory[2];
    rank->hidden = memory[3];
    return status;
}

static epg_status set_up(serve_rank *rank)
{
    const serve_config *config = rank->shared->config;
    uint32_t largest = config->buckets[config->bucket_count - 1];
    rank->max_tokens = config->chunk > largest ? config->chunk : largest;
    rank->buffers = (epg_model_buffers)EPG_MODEL_BUFFERS_INIT;
    TRY(epg_stream_create(config->device, EPG_STREAM_NONBLOCKING, &rank->stream));
    TRY(timeline_open(config->timeline, rank->rank, config->shape.layers, config->bucket_count, rank->stream,
                      &rank->line));
    TRY(create_group(rank));
    TRY(allocate(rank));
    TRY(create_stepper(rank));
    return create_runner(rank);
}

static void tear_down(serve_rank *rank)
{
    epg_device *device = rank->shared->config->device;
    if (rank->stream)
        epg_stream_synchronize(device, rank->stream);
    epg_runner_destroy(rank->runner);
    epg_stepper_destroy(rank->stepper);
    timeline_close(rank->line);
    epg_memory_free(device, EPG_MEMORY_PINNED, rank->token_count);
    epg_memory_free(device, EPG_MEMORY_PINNED, rank->ids);
    epg_memory_free(device, EPG_MEMORY_PINNED, rank->next_ids);
    epg_memory_free(device, EPG_MEMORY_PINNED, rank->hidden);
    epg_model_destroy(rank->model);
    epg_group_destroy(rank->group);
    if (rank->stream)
        epg_stream_destroy(device, rank->stream);
}

/* ---- one step ---- */

/* The token at a position: the prompt's, or the one generated out of the position before. */
static int32_t token_at(const serve_rank *rank, schedule_slot slot)
{
    const workload *load = rank->shared->config->load;
    const workload_request *request = &load->requests[slot.request];
    if (slot.position < request->prompt)
        return workload_prompt_id(load, slot.request, slot.position);
    return rank->shared->result->tokens[request->first_token + (slot.position - request->prompt)];
}

static epg_status enqueue_inputs(serve_rank *rank, uint32_t count)
{
    epg_device *device = rank->shared->config->device;
    for (uint32_t i = 0; i < count; i++)
        rank->ids[i] = token_at(rank, rank->slots[i]);
    *rank->token_count = count;
    if (count)
        TRY(epg_memcpy_async(device, rank->buffers.ids, rank->ids, count * sizeof(int32_t), rank->stream));
    return epg_memcpy_async(device, rank->buffers.tokens, rank->token_count, sizeof(uint32_t), rank->stream);
}

static epg_status enqueue_step(serve_rank *rank, const epg_step_plan *plan, uint32_t count)
{
    if (plan->phase != EPG_STEP_PREFILL) {
        epg_runner_step step = runner_step(rank, count);
        return epg_runner_run(rank->runner, &step);
    }
    epg_model_step_args args = EPG_MODEL_STEP_ARGS_INIT;
    uint64_t token;
    args.bucket = plan->bucket;
    args.mode = plan->mode;
    args.stream = rank->stream;
    args.head = 0;
    for (uint32_t i = 0; i < count && !args.head; i++)
        args.head = schedule_generates(rank->shared->config->load, rank->slots[i], &token);
    timeline_begin(rank->line, TIMELINE_EAGER, plan->bucket);
    timeline_model_begin(rank->line);
    TRY(epg_model_step(rank->model, &args));
    timeline_end(rank->line);
    return EPG_OK;
}

static int compare_sample(const void *key, const void *element)
{
    uint64_t position = *(const uint64_t *)key, other = ((const serve_sample *)element)->position;
    return (position > other) - (position < other);
}

/* Copies the states of the slots that were sampled. */
static epg_status enqueue_samples(serve_rank *rank, uint32_t count)
{
    const serve_config *config = rank->shared->config;
    size_t bytes = row_bytes(config);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t position = config->load->requests[rank->slots[i].request].first_position + rank->slots[i].position;
        serve_sample *sample = bsearch(&position, config->samples, config->sample_count, sizeof(*sample),
                                       compare_sample);
        for (uint32_t layer = 0; sample && layer <= config->shape.layers; layer++) {
            const char *from = (const char *)rank->buffers.states + ((size_t)layer * rank->max_tokens + i) * bytes;
            TRY(epg_memcpy_async(config->device, (char *)sample->states + layer * bytes, from, bytes, rank->stream));
        }
    }
    return EPG_OK;
}

static epg_status enqueue_outputs(serve_rank *rank, uint32_t count)
{
    const serve_config *config = rank->shared->config;
    if (!count)
        return EPG_OK;
    TRY(epg_memcpy_async(config->device, rank->hidden, rank->buffers.hidden, count * row_bytes(config), rank->stream));
    TRY(epg_memcpy_async(config->device, rank->next_ids, rank->buffers.next_ids, count * sizeof(int32_t),
                         rank->stream));
    return config->sample_count ? enqueue_samples(rank, count) : EPG_OK;
}

/* Takes what the finished step computed. */
static void harvest(serve_rank *rank, uint32_t count)
{
    const serve_config *config = rank->shared->config;
    serve_result *result = rank->shared->result;
    size_t bytes = row_bytes(config);
    for (uint32_t i = 0; i < count; i++) {
        schedule_slot slot = rank->slots[i];
        uint64_t token, position = config->load->requests[slot.request].first_position + slot.position;
        result->hashes[position] = digest_bytes(DIGEST_START, (const char *)rank->hidden + i * bytes, bytes);
        if (schedule_generates(config->load, slot, &token))
            result->tokens[token] = rank->next_ids[i];
    }
    progress_add(config->bar, count);
    if (rank->rank == 0)
        progress_draw(config->bar);
}

static epg_status add_time(serve_times *times, double us)
{
    if (times->count == times->room) {
        size_t room = times->room ? times->room * 2 : 1024;
        double *grown = realloc(times->values, room * sizeof(double));
        if (!grown)
            return EPG_ERR_NO_MEMORY;
        times->values = grown;
        times->room = room;
    }
    times->values[times->count++] = us;
    return EPG_OK;
}

static epg_status offer_report(serve_rank *rank)
{
    epg_step_report report = {.alive = 1, .epochs = {rank->epoch}};
    report.pairs[0] = rank->shared->config->shape.layers;
    schedule_report(&rank->schedule, rank->clock_us, &report);
    return epg_stepper_begin(rank->stepper, &report);
}

static epg_status run_step(serve_rank *rank, const epg_step_plan *plan)
{
    epg_device *device = rank->shared->config->device;
    uint32_t count = schedule_take(&rank->schedule, plan, rank->slots);
    uint64_t start = epg_device_now_ns(device);
    TRY(timeline_step_begin(rank->line, plan, count, rank->epoch + 1));
    TRY(enqueue_inputs(rank, count));
    TRY(enqueue_step(rank, plan, count));
    TRY(enqueue_outputs(rank, count));
    TRY(timeline_step_end(rank->line));
    rank->epoch += plan->pairs[0];
    rank->clock_us = schedule_clock(rank->shared->config->load, rank->clock_us, 0);
    TRY(offer_report(rank));
    timeline_begin(rank->line, TIMELINE_WAIT, 0);
    TRY(epg_stream_synchronize(device, rank->stream));
    timeline_end(rank->line);
    timeline_step_done(rank->line);
    if (plan->phase == EPG_STEP_DECODE)
        TRY(add_time(&rank->times, (double)(epg_device_now_ns(device) - start) / 1000.0));
    epg_group_record group_record = EPG_GROUP_RECORD_INIT;
    TRY(epg_group_check(rank->group, &group_record));
    harvest(rank, count);
    return EPG_OK;
}

/* ---- all steps ---- */

/* Counts a step by its phases; 1 if no rank has anything to run. */
static int count_step(serve_rank *rank)
{
    int prefill = 0, decode = 0;
    for (uint32_t r = 0; r < rank->shared->config->ranks; r++) {
        prefill |= rank->plans[r].phase == EPG_STEP_PREFILL;
        decode |= rank->plans[r].phase == EPG_STEP_DECODE;
    }
    if (!prefill && !decode)
        return 1;
    if (rank->rank == 0) {
        rank->counts.total++;
        rank->counts.mixed += prefill && decode;
        rank->counts.prefill_only += prefill && !decode;
        rank->counts.decode_only += decode && !prefill;
    }
    return 0;
}

static epg_status run_steps(serve_rank *rank)
{
    epg_step_plan plan;
    TRY(offer_report(rank));
    for (;;) {
        timeline_begin(rank->line, TIMELINE_EXCHANGE, 0);
        TRY(epg_stepper_end(rank->stepper, &plan, rank->plans));
        timeline_end(rank->line);
        if (plan.stop)
            return EPG_OK;
        if (!count_step(rank)) {
            TRY(run_step(rank, &plan));
            continue;
        }
        /* Requests are still to come, and nobody has work: go on to the next arrival. */
        rank->clock_us = schedule_clock(rank->shared->config->load, rank->clock_us, 1);
        TRY(offer_report(rank));
    }
}

/* Adds (sign 1) or takes off (-1) the calls counted so far, so that the difference is what the steps did. */
static epg_status count_calls(serve_rank *rank, int sign)
{
    epg_group_stats group = EPG_GROUP_STATS_INIT;
    epg_team_stats team = EPG_TEAM_STATS_INIT;
    TRY(epg_group_get_stats(rank->group, &group));
    TRY(epg_team_get_stats(rank->team, &team));
    rank->counts.cleans += (uint64_t)sign * group.cleans;
    rank->counts.barriers += (uint64_t)sign * team.barriers;
    return EPG_OK;
}

static epg_status count_graphs(serve_rank *rank)
{
    epg_runner_stats stats = EPG_RUNNER_STATS_INIT;
    TRY(epg_runner_get_stats(rank->runner, &stats));
    rank->counts.captures = stats.captures;
    rank->counts.replays = stats.replays;
    rank->counts.eager = stats.eager;
    rank->counts.padding = stats.padding;
    return EPG_OK;
}

static epg_status run(serve_rank *rank)
{
    TRY(set_up(rank));
    TRY(count_calls(rank, -1));
    rank->stepping = 1;
    uint64_t start = epg_device_now_ns(rank->shared->config->device);
    TRY(run_steps(rank));
    rank->seconds = (double)(epg_device_now_ns(rank->shared->config->device) - start) / 1e9;
    TRY(count_calls(rank, 1));
    return count_graphs(rank);
}

void *serve_rank_main(void *argument)
{
    serve_rank *rank = argument;
    const serve_config *config = rank->shared->config;
    uint32_t largest = config->buckets[config->bucket_count - 1];
    rank->slots = calloc(config->chunk > largest ? config->chunk : largest, sizeof(*rank->slots));
    rank->plans = calloc(config->ranks, sizeof(*rank->plans));
    if (!rank->slots || !rank->plans ||
        schedule_create(&rank->schedule, config->load, rank->rank, config->ranks, config->batch)) {
        record_failure(rank, EPG_ERR_NO_MEMORY, "no memory for a rank's schedule");
    } else {
        epg_status status = run(rank);
        if (status) {
            const char *message = epg_message();
            record_failure(rank, status, *message ? message : epg_status_text(status));
        }
        tear_down(rank);
    }
    schedule_destroy(&rank->schedule);
    free(rank->plans);
    free(rank->slots);
    return NULL;
}
