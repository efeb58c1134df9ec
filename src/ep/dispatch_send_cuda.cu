/* Dispatch send on the CUDA device: a kernel of one block that decides, then a kernel of many that moves rows.
 *
 *   route       opens the pair, validates the choices, gives slots by prefix sums in token order
 *   send_rows   one row in, quantised or as it is, a copy and its meta to each destination; the last block signals
 *               every live rank
 *
 * Nothing waits. For few tokens there is a shorter way, dispatch_few_cuda.cu, and for a team of one rank another,
 * local_cuda.cu. The two words that the host has set in stream order (rehearsal, a mask) are set here too. */
#include "ep/lane_cuda_int.cuh"
#include "ep/rows_cuda.cuh"

/* ---- route ---- */

/* A rank that joins rehearses until it is admitted; a real pair before that is a mistake. */
static __device__ bool is_rehearsed(const epg__cuda_lane &l)
{
    if (epg__word_load(&epg__own_header(l)->rehearsal))
        return true;
    if (!epg__word_load(&epg__own_header(l)->outside))
        return false;
    epg__record_failure(l, EPG_ERR_STATE, EPG_OP_DISPATCH_SEND, l.rank, 0, 0);
    return true;
}

/* Opens the pair; true unless it is a rehearsal. One thread. */
static __device__ bool open_pair(const epg__cuda_params &p, uint32_t *tokens)
{
    const epg__cuda_lane &l = p.lane;
    epg_wire_lane *own = (epg_wire_lane *)epg__own_lane(l);
    uint32_t asked = p.is_void ? 0 : p.user.tokens ? *p.user.tokens : p.user.bucket;
    uint32_t kept = asked < p.user.bucket ? asked : p.user.bucket;
    if (is_rehearsed(l)) {
        l.pair->tokens = 0;
        l.pair->rehearsed = 1;
        return false;
    }
    epg__pair_state state = {own->epoch + 1, kept, 0, 0};
    own->epoch = state.epoch;
    *l.pair = state;
    *tokens = kept;
    if (*l.entering)
        epg__admit_due(l, state.epoch);
    if (asked > kept) {
        epg__count(l, EPG_COUNT_DROPPED_TOKENS, asked - kept);
        epg__record_failure(l, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_SEND, l.rank, p.user.bucket, asked);
    }
    epg__count(l, EPG_COUNT_PAIRS, 1);
    return true;
}

/* Physical expert of a choice; EPG_WIRE_NONE with *bad set or not. */
static __device__ uint32_t expert_of(const epg__cuda_lane &l, int64_t id, bool *bad)
{
    const epg_wire_geometry &g = l.wire.geometry;
    int64_t physical = id >= 0 && id < g.logical_experts ? l.expert_map[id] : -1;
    *bad = id < -1 || id >= g.logical_experts || physical < -1 || physical >= (int64_t)g.experts;
    return *bad || physical < 0 ? EPG_WIRE_NONE : (uint32_t)physical;
}

typedef struct route_totals {
    unsigned long long bad_ids, dropped, first_bad; /* first_bad: index of the first bad choice in token order */
} route_totals;

/* Puts a rank into a token's ascending list, once. */
static __device__ uint32_t insert_rank(epg__share *shares, uint32_t count, uint32_t rank)
{
    uint32_t at = count;
    while (at > 0 && shares[at - 1].rank > rank)
        at--;
    if (at > 0 && shares[at - 1].rank == rank)
        return count;
    for (uint32_t i = count; i > at; i--)
        shares[i].rank = shares[i - 1].rank;
    shares[at].rank = rank;
    return count + 1;
}

/* Validates a token's choices and lists its ranks, ascending. An expert chosen again is bad. One thread. Ids are read
 * and mapped eight at a time. */
static __device__ void choose(const epg__cuda_params &p, uint32_t token, route_totals *totals)
{
    enum { BATCH = 8 };
    const epg__cuda_lane &l = p.lane;
    uint32_t topk = l.wire.geometry.topk, count = 0;
    uint32_t *chosen = l.chosen + (size_t)token * topk;
    epg__share *shares = l.shares + (size_t)token * l.fan;
    unsigned long long set = 0; /* of ranks; where there are more than 64, the list is sorted as it grows */
    for (uint32_t first = 0; first < topk; first += BATCH) {
        uint32_t expert[BATCH];
        bool bad[BATCH];
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            expert[j] = EPG_WIRE_NONE;
            bad[j] = false;
            if (first + j < topk)
                expert[j] = expert_of(l, epg__id_at(p.user, (size_t)token * topk + first + j), &bad[j]);
        }
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            if (first + j >= topk)
                continue;
            bool again = false;
            for (uint32_t before = 0; before < first; before++)
                again = again || chosen[before] == expert[j];
#pragma unroll
            for (int before = 0; before < j; before++)
                again = again || expert[before] == expert[j];
            if (again && expert[j] != EPG_WIRE_NONE) {
                bad[j] = true;
                expert[j] = EPG_WIRE_NONE;
            }
            if (bad[j]) {
                atomicAdd(&totals->bad_ids, 1);
                atomicMin(&totals->first_bad, (unsigned long long)token * topk + first + j);
            }
            chosen[first + j] = expert[j];
            if (expert[j] == EPG_WIRE_NONE)
                continue;
            if (l.ranks <= 64)
                set |= 1ull << (expert[j] / l.local_experts);
            else
                count = insert_rank(shares, count, expert[j] / l.local_experts);
        }
    }
    for (; set; set &= set - 1)
        shares[count++].rank = (uint32_t)__ffsll((long long)set) - 1;
    l.share_count[token] = count;
}

