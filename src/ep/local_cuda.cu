/* A team of one rank: dispatch and combine as one kernel each, for few tokens.
 *
 * The protocol is the same: one epoch per pair, the same banks, meta and positions, both signals; whatever the halves
 * of a pair leave behind for each other is left behind here too, so that either operation may meet the two separate
 * halves of the other. What is left out is what nobody reads: a row travels from the caller's buffer to its positions
 * at once, and a partial sum is rounded as if it had been returned, but not stored. The signals tell nothing new
 * either: their only reader, this rank, is behind them in the stream.
 *
 * No block waits for another. Every block works out the whole routing for itself in shared memory, by counting, which
 * is faster for a few hundred choices than to tell each other; each then moves its piece of one row. The epoch is
 * advanced by the last block to have read it. */
#include "ep/lane_cuda_int.cuh"
#include "ep/rows_cuda.cuh"

enum {
    LOCAL_CHOICES = 2048, /* tokens x topk, at most */
    LOCAL_EXPERTS = 512,
    LOCAL_ALIGN = 1 << 16, /* with these the sum of all aligned counts is far below 2^32 */
    LOCAL_THREADS = 1024,
    LOCAL_PER_THREAD = 4, /* pieces of a row that a thread moves, at most */
    LOCAL_BLOCK = EPG_SCALE_BLOCK / 8 /* pieces of bf16 that share a scale */
};

static __device__ void leave_signal(const epg__cuda_lane &l, uint32_t epoch, uint32_t kind, uint32_t count)
{
    epg__signal_leave(epg__signal_at(&l.wire, epg__own_lane(l), kind, epoch & 1, 0),
                      epg__signal_make(epoch, l.incarnation, count, 0));
}

/* ---- dispatch ---- */

typedef struct local_routing {
    uint32_t chosen[LOCAL_CHOICES];
    int32_t map[LOCAL_EXPERTS];
    uint32_t all[LOCAL_EXPERTS], before[LOCAL_EXPERTS]; /* rows per expert: all, of earlier tokens */
    uint32_t offsets[LOCAL_EXPERTS];
    uint32_t position[EPG_TOPK_MAX], expert[EPG_TOPK_MAX];
    float weight[EPG_TOPK_MAX];
    uint8_t sent[LOCAL_CHOICES]; /* by token */
    uint32_t epoch, asked, tokens, rehearsed, outside;
    uint32_t rows, slot;         /* tokens sent, and before this one */
    uint32_t end, kept, wanted;
    uint32_t bad_ids, first_bad, count;
} local_routing;

/* Reads what the routing needs: everything at once, since each read is a journey to memory. */
static __device__ void read_inputs(const epg__cuda_params &p, local_routing *s)
{
    const epg__cuda_lane &l = p.lane;
    const epg_wire_geometry &g = l.wire.geometry;
    uint32_t choices = p.user.bucket * g.topk;
    if (threadIdx.x == blockDim.x - 1) {
        s->asked = p.user.tokens ? *p.user.tokens : p.user.bucket;
        s->epoch = ((epg_wire_lane *)epg__own_lane(l))->epoch;
        s->rehearsed = epg__own_header(l)->rehearsal;
        s->outside = epg__own_header(l)->outside;
        s->bad_ids = s->count = 0;
        s->first_bad = 0xFFFFFFFFu;
        s->outside = s->outside && !s->rehearsed;
        s->rehearsed = s->rehearsed || s->outside;
        s->tokens = s->rehearsed ? 0 : s->asked < p.user.bucket ? s->asked : p.user.bucket;
    }
    for (uint32_t i = threadIdx.x; i < choices; i += blockDim.x) {
        int64_t id = epg__id_at(p.user, i);
        s->chosen[i] = id < -1 || id >= g.logical_experts ? 0xFFFFFFFEu : (uint32_t)id;
    }
    for (uint32_t e = threadIdx.x; e < g.logical_experts; e += blockDim.x)
        s->map[e] = l.expert_map[e];
    for (uint32_t e = threadIdx.x; e < g.experts; e += blockDim.x)
        s->all[e] = s->before[e] = 0;
    for (uint32_t t = threadIdx.x; t < p.user.bucket; t += blockDim.x)
        s->sent[t] = 0;
}

