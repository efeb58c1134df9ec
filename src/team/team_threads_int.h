/* A team of threads, for its own files only: the world that its ranks share, and a rank's handle.
 *
 * team_threads.c makes and ends both, and keeps places; team_threads_exchange.c is the collective exchange;
 * team_threads_memory.c is symmetric memory. */
#ifndef EPG_TEAM_THREADS_INT_H
#define EPG_TEAM_THREADS_INT_H

#include "device/device_ops.h"
#include "team/team_ops.h"

enum { EPG__GENERATIONS = 3 };

typedef struct epg__post {
    uint64_t sequence; /* 0: never posted */
    void *data;
    size_t bytes, capacity;
} epg__post;

typedef struct epg__symmetric {
    struct epg__symmetric *next;
    epg_device *device;
    uint64_t number; /* of the collective allocation */
    size_t bytes;
    uint32_t held;   /* bases that were not given back */
    struct epg__share {
        void *base;           /* NULL where the rank had no memory */
        uint32_t incarnation; /* of the handle that may give it back */
        int given_back;
    } shares[]; /* [ranks] */
} epg__symmetric;

/* Who sits where. */
typedef struct epg__place {
    uint32_t incarnation;
    int retired;
    uint64_t first; /* sequence number from which on it takes part */
} epg__place;

typedef struct epg__hook {
    struct epg__hook *next;
    void (*fn)(void *ctx);
    void *ctx;
} epg__hook;

typedef struct epg__world {
    epg__engine *engine;                /* the device's */
    epg__simulator *simulator;          /* the device's, or NULL */
    epg__lock lock;                     /* guards what follows, but the hooks */
    epg__cond changed;
    uint32_t size, living;
    int aborted;
    char reason[160];
    epg__post *posts[EPG__GENERATIONS]; /* [ranks] each */
    epg__place *places;                 /* [ranks] */
    uint64_t allocations;               /* collective ones, up to now */
    epg__symmetric *symmetrics;
    epg__lock hook_lock;                /* held while hooks run, so that removal waits for them */
    epg__hook *hooks;
    int hooks_ran;
} epg__world;

typedef struct epg__threads_team {
    struct epg_team head;
    epg__world *world;
    uint64_t sequence;      /* of the last post of this rank */
    size_t open_bytes;
    int open;               /* an all-gather waits for its second half */
    uint64_t allocations;   /* collective ones in which this rank took part, or would have */
    uint64_t joined;        /* number of the last that it joined */
} epg__threads_team;

static inline epg__threads_team *epg__threads_of(epg_team *team) { return (epg__threads_team *)team; }
static inline epg__world *epg__world_of(epg_team *team) { return epg__threads_of(team)->world; }

/* ---- team_threads.c ---- */

/* EPG_ERR_ABORTED, with the reason. */
epg_status epg__threads_aborted(const epg__world *world);

/* With the lock held: that the handle is not one of a rank that is gone. */
epg_status epg__threads_check(const epg__threads_team *team);
epg_status epg__threads_abort(epg_team *team, const char *reason);

/* ---- team_threads_exchange.c ---- */
epg_status epg__threads_barrier(epg_team *team);
epg_status epg__threads_allgather_begin(epg_team *team, const void *in, size_t bytes);
epg_status epg__threads_allgather_end(epg_team *team, void *out);

/* With the lock held: the largest sequence number that any rank has posted. */
uint64_t epg__threads_last_posted(const epg__world *world);

/* ---- team_threads_memory.c ---- */
epg_status epg__threads_symmetric_alloc(epg_team *team, size_t bytes, void **peers);
epg_status epg__threads_symmetric_join(epg_team *team, size_t bytes, void **peers);
void epg__threads_symmetric_free(epg_team *team, void *own);
void epg__threads_symmetrics_end(epg__world *world); /* whatever is still held */

#endif
