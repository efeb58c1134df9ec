/* The host device's graphs: what a capture recorded, its executables, replay, and the dump.
 *
 * Not here: recording (device_host_capture.c).
 *
 * An executable cuts the graph into chains, one for each captured stream: nodes of one stream follow one another
 * anyway. The origin's chain runs on the launching stream's worker, every other chain on a thread of the executable.
 * A node waits for another chain's only where the graph says so, and only such nodes are announced: the rest of a
 * replay takes no lock and allocates nothing.
 *
 * Invariants: a body never changes after its capture. `exec->lock` guards the executable's moving fields; launches of
 * one executable run in the order in which they were enqueued. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device/device_host_int.h"

typedef struct wait {
    uint32_t chain;
    size_t progress; /* that chain's must be at least this */
} wait;

typedef struct step {
    const epg__host_work *work;
    const wait *waits;
    size_t wait_count;
    bool announced; /* another chain waits for it */
} step;

typedef struct chain {
    epg_exec exec;
    step *steps;
    size_t count;
    size_t progress; /* announced steps done: index + 1 of the last */
    epg__cond moved;
    uint64_t generation; /* of the replay this chain's thread ran last */
    bool started;
    epg__worker worker;
} chain;

struct epg_exec_st {
    epg__engine *engine;
    epg__host_body *body;
    step *steps; /* of all chains, chain by chain */
    wait *waits;
    chain *chains; /* [0] has no thread */
    uint32_t chain_count;
    uint64_t launched; /* guarded by the device's lock */
    epg__lock lock;
    epg__cond start, joined, idle;
    uint64_t generation, finished;
    uint32_t running; /* chains with a thread, in this replay */
    bool quit;
    bool cut; /* a launch of it was dropped: what it counts is void */
};

/* ---- bodies and graphs ---- */

epg__host_body *epg__host_body_create(void)
{
    epg__host_body *body = epg__zalloc(1, sizeof *body, "a graph");
    if (body)
        body->refs = 1;
    return body;
}

void epg__host_body_drop(epg__host_body *body)
{
    if (!body || --body->refs > 0)
        return;
    for (size_t i = 0; i < body->count; i++) {
        free(body->nodes[i].deps.nodes);
        epg__host_work_free(body->nodes[i].work);
    }
    free(body->nodes);
    free(body);
}

epg_status epg__host_graph_destroy(epg_device *base, epg_graph graph)
{
    epg__host_device *device = epg__host_of(base);
    if (!graph)
        return EPG_OK;
    epg__host_lock(device);
    epg__host_body_drop(graph->body);
    epg__host_unlock(device);
    free(graph);
    return EPG_OK;
}

epg_status epg__host_graph_node_count(epg_device *device, epg_graph graph, size_t *nodes)
{
    (void)device;
    *nodes = graph->body->count;
    return EPG_OK;
}

/* ---- the dump ---- */

epg_status epg__host_graph_dot(epg_device *device, epg_graph graph, void (*write)(void *ctx, const char *text),
                               void *ctx)
{
    static const char *const shape[] = {"box", "ellipse", "parallelogram", "parallelogram", "house", "invhouse"};
    const epg__host_body *body = graph->body;
    char line[128];
    (void)device;
    write(ctx, "digraph epgraph {\n");
    for (size_t i = 0; i < body->count; i++) {
        const epg__host_node *node = &body->nodes[i];
        snprintf(line, sizeof line, "  n%zu [shape=%s, label=\"", i, shape[node->work->kind]);
        write(ctx, line);
        epg__dot_escape(node->work->name, write, ctx);
        snprintf(line, sizeof line, "\\n%zu, stream %u\"];\n", i, node->chain);
        write(ctx, line);
        for (size_t d = 0; d < node->deps.count; d++) {
            snprintf(line, sizeof line, "  n%zu -> n%zu;\n", node->deps.nodes[d], i);
            write(ctx, line);
        }
    }
    write(ctx, "}\n");
    return EPG_OK;
}

/* ---- instantiation ---- */

static void exec_free(epg_exec exec)
{
    const epg__engine_ops *engine = exec->engine->ops;
    for (uint32_t c = 0; exec->chains && c < exec->chain_count; c++)
        engine->cond_destroy(&exec->chains[c].moved);
    engine->lock_destroy(&exec->lock);
    engine->cond_destroy(&exec->start);
    engine->cond_destroy(&exec->joined);
    engine->cond_destroy(&exec->idle);
    free(exec->chains);
    free(exec->steps);
    free(exec->waits);
    free(exec);
}

