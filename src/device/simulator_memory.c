/* Memory that other ranks see, in a simulation: every access is a move, and a relaxed store may land late.
 *
 * A store that is held back lands when its time comes, at the latest before the same stream's next release, its next
 * access to those bytes, or the end of its kernel. Until then nobody sees it. What lands late may therefore come after
 * later relaxed stores of its stream, in any order, as on a GPU. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device/simulator_int.h"

/* A store is held back for up to 2^9 moves, a killed program's for up to 2^14. */
enum { HELD_POWERS = 10, ORPHAN_POWERS = 15, MOST_PARTS = 3 };

static uint64_t digest_of(const void *data, size_t bytes)
{
    uint64_t hash = 1469598103934665603u, word;
    const unsigned char *at = data;
    for (; bytes >= sizeof word; at += sizeof word, bytes -= sizeof word) {
        memcpy(&word, at, sizeof word);
        hash = (hash ^ word) * 1099511628211u;
        hash ^= hash >> 32;
    }
    for (; bytes > 0; at++, bytes--)
        hash = (hash ^ *at) * 1099511628211u;
    return hash;
}

/* ---- what is held back ---- */

static void find_due(epg__sim *sim)
{
    sim->held_due = UINT64_MAX;
    for (const epg__held_store *h = sim->held; h; h = h->next)
        if (h->due < sim->held_due)
            sim->held_due = h->due;
}

static void land(epg__held_store *store)
{
    memcpy(store->to, store->data, store->bytes);
    free(store);
}

typedef bool (*held_test)(const epg__sim *sim, const epg__held_store *store, const void *arg);

static void land_where(epg__sim *sim, held_test wanted, const void *arg)
{
    for (epg__held_store **link = &sim->held; *link;) {
        epg__held_store *store = *link;
        if (wanted(sim, store, arg)) {
            *link = store->next;
            land(store);
        } else {
            link = &store->next;
        }
    }
    find_due(sim);
}

static bool is_owned(const epg__sim *sim, const epg__held_store *store, const void *owner)
{
    (void)sim;
    return store->owner == owner;
}

static bool is_due(const epg__sim *sim, const epg__held_store *store, const void *arg)
{
    (void)arg;
    return store->due <= sim->now;
}

typedef struct range {
    const epg__fiber *owner;
    const char *from;
    size_t bytes;
} range;

static bool overlaps(const epg__sim *sim, const epg__held_store *store, const void *arg)
{
    const range *r = arg;
    const char *to = store->to;
    (void)sim;
    return store->owner == r->owner && to < r->from + r->bytes && r->from < to + store->bytes;
}

void epg__sim_flush(epg__sim *sim, const epg__fiber *owner)
{
    if (sim->held)
        land_where(sim, is_owned, owner);
}

void epg__sim_land_due(epg__sim *sim)
{
    if (sim->held && sim->held_due <= sim->now)
        land_where(sim, is_due, NULL);
}

static void land_own(epg__sim *sim, const void *from, size_t bytes)
{
    range r = {sim->current, from, bytes};
    if (sim->held)
        land_where(sim, overlaps, &r);
}

static uint64_t draw_due(epg__sim *sim, uint64_t powers)
{
    uint64_t moves = 1ull << epg__sim_random(sim) % powers;
    return sim->now + (moves + epg__sim_random(sim) % moves) * sim->options.move_ns;
}

void epg__sim_orphan(epg__sim *sim, uint32_t home)
{
    for (epg__held_store **link = &sim->held; *link;) {
        epg__held_store *store = *link;
        if (store->home != home || !store->owner) {
            link = &store->next;
        } else if (epg__sim_random(sim) & 1) {
            *link = store->next;
            free(store);
        } else {
            store->owner = NULL;
            store->due = draw_due(sim, ORPHAN_POWERS);
            link = &store->next;
        }
    }
    find_due(sim);
}

void epg__sim_drop_held(epg__sim *sim)
{
    while (sim->held) {
        epg__held_store *store = sim->held;
        sim->held = store->next;
        free(store);
    }
}

