/* Dispatch on the CUDA device: each half is a kernel of one block that decides, then a kernel of many that moves rows.
 *
 *   send   route       opens the pair, validates the choices, gives slots by prefix sums in token order
 *          send_rows   one row in, a copy and its meta to each destination; the last block signals every live rank
 *   recv   place       waits for all signals, counts and places by prefix sums in (source, slot) order
 *          spread_rows one received row in, a copy to each of its positions (not for rows in place)
 *
 * LL and HT run the same kernels: they put the same bytes at the same places, and a row is read once however many go
 * where. Only `place` waits, in one block (wait_cuda.cuh says why nothing can starve). A team of one rank has a shorter
 * way: local_cuda.cu. */
#include "ep/lane_cuda_int.cuh"
#include "ep/wait_cuda.cuh"

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

/* Takes in the ranks whose epoch this is. */
static __device__ void admit_due(const epg__cuda_lane &l, uint32_t epoch)
{
    for (uint32_t r = 0; r < l.ranks; r++) {
        epg__entry *entry = &l.entries[r];
        if (!entry->incarnation || entry->epoch != epoch)
            continue;
        epg__word_store(&epg__lives_of(l)[r], entry->incarnation);
        entry->incarnation = entry->epoch = 0;
        --*l.entering;
    }
}

/* True where `rank` is taken in with the next pair: it gets this pair's dispatch signal, without rows, as its
 * invitation. */
static __device__ bool is_invited(const epg__cuda_lane &l, uint32_t rank, uint32_t epoch)
{
    const epg__entry *entry = &l.entries[rank];
    return *l.entering && entry->incarnation && entry->epoch == epoch + 1 &&
           entry->incarnation >= epg__word_load(&epg__mask_of(l, l.rank)[rank]);
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
        admit_due(l, state.epoch);
    if (asked > kept) {
        epg__count(l, EPG_COUNT_DROPPED_TOKENS, asked - kept);
        epg__record_failure(l, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_SEND, l.rank, p.user.bucket, asked);
    }
    epg__count(l, EPG_COUNT_PAIRS, 1);
    return true;
}

static __device__ int64_t id_at(const epg_dispatch_args &user, size_t index)
{
    return user.topk_type == EPG_INT64 ? ((const int64_t *)user.topk_ids)[index] : ((const int32_t *)user.topk_ids)[index];
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
                expert[j] = expert_of(l, id_at(p.user, (size_t)token * topk + first + j), &bad[j]);
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
 * `assign`, counts on from base[rank] and gives slots. Returns this lane's rows without a slot. */
static __device__ uint32_t walk_tokens(const epg__cuda_lane &l, uint32_t first, uint32_t end, uint32_t *base, bool assign)
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
            if (assign) {
                uint32_t slot = start + __popc(votes & ((1u << lane) - 1));
                bool alive = epg__rank_alive(l, r), fits = slot < l.wire.geometry.slots;
                shares[at].slot = alive && fits ? slot : EPG_WIRE_NONE;
                dropped += alive && !fits;
            }
            at++;
        }
    }
    return dropped;
}

/* Turns each warp's count per column into its start, and gives the totals to `total`. */
static __device__ void scan_warps(uint32_t *table, uint32_t columns, uint32_t *total)
{
    for (uint32_t c = threadIdx.x; c < columns; c += blockDim.x) {
        uint32_t sum = 0;
        for (uint32_t w = 0; w < EPG_CUDA_WARPS; w++) {
            uint32_t count = table[w * columns + c];
            table[w * columns + c] = sum;
            sum += count;
        }
        total[c] = sum;
    }
}

