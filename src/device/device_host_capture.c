/* The host device's capture: which calls a capture allows, and what becomes a node.
 *
 * Not here: running what was captured (device_host_graph.c). docs/capture-rules.md states the rules, one by one, with
 * the answers of a driver from which they were derived; the numbers in the comments below are its.
 *
 * Invariants: a stream is in at most one capture. A capture lives from its begin to its end (or the end of its
 * origin), valid or not. A node depends on nodes with smaller numbers only. A stream's frontier holds what its next
 * node depends on: its last node, and what it waited for since. */
#include <stdlib.h>
#include <string.h>
#include "device/device_host_int.h"

struct epg__host_capture {
    epg__host_capture *next;
    uint64_t id;
    epg_capture_mode mode;
    const epg__host_thread *owner; /* the thread that began it */
    epg_stream origin;
    const char *spoiler; /* the call that invalidated it; NULL: valid */
    epg__host_body *body;
};

/* ---- which captures does a call touch ---- */

static void invalidate(epg__host_capture *capture, const char *what)
{
    if (!capture->spoiler)
        capture->spoiler = what;
}

static epg_status fail_invalidated(const epg__host_capture *capture, const char *what)
{
    return epg__fail(EPG_ERR_CAPTURE_INVALIDATED, "%s: capture %llu was invalidated by an earlier %s", what,
                     (unsigned long long)capture->id, capture->spoiler);
}

static epg__host_capture *capture_find(const epg__host_device *device, uint64_t id)
{
    epg__host_capture *c = device->captures;
    while (c && c->id != id)
        c = c->next;
    return c;
}

/* The first capture that has a blocking stream, or NULL; with `spoil`, each such capture is invalidated by it. */
static epg__host_capture *blocking_captures(epg__host_device *device, const char *spoil)
{
    epg__host_capture *found = NULL;
    for (epg_stream s = device->streams; s; s = s->next) {
        if (!s->capture || !s->blocking)
            continue;
        found = found ? found : s->capture;
        if (spoil)
            invalidate(s->capture, spoil);
    }
    return found;
}

/* Rule 6: does `capture` object to potentially unsafe calls of this thread? */
static bool forbids(const epg__host_capture *capture, const epg__host_thread *thread)
{
    bool mine = thread && capture->owner == thread && capture->mode != EPG_CAPTURE_RELAXED;
    switch (thread ? thread->mode : EPG_CAPTURE_GLOBAL) {
    case EPG_CAPTURE_RELAXED:
        return false;
    case EPG_CAPTURE_THREAD_LOCAL:
        return mine;
    case EPG_CAPTURE_GLOBAL:
        break;
    }
    return mine || capture->mode == EPG_CAPTURE_GLOBAL;
}

uint64_t epg__capture_id(epg_stream stream) { return stream->capture ? stream->capture->id : 0; }

/* ---- checks ---- */

/* Rules 4 and 8. */
static epg_status check_legacy(epg_stream stream, const char *what, bool kills)
{
    if (!stream->legacy)
        return EPG_OK;
    epg__host_capture *capture = blocking_captures(stream->device, kills ? what : NULL);
    if (!capture)
        return EPG_OK;
    return epg__fail(EPG_ERR_CAPTURE_IMPLICIT, "%s on the legacy stream while a blocking stream is in capture %llu",
                     what, (unsigned long long)capture->id);
}

epg_status epg__capture_check_work(epg_stream stream, const char *what)
{
    EPG_TRY(check_legacy(stream, what, true));
    if (stream->capture && stream->capture->spoiler)
        return fail_invalidated(stream->capture, what);
    return EPG_OK;
}

epg_status epg__capture_check_unsafe(epg__host_device *device, const char *what)
{
    const epg__host_thread *self = epg__host_thread_peek(device);
    const epg__host_capture *found = NULL;
    for (epg__host_capture *c = device->captures; c; c = c->next) {
        if (!forbids(c, self))
            continue;
        found = found ? found : c;
        invalidate(c, what);
    }
    if (!found)
        return EPG_OK;
    return epg__fail(EPG_ERR_CAPTURE_UNSUPPORTED,
                     "%s is not allowed during capture %llu, which %s thread began; it would be with this thread's "
                     "capture mode relaxed", what, (unsigned long long)found->id,
                     found->owner == self ? "this" : "another");
}

