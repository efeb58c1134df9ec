/* Who moves next: the simulator's scheduler and its clock.
 *
 * Not here: what a move does (simulator_memory.c, simulator_engine.c). There is no scheduler fiber: whoever moves or
 * blocks chooses its successor and switches to it, or goes on itself.
 *
 * Every fiber has a pace that is drawn anew from time to time. With equal chances all would advance alike, and what
 * needs one rank far ahead of another would take for ever to come up. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device/simulator_int.h"

enum { PACES = 6, PACE_MOVES = 128, WHOLE_WEIGHT = 1 << 16 };

/* splitmix64 */
uint64_t epg__sim_random(epg__sim *sim)
{
    uint64_t z = (sim->random += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

epg__sim_program *epg__sim_program_at(epg__sim *sim, uint32_t home)
{
    return sim->running && home < sim->program_count ? &sim->programs[home] : NULL;
}

/* ---- the end of all moves ---- */

static bool is_stuck(const epg__fiber *fiber) { return fiber->state == EPG__FIBER_BLOCKED && fiber->waits_for; }

static void describe_deadlock(epg__sim *sim)
{
    size_t used = (size_t)snprintf(sim->why, sizeof sim->why, "nobody can move any more");
    for (const epg__fiber *f = sim->living; f; f = f->next) {
        if (!is_stuck(f) || (f == &sim->caller && sim->running) || used >= sizeof sim->why)
            continue;
        used += (size_t)snprintf(sim->why + used, sizeof sim->why - used, "; %s waits for %s%s%s", f->name,
                                 f->waits_for, f->work ? " in " : "", f->work ? f->work : "");
    }
}

/* ---- choosing ---- */

static bool is_paused(epg__sim *sim, const epg__fiber *fiber)
{
    const epg__sim_program *program = epg__sim_program_at(sim, fiber->home);
    return program && program->stopped_until > sim->now;
}

static void expire(epg__sim *sim)
{
    for (epg__fiber *f = sim->living; f; f = f->next) {
        if (f->state != EPG__FIBER_BLOCKED || f->deadline > sim->now)
            continue;
        f->state = EPG__FIBER_RUNNABLE;
        f->expired = true;
    }
}

/* The earliest time at which something happens by itself; UINT64_MAX: nothing ever does. */
static uint64_t next_event(const epg__sim *sim)
{
    uint64_t at = sim->held ? sim->held_due : UINT64_MAX;
    for (const epg__fiber *f = sim->living; f; f = f->next)
        if (f->state == EPG__FIBER_BLOCKED && f->deadline < at)
            at = f->deadline;
    for (uint32_t p = 0; sim->running && p < sim->program_count; p++)
        if (sim->programs[p].stopped_until > sim->now && sim->programs[p].stopped_until < at)
            at = sim->programs[p].stopped_until;
    return at;
}

/* A fiber's share of the moves; what a slow program leaves unused goes to *idle. */
static uint64_t weigh(epg__sim *sim, const epg__fiber *fiber, uint64_t *idle)
{
    uint64_t whole = (uint64_t)WHOLE_WEIGHT >> fiber->pace;
    const epg__sim_program *program = epg__sim_program_at(sim, fiber->home);
    if (fiber->state != EPG__FIBER_RUNNABLE || is_paused(sim, fiber))
        return 0;
    if (!program || program->factor <= 1)
        return whole;
    uint64_t kept = whole / program->factor ? whole / program->factor : 1;
    *idle += whole - kept;
    return kept;
}

/* One of the runnable fibers, or NULL: the turn goes to a slow one that does not use it, or nobody is runnable
 * (*runnable false). */
static epg__fiber *draw(epg__sim *sim, bool *runnable)
{
    uint64_t total = 0, idle = 0, unused = 0;
    for (const epg__fiber *f = sim->living; f; f = f->next)
        total += weigh(sim, f, &idle);
    *runnable = total > 0;
    if (total == 0)
        return NULL;
    uint64_t at = epg__sim_random(sim) % (total + idle);
    for (epg__fiber *f = sim->living; f; f = f->next) {
        uint64_t weight = weigh(sim, f, &unused);
        if (at < weight)
            return f;
        at -= weight;
    }
    return NULL;
}

static epg__fiber *choose(epg__sim *sim)
{
    for (;;) {
        bool runnable;
        if (sim->over)
            return &sim->caller;
        expire(sim);
        epg__sim_land_due(sim);
        epg__fiber *chosen = draw(sim, &runnable);
        if (chosen)
            return chosen;
        uint64_t at = runnable ? sim->now + sim->options.move_ns : next_event(sim);
        if (at == UINT64_MAX) {
            describe_deadlock(sim);
            sim->over = EPG_ERR_STATE;
            continue;
        }
        sim->now = at > sim->now ? at : sim->now;
    }
}

static void switch_to(epg__sim *sim, epg__fiber *next, bool ends)
{
    epg__fiber *self = sim->current;
    if (next == self)
        return;
    sim->current = next;
    epg__message_use(next->message);
    epg__context_switch(&self->context, &next->context, ends);
}

/* ---- moving ---- */

static void digest_word(epg__sim *sim, uint64_t value)
{
    sim->digest = (sim->digest ^ value) * 0x9E3779B97F4A7C15u;
    sim->digest ^= sim->digest >> 29;
}

static void digest_text(epg__sim *sim, const char *text)
{
    uint64_t hash = 1469598103934665603u;
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 1099511628211u;
    digest_word(sim, hash);
}

static void trace(const epg__sim *sim, const epg__fiber *fiber, const char *what, bool noted)
{
    const char *work = fiber->work, *note = noted ? fiber->note : "";
    char text[256];
    if (!what && (work || !*note))
        return;
    snprintf(text, sizeof text, "%s%s%s%s%s", work ? work : "", work ? ": " : "", what ? what : "",
             what && *note ? " " : "", note);
    sim->options.trace(sim->options.trace_ctx, sim->now, fiber->name, text);
}

static void check_bound(epg__sim *sim)
{
    if (!sim->running || !sim->options.max_moves || sim->run_moves < sim->options.max_moves || sim->over)
        return;
    snprintf(sim->why, sizeof sim->why, "the run is not over after %llu moves",
             (unsigned long long)sim->options.max_moves);
    sim->over = EPG_ERR_TIMEOUT;
}

static void account(epg__sim *sim, const char *what, bool noted, uint64_t value)
{
    epg__fiber *self = sim->current;
    sim->moves++;
    sim->run_moves++;
    sim->now += sim->options.move_ns;
    digest_word(sim, (uint64_t)self->number << 32 ^ sim->now);
    digest_word(sim, value);
    if (what)
        digest_text(sim, what);
    if (sim->options.trace)
        trace(sim, self, what, noted);
    check_bound(sim);
}

void epg__sim_move_noted(epg__sim *sim, const char *what, bool noted, uint64_t value)
{
    epg__fiber *self = sim->current;
    if (self->locks == 0) {
        if (epg__sim_random(sim) % PACE_MOVES == 0)
            self->pace = (uint32_t)(epg__sim_random(sim) % PACES);
        switch_to(sim, choose(sim), false);
    }
    account(sim, what, noted, value);
}

/* Hands the caller what ended all moves. */
static epg_status caller_gives_up(epg__sim *sim)
{
    sim->caller.state = EPG__FIBER_RUNNABLE;
    if (!sim->running)
        sim->over = EPG_OK;
    return epg__fail(EPG_ERR_STATE, "%s", sim->why);
}

epg_status epg__sim_block(epg__sim *sim, const void *on, uint64_t deadline, const char *what)
{
    epg__fiber *self = sim->current;
    self->state = EPG__FIBER_BLOCKED;
    self->waits_on = on;
    self->waits_for = what;
    self->deadline = deadline;
    self->expired = false;
    switch_to(sim, choose(sim), false);
    self->waits_on = NULL;
    if (self == &sim->caller && sim->over)
        return caller_gives_up(sim);
    account(sim, NULL, false, self->expired);
    return self->expired ? EPG_ERR_TIMEOUT : EPG_OK;
}

static bool waits(const epg__fiber *fiber, const void *on)
{
    return fiber->state == EPG__FIBER_BLOCKED && fiber->waits_on == on;
}

void epg__sim_wake(epg__sim *sim, const void *on, bool all)
{
    uint64_t count = 0, chosen = 0;
    for (const epg__fiber *f = sim->living; f && !all; f = f->next)
        count += waits(f, on);
    if (count > 0)
        chosen = epg__sim_random(sim) % count;
    for (epg__fiber *f = sim->living; f; f = f->next)
        if (waits(f, on) && (all || chosen-- == 0))
            f->state = EPG__FIBER_RUNNABLE;
}

/* ---- fibers ---- */

static void unlink_from(epg__fiber **list, const epg__fiber *fiber)
{
    while (*list && *list != fiber)
        list = &(*list)->next;
    if (*list)
        *list = fiber->next;
}

static void end_fiber(epg__sim *sim, epg__fiber *fiber)
{
    unlink_from(&sim->living, fiber);
    fiber->state = EPG__FIBER_ENDED;
    fiber->next = sim->ended;
    sim->ended = fiber;
    epg__sim_wake(sim, fiber, true);
}

static void enter(void *arg)
{
    epg__fiber *self = arg;
    epg__sim *sim = self->sim;
    self->main(self->arg);
    epg__sim_fiber_exit(sim);
}

void epg__sim_fiber_exit(epg__sim *sim)
{
    end_fiber(sim, sim->current);
    switch_to(sim, choose(sim), true);
}

epg__fiber *epg__sim_fiber_create(epg__sim *sim, uint32_t home, void *(*main)(void *arg), void *arg)
{
    epg__fiber *fiber = epg__zalloc(1, sizeof *fiber, "a simulated thread"), **link = &sim->living;
    if (!fiber)
        return NULL;
    fiber->message = epg__zalloc(1, sizeof *fiber->message, "a simulated thread's message");
    if (!fiber->message || !epg__context_create(&fiber->context, &sim->stacks, enter, fiber)) {
        free(fiber->message);
        free(fiber);
        epg__fail(EPG_ERR_NO_MEMORY, "no memory for a simulated thread's stack");
        return NULL;
    }
    fiber->sim = sim;
    fiber->number = ++sim->fibers;
    fiber->home = home;
    fiber->main = main;
    fiber->arg = arg;
    fiber->deadline = UINT64_MAX;
    fiber->pace = (uint32_t)(epg__sim_random(sim) % PACES);
    while (*link)
        link = &(*link)->next;
    *link = fiber;
    return fiber;
}

void epg__sim_fiber_cut(epg__sim *sim, epg__fiber *fiber)
{
    if (fiber->state != EPG__FIBER_ENDED)
        end_fiber(sim, fiber);
    epg__context_destroy(&fiber->context, &sim->stacks);
}

void epg__sim_fiber_free(epg__sim *sim, epg__fiber *fiber)
{
    unlink_from(&sim->ended, fiber);
    epg__context_destroy(&fiber->context, &sim->stacks);
    free(fiber->message);
    free(fiber);
}

/* ---- creation ---- */

static epg_status check_options(const epg_simulation_options *given, epg_simulation_options *options)
{
    EPG__CHECK_SIZE(given, sizeof *given);
    *options = *given;
    if (options->late_percent > 100)
        return epg__fail(EPG_ERR_INVALID, "late_percent is %u, above 100", options->late_percent);
    if (options->move_ns == 0)
        options->move_ns = 100;
    if (options->move_ns > 1000000000u)
        return epg__fail(EPG_ERR_INVALID, "move_ns is %llu, more than a second", (unsigned long long)options->move_ns);
    return EPG_OK;
}

epg_status epg__engine_simulator_create(const epg_simulation_options *given, epg__engine **engine,
                                        epg__simulator **simulator)
{
    epg_simulation_options options;
    EPG_TRY(check_options(given, &options));
    epg__sim *sim = epg__zalloc(1, sizeof *sim, "a simulator");
    if (!sim)
        return EPG_ERR_NO_MEMORY;
    sim->hooks.ops = &epg__sim_hooks;
    sim->engine.ops = &epg__sim_engine_ops;
    sim->options = options;
    sim->random = options.seed;
    sim->now = 1; /* 0 is no time at all to some who compare */
    sim->current = sim->living = &sim->caller;
    sim->caller.sim = sim;
    sim->caller.home = EPG__NO_HOME;
    sim->caller.deadline = UINT64_MAX;
    snprintf(sim->caller.name, sizeof sim->caller.name, "the caller");
    *engine = &sim->engine;
    *simulator = &sim->hooks;
    return EPG_OK;
}
