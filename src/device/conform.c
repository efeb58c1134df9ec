/* The conformance table's rows: which combination a row is, its set-up, the question, the look at the capture after it,
 * and the tidying up.
 *
 * Not here: the operations (conform_ops.c), the other thread (conform_thread.c), and any knowledge of the right
 * answers: a device is asked, not judged.
 *
 * Invariants: a row begins with no capture under way, no work running, streams and events of its own, and memory for
 * what the operation may free. It leaves nothing behind but the memory kept for all rows. */
#include <stdlib.h>
#include <string.h>
#include "device/conform_int.h"

enum { MODES = 3, KINDS = 2, THREADS = 2, ROWS = MODES * KINDS * THREADS * EPG__CONFORM_OPS };

typedef epg__conform_world world;

uint32_t epg_conform_count(void) { return ROWS; }

static epg_conform_row row_at(uint32_t index)
{
    epg_conform_row row = EPG_CONFORM_ROW_INIT;
    uint32_t situation = index / EPG__CONFORM_OPS;
    row.index = index;
    row.mode = (epg_capture_mode)(situation / (KINDS * THREADS));
    row.stream = (epg_stream_kind)(situation / THREADS % KINDS);
    row.other_thread = (int)(situation % THREADS);
    row.op = epg__conform_names[index % EPG__CONFORM_OPS];
    return row;
}

epg_status epg_conform_describe(uint32_t index, epg_conform_row *row)
{
    if (!row)
        return epg__fail(EPG_ERR_INVALID, "epg_conform_describe: row is NULL");
    EPG__CHECK_SIZE(row, sizeof row->size);
    if (index >= ROWS)
        return epg__fail(EPG_ERR_INVALID, "epg_conform_describe: row %u, of %u", index, (uint32_t)ROWS);
    epg_conform_row found = row_at(index);
    uint32_t size = row->size;
    memcpy(row, &found, size < sizeof found ? size : sizeof found);
    row->size = size;
    return EPG_OK;
}

/* ---- for all rows ---- */

static epg_status make_exec(world *w)
{
    epg_stream stream;
    epg_graph graph = NULL;
    EPG_TRY(epg_stream_create(w->device, EPG_STREAM_NONBLOCKING, &stream));
    epg_status status = epg_capture_begin(w->device, stream, EPG_CAPTURE_RELAXED);
    if (status == EPG_OK) {
        epg_status launched = w->device->ops->probe_launch(w->device, stream);
        status = epg_capture_end(w->device, stream, &graph);
        status = launched != EPG_OK ? launched : status;
    }
    if (status == EPG_OK)
        status = epg_graph_instantiate(w->device, graph, &w->exec);
    epg_graph_destroy(w->device, graph);
    epg_stream_destroy(w->device, stream);
    return status;
}

static epg_status world_open(world *w)
{
    epg_device *d = w->device;
    w->pageable = epg__zalloc(1, EPG__CONFORM_BYTES, "the host's end of a copy");
    if (!w->pageable)
        return EPG_ERR_NO_MEMORY;
    EPG_TRY(epg_memory_alloc(d, EPG_MEMORY_DEVICE, EPG__CONFORM_BYTES, &w->to));
    EPG_TRY(epg_memory_alloc(d, EPG_MEMORY_DEVICE, EPG__CONFORM_BYTES, &w->from));
    EPG_TRY(epg_memory_alloc(d, EPG_MEMORY_PINNED, EPG__CONFORM_BYTES, &w->pinned));
    EPG_TRY(make_exec(w));
    return epg__conform_thread_create(d, &w->thread);
}

/* Whatever of it there is. */
static void world_close(world *w)
{
    epg_device *d = w->device;
    epg__conform_thread_destroy(w->thread);
    epg_exec_destroy(d, w->exec);
    epg_memory_free(d, EPG_MEMORY_DEVICE, w->to);
    epg_memory_free(d, EPG_MEMORY_DEVICE, w->from);
    epg_memory_free(d, EPG_MEMORY_PINNED, w->pinned);
    epg_memory_free(d, EPG_MEMORY_DEVICE, w->spare);
    epg_memory_free(d, EPG_MEMORY_PINNED, w->spare_pinned);
    free(w->pageable);
}

/* ---- one row ---- */

