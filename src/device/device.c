/* Every device function of the public API: checks its arguments and calls through the device's table.
 *
 * Not here: anything a device does, or whether a handle is still alive. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device/device_ops.h"

#define NEED(pointer)                                                                   \
    do {                                                                                \
        if (!(pointer))                                                                 \
            return epg__fail(EPG_ERR_INVALID, "%s: " #pointer " is NULL", __func__);    \
    } while (0)

/* ---- the device ---- */

/* Where a device's log lines go: the head's log and log_ctx are log_locked and one of these, so that lines come one
 * at a time. */
typedef struct log_sink {
    pthread_mutex_t lock;
    epg_log_fn fn;
    void *ctx;
} log_sink;

static void log_locked(void *ctx, epg_log_level level, const char *text)
{
    log_sink *sink = ctx;
    pthread_mutex_lock(&sink->lock);
    sink->fn(sink->ctx, level, text);
    pthread_mutex_unlock(&sink->lock);
}

static epg_status log_sink_create(const epg_device_options *options, log_sink **sink)
{
    *sink = NULL;
    if (!options->log)
        return EPG_OK;
    log_sink *made = epg__zalloc(1, sizeof *made, "a device's log");
    if (!made)
        return EPG_ERR_NO_MEMORY;
    pthread_mutex_init(&made->lock, NULL);
    made->fn = options->log;
    made->ctx = options->log_ctx;
    *sink = made;
    return EPG_OK;
}

static void log_sink_destroy(log_sink *sink)
{
    if (sink)
        pthread_mutex_destroy(&sink->lock);
    free(sink);
}

static epg_status create_with_engine(const epg_device_options *options, epg_device **device)
{
    epg__engine *engine;
    epg__simulator *simulator = NULL;
    if (options->simulation && options->kind != EPG_DEVICE_HOST)
        return epg__fail(EPG_ERR_UNSUPPORTED, "epg_device_create: only the host device can be simulated");
    if (options->simulation)
        EPG_TRY(epg__engine_simulator_create(options->simulation, &engine, &simulator));
    else
        EPG_TRY(epg__engine_threads_create(&engine));
    epg_status status = options->kind == EPG_DEVICE_CUDA ? epg__device_cuda_create(options, device)
                                                         : epg__device_host_create(engine, device);
    if (status != EPG_OK) {
        engine->ops->destroy(engine);
        return status;
    }
    (*device)->engine = engine;
    (*device)->simulator = simulator;
    if (simulator)
        snprintf((*device)->info.name, sizeof (*device)->info.name, "host: simulated, seed %llu",
                 (unsigned long long)options->simulation->seed);
    return EPG_OK;
}

epg_status epg_device_create(const epg_device_options *options, epg_device **device)
{
    epg_device_options chosen = EPG_DEVICE_OPTIONS_INIT;
    epg_device *made;
    log_sink *sink;
    NEED(device);
    if (options) {
        EPG__CHECK_SIZE(options, offsetof(epg_device_options, ordinal));
        memcpy(&chosen, options, options->size < sizeof chosen ? options->size : sizeof chosen);
    }
    if (chosen.kind != EPG_DEVICE_HOST && chosen.kind != EPG_DEVICE_CUDA)
        return epg__fail(EPG_ERR_INVALID, "epg_device_create: there is no device kind %d", (int)chosen.kind);
    EPG_TRY(log_sink_create(&chosen, &sink));
    epg_status status = create_with_engine(&chosen, &made);
    if (status != EPG_OK) {
        log_sink_destroy(sink);
        return status;
    }
    made->log = sink ? log_locked : NULL;
    made->log_ctx = sink;
    made->log_level = chosen.log_level;
    epg__log(made, EPG_LOG_INFO, "device created: %s", made->info.name);
    *device = made;
    return EPG_OK;
}

void epg_device_destroy(epg_device *device)
{
    if (!device)
        return;
    log_sink *sink = device->log_ctx;
    epg__engine *engine = device->engine;
    device->ops->destroy(device);
    engine->ops->destroy(engine);
    log_sink_destroy(sink);
}

epg_status epg_device_describe(epg_device *device, epg_device_info *info)
{
    NEED(device);
    NEED(info);
    uint32_t size = info->size;
    EPG__CHECK_SIZE(info, sizeof size);
    memcpy(info, &device->info, size < sizeof *info ? size : sizeof *info);
    info->size = size;
    return EPG_OK;
}

void epg__log(epg_device *device, epg_log_level level, const char *format, ...)
{
    char text[1024];
    va_list args;
    if (!device->log || level > device->log_level)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    device->log(device->log_ctx, level, text);
}

uint64_t epg_device_now_ns(epg_device *device) { return device ? device->ops->now_ns(device) : 0; }

epg_status epg_device_synchronize(epg_device *device)
{
    NEED(device);
    return device->ops->synchronize(device);
}

