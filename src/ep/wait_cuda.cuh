/* Bounded waits on the CUDA device: wait_host.c's rules, on the GPU's global timer. Who is to blame is told there.
 *
 * Only kernels of one block wait (dispatch recv and combine recv begin with one), and everything else in a lane is
 * behind it in its stream. So the waits of R ranks on one GPU hold R blocks, one for each lane in flight, and any
 * kernel that they wait for finds room as long as those blocks do not fill the device by themselves: the largest (1024
 * threads of 64 registers) fills a multiprocessor, and kernels_cuda.c refuses a group whose ranks and lanes could take
 * them all. No grid ever waits for another grid of its own size, so none needs to be resident whole.
 *
 * A signal that is nearly there is polled for by one thread per source. What has not come by then is waited for as on
 * the host, one source after the other, with a deadline. */
#ifndef EPG_WAIT_CUDA_CUH
#define EPG_WAIT_CUDA_CUH

#include "ep/lane_cuda_int.cuh"

#define EPG__POLL_NS 20000u
#define EPG__WAIT_NOTHING 0xFFFFFFFFu /* nothing will come */
#define EPG__WAIT_PENDING 0xFFFFFFFEu /* not yet */

typedef struct epg__wait {
    const epg__cuda_lane *lane;
    uint32_t peer, epoch;
    epg_operation operation;
    uint64_t *word;
    uint64_t start, deadline;
    uint64_t peer_beats; /* when the deadline began */
} epg__wait;

static __device__ inline epg__wait epg__wait_for(const epg__cuda_lane &l, uint32_t kind, uint32_t peer, uint32_t epoch)
{
    epg__wait w = {&l, peer, epoch, kind == EPG_WIRE_DISPATCH ? EPG_OP_DISPATCH_RECV : EPG_OP_COMBINE_RECV,
                   epg__signal_at(&l.wire, epg__own_lane(l), kind, epoch & 1, peer), 0, 0, 0};
    return w;
}

static __device__ inline void epg__lose(const epg__wait &w, epg_status status, uint64_t seen)
{
    const epg__cuda_lane &l = *w.lane;
    epg__record_failure(l, status, w.operation, w.peer, w.epoch, epg__signal_epoch(seen));
    epg__give_up(l, w.peer, epg__lives_of(l)[w.peer]); /* on an abort too: its rows may not be overwritten */
    if (status == EPG_ERR_TIMEOUT)
        epg__count(l, EPG_COUNT_TIMEOUTS, 1);
}

/* The signal's count, EPG__WAIT_NOTHING for a void one, EPG__WAIT_PENDING; *signal as it was seen. */
static __device__ inline uint32_t epg__peek(const epg__wait &w, uint64_t *signal)
{
    const epg__cuda_lane &l = *w.lane;
    uint32_t incarnation = epg__lives_of(l)[w.peer];
    *signal = epg__signal_load(w.word); /* partner: epg__send_signal */
    if (*signal == 0 || epg__signal_incarnation(*signal) != (incarnation & 0xFFu) ||
        epg__signal_epoch(*signal) != w.epoch)
        return EPG__WAIT_PENDING;
    return epg__signal_is_void(*signal) ? EPG__WAIT_NOTHING : epg__signal_count(*signal);
}

/* Looks once, at everything that can end a wait. */
static __device__ inline uint32_t epg__look(const epg__wait &w)
{
    const epg__cuda_lane &l = *w.lane;
    uint64_t signal;
    uint32_t found = epg__peek(w, &signal);
    uint32_t incarnation = epg__lives_of(l)[w.peer];
    if (found != EPG__WAIT_PENDING)
        return found;
    if (signal != 0 && epg__signal_incarnation(signal) == (incarnation & 0xFFu) &&
        (int32_t)(epg__signal_epoch(signal) - w.epoch) > 0) {
        epg__lose(w, EPG_ERR_PAIRS, signal);
        return EPG__WAIT_NOTHING;
    }
    if (!epg__rank_alive(l, w.peer))
        return EPG__WAIT_NOTHING;
    if (epg__word_load(l.aborted)) {
        epg__lose(w, EPG_ERR_ABORTED, signal);
        return EPG__WAIT_NOTHING;
    }
    if (epg__word_load(&epg__mask_of(l, w.peer)[l.rank]) > l.incarnation) {
        epg__lose(w, EPG_ERR_MASKED, signal);
        return EPG__WAIT_NOTHING;
    }
    if (epg__word_load(&((const epg_wire_header *)l.peers[w.peer])->incarnation) > incarnation) {
        epg__lose(w, EPG_ERR_GONE, signal); /* what it published since is a later life's, and no excuse for this one */
        return EPG__WAIT_NOTHING;
    }
    return EPG__WAIT_PENDING;
}

