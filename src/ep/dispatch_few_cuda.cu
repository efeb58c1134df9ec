/* Dispatch send for few tokens: one kernel, where dispatch_send_cuda.cu has one that decides and one that moves rows.
 * Slots, meta and rows are the same.
 *
 * No block tells another anything before the end: each works out the routing of all tokens for itself, in shared
 * memory. The epoch is advanced, and whoever is due is taken in, by the last block to be through, when all have read
 * what they go by. A mask may be set meanwhile, so that blocks differ about a rank: whoever has found it masked has
 * written nothing there, and neither does it get a signal, since the last block looks after all others (M of
 * docs/protocol.md). */
#include "ep/few_cuda.cuh"
#include "ep/meta_cuda.cuh"
#include "ep/rows_cuda.cuh"

enum {
    FEW_CHOICES = 2048, /* tokens x topk, at most half of it: lanes of a token are rounded up */
    FEW_TOKENS = 512,
    FEW_EXPERTS = 512,
    FEW_GROUPS = FEW_TOKENS / 32,
    FEW_RANKS = 32
};

typedef struct few_routing {
    int32_t chosen[FEW_CHOICES];            /* [steps][32] as the caller gave them, then the experts */
    int32_t map[FEW_EXPERTS];
    uint32_t ranks[FEW_TOKENS];             /* a bit for each rank that gets the token */
    uint32_t votes[FEW_GROUPS][FEW_RANKS];  /* a bit for each token of a group that goes to the rank */
    uint32_t room[FEW_RANKS];               /* slots there; 0: it takes no part */
    uint32_t bad_ids, first_bad;
} few_routing;

/* What every thread reads for itself. */
typedef struct few_call {
    uint32_t epoch, asked, tokens, rehearsal, outside;
} few_call;

static __device__ few_call read_call(const epg__cuda_params &p)
{
    const epg_wire_header *header = epg__own_header(p.lane);
    few_call c = {((epg_wire_lane *)epg__own_lane(p.lane))->epoch + 1, p.user.bucket, 0, header->rehearsal,
                  header->outside};
    if (p.user.tokens)
        c.asked = *p.user.tokens;
    c.tokens = c.asked < p.user.bucket ? c.asked : p.user.bucket;
    return c;
}

/* Does rank r take part, in the life that this pair is exchanged with? */
static __device__ void look_at_rank(const epg__cuda_lane &l, uint32_t epoch, uint32_t r, few_routing *s)
{
    uint32_t life = epg__lives_of(l)[r], entering = *l.entering;
    epg__entry entry = l.entries[r];
    uint32_t mask = epg__word_load(&epg__mask_of(l, l.rank)[r]);
    if (entering && entry.incarnation && entry.epoch == epoch)
        life = entry.incarnation;
    s->room[r] = life >= mask ? l.wire.geometry.slots : 0;
}

/* Reads are journeys to memory: as many as may be are under way at once. */
static __device__ void read_inputs(const epg__cuda_params &p, const epg__step &at, uint32_t steps, few_routing *s)
{
    enum { BATCH = 4 };
    uint32_t experts = p.lane.wire.geometry.logical_experts, choices = steps * 32;
    int32_t expert = threadIdx.x < experts ? p.lane.expert_map[threadIdx.x] : -1;
    for (uint32_t first = threadIdx.x; first < choices; first += BATCH * blockDim.x) {
        int32_t choice[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; u++)
            choice[u] = first + u * blockDim.x < choices ? epg__choice_at(p, at, first + u * blockDim.x) : -1;
#pragma unroll
        for (int u = 0; u < BATCH; u++)
            if (first + u * blockDim.x < choices)
                s->chosen[first + u * blockDim.x] = choice[u];
    }
    if (threadIdx.x < experts)
        s->map[threadIdx.x] = expert;
    for (uint32_t e = threadIdx.x + blockDim.x; e < experts; e += blockDim.x)
        s->map[e] = p.lane.expert_map[e];
    for (uint32_t t = threadIdx.x; t < (p.user.bucket + 31) / 32 * 32; t += blockDim.x)
        s->ranks[t] = 0;
    if (threadIdx.x == 0) {
        s->bad_ids = 0;
        s->first_bad = 0xFFFFFFFFu;
    }
}