/* Maps every choice to its physical expert, EPG_WIRE_NONE: none; 0xFFFFFFFE: bad. */
static __device__ void map_choices(const epg_wire_geometry &g, local_routing *s)
{
    for (uint32_t i = threadIdx.x; i < s->tokens * g.topk; i += blockDim.x) {
        uint32_t id = s->chosen[i];
        int32_t physical = id >= 0xFFFFFFFEu ? (int32_t)id : s->map[id];
        bool bad = id == 0xFFFFFFFEu || physical < -1 || physical >= (int64_t)g.experts;
        s->chosen[i] = bad ? 0xFFFFFFFEu : (uint32_t)physical;
    }
}

/* Counts the choices of all tokens and of those before `token`; keeps the token's own. */
static __device__ void count_choices(const epg__cuda_params &p, local_routing *s, uint32_t token)
{
    const epg_wire_geometry &g = p.lane.wire.geometry;
    for (uint32_t i = threadIdx.x; i < s->tokens * g.topk; i += blockDim.x) {
        uint32_t t = i / g.topk, k = i % g.topk, expert = s->chosen[i];
        bool again = false;
#pragma unroll 4
        for (uint32_t before = 0; before < k; before++)
            again |= s->chosen[i - k + before] == expert;
        if (again && expert != EPG_WIRE_NONE)
            expert = 0xFFFFFFFEu;
        if (expert == 0xFFFFFFFEu && blockIdx.x == 0) {
            atomicAdd(&s->bad_ids, 1);
            atomicMin(&s->first_bad, i);
        }
        if (t == token)
            s->expert[k] = expert >= 0xFFFFFFFEu ? EPG_WIRE_NONE : expert;
        if (expert >= 0xFFFFFFFEu)
            continue;
        s->sent[t] = 1;
        atomicAdd(&s->all[expert], 1);
        if (t < token)
            atomicAdd(&s->before[expert], 1);
    }
}

/* Warp 0: where each expert's rows begin, cut to what fits. As place_experts in dispatch_recv_cuda.cu. */
static __device__ void place_experts(const epg__cuda_lane &l, local_routing *s)
{
    uint32_t lane = threadIdx.x & 31, kept_all = 0, wanted = 0, last = 0, base = 0;
    for (uint32_t first = 0; first < l.local_experts; first += 32) {
        uint32_t e = first + lane, count = e < l.local_experts ? s->all[e] : 0, room = l.rows_per_expert;
        uint32_t rounded = (count + l.row_align - 1) & ~(l.row_align - 1), sum = rounded;
        for (uint32_t step = 1; step < 32; step *= 2) {
            uint32_t other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
            sum += lane >= step ? other : 0;
        }
        uint32_t start = base + sum - rounded, at = start < l.row_capacity ? start : l.row_capacity;
        base += __shfl_sync(0xFFFFFFFFu, sum, 31);
        if (l.layout == EPG_LAYOUT_MASKED)
            at = e * l.rows_per_expert;
        else
            room = l.row_capacity - at;
        uint32_t kept = count < room ? count : room;
        if (e < l.local_experts) {
            s->offsets[e] = at;
            s->all[e] = kept;
        }
        last = __shfl_sync(0xFFFFFFFFu, at + kept, (l.local_experts - 1 - first) & 31);
        kept_all += __reduce_add_sync(0xFFFFFFFFu, kept);
        wanted += __reduce_add_sync(0xFFFFFFFFu, count);
    }
    if (lane == 0) {
        s->end = l.layout == EPG_LAYOUT_MASKED ? l.row_capacity : last;
        s->kept = kept_all;
        s->wanted = wanted;
    }
}