/* How often `rank` has looked for a signal or ended a wait, in any lane: while it moves, the rank lives. */
static __device__ inline uint64_t epg__beats_of(const epg__cuda_lane &l, uint32_t rank)
{
    uint64_t beats = 0;
    for (uint32_t n = 0; n < l.wire.geometry.lanes; n++)
        beats += epg__signal_load(&((const epg_wire_lane *)epg__lane_at(&l.wire, l.peers[rank], n))->beat);
    return beats;
}

static __device__ inline void epg__beat(const epg__cuda_lane &l)
{
    epg_wire_lane *own = (epg_wire_lane *)epg__own_lane(l);
    epg__signal_store(&own->beat, own->beat + 1); /* partner: epg__beats_of */
}

/* The deadline has passed: true if the peer is to blame (wait_host.c says why). */
static __device__ inline bool epg__is_to_blame(epg__wait *w, uint64_t now)
{
    const epg__cuda_lane &l = *w->lane;
    uint64_t beats = epg__beats_of(l, w->peer);
    if (beats == w->peer_beats || now - w->start > (l.ranks + 1) * l.timeout_ns)
        return true;
    w->peer_beats = beats;
    w->deadline = now + l.timeout_ns;
    return false;
}

/* One thread: waits with a deadline, and beats. */
static __device__ inline uint32_t epg__wait_longer(epg__wait w)
{
    uint32_t found;
    w.peer_beats = epg__beats_of(*w.lane, w.peer);
    w.start = epg__now_ns();
    w.deadline = w.start + w.lane->timeout_ns;
    while ((found = epg__look(w)) == EPG__WAIT_PENDING) {
        uint64_t now = epg__now_ns(), signal;
        epg__beat(*w.lane);
        if (now >= w.deadline && epg__is_to_blame(&w, now)) {
            if ((found = epg__look(w)) == EPG__WAIT_PENDING) {
                epg__peek(w, &signal);
                epg__lose(w, EPG_ERR_TIMEOUT, signal);
                found = EPG__WAIT_NOTHING;
            }
            break;
        }
        for (int i = 0; i < 16 && epg__peek(w, &signal) == EPG__WAIT_PENDING; i++)
            __nanosleep(200);
    }
    epg__beat(*w.lane);
    return found;
}

/* The whole block: waits for the signals of all ranks r with wanted[r] != 0 (NULL: of all) and leaves their counts, or
 * EPG__WAIT_NOTHING, in found[r]. */
static __device__ inline void epg__await_signals(const epg__cuda_lane &l, uint32_t kind, uint32_t epoch,
                                                 const uint32_t *wanted, uint32_t *found)
{
    uint64_t signal, start = epg__now_ns();
    __shared__ uint32_t pending;
    if (threadIdx.x == 0)
        pending = 0;
    __syncthreads();
    for (uint32_t r = threadIdx.x; r < l.ranks; r += blockDim.x) {
        uint32_t state = EPG__WAIT_NOTHING;
        if ((!wanted || wanted[r]) && epg__rank_alive(l, r)) {
            epg__wait w = epg__wait_for(l, kind, r, epoch);
            while ((state = epg__peek(w, &signal)) == EPG__WAIT_PENDING && epg__now_ns() - start < EPG__POLL_NS)
                ;
            if (state == EPG__WAIT_PENDING)
                pending = 1;
        }
        found[r] = state;
    }
    __syncthreads();
    if (threadIdx.x == 0 && pending)
        for (uint32_t r = 0; r < l.ranks; r++)
            if (found[r] == EPG__WAIT_PENDING)
                found[r] = !epg__rank_alive(l, r) ? EPG__WAIT_NOTHING
                                                  : epg__wait_longer(epg__wait_for(l, kind, r, epoch));
    __syncthreads();
}

#endif
