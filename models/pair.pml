/* The wire protocol of docs/protocol.md as a model for spin: RANKS ranks run pairs for ever in one lane.
 *
 * Job: all that one rank stores at another, in the order of the kernels: rows, signals, returns, masks.
 * Not its job: who is to blame for a wait that does not end (blame.pml), ranks that join again, what is inside a row.
 *
 * Epochs count modulo 4 and pairs are numbered in no other way, so the state space is finite and a run covers any
 * number of pairs; RANKS_APART and SIGNAL_LOST say that modulo 4 loses nothing. A link has one slot per bank; a row is
 * the epoch of the pair it was stored in. A rank's own share is left out: it is stored and read in one program order.
 *
 * Switches that widen the model (RANKS is 2 or 3):
 *   STOP      one rank may stop anywhere
 *   ANYTIME   any rank may be masked by any other at any time: deadlines that pass too early, masks set by hand
 *   ABANDON   a pair may break between its halves
 * LIVENESS adds the claim that ranks go on. COARSE runs steps together that need not be told apart, so that three ranks
 * can be followed: a rank's partial sums are stored when its last wait ends (a store that comes earlier is only more in
 * the way), and the waits of a half end together. EARLY does the same for the rows, which are stored when the pair
 * opens. Neither with ANYTIME.
 * Switches that break it, each of which must fail:
 *   ONE_BANK NO_EPOCH SIGNAL_FIRST RELAXED NO_EMPTY_SIGNAL NO_EMPTY_WAIT MASK_IGNORED MASK_BACK
 * CHECKED is the set of properties that end a run; a broken model is run with the one that it must violate. */
#if (defined(COARSE) || defined(EARLY)) && defined(ANYTIME)
#error "a mask may be set between steps that COARSE and EARLY run together"
#endif
#ifndef RANKS
#define RANKS 2
#endif

#define ROW_OVERWRITTEN 1 /* a row is stored over one whose reader is not done with it */
#define ROW_LOST 2        /* a signal's count and the rows behind it differ */
#define ROW_WRONG 4       /* a reader finds a row that is not of its epoch */
#define SIGNAL_LOST 8     /* a dispatch signal is stored over one that was not read, or read twice */
#define RANKS_APART 16    /* two ranks that have not masked each other are two pairs apart */
#define SHARE_MISSING 32  /* a peer that took part answered fewer rows than it was sent */
#ifndef CHECKED
#define CHECKED 63
#endif
bit row_overwritten, row_lost, row_wrong, signal_lost, ranks_apart, share_missing;
#define FAIL_IF(which, name, condition) name = (condition); assert(!(name && (CHECKED & which)))

/* ---- the region (wire.h) ---- */
#define CELLS (RANKS * 2 * RANKS)
#define CELL(owner, bank, source) (((owner) * 2 + (bank)) * RANKS + (source))
#define AT(owner, source) CELL(owner, BANK, source)
#define LINK(a, b) ((a) * RANKS + (b))
#define BIT(rank) (1 << (rank))
#ifdef ONE_BANK
#define BANK 0
#else
#define BANK (epoch[me] & 1)
#endif

/* A signal (epg__signal_make): bits 0-1 epoch, 2 count, 3 void, plus 1; 0 is a word that was never written. */
#define SIGNAL(count) (1 + epoch[me] + 4 * (count))
#define SIGNAL_VOID (1 + epoch[me] + 8)
#define COUNT_OF(word) ((((word) - 1) >> 2) & 1)
#define IS_VOID(word) ((word) > 8)
#ifdef NO_EPOCH
#define ARRIVED(word) ((word) != 0)
#else
#define ARRIVED(word) ((word) != 0 && (((word) - 1) & 3) == epoch[me])
#endif

byte dispatch_signal[CELLS], combine_signal[CELLS];
byte row[CELLS], partial[CELLS]; /* rows and returns: 1 + the pair's epoch; 0: none, or its reader is done with it */
bit mask[RANKS * RANKS];         /* LINK(a, b): a has given b up */
byte epoch[RANKS];
bit unread[CELLS];               /* ghost: this dispatch signal was not read yet */
bit stopped[RANKS];
#ifdef RELAXED
byte late[CELLS];                /* a row that was stored and is not visible yet */
#endif

