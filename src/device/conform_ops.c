/* The 75 operations of the conformance table, in the table's order.
 *
 * An operation is a call on one of the row's streams. Where it takes several calls, the answer is the last one's, or
 * the first that was refused. Not here: the set-up around it (conform.c), and what the answer should be. */
#include "device/conform_int.h"

typedef epg__conform_world world;
typedef enum place { NOWHERE, CAPTURED, LEGACY, PER_THREAD, BLOCKING, NONBLOCKING } place;

static epg_status do_nothing(world *w, epg_stream s)
{
    (void)w;
    (void)s;
    return EPG_OK;
}

/* ---- work ---- */

static epg_status launch(world *w, epg_stream s) { return w->device->ops->probe_launch(w->device, s); }
static epg_status call_back(world *w, epg_stream s) { return w->device->ops->probe_callback(w->device, s); }
static epg_status replay(world *w, epg_stream s) { return epg_exec_launch(w->device, w->exec, s); }
static void host_function(void *ctx) { (void)ctx; }
static epg_status call_host(world *w, epg_stream s)
{
    return epg_host_func(w->device, s, host_function, NULL, "nothing");
}

/* ---- memory ---- */

static epg_status allocate(world *w, epg_memory_kind kind, size_t bytes)
{
    w->got_kind = kind;
    return epg_memory_alloc(w->device, kind, bytes, &w->got);
}

static epg_status alloc_device(world *w, epg_stream s)
{
    (void)s;
    return allocate(w, EPG_MEMORY_DEVICE, 1 << 20);
}

static epg_status alloc_pinned(world *w, epg_stream s)
{
    (void)s;
    return allocate(w, EPG_MEMORY_PINNED, EPG__CONFORM_BYTES);
}

static epg_status alloc_mapped(world *w, epg_stream s)
{
    (void)s;
    return allocate(w, EPG_MEMORY_MAPPED, EPG__CONFORM_BYTES);
}

static epg_status free_device(world *w, epg_stream s)
{
    (void)s;
    EPG_TRY(epg_memory_free(w->device, EPG_MEMORY_DEVICE, w->spare));
    w->spare = NULL;
    return EPG_OK;
}

static epg_status free_pinned(world *w, epg_stream s)
{
    (void)s;
    EPG_TRY(epg_memory_free(w->device, EPG_MEMORY_PINNED, w->spare_pinned));
    w->spare_pinned = NULL;
    return EPG_OK;
}

static epg_status alloc_async(world *w, epg_stream s)
{
    w->got_kind = EPG_MEMORY_DEVICE;
    return epg_memory_alloc_async(w->device, EPG__CONFORM_BYTES, s, &w->got);
}

static epg_status alloc_free_async(world *w, epg_stream s)
{
    void *memory;
    EPG_TRY(epg_memory_alloc_async(w->device, EPG__CONFORM_BYTES, s, &memory));
    return epg_memory_free_async(w->device, memory, s);
}

static epg_status free_async(world *w, epg_stream s)
{
    EPG_TRY(epg_memory_free_async(w->device, w->spare_async, s));
    w->spare_async = NULL;
    return EPG_OK;
}

static epg_status trim(world *w, epg_stream s)
{
    (void)s;
    return epg_memory_trim(w->device, 0);
}

static epg_status memory_info(world *w, epg_stream s)
{
    uint64_t free_bytes, total;
    (void)s;
    return epg_memory_info(w->device, &free_bytes, &total);
}

static epg_status copy_in(world *w, epg_stream s)
{
    (void)s;
    return epg_memcpy(w->device, w->to, w->pageable, EPG__CONFORM_COPY);
}

static epg_status copy_within(world *w, epg_stream s)
{
    (void)s;
    return epg_memcpy(w->device, w->to, w->from, EPG__CONFORM_COPY);
}

static epg_status set(world *w, epg_stream s)
{
    (void)s;
    return epg_memset(w->device, w->to, 0, EPG__CONFORM_COPY);
}

static epg_status copy_async(world *w, epg_stream s)
{
    return epg_memcpy_async(w->device, w->to, w->from, EPG__CONFORM_COPY, s);
}

static epg_status copy_async_in(world *w, epg_stream s)
{
    return epg_memcpy_async(w->device, w->to, w->pageable, EPG__CONFORM_COPY, s);
}

static epg_status copy_async_out(world *w, epg_stream s)
{
    return epg_memcpy_async(w->device, w->pageable, w->from, EPG__CONFORM_COPY, s);
}

