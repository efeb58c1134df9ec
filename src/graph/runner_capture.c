/* First use of a (variant, bucket): warm-ups, the blocking probe, capture, instantiation.
 *
 * Not its job: looking entries up and replaying them (runner.c). Invariants: whatever fails, no stream is left
 * capturing, no group is left rehearsing, and every group's lanes are back in the order they had, so that the runner
 * can try again. Nothing that fails here has changed the runner but for its statistics and a pool that may have
 * grown. */
#include <stdlib.h>
#include "ep/group_int.h"
#include "graph/runner_int.h"

/* A launch on the legacy stream from a foreign thread spoils a probe just as one from the step function does. One that
 * comes from the step is there every time. */
enum { PROBE_ATTEMPTS = 3 };

typedef struct first_use {
    epg_runner *runner;
    const epg_runner_step *step;
    epg__entry *entry;
} first_use;

/* ---- warm-ups ---- */

static void end_open_pairs(const epg_runner *runner)
{
    for (uint32_t g = 0; g < runner->group_count; g++) {
        epg_group_options options = EPG_GROUP_OPTIONS_INIT;
        if (epg_group_get_options(runner->groups[g], &options) != EPG_OK)
            continue;
        for (uint32_t lane = 0; lane < options.lanes; lane++)
            epg_pair_abandon(runner->groups[g], lane, runner->stream);
    }
}

/* Switches the first `count` groups; off goes on past a failure and returns the first. */
static epg_status rehearse(const epg_runner *runner, uint32_t count, int on)
{
    epg_status first = EPG_OK;
    for (uint32_t g = 0; g < count; g++) {
        epg_status status = epg_group_rehearse(runner->groups[g], on, runner->stream);
        if (status != EPG_OK && on) {
            epg__message kept;
            epg__message_keep(&kept);
            rehearse(runner, g, 0);
            return epg__message_restore(&kept, status);
        }
        if (first == EPG_OK)
            first = status;
    }
    return first;
}

epg_status epg__runner_check_closed(const epg_runner *runner)
{
    for (uint32_t g = 0; g < runner->group_count; g++)
        EPG_TRY(epg__group_check_closed(runner->groups[g]));
    return EPG_OK;
}

static epg_status warm_up_once(const first_use *use)
{
    epg_runner *runner = use->runner;
    epg__pool_seek(&runner->pool, (epg__pool_mark){0, 0}, NULL, true);
    for (uint32_t s = 0; s < runner->segment_count; s++) {
        use->entry->marks[s] = runner->pool.at;
        EPG_TRY(epg__runner_call(runner, s, use->step, use->entry->bucket, EPG_PHASE_WARMUP, runner->stream));
    }
    use->entry->marks[runner->segment_count] = runner->pool.at;
    return epg__runner_check_closed(runner);
}

static epg_status warm_up(const first_use *use)
{
    epg_runner *runner = use->runner;
    epg__message kept;
    epg_status status = EPG_OK, off;

    EPG_TRY(rehearse(runner, runner->group_count, 1));
    /* A step that strays to the legacy stream, which the probe is to find, must not send real rows before that. */
    status = epg_stream_synchronize(runner->device, runner->stream);
    for (uint32_t w = 0; w < runner->warmups && status == EPG_OK; w++)
        status = warm_up_once(use);
    epg__message_keep(&kept);
    if (status != EPG_OK)
        end_open_pairs(runner); /* while still rehearsing: peers never saw these pairs */
    off = rehearse(runner, runner->group_count, 0);
    epg_status done = epg_stream_synchronize(runner->device, runner->stream);
    if (off == EPG_OK)
        off = done;
    if (status != EPG_OK)
        return epg__message_restore(&kept, status);
    if (off != EPG_OK)
        epg__fail_prefix(off, "after the warm-ups: ");
    return off;
}

/* ---- capture of one span ---- */

static void sum_counts(const epg_runner *runner, epg__group_counts *sum)
{
    *sum = (epg__group_counts){0, 0};
    for (uint32_t g = 0; g < runner->group_count; g++) {
        epg__group_counts counts = epg__group_get_counts(runner->groups[g]);
        sum->issued += counts.issued;
        sum->captured += counts.captured;
    }
}

/* Every group operation issued since `before` must be in the graph. */
static epg_status check_counts(const epg_runner *runner, const epg__group_counts *before)
{
    epg__group_counts now;
    sum_counts(runner, &now);
    uint64_t issued = now.issued - before->issued, captured = now.captured - before->captured;
    if (issued == captured)
        return EPG_OK;
    return epg__fail(EPG_ERR_ESCAPED,
                     "%llu of %llu dispatch and combine operations were not captured: they went to another stream and "
                     "would be missing from every replay",
                     (unsigned long long)(issued - captured), (unsigned long long)issued);
}

