/* The host device's streams: queues, their workers, and what can be put on them.
 *
 * Not here: events (device_host_event.c), what capture makes of a call (device_host_capture.c).
 *
 * Invariants: a stream's work runs in order on its one worker, which starts with the first uncaptured work. Work
 * carries a device-wide order; the head of a queue stays there until it has run. So "all earlier work of stream s is
 * done" is "s's head has a later order", and the legacy stream's rule needs no lists. Every wait is for work with a
 * smaller order, so waits cannot form a circle. */
#include <stdlib.h>
#include <string.h>
#include "device/device_host_int.h"

/* ---- work ---- */

epg__host_work *epg__host_work_create(epg__host_kind kind, const char *name, const void *args, size_t bytes)
{
    size_t text = strlen(name) + 1, tail, total;
    epg__host_work *work = NULL;
    if (epg__add(bytes, text, &tail) && epg__add(sizeof *work, tail, &total))
        work = malloc(total); /* not cleared: arguments may be large */
    if (!work) {
        epg__fail(EPG_ERR_NO_MEMORY, "no memory for \"%s\" with %zu bytes of arguments", name, bytes);
        return NULL;
    }
    memset(work, 0, sizeof *work);
    work->kind = kind;
    if (bytes)
        memcpy(work->tail, args, bytes);
    work->name = memcpy(work->tail + bytes, name, text);
    return work;
}

void epg__host_work_free(epg__host_work *work)
{
    if (work->kind == EPG__HOST_RECORD || work->kind == EPG__HOST_WAIT)
        epg__host_record_drop(work->u.record);
    else if (work->kind == EPG__HOST_ALLOC || work->kind == EPG__HOST_FREE || work->kind == EPG__HOST_RELEASE)
        epg__host_block_drop(work->u.memory.block);
    free(work);
}

void epg__host_work_run(epg__engine *engine, const epg__host_work *work)
{
    engine->ops->work_begin(engine, work->name);
    switch (work->kind) {
    case EPG__HOST_KERNEL:
        work->u.kernel.fn(work->u.kernel.args);
        break;
    case EPG__HOST_FUNC:
        work->u.func.fn(work->u.func.ctx);
        break;
    case EPG__HOST_COPY:
        if (work->u.copy.bytes)
            memcpy(work->u.copy.to, work->u.copy.from, work->u.copy.bytes);
        break;
    case EPG__HOST_SET:
        if (work->u.set.bytes)
            memset(work->u.set.to, work->u.set.value, work->u.set.bytes);
        break;
    case EPG__HOST_ALLOC: /* a graph's memory has its place for as long as the graph lives */
    case EPG__HOST_FREE:
    case EPG__HOST_RELEASE:
    case EPG__HOST_RECORD:
    case EPG__HOST_WAIT:
    case EPG__HOST_REPLAY:
        break;
    }
    engine->ops->work_end(engine);
}

/* ---- the worker ---- */

static bool done_before(const struct epg_stream_st *stream, uint64_t order)
{
    return !stream->head || stream->head->order >= order;
}

static bool blocking_done_before(const epg__host_device *device, uint64_t order)
{
    for (epg_stream s = device->streams; s; s = s->next)
        if (s->blocking && !done_before(s, order))
            return false;
    return true;
}

/* The legacy stream's rule, for work of this order on `stream`. */
static bool may_run(epg_stream stream, uint64_t order)
{
    if (stream->legacy)
        return blocking_done_before(stream->device, order);
    return !stream->blocking || done_before(stream->device->legacy, order);
}

bool epg__host_stream_clear(epg_stream stream) { return !stream->head && may_run(stream, UINT64_MAX); }

static epg_status barrier_wait(epg__host_device *device)
{
    device->barrier_waiters++;
    epg_status status = epg__host_wait(device, &device->barrier, "work of other streams");
    device->barrier_waiters--;
    return status;
}

static void run_head(epg_stream stream)
{
    epg__host_device *device = stream->device;
    epg__host_work *work = stream->head;
    while (!may_run(stream, work->order))
        barrier_wait(device);
    if (work->kind == EPG__HOST_RECORD) {
        epg__host_record_finish(work->u.record);
    } else if (work->kind == EPG__HOST_RELEASE) {
        epg__host_release_run(work);
    } else if (work->kind == EPG__HOST_WAIT) {
        while (!work->u.record->done)
            epg__host_wait(device, &work->u.record->finished, "an event");
    } else {
        epg__host_unlock(device);
        if (work->kind == EPG__HOST_REPLAY)
            epg__host_replay(work->u.replay.exec, work->u.replay.turn);
        else
            epg__host_work_run(epg__host_engine(device), work);
        epg__host_lock(device);
    }
}