static epg_exec exec_create(epg__engine *engine, const epg__host_body *body)
{
    epg_exec exec = epg__zalloc(1, sizeof *exec, "an executable graph");
    size_t waits = 0;
    if (!exec)
        return NULL;
    exec->engine = engine;
    engine->ops->lock_init(&exec->lock);
    engine->ops->cond_init(&exec->start);
    engine->ops->cond_init(&exec->joined);
    engine->ops->cond_init(&exec->idle);
    for (size_t i = 0; i < body->count; i++)
        waits += body->nodes[i].deps.count;
    exec->chain_count = body->chains;
    if (!(exec->chains = epg__zalloc(body->chains, sizeof *exec->chains, "an executable graph's chains")) ||
        !(exec->steps = epg__zalloc(body->count, sizeof *exec->steps, "an executable graph's steps")) ||
        !(exec->waits = epg__zalloc(waits, sizeof *exec->waits, "an executable graph's waits"))) {
        exec->chain_count = 0; /* their conditions are not there yet */
        exec_free(exec);
        return NULL;
    }
    for (uint32_t c = 0; c < body->chains; c++) {
        exec->chains[c].exec = exec;
        engine->ops->cond_init(&exec->chains[c].moved);
    }
    return exec;
}

/* Cuts exec->steps into the chains' parts. */
static void place_chains(epg_exec exec, const epg__host_body *body)
{
    step *at = exec->steps;
    for (size_t i = 0; i < body->count; i++)
        exec->chains[body->nodes[i].chain].count++;
    for (uint32_t c = 0; c < exec->chain_count; c++) {
        exec->chains[c].steps = at;
        at += exec->chains[c].count;
        exec->chains[c].count = 0;
    }
}

/* place[i]: where node i is in its chain. Dependencies inside a chain hold by its order. */
static void fill_chains(epg_exec exec, const epg__host_body *body, size_t *place)
{
    wait *at = exec->waits;
    for (size_t i = 0; i < body->count; i++) {
        const epg__host_node *node = &body->nodes[i];
        chain *mine = &exec->chains[node->chain];
        place[i] = mine->count++;
        step *s = &mine->steps[place[i]];
        *s = (step){.work = node->work, .waits = at};
        for (size_t d = 0; d < node->deps.count; d++) {
            size_t dep = node->deps.nodes[d];
            uint32_t c = body->nodes[dep].chain;
            if (c == node->chain)
                continue;
            *at++ = (wait){c, place[dep] + 1};
            exec->chains[c].steps[place[dep]].announced = true;
            s->wait_count++;
        }
    }
}

/* One more executable of `body`, which may have only one at a time if it allocates or frees memory. */
static epg_status claim_body(epg__host_device *device, epg__host_body *body)
{
    epg_status status = EPG_OK;
    epg__host_lock(device);
    if (body->memory_nodes && body->execs) {
        status = epg__fail(EPG_ERR_UNSUPPORTED, "epg_graph_instantiate: the graph allocates or frees memory (%zu "
                           "nodes) and has an executable already", body->memory_nodes);
    } else {
        body->execs++;
        body->refs++;
    }
    epg__host_unlock(device);
    return status;
}

static void unclaim_body(epg__host_device *device, epg__host_body *body)
{
    epg__host_lock(device);
    body->execs--;
    epg__host_body_drop(body);
    epg__host_unlock(device);
}

epg_status epg__host_graph_instantiate(epg_device *base, epg_graph graph, epg_exec *exec)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_body *body = graph->body;
    EPG_TRY(claim_body(device, body));
    size_t *place = epg__zalloc(body->count, sizeof *place, "an executable graph's places");
    epg_exec made = place ? exec_create(epg__host_engine(device), body) : NULL;
    if (!made) {
        free(place);
        unclaim_body(device, body);
        return EPG_ERR_NO_MEMORY;
    }
    made->body = body;
    place_chains(made, body);
    fill_chains(made, body, place);
    free(place);
    *exec = made;
    return EPG_OK;
}

/* ---- replay ---- */

static void await(epg_exec exec, const step *s)
{
    epg__lock_take(exec->engine, &exec->lock);
    for (size_t i = 0; i < s->wait_count; i++) {
        chain *other = &exec->chains[s->waits[i].chain];
        while (other->progress < s->waits[i].progress)
            epg__cond_wait(exec->engine, &other->moved, &exec->lock, "another branch of its graph");
    }
    epg__lock_drop(exec->engine, &exec->lock);
}

static void announce(chain *c, size_t progress)
{
    epg__engine *engine = c->exec->engine;
    epg__lock_take(engine, &c->exec->lock);
    c->progress = progress;
    epg__cond_broadcast(engine, &c->moved);
    epg__lock_drop(engine, &c->exec->lock);
}

static void chain_run(chain *c)
{
    for (size_t i = 0; i < c->count; i++) {
        const step *s = &c->steps[i];
        if (s->wait_count)
            await(c->exec, s);
        epg__host_work_run(c->exec->engine, s->work);
        if (s->announced)
            announce(c, i + 1);
    }
}

static void *chain_main(void *arg)
{
    chain *c = arg;
    epg_exec exec = c->exec;
    epg__lock_take(exec->engine, &exec->lock);
    while (!exec->quit) {
        if (c->generation == exec->generation) {
            epg__cond_wait(exec->engine, &exec->start, &exec->lock, NULL);
            continue;
        }
        c->generation = exec->generation;
        epg__lock_drop(exec->engine, &exec->lock);
        chain_run(c);
        epg__lock_take(exec->engine, &exec->lock);
        if (--exec->running == 0)
            epg__cond_signal(exec->engine, &exec->joined);
    }
    epg__lock_drop(exec->engine, &exec->lock);
    return NULL;
}