static epg_status call_span(const first_use *use, const epg__span *span, epg_runner_phase phase, epg_stream stream)
{
    epg_runner *runner = use->runner;
    epg__pool_mark *marks = use->entry->marks;
    for (uint32_t s = span->first; s < span->first + span->count; s++) {
        bool warm = runner->warmups > 0;
        epg__pool_seek(&runner->pool, marks[s], warm ? &marks[s + 1] : NULL, false);
        EPG_TRY(epg__runner_call(runner, s, use->step, use->entry->bucket, phase, stream));
        if (!warm) /* then there is no eager segment, and this one starts where the one before it ended */
            marks[s + 1] = runner->pool.at;
    }
    return EPG_OK;
}

/* Captures a span on `stream`. On failure the capture is ended, its graph dropped and the groups' order put back. */
static epg_status capture_span(const first_use *use, const epg__span *span, epg_runner_phase phase, epg_stream stream,
                               epg_graph *graph)
{
    epg_runner *runner = use->runner;
    epg_capture_status capturing;
    epg__group_counts before;
    epg__message kept;
    epg_graph captured = NULL;
    uint64_t id = 0;

    sum_counts(runner, &before);
    EPG_TRY(epg_capture_begin(runner->device, stream, runner->mode));
    epg_status status = epg_capture_query(runner->device, stream, &capturing, &id);
    if (status == EPG_OK)
        status = call_span(use, span, phase, stream);
    if (status == EPG_OK)
        status = check_counts(runner, &before);
    if (status == EPG_OK)
        status = epg__runner_check_closed(runner);
    epg__message_keep(&kept);

    epg_status ended = epg_capture_end(runner->device, stream, &captured);
    if (status != EPG_OK)
        epg__message_restore(&kept, status);
    else
        status = ended;
    if (status == EPG_OK) {
        *graph = captured;
        return EPG_OK;
    }
    for (uint32_t g = 0; id != 0 && g < runner->group_count; g++)
        epg__group_discard_capture(runner->groups[g], id);
    if (captured) {
        epg__message_keep(&kept);
        epg_graph_destroy(runner->device, captured);
        epg__message_restore(&kept, status);
    }
    return status;
}

/* ---- the probe ---- */

static epg_status probe_once(const first_use *use, epg_stream blocking)
{
    epg_runner *runner = use->runner;
    for (uint32_t i = 0; i < runner->span_count; i++) {
        epg_graph graph = NULL;
        if (runner->spans[i].eager)
            continue;
        EPG_TRY(capture_span(use, &runner->spans[i], EPG_PHASE_PROBE, blocking, &graph));
        epg_graph_destroy(runner->device, graph);
    }
    return EPG_OK;
}

static epg_status escaped(void)
{
    return epg__fail_prefix(EPG_ERR_ESCAPED,
                            "work was launched on the legacy stream during the step (906 while a blocking "
                            "stream captures); it would be silently lost from every replay: ");
}

/* 901 without a 906 means that a call failed and nobody reported it: a launch on the legacy stream whose status the
 * step ignored, or something that fails on any stream. *suspect is set then, and the real capture tells which it was.
 */
static epg_status probe(const first_use *use, bool *suspect)
{
    epg_runner *runner = use->runner;
    epg__message kept;
    epg_stream blocking;
    epg_status status = EPG_OK;

    EPG_TRY(epg_stream_create(runner->device, EPG_STREAM_BLOCKING, &blocking));
    for (int attempt = 0; attempt < PROBE_ATTEMPTS; attempt++) {
        runner->stats.probes++;
        status = probe_once(use, blocking);
        if (status != EPG_ERR_CAPTURE_INVALIDATED)
            break;
    }
    epg__message_keep(&kept);
    epg_stream_destroy(runner->device, blocking);
    *suspect = status == EPG_ERR_CAPTURE_INVALIDATED;
    if (status == EPG_OK || *suspect)
        return EPG_OK;
    epg__message_restore(&kept, status);
    return status == EPG_ERR_CAPTURE_IMPLICIT ? escaped() : status;
}

/* ---- entries ---- */

static void begin(const first_use *use, epg_runner_span span)
{
    epg__runner_begin(use->runner, span, use->entry->variant, use->entry->bucket);
}

static epg_status end(const first_use *use, epg_runner_span span, epg_status status)
{
    return epg__runner_end(use->runner, span, use->entry->variant, use->entry->bucket, status);
}