/* Walks the tokens of this warp in groups of 32, one per lane, and the ranks within. Counts into base[rank], or, with
 * `room` (slots of each rank, 0: masked), counts on from base[rank] and gives slots. Returns this lane's rows without a
 * slot. */
static __device__ uint32_t walk_tokens(const epg__cuda_lane &l, uint32_t first, uint32_t end, uint32_t *base,
                                       const uint32_t *room)
{
    uint32_t lane = threadIdx.x & 31, dropped = 0;
    for (uint32_t group = first; group < end; group += 32) {
        uint32_t token = group + lane, at = 0;
        uint32_t count = token < end ? l.share_count[token] : 0;
        epg__share *shares = l.shares + (size_t)token * l.fan;
        for (uint32_t r = 0; r < l.ranks; r++) {
            bool mine = at < count && shares[at].rank == r;
            uint32_t votes = __ballot_sync(0xFFFFFFFFu, mine);
            if (votes == 0)
                continue;
            uint32_t start = base[r];
            __syncwarp();
            if (lane == 0)
                base[r] = start + __popc(votes);
            __syncwarp();
            if (!mine)
                continue;
            if (room) {
                uint32_t slot = start + __popc(votes & ((1u << lane) - 1));
                shares[at].slot = slot < room[r] ? slot : EPG_WIRE_NONE;
                dropped += room[r] > 0 && slot >= room[r];
            }
            at++;
        }
    }
    return dropped;
}

static __device__ void close_route(const epg__cuda_params &p, const route_totals &totals)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t slots = l.wire.geometry.slots;
    epg__count(l, EPG_COUNT_BAD_IDS, totals.bad_ids);
    epg__count(l, EPG_COUNT_DROPPED_ROWS, totals.dropped);
    if (totals.bad_ids)
        epg__record_failure(l, EPG_ERR_ROUTING, EPG_OP_DISPATCH_SEND, l.rank, l.wire.geometry.logical_experts,
                            (uint64_t)epg__id_at(p.user, totals.first_bad));
    if (totals.dropped)
        epg__record_failure(l, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_SEND, l.rank, slots, slots + totals.dropped);
}

static __global__ void __launch_bounds__(EPG_CUDA_BLOCK) route(const __grid_constant__ epg__cuda_params p)
{
    extern __shared__ uint32_t shared[];
    __shared__ uint32_t tokens;
    __shared__ route_totals totals;
    const epg__cuda_lane &l = p.lane;
    uint32_t warp = threadIdx.x / 32, *table = p.shared_words ? shared : l.scratch;
    uint32_t *room = table + blockDim.x / 32 * l.ranks;

    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    if (threadIdx.x == 0) {
        route_totals none = {0, 0, ~0ull};
        tokens = 0;
        totals = none;
        open_pair(p, &tokens);
    }
    for (uint32_t i = threadIdx.x; i < blockDim.x / 32 * l.ranks; i += blockDim.x)
        table[i] = 0;
    __syncthreads();
    for (uint32_t r = threadIdx.x; r < l.ranks; r += blockDim.x)
        room[r] = epg__rank_alive(l, r) ? l.wire.geometry.slots : 0;
    for (uint32_t t = threadIdx.x; t < tokens; t += blockDim.x)
        choose(p, t, &totals);
    __syncthreads();
    uint32_t each = (tokens + blockDim.x - 1) / blockDim.x * 32;
    uint32_t first = warp * each < tokens ? warp * each : tokens, end = first + each < tokens ? first + each : tokens;
    walk_tokens(l, first, end, table + warp * l.ranks, NULL);
    __syncthreads();
    epg__scan_warps(table, l.ranks, l.sent);
    __syncthreads();
    uint32_t dropped = walk_tokens(l, first, end, table + warp * l.ranks, room);
    if (dropped)
        atomicAdd(&totals.dropped, dropped);
    for (uint32_t r = threadIdx.x; r < l.ranks; r += blockDim.x)
        l.sent[r] = l.sent[r] < room[r] ? l.sent[r] : room[r];
    __syncthreads();
    if (threadIdx.x == 0)
        close_route(p, totals);
}

/* ---- send_rows ---- */