static void pop_head(epg_stream stream)
{
    epg__host_work *work = stream->head;
    stream->head = work->next;
    stream->done++;
    epg__host_work_free(work);
    if (stream->sync_waiters)
        epg__cond_broadcast(epg__host_engine(stream->device), &stream->progress);
    if (stream->device->barrier_waiters)
        epg__cond_broadcast(epg__host_engine(stream->device), &stream->device->barrier);
}

static void *worker_main(void *arg)
{
    epg_stream stream = arg;
    epg__host_device *device = stream->device;
    epg__host_lock(device);
    while (stream->head || !stream->destroyed) {
        if (!stream->head) {
            epg__host_wait(device, &stream->wake, NULL);
            continue;
        }
        run_head(stream);
        pop_head(stream);
    }
    stream->exited = true;
    epg__host_unlock(device);
    return NULL;
}

epg_status epg__host_push(epg_stream stream, epg__host_work *work)
{
    epg__engine *engine = epg__host_engine(stream->device);
    if (!stream->threaded) {
        const char *kind = stream->legacy ? "legacy stream" : "stream";
        int error = engine->ops->spawn(engine, &stream->worker, stream->home, kind, worker_main, stream);
        if (error)
            return epg__fail(EPG_ERR_SYSTEM, "no worker thread for the stream that runs \"%s\": %s", work->name,
                             strerror(error));
        stream->threaded = true;
    }
    work->next = NULL;
    work->order = stream->device->orders++;
    if (stream->head)
        stream->tail->next = work;
    else
        stream->head = work;
    stream->tail = work;
    stream->pushed++;
    EPG__NOTE(stream->device->base.simulator, "enqueues %s", work->name);
    epg__cond_signal(engine, &stream->wake);
    return EPG_OK;
}

/* ---- life and death ---- */

epg_stream epg__host_stream_new(epg__host_device *device, bool legacy, bool blocking)
{
    epg__engine *engine = epg__host_engine(device);
    epg_stream stream = epg__zalloc(1, sizeof *stream, "a stream");
    if (!stream)
        return NULL;
    stream->device = device;
    stream->legacy = legacy;
    stream->blocking = blocking;
    stream->home = legacy ? EPG__NO_HOME : engine->ops->home(engine);
    engine->ops->cond_init(&stream->wake);
    engine->ops->cond_init(&stream->progress);
    stream->next = device->streams;
    device->streams = stream;
    return stream;
}

static void stream_free(epg_stream stream)
{
    epg__engine *engine = epg__host_engine(stream->device);
    if (stream->threaded)
        engine->ops->join(engine, &stream->worker);
    engine->ops->cond_destroy(&stream->wake);
    engine->ops->cond_destroy(&stream->progress);
    free(stream->frontier.nodes);
    free(stream);
}

static void streams_free(epg_stream list)
{
    while (list) {
        epg_stream next = list->next;
        stream_free(list);
        list = next;
    }
}

/* Takes out of the device's list what was destroyed and runs no more. With the lock held. */
static epg_stream take_dead(epg__host_device *device)
{
    epg_stream dead = NULL, *link = &device->streams;
    while (*link) {
        epg_stream stream = *link;
        if (stream->destroyed && (stream->exited || !stream->threaded)) {
            *link = stream->next;
            stream->next = dead;
            dead = stream;
        } else {
            link = &stream->next;
        }
    }
    return dead;
}

/* Frees what its worker, which was cut off, left in the queue. */
static void drop_queue(epg_stream stream)
{
    while (stream->head) {
        epg__host_work *work = stream->head;
        stream->head = work->next;
        stream->done++;
        epg__host_work_free(work);
    }
}

static void drop_replays(epg_stream stream)
{
    for (epg__host_work *work = stream->head; work; work = work->next)
        if (work->kind == EPG__HOST_REPLAY)
            epg__host_replay_drop(work->u.replay.exec);
}

void epg__host_streams_drop(epg__host_device *device, uint32_t home, bool all)
{
    epg__engine *engine = epg__host_engine(device);
    epg__host_lock(device);
    for (epg_stream s = device->streams; s; s = s->next) {
        if (!all && s->home != home)
            continue;
        epg__capture_forget(s);
        drop_replays(s);
        drop_queue(s);
        if (s->threaded)
            engine->ops->join(engine, &s->worker);
        s->threaded = false;
        epg__cond_broadcast(engine, &s->progress);
    }
    epg__cond_broadcast(engine, &device->barrier);
    epg__host_unlock(device);
}

