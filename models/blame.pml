/* Who is given up when a rank stops: the rule of is_to_blame (wait_host.c) as a model for spin.
 *
 * Job: three ranks in one lane whose waits beat, end, or pass their deadline. One rank may stop anywhere.
 * Not its job: rows and banks, and masks set for other reasons (pair.pml).
 *
 * A pair is its dispatch signals, one after the other, and its dispatch waits, in either order. Ranks are quick and
 * deadlines are long: time goes on when nobody can move, and then by a whole deadline for each that waits. Who looks
 * first after that is free.
 *
 * A waiter's beat moves as long as it lives; here it is what `waiting` and `stopped` say, and a rank that has stopped
 * since the last deadline passed may still have beaten after it.
 *
 * Broken: BLAME_WAITER gives up a peer that waits like any other, NO_GRACE one that has just ended a wait, CHAIN
 * has no beats: it follows who waits for whom, and a rank that stopped inside a wait seems to wait for ever. */
#ifndef RANKS
#define RANKS 3
#endif
#define NOBODY RANKS
#define LINK(a, b) ((a) * RANKS + (b))

bit live_rank_blamed;
byte epoch[RANKS];            /* modulo 4, of the pair that a rank is in */
byte signal[RANKS * RANKS];   /* LINK(a, b): the epoch of a's last dispatch signal at b */
byte waiting[RANKS] = NOBODY; /* on whom */
bit moved[RANKS];             /* the peer has ended a wait since this rank's deadline began */
bit due[RANKS];               /* a deadline has passed since this rank last looked */
bit mask[RANKS * RANKS];
bit stopped[RANKS];

/* This pair's signal or, of a rank that is ahead, the next one's. */
#define IS_THERE (((signal[LINK(q, me)] - epoch[me]) & 3) < 2)
bit gone, long_gone; /* rank 0 had stopped when the last deadline passed, and the one before */
#define IS_STILL(rank) (rank == 0 && long_gone)
#ifdef CHAIN
#define FORGET cycle = 0
#else
#define FORGET skip
#endif
#define OVER (IS_THERE || mask[LINK(me, q)] || mask[LINK(q, me)])

/* is_to_blame. */
inline look_whom_to_blame()
{
    passed++;
    blame = !(moved[me] || (waiting[q] != NOBODY && !IS_STILL(q))) || passed > RANKS + 1;
#ifdef CHAIN
    next = waiting[q];
    blame = (next == NOBODY && !moved[me]) || passed > RANKS + 1;
    do
    :: hops < RANKS && next != NOBODY && next != me -> next = waiting[next]; hops++
    :: else -> break
    od;
    blame = blame || (next == me && cycle);
    cycle = (next == me);
    next = 0;
    hops = 0;
#endif
#ifdef BLAME_WAITER
    blame = 1;
#endif
#ifdef NO_GRACE
    blame = blame || waiting[q] == NOBODY;
#endif
    if
    :: passed == RANKS + 1 -> blame = 1 /* the clock decides whether that is more than (ranks + 1) deadlines */
    :: true
    fi;
    moved[me] = 0;
    due[me] = 0
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
    blame = 0;
    FORGET;
    due[me] = 0;
    moved[me] = 0
}

/* await: a look, then a wait that beats. */
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
    byte q, passed;
    bit blame, turned;
#ifdef CHAIN
    byte next, hops;
    bit cycle;
#endif
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
    } unless { atomic { stopped[me] -> q = 0; turned = 0; passed = 0; blame = 0; FORGET } }
}

/* All are alike but for their numbers, so it is rank 0 that stops. */
proctype Stop()
{
end:
    stopped[0] = 1
}

proctype Time()
{
end:
    do
    :: atomic { timeout ->
            due[0] = (waiting[0] != NOBODY && !stopped[0]);
            due[1] = (waiting[1] != NOBODY);
            due[2] = (waiting[2] != NOBODY);
            long_gone = gone;
            gone = stopped[0];
            assert(due[0] || due[1] || due[2])
        }
    od
}

init { atomic { run Rank(0); run Rank(1); run Rank(2); run Stop(); run Time() } }
