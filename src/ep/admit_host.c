/* Ranks that join again, on the host device: the kernel of epg_group_admit, and what dispatch send does about it.
 *
 * A rank that stays notes who comes and when. One pair before that it *invites*: the newcomer gets this rank's dispatch
 * signal, which says that all pairs before are over here. A rank that joins waits for these invitations before it
 * writes anywhere; they stand for the dispatch signals of the pair that it did not take part in, and with them the
 * reuse proof holds for it from its first pair on. docs/protocol.md. */
#include "ep/lane_int.h"

void epg__admit_due(epg__lane *lane)
{
    for (uint32_t r = 0; r < lane->ranks; r++) {
        epg__entry *entry = &lane->entries[r];
        if (!entry->incarnation || entry->epoch != lane->pair->epoch)
            continue;
        epg__word_store(lane->sim, &epg__lives_of(lane)[r], entry->incarnation);
        *entry = (epg__entry){0, 0};
        --*lane->entering;
    }
}

int epg__is_invited(const epg__lane *lane, uint32_t rank)
{
    const epg__entry *entry = &lane->entries[rank];
    return entry->incarnation && entry->epoch == lane->pair->epoch + 1 &&
           entry->incarnation >= epg__word_load(lane->sim, &epg__mask_of(lane, lane->rank)[rank]);
}

/* ---- a rank that stays ---- */

static void expect_rank(epg__lane *lane, uint32_t rank, uint32_t incarnation, uint32_t epoch)
{
    const epg_wire_lane *own = (const epg_wire_lane *)epg__own_lane(lane);
    epg__entry *entry = &lane->entries[rank];
    if (epg__life_of(lane, rank) >= incarnation || entry->incarnation >= incarnation)
        return; /* told twice */
    epg__give_up(lane, rank, incarnation - 1);
    lane->pair->epoch = own->epoch; /* no pair is open, and none may have run yet */
    if ((int32_t)(own->epoch - epoch) >= 0) {
        epg__record_failure(lane, EPG_ERR_PAIRS, EPG_OP_JOIN, rank, epoch, own->epoch);
        epg__give_up(lane, rank, incarnation);
        return;
    }
    *lane->entering += !entry->incarnation;
    *entry = (epg__entry){incarnation, epoch};
    if (epg__is_invited(lane, rank))
        epg__send_signal(lane, EPG_WIRE_DISPATCH, rank, 0, 0);
}

/* A rank that is gone reports nothing, its incarnation neither: every life of it that this lane knows is given up. */
static void forget_rank(epg__lane *lane, uint32_t rank, uint32_t incarnation)
{
    uint32_t life = epg__life_of(lane, rank), coming = lane->entries[rank].incarnation;
    uint32_t newest = life > coming ? life : coming;
    epg__give_up(lane, rank, newest > incarnation ? newest : incarnation);
}

static void stay(epg__lane *lane, const epg__admit_args *args)
{
    for (uint32_t r = 0; r < lane->ranks; r++) {
        if (args->members[r].state == EPG_MEMBER_GONE)
            forget_rank(lane, r, args->members[r].incarnation);
        else if (args->members[r].state == EPG_MEMBER_JOINS)
            expect_rank(lane, r, args->members[r].incarnation, args->epochs[lane->number]);
    }
}

/* ---- a rank that joins ---- */

static void take_seat(epg__lane *lane, const epg__admit_args *args)
{
    epg_wire_lane *own = (epg_wire_lane *)epg__own_lane(lane);
    own->epoch = lane->pair->epoch = args->epochs[lane->number] - 1;
    for (uint32_t r = 0; r < lane->ranks; r++) {
        epg__word_store(lane->sim, &epg__lives_of(lane)[r], args->members[r].incarnation);
        if (args->members[r].state == EPG_MEMBER_GONE)
            epg__give_up(lane, r, args->members[r].incarnation);
    }
}

/* Ranks that join at the same epoch have clean regions and no past: they invite nobody. */
static void await_invitations(const epg__lane *lane, const epg__admit_args *args)
{
    for (uint32_t r = 0; r < lane->ranks; r++)
        if (args->members[r].state == EPG_MEMBER_STAYS)
            (void)epg__await_invitation(lane, r);
}

void epg__admit_host(const void *raw)
{
    const epg__admit_args *args = raw;
    for (uint32_t l = 0; l < args->lane_count; l++) {
        if (args->joins)
            take_seat(&args->lanes[l], args);
        else
            stay(&args->lanes[l], args);
    }
    if (!args->joins)
        return;
    const epg__lane *first = args->lanes;
    epg__word_store(first->sim, &epg__header_of(first, first->rank)->outside, 0);
    for (uint32_t l = 0; l < args->lane_count; l++)
        await_invitations(&args->lanes[l], args);
}