/* ---- streams ---- */

epg_status epg_stream_create(epg_device *device, epg_stream_kind kind, epg_stream *stream)
{
    NEED(device);
    NEED(stream);
    if (kind != EPG_STREAM_BLOCKING && kind != EPG_STREAM_NONBLOCKING)
        return epg__fail(EPG_ERR_INVALID, "epg_stream_create: no stream kind %d", (int)kind);
    return device->ops->stream_create(device, kind, stream);
}

epg_status epg_stream_destroy(epg_device *device, epg_stream stream)
{
    NEED(device);
    return device->ops->stream_destroy(device, stream);
}

epg_status epg_stream_synchronize(epg_device *device, epg_stream stream)
{
    NEED(device);
    return device->ops->stream_synchronize(device, stream);
}

epg_status epg_stream_query(epg_device *device, epg_stream stream)
{
    NEED(device);
    return device->ops->stream_query(device, stream);
}

/* ---- events ---- */

epg_status epg_event_create(epg_device *device, epg_event *event)
{
    NEED(device);
    NEED(event);
    return device->ops->event_create(device, event);
}

epg_status epg_event_create_order(epg_device *device, epg_event *event)
{
    NEED(device);
    NEED(event);
    return device->ops->event_create_order(device, event);
}

epg_status epg_event_destroy(epg_device *device, epg_event event)
{
    NEED(device);
    return device->ops->event_destroy(device, event);
}

epg_status epg_event_record(epg_device *device, epg_event event, epg_stream stream)
{
    NEED(device);
    NEED(event);
    return device->ops->event_record(device, event, stream);
}

epg_status epg_event_query(epg_device *device, epg_event event)
{
    NEED(device);
    NEED(event);
    return device->ops->event_query(device, event);
}

epg_status epg_event_synchronize(epg_device *device, epg_event event)
{
    NEED(device);
    NEED(event);
    return device->ops->event_synchronize(device, event);
}

epg_status epg_event_elapsed_us(epg_device *device, epg_event start, epg_event stop, double *us)
{
    NEED(device);
    NEED(start);
    NEED(stop);
    NEED(us);
    return device->ops->event_elapsed_us(device, start, stop, us);
}

epg_status epg_stream_wait_event(epg_device *device, epg_stream stream, epg_event event)
{
    NEED(device);
    NEED(event);
    return device->ops->stream_wait_event(device, stream, event);
}

/* ---- memory ---- */

static epg_status check_memory_kind(epg_memory_kind kind, const char *what)
{
    if (kind != EPG_MEMORY_DEVICE && kind != EPG_MEMORY_PINNED && kind != EPG_MEMORY_MAPPED)
        return epg__fail(EPG_ERR_INVALID, "%s: no memory kind %d", what, (int)kind);
    return EPG_OK;
}

/* `from` is any non-NULL pointer where there is no source. */
static epg_status check_range(const void *to, const void *from, size_t bytes, const char *what)
{
    if (bytes > 0 && (!to || !from))
        return epg__fail(EPG_ERR_INVALID, "%s: %s is NULL, with %zu bytes", what, to ? "from" : "to", bytes);
    return EPG_OK;
}

epg_status epg_memory_alloc(epg_device *device, epg_memory_kind kind, size_t bytes, void **memory)
{
    NEED(device);
    NEED(memory);
    EPG_TRY(check_memory_kind(kind, __func__));
    return device->ops->memory_alloc(device, kind, bytes, memory);
}

epg_status epg_memory_free(epg_device *device, epg_memory_kind kind, void *memory)
{
    NEED(device);
    EPG_TRY(check_memory_kind(kind, __func__));
    return device->ops->memory_free(device, kind, memory);
}

epg_status epg_memory_alloc_async(epg_device *device, size_t bytes, epg_stream stream, void **memory)
{
    NEED(device);
    NEED(memory);
    return device->ops->memory_alloc_async(device, bytes, stream, memory);
}

epg_status epg_memory_free_async(epg_device *device, void *memory, epg_stream stream)
{
    NEED(device);
    return device->ops->memory_free_async(device, memory, stream);
}

epg_status epg_memory_trim(epg_device *device, size_t keep)
{
    NEED(device);
    return device->ops->memory_trim(device, keep);
}

epg_status epg_memory_info(epg_device *device, uint64_t *free_bytes, uint64_t *total_bytes)
{
    NEED(device);
    NEED(free_bytes);
    NEED(total_bytes);
    return device->ops->memory_info(device, free_bytes, total_bytes);
}

epg_status epg_memcpy_async(epg_device *device, void *to, const void *from, size_t bytes, epg_stream stream)
{
    NEED(device);
    EPG_TRY(check_range(to, from, bytes, __func__));
    return device->ops->memcpy_async(device, to, from, bytes, stream);
}