/* Rule 2. */
epg_status epg__capture_refuse(epg_stream stream, const char *what)
{
    invalidate(stream->capture, what);
    return epg__fail(EPG_ERR_CAPTURE_UNSUPPORTED, "%s on a stream in capture %llu", what,
                     (unsigned long long)stream->capture->id);
}

/* Rule 3, in the order of rule 7. */
epg_status epg__capture_check_progress(epg_stream stream, const char *what)
{
    if (stream->capture) /* also where it is invalidated: 900, not 901 */
        return epg__capture_refuse(stream, what);
    EPG_TRY(epg__capture_check_work(stream, what));
    return epg__capture_check_unsafe(stream->device, what);
}

/* Rule 3. */
epg_status epg__capture_check_device(epg__host_device *device, const char *what)
{
    if (!device->captures)
        return EPG_OK;
    for (epg__host_capture *c = device->captures; c; c = c->next)
        invalidate(c, what);
    return epg__fail(EPG_ERR_CAPTURE_UNSUPPORTED, "%s during capture %llu", what,
                     (unsigned long long)device->captures->id);
}

/* Rule 9. */
epg_status epg__capture_check_event(epg__host_device *device, epg_event event, bool kills, const char *what)
{
    if (!event->capture_id)
        return EPG_OK;
    epg__host_capture *capture = capture_find(device, event->capture_id);
    if (!capture || capture->spoiler)
        return epg__fail(EPG_ERR_INVALID, "%s on an event last recorded in capture %llu, which %s", what,
                         (unsigned long long)event->capture_id, capture ? "is invalidated" : "has ended");
    if (kills)
        invalidate(capture, what);
    return epg__fail(EPG_ERR_CAPTURED_EVENT, "%s on an event last recorded in capture %llu", what,
                     (unsigned long long)event->capture_id);
}

epg_status epg__capture_spoil(epg_stream stream, epg_status status, const char *what)
{
    if (stream->capture)
        invalidate(stream->capture, what);
    return status;
}

/* ---- frontiers ---- */

static void frontier_clear(epg__host_frontier *frontier)
{
    free(frontier->nodes);
    *frontier = (epg__host_frontier){NULL, 0};
}

static bool frontier_has(const epg__host_frontier *frontier, size_t node)
{
    for (size_t i = 0; i < frontier->count; i++)
        if (frontier->nodes[i] == node)
            return true;
    return false;
}

/* to = a and b together; `to` is written on success only. */
static epg_status frontier_join(const epg__host_frontier *a, const epg__host_frontier *b, epg__host_frontier *to)
{
    epg__host_frontier sum = {NULL, 0};
    sum.nodes = epg__zalloc(a->count + b->count, sizeof *sum.nodes, "dependencies of captured work");
    if (!sum.nodes)
        return EPG_ERR_NO_MEMORY;
    for (size_t i = 0; i < a->count; i++)
        sum.nodes[sum.count++] = a->nodes[i];
    for (size_t i = 0; i < b->count; i++)
        if (!frontier_has(a, b->nodes[i]))
            sum.nodes[sum.count++] = b->nodes[i];
    *to = sum;
    return EPG_OK;
}

/* ---- recording ---- */

static epg__host_node *node_append(epg__host_body *body)
{
    if (body->count == body->room) {
        size_t room = body->room ? 2 * body->room : 64;
        epg__host_node *nodes = epg__grow(body->nodes, room, sizeof *nodes, "captured work");
        if (!nodes)
            return NULL;
        body->nodes = nodes;
        body->room = room;
    }
    return &body->nodes[body->count];
}

epg_status epg__capture_add(epg_stream stream, epg__host_work *work)
{
    epg__host_body *body = stream->capture->body;
    epg__host_node *node = node_append(body);
    size_t *self = node ? epg__zalloc(1, sizeof *self, "dependencies of captured work") : NULL;
    if (!self)
        return epg__capture_spoil(stream, EPG_ERR_NO_MEMORY, "launch without memory");
    *node = (epg__host_node){.work = work, .deps = stream->frontier, .chain = stream->chain};
    *self = body->count++;
    body->memory_nodes += work->kind == EPG__HOST_ALLOC || work->kind == EPG__HOST_FREE;
    stream->frontier = (epg__host_frontier){self, 1};
    return EPG_OK;
}

epg_status epg__capture_record(epg_stream stream, epg_event event)
{
    epg__host_frontier none = {NULL, 0}, copy;
    if (frontier_join(&stream->frontier, &none, &copy) != EPG_OK)
        return epg__capture_spoil(stream, EPG_ERR_NO_MEMORY, "epg_event_record");
    epg__host_record_drop(event->record);
    event->record = NULL;
    event->capture_id = stream->capture->id;
    frontier_clear(&event->frontier);
    event->frontier = copy;
    return EPG_OK;
}

