/* A group's operations on the host device: each half is one launch of a kernel of dispatch_host.c or combine_host.c. */
#include <stdlib.h>
#include <string.h>
#include "device/device_ops.h"
#include "ep/group_state_int.h"
#include "ep/kernels_int.h"
#include "team/team_ops.h"

static epg_wire_header *own_header(const epg_group *g) { return g->peers[epg_team_rank(g->team)]; }
static epg__simulator *sim_of(const epg_group *g) { return g->device->simulator; }

static epg_status create(epg_group *g)
{
    (void)g;
    return EPG_OK;
}

static epg_status ready(epg_group *g)
{
    epg_wire_header *header = own_header(g);
    memset(header, 0, g->wire.lanes);
    header->version = EPG_WIRE_VERSION;
    header->ranks = g->wire.geometry.ranks;
    header->geometry_hash = epg__wire_hash(&g->wire.geometry);
    header->geometry = g->wire.geometry;
    header->incarnation = g->team->incarnation;
    for (uint32_t l = 0; l < g->options.lanes; l++) {
        char *lane = epg__lane_at(&g->wire, header, l);
        memset(lane, 0, g->wire.marks);
        ((epg_wire_lane *)lane)->epoch = g->options.first_epoch;
        for (uint32_t r = 0; r < header->ranks; r++)
            epg__lives_of(&g->lanes[l])[r] = g->newest[r];
    }
    return EPG_OK;
}

static void destroy(epg_group *g) { (void)g; }

static epg_status launch(epg_group *g, epg_operation operation, void (*kernel)(const void *), const void *args,
                         size_t bytes, epg_stream stream)
{
    return epg_host_launch(g->device, stream, kernel, args, bytes, epg__operation_name(operation));
}

static epg_status dispatch_send(epg_group *g, const epg_dispatch_args *user, int is_void, epg_mode mode,
                                epg_stream stream)
{
    epg__dispatch_send_args args = {&g->lanes[user->lane], *user, is_void};
    return launch(g, EPG_OP_DISPATCH_SEND,
                  mode == EPG_MODE_LL ? epg__dispatch_send_ll_host : epg__dispatch_send_ht_host, &args, sizeof args,
                  stream);
}

static epg_status half(epg_group *g, uint32_t lane, epg_operation operation, int is_void, const void *rows, void *out,
                       epg_stream stream)
{
    int ll = g->order[lane].mode == EPG_MODE_LL;
    epg__half_args args = {&g->lanes[lane], is_void, rows, out};
    void (*kernel)(const void *) = epg__combine_recv_host;
    if (operation == EPG_OP_DISPATCH_RECV)
        kernel = ll ? epg__dispatch_recv_ll_host : epg__dispatch_recv_ht_host;
    else if (operation == EPG_OP_COMBINE_SEND)
        kernel = ll ? epg__combine_send_ll_host : epg__combine_send_ht_host;
    return launch(g, operation, kernel, &args, sizeof args, stream);
}

static epg_status dispatch_recv(epg_group *g, uint32_t lane, int is_void, epg_stream stream)
{
    return half(g, lane, EPG_OP_DISPATCH_RECV, is_void, NULL, NULL, stream);
}

static epg_status combine_send(epg_group *g, uint32_t lane, int is_void, const void *expert_rows, epg_stream stream)
{
    return half(g, lane, EPG_OP_COMBINE_SEND, is_void, expert_rows, NULL, stream);
}

static epg_status combine_recv(epg_group *g, uint32_t lane, int is_void, void *out, epg_stream stream)
{
    return half(g, lane, EPG_OP_COMBINE_RECV, is_void, NULL, out, stream);
}

static epg_status dispatch(epg_group *g, const epg_dispatch_args *user, epg_mode mode, epg_stream stream, int *halves)
{
    EPG_TRY(dispatch_send(g, user, 0, mode, stream));
    *halves = 1;
    EPG_TRY(dispatch_recv(g, user->lane, 0, stream));
    *halves = 2;
    return EPG_OK;
}

static epg_status combine(epg_group *g, uint32_t lane, const void *expert_rows, void *out, epg_stream stream,
                          int *halves)
{
    EPG_TRY(combine_send(g, lane, 0, expert_rows, stream));
    *halves = 1;
    EPG_TRY(combine_recv(g, lane, 0, out, stream));
    *halves = 2;
    return EPG_OK;
}

/* ---- joining again ---- */

/* Peers that have not noticed the loss may still look at these words, or store into them: each is stored whole. What
 * they store is of epochs before any that this rank will wait for. */
static void clean_words(epg__simulator *sim, void *from, size_t bytes)
{
    for (uint32_t *word = from, *end = word + bytes / sizeof *word; word < end; word++)
        epg__word_store(sim, word, 0);
}