/* One warp: the slot of `token`, and how many are sent. */
static __device__ void count_sent(local_routing *s, uint32_t token)
{
    uint32_t lane = threadIdx.x & 31, all = 0, before = 0;
    for (uint32_t t = lane; t < s->tokens; t += 32) {
        all += s->sent[t];
        before += t < token ? s->sent[t] : 0;
    }
    all = __reduce_add_sync(0xFFFFFFFFu, all);
    before = __reduce_add_sync(0xFFFFFFFFu, before);
    if (lane == 0) {
        s->rows = all;
        s->slot = before;
    }
}

/* Warp 0: the token's positions, its meta and all that is kept of it. `write`: by one of the blocks of a token. */
static __device__ void place_token(const epg__cuda_params &p, local_routing *s, uint32_t token, bool write)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t topk = l.wire.geometry.topk, lane = threadIdx.x & 31;
    uint32_t expert = lane < topk ? s->expert[lane] : EPG_WIRE_NONE;
    uint32_t votes = __ballot_sync(0xFFFFFFFFu, expert != EPG_WIRE_NONE), nth = __popc(votes & ((1u << lane) - 1));
    size_t index = epg__slot_index(&l.wire, (s->epoch + 1) & 1, 0, s->slot);
    epg_wire_meta *meta = epg__meta_at(&l.wire, epg__own_lane(l), index);
    if (lane == 0)
        s->count = __popc(votes);
    if (expert != EPG_WIRE_NONE) {
        uint32_t at = s->before[expert] < s->all[expert] ? s->offsets[expert] + s->before[expert] : EPG_WIRE_NONE;
        s->position[nth] = at;
        if (write) {
            epg_wire_route r = {expert, p.user.topk_weights ? p.user.topk_weights[token * topk + lane] : 1.0f};
            epg__routes_of(meta)[nth] = r;
            l.place[(size_t)s->slot * topk + nth] = at;
            if (at != EPG_WIRE_NONE) {
                l.row_source[at] = 0;
                l.row_token[at] = token;
                l.row_weight[at] = r.weight;
                if (l.layout == EPG_LAYOUT_IN_PLACE)
                    l.row_index[at] = (uint32_t)index;
            }
        }
    }
    if (write && lane == 0) {
        epg__share share = {0, s->slot};
        epg_wire_meta head = {token, (uint32_t)__popc(votes)};
        l.share_count[token] = votes != 0;
        l.shares[token] = share;
        if (votes)
            *meta = head;
    }
}

/* One block: what the pair leaves behind as a whole. */
static __device__ void write_view(const epg__cuda_params &p, const local_routing &s)
{
    const epg__cuda_lane &l = p.lane;
    for (uint32_t e = threadIdx.x; e < l.local_experts; e += blockDim.x) {
        l.offsets[e] = s.offsets[e];
        l.counts[e] = s.all[e];
    }
    if (threadIdx.x != 0)
        return;
    l.offsets[l.local_experts] = s.end;
    *l.total = s.kept;
    l.sent[0] = l.received[0] = s.rows;
    if (s.rehearsed) {
        l.pair->tokens = 0;
        l.pair->rehearsed = 1;
        if (s.outside)
            epg__record_failure(l, EPG_ERR_STATE, EPG_OP_DISPATCH_SEND, l.rank, 0, 0);
        return;
    }
    epg__pair_state state = {s.epoch + 1, s.tokens, 0, 0};
    *l.pair = state;
    leave_signal(l, state.epoch, EPG_WIRE_DISPATCH, s.rows);
    epg__count(l, EPG_COUNT_PAIRS, 1);
    epg__count(l, EPG_COUNT_BAD_IDS, s.bad_ids);
    epg__count(l, EPG_COUNT_DROPPED_TOKENS, s.asked - s.tokens);
    epg__count(l, EPG_COUNT_DROPPED_ROWS, s.wanted - s.kept);
    if (s.asked > s.tokens)
        epg__record_failure(l, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_SEND, 0, p.user.bucket, s.asked);
    if (s.bad_ids)
        epg__record_failure(l, EPG_ERR_ROUTING, EPG_OP_DISPATCH_SEND, 0, l.wire.geometry.logical_experts,
                            (uint64_t)epg__id_at(p.user, s.first_bad));
    if (s.wanted > s.kept)
        epg__record_failure(l, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_RECV, 0, s.kept, s.wanted);
}

