/* The runner's handle: creation, running a step, statistics. Not its job: making an entry (runner_capture.c).
 *
 * Invariants: a step that fails its checks enqueues nothing; work of two steps never overlaps, whatever streams they
 * are on, because entries share the pool; a replay never synchronises. */
#include <stdlib.h>
#include <string.h>
#include "device/device_ops.h"
#include "graph/runner_int.h"

_Static_assert((int)EPG__RANGE_EAGER - (int)EPG__RANGE_FIRST_USE == (int)EPG_SPAN_EAGER, "ranges are in spans' order");

static const char *phase_name(epg_runner_phase phase)
{
    static const char *const names[] = {"eager", "warm-up", "probe", "capture"};
    return names[phase];
}

/* ---- creation ---- */

static epg_status check_options(const epg_runner_options *options)
{
    if (!options->segments || options->segment_count == 0)
        return epg__fail(EPG_ERR_INVALID, "a runner needs at least one segment");
    for (uint32_t i = 0; i < options->segment_count; i++)
        if (!options->segments[i].fn)
            return epg__fail(EPG_ERR_INVALID, "segments[%u].fn is NULL", i);
    if (options->group_count > 0 && !options->groups)
        return epg__fail(EPG_ERR_INVALID, "group_count is %u and groups is NULL", options->group_count);
    for (uint32_t i = 0; i < options->group_count; i++)
        if (!options->groups[i])
            return epg__fail(EPG_ERR_INVALID, "groups[%u] is NULL", i);
    if (options->warmups < -1 || options->warmups > 1000)
        return epg__fail(EPG_ERR_INVALID, "warmups is %d; it is -1 (the setting) or 0 to 1000", options->warmups);
    if ((unsigned)options->mode > EPG_CAPTURE_RELAXED)
        return epg__fail(EPG_ERR_INVALID, "mode is %d, which is no capture mode", (int)options->mode);
    if (options->buckets && options->bucket_count > EPG_BUCKETS_MAX)
        return epg__fail(EPG_ERR_INVALID, "bucket_count is %u; at most %d", options->bucket_count, EPG_BUCKETS_MAX);
    return options->buckets ? epg__buckets_check(options->buckets, options->bucket_count) : EPG_OK;
}

static epg_status set_buckets(epg_runner *runner, const epg_runner_options *options)
{
    runner->buckets = epg__zalloc(EPG_BUCKETS_MAX, sizeof *runner->buckets, "the runner's buckets");
    if (!runner->buckets)
        return EPG_ERR_NO_MEMORY;
    if (!options->buckets)
        return epg_default_buckets(options->max_bucket, runner->buckets, &runner->bucket_count);
    memcpy(runner->buckets, options->buckets, options->bucket_count * sizeof *runner->buckets);
    runner->bucket_count = options->bucket_count;
    return EPG_OK;
}

static epg_status set_segments(epg_runner *runner, const epg_runner_options *options)
{
    runner->segments = epg__zalloc(options->segment_count, sizeof *runner->segments, "the runner's segments");
    runner->spans = epg__zalloc(options->segment_count, sizeof *runner->spans, "the runner's segments");
    if (!runner->segments || !runner->spans)
        return EPG_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < options->segment_count; i++) {
        const epg_segment *from = &options->segments[i];
        bool eager = from->eager != 0;
        char *name = epg__strdup(from->name ? from->name : "step");
        if (!name)
            return EPG_ERR_NO_MEMORY;
        runner->segments[runner->segment_count++] = (epg_segment){from->fn, from->ctx, eager, name};
        if (i == 0 || runner->spans[runner->span_count - 1].eager != eager)
            runner->spans[runner->span_count++] = (epg__span){i, 0, eager};
        runner->spans[runner->span_count - 1].count++;
    }
    return EPG_OK;
}

static epg_status set_groups(epg_runner *runner, const epg_runner_options *options)
{
    runner->groups = epg__zalloc(options->group_count, sizeof(epg_group *), "the runner's groups");
    if (!runner->groups)
        return EPG_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < options->group_count; i++)
        runner->groups[i] = options->groups[i];
    runner->group_count = options->group_count;
    return EPG_OK;
}

static epg_status set_warmups(epg_runner *runner, const epg_runner_options *options)
{
    long long warmups = options->warmups;
    if (warmups < 0)
        EPG_TRY(epg__setting_integer(EPG__SETTING_WARMUPS, 0, 1000, &warmups));
    /* Captured segments behind an eager one find their scratch memory by what a warm-up asked for. */
    if (warmups == 0 && (runner->span_count > 1 || runner->spans[0].eager))
        warmups = 1;
    runner->warmups = (uint32_t)warmups;
    return EPG_OK;
}

