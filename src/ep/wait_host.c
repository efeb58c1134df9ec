/* Signals and bounded waits on the host device, and the record of the first failure.
 *
 * Who is to blame. A rank that waits publishes a beat: it counts whenever it looks for its signal, and once more when
 * the wait is over. A waiter whose deadline has passed looks at its peer's beat. If that has not moved since the
 * deadline began, the peer is the cause: it waits for nobody, or it died or was stopped in a wait. If it has moved, the
 * peer is held up by another, or has just ended a wait of its own and gets a deadline's time to go on: deadlines that
 * began together end together, and the first to expire the cause would else be expired by those behind it. The deadline
 * starts afresh. Whatever the peer does, a wait ends after (ranks + 2) deadlines: so end those of ranks that wait for
 * one another.
 *
 * To follow the chain of who waits for whom was rejected: a rank that dies in a wait leaves a link that is not true any
 * more, and through it those who wait for its victims appear to be waited for.
 *
 * A waiter looks sixteen times in its own timeout, so a peer's must not be shorter than a sixteenth of it. */
#include "ep/lane_int.h"

static uint64_t now_ns(const epg__lane *lane) { return epg_device_now_ns(lane->device); }

void epg__record_failure(const epg__lane *lane, epg_status status, epg_operation operation, uint32_t peer,
                         uint64_t expected, uint64_t seen)
{
    epg_wire_record *record = &epg__header_of(lane, lane->rank)->record;
    uint32_t nobody = 0;
    if (!__atomic_compare_exchange_n(&record->taken, &nobody, 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return;
    record->status = status;
    record->operation = operation;
    record->lane = lane->number;
    record->epoch = lane->pair->epoch;
    record->peer = peer;
    record->expected = expected;
    record->seen = seen;
    record->time_ns = now_ns(lane);
    epg__word_store(lane->sim, &record->taken, 2); /* partner: epg_group_check */
}

void epg__send_signal(const epg__lane *lane, uint32_t kind, uint32_t peer, uint32_t count, int is_void)
{
    const epg_wire_layout *w = lane->wire;
    uint32_t epoch = lane->pair->epoch;
    char *there = epg__lane_at(w, lane->peers[peer], lane->number);
    EPG__NOTE(lane->sim, "to rank %u, epoch %u, %u rows%s", peer, epoch, count, is_void ? ", void" : "");
    epg__signal_store(lane->sim, epg__signal_at(w, there, kind, epoch & 1, lane->rank),
                      epg__signal_make(epoch, lane->incarnation, count, is_void));
    epg__doorbell_ring(lane->sim, &epg__header_of(lane, peer)->bell);
}

/* How often `rank` has looked for a signal or ended a wait, in any lane: while it moves, the rank lives. */
static uint64_t beats_of(const epg__lane *lane, uint32_t rank)
{
    uint64_t beats = 0;
    for (uint32_t l = 0; l < lane->wire->geometry.lanes; l++) {
        const epg_wire_lane *header = (const epg_wire_lane *)epg__lane_at(lane->wire, lane->peers[rank], l);
        beats += epg__signal_load(lane->sim, &header->beat);
    }
    return beats;
}

static void beat(const epg__lane *lane)
{
    epg_wire_lane *own = (epg_wire_lane *)epg__own_lane(lane);
    EPG__NOTE(lane->sim, "that says: alive");
    epg__signal_store(lane->sim, &own->beat, own->beat + 1); /* partner: beats_of */
}

typedef struct wait_state {
    const epg__lane *lane;
    uint32_t kind, peer;
    epg_operation operation;
    uint64_t *word;
    uint64_t start, deadline;
    uint64_t peer_beats; /* when the deadline began */
} wait_state;

static void lose(const wait_state *s, epg_status status, uint64_t seen)
{
    const epg__lane *lane = s->lane;
    epg__record_failure(lane, status, s->operation, s->peer, lane->pair->epoch, epg__signal_epoch(seen));
    epg__give_up(lane, s->peer, epg__life_of(lane, s->peer)); /* on an abort too: its rows may not be overwritten */
    if (status == EPG_ERR_TIMEOUT)
        epg__count(lane, EPG_COUNT_TIMEOUTS, 1);
}

/* The deadline has passed: 1 if the peer is to blame. */
static int is_to_blame(wait_state *s, uint64_t now)
{
    const epg__lane *lane = s->lane;
    uint64_t beats = beats_of(lane, s->peer);
    if (beats == s->peer_beats || now - s->start > (lane->ranks + 1) * lane->timeout_ns)
        return 1;
    s->peer_beats = beats;
    s->deadline = now + lane->timeout_ns;
    return 0;
}

/* Looks once. 1: arrived; -1: given up; 0: not yet. */
static int look(wait_state *s, uint32_t *count)
{
    const epg__lane *lane = s->lane;
    uint32_t epoch = lane->pair->epoch;
    uint32_t incarnation = epg__life_of(lane, s->peer);
    uint64_t signal = epg__signal_load(lane->sim, s->word);
    if (signal != 0 && epg__signal_incarnation(signal) == (incarnation & 0xFFu)) {
        if (epg__signal_epoch(signal) == epoch) {
            *count = epg__signal_count(signal);
            return epg__signal_is_void(signal) ? -1 : 1;
        }
        if ((int32_t)(epg__signal_epoch(signal) - epoch) > 0) {
            lose(s, EPG_ERR_PAIRS, signal);
            return -1;
        }
    }
    if (!epg__rank_alive(lane, s->peer))
        return -1;
    if (epg__word_load(lane->sim, &epg__header_of(lane, lane->rank)->aborted)) {
        lose(s, EPG_ERR_ABORTED, signal);
        return -1;
    }
    if (epg__word_load(lane->sim, &epg__mask_of(lane, s->peer)[lane->rank]) > lane->incarnation) {
        lose(s, EPG_ERR_MASKED, signal);
        return -1;
    }
    if (epg__word_load(lane->sim, &epg__header_of(lane, s->peer)->incarnation) > incarnation) {
        lose(s, EPG_ERR_GONE, signal); /* what it published since is a later life's, and no excuse for this one */
        return -1;
    }
    return 0;
}

/* Everything the first look did not settle. */
static int wait_longer(wait_state *s, uint32_t *count)
{
    const epg__lane *lane = s->lane;
    epg__doorbell *bell = &epg__header_of(lane, lane->rank)->bell;
    const uint64_t slice =
        lane->timeout_ns / 16 + 1; /* so that a mask or an abort of a peer is noticed without a ring */
    int found;
    s->peer_beats = beats_of(lane, s->peer);
    s->start = now_ns(lane);
    s->deadline = s->start + lane->timeout_ns;
    for (uint32_t polls = 0;; polls++) {
        EPG__NOTE(lane->sim, "of rank %u, epoch %u", s->peer, lane->pair->epoch);
        uint32_t seen = epg__doorbell_seen(lane->sim, bell);
        if ((found = look(s, count)) != 0)
            return found;
        if (polls < lane->spin)
            continue;
        uint64_t now = now_ns(lane);
        beat(lane);
        if (now >= s->deadline && is_to_blame(s, now)) {
            if ((found = look(s, count)) == 0) {
                lose(s, EPG_ERR_TIMEOUT, epg__signal_load(lane->sim, s->word));
                found = -1;
            }
            return found;
        }
        uint64_t left = s->deadline > now ? s->deadline - now : slice;
        epg__doorbell_wait(lane->sim, bell, seen, left < slice ? left : slice);
    }
}

static int await(const epg__lane *lane, uint32_t kind, epg_operation operation, uint32_t peer, uint32_t *count)
{
    const epg_wire_layout *w = lane->wire;
    char *own = epg__own_lane(lane);
    uint32_t epoch = lane->pair->epoch;
    wait_state s = {lane, kind, peer, operation, epg__signal_at(w, own, kind, epoch & 1, peer), 0, 0, 0};

    EPG__NOTE(lane->sim, "of rank %u, epoch %u", peer, epoch);
    if (!epg__rank_alive(lane, peer))
        return 0;
    int found = look(&s, count);
    if (found == 0) {
        found = wait_longer(&s, count);
        beat(lane);
    }
    return found > 0;
}

int epg__await_signal(const epg__lane *lane, uint32_t kind, uint32_t peer, uint32_t *count)
{
    return await(lane, kind, kind == EPG_WIRE_DISPATCH ? EPG_OP_DISPATCH_RECV : EPG_OP_COMBINE_RECV, peer, count);
}

int epg__await_invitation(const epg__lane *lane, uint32_t peer)
{
    uint32_t count;
    return await(lane, EPG_WIRE_DISPATCH, EPG_OP_JOIN, peer, &count);
}