static void clean_place(epg_group *g)
{
    epg__simulator *sim = sim_of(g);
    epg_wire_header *header = own_header(g);
    epg__word_store(sim, &header->outside, 1);
    epg__word_store(sim, &header->aborted, 0);
    epg__word_store(sim, &header->rehearsal, 0);
    epg__word_store(sim, &header->bell.waiters, 0);
    clean_words(sim, &header->record, sizeof header->record);
    clean_words(sim, header->counters, sizeof header->counters);
    clean_words(sim, (char *)header + g->wire.mask, g->wire.lanes - g->wire.mask);
    for (uint32_t l = 0; l < g->options.lanes; l++) {
        char *lane = epg__lane_at(&g->wire, header, l);
        epg_wire_lane *own = (epg_wire_lane *)lane;
        clean_words(sim, own, offsetof(epg_wire_lane, beat));
        epg__signal_store(sim, &own->beat, 0);
        for (uint32_t i = 0; i < 4 * g->wire.geometry.ranks; i++)
            epg__signal_store(sim, (uint64_t *)(lane + g->wire.signals) + i, 0);
    }
    epg__word_store(sim, &header->incarnation, g->team->incarnation); /* partner: look() in wait_host.c */
    for (uint32_t r = 0; r < g->wire.geometry.ranks; r++) /* who waits for the life before need wait no longer */
        epg__doorbell_ring(sim, &((epg_wire_header *)g->peers[r])->bell);
}

static epg_status join(epg_group *g)
{
    uint32_t rank = epg_team_rank(g->team);
    EPG_TRY(epg__group_compare(&own_header(g)->geometry, &g->wire.geometry, rank, rank));
    clean_place(g);
    return EPG_OK;
}

static epg_status admit(epg_group *g, const epg_admission *admission, epg_stream stream)
{
    size_t bytes = sizeof(epg__admit_args) + admission->ranks * sizeof(epg_member);
    epg__admit_args *args = epg__zalloc(1, bytes, "an admission");
    if (!args)
        return EPG_ERR_NO_MEMORY;
    args->lanes = g->lanes;
    args->lane_count = g->options.lanes;
    args->joins = (uint32_t)g->outside;
    memcpy(args->epochs, admission->epochs, args->lane_count * sizeof *args->epochs);
    memcpy(args->members, admission->members, admission->ranks * sizeof *args->members);
    epg_status status = launch(g, EPG_OP_JOIN, epg__admit_host, args, bytes, stream);
    free(args);
    return status;
}

/* ---- words ---- */

typedef struct rehearsal_args {
    epg__simulator *sim;
    uint32_t *word;
    uint32_t on;
} rehearsal_args;

static void set_rehearsal(const void *raw)
{
    const rehearsal_args *args = raw;
    epg__word_store(args->sim, args->word, args->on);
}

static epg_status rehearse(epg_group *g, int on, epg_stream stream)
{
    rehearsal_args args = {sim_of(g), &own_header(g)->rehearsal, on != 0};
    return epg_host_launch(g->device, stream, set_rehearsal, &args, sizeof args, "rehearsal");
}

static void abort_waits(epg_group *g)
{
    epg__word_store(sim_of(g), &own_header(g)->aborted, 1); /* partner: look() in wait_host.c */
    epg__doorbell_ring(sim_of(g), &own_header(g)->bell);
}

static const epg_wire_record *record(const epg_group *g) { return &own_header(g)->record; }

static epg_status clear_record(epg_group *g)
{
    epg__word_store(sim_of(g), &own_header(g)->record.taken, 0);
    return EPG_OK;
}

static epg_status alive(epg_group *g, uint32_t rank, int *answer)
{
    *answer = 1;
    for (uint32_t l = 0; l < g->options.lanes; l++)
        *answer &= epg__rank_alive(&g->lanes[l], rank);
    return EPG_OK;
}

static epg_status give_up(epg_group *g, uint32_t rank, uint32_t incarnation)
{
    epg__give_up(&g->lanes[0], rank, incarnation);
    epg__doorbell_ring(sim_of(g), &own_header(g)->bell);
    return EPG_OK;
}

static epg_status counters(epg_group *g, uint64_t value[EPG_COUNTERS])
{
    for (int i = 0; i < EPG_COUNTERS; i++)
        value[i] = __atomic_load_n(&own_header(g)->counters[i], __ATOMIC_RELAXED);
    return EPG_OK;
}

const epg__kernels epg__kernels_host = {
    .create = create,
    .ready = ready,
    .destroy = destroy,
    .join = join,
    .admit = admit,
    .dispatch_send = dispatch_send,
    .dispatch_recv = dispatch_recv,
    .combine_send = combine_send,
    .combine_recv = combine_recv,
    .dispatch = dispatch,
    .combine = combine,
    .rehearse = rehearse,
    .abort = abort_waits,
    .record = record,
    .clear_record = clear_record,
    .alive = alive,
    .give_up = give_up,
    .counters = counters,
};
