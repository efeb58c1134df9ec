#include <stdio.h>
#include <stdlib.h>
#include "device/device_ops.h"
#include "support/simulated.h"

epg_device *simulated_device(uint64_t seed, uint32_t late_percent, uint64_t max_moves)
{
    epg_simulation_options simulation = EPG_SIMULATION_OPTIONS_INIT;
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    epg_device *d;
    simulation.seed = seed;
    simulation.late_percent = late_percent;
    simulation.max_moves = max_moves;
    options.simulation = &simulation;
    if (epg_device_create(&options, &d) == EPG_OK)
        return d;
    fprintf(stderr, "simulated_device: %s\n", epg_message());
    abort();
}

void step_kernel(const void *raw)
{
    const step_args *a = raw;
    for (uint32_t i = 0; i < a->steps; i++) {
        epg_simulation_move(a->w->d, "steps");
        a->w->counts[a->program]++;
    }
}

void stepping(void *ctx, uint32_t program)
{
    world *w = ctx;
    step_args args = {w, program, 50};
    epg_stream s;
    if (epg_stream_create(w->d, EPG_STREAM_NONBLOCKING, &s) != EPG_OK) {
        w->wrong++;
        return;
    }
    for (int i = 0; i < 4; i++)
        want(w, epg_host_launch(w->d, s, step_kernel, &args, sizeof args, "steps") == EPG_OK);
    want(w, epg_stream_synchronize(w->d, s) == EPG_OK);
    want(w, epg_stream_destroy(w->d, s) == EPG_OK);
}

void write_words(const void *raw)
{
    world *w = *(world *const *)raw;
    epg__simulator *sim = w->d->simulator;
    epg__mark_store(sim, &w->words[0], 1);
    epg__mark_store(sim, &w->words[1], 1);
    epg__data_look(sim, "reads its own", &w->words[0], sizeof w->words[0]);
    w->wrong += w->words[0] != 1; /* a stream sees what it stored itself */
    epg__signal_store(sim, &w->signal, 1);
    epg__mark_store(sim, &w->words[2], 1);
}
