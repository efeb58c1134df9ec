/* Teams: the ranks that exchange tokens. One epg_team handle is one rank's membership.
 *
 * Collective calls (barrier, all-gather, and the creation of groups) must be made by every rank in the same order. They
 * run on the host, are bounded by the team's timeout and end at once when any rank aborts. One thread at a time per
 * handle, except epg_team_abort. */
#ifndef EPGRAPH_TEAM_H
#define EPGRAPH_TEAM_H

#include <stddef.h>
#include <stdint.h>
#include "epgraph/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct epg_team epg_team;

#define EPG_TEAM_MAX_RANKS 4096

typedef struct epg_team_options {
    uint32_t size;
    uint32_t timeout_ms;    /* bound of a collective call; 0: the setting EPGRAPH_TIMEOUT_MS */
} epg_team_options;
#define EPG_TEAM_OPTIONS_INIT {sizeof(epg_team_options), 0}

typedef struct epg_team_stats {
    uint32_t size;
    uint64_t barriers;      /* calls of this rank since creation */
    uint64_t allgathers;
} epg_team_stats;
#define EPG_TEAM_STATS_INIT {sizeof(epg_team_stats), 0, 0}

/* Virtual ranks in one process, on one device. On the CUDA device their kernels wait for one another, which asks three
 * things of the caller (docs/architecture.md says why):
 * Set CUDA_DEVICE_MAX_CONNECTIONS=32 before CUDA starts (the command does). Ranks may be at most half of it, or of 8
 * where it is not set: a group of more is refused. The streams in which ranks and lanes wait at once should not be more
 * than that either, which is not checked.
 * A stream that is not of epg_stream_create must have had work before the pairs that are enqueued there eagerly.
 * While steps run, free no memory of this device, and launch no kernel of the caller's that was never loaded. The
 * library's own are loaded when a group or a model is created.
 * Fills ranks[0 .. count-1], each to be used by a thread of its own.
 * count is 1..EPG_TEAM_MAX_RANKS. `options` may be NULL. The shared part is freed with the last rank. */
EPG_API epg_status epg_team_create_threads(epg_device *device, const epg_team_options *options, uint32_t count,
                                           epg_team **ranks);
EPG_API void epg_team_destroy(epg_team *team);

EPG_API uint32_t epg_team_rank(const epg_team *team);
EPG_API uint32_t epg_team_size(const epg_team *team);
EPG_API const char *epg_team_transport(const epg_team *team); /* "threads" */
EPG_API epg_device *epg_team_device(const epg_team *team);

/* EPG_ERR_TIMEOUT names the ranks that did not come; EPG_ERR_ABORTED the rank that aborted and its reason. */
EPG_API epg_status epg_team_barrier(epg_team *team);

/* out[r * bytes ...] is rank r's contribution. All ranks pass the same `bytes` (EPG_ERR_MISMATCH names one that did
 * not). */
EPG_API epg_status epg_team_allgather(epg_team *team, const void *in, size_t bytes, void *out);

/* The same in two halves: `in` is copied and offered at once, the wait is in the second. One may be open at a time.
 * After EPG_ERR_TIMEOUT it is still open: the second half may be called again, once the missing ranks are retired. */
EPG_API epg_status epg_team_allgather_begin(epg_team *team, const void *in, size_t bytes);
EPG_API epg_status epg_team_allgather_end(epg_team *team, void *out);

/* Wakes every rank from every collective call and every device wait of the team's groups; all later calls return
 * EPG_ERR_ABORTED. From any thread, any number of times; the first reason is kept. */
EPG_API epg_status epg_team_abort(epg_team *team, const char *reason);

/* ---- a rank that is lost, and one that takes its place. Through any rank's handle, from any thread. ---- */

/* The rank is gone for good: its thread has ended, none of its work runs or will run, and all that it stored has
 * landed. From now on collective calls do not wait for it and all-gathers give zeros for it; calls through its handle
 * are EPG_ERR_STATE. Its handles may be destroyed at any later time. Retiring it twice does nothing. */
EPG_API epg_status epg_team_retire(epg_team *team, uint32_t rank);

/* A handle on a retired rank's place, of the next incarnation (at most EPG_TEAM_MAX_INCARNATION). It takes part in
 * collective calls from the first that no rank has begun. */
EPG_API epg_status epg_team_rejoin(epg_team *team, uint32_t rank, epg_team **joined);

#define EPG_TEAM_MAX_INCARNATION 255
EPG_API uint32_t epg_team_incarnation(const epg_team *team); /* 0 in a rank's first life */

EPG_API epg_status epg_team_get_stats(const epg_team *team, epg_team_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