static epg_status row_memory(world *w)
{
    epg_device *d = w->device;
    if (!w->spare)
        EPG_TRY(epg_memory_alloc(d, EPG_MEMORY_DEVICE, 1 << 20, &w->spare));
    if (!w->spare_pinned)
        EPG_TRY(epg_memory_alloc(d, EPG_MEMORY_PINNED, EPG__CONFORM_BYTES, &w->spare_pinned));
    return epg_memory_alloc_async(d, EPG__CONFORM_BYTES, EPG_STREAM_LEGACY, &w->spare_async);
}

static epg_status row_open(world *w, const epg_conform_row *row)
{
    epg_device *d = w->device;
    EPG_TRY(row_memory(w));
    EPG_TRY(epg_stream_create(d, EPG_STREAM_BLOCKING, &w->blocking));
    EPG_TRY(epg_stream_create(d, EPG_STREAM_NONBLOCKING, &w->nonblocking));
    EPG_TRY(epg_stream_create(d, row->stream, &w->captured));
    EPG_TRY(epg_event_create(d, &w->before));
    EPG_TRY(epg_event_create(d, &w->event));
    EPG_TRY(epg_event_record(d, w->before, w->nonblocking));
    EPG_TRY(epg_device_synchronize(d));
    EPG_TRY(epg_capture_begin(d, w->captured, w->mode));
    return d->ops->probe_launch(d, w->captured); /* so that a graph is not empty, and a fork has something to follow */
}

/* Whatever of it there is. Destroying the captured stream drops a capture that is still there. */
static epg_status row_close(world *w)
{
    epg_device *d = w->device;
    epg_stream_destroy(d, w->captured);
    epg_stream_destroy(d, w->blocking);
    epg_stream_destroy(d, w->nonblocking);
    epg_event_destroy(d, w->before);
    epg_event_destroy(d, w->event);
    w->captured = w->blocking = w->nonblocking = NULL;
    w->before = w->event = NULL;
    epg_status status = epg_device_synchronize(d);
    epg_memory_free(d, w->got_kind, w->got);
    epg_memory_free(d, EPG_MEMORY_DEVICE, w->spare_async);
    w->got = w->spare_async = NULL;
    return status;
}

epg_status epg__conform_end(epg__conform_world *w)
{
    epg_graph graph = NULL;
    size_t nodes = 0;
    epg_status status = epg_capture_end(w->device, w->captured, &graph);
    w->ended = true;
    w->end_result = epg_status_native(status);
    if (graph)
        epg_graph_node_count(w->device, graph, &nodes);
    w->nodes = nodes;
    epg_graph_destroy(w->device, graph);
    return status;
}

static void ask(world *w, epg_conform_row *row)
{
    uint32_t op = row->index % EPG__CONFORM_OPS;
    epg_status answer = row->other_thread ? epg__conform_thread_ask(w->thread, w, op) : epg__conform_ask(w, op);
    row->op_result = epg_status_native(answer);
}

static epg_status answer_row(world *w, epg_conform_row *row)
{
    w->mode = row->mode;
    w->ended = false;
    w->end_result = 0;
    w->nodes = 0;
    EPG_TRY(row_open(w, row));
    ask(w, row);
    row->status_after = EPG_CAPTURE_NONE;
    if (w->captured)
        EPG_TRY(epg_capture_query(w->device, w->captured, &row->status_after, NULL));
    if (!w->ended)
        epg__conform_end(w); /* its status is an answer */
    row->end_result = w->end_result;
    row->nodes = w->nodes;
    return EPG_OK;
}

epg_status epg_conform_run(epg_device *device, const epg_conform_options *options,
                           void (*emit)(void *ctx, const epg_conform_row *row), void *ctx)
{
    world w = {.device = device};
    if (!device || !emit)
        return epg__fail(EPG_ERR_INVALID, "epg_conform_run: %s is NULL", device ? "emit" : "device");
    if (options)
        EPG__CHECK_SIZE(options, sizeof *options);
    if (options && options->first > ROWS)
        return epg__fail(EPG_ERR_INVALID, "epg_conform_run: first is %u, of %u rows", options->first, (uint32_t)ROWS);
    epg_status status = world_open(&w);
    for (uint32_t i = options ? options->first : 0; status == EPG_OK && i < ROWS; i++) {
        epg_conform_row row = row_at(i);
        status = answer_row(&w, &row);
        epg_status closed = row_close(&w);
        status = status != EPG_OK ? status : closed;
        if (status != EPG_OK)
            epg__fail_prefix(status, "row %u (%s): ", i, row.op);
        else
            emit(ctx, &row);
    }
    world_close(&w);
    return status;
}