static epg_status copy_async_pinned(world *w, epg_stream s)
{
    return epg_memcpy_async(w->device, w->to, w->pinned, EPG__CONFORM_COPY, s);
}

static epg_status set_async(world *w, epg_stream s)
{
    return epg_memset_async(w->device, w->to, 0, EPG__CONFORM_COPY, s);
}

/* ---- streams and the device ---- */

static epg_status stream_wait(world *w, epg_stream s) { return epg_stream_synchronize(w->device, s); }
static epg_status stream_look(world *w, epg_stream s) { return epg_stream_query(w->device, s); }

static epg_status device_wait(world *w, epg_stream s)
{
    (void)s;
    return epg_device_synchronize(w->device);
}

static epg_status create_stream(world *w, epg_stream_kind kind)
{
    epg_stream made;
    EPG_TRY(epg_stream_create(w->device, kind, &made));
    epg_stream_destroy(w->device, made);
    return EPG_OK;
}

static epg_status create_blocking(world *w, epg_stream s)
{
    (void)s;
    return create_stream(w, EPG_STREAM_BLOCKING);
}

static epg_status create_nonblocking(world *w, epg_stream s)
{
    (void)s;
    return create_stream(w, EPG_STREAM_NONBLOCKING);
}

static epg_status destroy_captured(world *w, epg_stream s)
{
    EPG_TRY(epg_stream_destroy(w->device, s));
    w->captured = NULL;
    w->ended = true;
    w->end_result = -1;
    return EPG_OK;
}

static epg_status make_current(world *w, epg_stream s)
{
    (void)s;
    return w->device->ops->probe_make_current(w->device);
}

static epg_status attributes(world *w, epg_stream s)
{
    int threads;
    (void)s;
    return w->device->ops->probe_attributes(w->device, &threads);
}

static epg_status occupancy(world *w, epg_stream s)
{
    int blocks;
    (void)s;
    return w->device->ops->probe_occupancy(w->device, &blocks);
}

static epg_status last_error(world *w, epg_stream s)
{
    (void)s;
    return w->device->ops->probe_last_error(w->device);
}

/* ---- events ---- */

static epg_status event_create(world *w, epg_stream s)
{
    epg_event made;
    (void)s;
    EPG_TRY(epg_event_create(w->device, &made));
    epg_event_destroy(w->device, made);
    return EPG_OK;
}

static epg_status event_record(world *w, epg_stream s) { return epg_event_record(w->device, w->event, s); }

static epg_status record_then_look(world *w, epg_stream s)
{
    EPG_TRY(event_record(w, s));
    return epg_event_query(w->device, w->event);
}

static epg_status record_then_wait(world *w, epg_stream s)
{
    EPG_TRY(event_record(w, s));
    return epg_event_synchronize(w->device, w->event);
}

static epg_status record_then_time(world *w, epg_stream s)
{
    double us;
    EPG_TRY(event_record(w, s));
    return epg_event_elapsed_us(w->device, w->before, w->event, &us);
}

static epg_status record_then_destroy(world *w, epg_stream s)
{
    epg_event made;
    EPG_TRY(epg_event_create(w->device, &made));
    epg_status recorded = epg_event_record(w->device, made, s), destroyed = epg_event_destroy(w->device, made);
    return recorded != EPG_OK ? recorded : destroyed;
}

static epg_status look_before(world *w, epg_stream s)
{
    (void)s;
    return epg_event_query(w->device, w->before);
}

static epg_status wait_before(world *w, epg_stream s)
{
    (void)s;
    return epg_event_synchronize(w->device, w->before);
}

/* The event whose recording lay before the capture gets a new one, inside. */
static epg_status record_again_then_look(world *w, epg_stream s)
{
    EPG_TRY(epg_event_record(w->device, w->before, s));
    return epg_event_query(w->device, w->before);
}

/* ---- dependencies ---- */

static epg_status depend_on_before(world *w, epg_stream s) { return epg_stream_wait_event(w->device, s, w->before); }

static epg_status fork_to(world *w, epg_stream s)
{
    EPG_TRY(event_record(w, w->captured));
    return epg_stream_wait_event(w->device, s, w->event);
}

static epg_status fork_and_launch(world *w, epg_stream s)
{
    EPG_TRY(fork_to(w, s));
    return launch(w, s);
}

