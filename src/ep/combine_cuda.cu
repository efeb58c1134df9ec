/* Combine on the CUDA device.
 *
 *   send   return_rows  one partial sum per received row, stored at its source; the last block signals every live rank
 *   recv   await_returns  one block: waits for the signals of the ranks that were sent something
 *          collect_rows   adds a token's partial sums in rank order
 *
 * The same additions in the same order as the host kernels (lane_cuda_int.cuh), whatever the mode. */
#include "ep/wait_cuda.cuh"

/* One warp: adds the rows of lanes 0 .. count - 1 in order, each times its lane's weight, and stores the rounded sum.
 * NULL rows are left out. GATHER rows and PIECES of each are under way at once. */
template <bool FLOAT32, int GATHER, int PIECES>
static __device__ void sum_rows(char *row, float weight, uint32_t count, epg__piece *out, epg__span span)
{
    for (uint32_t at = span.first + epg__lane_id(); at - epg__lane_id() < span.end; at += PIECES * 32) {
        epg__sums<FLOAT32, 4> sums[PIECES];
#pragma unroll
        for (int u = 0; u < PIECES; u++)
            sums[u].clear();
        for (uint32_t k = 0; k < count; k += GATHER) {
            epg__piece piece[GATHER][PIECES];
            const epg__piece *from[GATHER];
#pragma unroll
            for (int j = 0; j < GATHER; j++) {
                from[j] = (const epg__piece *)epg__pointer_of(row, (k + j) & 31);
                if (k + j >= count)
                    from[j] = NULL;
#pragma unroll
                for (int u = 0; u < PIECES; u++)
                    if (from[j] && at + u * 32 < span.end)
                        piece[j][u] = from[j][at + u * 32];
            }
#pragma unroll
            for (int j = 0; j < GATHER; j++) {
                float by = __shfl_sync(0xFFFFFFFFu, weight, (k + j) & 31);
#pragma unroll
                for (int u = 0; u < PIECES; u++)
                    if (from[j] && at + u * 32 < span.end)
                        sums[u].add(epg__words_of(piece[j][u]), by);
            }
        }
#pragma unroll
        for (int u = 0; u < PIECES; u++)
            if (at + u * 32 < span.end)
                out[at + u * 32] = epg__piece_of(sums[u].rounded());
    }
}

/* ---- send ---- */

/* A received row, in lane k its k-th route. */
typedef struct return_item {
    uint32_t source, slot, count, at;
    float weight;
    bool alive;
} return_item;

static __device__ return_item read_item(const epg__cuda_lane &l, const epg__ends &ends, uint32_t epoch, uint32_t row)
{
    uint32_t lane = epg__lane_id(), topk = l.wire.geometry.topk;
    return_item item = {0, 0, 0, EPG_WIRE_NONE, 0, true};
    epg__find_received(l, ends, row, &item.source, &item.slot);
    size_t from = epg__slot_index(&l.wire, epoch & 1, item.source, item.slot);
    epg_wire_meta *meta = epg__meta_at(&l.wire, epg__own_lane(l), from);
    item.count = meta->count;
    if (lane < topk) {
        item.at = l.place[((size_t)item.source * l.wire.geometry.slots + item.slot) * topk + lane];
        item.weight = epg__routes_of(meta)[lane].weight;
    }
    item.alive = epg__rank_alive(l, item.source);
    return item;
}

/* A warp reads what it needs of its next row before it adds this one's. */
template <bool FLOAT32>
static __global__ void __launch_bounds__(256, 2) return_rows(const __grid_constant__ epg__cuda_params p)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t lane = epg__lane_id(), stride = epg__item_stride(), rows;

    epg__touch(p);
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    epg__pair_state pair = *l.pair;
    const epg__ends ends = epg__read_ends(l, &rows);
    uint32_t items = p.is_void ? 0 : rows * p.parts;
    if (pair.rehearsed)
        return;
    if (blockIdx.x == 0 && threadIdx.x == 0)
        ((epg_wire_lane *)epg__own_lane(l))->epoch = pair.epoch; /* where local_cuda.cu has opened the pair */
    return_item next = {0, 0, 0, EPG_WIRE_NONE, 0, true};
    if (epg__first_item() < items)
        next = read_item(l, ends, pair.epoch, epg__first_item() / p.parts);
    for (uint32_t item = epg__first_item(); item < items; item += stride) {
        const return_item now = next;
        uint32_t part = item % p.parts;
        if (item + stride < items)
            next = read_item(l, ends, pair.epoch, (item + stride) / p.parts);
        if (__any_sync(0xFFFFFFFFu, !now.alive))
            continue;
        char *there = epg__peer_lane(l, now.source);
        size_t index = epg__slot_index(&l.wire, pair.epoch & 1, l.rank, now.slot);
        bool missing = __any_sync(0xFFFFFFFFu, lane < now.count && now.at == EPG_WIRE_NONE);
        if (part == 0 && lane == 0)
            *epg__mark_at(&l.wire, there, index) = missing;
        char *row = (char *)p.expert_rows + (size_t)now.at * l.wire.return_bytes;
        if (lane >= now.count || now.at == EPG_WIRE_NONE)
            row = NULL;
        sum_rows<FLOAT32, 2, 4>(row, now.weight, now.count, (epg__piece *)epg__return_at(&l.wire, there, index),
                                epg__part_of(epg__return_pieces(l), part, p.parts));
    }
    if (!epg__block_done(l.done, gridDim.x))
        return;
    for (uint32_t r = threadIdx.x; r < l.ranks; r += blockDim.x)
        if (epg__rank_alive(l, r))
            epg__send_signal(l, pair.epoch, EPG_WIRE_COMBINE, r, p.is_void ? 0 : l.received[r], p.is_void);
}