/* The pieces that a part works on: what a thread moves at a time. To be quantised, those of whole blocks. */
template <int FORM> static __device__ epg__span local_part(const epg__cuda_params &p, uint32_t part)
{
    if constexpr (FORM != EPG__ROWS_QUANTISED)
        return epg__part_of(epg__pieces_of(p.lane), part, p.parts);
    uint32_t pieces = p.lane.wire.geometry.hidden / 8;
    epg__span blocks = epg__part_of(epg__scale_blocks(p.lane.wire.geometry.hidden), part, p.parts);
    epg__span span = {min(blocks.first * LOCAL_BLOCK, pieces), min(blocks.end * LOCAL_BLOCK, pieces)};
    return span;
}

/* Piece `at` of a token's row. */
template <int FORM>
static __device__ epg__piece local_load(const epg__cuda_params &p, uint32_t token, uint32_t at)
{
    const epg_wire_layout &w = p.lane.wire;
    if constexpr (FORM == EPG__ROWS_GIVEN)
        return epg__given_piece(p, token, at);
    size_t bytes = FORM == EPG__ROWS_QUANTISED ? w.geometry.hidden * (size_t)2 : w.row_bytes;
    return ((const epg__piece *)((const char *)p.user.rows + token * bytes))[at];
}

/* Where a piece goes: to the row in place, or to an expert's. */
typedef struct local_place {
    char *row;
    uint32_t position; /* EPG_WIRE_NONE: in place */
} local_place;

/* All threads of the block: turns the pieces of a thread into 8 codes each and, in the third word, the scale of their
 * block. */
static __device__ void local_quantise(const epg__cuda_lane &l, epg__span span, epg__piece *piece)
{
#pragma unroll
    for (uint32_t u = 0; u < LOCAL_PER_THREAD; u++) {
        uint32_t first = span.first + u * blockDim.x;
        if (first >= span.end)
            continue;
        float scale;
        epg__piece wide = make_uint4(0, 0, 0, 0);
        if (first + threadIdx.x < span.end)
            wide = piece[u];
        uint2 codes = epg__quantise_piece(wide, l.wire.geometry.power_of_two, &scale);
        piece[u] = make_uint4(codes.x, codes.y, __float_as_uint(scale), 0);
    }
}

/* Stores what local_load gave or local_quantise made of it; scales that are copied are laid out anew. */
template <int FORM>
static __device__ void local_store(const epg__cuda_lane &l, local_place to, uint32_t at, const epg__piece &piece)
{
    uint32_t payload = (uint32_t)(l.wire.payload_bytes / 16);
    bool in_place = to.position == EPG_WIRE_NONE;
    if constexpr (FORM == EPG__ROWS_QUANTISED) {
        ((uint2 *)to.row)[at] = make_uint2(piece.x, piece.y);
        if (at % LOCAL_BLOCK != 0)
            return;
        if (in_place)
            ((uint32_t *)(to.row + l.wire.payload_bytes))[at / LOCAL_BLOCK] = piece.z;
        else
            epg__store_scale(l, to.position, at / LOCAL_BLOCK, __uint_as_float(piece.z));
    } else if (FORM == EPG__ROWS_PLAIN || in_place || at < payload) {
        ((epg__piece *)to.row)[at] = piece;
    } else {
        epg__store_scales(l, to.position, at - payload, piece);
    }
}