static __device__ void close_route(const epg__cuda_params &p, const route_totals &totals)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t slots = l.wire.geometry.slots;
    epg__count(l, EPG_COUNT_BAD_IDS, totals.bad_ids);
    epg__count(l, EPG_COUNT_DROPPED_ROWS, totals.dropped);
    if (totals.bad_ids)
        epg__record_failure(l, EPG_ERR_ROUTING, EPG_OP_DISPATCH_SEND, l.rank, l.wire.geometry.logical_experts,
                            (uint64_t)id_at(p.user, totals.first_bad));
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

    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    if (threadIdx.x == 0) {
        route_totals none = {0, 0, ~0ull};
        tokens = 0;
        totals = none;
        open_pair(p, &tokens);
    }
    for (uint32_t i = threadIdx.x; i < EPG_CUDA_WARPS * l.ranks; i += blockDim.x)
        table[i] = 0;
    __syncthreads();
    for (uint32_t t = threadIdx.x; t < tokens; t += blockDim.x)
        choose(p, t, &totals);
    __syncthreads();
    uint32_t each = (tokens + EPG_CUDA_BLOCK - 1) / EPG_CUDA_BLOCK * 32;
    uint32_t first = warp * each < tokens ? warp * each : tokens, end = first + each < tokens ? first + each : tokens;
    walk_tokens(l, first, end, table + warp * l.ranks, false);
    __syncthreads();
    scan_warps(table, l.ranks, l.sent);
    __syncthreads();
    uint32_t dropped = walk_tokens(l, first, end, table + warp * l.ranks, true);
    if (dropped)
        atomicAdd(&totals.dropped, dropped);
    for (uint32_t r = threadIdx.x; r < l.ranks; r += blockDim.x) {
        uint32_t sent = l.sent[r] < l.wire.geometry.slots ? l.sent[r] : l.wire.geometry.slots;
        l.sent[r] = epg__rank_alive(l, r) ? sent : 0;
    }
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

/* One warp: copies a row to the places of lanes 0 .. count - 1, NULL ones left out. */
static __device__ void copy_row(const epg__piece *from, char *to, uint32_t count, epg__span span)
{
    enum { BATCH = 7 };
    for (uint32_t at = span.first + epg__lane_id(); at - epg__lane_id() < span.end; at += BATCH * 32) {
        epg__piece piece[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; u++)
            if (at + u * 32 < span.end)
                piece[u] = from[at + u * 32];
        for (uint32_t i = 0; i < count; i++) {
            epg__piece *row = (epg__piece *)epg__pointer_of(to, i);
            if (!row)
                continue;
#pragma unroll
            for (int u = 0; u < BATCH; u++)
                if (at + u * 32 < span.end)
                    row[at + u * 32] = piece[u];
        }
    }
}

static __global__ void __launch_bounds__(256) send_rows(const __grid_constant__ epg__cuda_params p)
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
        copy_row((const epg__piece *)((const char *)p.user.rows + (size_t)token * l.wire.row_bytes), to, count,
                 epg__part_of(epg__pieces_of(l), part, p.parts));
    }
    if (!epg__block_done(l.done, gridDim.x))
        return;
    for (uint32_t r = threadIdx.x; r < l.ranks; r += blockDim.x)
        if (epg__rank_alive(l, r) || is_invited(l, r, pair.epoch))
            epg__send_signal(l, pair.epoch, EPG_WIRE_DISPATCH, r, l.sent[r], false);
}

/* ---- place ---- */

/* Walks this warp's share of the received rows. A row takes as many lanes as topk, rounded up to a power of two, a lane
 * per route; what does not fill a warp leaves room for the rows after it, and several such steps are under way at once.
 * Counts into cursor[expert], or, with `assign`, gives positions: lanes of one expert are in the order of their rows,
 * since a row names an expert once. */
