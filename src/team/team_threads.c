/* Virtual ranks: threads of one process that share one `world`.
 *
 * Every collective is the same exchange: a rank posts its contribution under its next sequence number and waits until
 * all ranks have posted theirs. Two generations of posts suffice: a rank posts number n+2 only after all ranks posted
 * n+1, and a rank posts n+1 only after it has read all posts of n.
 *
 * Symmetric memory is freed when the last rank gives it back, not the first: a rank that failed may leave while its
 * peers still write to it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device/device_ops.h"
#include "team/team_ops.h"

typedef struct post {
    uint64_t sequence; /* 0: never posted */
    void *data;
    size_t bytes, capacity;
} post;

typedef struct symmetric {
    struct symmetric *next;
    uint64_t number; /* of the collective allocation */
    size_t bytes;
    uint32_t released;
    uint32_t recorded; /* ranks that have a base here; below the team's size only where a rank had no memory */
    void *bases[];     /* [ranks] */
} symmetric;

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
    post *posts[2];        /* [ranks] each */
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
    uint64_t allocations;
} threads_team;

static world *world_of(epg_team *team) { return ((threads_team *)team)->world; }

static epg_status aborted(const world *w) { return epg__fail(EPG_ERR_ABORTED, "%s", w->reason); }

static epg_status threads_abort(epg_team *base, const char *reason);

static epg_status post_now(threads_team *team, const void *in, size_t bytes)
{
    world *w = team->world;
    epg_status status = EPG_OK;
    epg__lock_take(w->engine, &w->lock);
    post *mine = &w->posts[(team->sequence + 1) & 1][team->head.rank];
    if (w->aborted) {
        status = aborted(w);
    } else if (bytes > mine->capacity) {
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

/* Ranks without a post of this sequence number, as text; 0 if there is none. */
static uint32_t list_missing(const world *w, uint64_t sequence, char *text, size_t room)
{
    uint32_t missing = 0;
    size_t used = 0;
    text[0] = 0;
    for (uint32_t r = 0; r < w->size; r++) {
        if (w->posts[sequence & 1][r].sequence == sequence)
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
        const post *p = &w->posts[team->sequence & 1][r];
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
    team->open = 0;
    epg__lock_take(w->engine, &w->lock);
    epg_status status = wait_all(team, "all-gather");
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
static symmetric *symmetric_at(world *w, uint64_t number)
{
    for (symmetric *s = w->symmetrics; s; s = s->next)
        if (s->number == number)
            return s;
    symmetric *s = epg__zalloc(1, sizeof *s + w->size * sizeof(void *), "a symmetric allocation");
    if (s) {
        s->number = number;
        s->next = w->symmetrics;
        w->symmetrics = s;
    }
    return s;
}

static void symmetric_drop(world *w, symmetric *gone)
{
    for (symmetric **link = &w->symmetrics; *link; link = &(*link)->next) {
        if (*link != gone)
            continue;
        *link = gone->next;
        for (uint32_t r = 0; r < w->size; r++) {
            if (w->simulator && gone->bases[r])
                w->simulator->ops->forget(w->simulator, gone->bases[r], gone->bytes);
            free(gone->bases[r]);
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
        if (s->bases[base->rank] != own)
            continue;
        if (++s->released == s->recorded)
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
    void *memory = offers ? epg__zalloc_aligned(4096, bytes, 1, "symmetric memory") : NULL;
    uint64_t number = ++team->allocations;
    int recorded = 0;

    if (memory) {
        epg__lock_take(w->engine, &w->lock);
        symmetric *s = symmetric_at(w, number);
        if (s) {
            s->bases[base->rank] = memory;
            s->bytes = bytes;
            s->recorded++;
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
        free(memory);
    free(all);
    return status;
}

static void world_free(world *w)
{
    while (w->symmetrics)
        symmetric_drop(w, w->symmetrics);
    for (int g = 0; g < 2; g++) {
        for (uint32_t r = 0; w->posts[g] && r < w->size; r++)
            free(w->posts[g][r].data);
        free(w->posts[g]);
    }
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
    .symmetric_alloc = threads_symmetric_alloc,
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
    w->posts[0] = epg__zalloc(size, sizeof(post), "a team's posts");
    w->posts[1] = w->posts[0] ? epg__zalloc(size, sizeof(post), "a team's posts") : NULL;
    if (!w->posts[1]) {
        world_free(w);
        return NULL;
    }
    return w;
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
    w->living++;
    return team;
}

epg_status epg_team_create_threads(epg_device *device, const epg_team_options *options, uint32_t count, epg_team **ranks)
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
    free(members);
    return EPG_OK;
}