/* False: there is no memory to hold it back. */
static bool hold(epg__sim *sim, void *to, const void *from, size_t bytes)
{
    epg__held_store *store = malloc(sizeof *store + bytes), **link = &sim->held;
    if (!store)
        return false;
    *store = (epg__held_store){NULL, sim->current, sim->current->home, draw_due(sim, HELD_POWERS), to, bytes};
    memcpy(store->data, from, bytes);
    while (*link)
        link = &(*link)->next;
    *link = store;
    find_due(sim);
    return true;
}

/* ---- the kernels' table ---- */

static void store_part(epg__sim *sim, const char *what, void *to, const void *from, size_t bytes)
{
    epg__sim_move_noted(sim, what, true, digest_of(from, bytes));
    land_own(sim, to, bytes); /* one stream's stores to one place stay in order */
    bool late = epg__sim_random(sim) % 100 < sim->options.late_percent;
    if (!late || !sim->current->work || !hold(sim, to, from, bytes))
        memcpy(to, from, bytes);
}

static void hook_store(epg__simulator *simulator, const char *what, void *to, const void *from, size_t bytes, int split)
{
    epg__sim *sim = epg__sim_of(simulator);
    size_t parts = split ? 1 + epg__sim_random(sim) % MOST_PARTS : 1;
    size_t stride = ((bytes + parts - 1) / parts + 3) & ~(size_t)3;
    for (size_t at = 0, part; at < bytes; at += part) {
        part = bytes - at < stride ? bytes - at : stride;
        store_part(sim, what, (char *)to + at, (const char *)from + at, part);
    }
}

static void hook_release(epg__simulator *simulator, const char *what, int noted, void *to, const void *from,
                         size_t bytes)
{
    epg__sim *sim = epg__sim_of(simulator);
    epg__sim_move_noted(sim, what, noted, digest_of(from, bytes));
    epg__sim_flush(sim, sim->current);
    memcpy(to, from, bytes);
}

static void hook_look(epg__simulator *simulator, const char *what, int noted, const void *from, size_t bytes)
{
    epg__sim *sim = epg__sim_of(simulator);
    epg__sim_move_noted(sim, what, noted, bytes);
    land_own(sim, from, bytes);
}

static void hook_ring(epg__simulator *simulator, epg__doorbell *bell)
{
    epg__sim *sim = epg__sim_of(simulator);
    epg__sim_move(sim, "rings the doorbell", 0);
    bell->rings++;
    epg__sim_wake(sim, bell, true);
}

static void hook_wait(epg__simulator *simulator, epg__doorbell *bell, uint32_t seen, uint64_t ns)
{
    epg__sim *sim = epg__sim_of(simulator);
    epg__sim_move(sim, "goes to sleep", 0);
    if (bell->rings == seen)
        epg__sim_block(sim, bell, epg__sim_after(sim, ns), "a doorbell");
}

static void hook_forget(epg__simulator *simulator, const void *memory, size_t bytes)
{
    epg__sim *sim = epg__sim_of(simulator);
    range r = {NULL, memory, bytes};
    for (epg__held_store **link = &sim->held; *link;) {
        epg__held_store *store = *link;
        if (overlaps(sim, store, &r)) {
            *link = store->next;
            free(store);
        } else {
            link = &store->next;
        }
    }
    find_due(sim);
}

static void hook_note(epg__simulator *simulator, const char *format, ...)
{
    epg__sim *sim = epg__sim_of(simulator);
    va_list args;
    if (!sim->options.trace)
        return;
    va_start(args, format);
    vsnprintf(sim->current->note, sizeof sim->current->note, format, args);
    va_end(args);
}

const epg__simulator_ops epg__sim_hooks = {
    .store = hook_store,
    .release = hook_release,
    .look = hook_look,
    .ring = hook_ring,
    .wait = hook_wait,
    .forget = hook_forget,
    .note = hook_note,
};
