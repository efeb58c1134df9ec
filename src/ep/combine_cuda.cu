/* Combine on the CUDA device.
 *
 *   send   return_rows  one partial sum per received row, stored at its source; the last block signals every live rank
 *   recv   await_returns  one block: waits for the signals of the ranks that were sent something
 *          collect_rows   adds a token's partial sums in rank order
 *
 * The same additions in the same order as the host kernels (lane_cuda_int.cuh), whatever the mode. */
#include "ep/lane_cuda_int.cuh"
#include "ep/wait_cuda.cuh"

enum { GATHER = 8 }; /* rows whose pieces are in flight at once */

/* Adds up to any number of rows, in order, and stores the rounded sum. rows[k] NULL: left out. */
template <bool FLOAT32>
static __device__ void sum_rows(const char *const *rows, const float *weights, uint32_t count, epg__piece *out, epg__span span)
{
    for (uint32_t at = span.first + threadIdx.x; at < span.end; at += blockDim.x) {
        epg__sums<FLOAT32> sums;
        sums.clear();
        for (uint32_t k = 0; k < count; k += GATHER) {
            epg__piece piece[GATHER];
#pragma unroll
            for (uint32_t j = 0; j < GATHER; j++)
                if (k + j < count && rows[k + j])
                    piece[j] = ((const epg__piece *)rows[k + j])[at];
#pragma unroll
            for (uint32_t j = 0; j < GATHER; j++)
                if (k + j < count && rows[k + j])
                    sums.add(piece[j], weights ? weights[k + j] : 1.0f);
        }
        out[at] = sums.rounded();
    }
}

/* ---- send ---- */

template <bool FLOAT32>
static __global__ void __launch_bounds__(256) return_rows(const __grid_constant__ epg__cuda_params p)
{
    __shared__ const char *rows[EPG_TOPK_MAX];
    __shared__ float weights[EPG_TOPK_MAX];
    const epg__cuda_lane &l = p.lane;
    uint32_t topk = l.wire.geometry.topk, slots = l.wire.geometry.slots;

    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    epg__pair_state pair = *l.pair;
    if (pair.rehearsed)
        return;
    uint32_t items = p.is_void ? 0 : epg__received_rows(l) * p.parts;
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
        uint32_t source, slot, part = item % p.parts;
        epg__find_row(l, item / p.parts, &source, &slot);
        if (!epg__rank_alive(l, source)) /* the same in all threads but where it is masked right now: then it is lost */
            source = EPG_WIRE_NONE;
        if (__syncthreads_or(source == EPG_WIRE_NONE))
            continue;
        epg_wire_meta *meta = epg__meta_at(&l.wire, epg__own_lane(l), epg__slot_index(&l.wire, pair.epoch & 1, source, slot));
        uint32_t count = meta->count;
        char *there = epg__peer_lane(l, source);
        size_t index = epg__slot_index(&l.wire, pair.epoch & 1, l.rank, slot);
        if (threadIdx.x < 32) {
            uint32_t at = threadIdx.x < count ? l.place[((size_t)source * slots + slot) * topk + threadIdx.x] : 0;
            if (threadIdx.x < count) {
                rows[threadIdx.x] = at == EPG_WIRE_NONE ? NULL : (const char *)p.expert_rows + (size_t)at * l.wire.row_bytes;
                weights[threadIdx.x] = epg__routes_of(meta)[threadIdx.x].weight;
            }
            bool missing = __any_sync(0xFFFFFFFFu, at == EPG_WIRE_NONE);
            if (part == 0 && threadIdx.x == 0)
                *epg__mark_at(&l.wire, there, index) = missing;
        }
        __syncthreads();
        sum_rows<FLOAT32>(rows, weights, count, (epg__piece *)epg__return_at(&l.wire, there, index),
                          epg__part_of(epg__pieces_of(l), part, p.parts));
        __syncthreads();
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
static __global__ void __launch_bounds__(256) collect_rows(const __grid_constant__ epg__cuda_params p)
{
    __shared__ const char *rows[EPG_TOPK_MAX];
    const epg__cuda_lane &l = p.lane;

    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    epg__pair_state pair = *l.pair;
    if (pair.rehearsed)
        return;
    for (uint32_t item = blockIdx.x; item < pair.tokens * p.parts; item += gridDim.x) {
        uint32_t token = item / p.parts, part = item % p.parts, count = l.share_count[token];
        if (threadIdx.x < 32) {
            bool missing = false;
            if (threadIdx.x < count) {
                epg__share share = l.shares[(size_t)token * l.fan + threadIdx.x];
                missing = share.slot == EPG_WIRE_NONE || !l.returned[share.rank];
                size_t index = missing ? 0 : epg__slot_index(&l.wire, pair.epoch & 1, share.rank, share.slot);
                rows[threadIdx.x] = missing ? NULL : epg__return_at(&l.wire, epg__own_lane(l), index);
                missing = missing || *epg__mark_at(&l.wire, epg__own_lane(l), index);
            }
            missing = __any_sync(0xFFFFFFFFu, missing);
            if (part == 0 && threadIdx.x == 0) {
                l.flags[token] = missing;
                epg__count(l, EPG_COUNT_FLAGGED, missing);
            }
        }
        __syncthreads();
        sum_rows<FLOAT32>(rows, NULL, count, (epg__piece *)((char *)p.out + (size_t)token * l.wire.row_bytes),
                          epg__part_of(epg__pieces_of(l), part, p.parts));
        __syncthreads();
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
                                 params->is_void ? 0 : (uint64_t)g->ranks * g->slots, params);
}

epg_status epg__cuda_combine_recv(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                  epg__cuda_params *params)
{
    const void *kernel = is_float32(params) ? (const void *)collect_rows<true> : (const void *)collect_rows<false>;
    epg__cuda_launch wait = {(const void *)await_returns, "combine recv: wait", {1, 1, 1}, EPG_CUDA_BLOCK, 0, 0,
                             shape->dependent};
    epg_status status = epg__cuda_launch_kernel(device, stream, &wait, params);
    if (status != EPG_OK || params->is_void)
        return status;
    return epg__cuda_launch_rows(device, stream, shape, kernel, "combine recv: rows", params->user.bucket, params);
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
