/* A team of one rank: dispatch and combine (local_combine_cuda.cu) as one kernel each, for few tokens.
 *
 * The protocol is the same: one epoch per pair, the same banks, meta and positions, both signals; whatever the halves
 * of a pair leave behind for each other is left behind here too, so that either operation may meet the two separate
 * halves of the other. What is left out is what nobody reads: a row travels from the caller's buffer to its positions
 * at once, and a partial sum is rounded as if it had been returned, but not stored. The signals tell nothing new
 * either: their only reader, this rank, is behind them in the stream.
 *
 * No block waits for another. Every block works out the whole routing for itself in shared memory, by counting, which
 * is faster for a few hundred choices than to tell each other; each then moves its piece of one row. What the pair
 * leaves behind as a whole is written by a block of its own, meanwhile. As all of them read the epoch, none advances
 * it: the combine that follows does. */
#include "ep/few_cuda.cuh"
#include "ep/rows_cuda.cuh"

enum {
    LOCAL_CHOICES = 2048, /* tokens x topk, at most half of it: lanes of a token are rounded up */
    LOCAL_EXPERTS = 512,
    LOCAL_THREADS = 1024,
    LOCAL_PER_THREAD = 4, /* pieces of a row that a thread moves, at most */
    LOCAL_BLOCK = EPG_SCALE_BLOCK / 8 /* pieces of bf16 that share a scale */
};

/* ---- routing ---- */

typedef struct local_routing {
    int32_t chosen[LOCAL_CHOICES];    /* [steps][32] as the caller gave them, -2: out of range */
    int32_t map[LOCAL_EXPERTS];
    uint32_t all[LOCAL_EXPERTS];      /* rows of an expert, then those kept; high half: of earlier tokens */
    uint32_t offsets[LOCAL_EXPERTS];
    alignas(16) uint32_t position[EPG_TOPK_MAX]; /* of this token's choices; EPG_WIRE_NONE: none */
    uint32_t expert[EPG_TOPK_MAX];
    uint32_t rows;                    /* tokens sent; high half: earlier ones, which is this one's slot */
    epg__few_sums sums;
    uint32_t bad_ids, first_bad, count;
} local_routing;

/* What every thread reads for itself. */
typedef struct local_call {
    uint32_t epoch, asked, tokens;
    bool rehearsed, outside;
} local_call;

/* Reads what the routing needs: everything at once, since each read is a journey to memory. */
static __device__ local_call read_inputs(const epg__cuda_params &p, const epg__step &at, uint32_t steps,
                                         local_routing *s)
{
    const epg__cuda_lane &l = p.lane;
    const epg_wire_geometry &g = l.wire.geometry;
    const epg_wire_header *header = epg__own_header(l);
    uint32_t i = threadIdx.x, asked = p.user.bucket, rehearsal = header->rehearsal, outside = header->outside;
    uint32_t epoch = ((epg_wire_lane *)epg__own_lane(l))->epoch;
    int32_t expert = i < g.logical_experts ? l.expert_map[i] : -1;
    int32_t choice = i < steps * 32 ? epg__choice_at(p, at, i) : -1;
    if (p.user.tokens)
        asked = *p.user.tokens;
    epg__touch(p);
    for (uint32_t e = i; e < g.experts; e += blockDim.x)
        s->all[e] = 0;
    if (i == 0) {
        s->bad_ids = s->count = s->rows = 0;
        s->first_bad = 0xFFFFFFFFu;
    }
    if (i < g.logical_experts)
        s->map[i] = expert;
    if (i < steps * 32)
        s->chosen[i] = choice;
    for (uint32_t e = i + blockDim.x; e < g.logical_experts; e += blockDim.x)
        s->map[e] = l.expert_map[e];
    for (uint32_t c = i + blockDim.x; c < steps * 32; c += blockDim.x)
        s->chosen[c] = epg__choice_at(p, at, c);
    local_call call = {epoch, asked, asked < p.user.bucket ? asked : p.user.bucket, rehearsal || outside,
                       outside && !rehearsal};
    if (call.rehearsed)
        call.tokens = 0;
    return call;
}

