/* Combine on the CUDA device.
 *
 *   send   return_rows  one partial sum per received row, stored at its source; the last block signals every live rank
 *   recv   await_returns  one block: waits for the signals of the ranks that were sent something
 *          collect_rows   adds a token's partial sums in rank order
 *
 * The same additions in the same order as the host kernels (lane_cuda_int.cuh), whatever the mode. */
#include "ep/lane_cuda_int.cuh"
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

template <bool FLOAT32>
static __global__ void __launch_bounds__(256, 2) return_rows(const __grid_constant__ epg__cuda_params p)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t topk = l.wire.geometry.topk, slots = l.wire.geometry.slots, lane = epg__lane_id();

    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    epg__pair_state pair = *l.pair;
    uint32_t items = p.is_void ? 0 : epg__received_rows(l) * p.parts;
    if (pair.rehearsed)
        return;
    if (blockIdx.x == 0 && threadIdx.x == 0)
        ((epg_wire_lane *)epg__own_lane(l))->epoch = pair.epoch; /* where local_cuda.cu has opened the pair */
    for (uint32_t item = epg__first_item(); item < items; item += epg__item_stride()) {
        uint32_t source, slot, part = item % p.parts, at = EPG_WIRE_NONE;
        float weight = 0;
        epg__find_row(l, item / p.parts, &source, &slot);
        size_t from = epg__slot_index(&l.wire, pair.epoch & 1, source, slot);
        epg_wire_meta *meta = epg__meta_at(&l.wire, epg__own_lane(l), from);
        uint32_t count = meta->count;
        if (lane < topk) {
            at = l.place[((size_t)source * slots + slot) * topk + lane];
            weight = epg__routes_of(meta)[lane].weight;
        }
        if (__any_sync(0xFFFFFFFFu, !epg__rank_alive(l, source)))
            continue;
        char *there = epg__peer_lane(l, source);
        size_t index = epg__slot_index(&l.wire, pair.epoch & 1, l.rank, slot);
        bool missing = __any_sync(0xFFFFFFFFu, lane < count && at == EPG_WIRE_NONE);
        if (part == 0 && lane == 0)
            *epg__mark_at(&l.wire, there, index) = missing;
        char *row = (char *)p.expert_rows + (size_t)at * l.wire.return_bytes;
        if (lane >= count || at == EPG_WIRE_NONE)
            row = NULL;
        sum_rows<FLOAT32, 2, 4>(row, weight, count, (epg__piece *)epg__return_at(&l.wire, there, index),
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

template <bool FLOAT32>
static __global__ void __launch_bounds__(256, 2) collect_rows(const __grid_constant__ epg__cuda_params p)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t lane = epg__lane_id();

    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    epg__pair_state pair = *l.pair;
    if (pair.rehearsed)
        return;
    for (uint32_t item = epg__first_item(); item < pair.tokens * p.parts; item += epg__item_stride()) {
        uint32_t token = item / p.parts, part = item % p.parts, count = l.share_count[token];
        epg__share share = {0, EPG_WIRE_NONE};
        char *row = NULL;
        bool missing = false;
        if (lane < l.fan)
            share = l.shares[(size_t)token * l.fan + lane];
        if (lane < count) {
            missing = share.slot == EPG_WIRE_NONE || !l.returned[share.rank];
            if (!missing) {
                size_t index = epg__slot_index(&l.wire, pair.epoch & 1, share.rank, share.slot);
                row = epg__return_at(&l.wire, epg__own_lane(l), index);
                missing = part == 0 && *epg__mark_at(&l.wire, epg__own_lane(l), index);
            }
        }
        missing = __any_sync(0xFFFFFFFFu, missing);
        if (part == 0 && lane == 0) {
            l.flags[token] = missing;
            epg__count(l, EPG_COUNT_FLAGGED, missing);
        }
        sum_rows<FLOAT32, 4, 2>(row, 1.0f, count, (epg__piece *)((char *)p.out + (size_t)token * l.wire.return_bytes),
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
    return epg__cuda_launch_rows(device, stream, shape, kernel, "combine send",
                                 params->is_void ? 0 : (uint64_t)g->ranks * g->slots, params->lane.wire.return_bytes,
                                 params);
}

epg_status epg__cuda_combine_recv(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                  epg__cuda_params *params)
{
    const void *kernel = is_float32(params) ? (const void *)collect_rows<true> : (const void *)collect_rows<false>;
    uint32_t block = (params->lane.ranks + 31) / 32 * 32;
    epg__cuda_launch wait = {(const void *)await_returns, "combine recv: wait", {1, 1, 1},
                             block < EPG_CUDA_BLOCK ? block : EPG_CUDA_BLOCK, 0, 0, shape->dependent};
    epg_status status = epg__cuda_launch_kernel(device, stream, &wait, params);
    if (status != EPG_OK || params->is_void)
        return status;
    return epg__cuda_launch_rows(device, stream, shape, kernel, "combine recv: rows", params->user.bucket,
                                 params->lane.wire.return_bytes, params);
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