static epg_status instantiate(const first_use *use, uint32_t span)
{
    epg_runner *runner = use->runner;
    epg__entry *entry = use->entry;
    epg_status status = epg__runner_make_exec(runner, entry, span, entry->graphs[span], &entry->execs[span]);
    if (status == EPG_OK)
        status = epg_exec_upload(runner->device, entry->execs[span], runner->stream);
    return status == EPG_OK ? EPG_OK : epg__fail_prefix(status, "instantiation: ");
}

static epg_status capture_entry(const first_use *use)
{
    epg_runner *runner = use->runner;
    for (uint32_t i = 0; i < runner->span_count; i++) {
        epg__span *span = &runner->spans[i];
        if (span->eager)
            continue;
        begin(use, EPG_SPAN_CAPTURE);
        EPG_TRY(end(use, EPG_SPAN_CAPTURE, capture_span(use, span, EPG_PHASE_CAPTURE, runner->stream,
                                                        &use->entry->graphs[i])));
        begin(use, EPG_SPAN_INSTANTIATE);
        EPG_TRY(end(use, EPG_SPAN_INSTANTIATE, instantiate(use, i)));
    }
    /* So that no first replay has to wait for an upload on another stream. */
    return epg_stream_synchronize(runner->device, runner->stream);
}

static epg_status fill_entry(const first_use *use)
{
    epg_runner *runner = use->runner;
    bool suspect = false;

    EPG_TRY(epg__runner_check_closed(runner)); /* a caller's open pair is not ours to end */
    /* The warm-ups read the static inputs and share the pool with steps still in flight. */
    EPG_TRY(epg__runner_order(runner, use->step->stream, runner->stream));
    if (runner->has_last && runner->last != use->step->stream)
        EPG_TRY(epg__runner_order(runner, runner->last, runner->stream));
    begin(use, EPG_SPAN_WARMUP);
    EPG_TRY(end(use, EPG_SPAN_WARMUP, warm_up(use)));
    if (runner->probe && !runner->probed) {
        begin(use, EPG_SPAN_PROBE);
        EPG_TRY(end(use, EPG_SPAN_PROBE, probe(use, &suspect)));
    }
    EPG_TRY(capture_entry(use));
    if (!suspect)
        return EPG_OK;
    epg__fail(EPG_ERR_ESCAPED, "the step can be captured on a non-blocking stream and not on a blocking one");
    return escaped();
}

static epg__entry *entry_alloc(const epg_runner *runner, const epg_runner_step *step, uint32_t bucket)
{
    epg__entry *entry = epg__zalloc(1, sizeof *entry, "a runner entry");
    if (!entry)
        return NULL;
    entry->variant = step->variant;
    entry->bucket = bucket;
    entry->marks = epg__zalloc((size_t)runner->segment_count + 1, sizeof *entry->marks, "a runner entry");
    entry->graphs = epg__zalloc(runner->span_count, sizeof *entry->graphs, "a runner entry");
    entry->execs = epg__zalloc(runner->span_count, sizeof *entry->execs, "a runner entry");
    entry->inputs = epg__zalloc(step->input_count, sizeof *entry->inputs, "a runner entry's inputs");
    bool whole = entry->marks && entry->graphs && entry->execs && entry->inputs;
    for (uint32_t i = 0; whole && i < step->input_count; i++) {
        entry->inputs[i].name = epg__strdup(step->inputs[i].name);
        entry->inputs[i].address = step->inputs[i].address;
        entry->input_count = i + 1;
        whole = entry->inputs[i].name != NULL;
    }
    if (whole)
        return entry;
    epg__entry_destroy((epg_runner *)runner, entry);
    return NULL;
}

epg_status epg__entry_create(epg_runner *runner, const epg_runner_step *step, uint32_t bucket, epg__entry **entry)
{
    first_use use = {runner, step, entry_alloc(runner, step, bucket)};
    if (!use.entry)
        return EPG_ERR_NO_MEMORY;
    epg_status status = fill_entry(&use);
    if (status != EPG_OK) {
        epg__message kept;
        epg__message_keep(&kept);
        epg__entry_destroy(runner, use.entry);
        epg__message_restore(&kept, status);
        return epg__fail_prefix(status, "variant %u, bucket %u: ", step->variant, bucket);
    }
    *entry = use.entry;
    return EPG_OK;
}

void epg__entry_destroy(epg_runner *runner, epg__entry *entry)
{
    for (uint32_t i = 0; i < runner->span_count; i++) {
        if (entry->execs && entry->execs[i])
            epg_exec_destroy(runner->device, entry->execs[i]);
        if (entry->graphs && entry->graphs[i])
            epg_graph_destroy(runner->device, entry->graphs[i]);
    }
    for (uint32_t i = 0; i < entry->input_count; i++)
        free(entry->inputs[i].name);
    free(entry->inputs);
    free(entry->marks);
    free(entry->graphs);
    free(entry->execs);
    free(entry);
}