/* Maps the choices to experts and counts them, of all tokens and of those before `token`; keeps the token's own. */
static __device__ void count_choices(const epg__cuda_params &p, const epg__step &at, uint32_t steps, uint32_t token,
                                     const local_call &call, local_routing *s)
{
    const epg_wire_geometry &g = p.lane.wire.geometry;
    uint32_t lane = epg__lane_id();
    for (uint32_t i = threadIdx.x; i < steps * 32; i += blockDim.x) {
        uint32_t t = (i >> 5) * at.tokens + at.token;
        int32_t expert = epg__expert_of(g, at, s->map, t < call.tokens ? s->chosen[i] : -1);
        if (expert == -2 && blockIdx.x == gridDim.x - 1) {
            atomicAdd(&s->bad_ids, 1);
            atomicMin(&s->first_bad, t * g.topk + at.k);
        }
        if (t == token && at.k < g.topk)
            s->expert[at.k] = expert >= 0 ? (uint32_t)expert : EPG_WIRE_NONE;
        uint32_t votes = __ballot_sync(0xFFFFFFFFu, expert >= 0) >> (lane - at.k);
        bool sent = at.k == 0 && (at.width == 32 ? votes : votes & ((1u << at.width) - 1)) != 0;
        uint32_t all = __ballot_sync(0xFFFFFFFFu, sent), before = __ballot_sync(0xFFFFFFFFu, sent && t < token);
        if (expert >= 0)
            atomicAdd(&s->all[expert], t < token ? 0x10001u : 1u);
        if (lane == 0 && all)
            atomicAdd(&s->rows, __popc(before) << 16 | __popc(all));
    }
}

/* Warp 0: the token's positions. */
static __device__ void place_token(const epg__cuda_lane &l, bool live, local_routing *s)
{
    uint32_t lane = epg__lane_id(), expert = live && lane < l.wire.geometry.topk ? s->expert[lane] : EPG_WIRE_NONE;
    uint32_t votes = __ballot_sync(0xFFFFFFFFu, expert != EPG_WIRE_NONE), at = EPG_WIRE_NONE;
    if (expert != EPG_WIRE_NONE) {
        uint32_t both = s->all[expert], before = both >> 16;
        if (before < (both & 0xFFFFu))
            at = s->offsets[expert] + before;
    }
    s->position[lane] = at;
    if (lane == 0)
        s->count = __popc(votes);
}

/* One warp: the token's meta and all that is kept of it. */
static __device__ void write_token(const epg__cuda_params &p, const local_routing &s, const local_call &call,
                                   uint32_t token, float weight)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t topk = l.wire.geometry.topk, lane = epg__lane_id(), slot = s.rows >> 16;
    uint32_t expert = lane < topk ? s.expert[lane] : EPG_WIRE_NONE;
    uint32_t votes = __ballot_sync(0xFFFFFFFFu, expert != EPG_WIRE_NONE), nth = __popc(votes & ((1u << lane) - 1));
    size_t index = epg__slot_index(&l.wire, (call.epoch + 1) & 1, 0, slot);
    epg_wire_meta *meta = epg__meta_at(&l.wire, epg__own_lane(l), index);
    if (expert != EPG_WIRE_NONE) {
        uint32_t at = s.position[lane];
        epg_wire_route r = {expert, weight};
        epg__routes_of(meta)[nth] = r;
        l.place[(size_t)slot * topk + nth] = at;
        if (at != EPG_WIRE_NONE) {
            l.row_source[at] = 0;
            l.row_token[at] = token;
            l.row_weight[at] = r.weight;
            if (l.layout == EPG_LAYOUT_IN_PLACE)
                l.row_index[at] = (uint32_t)index;
        }
    }
    if (lane == 0) {
        epg__share share = {0, slot};
        epg_wire_meta head = {token, (uint32_t)__popc(votes)};
        l.share_count[token] = votes != 0;
        l.shares[token] = share;
        if (votes)
            *meta = head;
    }
}