void epg__host_replay(epg_exec exec, uint64_t turn)
{
    epg__lock_take(exec->engine, &exec->lock);
    while (exec->finished != turn)
        epg__cond_wait(exec->engine, &exec->idle, &exec->lock, "an earlier replay of its graph");
    exec->generation++;
    for (uint32_t c = 0; c < exec->chain_count; c++) {
        exec->chains[c].progress = 0;
        exec->running += exec->chains[c].started;
    }
    if (exec->running)
        epg__cond_broadcast(exec->engine, &exec->start);
    epg__lock_drop(exec->engine, &exec->lock);
    chain_run(&exec->chains[0]);
    epg__lock_take(exec->engine, &exec->lock);
    while (exec->running)
        epg__cond_wait(exec->engine, &exec->joined, &exec->lock, "the branches of its graph");
    exec->finished++;
    epg__cond_broadcast(exec->engine, &exec->idle);
    epg__lock_drop(exec->engine, &exec->lock);
}

void epg__host_replay_drop(epg_exec exec)
{
    exec->cut = true;
    epg__cond_broadcast(exec->engine, &exec->idle);
}

/* Starts the threads that are missing. All are there before the first launch is queued, so none misses a replay. */
static epg_status start_chains(epg_exec exec, uint32_t home)
{
    epg__engine *engine = exec->engine;
    epg_status status = EPG_OK;
    epg__lock_take(exec->engine, &exec->lock);
    for (uint32_t c = 1; status == EPG_OK && c < exec->chain_count; c++) {
        chain *one = &exec->chains[c];
        if (one->started || one->count == 0)
            continue;
        int error = engine->ops->spawn(engine, &one->worker, home, "branch", chain_main, one);
        one->started = error == 0;
        if (error)
            status = epg__fail(EPG_ERR_SYSTEM, "no thread for branch %u of a graph: %s", c, strerror(error));
    }
    epg__lock_drop(exec->engine, &exec->lock);
    return status;
}

/* Rule 2: 900, where the capture is invalidated already too. */
static epg_status resolve_for_exec(epg__host_device *device, const char *what, epg_stream *stream)
{
    EPG_TRY(epg__host_resolve(device, *stream, stream));
    if ((*stream)->capture)
        return epg__capture_refuse(*stream, what);
    return epg__capture_check_work(*stream, what);
}

static epg_status launch(epg__host_device *device, epg_exec exec, epg_stream stream, epg__host_work *work)
{
    EPG_TRY(resolve_for_exec(device, "epg_exec_launch", &stream));
    EPG_TRY(epg__host_pool_check_launch(exec->body));
    EPG_TRY(start_chains(exec, stream->home));
    work->u.replay.exec = exec;
    work->u.replay.turn = exec->launched;
    EPG_TRY(epg__host_push(stream, work));
    exec->launched++;
    epg__host_pool_launched(exec->body);
    return EPG_OK;
}

epg_status epg__host_exec_launch(epg_device *base, epg_exec exec, epg_stream stream)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_work *work = epg__host_work_create(EPG__HOST_REPLAY, "graph", NULL, 0);
    if (!work)
        return EPG_ERR_NO_MEMORY;
    epg__host_lock(device);
    epg_status status = launch(device, exec, stream, work);
    if (status != EPG_OK)
        epg__host_work_free(work);
    epg__host_unlock(device);
    return status;
}

/* An executable is in the memory that runs it from the start: there is nothing to enqueue. */
epg_status epg__host_exec_upload(epg_device *base, epg_exec exec, epg_stream stream)
{
    epg__host_device *device = epg__host_of(base);
    (void)exec;
    epg__host_lock(device);
    epg_status status = resolve_for_exec(device, "epg_exec_upload", &stream);
    epg__host_unlock(device);
    return status;
}

epg_status epg__host_exec_destroy(epg_device *base, epg_exec exec)
{
    epg__host_device *device = epg__host_of(base);
    epg_status waited = EPG_OK;
    if (!exec)
        return EPG_OK;
    epg__host_lock(device);
    uint64_t launched = exec->launched;
    epg__host_unlock(device);
    epg__lock_take(exec->engine, &exec->lock);
    while (waited == EPG_OK && exec->finished != launched && !exec->cut)
        waited = epg__cond_wait(exec->engine, &exec->idle, &exec->lock, "the replays of a graph");
    exec->quit = true;
    epg__cond_broadcast(exec->engine, &exec->start);
    epg__lock_drop(exec->engine, &exec->lock);
    for (uint32_t c = 1; c < exec->chain_count; c++)
        if (exec->chains[c].started)
            exec->engine->ops->join(exec->engine, &exec->chains[c].worker);
    unclaim_body(device, exec->body);
    exec_free(exec);
    return waited;
}