/* Maps the choices to experts and gathers each token's ranks. */
static __device__ void gather_ranks(const epg__cuda_params &p, const epg__step &at, uint32_t steps, uint32_t tokens,
                                    few_routing *s)
{
    const epg__cuda_lane &l = p.lane;
    for (uint32_t i = threadIdx.x; i < steps * 32; i += blockDim.x) {
        uint32_t t = (i >> 5) * at.tokens + at.token;
        int32_t expert = epg__expert_of(l.wire.geometry, at, s->map, t < tokens ? s->chosen[i] : -1);
        uint32_t ranks = expert >= 0 ? 1u << ((uint32_t)expert / l.local_experts) : 0;
        if (expert == -2) {
            atomicAdd(&s->bad_ids, 1);
            atomicMin(&s->first_bad, t * l.wire.geometry.topk + at.k);
        }
        for (uint32_t step = at.width / 2; step; step /= 2)
            ranks |= __shfl_xor_sync(0xFFFFFFFFu, ranks, step);
        s->chosen[i] = expert;
        if (at.k == 0 && t < tokens)
            s->ranks[t] = ranks;
    }
}

/* Turns them: for each rank, who of 32 tokens goes there. A warp takes a group. */
static __device__ void turn_ranks(const epg__cuda_lane &l, uint32_t tokens, few_routing *s)
{
    uint32_t lane = epg__lane_id();
    for (uint32_t group = threadIdx.x / 32; group * 32 < tokens; group += blockDim.x / 32) {
        uint32_t ranks = s->ranks[group * 32 + lane], mine = 0;
        for (uint32_t r = 0; r < l.ranks; r++) {
            uint32_t votes = __ballot_sync(0xFFFFFFFFu, ranks >> r & 1);
            mine = lane == r ? votes : mine;
        }
        s->votes[group][lane] = mine;
    }
}

/* Rows that go to `rank` of the tokens before `token`. */
static __device__ uint32_t rows_before(const few_routing &s, uint32_t rank, uint32_t token)
{
    uint32_t rows = token & 31 ? __popc(s.votes[token / 32][rank] & ((1u << (token & 31)) - 1)) : 0;
    for (uint32_t group = 0; group < token / 32; group++)
        rows += __popc(s.votes[group][rank]);
    return rows;
}

/* One warp: what is kept of a token, and its metas. Lane r: the slot at rank r, if it goes there. */
static __device__ void send_metas(const epg__cuda_params &p, const epg__step &at, const few_routing &s, uint32_t epoch,
                                  uint32_t token, uint32_t slot, epg__sorted_routes *sorted)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t lane = epg__lane_id(), topk = l.wire.geometry.topk, ranks = s.ranks[token];
    uint32_t first = token / at.tokens * 32 + token % at.tokens * at.width;
    uint32_t expert = lane < topk && s.chosen[first + lane] >= 0 ? (uint32_t)s.chosen[first + lane] : EPG_WIRE_NONE;
    float weight = lane < topk && p.user.topk_weights ? p.user.topk_weights[(size_t)token * topk + lane] : 1.0f;
    char *to = NULL;
    if (ranks >> lane & 1) {
        epg__share share = {lane, slot};
        l.shares[(size_t)token * l.fan + __popc(ranks & ((1u << lane) - 1))] = share;
    }
    if (lane == 0)
        l.share_count[token] = __popc(ranks);
    if (slot != EPG_WIRE_NONE)
        to = (char *)epg__meta_at(&l.wire, epg__peer_lane(l, lane), epg__slot_index(&l.wire, epoch & 1, l.rank, slot));
    epg__send_metas(l, token, ranks, lane, to, expert, weight, sorted);
}

/* One warp: a part of a token. */
template <int FORM>
static __device__ void send_part(const epg__cuda_params &p, const epg__step &at, const few_routing &s, uint32_t epoch,
                                 uint32_t token, uint32_t part, epg__sorted_routes *sorted)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t lane = epg__lane_id(), slot = EPG_WIRE_NONE;
    char *to = NULL;
    if (lane < l.ranks && s.ranks[token] >> lane & 1) {
        uint32_t before = rows_before(s, lane, token);
        slot = before < s.room[lane] ? before : EPG_WIRE_NONE;
        if (slot != EPG_WIRE_NONE)
            to = epg__row_at(&l.wire, epg__peer_lane(l, lane), epg__slot_index(&l.wire, epoch & 1, l.rank, slot));
    }
    if (part == 0)
        send_metas(p, at, s, epoch, token, slot, sorted);
    epg__send_row<FORM>(p, token, part, to, l.ranks);
}