#ifdef MASK_IGNORED
#define MAY_SEND(rank) true
#else
#define MAY_SEND(rank) (!mask[LINK(me, rank)])
#endif
#ifdef NO_EMPTY_SIGNAL
#define SIGNALS(peer) (MAY_SEND(peer) && (sent & BIT(peer)))
#else
#define SIGNALS(peer) MAY_SEND(peer)
#endif
#ifdef NO_EMPTY_WAIT /* rank 1 never has rows for rank 0, and rank 0 knows it and does not wait */
#define ROUTES_TO(peer) !(me == 1 && peer == 0)
#define WAITS_FOR(peer) !(me == 0 && peer == 1)
#else
#define ROUTES_TO(peer) true
#define WAITS_FOR(peer) true
#endif
/* Where masks change at any time, a look at the own mask and the store that follows it are two steps. */
#ifdef ANYTIME
#define THEN } atomic { true;
#else
#define THEN
#endif

/* The i-th of the peers: from the own successor on (HT), or in rank order (LL). */
#define SUCCESSOR(i) ((me + 1 + (i)) % RANKS)
#define IN_ORDER(i) ((i) + ((i) >= me))
#define PEER(i) (low_latency * IN_ORDER(i) + (1 - low_latency) * SUCCESSOR(i))
#ifdef COARSE /* either order, so that ranks are alike but for their numbers */
#define RETURN_ORDER(i) ((me + 1 + (low_latency + (i)) % (RANKS - 1)) % RANKS)
#else
#define RETURN_ORDER(i) PEER(i)
#endif
#if RANKS == 2
#define FOR_PEERS(order, step) step(order(0))
#else
#define FOR_PEERS(order, step) step(order(0)); step(order(1))
#endif

/* A rank that has given up all of its peers exchanges nothing any more, so its run need not be followed. */
#define IS_GONE(rank) (rank == me || mask[LINK(me, rank)])
#if defined(LIVENESS) || defined(MASK_IGNORED)
#define LEAVES false
#else
#define LEAVES (IS_GONE(0) && IS_GONE(1) && IS_GONE(RANKS - 1))
#endif

/* ---- dispatch send (dispatch_host.c) ---- */

/* The experts may read the view of the pair before until here (X in the proof). */
inline end_view()
{
    i = 0;
    do
    :: i < RANKS ->
        if
        :: view & BIT(i) ->
            FAIL_IF(ROW_WRONG, row_wrong, row[AT(me, i)] != 1 + epoch[me]);
            row[AT(me, i)] = 0
        :: else
        fi;
        i++
    :: else -> break
    od;
    view = 0
}

inline check_distance()
{
    i = 0;
    do
    :: i < RANKS ->
        FAIL_IF(RANKS_APART, ranks_apart, !mask[LINK(me, i)] && !mask[LINK(i, me)] && !stopped[i] &&
                                              ((epoch[me] - epoch[i]) & 3) == 2);
        i++
    :: else -> break
    od
}

/* open_pair and route: one epoch on; LL or HT; a row or none for each live peer. None for all is an empty rank. */
inline open_pair()
{
    epoch[me] = (epoch[me] + 1) & 3;
    check_distance();
    if
    :: low_latency = 1
    :: low_latency = 0
    fi;
    i = 0;
    do
    :: i < RANKS ->
        if
        :: i != me && MAY_SEND(i) && ROUTES_TO(i) -> sent = sent | BIT(i)
        :: true
        fi;
        i++
    :: else -> break
    od;
    i = 0;
#ifdef EARLY
    FOR_PEERS(SUCCESSOR, store_row)
#endif
}

/* send_row: routed before, so the mask is not asked again. */
inline store_row(q)
{
    atomic {
        if
        :: sent & BIT(q) ->
            FAIL_IF(ROW_OVERWRITTEN, row_overwritten, row[AT(q, me)] != 0);
#ifdef RELAXED
            late[AT(q, me)] = 1 + epoch[me]
#else
            row[AT(q, me)] = 1 + epoch[me]
#endif
        :: else
        fi
    }
}

/* signal_rank */
inline signal_dispatch(q)
{
    atomic {
        go = SIGNALS(q);
        THEN
        if
        :: go ->
            FAIL_IF(SIGNAL_LOST, signal_lost, unread[AT(q, me)]);
            dispatch_signal[AT(q, me)] = SIGNAL((sent >> q) & 1);
            unread[AT(q, me)] = 1
        :: else
        fi;
        go = 0
    }
}

inline serve(q)
{
#ifdef SIGNAL_FIRST
    signal_dispatch(q);
    store_row(q)
#else
    store_row(q);
    signal_dispatch(q)
#endif
}

/* epg__dispatch_send_ll_host: all rows, then all signals. epg__dispatch_send_ht_host: peer by peer, its rows and then
 * its signal. Where rows are stored at once (EARLY) the two are the same. */