static __device__ void walk_rows(const epg__cuda_lane &l, uint32_t epoch, uint32_t first, uint32_t end, uint32_t *cursor,
                                 bool assign)
{
    enum { STEPS = 4 };
    uint32_t lane = epg__lane_id(), topk = l.wire.geometry.topk, source = 0, slot = 0;
    uint32_t width = topk > 1 ? 1u << (32 - __clz(topk - 1)) : 1, k = lane & (width - 1), rows = 32 / width;
    uint32_t bank_rows = (epoch & 1) * l.ranks * l.wire.geometry.slots, row = first + lane / width;
    if (row < end)
        epg__find_row(l, row, &source, &slot);
    uint32_t limit = l.received[source];
    while (row - lane / width < end) {
        epg_wire_meta head[STEPS];
        epg_wire_route route[STEPS];
        uint32_t from[STEPS], index[STEPS];
#pragma unroll
        for (int b = 0; b < STEPS; b++, row += rows, slot += rows) {
            head[b].count = 0;
            if (row >= end)
                continue;
            while (slot >= limit) {
                slot -= limit;
                limit = l.received[++source];
            }
            from[b] = source;
            index[b] = bank_rows + source * l.wire.geometry.slots + slot;
            epg_wire_meta *meta = epg__meta_at(&l.wire, epg__own_lane(l), index[b]);
            head[b] = *meta;
            if (k < topk)
                route[b] = epg__routes_of(meta)[k];
        }
#pragma unroll
        for (int b = 0; b < STEPS; b++) {
            bool mine = k < head[b].count;
            uint32_t active = __ballot_sync(0xFFFFFFFFu, mine);
            if (mine) {
                uint32_t e = route[b].expert, peers = __match_any_sync(active, e);
                uint32_t nth = cursor[e] + __popc(peers & ((1u << lane) - 1));
                __syncwarp(active);
                if (peers >> lane == 1) /* the last of them */
                    cursor[e] = nth + 1;
                if (assign) {
                    uint32_t at = nth < l.counts[e] ? l.offsets[e] + nth : EPG_WIRE_NONE;
                    l.place[(size_t)(index[b] - bank_rows) * topk + k] = at;
                    if (at != EPG_WIRE_NONE) {
                        l.row_source[at] = from[b];
                        l.row_token[at] = head[b].token;
                        l.row_weight[at] = route[b].weight;
                        if (l.layout == EPG_LAYOUT_IN_PLACE)
                            l.row_index[at] = index[b];
                    }
                }
            }
            __syncwarp();
        }
    }
}

/* Sum over the block of `value` in the threads before this one; *all: over all threads. */
static __device__ uint64_t sum_before(uint64_t value, uint64_t *all)
{
    __shared__ uint64_t warps[EPG_CUDA_WARPS];
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    uint64_t sum = value, before = 0;
    for (int step = 1; step < 32; step *= 2) {
        uint64_t other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
        sum += lane >= step ? other : 0;
    }
    __syncthreads();
    if (lane == 31)
        warps[warp] = sum;
    __syncthreads();
    *all = 0;
    for (uint32_t w = 0; w < EPG_CUDA_WARPS; w++) {
        before += w < warp ? warps[w] : 0;
        *all += warps[w];
    }
    return before + sum - value;
}

/* Turns the experts' counts into first positions and cuts what does not fit. An expert's start is the sum of the counts
 * before it, each rounded up to row_align, and at most the capacity. Returns the rows that were wanted. */
static __device__ uint64_t place_experts(const epg__cuda_lane &l)
{
    uint64_t base = 0, wanted = 0, kept_all = 0, all;
    for (uint32_t first = 0; first < l.local_experts; first += EPG_CUDA_BLOCK) {
        uint32_t e = first + threadIdx.x, count = e < l.local_experts ? l.counts[e] : 0, room;
        uint64_t rounded = ((uint64_t)count + l.row_align - 1) & ~(uint64_t)(l.row_align - 1);
        uint64_t at = base + sum_before(rounded, &all);
        base += all;
        if (l.layout == EPG_LAYOUT_MASKED) {
            at = (uint64_t)e * l.rows_per_expert;
            room = l.rows_per_expert;
        } else {
            at = at < l.row_capacity ? at : l.row_capacity;
            room = l.row_capacity - (uint32_t)at;
        }
        uint32_t kept = count < room ? count : room;
        if (e < l.local_experts) {
            l.offsets[e] = (uint32_t)at;
            l.counts[e] = kept;
            if (e == l.local_experts - 1)
                l.offsets[e + 1] = l.layout == EPG_LAYOUT_MASKED ? l.row_capacity : (uint32_t)at + kept;
        }
        sum_before(kept, &all);
        kept_all += all;
        sum_before(count, &all);
        wanted += all;
    }
    if (threadIdx.x == 0) {
        *l.total = (uint32_t)kept_all;
        if (wanted > kept_all) {
            epg__count(l, EPG_COUNT_DROPPED_ROWS, wanted - kept_all);
            epg__record_failure(l, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_RECV, l.rank, kept_all, wanted);
        }
    }
    return wanted;
}

