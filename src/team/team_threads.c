/* Virtual ranks: threads of one process that share one `world`.
 *
 * Every collective is the same exchange: a rank posts its contribution under its next sequence number and waits until
 * all ranks have posted theirs. A rank posts number n+1 only after it has read all posts of n, hence n+2 only after all
 * ranks have read n: two generations of posts would do. There are three because a rank that takes a retired place
 * begins with the first number that nobody has posted, n+1, and another may still be reading n-1.
 *
 * A retired rank's posts of the past count; nobody waits for others. Every rank sees the same: a rank is retired once
 * it posts nothing more, and the next on its place begins with a number that nobody can have read.
 *
 * Symmetric memory is freed when the last rank gives it back, not the first: a rank that failed may leave while its
 * peers still write to it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device/device_ops.h"
#include "team/team_ops.h"

enum { GENERATIONS = 3 };

typedef struct post {
    uint64_t sequence; /* 0: never posted */
    void *data;
    size_t bytes, capacity;
} post;

typedef struct symmetric {
    struct symmetric *next;
    epg_device *device;
    uint64_t number; /* of the collective allocation */
    size_t bytes;
    uint32_t held;   /* bases that were not given back */
    struct share {
        void *base;           /* NULL where the rank had no memory */
        uint32_t incarnation; /* of the handle that may give it back */
        int given_back;
    } shares[]; /* [ranks] */
} symmetric;

/* Who sits where. */
typedef struct place {
    uint32_t incarnation;
    int retired;
    uint64_t first; /* sequence number from which on it takes part */
} place;

typedef struct hook {
    struct hook *next;
    void (*fn)(void *ctx);
    void *ctx;
} hook;

typedef struct world {
    epg__engine *engine; /* the device's */
    epg__simulator *simulator; /* the device's, or NULL */
    epg__lock lock;
    epg__cond changed;
    uint32_t size, living;
    int aborted;
    char reason[160];
    post *posts[GENERATIONS]; /* [ranks] each */
    place *places;            /* [ranks] */
    uint64_t allocations;     /* collective ones, up to now */
    symmetric *symmetrics;
    epg__lock hook_lock; /* held while hooks run, so that removal waits for them */
    hook *hooks;
    int hooks_ran;
} world;

typedef struct threads_team {
    struct epg_team head;
    world *world;
    uint64_t sequence;      /* of the last post of this rank */
    size_t open_bytes;
    int open;               /* an all-gather waits for its second half */
    uint64_t allocations;   /* collective ones in which this rank took part, or would have */
    uint64_t joined;        /* number of the last that it joined */
} threads_team;

static world *world_of(epg_team *team) { return ((threads_team *)team)->world; }

static epg_status aborted(const world *w) { return epg__fail(EPG_ERR_ABORTED, "%s", w->reason); }

static epg_status threads_abort(epg_team *base, const char *reason);
static const epg__team_ops threads_ops;

/* With the lock held: that the handle is not one of a rank that is gone. */
static epg_status check_handle(const threads_team *team)
{
    const place *p = &team->world->places[team->head.rank];
    if (p->incarnation == team->head.incarnation && !p->retired)
        return EPG_OK;
    return epg__fail(EPG_ERR_STATE, "rank %u, incarnation %u, was retired", team->head.rank, team->head.incarnation);
}

static post *post_at(const world *w, uint64_t sequence, uint32_t rank)
{
    return &w->posts[sequence % GENERATIONS][rank];
}

static epg_status post_now(threads_team *team, const void *in, size_t bytes)
{
    world *w = team->world;
    epg__lock_take(w->engine, &w->lock);
    epg_status status = w->aborted ? aborted(w) : check_handle(team);
    post *mine = post_at(w, team->sequence + 1, team->head.rank);
    if (status == EPG_OK && bytes > mine->capacity) {
        void *grown = epg__grow(mine->data, bytes, 1, "an all-gather");
        if (grown) {
            mine->data = grown;
            mine->capacity = bytes;
        } else {
            status = EPG_ERR_NO_MEMORY;
        }
    }
    if (status == EPG_OK) {
        if (bytes)
            memcpy(mine->data, in, bytes);
        mine->bytes = bytes;
        mine->sequence = ++team->sequence;
        epg__cond_broadcast(w->engine, &w->changed);
    }
    epg__lock_drop(w->engine, &w->lock);
    if (status == EPG_ERR_NO_MEMORY)
        threads_abort(&team->head, "no memory for an all-gather"); /* the others would wait for this post */
    return status;
}