inline dispatch_send()
{
#ifdef EARLY
    FOR_PEERS(SUCCESSOR, signal_dispatch)
#else
    if
#ifndef SIGNAL_FIRST
    :: low_latency -> FOR_PEERS(SUCCESSOR, store_row); FOR_PEERS(SUCCESSOR, signal_dispatch)
#else
    :: low_latency -> FOR_PEERS(SUCCESSOR, signal_dispatch); FOR_PEERS(SUCCESSOR, store_row)
#endif
    :: else -> FOR_PEERS(SUCCESSOR, serve)
    fi
#endif
}

/* ---- waits (wait_host.c) ---- */

/* Neither end uses this link again: the one is masked, the other has stopped. Its words are put back to save states. */
inline forget_link(a, b, bank)
{
    dispatch_signal[CELL(a, bank, b)] = 0;
    unread[CELL(a, bank, b)] = 0;
    row[CELL(a, bank, b)] = 0;
    combine_signal[CELL(a, bank, b)] = 0;
    partial[CELL(a, bank, b)] = 0
}

inline lose(q)
{
#ifndef MASK_BACK
    mask[LINK(me, q)] = 1;
#endif
#ifdef COARSE
    if
    :: stopped[q] ->
        forget_link(me, q, 0);
        forget_link(me, q, 1);
        forget_link(q, me, 0);
        forget_link(q, me, 1);
        row[AT(me, q)] = ((view >> q) & 1) * (1 + epoch[me]) /* still in the view */
    :: else
    fi
#else
    skip
#endif
}

/* look: what ends a wait for q without a signal. A deadline is a choice, and only a rank that has stopped lets it
 * pass; one that passes too early is ANYTIME's. */
#define GIVEN_UP(q) (mask[LINK(me, q)] || mask[LINK(q, me)] || stopped[q])
#define ENDS(q, signals) (GIVEN_UP(q) || ARRIVED(signals[AT(me, q)]))

/* await_rows and place_row: the row joins the view. An accepted word is compared once more and never again counted, so
 * its count is dropped to save states. */
inline accept_rows(q)
{
    FAIL_IF(SIGNAL_LOST, signal_lost, !unread[AT(me, q)]);
    unread[AT(me, q)] = 0;
    FAIL_IF(ROW_LOST, row_lost, COUNT_OF(dispatch_signal[AT(me, q)]) != (row[AT(me, q)] != 0));
    if
    :: COUNT_OF(dispatch_signal[AT(me, q)]) ->
        FAIL_IF(ROW_WRONG, row_wrong, row[AT(me, q)] != 1 + epoch[me]);
        view = view | BIT(q)
    :: else
    fi;
    dispatch_signal[AT(me, q)] = SIGNAL(0)
}

/* epg__await_signal: who is masked at the start is not waited for; later the signal is looked at first. */
inline receive_rows(q)
{
    go = !mask[LINK(me, q)] && WAITS_FOR(q);
    if
    :: atomic { !go -> skip }
    :: atomic { go && ARRIVED(dispatch_signal[AT(me, q)]) -> accept_rows(q) }
    :: atomic { go && !ARRIVED(dispatch_signal[AT(me, q)]) && GIVEN_UP(q) -> lose(q) }
    fi;
    go = 0
}

/* epg__dispatch_recv_{ll,ht}_host */
inline dispatch_recv()
{
#ifdef COARSE
    atomic {
        ENDS(PEER(0), dispatch_signal) && ENDS(PEER(RANKS - 2), dispatch_signal) ->
        FOR_PEERS(PEER, receive_rows);
        FOR_PEERS(PEER, store_partial)
    }
#else
    FOR_PEERS(PEER, receive_rows)
#endif
}

/* ---- combine (combine_host.c) ---- */

inline store_partial(q)
{
#ifdef COARSE
    go = MAY_SEND(q);
#endif
    if
    :: go && (view & BIT(q)) && !is_void ->
        FAIL_IF(ROW_WRONG, row_wrong, row[AT(me, q)] != 1 + epoch[me]);
        FAIL_IF(ROW_OVERWRITTEN, row_overwritten, partial[AT(q, me)] != 0);
        partial[AT(q, me)] = 1 + epoch[me]
    :: else
    fi
}

inline signal_combine(q)
{
    if
    :: !is_void -> combine_signal[AT(q, me)] = SIGNAL((view >> q) & 1)
    :: else -> combine_signal[AT(q, me)] = SIGNAL_VOID
    fi
}

