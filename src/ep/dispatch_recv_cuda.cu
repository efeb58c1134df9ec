/* Dispatch recv on the CUDA device.
 *
 *   place        one block: waits for all signals, counts and places by prefix sums in (source, slot) order
 *   spread_rows  many: one received row in, a copy to each of its positions (not for rows in place)
 *
 * In high-throughput mode one block waits (await_rows) and many place (count_rows, whose last block places the experts,
 * and assign_rows): one block would take a fifth of a millisecond for 20000 rows, with little else to do on the device.
 * The positions are the same.
 * Only `place` and `await_rows` wait, in one block each; wait_cuda.cuh says why nothing can starve. */
#include "ep/few_cuda.cuh"
#include "ep/rows_cuda.cuh"
#include "ep/wait_cuda.cuh"

/* ---- many rows: two walks, a row in each lane ---- */

/* A row, with its first routes: those of its meta's first sector. */
typedef struct lane_row {
    uint32_t source, index; /* index: of its slot, without the bank */
    const epg_wire_route *routes;
    epg__piece first, second;
} lane_row;

static __device__ uint32_t token_of(const lane_row &r) { return r.first.x; }
static __device__ uint32_t count_of(const lane_row &r) { return r.first.y; }
static __device__ epg_wire_route route_of(const lane_row &r, uint32_t k)
{
    epg_wire_route route = {r.first.z, __uint_as_float(r.first.w)};
    if (k > 2)
        return r.routes[k];
    if (k > 0) {
        route.expert = k == 1 ? r.second.x : r.second.z;
        route.weight = __uint_as_float(k == 1 ? r.second.y : r.second.w);
    }
    return route;
}

