/* Joining again, the host's side: a group on a place that was lost, and the admission that all ranks enqueue. What the
 * device does with it is admit_host.c's. */
#include <stdlib.h>
#include <string.h>
#include "device/device_ops.h"
#include "ep/group_state_int.h"
#include "team/team_ops.h"

/* ---- a group on a lost place ---- */

/* Peers that have not noticed the loss may still look at these words, or store into them: each is stored whole. What
 * they store is of epochs before any that this rank will wait for. */
static void clean_words(epg__simulator *sim, void *from, size_t bytes)
{
    for (uint32_t *word = from, *end = word + bytes / sizeof *word; word < end; word++)
        epg__word_store(sim, word, 0);
}

static void clean_place(epg_group *g)
{
    epg__simulator *sim = g->device->simulator;
    epg_wire_header *header = g->peers[g->team->rank];
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
    g->cleans++;
}

static epg_status join_place(epg_group *g, const epg_group_options *options)
{
    EPG_TRY(epg__group_create_private(g, options));
    EPG_TRY(g->team->ops->symmetric_join(g->team, g->wire.total, g->peers));
    const epg_wire_header *header = g->peers[g->team->rank];
    EPG_TRY(epg__group_compare(&header->geometry, &g->wire.geometry, g->team->rank, g->team->rank));
    clean_place(g);
    g->outside = 1;
    return epg__group_hook(g); /* after the cleaning: it may find the team aborted */
}

epg_status epg_group_join(epg_team *team, const epg_group_options *options, epg_group **group)
{
    if (!team || !group)
        return epg__fail(EPG_ERR_INVALID, "team or group is NULL");
    if (team->incarnation == 0)
        return epg__fail(EPG_ERR_STATE, "rank %u is in its first life: its groups are created, not joined", team->rank);
    if (team->device->info.kind != EPG_DEVICE_HOST)
        return epg__fail(EPG_ERR_UNSUPPORTED, "a group can be joined on the host device alone; this is %s",
                         team->device->info.name);
    epg_group *g = epg__zalloc(1, sizeof *g, "a group");
    if (!g)
        return EPG_ERR_NO_MEMORY;
    g->team = team;
    g->device = team->device;
    epg_status status = join_place(g, options);
    if (status != EPG_OK) {
        epg_group_destroy(g);
        return status;
    }
    *group = g;
    return EPG_OK;
}

/* ---- admission ---- */

static epg_status check_member(const epg_group *g, const epg_member *member, uint32_t rank)
{
    if (member->state > EPG_MEMBER_JOINS)
        return epg__fail(EPG_ERR_INVALID, "the state of rank %u is %u", rank, member->state);
    if (member->incarnation > EPG_TEAM_MAX_INCARNATION)
        return epg__fail(EPG_ERR_INVALID, "the incarnation of rank %u is %u, above %d", rank, member->incarnation,
                         EPG_TEAM_MAX_INCARNATION);
    if (member->state == EPG_MEMBER_JOINS && member->incarnation == 0)
        return epg__fail(EPG_ERR_INVALID, "rank %u joins with incarnation 0, which is a first life", rank);
    if (rank == g->team->rank && member->incarnation != g->team->incarnation)
        return epg__fail(EPG_ERR_INVALID, "this rank, %u, is incarnation %u, and %u in the admission", rank,
                         g->team->incarnation, member->incarnation);
    return EPG_OK;
}

static epg_status check_admission(const epg_group *g, const epg_admission *a)
{
    static const char *const states[] = {"is gone", "stays", "joins"};
    uint32_t ranks = g->wire.geometry.ranks;
    if (a->ranks != ranks || !a->members || !a->epochs)
        return epg__fail(EPG_ERR_INVALID, "an admission of %u ranks to a team of %u, members %p, epochs %p", a->ranks,
                         ranks, (const void *)a->members, (const void *)a->epochs);
    for (uint32_t r = 0; r < ranks; r++)
        EPG_TRY(check_member(g, &a->members[r], r));
    uint32_t state = a->members[g->team->rank].state;
    if (state != (g->outside ? EPG_MEMBER_JOINS : EPG_MEMBER_STAYS))
        return epg__fail(EPG_ERR_STATE, "this rank, %u, %s in the admission, and its group %s", g->team->rank,
                         states[state], g->outside ? "was joined and not admitted yet" : "takes part already");
    return epg__group_check_closed(g);
}

epg_status epg_group_admit(epg_group *group, const epg_admission *admission, epg_stream stream)
{
    if (!group || !admission)
        return epg__fail(EPG_ERR_INVALID, "%s is NULL", group ? "admission" : "group");
    EPG__CHECK_SIZE(admission, sizeof *admission);
    EPG_TRY(check_admission(group, admission));
    if (epg__group_capture_of(group, stream) != 0)
        return epg__fail(EPG_ERR_STATE, "an admission cannot be captured");
    if (group->device->info.kind != EPG_DEVICE_HOST)
        return epg__fail(EPG_ERR_UNSUPPORTED, "an admission runs on the host device alone; this is %s",
                         group->device->info.name);
    size_t ranks = admission->ranks, bytes = sizeof(epg__admit_args) + ranks * sizeof(epg_member);
    epg__admit_args *args = epg__zalloc(1, bytes, "an admission");
    if (!args)
        return EPG_ERR_NO_MEMORY;
    args->lanes = group->lanes;
    args->lane_count = group->options.lanes;
    args->joins = (uint32_t)group->outside;
    memcpy(args->epochs, admission->epochs, args->lane_count * sizeof *args->epochs);
    memcpy(args->members, admission->members, ranks * sizeof *args->members);
    epg_status status = epg_host_launch(group->device, stream, epg__admit_host, args, bytes, "join");
    free(args);
    if (status != EPG_OK)
        return status;
    for (uint32_t r = 0; r < ranks; r++)
        if (group->newest[r] < admission->members[r].incarnation)
            group->newest[r] = admission->members[r].incarnation;
    group->outside = 0;
    return EPG_OK;
}