/* Grid: bucket x parts blocks. */
template <int FORM>
static __global__ void __launch_bounds__(LOCAL_THREADS) local_dispatch(const __grid_constant__ epg__cuda_params p)
{
    __shared__ local_routing s;
    const epg__cuda_lane &l = p.lane;
    uint32_t token = blockIdx.x / p.parts, part = blockIdx.x % p.parts, arrived = 0;
    epg__span span = local_part<FORM>(p, part);
    epg__piece piece[LOCAL_PER_THREAD];

    epg__await_earlier_kernels();
    epg__admit_next_kernel();
#pragma unroll
    for (uint32_t u = 0; u < LOCAL_PER_THREAD; u++)
        if (span.first + u * blockDim.x + threadIdx.x < span.end)
            piece[u] = local_load<FORM>(p, token, span.first + u * blockDim.x + threadIdx.x);
    read_inputs(p, &s);
    __syncthreads();
    if (threadIdx.x == blockDim.x - 1)
        arrived = atomicAdd(l.done, 1); /* this block's copy of the epoch is made: nothing else to order */
    map_choices(l.wire.geometry, &s);
    if constexpr (FORM == EPG__ROWS_QUANTISED)
        local_quantise(l, span, piece);
    __syncthreads();
    count_choices(p, &s, token);
    __syncthreads();
    if (threadIdx.x < 32)
        place_experts(l, &s);
    if (threadIdx.x / 32 == (blockDim.x > 32 ? 1 : 0))
        count_sent(&s, token);
    __syncthreads();
    if (threadIdx.x < 32 && token < s.tokens)
        place_token(p, &s, token, part == 0);
    __syncthreads();
    bool in_place = l.layout == EPG_LAYOUT_IN_PLACE;
    size_t index = epg__slot_index(&l.wire, (s.epoch + 1) & 1, 0, s.slot);
    for (uint32_t i = 0; i < (in_place && s.count ? 1u : s.count); i++) {
        if (!in_place && s.position[i] == EPG_WIRE_NONE)
            continue;
        local_place to = {epg__row_at(&l.wire, epg__own_lane(l), index), EPG_WIRE_NONE};
        if (!in_place) {
            to.row = l.expert_rows + (size_t)s.position[i] * l.wire.payload_bytes;
            to.position = s.position[i];
        }
#pragma unroll
        for (uint32_t u = 0; u < LOCAL_PER_THREAD; u++)
            if (span.first + u * blockDim.x + threadIdx.x < span.end)
                local_store<FORM>(l, to, span.first + u * blockDim.x + threadIdx.x, piece[u]);
    }
    if (blockIdx.x == 0)
        write_view(p, s);
    if (threadIdx.x == blockDim.x - 1 && arrived == gridDim.x - 1) { /* every block has read the epoch */
        *l.done = 0;
        if (!s.rehearsed)
            ((epg_wire_lane *)epg__own_lane(l))->epoch = s.epoch + 1;
    }
}

/* ---- combine ---- */

typedef struct local_sum {
    const char *row[EPG_TOPK_MAX];
    float weight[EPG_TOPK_MAX];
    uint32_t count, sent, received;
    epg__pair_state pair;
} local_sum;

/* Warp 0: the rows of a token's partial sum. Its slot is most often its own number, so that its meta is read from
 * there, in both banks, along with what would tell; else it is read again. */
