/* Who is given up when a rank stops: the rule of is_to_blame (wait_host.c) as a model for spin.
 *
 * Job: three ranks in one lane whose waits publish on whom, end, or pass their deadline. One rank may stop anywhere.
 * Not its job: rows and banks, and masks set for other reasons (pair.pml).
 *
 * A pair is its dispatch signals, one after the other, and its dispatch waits, in either order. Ranks are quick and
 * deadlines are long: time goes on when nobody can move, and then by a whole deadline for each that waits. Who looks
 * first after that is free.
 *
 * Switches: STOPS_WAITING: the rank may also stop inside a wait, which then stays published; the rule does not hold for
 * that. BEATS: what would mend it, a published wait counts for nothing once its owner has not moved for a deadline.
 * Broken: BLAME_WAITER gives up a peer that waits like any other, NO_GRACE one that has just ended a wait. */
#ifndef RANKS
#define RANKS 3
#endif
#define NOBODY RANKS
#define LINK(a, b) ((a) * RANKS + (b))

bit live_rank_blamed;
byte epoch[RANKS];            /* modulo 4, of the pair that a rank is in */
byte signal[RANKS * RANKS];   /* LINK(a, b): the epoch of a's last dispatch signal at b */
byte waiting[RANKS] = NOBODY; /* the published wait */
bit moved[RANKS];             /* the peer has ended a wait since this rank's deadline began (waits_ended) */
bit due[RANKS];               /* a deadline has passed since this rank last looked */
bit mask[RANKS * RANKS];
bit stopped[RANKS];

/* This pair's signal or, of a rank that is ahead, the next one's. */
#define IS_THERE (((signal[LINK(q, me)] - epoch[me]) & 3) < 2)
#ifdef BEATS
bit gone, long_gone; /* rank 0 had stopped when the last deadline passed, and the one before */
#define IS_STILL(rank) (rank == 0 && long_gone)
#else
#define IS_STILL(rank) false
#endif
#define OVER (IS_THERE || mask[LINK(me, q)] || mask[LINK(q, me)])

/* is_to_blame. */
inline look_whom_to_blame()
{
    passed++;
    next = waiting[q];
    blame = (next == NOBODY && !moved[me]) || passed > RANKS + 1 || IS_STILL(q);
#ifdef BLAME_WAITER
    blame = 1;
#endif
#ifdef NO_GRACE
    blame = blame || next == NOBODY;
#endif
    if
    :: passed == RANKS + 1 -> blame = 1 /* the clock decides whether that is more than (ranks + 1) deadlines */
    :: true
    fi;
    moved[me] = 0;
    due[me] = 0;
    hops = 0;
    do
    :: hops < RANKS && next != NOBODY && next != me -> next = (IS_STILL(next) -> NOBODY : waiting[next]); hops++
    :: else -> break
    od;
    blame = blame || (next == me && cycle);
    cycle = (next == me);
    next = 0;
    hops = 0
}

/* lose, for a deadline that has passed. */
inline give_up()
{
    live_rank_blamed = !stopped[q];
    assert(!live_rank_blamed);
    mask[LINK(me, q)] = 1
}

inline end_wait()
{
    moved[0] = moved[0] || waiting[0] == me;
    moved[1] = moved[1] || waiting[1] == me;
    moved[2] = moved[2] || waiting[2] == me;
    passed = 0;
    cycle = 0;
    blame = 0;
    due[me] = 0;
    moved[me] = 0
}

/* await: a look, then a wait in public. */
inline await(peer)
{
    atomic {
        q = peer;
        if
        :: OVER
        :: else -> waiting[me] = q; moved[me] = 0
        fi
    }
    if
    :: atomic { waiting[me] == NOBODY -> skip }
    :: else ->
        do
        :: atomic { OVER -> mask[LINK(me, q)] = mask[LINK(me, q)] || !IS_THERE; break }
        :: atomic { !OVER && due[me] ->
                look_whom_to_blame();
                if
                :: blame -> give_up(); break
                :: else
                fi
            }
        od;
        atomic { end_wait() }
        waiting[me] = NOBODY
    fi
}

proctype Rank(byte me)
{
    byte q, next, passed, hops;
    bit cycle, blame, turned;
    {
        do
        :: atomic {
                epoch[me] = (epoch[me] + 1) & 3;
                if
                :: turned = 0
                :: turned = 1
                fi
            }
            signal[LINK(me, (me + 1) % RANKS)] = epoch[me];
            signal[LINK(me, (me + 2) % RANKS)] = epoch[me];
            await((me + 1 + turned) % RANKS);
            await((me + 2 - turned) % RANKS)
        od
    } unless { atomic { stopped[me] -> q = 0; turned = 0; passed = 0; cycle = 0; blame = 0 } }
}

/* All are alike but for their numbers, so it is rank 0 that stops. */
proctype Stop()
{
end:
#ifdef STOPS_WAITING
    stopped[0] = 1
#else
    atomic { waiting[0] == NOBODY -> stopped[0] = 1 }
#endif
}

proctype Time()
{
end:
    do
    :: atomic { timeout ->
            due[0] = (waiting[0] != NOBODY && !stopped[0]);
            due[1] = (waiting[1] != NOBODY);
            due[2] = (waiting[2] != NOBODY);
#ifdef BEATS
            long_gone = gone;
            gone = stopped[0];
#endif
            assert(due[0] || due[1] || due[2])
        }
    od
}

init { atomic { run Rank(0); run Rank(1); run Rank(2); run Stop(); run Time() } }