void epg__host_streams_end(epg__host_device *device)
{
    epg__engine *engine = epg__host_engine(device);
    epg__host_lock(device);
    for (epg_stream s = device->streams; s; s = s->next) {
        s->destroyed = true;
        epg__cond_signal(epg__host_engine(device), &s->wake);
    }
    epg__host_unlock(device);
    /* Joined before any is freed: the workers look at one another's queues. */
    for (epg_stream s = device->streams; s; s = s->next) {
        if (s->threaded)
            engine->ops->join(engine, &s->worker);
        s->threaded = false;
    }
    for (epg_stream s = device->streams; s; s = s->next)
        drop_queue(s);
    streams_free(device->streams);
    device->streams = NULL;
}

epg_status epg__host_stream_create(epg_device *base, epg_stream_kind kind, epg_stream *stream)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_stream made = epg__host_stream_new(device, false, kind == EPG_STREAM_BLOCKING);
    epg_stream dead = take_dead(device);
    epg__host_unlock(device);
    streams_free(dead);
    if (!made)
        return EPG_ERR_NO_MEMORY;
    *stream = made;
    return EPG_OK;
}

/* Is this a living stream of the device? For calls off the enqueue path: it walks the list. */
static epg_status check_alive(const epg__host_device *device, epg_stream stream, const char *what)
{
    for (epg_stream s = device->streams; s; s = s->next)
        if (s == stream && !s->destroyed)
            return EPG_OK;
    return epg__fail(EPG_ERR_HANDLE, "%s: %p is no stream of this device, or was destroyed", what, (void *)stream);
}

epg_status epg__host_stream_destroy(epg_device *base, epg_stream stream)
{
    epg__host_device *device = epg__host_of(base);
    if (!stream)
        return EPG_OK;
    if (stream == EPG_STREAM_LEGACY || stream == EPG_STREAM_PER_THREAD)
        return epg__fail(EPG_ERR_HANDLE, "epg_stream_destroy: a default stream cannot be destroyed");
    epg__host_lock(device);
    epg_status status = check_alive(device, stream, "epg_stream_destroy");
    if (status == EPG_OK) {
        epg__capture_forget(stream);
        stream->destroyed = true;
        epg__cond_signal(epg__host_engine(device), &stream->wake);
    }
    epg_stream dead = take_dead(device);
    epg__host_unlock(device);
    streams_free(dead);
    return status;
}

/* ---- waiting ---- */

static epg_status wait_pushed(epg_stream stream)
{
    uint64_t target = stream->pushed;
    epg_status status = EPG_OK;
    stream->sync_waiters++;
    while (status == EPG_OK && stream->done < target)
        status = epg__host_wait(stream->device, &stream->progress, "the work of a stream");
    stream->sync_waiters--;
    return status;
}

/* The living stream that *stream names, whose progress may be asked for: it does not capture. With the lock held. */
static epg_status resolve_for_progress(epg__host_device *device, const char *what, epg_stream *stream)
{
    EPG_TRY(epg__host_resolve(device, *stream, stream));
    EPG_TRY(check_alive(device, *stream, what));
    return epg__capture_check_progress(*stream, what);
}

epg_status epg__host_stream_synchronize(epg_device *base, epg_stream stream)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_status status = resolve_for_progress(device, "epg_stream_synchronize", &stream);
    if (status == EPG_OK) {
        /* Work of blocking streams counts as the legacy stream's: whatever comes next on it waits for them. */
        uint64_t now = device->orders;
        status = wait_pushed(stream);
        while (status == EPG_OK && stream->legacy && !blocking_done_before(device, now))
            status = barrier_wait(device);
    }
    epg__host_unlock(device);
    return status;
}

epg_status epg__host_stream_query(epg_device *base, epg_stream stream)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_status status = resolve_for_progress(device, "epg_stream_query", &stream);
    if (status == EPG_OK && (stream->head || (stream->legacy && !epg__host_stream_clear(stream))))
        status = epg__fail(EPG_ERR_NOT_READY, "the stream has %llu pieces of work left",
                           (unsigned long long)(stream->pushed - stream->done));
    epg__host_unlock(device);
    return status;
}

static bool all_done_before(const epg__host_device *device, uint64_t order)
{
    for (epg_stream s = device->streams; s; s = s->next)
        if (!done_before(s, order))
            return false;
    return true;
}

