/* Recording for --timeline. Not its job: writing (timeline_write.c).
 *
 * Two clocks. Spans of the host's row are taken from epg_device_now_ns, which on a GPU is the host's clock plus an
 * offset measured when the device was created; timestamps of the stream's row are the GPU's own, and the two run apart
 * by some microseconds per second. So rank 0 compares them at its begin and its end, and the writer goes from one to
 * the other along the line between. On the host device there is one clock. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "timeline_int.h"

#define TRY(call) do { epg_status try_status = (call); if (try_status) return try_status; } while (0)

enum { STEP_BEGIN = 0, FIRST_MARK = 1, READINGS = 16, SPANS_PER_STEP = 4, SPANS_PER_BUCKET = 6 };

timeline *timeline_create(epg_device *device, uint32_t ranks, uint32_t steps)
{
    timeline *line = calloc(1, sizeof(*line));
    timeline_rank *parts = calloc(ranks, sizeof(*parts));
    if (!line || !parts) {
        free(line);
        free(parts);
        return NULL;
    }
    *line = (timeline){.device = device, .ranks = ranks, .limit = steps, .parts = parts};
    return line;
}

void timeline_destroy(timeline *line)
{
    if (!line)
        return;
    for (uint32_t r = 0; r < line->ranks; r++) {
        free(line->parts[r].spans);
        free(line->parts[r].places);
        free(line->parts[r].stamps);
        free(line->parts[r].steps);
    }
    free(line->parts);
    free(line);
}

int timeline_is_empty(const timeline *line)
{
    for (uint32_t r = 0; r < line->ranks; r++)
        if (line->parts[r].span_count || line->parts[r].step_count)
            return 0;
    return 1;
}

/* ---- the clocks ---- */

/* The narrowest of several readings: the timestamp was taken somewhere between two looks at the host's clock. */
static epg_status compare_clocks(timeline_rank *self)
{
    timeline *line = self->line;
    epg_device_info info = EPG_DEVICE_INFO_INIT;
    uint64_t narrowest = UINT64_MAX;
    timeline_clock clock = {0, 0};
    TRY(epg_device_describe(line->device, &info));
    if (info.kind == EPG_DEVICE_HOST || self->rank != 0)
        return EPG_OK;
    for (int i = 0; i < READINGS; i++) {
        uint64_t before = epg_device_now_ns(line->device);
        TRY(epg_timestamp_async(line->device, self->device_stamps, self->stream));
        TRY(epg_memcpy_async(line->device, self->pinned_stamps, self->device_stamps, sizeof(uint64_t), self->stream));
        TRY(epg_stream_synchronize(line->device, self->stream));
        uint64_t took = epg_device_now_ns(line->device) - before;
        if (took >= narrowest)
            continue;
        narrowest = took;
        clock = (timeline_clock){before + took / 2, (int64_t)(*self->pinned_stamps - (before + took / 2))};
    }
    line->clocks[line->clock_count++] = clock;
    return EPG_OK;
}

/* ---- a rank's part ---- */

static epg_status allocate(timeline_rank *self, uint32_t layers, uint32_t buckets)
{
    epg_device *device = self->line->device;
    size_t limit = self->line->limit, bytes;
    void *memory[2] = {NULL, NULL};
    self->slots = 2 + EPG_MODEL_MARKS(layers);
    self->span_room = SPANS_PER_STEP * limit + SPANS_PER_BUCKET * (size_t)buckets;
    self->spans = calloc(self->span_room, sizeof(*self->spans));
    self->places = calloc(self->slots, sizeof(*self->places));
    self->steps = calloc(limit, sizeof(*self->steps));
    self->stamps = calloc(limit, self->slots * sizeof(*self->stamps));
    if (!self->spans || !self->places || !self->steps || !self->stamps)
        return EPG_ERR_NO_MEMORY;
    bytes = self->slots * sizeof(uint64_t);
    TRY(epg_memory_alloc(device, EPG_MEMORY_DEVICE, bytes, &memory[0]));
    self->device_stamps = memory[0];
    TRY(epg_memory_alloc(device, EPG_MEMORY_PINNED, bytes, &memory[1]));
    self->pinned_stamps = memory[1];
    return EPG_OK;
}

epg_status timeline_open(timeline *line, uint32_t rank, uint32_t layers, uint32_t buckets, epg_stream stream,
                         timeline_rank **self)
{
    if (!line)
        return EPG_OK;
    *self = &line->parts[rank];
    **self = (timeline_rank){.line = line, .rank = rank, .stream = stream, .step = -1};
    TRY(allocate(*self, layers, buckets));
    return compare_clocks(*self);
}