/* Ranks whose post of this sequence number is still to come, as text; 0 if there is none. */
static uint32_t list_missing(const world *w, uint64_t sequence, char *text, size_t room)
{
    uint32_t missing = 0;
    size_t used = 0;
    text[0] = 0;
    for (uint32_t r = 0; r < w->size; r++) {
        if (post_at(w, sequence, r)->sequence == sequence || w->places[r].retired || sequence < w->places[r].first)
            continue;
        missing++;
        if (used + 16 < room)
            used += (size_t)snprintf(text + used, room - used, "%s%u", missing > 1 ? ", " : "", r);
    }
    return missing;
}

/* With the lock held: until every rank has posted this rank's last sequence number. */
static epg_status wait_all(threads_team *team, const char *what)
{
    world *w = team->world;
    uint64_t deadline = epg__now_ns(w->engine) + team->head.timeout_ms * 1000000ull;
    epg_status status = EPG_OK;
    char missing[256];
    for (;;) {
        if (list_missing(w, team->sequence, missing, sizeof missing) == 0)
            return EPG_OK;
        if (w->aborted)
            return aborted(w);
        if (status == EPG_ERR_TIMEOUT)
            return epg__fail(EPG_ERR_TIMEOUT, "%s: no answer in %u ms from rank %s", what, team->head.timeout_ms,
                             missing);
        EPG_TRY(status);
        status = w->engine->ops->wait(w->engine, &w->changed, &w->lock, deadline, what);
    }
}

static epg_status threads_allgather_begin(epg_team *base, const void *in, size_t bytes)
{
    threads_team *team = (threads_team *)base;
    if (team->open)
        return epg__fail(EPG_ERR_STATE, "an all-gather is open already on rank %u", base->rank);
    EPG_TRY(post_now(team, in, bytes));
    team->open = 1;
    team->open_bytes = bytes;
    return EPG_OK;
}

static epg_status collect(threads_team *team, char *out)
{
    world *w = team->world;
    size_t bytes = team->open_bytes;
    for (uint32_t r = 0; r < w->size; r++) {
        const post *p = post_at(w, team->sequence, r);
        if (p->sequence != team->sequence) { /* nobody sits there */
            memset(out + r * bytes, 0, bytes);
            continue;
        }
        if (p->bytes != bytes)
            return epg__fail(EPG_ERR_MISMATCH, "all-gather: rank %u gave %zu bytes where rank %u gave %zu", r, p->bytes,
                             team->head.rank, bytes);
        if (bytes)
            memcpy(out + r * bytes, p->data, bytes);
    }
    return EPG_OK;
}

static epg_status threads_allgather_end(epg_team *base, void *out)
{
    threads_team *team = (threads_team *)base;
    world *w = team->world;
    if (!team->open)
        return epg__fail(EPG_ERR_STATE, "no all-gather is open on rank %u", base->rank);
    epg__lock_take(w->engine, &w->lock);
    epg_status status = check_handle(team);
    if (status == EPG_OK)
        status = wait_all(team, "all-gather");
    team->open = status == EPG_ERR_TIMEOUT; /* the missing ranks may be retired, and the wait taken up again */
    if (status == EPG_OK)
        status = collect(team, out);
    epg__lock_drop(w->engine, &w->lock);
    return status;
}

static epg_status threads_barrier(epg_team *base)
{
    threads_team *team = (threads_team *)base;
    if (team->open)
        return epg__fail(EPG_ERR_STATE, "barrier between the halves of an all-gather on rank %u", base->rank);
    world *w = team->world;
    EPG_TRY(post_now(team, NULL, 0));
    epg__lock_take(w->engine, &w->lock);
    epg_status status = wait_all(team, "barrier");
    epg__lock_drop(w->engine, &w->lock);
    return status;
}