static epg_status await_all(epg__host_device *device)
{
    uint64_t now = device->orders;
    epg_status status = EPG_OK;
    while (status == EPG_OK && !all_done_before(device, now))
        status = barrier_wait(device);
    return status;
}

epg_status epg__host_synchronize(epg_device *base)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_status status = epg__capture_check_device(device, "epg_device_synchronize");
    if (status == EPG_OK)
        status = await_all(device);
    epg__host_unlock(device);
    return status;
}

epg_status epg__host_await_all(epg__host_device *device)
{
    epg__host_lock(device);
    epg_status status = await_all(device);
    epg__host_unlock(device);
    return status;
}

/* ---- enqueueing ---- */

/* Puts `work` where the stream takes it: into its capture or its queue. NULL: there was no memory for it. */
static epg_status place(epg_stream stream, epg__host_work *work, const char *what)
{
    if (!work)
        return epg__capture_spoil(stream, EPG_ERR_NO_MEMORY, what);
    EPG_TRY(epg__capture_check_work(stream, what));
    return stream->capture ? epg__capture_add(stream, work) : epg__host_push(stream, work);
}

/* Frees `work` on failure. `wait`: until it has run. */
static epg_status submit(epg_device *base, epg_stream stream, epg__host_work *work, const char *what, bool wait)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_status status = epg__host_resolve(device, stream, &stream);
    if (status == EPG_OK)
        status = place(stream, work, what);
    if (status != EPG_OK && work)
        epg__host_work_free(work);
    if (status == EPG_OK && wait)
        status = wait_pushed(stream);
    epg__host_unlock(device);
    return status;
}

static epg__host_work *copy_work(void *to, const void *from, size_t bytes)
{
    epg__host_work *work = epg__host_work_create(EPG__HOST_COPY, "memcpy", NULL, 0);
    if (work) {
        work->u.copy.to = to;
        work->u.copy.from = from;
        work->u.copy.bytes = bytes;
    }
    return work;
}

static epg__host_work *set_work(void *to, int value, size_t bytes)
{
    epg__host_work *work = epg__host_work_create(EPG__HOST_SET, "memset", NULL, 0);
    if (work) {
        work->u.set.to = to;
        work->u.set.value = value;
        work->u.set.bytes = bytes;
    }
    return work;
}

epg_status epg__host_memcpy_async(epg_device *device, void *to, const void *from, size_t bytes, epg_stream stream)
{
    return submit(device, stream, copy_work(to, from, bytes), "epg_memcpy_async", false);
}

epg_status epg__host_memset_async(epg_device *device, void *to, int value, size_t bytes, epg_stream stream)
{
    return submit(device, stream, set_work(to, value, bytes), "epg_memset_async", false);
}

epg_status epg__host_memcpy_sync(epg_device *device, void *to, const void *from, size_t bytes)
{
    return submit(device, EPG_STREAM_LEGACY, copy_work(to, from, bytes), "epg_memcpy", true);
}

epg_status epg__host_memset_sync(epg_device *device, void *to, int value, size_t bytes)
{
    return submit(device, EPG_STREAM_LEGACY, set_work(to, value, bytes), "epg_memset", true);
}

epg_status epg__host_func(epg_device *device, epg_stream stream, void (*fn)(void *ctx), void *ctx, const char *name)
{
    epg__host_work *work = epg__host_work_create(EPG__HOST_FUNC, name ? name : "host function", NULL, 0);
    if (work) {
        work->u.func.fn = fn;
        work->u.func.ctx = ctx;
    }
    return submit(device, stream, work, "epg_host_func", false);
}

epg_status epg__host_launch(epg_device *device, epg_stream stream, void (*fn)(const void *args), const void *args,
                            size_t bytes, const char *name)
{
    epg__host_work *work = epg__host_work_create(EPG__HOST_KERNEL, name ? name : "kernel", args, bytes);
    if (work) {
        work->u.kernel.fn = fn;
        work->u.kernel.args = work->tail;
    }
    return submit(device, stream, work, "epg_host_launch", false);
}

typedef struct timestamp_args {
    epg_device *device;
    uint64_t *at;
} timestamp_args;

static void timestamp_run(const void *args)
{
    const timestamp_args *a = args;
    *a->at = a->device->ops->now_ns(a->device);
}

epg_status epg__host_timestamp_async(epg_device *device, uint64_t *at, epg_stream stream)
{
    timestamp_args args = {device, at};
    return epg__host_launch(device, stream, timestamp_run, &args, sizeof args, "timestamp");
}
