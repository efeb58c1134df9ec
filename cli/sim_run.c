/* A whole run: device, team, ranks as fibers, and one more fiber that brings the faults. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "sim_rank_int.h"

/* The first moves of a run that ends are far fewer than this. */
enum { MOVES_MAX = 3000000, WATCH_NS = 1000 };

void sim_trouble(sim_run_state *run, const char *format, ...)
{
    va_list arguments;
    if (run->result->trouble[0])
        return;
    va_start(arguments, format);
    vsnprintf(run->result->trouble, sizeof run->result->trouble, format, arguments);
    va_end(arguments);
}

uint32_t sim_join_pair(const sim_program *p, uint32_t *rank)
{
    for (uint32_t i = 0; i < SIM_FAULTS; i++)
        if (p->fault[i].kind == SIM_FAULT_JOIN) {
            *rank = p->fault[i].rank;
            return p->fault[i].back;
        }
    *rank = SIM_RANKS;
    return p->shape.pairs;
}

/* ---- faults ---- */

static int all_done(const sim_run_state *run)
{
    for (uint32_t r = 0; r < run->program->shape.ranks; r++)
        if (!run->ranks[run->life[r]][r].done)
            return 0;
    return 1;
}

static epg_status bring_back(sim_run_state *run, uint32_t rank)
{
    uint32_t other = rank == 0 ? 1 : 0;
    sim_rank *second = &run->ranks[1][rank];
    epg_status status = epg_team_retire(run->teams[other], rank);
    if (status == EPG_OK)
        status = epg_team_rejoin(run->teams[other], rank, &second->team);
    if (status != EPG_OK)
        return status;
    run->life[rank] = 1;
    return epg_simulation_restart(run->device, rank);
}

static void strike(sim_run_state *run, uint32_t index)
{
    const sim_fault *f = &run->program->fault[index];
    epg_status status;
    run->result->struck[index] = 1;
    if (f->kind == SIM_FAULT_STOP) {
        status = epg_simulation_stop(run->device, f->rank, f->time);
    } else {
        run->ranks[0][f->rank].doomed = 1;
        status = epg_simulation_kill(run->device, f->rank);
        run->ranks[0][f->rank].done = 1;
    }
    if (status == EPG_OK && f->kind == SIM_FAULT_JOIN) {
        run->ranks[0][f->rank].done = 0; /* nobody is to leave before it is back */
        epg_simulation_sleep(run->device, f->time ? f->time : 1);
        status = bring_back(run, f->rank);
    }
    if (status != EPG_OK)
        sim_trouble(run, "fault %u: %s: %s", index, epg_status_name(status), epg_message());
}

static int is_due(const sim_run_state *run, uint32_t index)
{
    const sim_fault *f = &run->program->fault[index];
    return f->kind && !run->result->struck[index] && run->ranks[0][f->rank].begun > f->pair;
}

/* Brings every fault when its time has come, one after the other. */
static void bring_faults(sim_run_state *run)
{
    uint64_t due[SIM_FAULTS] = {0};
    for (;;) {
        int left = 0;
        uint64_t now = epg_device_now_ns(run->device);
        for (uint32_t i = 0; i < SIM_FAULTS; i++) {
            const sim_fault *f = &run->program->fault[i];
            if (is_due(run, i) && due[i] == 0)
                due[i] = now + f->after + 1;
            int open = !run->ranks[0][f->rank].done && (f->kind == SIM_FAULT_STOP || !run->ranks[0][f->rank].holds);
            if (due[i] && !run->result->struck[i] && due[i] <= now && open)
                strike(run, i);
            left |= f->kind && !run->result->struck[i] && !run->ranks[0][f->rank].done;
        }
        if (!left || all_done(run))
            return;
        epg_simulation_sleep(run->device, WATCH_NS);
    }
}

/* ---- the run ---- */