/* One warp: where a share of the token goes, and its meta. `expert` is the token's choice number lane. */
static __device__ void send_meta(const epg__cuda_params &p, uint32_t token, epg__share share, uint32_t epoch,
                                 uint32_t expert, float weight)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t lane = epg__lane_id();
    bool mine = expert != EPG_WIRE_NONE && expert / l.local_experts == share.rank;
    uint32_t votes = __ballot_sync(0xFFFFFFFFu, mine);
    size_t index = epg__slot_index(&l.wire, epoch & 1, l.rank, share.slot);
    epg_wire_meta *meta = epg__meta_at(&l.wire, epg__peer_lane(l, share.rank), index);
    if (mine) {
        epg_wire_route r = {expert % l.local_experts, weight};
        epg__routes_of(meta)[__popc(votes & ((1u << lane) - 1))] = r;
    }
    if (lane == 0) {
        epg_wire_meta head = {token, (uint32_t)__popc(votes)};
        *meta = head;
    }
}

template <int FORM> static __global__ void __launch_bounds__(256) send_rows(const __grid_constant__ epg__cuda_params p)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t lane = epg__lane_id(), topk = l.wire.geometry.topk;

    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    epg__pair_state pair = *l.pair;
    if (pair.rehearsed)
        return;
    for (uint32_t item = epg__first_item(); item < pair.tokens * p.parts; item += epg__item_stride()) {
        uint32_t token = item / p.parts, part = item % p.parts, count = l.share_count[token], expert = EPG_WIRE_NONE;
        epg__share share = {0, EPG_WIRE_NONE};
        float weight = 1;
        if (lane < l.fan)
            share = l.shares[(size_t)token * l.fan + lane];
        if (part == 0 && lane < topk) {
            expert = l.chosen[(size_t)token * topk + lane];
            if (p.user.topk_weights)
                weight = p.user.topk_weights[(size_t)token * topk + lane];
        }
        char *to = NULL;
        if (lane < count && share.slot != EPG_WIRE_NONE)
            to = epg__row_at(&l.wire, epg__peer_lane(l, share.rank),
                             epg__slot_index(&l.wire, pair.epoch & 1, l.rank, share.slot));
        for (uint32_t i = 0; part == 0 && i < count; i++) {
            epg__share there = {__shfl_sync(0xFFFFFFFFu, share.rank, i), __shfl_sync(0xFFFFFFFFu, share.slot, i)};
            if (there.slot != EPG_WIRE_NONE)
                send_meta(p, token, there, pair.epoch, expert, weight);
        }
        epg__send_row<FORM>(p, token, part, to, count);
    }
    if (!epg__block_done(l.done, gridDim.x))
        return;
    for (uint32_t r = threadIdx.x; r < l.ranks; r += blockDim.x)
        if (epg__rank_alive(l, r) || epg__is_invited(l, r, pair.epoch))
            epg__send_signal(l, pair.epoch, EPG_WIRE_DISPATCH, r, l.sent[r], false);
}

/* ---- words ---- */

static __global__ void store_word(const __grid_constant__ epg__cuda_word w) { epg__word_store(w.word, w.value); }
static __global__ void raise_word(const __grid_constant__ epg__cuda_word w) { atomicMax_system(w.word, w.value); }

/* ---- launchers ---- */

static const void *const send_kernels[] = {
    (const void *)send_rows<EPG__ROWS_PLAIN>,
    (const void *)send_rows<EPG__ROWS_QUANTISED>,
    (const void *)send_rows<EPG__ROWS_GIVEN>,
};

epg_status epg__cuda_dispatch_send(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                   epg__cuda_params *params)
{
    epg_status status = epg__cuda_launch_table(device, stream, shape, (const void *)route, "dispatch send: route", 1,
                                     epg__cuda_block_for(params->user.bucket, 128), params->lane.ranks, params);
    if (status != EPG_OK)
        return status;
    int form = epg__row_form(params);
    epg__cuda_rows rows = {send_kernels[form], "dispatch send: rows", params->is_void ? 0 : params->user.bucket,
                           epg__row_input_bytes(params, form), 8, 4};
    return epg__cuda_launch_rows(device, stream, shape, &rows, params);
}

epg_status epg__cuda_store_word(epg_device *device, epg_stream stream, const epg__cuda_word *word)
{
    epg__cuda_launch launch = {(const void *)store_word, "a word", {1, 1, 1}, 1, 0, 0};
    return epg__cuda_launch_kernel(device, stream, &launch, word);
}

epg_status epg__cuda_raise_word(epg_device *device, epg_stream stream, const epg__cuda_word *word)
{
    epg__cuda_launch launch = {(const void *)raise_word, "a word", {1, 1, 1}, 1, 0, 0};
    return epg__cuda_launch_kernel(device, stream, &launch, word);
}

epg_status epg__cuda_send_prepare(epg_device *device)
{
    const void *const kernels[] = {(const void *)route, send_kernels[0], send_kernels[1], send_kernels[2],
                                   (const void *)store_word, (const void *)raise_word};
    epg_status status = EPG_OK;
    for (int i = 0; i < 6 && status == EPG_OK; i++)
        status = epg__cuda_kernel_prepare(device, kernels[i], i == 0 ? EPG_CUDA_TABLE_BYTES : 0);
    return status;
}
