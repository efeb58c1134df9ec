/* The simulator's parts, for its own files: simulator.c (who moves next), simulator_engine.c (the engine's table),
 * simulator_memory.c (the kernels' table: stores that land late), simulation.c (the public calls).
 *
 * Invariants: everything runs on one thread, and control changes hands only in epg__sim_move and epg__sim_block. A
 * fiber that holds a lock makes no move, so no lock is ever contended. All choices come from `random`; nothing that
 * could differ between two processes (addresses above all) enters a choice or the digest. */
#ifndef EPG_SIMULATOR_INT_H
#define EPG_SIMULATOR_INT_H

#include "device/engine_int.h"
#include "device/fiber_int.h"
#include "device/host_kernel_int.h"

typedef struct epg__sim epg__sim;

typedef enum epg__fiber_state { EPG__FIBER_RUNNABLE, EPG__FIBER_BLOCKED, EPG__FIBER_ENDED } epg__fiber_state;

struct epg__fiber {
    epg__fiber *next; /* in the simulator's list of living or of ended ones */
    epg__sim *sim;
    epg__context context;
    uint32_t number; /* in order of creation */
    uint32_t home;
    epg__fiber_state state;
    char name[48];

    const void *waits_on; /* blocked: a condition, a bell, a fiber; NULL: for the time alone */
    const char *waits_for; /* the same in words; NULL: idle */
    uint64_t deadline;     /* UINT64_MAX: none */
    bool expired;          /* the deadline ended the last block */

    uint32_t locks; /* held */
    uint32_t pace;  /* its moves come 2^pace times less often than the fastest's */
    void *(*main)(void *arg);
    void *arg;
    void *local;           /* the device's, as for a thread */
    epg__message *message; /* NULL: the caller's own */
    const char *work;      /* the work it runs, or NULL */
    char note[96];
};

typedef struct epg__sim_program {
    epg__fiber *fiber;
    uint32_t index;
    uint32_t streams, branches; /* named so far */
    bool killed;
    uint64_t stopped_until;
    uint32_t factor; /* slow */
} epg__sim_program;

/* A store that was made and is not visible yet. */
typedef struct epg__held_store {
    struct epg__held_store *next;
    const epg__fiber *owner; /* NULL: it was killed */
    uint32_t home;
    uint64_t due; /* at the latest */
    void *to;
    size_t bytes;
    unsigned char data[];
} epg__held_store;

struct epg__sim {
    epg__simulator hooks; /* first: for the kernels' wrappers */
    epg__engine engine;
    epg_simulation_options options;
    uint64_t random, now, moves, digest;
    epg__fiber caller; /* whoever calls the library from outside */
    epg__fiber *current;
    epg__fiber *living, *ended; /* `living` in order of creation, the caller first */
    uint32_t fibers;            /* created so far */
    epg__stack_pool stacks;
    epg__held_store *held;
    uint64_t held_due; /* the earliest */

    /* The run under way, and what its programs were called before. */
    bool running;
    uint64_t run_moves;
    void (*program)(void *ctx, uint32_t index);
    void *program_ctx;
    epg__sim_program *programs;
    uint32_t program_count, program_room;
    uint32_t streams, branches; /* without a home */

    epg_status over; /* why nobody may move: EPG_ERR_STATE, EPG_ERR_TIMEOUT; handed to the caller */
    char why[1024];
};

static inline epg__sim *epg__sim_of_engine(epg__engine *engine)
{
    return (epg__sim *)((char *)engine - offsetof(epg__sim, engine));
}
static inline epg__sim *epg__sim_of(epg__simulator *simulator) { return (epg__sim *)simulator; }

/* ---- simulator.c ---- */
uint64_t epg__sim_random(epg__sim *sim);

/* The time in `ns`, or in 146 years: what comes after must not wrap. */
static inline uint64_t epg__sim_after(const epg__sim *sim, uint64_t ns)
{
    const uint64_t most = 1ull << 62;
    return sim->now + (ns < most ? ns : most);
}

/* One move of the current fiber: others may come first; returns when it is its turn to do `what`, which changes the
 * world at once after. `value` goes into the digest. `noted`: a trace adds the fiber's note. A `what` of NULL leaves a
 * library call, and is traced only where there is a note of what that call did. */
void epg__sim_move_noted(epg__sim *sim, const char *what, bool noted, uint64_t value);
static inline void epg__sim_move(epg__sim *sim, const char *what, uint64_t value)
{
    epg__sim_move_noted(sim, what, what == NULL, value);
}

/* The current fiber makes no move until epg__sim_wake(what it waits on), or the deadline. EPG_OK, EPG_ERR_TIMEOUT, or,
 * for the caller alone, EPG_ERR_STATE: nobody can move any more. */
epg_status epg__sim_block(epg__sim *sim, const void *on, uint64_t deadline, const char *what);
void epg__sim_wake(epg__sim *sim, const void *on, bool all);

/* NULL: no memory. Runs main(arg) when its turn comes. */
epg__fiber *epg__sim_fiber_create(epg__sim *sim, uint32_t home, void *(*main)(void *arg), void *arg);
void epg__sim_fiber_exit(epg__sim *sim);                    /* the current one; does not return */
void epg__sim_fiber_cut(epg__sim *sim, epg__fiber *fiber); /* it never moves again; not the current one */
void epg__sim_fiber_free(epg__sim *sim, epg__fiber *fiber); /* an ended one */
epg__sim_program *epg__sim_program_at(epg__sim *sim, uint32_t home); /* NULL: none, or not in a run */

/* ---- simulator_engine.c ---- */
extern const epg__engine_ops epg__sim_engine_ops;

/* ---- simulator_memory.c ---- */
extern const epg__simulator_ops epg__sim_hooks;
void epg__sim_flush(epg__sim *sim, const epg__fiber *owner); /* all that it holds back lands now */
void epg__sim_land_due(epg__sim *sim);
void epg__sim_orphan(epg__sim *sim, uint32_t home); /* killed: its stores land late or never */
void epg__sim_drop_held(epg__sim *sim);

#endif