/* One block: what the pair leaves behind as a whole. */
static __device__ void write_view(const epg__cuda_params &p, const local_routing &s, const local_call &call)
{
    const epg__cuda_lane &l = p.lane;
    for (uint32_t e = threadIdx.x; e < l.local_experts; e += blockDim.x) {
        l.offsets[e] = s.offsets[e];
        l.counts[e] = s.all[e] & 0xFFFFu;
    }
    if (threadIdx.x != 0)
        return;
    l.offsets[l.local_experts] = s.sums.end;
    *l.total = s.sums.kept;
    l.sent[0] = l.received[0] = s.rows & 0xFFFFu;
    if (call.rehearsed) {
        l.pair->tokens = 0;
        l.pair->rehearsed = 1;
        if (call.outside)
            epg__record_failure(l, EPG_ERR_STATE, EPG_OP_DISPATCH_SEND, l.rank, 0, 0);
        return;
    }
    epg__pair_state state = {call.epoch + 1, call.tokens, 0, 0};
    *l.pair = state;
    epg__leave_signal(l, state.epoch, EPG_WIRE_DISPATCH, s.rows & 0xFFFFu);
    epg__count(l, EPG_COUNT_PAIRS, 1);
    epg__count(l, EPG_COUNT_BAD_IDS, s.bad_ids);
    epg__count(l, EPG_COUNT_DROPPED_TOKENS, call.asked - call.tokens);
    epg__count(l, EPG_COUNT_DROPPED_ROWS, s.sums.wanted - s.sums.kept);
    if (call.asked > call.tokens)
        epg__record_failure(l, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_SEND, 0, p.user.bucket, call.asked);
    if (s.bad_ids)
        epg__record_failure(l, EPG_ERR_ROUTING, EPG_OP_DISPATCH_SEND, 0, l.wire.geometry.logical_experts,
                            (uint64_t)epg__id_at(p.user, s.first_bad));
    if (s.sums.wanted > s.sums.kept)
        epg__record_failure(l, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_RECV, 0, s.sums.kept, s.sums.wanted);
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

/* The whole block: its pieces of the token's row, to the row in place or to all of its positions. */
template <int FORM>
static __device__ void store_pieces(const epg__cuda_lane &l, local_place to, epg__span span, const epg__piece *piece)
{
#pragma unroll
    for (uint32_t u = 0; u < LOCAL_PER_THREAD; u++)
        if (span.first + u * blockDim.x + threadIdx.x < span.end)
            local_store<FORM>(l, to, span.first + u * blockDim.x + threadIdx.x, piece[u]);
}
static __device__ local_place local_position(const epg__cuda_lane &l, uint32_t position)
{
    local_place to = {l.expert_rows + (size_t)position * l.wire.payload_bytes, position};
    return to;
}

/* Positions are read eight at a time where that costs little code, so that no store waits for the one before. */
template <int FORM>
static __device__ void store_positions(const epg__cuda_lane &l, const local_routing &s, epg__span span,
                                       const epg__piece *piece)
{
    enum { BATCH = FORM == EPG__ROWS_PLAIN ? 8 : 1 };
    for (uint32_t first = 0; first < l.wire.geometry.topk; first += BATCH) {
        uint32_t position[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++)
            position[i] = s.position[first + i];
#pragma unroll
        for (uint32_t u = 0; u < LOCAL_PER_THREAD; u++) {
            uint32_t at = span.first + u * blockDim.x + threadIdx.x;
            if (at >= span.end)
                break;
#pragma unroll
            for (int i = 0; i < BATCH; i++)
                if (position[i] != EPG_WIRE_NONE)
                    local_store<FORM>(l, local_position(l, position[i]), at, piece[u]);
        }
    }
}

/* Grid: bucket x parts blocks that move rows, and one that writes the view. */
template <int FORM>
static __global__ void __launch_bounds__(LOCAL_THREADS, 1) local_dispatch(const __grid_constant__ epg__cuda_params p)
{
    __shared__ local_routing s;
    const epg__cuda_lane &l = p.lane;
    const epg__step at = epg__step_of(l.wire.geometry.topk);
    uint32_t token = blockIdx.x / p.parts, part = blockIdx.x % p.parts;
    uint32_t steps = (p.user.bucket + at.tokens - 1) / at.tokens;
    bool moves = blockIdx.x != gridDim.x - 1, writes = moves && part == 0;
    epg__span span = {0, 0};
    epg__piece piece[LOCAL_PER_THREAD];

    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    if (moves)
        span = local_part<FORM>(p, part);
#pragma unroll
    for (uint32_t u = 0; u < LOCAL_PER_THREAD; u++)
        if (span.first + u * blockDim.x + threadIdx.x < span.end)
            piece[u] = local_load<FORM>(p, token, span.first + u * blockDim.x + threadIdx.x);
    float weight = 1;
    if (writes && threadIdx.x < l.wire.geometry.topk && p.user.topk_weights)
        weight = p.user.topk_weights[token * l.wire.geometry.topk + threadIdx.x];
    const local_call call = read_inputs(p, at, steps, &s);
    __syncthreads();
    count_choices(p, at, steps, token, call, &s);
    if constexpr (FORM == EPG__ROWS_QUANTISED)
        local_quantise(l, span, piece);
    __syncthreads();
    if (threadIdx.x < 32) {
        epg__few_sums sums = epg__place_few(l, !moves, s.all, s.offsets);
        if (threadIdx.x == 0)
            s.sums = sums;
        __syncwarp();
        place_token(l, token < call.tokens, &s);
    }
    __syncthreads();
    if (!moves) {
        write_view(p, s, call);
        return;
    }
    local_place row = {epg__row_at(&l.wire, epg__own_lane(l),
                                   epg__slot_index(&l.wire, (call.epoch + 1) & 1, 0, s.rows >> 16)), EPG_WIRE_NONE};
    if (l.layout != EPG_LAYOUT_IN_PLACE)
        store_positions<FORM>(l, s, span, piece);
    else if (s.count)
        store_pieces<FORM>(l, row, span, piece);
    if (writes && threadIdx.x < 32 && token < call.tokens)
        write_token(p, s, call, token, weight);
}

/* ---- launchers ---- */

int epg__cuda_local_dispatch_fits(const epg__cuda_lane *lane, uint32_t bucket)
{
    const epg_wire_geometry *g = &lane->wire.geometry;
    return g->ranks == 1 && bucket > 0 && bucket <= g->slots && lane->row_align <= EPG_FEW_ALIGN &&
           (uint64_t)bucket * 2 * g->topk <= LOCAL_CHOICES && g->experts <= LOCAL_EXPERTS &&
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
    int form = epg__row_form(params);
    uint32_t pieces = (uint32_t)(epg__row_input_bytes(params, form) / 16);
    uint32_t unit = form == EPG__ROWS_QUANTISED ? LOCAL_BLOCK : 1;
    epg__cuda_tokens tokens = {dispatch_kernels[form], "dispatch", pieces, unit, LOCAL_PER_THREAD, 1};
    return epg__cuda_launch_tokens(device, stream, shape, &tokens, params);
}

epg_status epg__cuda_local_prepare(epg_device *device)
{
    epg_status status = EPG_OK;
    for (int i = 0; i < 3 && status == EPG_OK; i++)
        status = epg__cuda_kernel_prepare(device, dispatch_kernels[i], 0);
    return status == EPG_OK ? epg__cuda_local_combine_prepare(device) : status;
}