static epg_status fork_and_join(world *w, epg_stream s)
{
    EPG_TRY(fork_and_launch(w, s));
    EPG_TRY(event_record(w, s));
    return epg_stream_wait_event(w->device, w->captured, w->event);
}

/* ---- captures ---- */

static void drop_capture(world *w, epg_stream s)
{
    epg_graph graph = NULL;
    epg_capture_end(w->device, s, &graph);
    epg_graph_destroy(w->device, graph);
}

static epg_status begin(world *w, epg_stream s) { return epg_capture_begin(w->device, s, w->mode); }

static epg_status begin_and_end(world *w, epg_stream s)
{
    EPG_TRY(begin(w, s));
    drop_capture(w, s);
    return EPG_OK;
}

static epg_status merge(world *w, epg_stream s)
{
    EPG_TRY(begin(w, s));
    epg_status status = event_record(w, s);
    if (status == EPG_OK)
        status = epg_stream_wait_event(w->device, w->captured, w->event);
    drop_capture(w, s);
    return status;
}

static epg_status end_captured(world *w, epg_stream s)
{
    (void)s;
    return epg__conform_end(w);
}

static epg_status end_stream(world *w, epg_stream s)
{
    epg_graph graph = NULL;
    EPG_TRY(epg_capture_end(w->device, s, &graph));
    return epg_graph_destroy(w->device, graph);
}

static epg_status capture_look(world *w, epg_stream s)
{
    epg_capture_status status;
    return epg_capture_query(w->device, s, &status, NULL);
}

static epg_status capture_info(world *w, epg_stream s)
{
    epg_capture_status status;
    uint64_t id;
    return epg_capture_query(w->device, s, &status, &id);
}

static epg_status relaxed(world *w, epg_stream s, epg_status (*call)(world *w, epg_stream s))
{
    epg_capture_mode mode = EPG_CAPTURE_RELAXED;
    EPG_TRY(epg_capture_mode_exchange(w->device, &mode));
    epg_status status = call(w, s);
    epg_capture_mode_exchange(w->device, &mode);
    return status;
}

static epg_status relaxed_alloc(world *w, epg_stream s) { return relaxed(w, s, alloc_device); }
static epg_status relaxed_launch(world *w, epg_stream s) { return relaxed(w, s, launch); }

/* ---- the table ---- */

