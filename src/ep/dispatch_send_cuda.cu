/* Dispatch send on the CUDA device: a kernel that decides, then one that moves rows.
 *
 *   route       validates the choices and counts, chunk by chunk of tokens, a warp each, what goes to each rank; the
 *               last block opens the pair and gives each chunk its first slots, by prefix sums in token order
 *   send_rows   one row in, quantised or as it is, a copy and its meta to each destination; the last block signals
 *               every live rank
 *
 * Nothing waits. For few tokens there is a shorter way, dispatch_few_cuda.cu, and for a team of one rank another,
 * local_cuda.cu. The two words that the host has set in stream order (rehearsal, a mask) are set here too. */
#include "ep/meta_cuda.cuh"
#include "ep/rows_cuda.cuh"

/* ---- route ---- */

enum { ROUTE_BLOCK = 256 };

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

static __device__ uint32_t asked_tokens(const epg__cuda_params &p)
{
    return p.is_void ? 0 : p.user.tokens ? *p.user.tokens : p.user.bucket;
}

/* Opens the pair; false where it is a rehearsal. One thread. */
static __device__ bool open_pair(const epg__cuda_params &p)
{
    const epg__cuda_lane &l = p.lane;
    epg_wire_lane *own = (epg_wire_lane *)epg__own_lane(l);
    uint32_t asked = asked_tokens(p), kept = min(asked, p.user.bucket);
    if (is_rehearsed(l)) {
        l.pair->tokens = 0;
        l.pair->rehearsed = 1;
        return false;
    }
    epg__pair_state state = {own->epoch + 1, kept, 0, 0};
    own->epoch = state.epoch;
    *l.pair = state;
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

/* Choices that are not valid: how many, and the first in token order. */
typedef struct bad_choices {
    uint32_t count, first;
} bad_choices;

/* The whole warp: those of all lanes. */
static __device__ bad_choices all_bad(bad_choices bad)
{
    for (uint32_t step = 16; step; step /= 2) {
        bad.count += __shfl_xor_sync(0xFFFFFFFFu, bad.count, step);
        bad.first = min(bad.first, __shfl_xor_sync(0xFFFFFFFFu, bad.first, step));
    }
    return bad;
}

/* Validates a token's choices and maps them to experts. An expert chosen again is bad. One thread. Ids are read and
 * mapped eight at a time. */
static __device__ void choose(const epg__cuda_params &p, uint32_t token, bad_choices *bad_ones)
{
    enum { BATCH = 8 };
    const epg__cuda_lane &l = p.lane;
    uint32_t topk = l.wire.geometry.topk, *chosen = l.chosen + (size_t)token * topk;
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
            if (bad[j] && bad_ones->count++ == 0)
                bad_ones->first = token * topk + first + j;
            if (first + j < topk)
                chosen[first + j] = expert[j];
        }
    }
}

/* Which of the ranks base .. base + 31 a token goes to. */
static __device__ uint32_t ranks_of(const epg__cuda_lane &l, uint32_t token, uint32_t base)
{
    uint32_t topk = l.wire.geometry.topk, set = 0;
    for (uint32_t k = 0; k < topk; k++) {
        uint32_t expert = l.chosen[(size_t)token * topk + k];
        if (expert != EPG_WIRE_NONE && expert / l.local_experts - base < 32)
            set |= 1u << (expert / l.local_experts - base);
    }
    return set;
}

/* One warp, a token in each lane: adds those of the ranks base .. base + 31 to the tokens' shares. Lane r returns how
 * many of the tokens go to rank base + r. A slot is as yet the number of the chunk's tokens before that go there. */
static __device__ uint32_t list_ranks(const epg__cuda_lane &l, epg__span tokens, uint32_t base)
{
    uint32_t lane = epg__lane_id(), below = (1u << lane) - 1, rows = 0;
    for (uint32_t token = tokens.first + lane; token - lane < tokens.end; token += 32) {
        bool is_there = token < tokens.end;
        uint32_t set = is_there ? ranks_of(l, token, base) : 0;
        uint32_t at = is_there && base ? l.share_count[token] : 0;
        epg__share *shares = l.routed + (size_t)token * l.fan;
        for (uint32_t r = 0; r < 32 && base + r < l.ranks; r++) {
            uint32_t votes = __ballot_sync(0xFFFFFFFFu, set >> r & 1), before = __shfl_sync(0xFFFFFFFFu, rows, r);
            if (set >> r & 1) {
                epg__share share = {base + r, before + __popc(votes & below)};
                shares[at++] = share;
            }
            rows += lane == r ? __popc(votes) : 0;
        }
        if (is_there)
            l.share_count[token] = at;
    }
    return rows;
}

/* One warp: brings a chunk's ids nearer, while earlier kernels still run. */
static __device__ void prefetch_ids(const epg__cuda_params &p, uint32_t chunk)
{
    size_t token = (size_t)p.lane.wire.geometry.topk * (p.user.topk_type == EPG_INT64 ? 8 : 4);
    size_t first = ((size_t)chunk << p.chunk_shift) * token, end = min(first + (token << p.chunk_shift),
                                                                         p.user.bucket * token);
    for (size_t at = first + epg__lane_id() * 128; at < end; at += 32 * 128)
        epg__prefetch((const char *)p.user.topk_ids + at);
}

