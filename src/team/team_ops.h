/* The table behind every team transport. team.c checks arguments, counts calls and calls through it. */
#ifndef EPG_TEAM_OPS_H
#define EPG_TEAM_OPS_H

#include "core/core_int.h"
#include "epgraph/team.h"

typedef struct epg__team_ops {
    const char *name;
    void (*destroy)(epg_team *team);
    epg_status (*barrier)(epg_team *team);
    epg_status (*allgather_begin)(epg_team *team, const void *in, size_t bytes);
    epg_status (*allgather_end)(epg_team *team, void *out);
    epg_status (*abort)(epg_team *team, const char *reason);
    epg_status (*retire)(epg_team *team, uint32_t rank);
    epg_status (*rejoin)(epg_team *team, uint32_t rank, epg_team **joined);

    /* Collective: zeroed symmetric memory, 4096-byte aligned. Fills peers[0 .. size-1] with every rank's base as this
     * rank addresses it; peers[rank] is its own. All ranks pass the same `bytes`. */
    epg_status (*symmetric_alloc)(epg_team *team, size_t bytes, void **peers);

    /* Not collective, for a rank of a later incarnation: the next of the allocations that its place has and that this
     * handle has not joined yet; contents as they are. `bytes` as they were. */
    epg_status (*symmetric_join)(epg_team *team, size_t bytes, void **peers);

    /* Not collective; the caller knows that no peer uses it any more. Does nothing once a later life joined it. */
    void (*symmetric_free)(epg_team *team, void *own);

    /* Adds a function that epg_team_abort (of any rank) calls, from the aborting thread, once; at once if the team is
     * aborted already. Removal waits for a call in progress. */
    epg_status (*on_abort_add)(epg_team *team, void (*fn)(void *ctx), void *ctx);
    void (*on_abort_remove)(epg_team *team, void (*fn)(void *ctx), void *ctx);
} epg__team_ops;

/* The head of every rank's handle; a transport's own struct starts with it. */
struct epg_team {
    const epg__team_ops *ops;
    epg_device *device;
    uint32_t rank, size;
    uint32_t sharing;    /* ranks on this rank's device, itself included */
    uint32_t incarnation;
    uint32_t timeout_ms;
    epg_team_stats stats;
};

#endif