#define OPERATIONS(X)                                                     \
    X(none, do_nothing, NOWHERE)                                          \
    X(launch_capturing, launch, CAPTURED)                                 \
    X(launch_legacy, launch, LEGACY)                                      \
    X(launch_perthread, launch, PER_THREAD)                               \
    X(launch_other_blocking, launch, BLOCKING)                            \
    X(launch_other_nonblocking, launch, NONBLOCKING)                      \
    X(malloc, alloc_device, NOWHERE)                                      \
    X(free, free_device, NOWHERE)                                         \
    X(malloc_host, alloc_pinned, NOWHERE)                                 \
    X(free_host, free_pinned, NOWHERE)                                    \
    X(host_alloc_mapped, alloc_mapped, NOWHERE)                           \
    X(malloc_async_capturing, alloc_free_async, CAPTURED)                 \
    X(malloc_async_legacy, alloc_async, LEGACY)                           \
    X(malloc_async_other_nonblocking, alloc_async, NONBLOCKING)           \
    X(memcpy_sync_h2d_pageable, copy_in, NOWHERE)                         \
    X(memcpy_sync_d2d, copy_within, NOWHERE)                              \
    X(memset_sync, set, NOWHERE)                                          \
    X(memcpy_async_pageable_h2d_capturing, copy_async_in, CAPTURED)       \
    X(memcpy_async_pageable_d2h_capturing, copy_async_out, CAPTURED)      \
    X(memcpy_async_pinned_capturing, copy_async_pinned, CAPTURED)         \
    X(memcpy_async_legacy, copy_async, LEGACY)                            \
    X(memcpy_async_other_blocking, copy_async, BLOCKING)                  \
    X(memcpy_async_other_nonblocking, copy_async, NONBLOCKING)            \
    X(memset_async_capturing, set_async, CAPTURED)                        \
    X(stream_sync_capturing, stream_wait, CAPTURED)                       \
    X(stream_sync_legacy, stream_wait, LEGACY)                            \
    X(stream_sync_other_blocking, stream_wait, BLOCKING)                  \
    X(stream_sync_other_nonblocking, stream_wait, NONBLOCKING)            \
    X(stream_query_capturing, stream_look, CAPTURED)                      \
    X(stream_query_legacy, stream_look, LEGACY)                           \
    X(stream_query_other_nonblocking, stream_look, NONBLOCKING)           \
    X(device_sync, device_wait, NOWHERE)                                  \
    X(event_create, event_create, NOWHERE)                                \
    X(event_record_capturing, event_record, CAPTURED)                     \
    X(event_record_legacy, event_record, LEGACY)                          \
    X(event_record_other_nonblocking, event_record, NONBLOCKING)          \
    X(event_query_captured, record_then_look, CAPTURED)                   \
    X(event_sync_captured, record_then_wait, CAPTURED)                    \
    X(event_elapsed_captured, record_then_time, CAPTURED)                 \
    X(event_query_uncaptured, look_before, NOWHERE)                       \
    X(event_sync_uncaptured, wait_before, NOWHERE)                        \
    X(event_destroy_captured, record_then_destroy, CAPTURED)              \
    X(wait_capturing_on_pre_event, depend_on_before, CAPTURED)            \
    X(wait_legacy_on_captured, fork_to, LEGACY)                           \
    X(wait_other_blocking_on_captured_unjoined, fork_to, BLOCKING)        \
    X(wait_other_nonblocking_on_captured_unjoined, fork_to, NONBLOCKING)  \
    X(fork_join_nonblocking, fork_and_join, NONBLOCKING)                  \
    X(fork_join_blocking, fork_and_join, BLOCKING)                        \
    X(fork_launch_nojoin, fork_and_launch, NONBLOCKING)                   \
    X(stream_create_nonblocking, create_nonblocking, NOWHERE)             \
    X(stream_create_blocking, create_blocking, NOWHERE)                   \
    X(stream_destroy_capturing, destroy_captured, CAPTURED)               \
    X(host_func_capturing, call_host, CAPTURED)                           \
    X(add_callback_capturing, call_back, CAPTURED)                        \
    X(graph_launch_capturing, replay, CAPTURED)                           \
    X(graph_launch_other_nonblocking, replay, NONBLOCKING)                \
    X(graph_launch_legacy, replay, LEGACY)                                \
    X(begin_second_capture_other, begin_and_end, NONBLOCKING)             \
    X(merge_two_captures, merge, NONBLOCKING)                             \
    X(end_from_here, end_captured, CAPTURED)                              \
    X(end_other_stream, end_stream, NONBLOCKING)                          \
    X(mem_get_info, memory_info, NOWHERE)                                 \
    X(set_device, make_current, NOWHERE)                                  \
    X(func_attributes, attributes, NOWHERE)                               \
    X(occupancy, occupancy, NOWHERE)                                      \
    X(exchange_relaxed_then_malloc, relaxed_alloc, NOWHERE)               \
    X(exchange_relaxed_then_launch_legacy, relaxed_launch, LEGACY)        \
    X(free_async_legacy, free_async, LEGACY)                              \
    X(mempool_trim, trim, NOWHERE)                                        \
    X(peek_last_error, last_error, NOWHERE)                               \
    X(is_capturing_legacy, capture_look, LEGACY)                          \
    X(get_capture_info, capture_info, CAPTURED)                           \
    X(begin_capture_again, begin, CAPTURED)                               \
    X(begin_capture_legacy, begin, LEGACY)                                \
    X(cross_event_record_then_query_from_pre, record_again_then_look, CAPTURED)

#define NAME(name, call, where) #name,
const char *const epg__conform_names[EPG__CONFORM_OPS] = {OPERATIONS(NAME)};
#undef NAME

static const struct {
    epg_status (*call)(world *w, epg_stream s);
    place where;
} operations[] = {
#define OPERATION(name, call, where) {call, where},
    OPERATIONS(OPERATION)
#undef OPERATION
};
_Static_assert(EPG__COUNT_OF(operations) == EPG__CONFORM_OPS, "the table has a row for every operation");

static epg_stream stream_at(const world *w, place where)
{
    switch (where) {
    case CAPTURED: return w->captured;
    case PER_THREAD: return EPG_STREAM_PER_THREAD;
    case BLOCKING: return w->blocking;
    case NONBLOCKING: return w->nonblocking;
    case LEGACY:
    case NOWHERE: break;
    }
    return EPG_STREAM_LEGACY;
}

epg_status epg__conform_ask(epg__conform_world *w, uint32_t op)
{
    return operations[op].call(w, stream_at(w, operations[op].where));
}