/* ---- recv ---- */

static __global__ void __launch_bounds__(EPG_CUDA_BLOCK) await_returns(const __grid_constant__ epg__cuda_params p)
{
    const epg__cuda_lane &l = p.lane;
    epg__await_earlier_kernels();
    epg__pair_state pair = *l.pair;
    if (!pair.rehearsed) {
        epg__await_signals(l, EPG_WIRE_COMBINE, pair.epoch, l.sent, l.returned);
        for (uint32_t r = threadIdx.x; r < l.ranks; r += blockDim.x)
            l.returned[r] = l.sent[r] > 0 && l.returned[r] == l.sent[r];
    }
    epg__admit_next_kernel();
}

/* A token's shares, in lane i the i-th. */
typedef struct collect_item {
    uint32_t count;
    epg__share share;
} collect_item;

static __device__ collect_item read_shares(const epg__cuda_lane &l, uint32_t token)
{
    collect_item item = {l.share_count[token], {0, EPG_WIRE_NONE}};
    if (epg__lane_id() < l.fan)
        item.share = l.shares[(size_t)token * l.fan + epg__lane_id()];
    return item;
}

/* A warp reads what it needs of its next token before it adds this one's. */
template <bool FLOAT32>
static __global__ void __launch_bounds__(256, 2) collect_rows(const __grid_constant__ epg__cuda_params p)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t lane = epg__lane_id(), stride = epg__item_stride();

    epg__touch(p);
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    epg__pair_state pair = *l.pair;
    uint32_t items = pair.rehearsed ? 0 : pair.tokens * p.parts;
    collect_item next = {0, {0, EPG_WIRE_NONE}};
    if (epg__first_item() < items)
        next = read_shares(l, epg__first_item() / p.parts);
    for (uint32_t item = epg__first_item(); item < items; item += stride) {
        const collect_item now = next;
        uint32_t token = item / p.parts, part = item % p.parts;
        char *row = NULL;
        bool missing = false;
        if (lane < now.count) {
            missing = now.share.slot == EPG_WIRE_NONE || !l.returned[now.share.rank];
            if (!missing) {
                size_t index = epg__slot_index(&l.wire, pair.epoch & 1, now.share.rank, now.share.slot);
                row = epg__return_at(&l.wire, epg__own_lane(l), index);
                missing = part == 0 && *epg__mark_at(&l.wire, epg__own_lane(l), index);
            }
        }
        if (item + stride < items)
            next = read_shares(l, (item + stride) / p.parts);
        missing = __any_sync(0xFFFFFFFFu, missing);
        if (part == 0 && lane == 0) {
            l.flags[token] = missing;
            epg__count(l, EPG_COUNT_FLAGGED, missing);
        }
        sum_rows<FLOAT32, 4, 2>(row, 1.0f, now.count,
                                (epg__piece *)((char *)p.out + (size_t)token * l.wire.return_bytes),
                                epg__part_of(epg__return_pieces(l), part, p.parts));
    }
}

/* ---- launchers ---- */

static bool is_float32(const epg__cuda_params *params) { return params->lane.wire.geometry.row_type == EPG_FLOAT32; }

epg_status epg__cuda_combine_send(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                  epg__cuda_params *params)
{
    const epg_wire_geometry *g = &params->lane.wire.geometry;
    const void *kernel = is_float32(params) ? (const void *)return_rows<true> : (const void *)return_rows<false>;
    epg__cuda_rows rows = {kernel, "combine send", params->is_void ? 0 : (uint64_t)g->ranks * g->slots,
                           params->lane.wire.return_bytes, 4, 2, 0};
    return epg__cuda_launch_rows(device, stream, shape, &rows, params);
}

epg_status epg__cuda_combine_recv(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                  epg__cuda_params *params)
{
    const void *kernel = is_float32(params) ? (const void *)collect_rows<true> : (const void *)collect_rows<false>;
    uint32_t block = (params->lane.ranks + 31) / 32 * 32;
    epg__cuda_launch wait = {(const void *)await_returns, "combine recv: wait", {1, 1, 1},
                             block < EPG_CUDA_BLOCK ? block : EPG_CUDA_BLOCK, 0, shape->dependent};
    epg_status status = epg__cuda_launch_kernel(device, stream, &wait, params);
    if (status != EPG_OK || params->is_void)
        return status;
    epg__cuda_rows rows = {kernel, "combine recv: rows", params->user.bucket, params->lane.wire.return_bytes, 8, 2, 0};
    return epg__cuda_launch_rows(device, stream, shape, &rows, params);
}

epg_status epg__cuda_combine_prepare(epg_device *device)
{
    const void *const kernels[] = {(const void *)return_rows<true>, (const void *)return_rows<false>,
                                   (const void *)await_returns, (const void *)collect_rows<true>,
                                   (const void *)collect_rows<false>};
    epg_status status = EPG_OK;
    for (int i = 0; i < 5 && status == EPG_OK; i++)
        status = epg__cuda_kernel_prepare(device, kernels[i], 0);
    return status;
}