static __device__ void find_rows(const epg__cuda_params &p, local_sum *s, uint32_t token, bool write)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t topk = l.wire.geometry.topk, slots = l.wire.geometry.slots, lane = threadIdx.x & 31;
    uint32_t guess = token < slots ? token : 0;
    epg_wire_meta *even = epg__meta_at(&l.wire, epg__own_lane(l), epg__slot_index(&l.wire, 0, 0, guess));
    epg_wire_meta *odd = epg__meta_at(&l.wire, epg__own_lane(l), epg__slot_index(&l.wire, 1, 0, guess));
    epg__pair_state pair = *l.pair;
    uint32_t shares = l.share_count[token], slot = l.shares[token].slot, sent = l.sent[0], received = l.received[0];
    uint32_t counts[2] = {even->count, odd->count}, at = lane < topk ? l.place[(size_t)guess * topk + lane] : 0;
    float weights[2] = {0, 0};
    if (lane < topk) {
        weights[0] = epg__routes_of(even)[lane].weight;
        weights[1] = epg__routes_of(odd)[lane].weight;
    }
    uint32_t bank = pair.epoch & 1, count = bank ? counts[1] : counts[0];
    float weight = bank ? weights[1] : weights[0];
    bool live = token < pair.tokens && !pair.rehearsed, has = live && shares && slot != EPG_WIRE_NONE;
    if (has && slot != guess) {
        epg_wire_meta *meta = epg__meta_at(&l.wire, epg__own_lane(l), epg__slot_index(&l.wire, bank, 0, slot));
        count = meta->count;
        if (lane < count) {
            at = l.place[(size_t)slot * topk + lane];
            weight = epg__routes_of(meta)[lane].weight;
        }
    }
    count = has ? count : 0;
    if (lane < count) {
        s->row[lane] = at == EPG_WIRE_NONE ? NULL : (const char *)p.expert_rows + (size_t)at * l.wire.return_bytes;
        s->weight[lane] = weight;
    }
    bool missing = __any_sync(0xFFFFFFFFu, lane < count && at == EPG_WIRE_NONE);
    if (lane == 0) {
        s->count = count;
        s->pair = pair;
        s->sent = sent;
        s->received = received;
        if (write && live) {
            missing = missing || (shares && slot == EPG_WIRE_NONE); /* of the separate halves: no slot was left */
            l.flags[token] = missing;
            epg__count(l, EPG_COUNT_FLAGGED, missing);
        }
    }
}

/* Grid: bucket x parts blocks. */
template <bool FLOAT32>
static __global__ void __launch_bounds__(LOCAL_THREADS) local_combine(const __grid_constant__ epg__cuda_params p)
{
    enum { GATHER = 8 };
    __shared__ local_sum s;
    const epg__cuda_lane &l = p.lane;
    uint32_t token = blockIdx.x / p.parts, part = blockIdx.x % p.parts;
    epg__span span = epg__part_of(epg__return_pieces(l), part, p.parts);

    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    if (threadIdx.x < 32)
        find_rows(p, &s, token, part == 0);
    __syncthreads();
    if (blockIdx.x == 0 && threadIdx.x == blockDim.x - 1 && !s.pair.rehearsed) {
        l.returned[0] = s.sent > 0;
        leave_signal(l, s.pair.epoch, EPG_WIRE_COMBINE, s.received);
    }
    if (token >= s.pair.tokens || s.pair.rehearsed)
        return;
    epg__piece *out = (epg__piece *)((char *)p.out + (size_t)token * l.wire.return_bytes);
    for (uint32_t at = span.first + threadIdx.x; at < span.end; at += blockDim.x) {
        epg__sums<FLOAT32> partial, sums;
        partial.clear();
        for (uint32_t k = 0; k < s.count; k += GATHER) {
            epg__piece piece[GATHER];
#pragma unroll
            for (uint32_t j = 0; j < GATHER; j++)
                if (k + j < s.count && s.row[k + j])
                    piece[j] = ((const epg__piece *)s.row[k + j])[at];
#pragma unroll
            for (uint32_t j = 0; j < GATHER; j++)
                if (k + j < s.count && s.row[k + j])
                    partial.add(piece[j], s.weight[k + j]);
        }
        sums.clear();
        if (s.count)
            sums.add(partial.rounded(), 1.0f);
        out[at] = sums.rounded();
    }
}