static void live(void *ctx, uint32_t index)
{
    sim_run_state *run = ctx;
    if (index == run->program->shape.ranks) {
        bring_faults(run);
        return;
    }
    sim_rank *rank = &run->ranks[run->life[index]][index];
    if (rank->shape->slow > 1)
        epg_simulation_slow(run->device, index, rank->shape->slow);
    sim_rank_live(rank);
}

static epg_status make_device(sim_run_state *run, uint32_t schedule, sim_trace_fn trace, void *trace_ctx)
{
    epg_simulation_options simulation = EPG_SIMULATION_OPTIONS_INIT;
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    epg_team_options team = EPG_TEAM_OPTIONS_INIT;
    simulation.late_percent = run->program->shape.late;
    simulation.seed = schedule;
    simulation.max_moves = MOVES_MAX;
    simulation.trace = trace;
    simulation.trace_ctx = trace_ctx;
    options.simulation = &simulation;
    team.timeout_ms = 60000;
    epg_status status = epg_device_create(&options, &run->device);
    return status == EPG_OK ? epg_team_create_threads(run->device, &team, run->program->shape.ranks, run->teams)
                            : status;
}

static void make_ranks(sim_run_state *run)
{
    const sim_program *p = run->program;
    run->join_pair = sim_join_pair(p, &run->join_rank);
    for (uint32_t life = 0; life < SIM_LIVES; life++)
        for (uint32_t r = 0; r < p->shape.ranks; r++)
            run->ranks[life][r] = (sim_rank){.run = run, .program = p, .shape = &p->rank[r], .number = r, .life = life,
                                             .device = run->device, .team = life ? NULL : run->teams[r]};
}

/* One block for all that the ranks will see. */
static int make_seen(const sim_program *p, sim_result *result)
{
    const sim_shape *s = &p->shape;
    uint32_t room = s->ranks * s->slots * (s->topk < s->experts ? s->topk : s->experts);
    size_t row = sim_row_bytes(p), one = room * (sizeof(sim_row) + row) + s->tokens * row;
    char *at = result->memory = calloc((size_t)s->ranks * s->pairs, one);
    if (!at)
        return -1;
    for (uint32_t r = 0; r < s->ranks; r++)
        for (uint32_t i = 0; i < s->pairs; i++, at += one) {
            sim_seen *seen = &result->seen[r][i];
            seen->row_room = room;
            seen->rows = (sim_row *)at;
            seen->row_bytes = at + room * sizeof(sim_row);
            seen->out = seen->row_bytes + room * row;
        }
    return 0;
}

static void clean_up(sim_run_state *run)
{
    for (uint32_t life = 0; life < SIM_LIVES; life++)
        for (uint32_t r = 0; r < run->program->shape.ranks; r++)
            sim_rank_destroy(&run->ranks[life][r]);
    for (uint32_t r = 0; r < run->program->shape.ranks; r++) {
        epg_team_destroy(run->ranks[1][r].team);
        epg_team_destroy(run->teams[r]);
    }
    epg_device_destroy(run->device);
}

int sim_run(const sim_program *p, uint32_t schedule, sim_trace_fn trace, void *trace_ctx, sim_result *result)
{
    memset(result, 0, sizeof *result);
    sim_run_state *run = calloc(1, sizeof *run);
    if (!run || make_seen(p, result)) {
        free(run);
        return -1;
    }
    run->program = p;
    run->result = result;
    epg_status status = make_device(run, schedule, trace, trace_ctx);
    if (status == EPG_OK) {
        make_ranks(run);
        status = epg_simulation_run(run->device, p->shape.ranks + 1, live, run);
        result->moves = epg_simulation_moves(run->device);
        result->digest = epg_simulation_digest(run->device);
        result->time_ns = epg_device_now_ns(run->device);
    }
    result->status = status;
    if (status != EPG_OK)
        sim_trouble(run, "the simulation: %s: %s", epg_status_name(status), epg_message());
    if (run->device)
        clean_up(run);
    free(run);
    return 0;
}

void sim_result_free(sim_result *result) { free(result->memory); }