static __global__ void __launch_bounds__(EPG_CUDA_BLOCK) place(const __grid_constant__ epg__cuda_params p)
{
    extern __shared__ uint32_t shared[];
    const epg__cuda_lane &l = p.lane;
    uint32_t warp = threadIdx.x / 32, *table = p.shared_words ? shared : l.scratch, slots = l.wire.geometry.slots;

    epg__await_earlier_kernels();
    epg__pair_state pair = *l.pair;
    for (uint32_t i = threadIdx.x; i < EPG_CUDA_WARPS * l.local_experts; i += blockDim.x)
        table[i] = 0;
    if (!pair.rehearsed)
        epg__await_signals(l, EPG_WIRE_DISPATCH, pair.epoch, NULL, l.received);
    epg__admit_next_kernel();
    for (uint32_t r = threadIdx.x; r < l.ranks; r += blockDim.x) {
        uint32_t count = pair.rehearsed || p.is_void || l.received[r] == EPG__WAIT_NOTHING ? 0 : l.received[r];
        l.received[r] = count < slots ? count : slots;
    }
    __syncthreads();
    uint32_t rows = epg__received_rows(l), each = (rows + EPG_CUDA_WARPS - 1) / EPG_CUDA_WARPS;
    uint32_t first = warp * each < rows ? warp * each : rows, end = first + each < rows ? first + each : rows;
    walk_rows(l, pair.epoch, first, end, table + warp * l.local_experts, false);
    __syncthreads();
    scan_warps(table, l.local_experts, l.counts);
    __syncthreads();
    place_experts(l);
    __syncthreads();
    walk_rows(l, pair.epoch, first, end, table + warp * l.local_experts, true);
}

/* ---- spread_rows ---- */

static __global__ void __launch_bounds__(256) spread_rows(const __grid_constant__ epg__cuda_params p)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t topk = l.wire.geometry.topk, lane = epg__lane_id();

    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    uint32_t bank = l.pair->epoch & 1, rows = epg__received_rows(l);
    for (uint32_t item = epg__first_item(); item < rows * p.parts; item += epg__item_stride()) {
        uint32_t source, slot, at = EPG_WIRE_NONE;
        epg__find_row(l, item / p.parts, &source, &slot);
        size_t index = epg__slot_index(&l.wire, bank, source, slot);
        if (lane < topk)
            at = l.place[((size_t)source * l.wire.geometry.slots + slot) * topk + lane];
        uint32_t count = epg__meta_at(&l.wire, epg__own_lane(l), index)->count;
        copy_row((const epg__piece *)epg__row_at(&l.wire, epg__own_lane(l), index),
                 at == EPG_WIRE_NONE ? NULL : l.expert_rows + (size_t)at * l.wire.row_bytes, count,
                 epg__part_of(epg__pieces_of(l), item % p.parts, p.parts));
    }
}

static __global__ void rehearse(const __grid_constant__ epg__cuda_params p)
{
    epg__word_store(&epg__own_header(p.lane)->rehearsal, p.is_void);
}

static __global__ void give_up(const __grid_constant__ epg__cuda_params p) { epg__give_up(p.lane, p.is_void, p.parts); }

