/* The public calls of a simulation: running host programs, and the faults they may be given.
 *
 * Not here: who moves when (simulator.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device/device_host_int.h"
#include "device/simulator_int.h"

static epg_status sim_of(epg_device *device, const char *call, epg__sim **sim)
{
    if (!device)
        return epg__fail(EPG_ERR_INVALID, "%s: device is NULL", call);
    if (!device->simulator)
        return epg__fail(EPG_ERR_UNSUPPORTED, "%s: the device is not simulated", call);
    *sim = epg__sim_of(device->simulator);
    return EPG_OK;
}

/* ---- cutting off ---- */

/* Whose fibers are cut: those of one program, or everybody's but the caller's. The current fiber cannot be. */
static bool is_hit(const epg__sim *sim, const epg__fiber *fiber, uint32_t home, bool all)
{
    return fiber != &sim->caller && fiber != sim->current && (all || fiber->home == home);
}

static void cut_fibers(epg__sim *sim, uint32_t home, bool all)
{
    for (epg__fiber *f = sim->living, *next; f; f = next) {
        next = f->next;
        if (is_hit(sim, f, home, all))
            epg__sim_fiber_cut(sim, f);
    }
}

/* The run ends with an error: nobody but the caller is left. */
static void cut_all(epg_device *device, epg__sim *sim)
{
    cut_fibers(sim, EPG__NO_HOME, true);
    epg__sim_drop_held(sim);
    sim->over = EPG_OK;
    epg__host_streams_drop(epg__host_of(device), EPG__NO_HOME, true);
}

/* ---- a run ---- */

static void *program_main(void *arg)
{
    epg__fiber *self = arg;
    self->sim->program(self->sim->program_ctx, self->home);
    return NULL;
}

static epg_status start_program(epg__sim *sim, uint32_t index)
{
    epg__sim_program *program = &sim->programs[index];
    epg__fiber *fiber = epg__sim_fiber_create(sim, index, program_main, NULL);
    if (!fiber)
        return EPG_ERR_NO_MEMORY;
    fiber->arg = fiber;
    snprintf(fiber->name, sizeof fiber->name, "rank %u", index);
    program->fiber = fiber;
    program->killed = false;
    return EPG_OK;
}

static epg_status make_room(epg__sim *sim, uint32_t programs)
{
    if (programs > sim->program_room) {
        epg__sim_program *grown = epg__grow(sim->programs, programs, sizeof *grown, "a simulation's programs");
        if (!grown)
            return EPG_ERR_NO_MEMORY;
        memset(grown + sim->program_room, 0, (programs - sim->program_room) * sizeof *grown);
        sim->programs = grown;
        sim->program_room = programs;
    }
    for (uint32_t p = 0; p < programs; p++) {
        epg__sim_program *program = &sim->programs[p];
        *program = (epg__sim_program){.streams = program->streams, .branches = program->branches, .factor = 1};
    }
    return EPG_OK;
}

static const epg__fiber *unfinished(const epg__sim *sim)
{
    for (uint32_t p = 0; p < sim->program_count; p++) {
        const epg__fiber *fiber = sim->programs[p].fiber;
        if (fiber && fiber->state != EPG__FIBER_ENDED)
            return fiber;
    }
    return NULL;
}

/* Until every program has returned or was killed, and all work is done. A restarted one is waited for as well. */
static epg_status await_programs(epg_device *device, epg__sim *sim)
{
    const epg__fiber *one;
    while ((one = unfinished(sim)) != NULL)
        EPG_TRY(epg__sim_block(sim, one, UINT64_MAX, "the programs"));
    return epg__host_await_all(epg__host_of(device));
}

static void free_programs(epg__sim *sim)
{
    for (uint32_t p = 0; p < sim->program_count; p++)
        if (sim->programs[p].fiber)
            epg__sim_fiber_free(sim, sim->programs[p].fiber);
    for (uint32_t p = 0; p < sim->program_count; p++)
        sim->programs[p].fiber = NULL;
}