/* One warp: a chunk of tokens. */
static __device__ void route_chunk(const epg__cuda_params &p, uint32_t chunk, epg__span tokens)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t lane = epg__lane_id();
    bad_choices bad = {0, 0xFFFFFFFFu};
    for (uint32_t token = tokens.first + lane; token < tokens.end; token += 32)
        choose(p, token, &bad);
    for (uint32_t base = 0; base < l.ranks; base += 32) {
        uint32_t rows = list_ranks(l, tokens, base);
        if (base + lane < l.ranks)
            l.scratch[chunk * l.ranks + base + lane] = rows;
    }
    bad = all_bad(bad);
    if (lane == 0) {
        l.bad_ids[chunk * 2] = bad.count;
        l.bad_ids[chunk * 2 + 1] = bad.first;
    }
}

/* One warp: how many choices are bad, and the first of them in token order. */
static __device__ bad_choices sum_bad(const epg__cuda_lane &l, uint32_t chunks)
{
    bad_choices bad = {0, 0xFFFFFFFFu};
    for (uint32_t chunk = epg__lane_id(); chunk < chunks; chunk += 32) {
        bad.count += l.bad_ids[chunk * 2];
        bad.first = min(bad.first, l.bad_ids[chunk * 2 + 1]);
    }
    return all_bad(bad);
}

static __device__ void report(const epg__cuda_params &p, const bad_choices &bad, unsigned long long dropped)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t slots = l.wire.geometry.slots;
    epg__count(l, EPG_COUNT_BAD_IDS, bad.count);
    epg__count(l, EPG_COUNT_DROPPED_ROWS, dropped);
    if (bad.count)
        epg__record_failure(l, EPG_ERR_ROUTING, EPG_OP_DISPATCH_SEND, l.rank, l.wire.geometry.logical_experts,
                            (uint64_t)epg__id_at(p.user, bad.first));
    if (dropped)
        epg__record_failure(l, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_SEND, l.rank, slots, slots + dropped);
}

/* The whole block, the last one: opens the pair, while other warps sum up from which slot on each chunk has places; and
 * says what is sent. */
static __device__ void close_route(const epg__cuda_params &p, uint32_t chunks)
{
    __shared__ unsigned long long dropped;
    __shared__ bool is_open;
    const epg__cuda_lane &l = p.lane;
    uint32_t warp = threadIdx.x / 32, warps = blockDim.x / 32;
    bad_choices bad = {0, 0};
    if (threadIdx.x == 0) {
        dropped = 0;
        is_open = open_pair(p);
    } else if (warp == 1) {
        bad = sum_bad(l, chunks);
    }
    for (uint32_t r = warps - 1 - warp; r < l.ranks; r += warps) {
        uint32_t wanted = epg__sum_column(l.scratch + r, l.ranks, chunks);
        if (epg__lane_id() == 0)
            l.sent[r] = wanted;
    }
    __syncthreads();
    if (!is_open)
        return;
    for (uint32_t r = threadIdx.x; r < l.ranks; r += blockDim.x) {
        uint32_t wanted = l.sent[r], room = epg__rank_alive(l, r) ? l.wire.geometry.slots : 0;
        l.sent[r] = min(wanted, room);
        if (room && wanted > room)
            atomicAdd(&dropped, wanted - room);
    }
    __syncthreads();
    if (threadIdx.x == 32)
        report(p, bad, dropped);
}

static __global__ void __launch_bounds__(ROUTE_BLOCK, 4) route(const __grid_constant__ epg__cuda_params p)
{
    uint32_t chunk = epg__first_item();

    epg__touch(p);
    prefetch_ids(p, chunk);
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    uint32_t tokens = min(asked_tokens(p), p.user.bucket);
    epg__span mine = {min(chunk << p.chunk_shift, tokens), min((chunk + 1) << p.chunk_shift, tokens)};
    route_chunk(p, chunk, mine);
    if (epg__block_done(p.lane.done, gridDim.x))
        close_route(p, epg__item_stride());
}

/* ---- send_rows ---- */

/* What was routed of a token: in lane i its i-th share, whose slot counts from where the chunk's begin; in lane r where
 * they begin at rank r. */
typedef struct send_item {
    uint32_t count, base;
    epg__share share;
} send_item;

static __device__ send_item read_item(const epg__cuda_params &p, uint32_t token)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t lane = epg__lane_id();
    send_item now = {l.share_count[token], 0, {0, 0}};
    if (lane < l.fan)
        now.share = l.routed[(size_t)token * l.fan + lane];
    if (lane < l.ranks)
        now.base = l.scratch[(token >> p.chunk_shift) * l.ranks + lane];
    return now;
}