static epg_status threads_abort(epg_team *base, const char *reason)
{
    world *w = world_of(base);
    epg__lock_take(w->engine, &w->lock);
    if (!w->aborted) {
        w->aborted = 1;
        snprintf(w->reason, sizeof w->reason, "rank %u aborted the team: %s", base->rank, reason);
    }
    epg__cond_broadcast(w->engine, &w->changed);
    epg__lock_drop(w->engine, &w->lock);

    epg__lock_take(w->engine, &w->hook_lock);
    if (!w->hooks_ran)
        for (hook *h = w->hooks; h; h = h->next)
            h->fn(h->ctx);
    w->hooks_ran = 1;
    epg__lock_drop(w->engine, &w->hook_lock);
    return EPG_OK;
}

static threads_team *member_create(world *w, epg_device *device, uint32_t rank, uint32_t timeout_ms)
{
    threads_team *team = epg__zalloc(1, sizeof *team, "a rank of a team");
    if (!team)
        return NULL;
    team->head.ops = &threads_ops;
    team->head.device = device;
    team->head.rank = rank;
    team->head.size = w->size;
    team->head.timeout_ms = timeout_ms;
    team->world = w;
    return team;
}

static epg_status threads_retire(epg_team *base, uint32_t rank)
{
    world *w = world_of(base);
    epg__lock_take(w->engine, &w->lock);
    w->places[rank].retired = 1;
    epg__cond_broadcast(w->engine, &w->changed);
    epg__lock_drop(w->engine, &w->lock);
    return EPG_OK;
}

/* With the lock held: the largest sequence number that any rank has posted. */
static uint64_t last_posted(const world *w)
{
    uint64_t last = 0;
    for (int g = 0; g < GENERATIONS; g++)
        for (uint32_t r = 0; r < w->size; r++)
            last = w->posts[g][r].sequence > last ? w->posts[g][r].sequence : last;
    return last;
}

/* With the lock held. */
static epg_status take_place(world *w, threads_team *taker)
{
    place *p = &w->places[taker->head.rank];
    if (w->aborted)
        return aborted(w);
    if (!p->retired)
        return epg__fail(EPG_ERR_STATE, "rank %u is not retired: its place is not free", taker->head.rank);
    if (p->incarnation == EPG_TEAM_MAX_INCARNATION)
        return epg__fail(EPG_ERR_STATE, "rank %u has joined again %u times, the most there may be", taker->head.rank,
                         p->incarnation);
    taker->head.incarnation = p->incarnation + 1;
    taker->sequence = last_posted(w);
    taker->allocations = w->allocations;
    *p = (place){taker->head.incarnation, 0, taker->sequence + 1};
    w->living++;
    return EPG_OK;
}