/* ---- launchers ---- */

enum { SHARED_LIMIT = 64 * 1024 }; /* of a table; a larger one lies in the lane's scratch memory */

static epg_status launch_block(epg_device *device, epg_stream stream, const epg__cuda_shape *shape, const void *kernel,
                               const char *name, uint32_t columns, epg__cuda_params *params)
{
    size_t bytes = (size_t)EPG_CUDA_WARPS * columns * sizeof(uint32_t);
    epg__cuda_launch launch = {kernel, name, {1, 1, 1}, EPG_CUDA_BLOCK, bytes <= SHARED_LIMIT ? (uint32_t)bytes : 0, 0,
                               shape->dependent};
    params->shared_words = launch.shared_bytes / 4;
    return epg__cuda_launch_kernel(device, stream, &launch, params);
}

epg_status epg__cuda_launch_rows(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                 const void *kernel, const char *name, uint64_t rows, epg__cuda_params *params)
{
    enum { BLOCK = 256, PIECES = 64 }; /* threads; pieces that a warp should have at least */
    uint32_t pieces = (uint32_t)(params->lane.wire.row_bytes / 16), most = shape->units * 8, parts = 1;
    while (parts < 8 && rows * parts * 2 <= (uint64_t)shape->units * 32 && pieces / (parts * 2) >= PIECES)
        parts *= 2;
    params->parts = parts;
    uint64_t blocks = (rows * parts + BLOCK / 32 - 1) / (BLOCK / 32);
    epg__cuda_launch launch = {kernel, name, {blocks < most ? (uint32_t)blocks : most, 1, 1}, BLOCK, 0, 0,
                               shape->dependent};
    return epg__cuda_launch_kernel(device, stream, &launch, params);
}

epg_status epg__cuda_dispatch_send(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                   epg__cuda_params *params)
{
    epg_status status =
        launch_block(device, stream, shape, (const void *)route, "dispatch send: route", params->lane.ranks, params);
    if (status != EPG_OK)
        return status;
    return epg__cuda_launch_rows(device, stream, shape, (const void *)send_rows, "dispatch send: rows",
                                 params->is_void ? 0 : params->user.bucket, params);
}

epg_status epg__cuda_dispatch_recv(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                   epg__cuda_params *params)
{
    const epg_wire_geometry *g = &params->lane.wire.geometry;
    epg_status status = launch_block(device, stream, shape, (const void *)place, "dispatch recv: place",
                                     params->lane.local_experts, params);
    if (status != EPG_OK || params->lane.layout == EPG_LAYOUT_IN_PLACE || params->is_void)
        return status;
    return epg__cuda_launch_rows(device, stream, shape, (const void *)spread_rows, "dispatch recv: rows",
                                 (uint64_t)g->ranks * g->slots, params);
}

epg_status epg__cuda_rehearse(epg_device *device, epg_stream stream, epg__cuda_params *params)
{
    epg__cuda_launch launch = {(const void *)rehearse, "rehearsal", {1, 1, 1}, 1, 0, 0, 0};
    return epg__cuda_launch_kernel(device, stream, &launch, params);
}

epg_status epg__cuda_give_up(epg_device *device, epg_stream stream, epg__cuda_params *params)
{
    epg__cuda_launch launch = {(const void *)give_up, "masking a rank", {1, 1, 1}, 1, 0, 0, 0};
    return epg__cuda_launch_kernel(device, stream, &launch, params);
}

epg_status epg__cuda_dispatch_prepare(epg_device *device)
{
    const void *const kernels[] = {(const void *)route, (const void *)place, (const void *)send_rows,
                                   (const void *)spread_rows, (const void *)rehearse,
                                   (const void *)give_up};
    epg_status status = EPG_OK;
    for (int i = 0; i < 6 && status == EPG_OK; i++)
        status = epg__cuda_kernel_prepare(device, kernels[i], i < 2 ? SHARED_LIMIT : 0);
    return status;
}