/* The slot of this lane's share, EPG_WIRE_NONE where it is not sent. `sent`: to the rank of this lane's number. */
static __device__ epg__share place_share(const epg__cuda_params &p, uint32_t token, const send_item &now, uint32_t sent)
{
    const epg__cuda_lane &l = p.lane;
    bool is_there = epg__lane_id() < now.count;
    epg__share share = {is_there ? now.share.rank : 0, EPG_WIRE_NONE};
    uint32_t base = __shfl_sync(0xFFFFFFFFu, now.base, share.rank & 31);
    uint32_t room = __shfl_sync(0xFFFFFFFFu, sent, share.rank & 31);
    if (l.ranks > 32) {
        base = l.scratch[(token >> p.chunk_shift) * l.ranks + share.rank];
        room = l.sent[share.rank];
    }
    if (is_there && base + now.share.slot < room)
        share.slot = base + now.share.slot;
    return share;
}

/* One warp: a token's metas, and what is kept of it. */
static __device__ void send_metas(const epg__cuda_params &p, uint32_t token, uint32_t epoch, epg__share share,
                                  uint32_t count, epg__sorted_routes *sorted)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t lane = epg__lane_id(), topk = l.wire.geometry.topk, expert = EPG_WIRE_NONE;
    float weight = 1;
    char *to = NULL;
    if (lane < topk)
        expert = l.chosen[(size_t)token * topk + lane];
    if (lane < topk && p.user.topk_weights)
        weight = p.user.topk_weights[(size_t)token * topk + lane];
    if (lane < count)
        l.shares[(size_t)token * l.fan + lane] = share;
    if (share.slot != EPG_WIRE_NONE)
        to = (char *)epg__meta_at(&l.wire, epg__peer_lane(l, share.rank),
                                  epg__slot_index(&l.wire, epoch & 1, l.rank, share.slot));
    epg__send_metas(l, token, __ballot_sync(0xFFFFFFFFu, lane < count), share.rank, to, expert, weight, sorted);
}

/* One warp: a part of a token; the metas with the last part, which may be shorter. */
template <int FORM>
static __device__ void send_part(const epg__cuda_params &p, uint32_t item, uint32_t epoch, uint32_t sent,
                                 epg__sorted_routes *sorted)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t token = item / p.parts, part = item % p.parts;
    const send_item now = read_item(p, token);
    epg__share share = place_share(p, token, now, sent);
    char *to = NULL;
    if (share.slot != EPG_WIRE_NONE)
        to = epg__row_at(&l.wire, epg__peer_lane(l, share.rank),
                         epg__slot_index(&l.wire, epoch & 1, l.rank, share.slot));
    epg__send_row<FORM>(p, token, part, to, now.count);
    if (part == p.parts - 1)
        send_metas(p, token, epoch, share, now.count, sorted);
}

template <int FORM>
static __global__ void __launch_bounds__(256, 4) send_rows(const __grid_constant__ epg__cuda_params p)
{
    __shared__ epg__sorted_routes sorted[8];
    const epg__cuda_lane &l = p.lane;
    uint32_t first = epg__first_item();

    epg__touch(p);
    if (first < p.user.bucket * p.parts)
        epg__prefetch_row<FORM>(p, first / p.parts, first % p.parts); /* before it is known where it goes */
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    epg__pair_state pair = *l.pair;
    uint32_t items = pair.tokens * p.parts, sent = epg__lane_id() < l.ranks ? l.sent[epg__lane_id()] : 0;
    if (pair.rehearsed)
        return;
    for (uint32_t item = first; item < items; item += epg__item_stride())
        send_part<FORM>(p, item, pair.epoch, sent, &sorted[threadIdx.x / 32]);
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

/* As few tokens to a chunk as there are rows in the table for, but a warp's 32 at least. */
static epg_status launch_route(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                               epg__cuda_params *params)
{
    uint32_t bucket = params->user.bucket;
    params->chunk_shift = 5;
    while ((uint64_t)EPG_CUDA_CHUNKS << params->chunk_shift < bucket)
        params->chunk_shift++;
    uint32_t chunks = (uint32_t)(((uint64_t)bucket + (1u << params->chunk_shift) - 1) >> params->chunk_shift);
    uint32_t blocks = (chunks + ROUTE_BLOCK / 32 - 1) / (ROUTE_BLOCK / 32);
    epg__cuda_launch launch = {(const void *)route, "dispatch send: route", {blocks, 1, 1}, ROUTE_BLOCK, 0,
                               shape->dependent};
    return epg__cuda_launch_kernel(device, stream, &launch, params);
}

epg_status epg__cuda_dispatch_send(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                   epg__cuda_params *params)
{
    epg_status status = launch_route(device, stream, shape, params);
    if (status != EPG_OK)
        return status;
    int form = epg__row_form(params);
    epg__cuda_rows rows = {send_kernels[form], "dispatch send: rows", params->is_void ? 0 : params->user.bucket,
                           epg__row_input_bytes(params, form), 8, 0, epg__row_at_once(form)};
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
        status = epg__cuda_kernel_prepare(device, kernels[i], 0);
    return status;
}
