/* Writing a timeline as Chrome trace events: JSON that Perfetto and chrome://tracing open. One process per rank, with
 * the rows "host" and "stream".
 *
 * Events go straight to the file: a long run's do not fit in a JSON document in memory. Every text is one of this
 * file's but those of "otherData", which jansson writes. */
#include <inttypes.h>
#include <jansson.h>
#include "timeline_int.h"

enum { ROW_HOST = 1, ROW_STREAM = 2 };

typedef struct writer {
    const timeline *line;
    FILE *file;
    uint64_t origin;            /* on the device's clock; what is written counts from here */
    uint64_t events, lost;
    int any;
} writer;

/* ---- times ---- */

/* The device's time of a moment that the host took. */
static uint64_t device_time(const timeline *line, uint64_t host)
{
    const timeline_clock *c = line->clocks;
    if (line->clock_count == 0)
        return host;
    double ahead = (double)c[0].ahead;
    if (line->clock_count == 2 && c[1].host > c[0].host) {
        double part = (double)(int64_t)(host - c[0].host) / (double)(c[1].host - c[0].host);
        ahead += part * (double)(c[1].ahead - c[0].ahead);
    }
    return host + (uint64_t)(int64_t)ahead;
}

static const uint64_t *stamps_of(const timeline_rank *rank, uint32_t step)
{
    return rank->stamps + (size_t)step * rank->slots;
}

static uint64_t earliest(const timeline *line)
{
    uint64_t first = UINT64_MAX;
    for (uint32_t r = 0; r < line->ranks; r++) {
        const timeline_rank *rank = &line->parts[r];
        uint64_t host = rank->span_count ? device_time(line, rank->spans[0].begin) : UINT64_MAX;
        uint64_t stream = rank->step_count ? stamps_of(rank, 0)[0] : UINT64_MAX;
        first = host < first ? host : first;
        first = stream < first ? stream : first;
    }
    return first == UINT64_MAX ? 0 : first;
}

/* ---- events ---- */

static void begin_event(writer *w, const char *kind, uint32_t rank, int row, const char *name)
{
    fprintf(w->file, "%s\n{\"ph\":\"%s\",\"pid\":%u,\"tid\":%d,\"name\":\"%s\"", w->any ? "," : "", kind, rank, row,
            name);
    w->any = 1;
}

static void write_us(writer *w, const char *key, uint64_t ns)
{
    fprintf(w->file, ",\"%s\":%" PRIu64 ".%03u", key, ns / 1000, (unsigned)(ns % 1000));
}

/* The beginning of a span, for its arguments to follow; 0: its times are none, and it is not written. */
static int begin_span(writer *w, uint32_t rank, int row, const char *name, uint64_t begin, uint64_t end)
{
    if (begin < w->origin || end < begin) {
        w->lost++;
        return 0;
    }
    begin_event(w, "X", rank, row, name);
    write_us(w, "ts", begin - w->origin);
    write_us(w, "dur", end - begin);
    w->events++;
    return 1;
}

static void describe_row(writer *w, uint32_t rank, int row, const char *name)
{
    begin_event(w, "M", rank, row, "thread_name");
    fprintf(w->file, ",\"args\":{\"name\":\"%s\"}}", name);
    begin_event(w, "M", rank, row, "thread_sort_index");
    fprintf(w->file, ",\"args\":{\"sort_index\":%d}}", row);
}

static void describe_rank(writer *w, uint32_t rank)
{
    begin_event(w, "M", rank, 0, "process_name");
    fprintf(w->file, ",\"args\":{\"name\":\"rank %u\"}}", rank);
    begin_event(w, "M", rank, 0, "process_sort_index");
    fprintf(w->file, ",\"args\":{\"sort_index\":%u}}", rank);
    describe_row(w, rank, ROW_HOST, "host");
    describe_row(w, rank, ROW_STREAM, "stream");
}

/* ---- the host's row ---- */

static void write_span(writer *w, uint32_t rank, const timeline_span *span)
{
    static const char *const names[TIMELINE_KINDS] = {
        [TIMELINE_FIRST_USE] = "first use", [TIMELINE_WARMUP] = "warm-up", [TIMELINE_PROBE] = "probe",
        [TIMELINE_CAPTURE] = "capture", [TIMELINE_INSTANTIATE] = "instantiate", [TIMELINE_REPLAY] = "replay",
        [TIMELINE_EAGER] = "eager", [TIMELINE_EXCHANGE] = "exchange", [TIMELINE_WAIT] = "wait",
    };
    uint64_t begin = device_time(w->line, span->begin), end = device_time(w->line, span->end);
    if (!begin_span(w, rank, ROW_HOST, names[span->kind], begin, end))
        return;
    fprintf(w->file, ",\"args\":{");
    if (span->step >= 0)
        fprintf(w->file, "\"step\":%" PRId64 "%s", span->step, span->kind < TIMELINE_EXCHANGE ? "," : "");
    if (span->kind < TIMELINE_EXCHANGE)
        fprintf(w->file, "\"bucket\":%u", span->bucket);
    fprintf(w->file, "}}");
}

