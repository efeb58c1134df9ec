/* The host device: creation, memory, what threads own, and the operations table.
 *
 * Not here: streams, events, capture, graphs, stream-ordered allocation, each in its device_host_*.c.
 *
 * Invariants: what a thread owns is freed with the device, not with the thread: a capture names its owner by that
 * pointer, so it must never come to mean another thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "device/device_host_int.h"

static uint64_t device_now_ns(epg_device *device)
{
    if (device->simulator)
        device->simulator->ops->look(device->simulator, "looks at the clock", 0, NULL, 0);
    return epg__now_ns(device->engine);
}

/* ---- threads and the default streams ---- */

epg__host_thread *epg__host_thread_peek(epg__host_device *device)
{
    epg__engine *engine = epg__host_engine(device);
    return engine->ops->local_get(engine);
}

epg__host_thread *epg__host_thread_get(epg__host_device *device)
{
    epg__engine *engine = epg__host_engine(device);
    epg__host_thread *thread = epg__host_thread_peek(device);
    if (thread)
        return thread;
    thread = epg__zalloc(1, sizeof *thread, "a thread's capture mode");
    if (!thread)
        return NULL;
    if (engine->ops->local_set(engine, thread) != 0) {
        epg__fail(EPG_ERR_NO_MEMORY, "no memory for a thread's capture mode");
        free(thread);
        return NULL;
    }
    thread->mode = EPG_CAPTURE_GLOBAL;
    thread->next = device->threads;
    device->threads = thread;
    return thread;
}

epg_status epg__host_resolve(epg__host_device *device, epg_stream handle, epg_stream *stream)
{
    if (!handle || handle == EPG_STREAM_LEGACY) {
        *stream = device->legacy;
        return EPG_OK;
    }
    if (handle != EPG_STREAM_PER_THREAD) {
        *stream = handle;
        return EPG_OK;
    }
    epg__host_thread *thread = epg__host_thread_get(device);
    if (thread && !thread->stream)
        thread->stream = epg__host_stream_new(device, false, true);
    if (!thread || !thread->stream)
        return EPG_ERR_NO_MEMORY;
    *stream = thread->stream;
    return EPG_OK;
}

/* ---- memory ---- */

/* All kinds are plain memory: every thread of the process is "the device". */
static epg_status memory_alloc(epg_device *base, epg_memory_kind kind, size_t bytes, void **memory)
{
    epg__host_device *device = epg__host_of(base);
    (void)kind;
    epg__host_lock(device);
    epg_status status = epg__capture_check_unsafe(device, "epg_memory_alloc");
    epg__host_unlock(device);
    EPG_TRY(status);
    void *made = epg__zalloc_aligned(EPG__HOST_MEMORY_ALIGN, bytes, 1, "device memory");
    if (!made)
        return EPG_ERR_NO_MEMORY;
    *memory = made;
    return EPG_OK;
}

/* Waits for nothing: work that still uses the memory is the caller's error. A wait would hang where that work waits for
 * a peer that this thread has yet to serve, and hide the error where it does not. */
static epg_status memory_free(epg_device *base, epg_memory_kind kind, void *memory)
{
    epg__host_device *device = epg__host_of(base);
    bool pooled = false;
    epg__host_lock(device);
    epg_status status = epg__capture_check_unsafe(device, "epg_memory_free");
    if (status == EPG_OK && kind == EPG_MEMORY_DEVICE)
        status = epg__host_pool_free(device, memory, &pooled);
    epg__host_unlock(device);
    if (status == EPG_OK && !pooled)
        free(memory);
    return status;
}

static epg_status memory_info(epg_device *device, uint64_t *free_bytes, uint64_t *total_bytes)
{
    long pages = sysconf(_SC_AVPHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages < 0 || page < 0)
        return epg__fail(EPG_ERR_SYSTEM, "epg_memory_info: the system does not say how much memory is free");
    *free_bytes = (uint64_t)pages * (uint64_t)page;
    *total_bytes = device->info.memory_bytes;
    return EPG_OK;
}

/* ---- creation ---- */

static void device_free(epg__host_device *device)
{
    while (device->threads) {
        epg__host_thread *next = device->threads->next;
        free(device->threads);
        device->threads = next;
    }
    const epg__engine_ops *engine = epg__host_engine(device)->ops;
    engine->cond_destroy(&device->barrier);
    engine->lock_destroy(&device->lock);
    free(device);
}

static void device_destroy(epg_device *base)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg__capture_drop_all(device);
    epg__host_unlock(device);
    epg__host_streams_end(device);
    epg__host_pool_end(device);
    epg__host_records_end(device);
    device_free(device);
}

