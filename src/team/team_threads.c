/* Virtual ranks: threads of one process that share one world. Here: the world, the ranks' handles, their places, and
 * aborts.
 *
 * Not here: the exchange (team_threads_exchange.c), symmetric memory (team_threads_memory.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "team/team_threads_int.h"

static const epg__team_ops threads_ops;

/* ---- aborts ---- */

epg_status epg__threads_aborted(const epg__world *w) { return epg__fail(EPG_ERR_ABORTED, "%s", w->reason); }

epg_status epg__threads_abort(epg_team *base, const char *reason)
{
    epg__world *w = epg__world_of(base);
    epg__lock_take(w->engine, &w->lock);
    if (!w->aborted) {
        w->aborted = 1;
        snprintf(w->reason, sizeof w->reason, "rank %u aborted the team: %s", base->rank, reason);
    }
    epg__cond_broadcast(w->engine, &w->changed);
    epg__lock_drop(w->engine, &w->lock);

    epg__lock_take(w->engine, &w->hook_lock);
    if (!w->hooks_ran)
        for (epg__hook *h = w->hooks; h; h = h->next)
            h->fn(h->ctx);
    w->hooks_ran = 1;
    epg__lock_drop(w->engine, &w->hook_lock);
    return EPG_OK;
}

static epg_status threads_on_abort_add(epg_team *base, void (*fn)(void *ctx), void *ctx)
{
    epg__world *w = epg__world_of(base);
    epg__hook *h = epg__zalloc(1, sizeof *h, "an abort hook");
    if (!h)
        return EPG_ERR_NO_MEMORY;
    *h = (epg__hook){NULL, fn, ctx};
    epg__lock_take(w->engine, &w->hook_lock);
    h->next = w->hooks;
    w->hooks = h;
    if (w->hooks_ran)
        fn(ctx);
    epg__lock_drop(w->engine, &w->hook_lock);
    return EPG_OK;
}

static void threads_on_abort_remove(epg_team *base, void (*fn)(void *ctx), void *ctx)
{
    epg__world *w = epg__world_of(base);
    epg__lock_take(w->engine, &w->hook_lock);
    for (epg__hook **link = &w->hooks; *link; link = &(*link)->next) {
        epg__hook *h = *link;
        if (h->fn == fn && h->ctx == ctx) {
            *link = h->next;
            free(h);
            break;
        }
    }
    epg__lock_drop(w->engine, &w->hook_lock);
}

/* ---- places ---- */

/* With the lock held: that the handle is not one of a rank that is gone. */
epg_status epg__threads_check(const epg__threads_team *team)
{
    const epg__place *p = &team->world->places[team->head.rank];
    if (p->incarnation == team->head.incarnation && !p->retired)
        return EPG_OK;
    return epg__fail(EPG_ERR_STATE, "rank %u, incarnation %u, was retired", team->head.rank, team->head.incarnation);
}

static epg__threads_team *member_create(epg__world *w, epg_device *device, uint32_t rank, uint32_t timeout_ms)
{
    epg__threads_team *team = epg__zalloc(1, sizeof *team, "a rank of a team");
    if (!team)
        return NULL;
    team->head.ops = &threads_ops;
    team->head.device = device;
    team->head.rank = rank;
    team->head.size = w->size;
    team->head.sharing = w->size;
    team->head.timeout_ms = timeout_ms;
    team->world = w;
    return team;
}

static epg_status threads_retire(epg_team *base, uint32_t rank)
{
    epg__world *w = epg__world_of(base);
    epg__lock_take(w->engine, &w->lock);
    w->places[rank].retired = 1;
    epg__cond_broadcast(w->engine, &w->changed);
    epg__lock_drop(w->engine, &w->lock);
    return EPG_OK;
}

/* With the lock held. */
static epg_status take_place(epg__world *w, epg__threads_team *taker)
{
    epg__place *p = &w->places[taker->head.rank];
    if (w->aborted)
        return epg__threads_aborted(w);
    if (!p->retired)
        return epg__fail(EPG_ERR_STATE, "rank %u is not retired: its place is not free", taker->head.rank);
    if (p->incarnation == EPG_TEAM_MAX_INCARNATION)
        return epg__fail(EPG_ERR_STATE, "rank %u has joined again %u times, the most there may be", taker->head.rank,
                         p->incarnation);
    taker->head.incarnation = p->incarnation + 1;
    taker->sequence = epg__threads_last_posted(w);
    taker->allocations = w->allocations;
    *p = (epg__place){taker->head.incarnation, 0, taker->sequence + 1};
    w->living++;
    return EPG_OK;
}