/* One warp: the row first + lane; without routes from `end` on. */
static __device__ lane_row read_row(const epg__cuda_lane &l, const epg__ends &ends, uint32_t bank_rows, uint32_t first,
                                    uint32_t end)
{
    lane_row r = {0, 0, NULL, make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
    uint32_t slot, lane = epg__lane_id();
    epg__find_received(l, ends, first, &r.source, &slot);
    uint32_t limit = l.ranks > 32 ? l.received[r.source] : __shfl_sync(0xFFFFFFFFu, ends.count, r.source);
    if (first + lane >= end)
        return r;
    for (slot += lane; slot >= limit; limit = l.received[++r.source])
        slot -= limit;
    r.index = r.source * l.wire.geometry.slots + slot;
    const epg_wire_meta *meta = epg__meta_at(&l.wire, epg__own_lane(l), bank_rows + r.index);
    r.routes = (const epg_wire_route *)(meta + 1);
    r.first = ((const epg__piece *)meta)[0];
    r.second = ((const epg__piece *)meta)[1];
    return r;
}

/* A row's place at an expert, and what the view says of it. */
static __device__ void write_route(const epg__cuda_lane &l, uint32_t bank_rows, uint32_t source, uint32_t index,
                                   uint32_t k, uint32_t position, uint32_t token, float weight)
{
    l.place[(size_t)index * l.wire.geometry.topk + k] = position;
    if (position == EPG_WIRE_NONE)
        return;
    l.row_source[position] = source;
    l.row_token[position] = token;
    l.row_weight[position] = weight;
    if (l.layout == EPG_LAYOUT_IN_PLACE)
        l.row_index[position] = bank_rows + index;
}

/* One warp, a row in each lane: gives their routes positions, from cursor[expert] on, in the order of the lanes. A row
 * names an expert once, so that rows[expert], 0 before and after, has a bit for each. */
static __device__ void place_row(const epg__cuda_lane &l, const lane_row &r, uint32_t bank_rows, uint32_t *cursor,
                                 uint32_t *rows)
{
    uint32_t lane = epg__lane_id(), count = count_of(r), last = 0; /* last: the routes that are their experts' last */
    for (uint32_t k = 0; k < count; k++)
        atomicOr(&rows[route_of(r, k).expert], 1u << lane);
    __syncwarp();
    for (uint32_t k = 0; k < count; k++) {
        epg_wire_route route = route_of(r, k);
        uint32_t e = route.expert, nth = cursor[e] + __popc(rows[e] & ((1u << lane) - 1));
        last |= (uint32_t)(rows[e] >> lane == 1) << k;
        write_route(l, bank_rows, r.source, r.index, k, nth < l.counts[e] ? l.offsets[e] + nth : EPG_WIRE_NONE,
                    token_of(r), route.weight);
    }
    __syncwarp();
    for (; last; last &= last - 1) {
        uint32_t e = route_of(r, __ffs(last) - 1).expert;
        cursor[e] += __popc(rows[e]);
        rows[e] = 0;
    }
    __syncwarp();
}

/* One warp of `warps`: walks its share of the received rows. Counts into cursor[expert] or, with PLACE, gives
 * positions. */
template <bool PLACE>
static __device__ void walk_rows(const epg__cuda_lane &l, uint32_t epoch, uint32_t warp, uint32_t warps,
                                 uint32_t *cursor, uint32_t *rows)
{
    uint32_t bank_rows = (epoch & 1) * l.ranks * l.wire.geometry.slots, all;
    const epg__ends ends = epg__read_ends(l, &all);
    const epg__span mine = epg__part_of(all, warp, warps);
    for (uint32_t first = mine.first; first < mine.end; first += 32) {
        const lane_row r = read_row(l, ends, bank_rows, first, mine.end);
        if (PLACE)
            place_row(l, r, bank_rows, cursor, rows);
        for (uint32_t k = 0; !PLACE && k < count_of(r); k++)
            atomicAdd(&cursor[route_of(r, k).expert], 1);
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
    for (uint32_t w = 0; w < blockDim.x / 32; w++) {
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
    for (uint32_t first = 0; first < l.local_experts; first += blockDim.x) {
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

/* The whole block: waits, and says how many rows came of each rank, in `received` (which may be l.received) too. */
static __device__ void receive_counts(const epg__cuda_params &p, const epg__pair_state &pair, uint32_t *received)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t slots = l.wire.geometry.slots;
    if (!pair.rehearsed)
        epg__await_signals(l, EPG_WIRE_DISPATCH, pair.epoch, NULL, received);
    epg__admit_next_kernel();
    for (uint32_t r = threadIdx.x; r < l.ranks; r += blockDim.x) {
        uint32_t count = pair.rehearsed || p.is_void || received[r] == EPG__WAIT_NOTHING ? 0 : received[r];
        l.received[r] = received[r] = count < slots ? count : slots;
    }
}

/* ---- few rows: counted by a bit for each row and expert, in shared memory ---- */

enum {
    FEW_ROWS = 1024,
    FEW_EXPERTS = 256,
    FEW_RANKS = 32
};
static_assert(FEW_ROWS == EPG_CUDA_BLOCK, "a thread for each row");

typedef struct few_places {
    uint32_t received[FEW_RANKS];
    uint32_t all[FEW_EXPERTS], offsets[FEW_EXPERTS];   /* by expert: rows; where they begin */
    uint16_t before[FEW_EXPERTS][FEW_ROWS / 32];       /* rows of the expert before each 32 */
} few_places;

/* Rows of one source, for some of the warps: first + slot is a row's number in (source, slot) order. */
typedef struct few_rows {
    uint32_t source, first, count, slot, stride; /* slot: of this lane's first row; from there every stride-th */
    uint32_t bank_rows, index;                   /* index: of the source's first slot, without the bank */
} few_rows;

/* The whole block: bits[expert] has a bit for each row that goes there. Counts them, a warp per expert, and places the
 * experts. */
static __device__ void place_bits(const epg__cuda_lane &l, const uint32_t *bits, uint32_t words, few_places *s)
{
    uint32_t lane = epg__lane_id();
    for (uint32_t e = threadIdx.x / 32; e < l.local_experts; e += blockDim.x / 32) {
        uint32_t count = lane + 1 < words ? __popc(bits[e * words + lane]) : 0, sum = epg__sum_lanes(count);
        s->before[e][lane] = (uint16_t)(sum - count);
        if (lane == 31)
            s->all[e] = sum;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        epg__few_sums sums = epg__place_few(l, true, s->all, s->offsets);
        if (lane == 0) {
            l.offsets[l.local_experts] = sums.end;
            *l.total = sums.kept;
            if (sums.wanted > sums.kept) {
                epg__count(l, EPG_COUNT_DROPPED_ROWS, sums.wanted - sums.kept);
                epg__record_failure(l, EPG_ERR_OVERFLOW, EPG_OP_DISPATCH_RECV, l.rank, sums.kept, sums.wanted);
            }
        }
    }
    __syncthreads();
    for (uint32_t e = threadIdx.x; e < l.local_experts; e += blockDim.x) {
        l.offsets[e] = s->offsets[e];
        l.counts[e] = s->all[e];
    }
}

/* One warp: walks its rows, a lane per route, some rows at once. Sets bits or, with WRITE, gives places. A row names an
 * expert once. Rows are read anew for the second walk: to keep them would take more registers than there are. */
template <bool WRITE>
static __device__ void walk_few(const epg__cuda_lane &l, const epg__step &at, const few_rows &rows, uint32_t *bits,
                                uint32_t words, const few_places &s)
{
    enum { BATCH = 6 };
    const size_t step = rows.stride * l.wire.meta_bytes, route = sizeof(epg_wire_meta) + at.k * sizeof(epg_wire_route);
    const char *meta = (const char *)epg__meta_at(&l.wire, epg__own_lane(l), rows.bank_rows + rows.index + rows.slot);
    for (uint32_t first = rows.slot; first < rows.count; first += BATCH * rows.stride) {
        epg_wire_meta head[BATCH];
        epg_wire_route to[BATCH];
#pragma unroll
        for (int b = 0; b < BATCH; b++, meta += step) {
            head[b].count = 0;
            if (first + b * rows.stride >= rows.count || at.k >= l.wire.geometry.topk)
                continue;
            head[b] = *(const epg_wire_meta *)meta;
            to[b] = *(const epg_wire_route *)(meta + route);
        }
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            uint32_t slot = first + b * rows.stride, row = rows.first + slot, e = to[b].expert;
            if (at.k >= head[b].count)
                continue;
            uint32_t *word = &bits[e * words + row / 32], bit = 1u << row % 32;
            if (!WRITE) {
                atomicOr(word, bit);
                continue;
            }
            uint32_t nth = s.before[e][row / 32] + __popc(*word & (bit - 1));
            write_route(l, rows.bank_rows, rows.source, rows.index + slot, at.k,
                        nth < s.all[e] ? s.offsets[e] + nth : EPG_WIRE_NONE, head[b].token, to[b].weight);
        }
    }
}

/* This warp's rows, if they are few enough for all; else false. */
static __device__ bool few_rows_of(const epg__cuda_lane &l, const epg__step &at, uint32_t epoch,
                                   const few_places &s, few_rows *rows)
{
    uint32_t lane = epg__lane_id(), warp = threadIdx.x / 32, warps = blockDim.x / 32, share = warps / l.ranks;
    uint32_t count = lane < l.ranks ? s.received[lane] : 0, end = epg__sum_lanes(count);
    rows->stride = share * at.tokens;
    if (share == 0 || __shfl_sync(0xFFFFFFFFu, end, 31) > warps * 32)
        return false;
    rows->source = warp / share;
    rows->count = __shfl_sync(0xFFFFFFFFu, count, rows->source & 31);
    rows->first = __shfl_sync(0xFFFFFFFFu, end - count, rows->source & 31);
    rows->slot = warp % share * at.tokens + at.token;
    rows->bank_rows = (epoch & 1) * l.ranks * l.wire.geometry.slots;
    rows->index = rows->source * l.wire.geometry.slots;
    if (rows->source >= l.ranks)
        rows->count = 0;
    return true;
}

/* The whole block, its table cleared and the counts received: true where the rows were few enough, and placed. */
static __device__ bool place_few(const epg__cuda_params &p, uint32_t epoch, uint32_t *bits, few_places *s)
{
    const epg__cuda_lane &l = p.lane;
    const epg__step at = epg__step_of(l.wire.geometry.topk);
    uint32_t words = blockDim.x / 32 + 1; /* one for each 32 rows, and one so that experts have different banks */
    few_rows rows;
    if (l.ranks > FEW_RANKS || l.local_experts > FEW_EXPERTS || l.row_align > EPG_FEW_ALIGN || !p.shared_words ||
        !few_rows_of(l, at, epoch, *s, &rows))
        return false;
    walk_few<false>(l, at, rows, bits, words, *s);
    __syncthreads();
    place_bits(l, bits, words, s);
    walk_few<true>(l, at, rows, bits, words, *s);
    return true;
}

/* ---- place ---- */

/* The whole block, the counts received. The table has two rows for each warp. */
static __device__ void place_any(const epg__cuda_lane &l, uint32_t epoch, uint32_t *table)
{
    uint32_t warp = threadIdx.x / 32, warps = blockDim.x / 32, experts = l.local_experts;
    uint32_t *cursor = table + warp * experts, *rows = table + (warps + warp) * experts;
    for (uint32_t i = threadIdx.x; i < 2 * warps * experts; i += blockDim.x)
        table[i] = 0;
    __syncthreads();
    walk_rows<false>(l, epoch, warp, warps, cursor, rows);
    __syncthreads();
    epg__scan_warps(table, experts, l.counts);
    __syncthreads();
    place_experts(l);
    __syncthreads();
    walk_rows<true>(l, epoch, warp, warps, cursor, rows);
}

static __global__ void __launch_bounds__(EPG_CUDA_BLOCK) place(const __grid_constant__ epg__cuda_params p)
{
    extern __shared__ uint32_t shared[];
    __shared__ few_places few;
    const epg__cuda_lane &l = p.lane;
    uint32_t warps = blockDim.x / 32, *table = p.shared_words ? shared : l.scratch;

    epg__touch(p);
    epg__await_earlier_kernels();
    epg__pair_state pair = *l.pair;
    for (uint32_t i = threadIdx.x; i < (warps + 1) * l.local_experts; i += blockDim.x)
        table[i] = 0;
    receive_counts(p, pair, l.ranks <= FEW_RANKS ? few.received : l.received);
    __syncthreads();
    if (!place_few(p, pair.epoch, table, &few))
        place_any(l, pair.epoch, table);
}

/* ---- the same, for many rows ---- */

static __global__ void __launch_bounds__(EPG_CUDA_BLOCK) await_rows(const __grid_constant__ epg__cuda_params p)
{
    epg__await_earlier_kernels();
    receive_counts(p, *p.lane.pair, p.lane.received);
}

/* [block][warp][expert] how many rows the warps before it in its block have for an expert. */
static __device__ uint32_t *warp_table(const epg__cuda_params &p)
{
    return p.lane.scratch + (size_t)blockIdx.x * EPG_CUDA_PLACER_WARPS * p.lane.local_experts;
}

/* [expert][block] how many rows a block has for an expert, then how many those before it have. */
static __device__ uint32_t *block_table(const epg__cuda_params &p)
{
    return p.lane.scratch + (size_t)EPG_CUDA_PLACERS * EPG_CUDA_PLACER_WARPS * p.lane.local_experts;
}

/* One warp: turns four neighbours' counts in each lane into what is before each; *all: the sum of all. */
static __device__ uint4 sums_before(uint4 count, uint32_t *all)
{
    uint32_t own = count.x + count.y + count.z + count.w, end = epg__sum_lanes(own), before = end - own;
    *all = __shfl_sync(0xFFFFFFFFu, end, 31);
    return make_uint4(before, before + count.x, before + count.x + count.y, before + own - count.w);
}

/* The whole block, the last one. A warp takes an expert, some of them at once. */
static __device__ void place_blocks(const epg__cuda_lane &l, uint4 *table)
{
    enum { BATCH = 4, COLUMN = EPG_CUDA_PLACERS / 4 };
    static_assert(COLUMN == 32, "four blocks to a lane");
    uint32_t lane = epg__lane_id(), warps = blockDim.x / 32;
    for (uint32_t first = threadIdx.x / 32; first < l.local_experts; first += BATCH * warps) {
        uint4 count[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; u++)
            if (first + u * warps < l.local_experts)
                count[u] = table[(first + u * warps) * COLUMN + lane];
#pragma unroll
        for (int u = 0; u < BATCH; u++) {
            uint32_t e = first + u * warps, all;
            if (e >= l.local_experts)
                break;
            table[e * COLUMN + lane] = sums_before(count[u], &all);
            if (lane == 0)
                l.counts[e] = all;
        }
    }
    __syncthreads();
    place_experts(l);
}

static __global__ void __launch_bounds__(EPG_CUDA_PLACER_WARPS * 32)
count_rows(const __grid_constant__ epg__cuda_params p)
{
    extern __shared__ uint32_t shared[];
    const epg__cuda_lane &l = p.lane;
    uint32_t experts = l.local_experts, *kept = warp_table(p), *blocks = block_table(p);
    epg__touch(p);
    for (uint32_t i = threadIdx.x; i < EPG_CUDA_PLACER_WARPS * experts; i += blockDim.x)
        shared[i] = 0;
    __syncthreads();
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    walk_rows<false>(l, l.pair->epoch, epg__first_item(), epg__item_stride(), shared + threadIdx.x / 32 * experts,
                     NULL);
    __syncthreads();
    for (uint32_t e = threadIdx.x; e < experts; e += blockDim.x) {
        uint32_t sum = 0;
        for (uint32_t w = 0; w < EPG_CUDA_PLACER_WARPS; w++) {
            kept[w * experts + e] = sum;
            sum += shared[w * experts + e];
        }
        blocks[e * EPG_CUDA_PLACERS + blockIdx.x] = sum;
    }
    if (epg__block_done(l.done, gridDim.x))
        place_blocks(l, (uint4 *)blocks);
}

static __global__ void __launch_bounds__(EPG_CUDA_PLACER_WARPS * 32)
assign_rows(const __grid_constant__ epg__cuda_params p)
{
    extern __shared__ uint32_t shared[];
    const epg__cuda_lane &l = p.lane;
    uint32_t experts = l.local_experts, warp = threadIdx.x / 32, *kept = warp_table(p), *blocks = block_table(p);
    uint32_t *rows = shared + EPG_CUDA_PLACER_WARPS * experts;
    epg__touch(p);
    for (uint32_t i = threadIdx.x; i < EPG_CUDA_PLACER_WARPS * experts; i += blockDim.x)
        rows[i] = 0;
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    for (uint32_t i = threadIdx.x; i < EPG_CUDA_PLACER_WARPS * experts; i += blockDim.x)
        shared[i] = kept[i] + blocks[i % experts * EPG_CUDA_PLACERS + blockIdx.x];
    __syncthreads();
    walk_rows<true>(l, l.pair->epoch, epg__first_item(), epg__item_stride(), shared + warp * experts,
                    rows + warp * experts);
}

/* ---- spread_rows ---- */

/* SCALED: rows have scales. */
template <bool SCALED>
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
        const char *row = epg__row_at(&l.wire, epg__own_lane(l), index);
        epg__copy_row((const epg__piece *)row,
                      at == EPG_WIRE_NONE ? NULL : l.expert_rows + (size_t)at * l.wire.payload_bytes, count,
                      epg__part_of((uint32_t)(l.wire.payload_bytes / 16), item % p.parts, p.parts));
        if (SCALED && item % p.parts == 0)
            epg__spread_scales(l, (const epg__piece *)(row + l.wire.payload_bytes), at, count);
    }
}

/* ---- launchers ---- */

/* `place`, by many blocks. */
static epg_status place_many(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                             epg__cuda_params *params)
{
    enum { BLOCK = EPG_CUDA_PLACER_WARPS * 32 };
    const epg__cuda_table none = {0, 0}, cursors = {EPG_CUDA_PLACER_WARPS, params->lane.local_experts};
    const epg__cuda_table both = {2 * cursors.rows, cursors.columns};
    epg_status status = epg__cuda_launch_table(device, stream, shape, (const void *)await_rows, "dispatch recv: wait",
                                               1, epg__cuda_block_for(params->lane.ranks, 32), none, params);
    if (status == EPG_OK)
        status = epg__cuda_launch_table(device, stream, shape, (const void *)count_rows, "dispatch recv: count",
                                        EPG_CUDA_PLACERS, BLOCK, cursors, params);
    if (status == EPG_OK)
        status = epg__cuda_launch_table(device, stream, shape, (const void *)assign_rows, "dispatch recv: assign",
                                        EPG_CUDA_PLACERS, BLOCK, both, params);
    return status;
}

static epg_status place_one(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                            epg__cuda_params *params)
{
    const epg_wire_geometry *g = &params->lane.wire.geometry;
    uint32_t threads = epg__cuda_block_for((uint64_t)g->ranks * g->slots, 128);
    epg__cuda_table table = {2 * threads / 32, params->lane.local_experts};
    return epg__cuda_launch_table(device, stream, shape, (const void *)place, "dispatch recv: place", 1, threads, table,
                                  params);
}

epg_status epg__cuda_dispatch_recv(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                   epg__cuda_params *params)
{
    const epg_wire_geometry *g = &params->lane.wire.geometry;
    uint64_t most = (uint64_t)g->ranks * g->slots;
    bool many = params->is_ht && !params->is_void && params->lane.local_experts <= EPG_CUDA_PLACED_EXPERTS;
    epg_status status = (many ? place_many : place_one)(device, stream, shape, params);
    if (status != EPG_OK || params->lane.layout == EPG_LAYOUT_IN_PLACE || params->is_void)
        return status;
    const void *spread = params->lane.wire.scale_bytes ? (const void *)spread_rows<true>
                                                       : (const void *)spread_rows<false>;
    epg__cuda_rows rows = {spread, "dispatch recv: rows", most, params->lane.wire.payload_bytes, 2, 4, 0};
    return epg__cuda_launch_rows(device, stream, shape, &rows, params);
}

epg_status epg__cuda_recv_prepare(epg_device *device)
{
    const void *const tables[] = {(const void *)place, (const void *)count_rows, (const void *)assign_rows};
    const void *const others[] = {(const void *)spread_rows<false>, (const void *)spread_rows<true>,
                                  (const void *)await_rows};
    epg_status status = EPG_OK;
    for (int i = 0; i < 3 && status == EPG_OK; i++)
        status = epg__cuda_kernel_prepare(device, tables[i], EPG_CUDA_TABLE_BYTES);
    for (int i = 0; i < 3 && status == EPG_OK; i++)
        status = epg__cuda_kernel_prepare(device, others[i], 0);
    return status;
}