/* ---- what this device does not need ---- */

/* To instantiate costs no more here. */
static epg_status exec_update(epg_device *device, epg_exec exec, epg_graph graph)
{
    (void)exec, (void)graph;
    return epg__fail(EPG_ERR_UNSUPPORTED, "epg_exec_update: %s instantiates anew", device->info.name);
}

/* No profiler listens to this device. */
static void range_push(epg_device *device, epg__range range) { (void)device, (void)range; }
static void range_pop(epg_device *device) { (void)device; }

static const epg__device_ops host_ops = {
    .destroy = device_destroy,
    .now_ns = device_now_ns,
    .synchronize = epg__host_synchronize,
    .stream_create = epg__host_stream_create,
    .stream_destroy = epg__host_stream_destroy,
    .stream_synchronize = epg__host_stream_synchronize,
    .stream_query = epg__host_stream_query,
    .stream_wait_event = epg__host_stream_wait_event,
    .event_create = epg__host_event_create,
    .event_create_order = epg__host_event_create,
    .event_destroy = epg__host_event_destroy,
    .event_record = epg__host_event_record,
    .event_query = epg__host_event_query,
    .event_synchronize = epg__host_event_synchronize,
    .event_elapsed_us = epg__host_event_elapsed_us,
    .memory_alloc = memory_alloc,
    .memory_free = memory_free,
    .memory_alloc_async = epg__host_memory_alloc_async,
    .memory_free_async = epg__host_memory_free_async,
    .memory_trim = epg__host_memory_trim,
    .memory_info = memory_info,
    .memcpy_async = epg__host_memcpy_async,
    .memset_async = epg__host_memset_async,
    .memcpy_sync = epg__host_memcpy_sync,
    .memset_sync = epg__host_memset_sync,
    .host_func = epg__host_func,
    .host_launch = epg__host_launch,
    .timestamp_async = epg__host_timestamp_async,
    .capture_begin = epg__host_capture_begin,
    .capture_end = epg__host_capture_end,
    .capture_query = epg__host_capture_query,
    .capture_mode_exchange = epg__host_capture_mode_exchange,
    .graph_destroy = epg__host_graph_destroy,
    .graph_node_count = epg__host_graph_node_count,
    .graph_dot = epg__host_graph_dot,
    .graph_instantiate = epg__host_graph_instantiate,
    .exec_destroy = epg__host_exec_destroy,
    .exec_launch = epg__host_exec_launch,
    .exec_upload = epg__host_exec_upload,
    .exec_update = exec_update,
    .range_push = range_push,
    .range_pop = range_pop,
    .probe_launch = epg__host_probe_launch,
    .probe_callback = epg__host_probe_callback,
    .probe_attributes = epg__host_probe_attributes,
    .probe_occupancy = epg__host_probe_occupancy,
    .probe_last_error = epg__host_probe_last_error,
    .probe_make_current = epg__host_probe_make_current,
    .copy_launch = epg__host_copy_launch,
    .copy_fills_device = 0,
};

/* The processor's name as the kernel gives it; "CPU" where it gives none. */
static void cpu_name(char *name, size_t room)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    snprintf(name, room, "CPU");
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        snprintf(name, room, "%.*s", (int)strcspn(colon + 1, "\n") - 1, colon + 2);
        break;
    }
    if (file)
        fclose(file);
}

static void fill_info(epg_device_info *info)
{
    char cpu[40];
    long cores = sysconf(_SC_NPROCESSORS_ONLN), pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    cpu_name(cpu, sizeof cpu);
    *info = (epg_device_info){.size = sizeof *info, .kind = EPG_DEVICE_HOST};
    info->units = cores > 0 ? (uint32_t)cores : 1;
    info->memory_bytes = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
    snprintf(info->name, sizeof info->name, "host: %s, %u cores", cpu, info->units);
}

epg_status epg__device_host_create(epg__engine *engine, epg_device **device)
{
    epg__host_device *made = epg__zalloc(1, sizeof *made, "a device");
    if (!made)
        return EPG_ERR_NO_MEMORY;
    made->base.engine = engine;
    engine->ops->lock_init(&made->lock);
    engine->ops->cond_init(&made->barrier);
    made->legacy = epg__host_stream_new(made, true, false);
    if (!made->legacy) {
        device_free(made);
        return EPG_ERR_NO_MEMORY;
    }
    made->base.ops = &host_ops;
    fill_info(&made->base.info);
    *device = &made->base;
    return EPG_OK;
}
