/* What carries a device's work out: locks, conditions, workers and a clock, behind one table.
 *
 * Two engines exist. Worker threads (engine_threads.c) run it on the machine's threads and clock. The simulator
 * (simulator_engine.c) runs it on fibers of the calling thread, in virtual time, in an order that a seed decides. The
 * host device and the threads team are written against this table and run unchanged on either.
 *
 * Invariant: no lock is held while a kernel, a copy or a host function runs. */
#ifndef EPG_ENGINE_INT_H
#define EPG_ENGINE_INT_H

#include <pthread.h>
#include "core/core_int.h"
#include "device/host_kernel_int.h"
#include "epgraph/simulation.h"

typedef struct epg__engine epg__engine;
typedef struct epg__fiber epg__fiber;

/* An engine uses one member each. */
typedef struct epg__lock {
    pthread_mutex_t native;
} epg__lock;
typedef struct epg__cond {
    pthread_cond_t native;
} epg__cond;
typedef union epg__worker {
    pthread_t native;
    epg__fiber *fiber;
} epg__worker;

/* Whose work it is: in a simulation the number of a host program. */
#define EPG__NO_HOME 0xFFFFFFFFu

typedef struct epg__engine_ops {
    void (*destroy)(epg__engine *engine);
    uint64_t (*now_ns)(epg__engine *engine);

    void (*lock_init)(epg__lock *lock);
    void (*lock_destroy)(epg__lock *lock);
    void (*lock)(epg__engine *engine, epg__lock *lock);
    void (*unlock)(epg__engine *engine, epg__lock *lock);

    void (*cond_init)(epg__cond *cond);
    void (*cond_destroy)(epg__cond *cond);
    /* Returns EPG_OK when woken, possibly for no reason; EPG_ERR_TIMEOUT when `deadline_ns` on this engine's clock has
     * passed (0: no deadline; no message is written); EPG_ERR_STATE where nobody is left who could wake the caller,
     * which on worker threads never happens. `what` says what the caller waits for; NULL: it is idle. */
    epg_status (*wait)(epg__engine *engine, epg__cond *cond, epg__lock *lock, uint64_t deadline_ns, const char *what);
    void (*signal)(epg__engine *engine, epg__cond *cond);
    void (*broadcast)(epg__engine *engine, epg__cond *cond);

    /* 0 or an errno. `kind` names it ("stream"). */
    int (*spawn)(epg__engine *engine, epg__worker *worker, uint32_t home, const char *kind, void *(*main)(void *arg),
                 void *arg);
    /* Waits for its end; one that can never end is cut off. */
    void (*join)(epg__engine *engine, epg__worker *worker);

    /* Around a piece of a worker's work. */
    void (*work_begin)(epg__engine *engine, const char *name);
    void (*work_end)(epg__engine *engine);

    uint32_t (*home)(epg__engine *engine); /* the caller's */
    void *(*local_get)(epg__engine *engine);
    int (*local_set)(epg__engine *engine, void *local); /* 0 or an errno */
} epg__engine_ops;

/* The head of every engine. */
struct epg__engine {
    const epg__engine_ops *ops;
};

epg_status epg__engine_threads_create(epg__engine **engine);

/* *simulator: the same object, as the kernels' wrappers know it. */
epg_status epg__engine_simulator_create(const epg_simulation_options *options, epg__engine **engine,
                                        epg__simulator **simulator);

static inline uint64_t epg__now_ns(epg__engine *e) { return e->ops->now_ns(e); }
static inline void epg__lock_take(epg__engine *e, epg__lock *lock) { e->ops->lock(e, lock); }
static inline void epg__lock_drop(epg__engine *e, epg__lock *lock) { e->ops->unlock(e, lock); }
static inline epg_status epg__cond_wait(epg__engine *e, epg__cond *cond, epg__lock *lock, const char *what)
{
    return e->ops->wait(e, cond, lock, 0, what);
}
static inline void epg__cond_signal(epg__engine *e, epg__cond *cond) { e->ops->signal(e, cond); }
static inline void epg__cond_broadcast(epg__engine *e, epg__cond *cond) { e->ops->broadcast(e, cond); }

#endif