static epg_status set_scopes(epg_runner *runner, const epg_runner_options *options)
{
    epg_device_info info = EPG_DEVICE_INFO_INIT;
    EPG_TRY(epg_device_describe(runner->device, &info));
    runner->ordinal = info.ordinal;
    if (!options->scopes && info.kind == EPG_DEVICE_CUDA)
        EPG_TRY(epg_scope_table_create(NULL, &runner->own_scopes));
    runner->scopes = options->scopes ? options->scopes : runner->own_scopes;
    return EPG_OK;
}

static epg_status fill_runner(epg_runner *runner, const epg_runner_options *options)
{
    runner->probe = options->probe != 0;
    runner->mode = options->mode;
    runner->progress = options->progress;
    runner->progress_ctx = options->progress_ctx;
    runner->observe = options->observe;
    runner->observe_ctx = options->observe_ctx;
    runner->stats.size = sizeof runner->stats;
    EPG_TRY(set_buckets(runner, options));
    EPG_TRY(set_segments(runner, options));
    EPG_TRY(set_groups(runner, options));
    EPG_TRY(set_warmups(runner, options));
    EPG_TRY(set_scopes(runner, options));
    EPG_TRY(epg_stream_create(runner->device, EPG_STREAM_NONBLOCKING, &runner->stream));
    return epg_event_create_order(runner->device, &runner->event);
}

epg_status epg_runner_create(epg_device *device, const epg_runner_options *options, epg_runner **runner)
{
    if (!device || !options || !runner)
        return epg__fail(EPG_ERR_INVALID, "epg_runner_create: %s is NULL",
                         !device ? "device" : !options ? "options" : "runner");
    epg_runner_options chosen = EPG_RUNNER_OPTIONS_INIT;
    EPG__CHECK_SIZE(options, offsetof(epg_runner_options, observe));
    memcpy(&chosen, options, options->size < sizeof chosen ? options->size : sizeof chosen);
    EPG_TRY(check_options(&chosen));
    epg_runner *made = epg__zalloc(1, sizeof *made, "a runner");
    if (!made)
        return EPG_ERR_NO_MEMORY;
    made->device = made->pool.device = device;
    epg_status status = fill_runner(made, &chosen);
    if (status != EPG_OK) {
        epg__message kept;
        epg__message_keep(&kept);
        epg_runner_destroy(made);
        return epg__message_restore(&kept, status);
    }
    *runner = made;
    return EPG_OK;
}

/* ---- who looks on ---- */

static epg__range range_of(epg_runner_span span) { return (epg__range)(EPG__RANGE_FIRST_USE + (int)span); }

void epg__runner_begin(const epg_runner *runner, epg_runner_span span, uint32_t variant, uint32_t bucket)
{
    runner->device->ops->range_push(runner->device, range_of(span));
    if (runner->observe)
        runner->observe(runner->observe_ctx, span, 1, variant, bucket);
}

epg_status epg__runner_end(const epg_runner *runner, epg_runner_span span, uint32_t variant, uint32_t bucket,
                           epg_status status)
{
    if (runner->observe) {
        epg__message kept; /* the observer may call what writes another */
        epg__message_keep(&kept);
        runner->observe(runner->observe_ctx, span, 0, variant, bucket);
        epg__message_restore(&kept, status);
    }
    runner->device->ops->range_pop(runner->device);
    return status;
}

/* ---- entries ---- */