/* `stream` depends on the event's place in `capture` from here on, and is in that capture if it was in none. */
static epg_status join(epg_stream stream, epg_event event, epg__host_capture *capture)
{
    epg__host_frontier sum;
    epg_status status = frontier_join(&stream->frontier, &event->frontier, &sum);
    if (status != EPG_OK) {
        invalidate(capture, "epg_stream_wait_event"); /* the graph would lack the dependency */
        return status;
    }
    frontier_clear(&stream->frontier);
    stream->frontier = sum;
    if (!stream->capture)
        stream->chain = capture->body->chains++;
    stream->capture = capture;
    return EPG_OK;
}

/* Rules 10 to 12. */
static epg_status wait_captured(epg_stream stream, epg_event event)
{
    const char *what = "epg_stream_wait_event";
    epg__host_capture *from = capture_find(stream->device, event->capture_id), *to = stream->capture;
    unsigned long long id = event->capture_id;
    if (stream->legacy && from) {
        invalidate(from, what);
        return epg__fail(EPG_ERR_CAPTURE_IMPLICIT, "%s: the legacy stream cannot join capture %llu", what, id);
    }
    EPG_TRY(epg__capture_check_work(stream, what));
    if (!from) {
        epg__capture_spoil(stream, EPG_ERR_INVALID, what);
        return epg__fail(EPG_ERR_INVALID, "%s: the event is from capture %llu, which has ended", what, id);
    }
    if (from->spoiler && !to)
        return epg__fail(EPG_ERR_INVALID, "%s: the event is from capture %llu, which %s invalidated", what, id,
                         from->spoiler);
    if (from->spoiler)
        return fail_invalidated(from, what);
    if (to && to != from) {
        invalidate(from, what);
        invalidate(to, what);
        return epg__fail(EPG_ERR_CAPTURE_MERGE, "%s: a stream in capture %llu cannot wait for an event of capture %llu",
                         what, (unsigned long long)to->id, id);
    }
    return join(stream, event, from);
}

epg_status epg__capture_wait(epg_stream stream, epg_event event, bool *handled)
{
    *handled = true;
    if (event->capture_id)
        return wait_captured(stream, event);
    EPG_TRY(epg__capture_check_work(stream, "epg_stream_wait_event"));
    *handled = stream->capture != NULL;
    if (!stream->capture || !event->record)
        return EPG_OK; /* an event never recorded is nothing to wait for */
    invalidate(stream->capture, "epg_stream_wait_event");
    return epg__fail(EPG_ERR_CAPTURE_ISOLATION,
                     "epg_stream_wait_event: the event was recorded outside capture %llu, in which the stream is",
                     (unsigned long long)stream->capture->id);
}

/* ---- begin, end ---- */

static void capture_release(epg__host_device *device, epg__host_capture *capture)
{
    epg__host_capture **link = &device->captures;
    while (*link != capture)
        link = &(*link)->next;
    *link = capture->next;
    for (epg_stream s = device->streams; s; s = s->next) {
        if (s->capture != capture)
            continue;
        s->capture = NULL;
        frontier_clear(&s->frontier);
    }
    epg__host_body_drop(capture->body);
    free(capture);
}

void epg__capture_forget(epg_stream stream)
{
    epg__host_capture *capture = stream->capture;
    if (!capture)
        return;
    if (capture->origin == stream) {
        capture_release(stream->device, capture);
        return;
    }
    stream->capture = NULL;
    frontier_clear(&stream->frontier);
}

void epg__capture_drop_all(epg__host_device *device)
{
    while (device->captures)
        capture_release(device, device->captures);
}

/* Rule 13. */
static epg_status begin(epg__host_device *device, epg_stream stream, epg_capture_mode mode)
{
    EPG_TRY(epg__host_resolve(device, stream, &stream));
    EPG_TRY(check_legacy(stream, "epg_capture_begin", true));
    if (stream->legacy)
        return epg__fail(EPG_ERR_CAPTURE_UNSUPPORTED, "epg_capture_begin: the legacy stream cannot be captured");
    if (stream->capture)
        return epg__fail(EPG_ERR_STATE, "epg_capture_begin: the stream is in capture %llu already",
                         (unsigned long long)stream->capture->id);
    epg__host_thread *owner = epg__host_thread_get(device);
    epg__host_capture *capture = owner ? epg__zalloc(1, sizeof *capture, "a capture") : NULL;
    epg__host_body *body = capture ? epg__host_body_create() : NULL;
    if (!body) {
        free(capture);
        return EPG_ERR_NO_MEMORY;
    }
    body->chains = 1;
    *capture = (epg__host_capture){.next = device->captures, .id = ++device->capture_ids, .mode = mode,
                                   .owner = owner, .origin = stream, .body = body};
    device->captures = capture;
    stream->capture = capture;
    stream->chain = 0;
    return EPG_OK;
}

