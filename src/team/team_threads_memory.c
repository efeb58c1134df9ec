/* Symmetric memory of a team of threads: a block per rank, which its peers simply address.
 *
 * It is freed when the last rank gives it back, not the first: a rank that failed may leave while its peers still write
 * to it. */
#include <stdlib.h>
#include "team/team_threads_int.h"

/* With the lock held: the record of the numbered allocation, made by the first rank to ask. */
static epg__symmetric *symmetric_at(epg__world *w, uint64_t number, size_t bytes)
{
    if (w->allocations < number)
        w->allocations = number;
    for (epg__symmetric *s = w->symmetrics; s; s = s->next)
        if (s->number == number)
            return s;
    epg__symmetric *s = epg__zalloc(1, sizeof *s + w->size * sizeof *s->shares, "a symmetric allocation");
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

/* With the lock held. */
static void symmetric_unlink(epg__world *w, const epg__symmetric *gone)
{
    epg__symmetric **link = &w->symmetrics;
    while (*link != gone)
        link = &(*link)->next;
    *link = gone->next;
}

/* Without the lock: a GPU waits here for kernels that may themselves wait for a rank, which an abort could end. */
static void symmetric_drop(const epg__world *w, epg__symmetric *gone)
{
    for (uint32_t r = 0; r < w->size; r++) {
        if (w->simulator && gone->shares[r].base)
            w->simulator->ops->forget(w->simulator, gone->shares[r].base, gone->bytes);
        region_drop(gone->device, gone->shares[r].base);
    }
    free(gone);
}

typedef struct offer {
    uint64_t bytes;
    uint64_t base; /* 0: this rank has no memory */
} offer;

static epg_status compare_offers(const epg__threads_team *team, const offer *offers)
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

void epg__threads_symmetric_free(epg_team *base, void *own)
{
    epg__world *w = epg__world_of(base);
    epg__symmetric *gone = NULL;
    epg__lock_take(w->engine, &w->lock);
    for (epg__symmetric *s = w->symmetrics; s; s = s->next) {
        struct epg__share *mine = &s->shares[base->rank];
        if (mine->base != own)
            continue;
        if (mine->incarnation != base->incarnation || mine->given_back)
            break;
        mine->given_back = 1;
        if (--s->held == 0) {
            symmetric_unlink(w, s);
            gone = s;
        }
        break;
    }
    epg__lock_drop(w->engine, &w->lock);
    if (gone)
        symmetric_drop(w, gone);
}

epg_status epg__threads_symmetric_alloc(epg_team *base, size_t bytes, void **peers)
{
    epg__threads_team *team = epg__threads_of(base);
    epg__world *w = team->world;
    offer *offers = epg__zalloc(base->size, sizeof *offers, "symmetric addresses");
    void *memory = offers ? region_make(base->device, bytes) : NULL;
    uint64_t number = ++team->allocations;
    int recorded = 0;

    if (memory) {
        epg__lock_take(w->engine, &w->lock);
        epg__symmetric *s = symmetric_at(w, number, bytes);
        if (s) {
            s->device = base->device;
            s->shares[base->rank] = (struct epg__share){memory, base->incarnation, 0};
            s->held++;
        }
        epg__lock_drop(w->engine, &w->lock);
        recorded = s != NULL;
    }
    /* A rank without memory still takes part, so that its peers learn of it at once. */
    offer mine = {bytes, recorded ? (uint64_t)(uintptr_t)memory : 0};
    offer *all = offers ? offers : epg__zalloc(base->size, sizeof *all, "symmetric addresses");
    epg_status status = epg__threads_allgather_begin(base, &mine, sizeof mine);
    if (status == EPG_OK && all)
        status = epg__threads_allgather_end(base, all);
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
        epg__threads_symmetric_free(base, memory);
    if (!recorded)
        region_drop(base->device, memory);
    free(all);
    return status;
}

/* With the lock held. Every rank of an allocation that its creation survived has a base. */
static epg_status join_shares(epg__threads_team *team, epg__symmetric *s, size_t bytes, void **peers)
{
    struct epg__share *mine = &s->shares[team->head.rank];
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

epg_status epg__threads_symmetric_join(epg_team *base, size_t bytes, void **peers)
{
    epg__threads_team *team = epg__threads_of(base);
    epg__world *w = team->world;
    epg__symmetric *next = NULL;
    epg__lock_take(w->engine, &w->lock);
    for (epg__symmetric *s = w->symmetrics; s; s = s->next)
        if (s->number > team->joined && s->shares[base->rank].base && (!next || s->number < next->number) &&
            s->shares[base->rank].incarnation < base->incarnation)
            next = s;
    epg_status status = epg__threads_check(team);
    if (status == EPG_OK)
        status = next ? join_shares(team, next, bytes, peers)
                      : epg__fail(EPG_ERR_NOT_FOUND, "rank %u has no symmetric memory left to join", base->rank);
    epg__lock_drop(w->engine, &w->lock);
    return status;
}

void epg__threads_symmetrics_end(epg__world *w)
{
    while (w->symmetrics) {
        epg__symmetric *gone = w->symmetrics;
        w->symmetrics = gone->next;
        symmetric_drop(w, gone);
    }
}