/* return_rank: one look at the own mask, then the partial sum, then the signal. */
inline return_rank(q)
{
#ifdef COARSE
    atomic {
        if
        :: MAY_SEND(q) -> signal_combine(q)
        :: else
        fi
    }
#else
    atomic { go = MAY_SEND(q) }
    if
    :: go ->
        atomic { store_partial(q) }
        atomic { signal_combine(q); go = 0 }
    :: else
    fi
#endif
}

inline combine_send()
{
    FOR_PEERS(RETURN_ORDER, return_rank)
}

inline accept_partial(q)
{
    if
    :: IS_VOID(combine_signal[AT(me, q)])
    :: else ->
        FAIL_IF(SHARE_MISSING, share_missing, !COUNT_OF(combine_signal[AT(me, q)]));
        arrived = arrived | BIT(q)
    fi;
    combine_signal[AT(me, q)] = SIGNAL(0)
}

/* Only the peers that rows went to are waited for. */
inline await_partial(q)
{
    go = !mask[LINK(me, q)] && (sent & BIT(q));
    if
    :: atomic { !go -> skip }
    :: atomic { go && ARRIVED(combine_signal[AT(me, q)]) -> accept_partial(q) }
    :: atomic { go && !ARRIVED(combine_signal[AT(me, q)]) && GIVEN_UP(q) -> lose(q) }
    fi;
    go = 0
}

/* collect_token: reads the partial sums that arrived. Nobody needs those of a wait that ended otherwise. */
inline collect()
{
    do
    :: i < RANKS ->
        if
        :: arrived & BIT(i) -> FAIL_IF(ROW_WRONG, row_wrong, partial[AT(me, i)] != 1 + epoch[me])
        :: else
        fi;
        partial[AT(me, i)] = 0;
        i++
    :: else -> break
    od;
    i = 0;
    arrived = 0;
    sent = 0;
    is_void = 0;
    low_latency = 0
}

#define IN_HAND(q) (!(sent & BIT(q)) || ENDS(q, combine_signal))
inline combine_recv()
{
#ifdef COARSE
    atomic {
        IN_HAND(IN_ORDER(0)) && IN_HAND(IN_ORDER(RANKS - 2)) ->
        FOR_PEERS(IN_ORDER, await_partial);
        collect()
    }
#else
    FOR_PEERS(IN_ORDER, await_partial);
    atomic { collect() }
#endif
}

/* epg_pair_abandon: from here on the pair's halves are void. Void dispatch recv waits and hands over nothing. */
#ifdef ABANDON
#define MAY_BREAK if :: is_void = 1 :: true fi
#else
#define MAY_BREAK
#endif

proctype Rank(byte me)
{
    byte i, sent, view, arrived;
    bit low_latency, is_void, go;
    {
        do
        :: atomic {
                end_view();
                if
                :: LEAVES -> break
                :: else -> open_pair()
                fi
            }
            dispatch_send();
            MAY_BREAK;
            dispatch_recv();
            MAY_BREAK;
            combine_send();
            MAY_BREAK;
            combine_recv()
        od
    } unless {
        atomic { /* what nobody reads any more is put back to save states */
            stopped[me] -> epoch[me] = 0; sent = 0; view = 0; arrived = 0; low_latency = 0; is_void = 0; go = 0
        }
    }
}

#ifdef STOP
proctype Stop()
{
end:
    if
    :: stopped[0] = 1
#ifndef COARSE /* where the ranks are alike but for their numbers */
    :: stopped[1] = 1
    :: stopped[RANKS - 1] = 1
#endif
    fi
}
#endif

#ifdef ANYTIME /* a deadline that passes too early, a mask set by another lane or by hand */
proctype Mask(byte a, b)
{
end:
    mask[LINK(a, b)] = 1
}
#endif

#ifdef RELAXED
proctype Memory()
{
    byte at;
end:
    do
    :: atomic { select(at : 0 .. CELLS - 1); late[at] -> row[at] = late[at]; late[at] = 0; at = 0 }
    od
}
#endif

init
{
    byte r;
    atomic {
        do
        :: r < RANKS -> run Rank(r); r++
        :: else -> break
        od;
#ifdef STOP
        run Stop();
#endif
#ifdef ANYTIME
        run Mask(0, 1);
        run Mask(1, 0);
#if RANKS == 3
        run Mask(0, 2);
        run Mask(2, 0);
        run Mask(1, 2);
        run Mask(2, 1);
#endif
#endif
#ifdef RELAXED
        run Memory();
#endif
        r = 0
    }
}

/* Every rank goes on completing pairs (ranks are alike, so one stands for all). */
#ifdef LIVENESS
ltl goes_on { <> stopped[0] || ([]<> (epoch[0] == 0) && []<> (epoch[0] == 2)) }
#endif