/* Thread 0 of the last block: opens the pair for the other halves, and says what went wrong. */
static __device__ void open_pair(const epg__cuda_params &p, const few_call &c, const few_routing &s, uint32_t dropped)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t slots = l.wire.geometry.slots;
    epg__pair_state state = {c.epoch, c.tokens, 0, 0};
    ((epg_wire_lane *)epg__own_lane(l))->epoch = c.epoch;
    *l.pair = state;
    if (*l.entering)
        epg__admit_due(l, c.epoch);
    epg__count(l, EPG_COUNT_PAIRS, 1);
    epg__count(l, EPG_COUNT_BAD_IDS, s.bad_ids);
    epg__count(l, EPG_COUNT_DROPPED_TOKENS, c.asked - c.tokens);
    epg__count(l, EPG_COUNT_DROPPED_ROWS, dropped);
    if (c.asked > c.tokens)
        epg__record_failure(l, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_SEND, l.rank, p.user.bucket, c.asked);
    if (s.bad_ids)
        epg__record_failure(l, EPG_ERR_ROUTING, EPG_OP_DISPATCH_SEND, l.rank, l.wire.geometry.logical_experts,
                            (uint64_t)epg__id_at(p.user, s.first_bad));
    if (dropped)
        epg__record_failure(l, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_SEND, l.rank, slots, slots + dropped);
}

/* The whole block, the last one. */
static __device__ void end_send(const epg__cuda_params &p, const few_call &c, const few_routing &s)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t r = threadIdx.x, sent = 0, dropped = 0;
    if (r < l.ranks) {
        uint32_t wanted = rows_before(s, r, (c.tokens + 31) / 32 * 32);
        sent = wanted < s.room[r] ? wanted : s.room[r];
        dropped = s.room[r] ? wanted - sent : 0;
        l.sent[r] = sent;
    }
    if (r < 32)
        dropped = __reduce_add_sync(0xFFFFFFFFu, dropped);
    if (r == 0)
        open_pair(p, c, s, dropped);
    __syncthreads();
    if (r < l.ranks && (epg__rank_alive(l, r) || epg__is_invited(l, r, c.epoch)))
        epg__send_signal(l, c.epoch, EPG_WIRE_DISPATCH, r, sent, false);
}

/* A rank that joins rehearses until it is admitted; a real pair before that is a mistake. */
static __device__ void rehearse_pair(const epg__cuda_lane &l, const few_call &c)
{
    l.pair->tokens = 0;
    l.pair->rehearsed = 1;
    if (!c.rehearsal)
        epg__record_failure(l, EPG_ERR_STATE, EPG_OP_DISPATCH_SEND, l.rank, 0, 0);
}

template <int FORM> static __global__ void __launch_bounds__(256) send_few(const __grid_constant__ epg__cuda_params p)
{
    __shared__ few_routing s;
    __shared__ epg__sorted_routes sorted[8];
    const epg__cuda_lane &l = p.lane;
    const epg__step at = epg__step_of(l.wire.geometry.topk);
    uint32_t steps = (p.user.bucket + at.tokens - 1) / at.tokens;

    epg__touch(p);
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    const few_call c = read_call(p);
    if (threadIdx.x < l.ranks)
        look_at_rank(l, c.epoch, threadIdx.x, &s);
    read_inputs(p, at, steps, &s);
    __syncthreads();
    if (c.rehearsal || c.outside) {
        if (blockIdx.x == 0 && threadIdx.x == 0)
            rehearse_pair(l, c);
        return;
    }
    gather_ranks(p, at, steps, c.tokens, &s);
    __syncthreads();
    turn_ranks(l, c.tokens, &s);
    __syncthreads();
    for (uint32_t item = epg__first_item(); item < c.tokens * p.parts; item += epg__item_stride())
        send_part<FORM>(p, at, s, c.epoch, item / p.parts, item % p.parts, &sorted[threadIdx.x / 32]);
    if (epg__block_done(l.done, gridDim.x))
        end_send(p, c, s);
}

/* ---- launchers ---- */

int epg__cuda_send_few_fits(const epg__cuda_lane *lane, uint32_t bucket)
{
    const epg_wire_geometry *g = &lane->wire.geometry;
    return bucket > 0 && bucket <= FEW_TOKENS && (uint64_t)bucket * 2 * g->topk <= FEW_CHOICES &&
           g->ranks <= FEW_RANKS && g->logical_experts <= FEW_EXPERTS;
}

static const void *const send_kernels[] = {
    (const void *)send_few<EPG__ROWS_PLAIN>,
    (const void *)send_few<EPG__ROWS_QUANTISED>,
    (const void *)send_few<EPG__ROWS_GIVEN>,
};

epg_status epg__cuda_send_few(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                              epg__cuda_params *params)
{
    int form = epg__row_form(params);
    epg__cuda_rows rows = {send_kernels[form], "dispatch send", params->user.bucket, epg__row_input_bytes(params, form),
                           4, 4, 0}; /* in few parts, since each block works out the routing */
    return epg__cuda_launch_rows(device, stream, shape, &rows, params);
}

epg_status epg__cuda_few_prepare(epg_device *device)
{
    epg_status status = EPG_OK;
    for (int i = 0; i < 3 && status == EPG_OK; i++)
        status = epg__cuda_kernel_prepare(device, send_kernels[i], 0);
    return status;
}
