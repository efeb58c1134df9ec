/* The simulator as an engine: locks that are never contended, conditions that block fibers, workers that are fibers.
 *
 * Releasing the last lock is a move: it ends each call of the library that touches shared state, and so others come in
 * between any two of them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device/simulator_int.h"

static uint64_t now_ns(epg__engine *engine) { return epg__sim_of_engine(engine)->now; }

static void lock_nothing(epg__lock *lock) { (void)lock; }
static void cond_nothing(epg__cond *cond) { (void)cond; }

static void lock_take(epg__engine *engine, epg__lock *lock)
{
    (void)lock;
    epg__sim_of_engine(engine)->current->locks++;
}

static void lock_drop(epg__engine *engine, epg__lock *lock)
{
    epg__sim *sim = epg__sim_of_engine(engine);
    epg__fiber *self = sim->current;
    (void)lock;
    if (--self->locks > 0)
        return;
    epg__sim_move(sim, NULL, 0);
    if (!self->work)
        *self->note = 0; /* the call it was about is over */
}

static epg_status cond_wait(epg__engine *engine, epg__cond *cond, epg__lock *lock, uint64_t deadline_ns,
                            const char *what)
{
    epg__sim *sim = epg__sim_of_engine(engine);
    epg__fiber *self = sim->current;
    uint32_t locks = self->locks;
    (void)lock;
    self->locks = 0;
    epg_status status = epg__sim_block(sim, cond, deadline_ns ? deadline_ns : UINT64_MAX, what);
    self->locks = locks;
    return status;
}

static void cond_signal(epg__engine *engine, epg__cond *cond)
{
    epg__sim_wake(epg__sim_of_engine(engine), cond, false);
}

static void cond_broadcast(epg__engine *engine, epg__cond *cond)
{
    epg__sim_wake(epg__sim_of_engine(engine), cond, true);
}

/* "rank 2 stream 1"; without a home "stream 1". */
static void name_worker(epg__sim *sim, epg__fiber *fiber, const char *kind)
{
    bool branch = strcmp(kind, "branch") == 0;
    uint32_t home = fiber->home;
    epg__sim_program *program = home < sim->program_room ? &sim->programs[home] : NULL;
    uint32_t *streams = program ? &program->streams : &sim->streams;
    uint32_t *branches = program ? &program->branches : &sim->branches;
    uint32_t number = branch ? (*branches)++ : (*streams)++;
    if (program)
        snprintf(fiber->name, sizeof fiber->name, "rank %u %s %u", home, kind, number);
    else
        snprintf(fiber->name, sizeof fiber->name, "%s %u", kind, number);
}

static int spawn(epg__engine *engine, epg__worker *worker, uint32_t home, const char *kind, void *(*main)(void *arg),
                 void *arg)
{
    epg__sim *sim = epg__sim_of_engine(engine);
    epg__fiber *fiber = epg__sim_fiber_create(sim, home, main, arg);
    if (!fiber)
        return EAGAIN;
    name_worker(sim, fiber, kind);
    worker->fiber = fiber;
    return 0;
}

static void join(epg__engine *engine, epg__worker *worker)
{
    epg__sim *sim = epg__sim_of_engine(engine);
    while (worker->fiber->state != EPG__FIBER_ENDED)
        if (epg__sim_block(sim, worker->fiber, UINT64_MAX, "the end of a worker") != EPG_OK)
            epg__sim_fiber_cut(sim, worker->fiber);
    epg__sim_fiber_free(sim, worker->fiber);
    worker->fiber = NULL;
}

static void work_begin(epg__engine *engine, const char *name)
{
    epg__sim *sim = epg__sim_of_engine(engine);
    sim->current->work = name;
    *sim->current->note = 0;
    epg__sim_move(sim, "begins", 0);
}

/* The end of a kernel makes all its stores visible: the next work of the stream relies on that. */
static void work_end(epg__engine *engine)
{
    epg__sim *sim = epg__sim_of_engine(engine);
    *sim->current->note = 0;
    epg__sim_move(sim, "ends", 0);
    epg__sim_flush(sim, sim->current);
    sim->current->work = NULL;
}

static uint32_t home(epg__engine *engine) { return epg__sim_of_engine(engine)->current->home; }
static void *local_get(epg__engine *engine) { return epg__sim_of_engine(engine)->current->local; }

static int local_set(epg__engine *engine, void *local)
{
    epg__sim_of_engine(engine)->current->local = local;
    return 0;
}

static void destroy(epg__engine *engine)
{
    epg__sim *sim = epg__sim_of_engine(engine);
    for (epg__fiber *f = sim->caller.next, *next; f; f = next) {
        next = f->next;
        epg__sim_fiber_cut(sim, f);
    }
    while (sim->ended)
        epg__sim_fiber_free(sim, sim->ended);
    epg__sim_drop_held(sim);
    epg__stack_pool_destroy(&sim->stacks);
    free(sim->programs);
    free(sim);
}

const epg__engine_ops epg__sim_engine_ops = {
    .destroy = destroy,
    .now_ns = now_ns,
    .lock_init = lock_nothing,
    .lock_destroy = lock_nothing,
    .lock = lock_take,
    .unlock = lock_drop,
    .cond_init = cond_nothing,
    .cond_destroy = cond_nothing,
    .wait = cond_wait,
    .signal = cond_signal,
    .broadcast = cond_broadcast,
    .spawn = spawn,
    .join = join,
    .work_begin = work_begin,
    .work_end = work_end,
    .home = home,
    .local_get = local_get,
    .local_set = local_set,
};