void timeline_close(timeline_rank *self)
{
    if (!self)
        return;
    while (self->depth)
        timeline_end(self);
    if (self->pinned_stamps)
        compare_clocks(self); /* where it fails there is one comparison less */
    epg_memory_free(self->line->device, EPG_MEMORY_DEVICE, self->device_stamps);
    epg_memory_free(self->line->device, EPG_MEMORY_PINNED, self->pinned_stamps);
    self->device_stamps = self->pinned_stamps = NULL;
}

/* ---- the host's row ---- */

/* Is the time still one of which steps are kept? The exchange ahead of the first step that is not, is not. */
static int within(const timeline_rank *self)
{
    return self->step_count < self->line->limit || self->kept;
}

void timeline_begin(timeline_rank *self, timeline_kind kind, uint32_t bucket)
{
    if (!self)
        return;
    size_t index = SIZE_MAX;
    uint32_t depth = self->depth++;
    if (within(self) && depth < TIMELINE_DEPTH && self->span_count < self->span_room)
        index = self->span_count++;
    else if (within(self))
        self->lost++;
    if (depth < TIMELINE_DEPTH)
        self->open[depth] = index;
    if (index == SIZE_MAX)
        return;
    int64_t step = self->step + (kind == TIMELINE_EXCHANGE);
    self->spans[index] = (timeline_span){.kind = kind, .bucket = bucket, .step = step};
    self->spans[index].begin = epg_device_now_ns(self->line->device);
}

void timeline_end(timeline_rank *self)
{
    if (!self || !self->depth)
        return;
    uint32_t depth = --self->depth;
    size_t index = depth < TIMELINE_DEPTH ? self->open[depth] : SIZE_MAX;
    if (index == SIZE_MAX)
        return;
    timeline_span *span = &self->spans[index];
    span->end = epg_device_now_ns(self->line->device);
    if ((span->kind != TIMELINE_REPLAY && span->kind != TIMELINE_EAGER) || !self->kept)
        return;
    self->steps[self->step_count].enqueued = span->begin;
    self->steps[self->step_count].replayed = span->kind == TIMELINE_REPLAY;
}

void timeline_observe(void *ctx, epg_runner_span span, int begins, uint32_t variant, uint32_t bucket)
{
    (void)variant;
    if (begins)
        timeline_begin(ctx, (timeline_kind)span, bucket);
    else
        timeline_end(ctx);
}

/* ---- the stream's row ---- */

epg_status timeline_step_begin(timeline_rank *self, const epg_step_plan *plan, uint32_t tokens, uint32_t epoch)
{
    if (!self)
        return EPG_OK;
    self->step++;
    self->kept = self->step_count < self->line->limit;
    if (!self->kept)
        return EPG_OK;
    self->steps[self->step_count] = (timeline_step){.phase = plan->phase, .mode = plan->mode, .bucket = plan->bucket,
                                                    .tokens = tokens, .pairs = plan->pairs[0], .epoch = epoch};
    return epg_timestamp_async(self->line->device, &self->device_stamps[STEP_BEGIN], self->stream);
}

void timeline_model_begin(timeline_rank *self)
{
    if (self)
        self->marks = 0;
}

/* A captured mark writes its slot in every replay, so slots are given out by the order of marks alone. */
epg_status timeline_mark(void *ctx, uint32_t layer, epg_model_phase phase, epg_stream stream)
{
    timeline_rank *self = ctx;
    uint32_t slot = FIRST_MARK + self->marks;
    assert(slot + 1 < self->slots); /* EPG_MODEL_MARKS a step */
    self->marks++;
    self->places[slot] = (timeline_place){layer, phase};
    return epg_timestamp_async(self->line->device, &self->device_stamps[slot], stream);
}

epg_status timeline_step_end(timeline_rank *self)
{
    if (!self || !self->kept)
        return EPG_OK;
    epg_device *device = self->line->device;
    TRY(epg_timestamp_async(device, &self->device_stamps[self->slots - 1], self->stream));
    return epg_memcpy_async(device, self->pinned_stamps, self->device_stamps, self->slots * sizeof(uint64_t),
                            self->stream);
}

void timeline_step_done(timeline_rank *self)
{
    if (!self || !self->kept)
        return;
    memcpy(self->stamps + (size_t)self->step_count * self->slots, self->pinned_stamps, self->slots * sizeof(uint64_t));
    self->step_count++;
    self->kept = 0;
}