epg_status epg_memset_async(epg_device *device, void *to, int value, size_t bytes, epg_stream stream)
{
    NEED(device);
    EPG_TRY(check_range(to, device, bytes, __func__));
    return device->ops->memset_async(device, to, value, bytes, stream);
}

epg_status epg_memcpy(epg_device *device, void *to, const void *from, size_t bytes)
{
    NEED(device);
    EPG_TRY(check_range(to, from, bytes, __func__));
    return device->ops->memcpy_sync(device, to, from, bytes);
}

epg_status epg_memset(epg_device *device, void *to, int value, size_t bytes)
{
    NEED(device);
    EPG_TRY(check_range(to, device, bytes, __func__));
    return device->ops->memset_sync(device, to, value, bytes);
}

/* ---- work ---- */

epg_status epg_host_func(epg_device *device, epg_stream stream, void (*fn)(void *ctx), void *ctx, const char *name)
{
    NEED(device);
    NEED(fn);
    return device->ops->host_func(device, stream, fn, ctx, name);
}

epg_status epg_host_launch(epg_device *device, epg_stream stream, void (*fn)(const void *args), const void *args,
                           size_t bytes, const char *name)
{
    NEED(device);
    NEED(fn);
    if (bytes > 0 && !args)
        return epg__fail(EPG_ERR_INVALID, "epg_host_launch: args is NULL, with %zu bytes", bytes);
    return device->ops->host_launch(device, stream, fn, args, bytes, name);
}

epg_status epg_timestamp_async(epg_device *device, uint64_t *at, epg_stream stream)
{
    NEED(device);
    NEED(at);
    if ((uintptr_t)at % sizeof *at)
        return epg__fail(EPG_ERR_INVALID, "epg_timestamp_async: at is %p, which is not aligned to 8 bytes", (void *)at);
    return device->ops->timestamp_async(device, at, stream);
}

/* ---- capture and graphs ---- */

static epg_status check_mode(epg_capture_mode mode, const char *what)
{
    if (mode != EPG_CAPTURE_GLOBAL && mode != EPG_CAPTURE_THREAD_LOCAL && mode != EPG_CAPTURE_RELAXED)
        return epg__fail(EPG_ERR_INVALID, "%s: no capture mode %d", what, (int)mode);
    return EPG_OK;
}

epg_status epg_capture_begin(epg_device *device, epg_stream stream, epg_capture_mode mode)
{
    NEED(device);
    EPG_TRY(check_mode(mode, __func__));
    return device->ops->capture_begin(device, stream, mode);
}

epg_status epg_capture_end(epg_device *device, epg_stream stream, epg_graph *graph)
{
    NEED(device);
    NEED(graph);
    return device->ops->capture_end(device, stream, graph);
}

epg_status epg_capture_query(epg_device *device, epg_stream stream, epg_capture_status *status, uint64_t *id)
{
    NEED(device);
    NEED(status);
    return device->ops->capture_query(device, stream, status, id);
}

epg_status epg_capture_mode_exchange(epg_device *device, epg_capture_mode *mode)
{
    NEED(device);
    NEED(mode);
    EPG_TRY(check_mode(*mode, __func__));
    return device->ops->capture_mode_exchange(device, mode);
}

epg_status epg_graph_destroy(epg_device *device, epg_graph graph)
{
    NEED(device);
    return device->ops->graph_destroy(device, graph);
}

epg_status epg_graph_node_count(epg_device *device, epg_graph graph, size_t *nodes)
{
    NEED(device);
    NEED(graph);
    NEED(nodes);
    return device->ops->graph_node_count(device, graph, nodes);
}

epg_status epg_graph_dot(epg_device *device, epg_graph graph, void (*write)(void *ctx, const char *text), void *ctx)
{
    NEED(device);
    NEED(graph);
    NEED(write);
    return device->ops->graph_dot(device, graph, write, ctx);
}

epg_status epg_graph_instantiate(epg_device *device, epg_graph graph, epg_exec *exec)
{
    NEED(device);
    NEED(graph);
    NEED(exec);
    return device->ops->graph_instantiate(device, graph, exec);
}

epg_status epg_exec_destroy(epg_device *device, epg_exec exec)
{
    NEED(device);
    return device->ops->exec_destroy(device, exec);
}

epg_status epg_exec_launch(epg_device *device, epg_exec exec, epg_stream stream)
{
    NEED(device);
    NEED(exec);
    return device->ops->exec_launch(device, exec, stream);
}

epg_status epg_exec_upload(epg_device *device, epg_exec exec, epg_stream stream)
{
    NEED(device);
    NEED(exec);
    return device->ops->exec_upload(device, exec, stream);
}

epg_status epg_exec_update(epg_device *device, epg_exec exec, epg_graph graph)
{
    NEED(device);
    NEED(exec);
    NEED(graph);
    return device->ops->exec_update(device, exec, graph);
}