static epg_status threads_rejoin(epg_team *base, uint32_t rank, epg_team **joined)
{
    epg__world *w = epg__world_of(base);
    epg__threads_team *taker = member_create(w, base->device, rank, base->timeout_ms);
    if (!taker)
        return EPG_ERR_NO_MEMORY;
    epg__lock_take(w->engine, &w->lock);
    epg_status status = take_place(w, taker);
    epg__lock_drop(w->engine, &w->lock);
    if (status != EPG_OK) {
        free(taker);
        return status;
    }
    *joined = &taker->head;
    return EPG_OK;
}

/* ---- the world ---- */

static void world_free(epg__world *w)
{
    epg__threads_symmetrics_end(w);
    for (int g = 0; g < EPG__GENERATIONS; g++) {
        for (uint32_t r = 0; w->posts[g] && r < w->size; r++)
            free(w->posts[g][r].data);
        free(w->posts[g]);
    }
    free(w->places);
    while (w->hooks) {
        epg__hook *h = w->hooks;
        w->hooks = h->next;
        free(h);
    }
    w->engine->ops->lock_destroy(&w->hook_lock);
    w->engine->ops->lock_destroy(&w->lock);
    w->engine->ops->cond_destroy(&w->changed);
    free(w);
}

static void threads_destroy(epg_team *base)
{
    epg__world *w = epg__world_of(base);
    epg__lock_take(w->engine, &w->lock);
    uint32_t living = --w->living;
    epg__lock_drop(w->engine, &w->lock);
    free(base);
    if (living == 0)
        world_free(w);
}

static const epg__team_ops threads_ops = {
    .name = "threads",
    .destroy = threads_destroy,
    .barrier = epg__threads_barrier,
    .allgather_begin = epg__threads_allgather_begin,
    .allgather_end = epg__threads_allgather_end,
    .abort = epg__threads_abort,
    .retire = threads_retire,
    .rejoin = threads_rejoin,
    .symmetric_alloc = epg__threads_symmetric_alloc,
    .symmetric_join = epg__threads_symmetric_join,
    .symmetric_free = epg__threads_symmetric_free,
    .on_abort_add = threads_on_abort_add,
    .on_abort_remove = threads_on_abort_remove,
};

static epg__world *world_create(epg_device *device, uint32_t size)
{
    epg__world *w = epg__zalloc(1, sizeof *w, "a team");
    if (!w)
        return NULL;
    w->size = size;
    epg__engine *engine = w->engine = device->engine;
    w->simulator = device->simulator;
    engine->ops->cond_init(&w->changed);
    engine->ops->lock_init(&w->lock);
    engine->ops->lock_init(&w->hook_lock);
    w->places = epg__zalloc(size, sizeof(epg__place), "a team's places");
    bool made = w->places != NULL;
    for (int g = 0; made && g < EPG__GENERATIONS; g++)
        made = (w->posts[g] = epg__zalloc(size, sizeof(epg__post), "a team's posts")) != NULL;
    if (made)
        return w;
    world_free(w);
    return NULL;
}

epg_status epg_team_create_threads(epg_device *device, const epg_team_options *options, uint32_t count,
                                   epg_team **ranks)
{
    long long timeout_ms = 0;
    if (!device || !ranks)
        return epg__fail(EPG_ERR_INVALID, "device or ranks is NULL");
    if (count < 1 || count > EPG_TEAM_MAX_RANKS)
        return epg__fail(EPG_ERR_INVALID, "a team has 1..%d ranks, not %u", EPG_TEAM_MAX_RANKS, count);
    if (options) {
        EPG__CHECK_SIZE(options, 2 * sizeof(uint32_t));
        timeout_ms = options->timeout_ms;
    }
    if (timeout_ms == 0)
        EPG_TRY(epg__setting_integer(EPG__SETTING_TIMEOUT_MS, 1, UINT32_MAX, &timeout_ms));

    epg__world *w = world_create(device, count);
    epg__threads_team **members = w ? epg__zalloc(count, sizeof *members, "a team's ranks") : NULL;
    uint32_t made = 0;
    while (members && made < count && (members[made] = member_create(w, device, made, (uint32_t)timeout_ms)))
        made++;
    if (!members || made < count) {
        while (members && made > 0)
            free(members[--made]);
        free(members);
        if (w)
            world_free(w);
        return EPG_ERR_NO_MEMORY;
    }
    for (uint32_t r = 0; r < count; r++)
        ranks[r] = &members[r]->head;
    w->living = count;
    free(members);
    return EPG_OK;
}