/* The entry's place in the sorted table, or where it would go. */
static uint32_t entry_place(const epg_runner *runner, uint32_t variant, uint32_t bucket)
{
    uint32_t low = 0, high = runner->entry_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const epg__entry *entry = runner->entries[middle];
        if (entry->variant < variant || (entry->variant == variant && entry->bucket < bucket))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static epg__entry *entry_find(const epg_runner *runner, uint32_t variant, uint32_t bucket)
{
    uint32_t place = entry_place(runner, variant, bucket);
    if (place == runner->entry_count)
        return NULL;
    epg__entry *entry = runner->entries[place];
    return entry->variant == variant && entry->bucket == bucket ? entry : NULL;
}

/* Before the capture, so that a captured entry always finds its place. */
static epg_status reserve_entry(epg_runner *runner)
{
    if (runner->entry_count < runner->entry_capacity)
        return EPG_OK;
    uint32_t capacity = runner->entry_capacity * 2 + 16;
    epg__entry **more = epg__grow(runner->entries, capacity, sizeof(epg__entry *), "the runner's entries");
    if (!more)
        return EPG_ERR_NO_MEMORY;
    runner->entries = more;
    runner->entry_capacity = capacity;
    return EPG_OK;
}

static epg_status first_use(epg_runner *runner, const epg_runner_step *step, uint32_t bucket, epg__entry **entry)
{
    uint64_t start = epg_device_now_ns(runner->device);
    epg_status status = reserve_entry(runner);
    if (status == EPG_OK) {
        epg__runner_begin(runner, EPG_SPAN_FIRST_USE, step->variant, bucket);
        status = epg__entry_create(runner, step, bucket, entry);
        epg__runner_end(runner, EPG_SPAN_FIRST_USE, step->variant, bucket, status);
    }
    runner->stats.capture_us += (double)(epg_device_now_ns(runner->device) - start) / 1000.0;
    if (status != EPG_OK) {
        runner->stats.failures++;
        return status;
    }
    uint32_t place = entry_place(runner, step->variant, bucket);
    memmove(&runner->entries[place + 1], &runner->entries[place],
            (runner->entry_count - place) * sizeof(epg__entry *));
    runner->entries[place] = *entry;
    runner->entry_count++;
    runner->stats.captures++;
    runner->probed = true;
    return EPG_OK;
}

/* ---- steps ---- */

static epg_status call_function(const epg_segment *segment, const epg_step_call *call)
{
    epg__message before;
    epg__message_take(&before);
    epg_status status = segment->fn(segment->ctx, call);
    if (status == EPG_OK)
        return epg__message_restore(&before, EPG_OK);
    if (epg_message()[0] == 0)
        epg__fail(status, "%s", epg_status_text(status));
    return status;
}

/* The scope is left whatever the step function gave, and its failure comes before one to leave. */
static epg_status call_in_scope(const epg_runner *runner, const epg_segment *segment, const epg_step_call *call)
{
    epg_scope *scope = NULL;
    epg__message kept;
    if (!runner->scopes)
        return call_function(segment, call);
    EPG_TRY(epg_scope_enter(runner->scopes, runner->ordinal, call->stream, NULL, &scope));
    epg_status status = call_function(segment, call);
    epg__message_keep(&kept);
    epg_status left = epg_scope_leave(scope);
    return status == EPG_OK ? left : epg__message_restore(&kept, status);
}

epg_status epg__runner_call(epg_runner *runner, uint32_t segment, const epg_runner_step *step, uint32_t bucket,
                            epg_runner_phase phase, epg_stream stream)
{
    const epg_segment *at = &runner->segments[segment];
    epg_step_call call = {sizeof call, step->variant, bucket, phase, stream, runner, step->inputs, step->input_count};
    epg_status status = call_in_scope(runner, at, &call);
    if (status != EPG_OK)
        epg__fail_prefix(status, "%s, segment \"%s\": ", phase_name(phase), at->name);
    return status;
}

epg_status epg__runner_order(epg_runner *runner, epg_stream before, epg_stream after)
{
    EPG_TRY(epg_event_record(runner->device, runner->event, before));
    return epg_stream_wait_event(runner->device, after, runner->event);
}

static bool same_stream(epg_stream a, epg_stream b)
{
    return (a ? a : EPG_STREAM_LEGACY) == (b ? b : EPG_STREAM_LEGACY);
}

/* Orders this step after the last one, which may be on another stream. */
static epg_status cross_streams(epg_runner *runner, epg_stream stream)
{
    if (runner->has_last && !same_stream(runner->last, stream)) {
        epg_status status = epg__runner_order(runner, runner->last, stream);
        if (status != EPG_OK)
            return epg__fail_prefix(status, "the stream of the step before could not be waited for: ");
        runner->stats.crossings++;
    }
    runner->last = stream;
    runner->has_last = true;
    return EPG_OK;
}

static epg_status check_inputs(const epg__entry *entry, const epg_runner_step *step)
{
    if (entry->input_count != step->input_count)
        return epg__fail(EPG_ERR_MOVED, "bucket %u was captured with %u inputs and is replayed with %u", entry->bucket,
                         entry->input_count, step->input_count);
    for (uint32_t i = 0; i < entry->input_count; i++) {
        const epg__bound_input *bound = &entry->inputs[i];
        if (strcmp(bound->name, step->inputs[i].name) != 0)
            return epg__fail(EPG_ERR_MOVED, "input %u of bucket %u was \"%s\" when captured and is \"%s\"", i,
                             entry->bucket, bound->name, step->inputs[i].name);
        if (bound->address != step->inputs[i].address)
            return epg__fail(EPG_ERR_MOVED, "input \"%s\" of bucket %u was captured at %p and is now at %p",
                             bound->name, entry->bucket, bound->address, step->inputs[i].address);
    }
    return EPG_OK;
}

static epg_status enqueue_eager(epg_runner *runner, const epg_runner_step *step, uint32_t bucket)
{
    EPG_TRY(cross_streams(runner, step->stream));
    epg__pool_seek(&runner->pool, (epg__pool_mark){0, 0}, NULL, true);
    for (uint32_t s = 0; s < runner->segment_count; s++)
        EPG_TRY(epg__runner_call(runner, s, step, bucket, EPG_PHASE_EAGER, step->stream));
    runner->stats.eager++;
    return EPG_OK;
}

static epg_status run_eager(epg_runner *runner, const epg_runner_step *step)
{
    uint32_t bucket = step->tokens ? step->tokens : runner->buckets[0];
    epg__runner_begin(runner, EPG_SPAN_EAGER, step->variant, bucket);
    return epg__runner_end(runner, EPG_SPAN_EAGER, step->variant, bucket, enqueue_eager(runner, step, bucket));
}

static epg_status run_eager_span(epg_runner *runner, const epg__entry *entry, const epg__span *span,
                                 const epg_runner_step *step)
{
    for (uint32_t s = span->first; s < span->first + span->count; s++) {
        epg__pool_seek(&runner->pool, entry->marks[s], &entry->marks[s + 1], false);
        EPG_TRY(epg__runner_call(runner, s, step, entry->bucket, EPG_PHASE_EAGER, step->stream));
    }
    return EPG_OK;
}

static epg_status enqueue_replay(epg_runner *runner, const epg__entry *entry, const epg_runner_step *step)
{
    EPG_TRY(cross_streams(runner, step->stream));
    for (uint32_t i = 0; i < runner->span_count; i++) {
        if (runner->spans[i].eager)
            EPG_TRY(run_eager_span(runner, entry, &runner->spans[i], step));
        else
            EPG_TRY(epg_exec_launch(runner->device, entry->execs[i], step->stream));
    }
    runner->stats.replays++;
    runner->stats.tokens += step->tokens;
    runner->stats.padding += entry->bucket - step->tokens;
    return EPG_OK;
}

static epg_status replay(epg_runner *runner, const epg__entry *entry, const epg_runner_step *step)
{
    EPG_TRY(check_inputs(entry, step));
    EPG_TRY(epg__runner_check_closed(runner)); /* the graph's pairs would run in the middle of it */
    epg__runner_begin(runner, EPG_SPAN_REPLAY, entry->variant, entry->bucket);
    return epg__runner_end(runner, EPG_SPAN_REPLAY, entry->variant, entry->bucket, enqueue_replay(runner, entry, step));
}

static epg_status check_step(const epg_runner *runner, const epg_runner_step *step)
{
    epg_capture_status capturing;
    if (!runner || !step)
        return epg__fail(EPG_ERR_INVALID, "%s is NULL", runner ? "step" : "runner");
    EPG__CHECK_SIZE(step, sizeof *step);
    if (runner->busy)
        return epg__fail(EPG_ERR_STATE, "a step function called its own runner");
    if (step->input_count > 0 && !step->inputs)
        return epg__fail(EPG_ERR_INVALID, "input_count is %u and inputs is NULL", step->input_count);
    for (uint32_t i = 0; i < step->input_count; i++)
        if (!step->inputs[i].name)
            return epg__fail(EPG_ERR_INVALID, "inputs[%u].name is NULL", i);
    EPG_TRY(epg_capture_query(runner->device, step->stream, &capturing, NULL));
    if (capturing != EPG_CAPTURE_NONE)
        return epg__fail(EPG_ERR_STATE,
                         "the step's stream is capturing; a runner replays graphs and cannot be captured");
    return EPG_OK;
}

static epg_status run_step(epg_runner *runner, const epg_runner_step *step)
{
    uint32_t bucket;
    if (step->eager || step->tokens > runner->buckets[runner->bucket_count - 1])
        return run_eager(runner, step);
    EPG_TRY(epg__buckets_find(runner->buckets, runner->bucket_count, step->tokens, &bucket));
    epg__entry *entry = entry_find(runner, step->variant, bucket);
    if (!entry)
        EPG_TRY(first_use(runner, step, bucket, &entry));
    return replay(runner, entry, step);
}

epg_status epg_runner_run(epg_runner *runner, const epg_runner_step *step)
{
    EPG_TRY(check_step(runner, step));
    runner->busy = true;
    epg_status status = run_step(runner, step);
    runner->busy = false;
    return status;
}

epg_status epg_runner_capture_all(epg_runner *runner, const epg_runner_step *step)
{
    EPG_TRY(check_step(runner, step));
    epg_status status = EPG_OK;
    runner->busy = true;
    /* Largest first: the pool then has its final size from the start. */
    for (uint32_t done = 0; done < runner->bucket_count && status == EPG_OK; done++) {
        uint32_t bucket = runner->buckets[runner->bucket_count - 1 - done];
        epg__entry *entry = entry_find(runner, step->variant, bucket);
        status = entry ? check_inputs(entry, step) : first_use(runner, step, bucket, &entry);
        if (status == EPG_OK && runner->progress)
            runner->progress(runner->progress_ctx, done + 1, runner->bucket_count);
    }
    runner->busy = false;
    return status;
}

/* ---- the rest ---- */

static epg_status wait_for_last(epg_runner *runner)
{
    if (!runner->has_last)
        return EPG_OK;
    epg_status status = epg_stream_synchronize(runner->device, runner->last);
    if (status == EPG_ERR_HANDLE) /* the caller destroyed it; what was enqueued may still run */
        status = epg_device_synchronize(runner->device);
    return status;
}

epg_status epg_runner_forget_stream(epg_runner *runner, epg_stream stream)
{
    if (!runner)
        return epg__fail(EPG_ERR_INVALID, "runner is NULL");
    if (runner->busy)
        return epg__fail(EPG_ERR_STATE, "a step function lets its own runner forget a stream");
    if (!runner->has_last || !same_stream(runner->last, stream))
        return EPG_OK;
    EPG_TRY(wait_for_last(runner));
    runner->has_last = false;
    return EPG_OK;
}

static void drop_entries(epg_runner *runner)
{
    for (uint32_t i = 0; i < runner->entry_count; i++)
        epg__entry_destroy(runner, runner->entries[i]);
    runner->entry_count = 0;
    runner->probed = false;
    runner->has_last = false;
    epg__pool_free(&runner->pool);
}

epg_status epg_runner_reset(epg_runner *runner)
{
    if (!runner)
        return epg__fail(EPG_ERR_INVALID, "runner is NULL");
    if (runner->busy)
        return epg__fail(EPG_ERR_STATE, "a step function reset its own runner");
    EPG_TRY(wait_for_last(runner));
    epg__runner_keep_spares(runner);
    drop_entries(runner);
    return EPG_OK;
}

void epg_runner_destroy(epg_runner *runner)
{
    if (!runner)
        return;
    wait_for_last(runner);
    drop_entries(runner);
    epg__runner_drop_spares(runner);
    if (runner->event)
        epg_event_destroy(runner->device, runner->event);
    if (runner->stream)
        epg_stream_destroy(runner->device, runner->stream);
    for (uint32_t i = 0; i < runner->segment_count; i++)
        free((char *)runner->segments[i].name);
    epg_scope_table_destroy(runner->own_scopes);
    free(runner->segments);
    free(runner->spans);
    free(runner->buckets);
    free(runner->groups);
    free(runner->entries);
    free(runner);
}

epg_status epg_runner_bucket(const epg_runner *runner, uint32_t tokens, uint32_t *bucket)
{
    if (!runner || !bucket)
        return epg__fail(EPG_ERR_INVALID, "epg_runner_bucket: %s is NULL", runner ? "bucket" : "runner");
    return epg__buckets_find(runner->buckets, runner->bucket_count, tokens, bucket);
}

epg_status epg_runner_get_stats(const epg_runner *runner, epg_runner_stats *stats)
{
    if (!runner || !stats)
        return epg__fail(EPG_ERR_INVALID, "epg_runner_get_stats: %s is NULL", runner ? "stats" : "runner");
    EPG__CHECK_SIZE(stats, sizeof *stats);
    uint32_t size = stats->size;
    *stats = runner->stats;
    stats->size = size;
    stats->entries = runner->entry_count;
    stats->pool_bytes = runner->pool.bytes;
    return EPG_OK;
}

epg_status epg_runner_dot(epg_runner *runner, uint32_t variant, uint32_t bucket,
                          void (*write)(void *ctx, const char *text), void *ctx)
{
    if (!runner || !write)
        return epg__fail(EPG_ERR_INVALID, "epg_runner_dot: %s is NULL", runner ? "write" : "runner");
    epg__entry *entry = entry_find(runner, variant, bucket);
    if (!entry)
        return epg__fail(EPG_ERR_NOT_FOUND, "variant %u, bucket %u was not captured", variant, bucket);
    for (uint32_t i = 0; i < runner->span_count; i++)
        if (entry->graphs[i])
            EPG_TRY(epg_graph_dot(runner->device, entry->graphs[i], write, ctx));
    return EPG_OK;
}