epg_status epg__host_capture_begin(epg_device *base, epg_stream stream, epg_capture_mode mode)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_status status = begin(device, stream, mode);
    epg__host_unlock(device);
    return status;
}

/* Every node must lie behind the origin's frontier; the first that does not is named. */
static epg_status check_joined(const epg__host_capture *capture)
{
    epg__host_body *body = capture->body;
    const epg__host_frontier *last = &capture->origin->frontier;
    for (size_t i = 0; i < last->count; i++)
        body->nodes[last->nodes[i]].mark = true;
    for (size_t n = body->count; n-- > 0;) {
        const epg__host_node *node = &body->nodes[n];
        if (!node->mark)
            return epg__fail(EPG_ERR_CAPTURE_UNJOINED,
                             "epg_capture_end: node %zu (\"%s\") of capture %llu, on a forked stream, was not joined",
                             n, node->work->name, (unsigned long long)capture->id);
        for (size_t i = 0; i < node->deps.count; i++)
            body->nodes[node->deps.nodes[i]].mark = true;
    }
    return EPG_OK;
}

/* Rule 14. */
static epg_status check_end(epg__host_device *device, const epg__host_capture *capture)
{
    if (capture->mode != EPG_CAPTURE_RELAXED && capture->owner != epg__host_thread_peek(device))
        return epg__fail(EPG_ERR_CAPTURE_WRONG_THREAD,
                         "epg_capture_end: capture %llu was begun by another thread and is not relaxed",
                         (unsigned long long)capture->id);
    if (capture->spoiler)
        return fail_invalidated(capture, "epg_capture_end");
    return check_joined(capture);
}

static epg_status end(epg__host_device *device, epg_stream stream, epg_graph *graph)
{
    EPG_TRY(epg__host_resolve(device, stream, &stream));
    epg__host_capture *capture = stream->capture;
    if (!capture)
        return epg__fail(EPG_ERR_STATE, "epg_capture_end: the stream is not in a capture");
    if (capture->origin != stream) {
        invalidate(capture, "epg_capture_end");
        return epg__fail(EPG_ERR_CAPTURE_UNMATCHED, "epg_capture_end: capture %llu was begun on another stream",
                         (unsigned long long)capture->id);
    }
    epg_status status = check_end(device, capture);
    epg_graph made = status == EPG_OK ? epg__zalloc(1, sizeof *made, "a graph") : NULL;
    if (made) {
        made->body = capture->body;
        made->body->refs++;
        *graph = made;
    } else if (status == EPG_OK) {
        status = EPG_ERR_NO_MEMORY;
    }
    capture_release(device, capture);
    return status;
}

epg_status epg__host_capture_end(epg_device *base, epg_stream stream, epg_graph *graph)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_status status = end(device, stream, graph);
    epg__host_unlock(device);
    return status;
}

epg_status epg__host_capture_query(epg_device *base, epg_stream stream, epg_capture_status *status, uint64_t *id)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_status result = epg__host_resolve(device, stream, &stream);
    if (result == EPG_OK)
        result = check_legacy(stream, "epg_capture_query", false);
    if (result == EPG_OK) {
        const epg__host_capture *c = stream->capture;
        *status = !c ? EPG_CAPTURE_NONE : c->spoiler ? EPG_CAPTURE_INVALIDATED : EPG_CAPTURE_ACTIVE;
        if (id)
            *id = c ? c->id : 0;
    }
    epg__host_unlock(device);
    return result;
}

epg_status epg__host_capture_mode_exchange(epg_device *base, epg_capture_mode *mode)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg__host_thread *thread = epg__host_thread_get(device);
    if (thread) {
        epg_capture_mode old = thread->mode;
        thread->mode = *mode;
        *mode = old;
    }
    epg__host_unlock(device);
    return thread ? EPG_OK : EPG_ERR_NO_MEMORY;
}