epg_status epg_simulation_run(epg_device *device, uint32_t programs, void (*program)(void *ctx, uint32_t index),
                              void *ctx)
{
    epg__sim *sim = NULL;
    epg_status status = EPG_OK;
    EPG_TRY(sim_of(device, "epg_simulation_run", &sim));
    if (!program || programs == 0)
        return epg__fail(EPG_ERR_INVALID, "epg_simulation_run: no program");
    if (sim->running)
        return epg__fail(EPG_ERR_STATE, "epg_simulation_run: a run is under way");
    EPG_TRY(make_room(sim, programs));
    sim->program = program;
    sim->program_ctx = ctx;
    sim->program_count = programs;
    sim->run_moves = 0;
    sim->running = true;
    for (uint32_t p = 0; p < programs && status == EPG_OK; p++)
        status = start_program(sim, p);
    if (status == EPG_OK && await_programs(device, sim) != EPG_OK)
        status = epg__fail(sim->over ? sim->over : EPG_ERR_STATE, "%s", sim->why);
    sim->running = false; /* what follows is not bounded */
    if (status != EPG_OK)
        cut_all(device, sim);
    epg__sim_drop_held(sim); /* a killed program's: what has not landed never does */
    free_programs(sim);
    return status;
}

/* ---- faults ---- */

static epg_status program_of(epg_device *device, uint32_t index, const char *call, epg__sim **sim,
                             epg__sim_program **program)
{
    EPG_TRY(sim_of(device, call, sim));
    if (!(*sim)->running)
        return epg__fail(EPG_ERR_STATE, "%s: no run is under way", call);
    if (index >= (*sim)->program_count)
        return epg__fail(EPG_ERR_INVALID, "%s: program is %u, not below %u", call, index, (*sim)->program_count);
    *program = &(*sim)->programs[index];
    return EPG_OK;
}

epg_status epg_simulation_stop(epg_device *device, uint32_t index, uint64_t ns)
{
    epg__sim *sim = NULL;
    epg__sim_program *program;
    EPG_TRY(program_of(device, index, "epg_simulation_stop", &sim, &program));
    epg__sim_move(sim, "stops a program", index);
    program->stopped_until = epg__sim_after(sim, ns);
    return EPG_OK;
}

epg_status epg_simulation_slow(epg_device *device, uint32_t index, uint32_t factor)
{
    epg__sim *sim = NULL;
    epg__sim_program *program;
    EPG_TRY(program_of(device, index, "epg_simulation_slow", &sim, &program));
    epg__sim_move(sim, "slows a program", index);
    program->factor = factor;
    return EPG_OK;
}

epg_status epg_simulation_kill(epg_device *device, uint32_t index)
{
    epg__sim *sim = NULL;
    epg__sim_program *program;
    EPG_TRY(program_of(device, index, "epg_simulation_kill", &sim, &program));
    if (sim->current->work)
        return epg__fail(EPG_ERR_STATE, "epg_simulation_kill: called by %s, not by a program", sim->current->work);
    epg__sim_move(sim, "kills a program", index);
    program->killed = true;
    cut_fibers(sim, index, false);
    epg__sim_orphan(sim, index);
    epg__host_streams_drop(epg__host_of(device), index, false);
    if (sim->current == program->fiber)
        epg__sim_fiber_exit(sim);
    return EPG_OK;
}

epg_status epg_simulation_restart(epg_device *device, uint32_t index)
{
    epg__sim *sim = NULL;
    epg__sim_program *program;
    EPG_TRY(program_of(device, index, "epg_simulation_restart", &sim, &program));
    epg__sim_move(sim, "starts a program anew", index);
    if (!program->killed)
        return epg__fail(EPG_ERR_STATE, "epg_simulation_restart: program %u was not killed", index);
    epg__fiber *old = program->fiber;
    EPG_TRY(start_program(sim, index));
    epg__sim_fiber_free(sim, old);
    program->factor = 1;
    program->stopped_until = 0;
    return EPG_OK;
}

/* ---- moving and telling ---- */

void epg_simulation_move(epg_device *device, const char *what)
{
    if (device && device->simulator)
        epg__sim_move(epg__sim_of(device->simulator), what ? what : "moves", 0);
}

void epg_simulation_sleep(epg_device *device, uint64_t ns)
{
    epg__sim *sim = NULL;
    if (!device || !device->simulator)
        return;
    sim = epg__sim_of(device->simulator);
    epg__sim_move(sim, "sleeps", ns);
    epg__sim_block(sim, NULL, epg__sim_after(sim, ns), "the time");
}

uint64_t epg_simulation_moves(epg_device *device)
{
    return device && device->simulator ? epg__sim_of(device->simulator)->moves : 0;
}

uint64_t epg_simulation_digest(epg_device *device)
{
    return device && device->simulator ? epg__sim_of(device->simulator)->digest : 0;
}