static epg_status threads_rejoin(epg_team *base, uint32_t rank, epg_team **joined)
{
    world *w = world_of(base);
    threads_team *taker = member_create(w, base->device, rank, base->timeout_ms);
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

static epg_status threads_on_abort_add(epg_team *base, void (*fn)(void *ctx), void *ctx)
{
    world *w = world_of(base);
    hook *h = epg__zalloc(1, sizeof *h, "an abort hook");
    if (!h)
        return EPG_ERR_NO_MEMORY;
    *h = (hook){NULL, fn, ctx};
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
    world *w = world_of(base);
    epg__lock_take(w->engine, &w->hook_lock);
    for (hook **link = &w->hooks; *link; link = &(*link)->next) {
        hook *h = *link;
        if (h->fn == fn && h->ctx == ctx) {
            *link = h->next;
            free(h);
            break;
        }
    }
    epg__lock_drop(w->engine, &w->hook_lock);
}

/* With the lock held: the record of the numbered allocation, made by the first rank to ask. */
static symmetric *symmetric_at(world *w, uint64_t number, size_t bytes)
{
    if (w->allocations < number)
        w->allocations = number;
    for (symmetric *s = w->symmetrics; s; s = s->next)
        if (s->number == number)
            return s;
    symmetric *s = epg__zalloc(1, sizeof *s + w->size * sizeof *s->shares, "a symmetric allocation");
    if (s) {
        s->number = number;
        s->bytes = bytes;
        s->next = w->symmetrics;
        w->symmetrics = s;
    }
    return s;
}

/* A region is the device's own memory; on the host device, pages. */
static void *region_make(epg_device *device, size_t bytes)
{
    void *memory = NULL;
    if (device->info.kind == EPG_DEVICE_HOST)
        return epg__zalloc_aligned(4096, bytes, 1, "symmetric memory");
    return epg_memory_alloc(device, EPG_MEMORY_DEVICE, bytes, &memory) == EPG_OK ? memory : NULL;
}

static void region_drop(epg_device *device, void *memory)
{
    if (device->info.kind == EPG_DEVICE_HOST)
        free(memory);
    else if (memory)
        epg_memory_free(device, EPG_MEMORY_DEVICE, memory);
}

static void symmetric_drop(world *w, symmetric *gone)
{
    for (symmetric **link = &w->symmetrics; *link; link = &(*link)->next) {
        if (*link != gone)
            continue;
        *link = gone->next;
        for (uint32_t r = 0; r < w->size; r++) {
            if (w->simulator && gone->shares[r].base)
                w->simulator->ops->forget(w->simulator, gone->shares[r].base, gone->bytes);
            region_drop(gone->device, gone->shares[r].base);
        }
        free(gone);
        return;
    }
}

typedef struct offer {
    uint64_t bytes;
    uint64_t base; /* 0: this rank has no memory */
} offer;

static epg_status compare_offers(const threads_team *team, const offer *offers)
{
    for (uint32_t r = 0; r < team->head.size; r++) {
        if (offers[r].bytes != offers[team->head.rank].bytes)
            return epg__fail(EPG_ERR_MISMATCH, "rank %u asks for %llu symmetric bytes where rank %u asks for %llu", r,
                             (unsigned long long)offers[r].bytes, team->head.rank,
                             (unsigned long long)offers[team->head.rank].bytes);
        if (!offers[r].base)
            return epg__fail(EPG_ERR_NO_MEMORY, "rank %u has no memory for %llu symmetric bytes", r,
                             (unsigned long long)offers[r].bytes);
    }
    return EPG_OK;
}

static void threads_symmetric_free(epg_team *base, void *own)
{
    world *w = world_of(base);
    epg__lock_take(w->engine, &w->lock);
    for (symmetric *s = w->symmetrics; s; s = s->next) {
        struct share *mine = &s->shares[base->rank];
        if (mine->base != own)
            continue;
        if (mine->incarnation != base->incarnation || mine->given_back)
            break;
        mine->given_back = 1;
        if (--s->held == 0)
            symmetric_drop(w, s);
        break;
    }
    epg__lock_drop(w->engine, &w->lock);
}

static epg_status threads_symmetric_alloc(epg_team *base, size_t bytes, void **peers)
{
    threads_team *team = (threads_team *)base;
    world *w = team->world;
    offer *offers = epg__zalloc(base->size, sizeof *offers, "symmetric addresses");
    void *memory = offers ? region_make(base->device, bytes) : NULL;
    uint64_t number = ++team->allocations;
    int recorded = 0;

    if (memory) {
        epg__lock_take(w->engine, &w->lock);
        symmetric *s = symmetric_at(w, number, bytes);
        if (s) {
            s->device = base->device;
            s->shares[base->rank] = (struct share){memory, base->incarnation, 0};
            s->held++;
        }
        epg__lock_drop(w->engine, &w->lock);
        recorded = s != NULL;
    }
    /* A rank without memory still takes part, so that its peers learn of it at once. */
    offer mine = {bytes, recorded ? (uint64_t)(uintptr_t)memory : 0};
    offer *all = offers ? offers : epg__zalloc(base->size, sizeof *all, "symmetric addresses");
    epg_status status = threads_allgather_begin(base, &mine, sizeof mine);
    if (status == EPG_OK && all)
        status = threads_allgather_end(base, all);
    else if (status == EPG_OK) {
        team->open = 0;
        status = EPG_ERR_NO_MEMORY;
    }
    if (status == EPG_OK)
        status = compare_offers(team, all);
    if (status == EPG_OK)
        for (uint32_t r = 0; r < base->size; r++)
            peers[r] = (void *)(uintptr_t)all[r].base;
    else if (recorded)
        threads_symmetric_free(base, memory);
    if (!recorded)
        region_drop(base->device, memory);
    free(all);
    return status;
}

/* With the lock held. Every rank of an allocation that its creation survived has a base. */
static epg_status join_shares(threads_team *team, symmetric *s, size_t bytes, void **peers)
{
    struct share *mine = &s->shares[team->head.rank];
    if (s->bytes != bytes)
        return epg__fail(EPG_ERR_MISMATCH, "rank %u joins %zu symmetric bytes with %zu", team->head.rank, s->bytes,
                         bytes);
    if (mine->given_back)
        s->held++;
    mine->given_back = 0;
    mine->incarnation = team->head.incarnation;
    team->joined = s->number;
    for (uint32_t r = 0; r < team->head.size; r++)
        peers[r] = s->shares[r].base;
    return EPG_OK;
}

static epg_status threads_symmetric_join(epg_team *base, size_t bytes, void **peers)
{
    threads_team *team = (threads_team *)base;
    world *w = team->world;
    symmetric *next = NULL;
    epg__lock_take(w->engine, &w->lock);
    for (symmetric *s = w->symmetrics; s; s = s->next)
        if (s->number > team->joined && s->shares[base->rank].base && (!next || s->number < next->number) &&
            s->shares[base->rank].incarnation < base->incarnation)
            next = s;
    epg_status status = check_handle(team);
    if (status == EPG_OK)
        status = next ? join_shares(team, next, bytes, peers)
                      : epg__fail(EPG_ERR_NOT_FOUND, "rank %u has no symmetric memory left to join", base->rank);
    epg__lock_drop(w->engine, &w->lock);
    return status;
}

static void world_free(world *w)
{
    while (w->symmetrics)
        symmetric_drop(w, w->symmetrics);
    for (int g = 0; g < GENERATIONS; g++) {
        for (uint32_t r = 0; w->posts[g] && r < w->size; r++)
            free(w->posts[g][r].data);
        free(w->posts[g]);
    }
    free(w->places);
    while (w->hooks) {
        hook *h = w->hooks;
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
    world *w = world_of(base);
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
    .barrier = threads_barrier,
    .allgather_begin = threads_allgather_begin,
    .allgather_end = threads_allgather_end,
    .abort = threads_abort,
    .retire = threads_retire,
    .rejoin = threads_rejoin,
    .symmetric_alloc = threads_symmetric_alloc,
    .symmetric_join = threads_symmetric_join,
    .symmetric_free = threads_symmetric_free,
    .on_abort_add = threads_on_abort_add,
    .on_abort_remove = threads_on_abort_remove,
};

static world *world_create(epg_device *device, uint32_t size)
{
    world *w = epg__zalloc(1, sizeof *w, "a team");
    if (!w)
        return NULL;
    w->size = size;
    epg__engine *engine = w->engine = device->engine;
    w->simulator = device->simulator;
    engine->ops->cond_init(&w->changed);
    engine->ops->lock_init(&w->lock);
    engine->ops->lock_init(&w->hook_lock);
    w->places = epg__zalloc(size, sizeof(place), "a team's places");
    bool made = w->places != NULL;
    for (int g = 0; made && g < GENERATIONS; g++)
        made = (w->posts[g] = epg__zalloc(size, sizeof(post), "a team's posts")) != NULL;
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

    world *w = world_create(device, count);
    threads_team **members = w ? epg__zalloc(count, sizeof *members, "a team's ranks") : NULL;
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