/* ---- the stream's row ---- */

/* The arrow from what enqueued a step to the step. */
static void write_arrow(writer *w, const timeline_rank *rank, uint32_t index, uint64_t model_begin)
{
    uint64_t from = device_time(w->line, rank->steps[index].enqueued);
    uint64_t id = (uint64_t)rank->rank * w->line->limit + index;
    if (!rank->steps[index].enqueued || from < w->origin || model_begin < w->origin)
        return;
    begin_event(w, "s", rank->rank, ROW_HOST, "enqueued");
    write_us(w, "ts", from - w->origin);
    fprintf(w->file, ",\"cat\":\"step\",\"id\":%" PRIu64 "}", id);
    begin_event(w, "f", rank->rank, ROW_STREAM, "enqueued");
    write_us(w, "ts", model_begin - w->origin);
    fprintf(w->file, ",\"cat\":\"step\",\"id\":%" PRIu64 ",\"bp\":\"e\"}", id);
    w->events += 2;
}

static void write_phases(writer *w, const timeline_rank *rank, const uint64_t *stamps)
{
    static const char *const names[] = {"embedding", "norm", "gate", "dispatch", "experts", "combine", "add", "head"};
    for (uint32_t m = 1; m < rank->marks; m++) {
        const timeline_place *place = &rank->places[m];
        if (!begin_span(w, rank->rank, ROW_STREAM, names[place->phase], stamps[m], stamps[m + 1]))
            continue;
        if (place->phase == EPG_MODEL_EMBED || place->phase == EPG_MODEL_HEAD)
            fprintf(w->file, "}");
        else
            fprintf(w->file, ",\"args\":{\"layer\":%u}}", place->layer);
    }
}

static void write_step(writer *w, const timeline_rank *rank, uint32_t index)
{
    static const char *const phases[] = {"idle", "decode", "prefill"}, *const modes[] = {"auto", "ll", "ht"};
    const timeline_step *step = &rank->steps[index];
    const uint64_t *stamps = stamps_of(rank, index);
    const char *run = step->replayed ? "replay" : "eager", *phase = phases[step->phase];
    if (!begin_span(w, rank->rank, ROW_STREAM, "step", stamps[0], stamps[rank->slots - 1]))
        return;
    fprintf(w->file, ",\"args\":{\"step\":%u,\"phase\":\"%s\",\"run\":\"%s\",\"mode\":\"%s\"", index, phase, run,
            modes[step->mode]);
    fprintf(w->file, ",\"bucket\":%u,\"tokens\":%u,\"pairs\":%u,\"epoch\":%u}}", step->bucket, step->tokens,
            step->pairs, step->epoch);
    if (begin_span(w, rank->rank, ROW_STREAM, phase, stamps[1], stamps[rank->marks]))
        fprintf(w->file, ",\"args\":{\"step\":%u,\"run\":\"%s\"}}", index, run);
    write_arrow(w, rank, index, stamps[1]);
    write_phases(w, rank, stamps);
}

/* ---- all ---- */

static int write_other(writer *w, const timeline_counts *counts)
{
    epg_device_info info = EPG_DEVICE_INFO_INIT;
    epg_device_describe(w->line->device, &info);
    json_t *other = json_pack("{s:s, s:s, s:i, s:I, s:I, s:I}", "version", EPG_VERSION_STRING, "device", info.name,
                              "ranks", (int)w->line->ranks, "steps", (json_int_t)counts->steps, "steps_left_out",
                              (json_int_t)counts->steps_over, "spans_lost", (json_int_t)counts->lost);
    int failed = !other || fprintf(w->file, "\n],\n\"otherData\":") < 0 || json_dumpf(other, w->file, 0);
    json_decref(other);
    return failed ? -1 : 0;
}

int timeline_write(const timeline *line, FILE *file, timeline_counts *counts)
{
    writer w = {.line = line, .file = file, .origin = earliest(line)};
    *counts = (timeline_counts){0};
    fprintf(file, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[");
    for (uint32_t r = 0; r < line->ranks; r++) {
        const timeline_rank *rank = &line->parts[r];
        describe_rank(&w, r);
        for (size_t i = 0; i < rank->span_count; i++)
            write_span(&w, r, &rank->spans[i]);
        for (uint32_t s = 0; s < rank->step_count; s++)
            write_step(&w, rank, s);
        counts->lost += rank->lost;
    }
    counts->events = w.events;
    counts->lost += w.lost;
    counts->steps = line->parts[0].step_count;
    counts->steps_over = (uint64_t)(line->parts[0].step + 1) - counts->steps;
    if (write_other(&w, counts) || fprintf(file, "}\n") < 0 || fflush(file) || ferror(file))
        return -1;
    return 0;
}