/* ---- launchers ---- */

/* In how many parts a row is moved, each by a block: with few tokens more, until half of the device is busy; what a
 * block costs to begin is more than what it saves past that. */
static uint32_t parts_for(const epg__cuda_shape *shape, uint32_t pieces, uint32_t bucket, uint32_t per_block)
{
    uint32_t wanted = shape->units / 2 / (bucket ? bucket : 1), most = pieces / 224;
    uint32_t least = (pieces + per_block - 1) / per_block;
    uint32_t parts = wanted < most ? wanted : most;
    parts = parts < 8 ? parts : 8;
    return parts > least ? parts : least;
}

/* Rows of `bytes`, of which a part has whole multiples of `unit` pieces. */
static epg_status launch(epg_device *device, epg_stream stream, const epg__cuda_shape *shape, const void *kernel,
                         const char *name, size_t bytes, uint32_t unit, epg__cuda_params *params)
{
    uint32_t pieces = (uint32_t)(bytes / 16), units = (pieces + unit - 1) / unit, bucket = params->user.bucket;
    params->parts = parts_for(shape, pieces, bucket, LOCAL_THREADS * LOCAL_PER_THREAD);
    uint32_t each = (units + params->parts - 1) / params->parts * unit;
    uint32_t rounds = (each + LOCAL_THREADS - 1) / LOCAL_THREADS;
    uint32_t block = ((each + rounds - 1) / rounds + 31) / 32 * 32;
    epg__cuda_launch launch = {kernel, name, {(bucket ? bucket : 1) * params->parts, 1, 1}, block < 64 ? 64 : block, 0,
                               0, shape->dependent};
    return epg__cuda_launch_kernel(device, stream, &launch, params);
}

int epg__cuda_local_dispatch_fits(const epg__cuda_lane *lane, uint32_t bucket)
{
    const epg_wire_geometry *g = &lane->wire.geometry;
    return g->ranks == 1 && bucket > 0 && bucket <= g->slots && lane->row_align <= LOCAL_ALIGN &&
           (uint64_t)bucket * g->topk <= LOCAL_CHOICES && g->experts <= LOCAL_EXPERTS &&
           g->logical_experts <= LOCAL_EXPERTS;
}

static const void *const dispatch_kernels[] = {
    (const void *)local_dispatch<EPG__ROWS_PLAIN>,
    (const void *)local_dispatch<EPG__ROWS_QUANTISED>,
    (const void *)local_dispatch<EPG__ROWS_GIVEN>,
};

epg_status epg__cuda_local_dispatch(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                    epg__cuda_params *params)
{
    const epg_wire_layout *w = &params->lane.wire;
    int form = epg__row_form(params);
    if (form == EPG__ROWS_QUANTISED)
        return launch(device, stream, shape, dispatch_kernels[form], "dispatch", w->geometry.hidden * (size_t)2,
                      LOCAL_BLOCK, params);
    return launch(device, stream, shape, dispatch_kernels[form], "dispatch", w->row_bytes, 1, params);
}

epg_status epg__cuda_local_combine(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                   epg__cuda_params *params)
{
    const void *kernel = params->lane.wire.geometry.row_type == EPG_FLOAT32 ? (const void *)local_combine<true>
                                                                            : (const void *)local_combine<false>;
    return launch(device, stream, shape, kernel, "combine", params->lane.wire.return_bytes, 1, params);
}

epg_status epg__cuda_local_prepare(epg_device *device)
{
    const void *const kernels[] = {dispatch_kernels[0], dispatch_kernels[1], dispatch_kernels[2],
                                   (const void *)local_combine<true>, (const void *)local_combine<false>};
    epg_status status = EPG_OK;
    for (int i = 0; i < 5 && status == EPG_OK; i++)
        status = epg__cuda_kernel_prepare(device, kernels[i], 0);
    return status;
}
