/* Dispatch send of many rows that are quantised on the way, on a device with bulk copies: a warp makes a row in shared
 * memory, once, and starts a copy of it to each destination. Stores from registers, as in send_rows (rows_cuda.cuh),
 * cost instructions for each destination, beside those that quantise.
 *
 * Not its job: routing (dispatch_send_cuda.cu), which comes before it. The bits are those of send_rows. */
#include "device/cuda_bulk_int.cuh"
#include "ep/send_cuda.cuh"

enum {
    BULK_THREADS = 256,
    BULK_BYTES = 96 * 1024, /* of shared memory for a block's rows, at most */
    STEPS = 4,
    ROUNDS = 2 * STEPS      /* a warp's pieces at a time: one in each lane and round */
};

#if __CUDA_ARCH__ >= 900

/* The whole warp: scale and inverse of each block, those of round u in lanes u and 16 + u, so that one division serves
 * all rounds. What is not finite becomes NaN. */
static __device__ float scale_rounds(epg__piece piece[ROUNDS], uint32_t power_of_two, float *inverse)
{
    uint32_t most[STEPS], bad = 0, u = epg__lane_id() & (ROUNDS - 1);
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        most[i] = epg__largest_of_blocks(epg__largest_of(piece[2 * i], piece[2 * i + 1]));
        bad |= epg__not_finite(most[i]);
    }
    if (__any_sync(0xFFFFFFFFu, bad)) {
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            most[i] = epg__largest_of_blocks(epg__largest_of(epg__without_infinities(piece[2 * i], true),
                                                             epg__without_infinities(piece[2 * i + 1], true)));
            piece[2 * i] = epg__without_infinities(piece[2 * i], false);
            piece[2 * i + 1] = epg__without_infinities(piece[2 * i + 1], false);
        }
    }
    uint32_t mine = most[0];
#pragma unroll
    for (int i = 1; i < STEPS; i++)
        mine = u / 2 == i ? most[i] : mine;
    return epg__scale_of(u % 2 ? mine & 0xFFFF0000u : mine << 16, power_of_two, inverse);
}

/* One warp: quantises a row into shared memory. */
static __device__ void quantise_row(const epg__cuda_lane &l, const epg__piece *from, char *row)
{
    const epg_wire_geometry &g = l.wire.geometry;
    uint32_t lane = epg__lane_id(), pieces = g.hidden / 8, blocks = epg__scale_blocks(g.hidden);
    for (uint32_t first = 0; first < pieces; first += 32 * ROUNDS) {
        epg__piece wide[ROUNDS];
#pragma unroll
        for (int u = 0; u < ROUNDS; u++) {
            wide[u] = make_uint4(0, 0, 0, 0);
            if (first + u * 32 + lane < pieces)
                wide[u] = from[first + u * 32 + lane];
        }
        float inverse, scale = scale_rounds(wide, g.power_of_two, &inverse);
        if (first == 0) { /* the copies of the row before may still be reading */
            epg__bulk_await_reads();
            __syncwarp();
        }
#pragma unroll
        for (int u = 0; u < ROUNDS; u++) {
            uint2 codes = epg__codes_of(wide[u], __shfl_sync(0xFFFFFFFFu, inverse, (lane & 16) + u));
            if (first + u * 32 + lane < pieces)
                ((uint2 *)row)[first + u * 32 + lane] = codes;
        }
        uint32_t block = first / 16 + (lane & 15) * 2 + lane / 16;
        if ((lane & 15) < ROUNDS && block < blocks)
            ((float *)(row + l.wire.payload_bytes))[block] = scale;
    }
}

#endif

static __global__ void __launch_bounds__(BULK_THREADS) send_bulk(const __grid_constant__ epg__cuda_params p)
{
#if __CUDA_ARCH__ >= 900
    extern __shared__ __align__(128) char rows[];
    const epg__cuda_lane &l = p.lane;
    uint32_t bytes = (uint32_t)l.wire.row_bytes;
    char *row = rows + threadIdx.x / 32 * bytes;

    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    epg__pair_state pair = *l.pair;
    if (pair.rehearsed)
        return;
    for (uint32_t i = epg__lane_id(); i < bytes / 16; i += 32) /* what pads a row is zero */
        ((epg__piece *)row)[i] = make_uint4(0, 0, 0, 0);
    __syncwarp();
    for (uint32_t token = epg__first_item(); token < pair.tokens; token += epg__item_stride()) {
        uint32_t count = l.share_count[token];
        char *to = epg__address_token(p, token, pair.epoch, count, true);
        quantise_row(l, (const epg__piece *)p.user.rows + (size_t)token * (l.wire.geometry.hidden / 8), row);
        epg__bulk_ready();
        __syncwarp();
        if (to)
            epg__bulk_store(to, row, bytes);
        epg__bulk_commit();
    }
    epg__bulk_await_writes();
    epg__signal_sent(l, pair.epoch);
#endif
}

/* ---- launchers ---- */

static uint32_t shared_bytes(const epg__cuda_params *params)
{
    uint64_t bytes = params->lane.wire.row_bytes * (BULK_THREADS / 32);
    return bytes <= BULK_BYTES ? (uint32_t)bytes : 0;
}

/* A warp takes a whole row, so there must be rows for all warps. */
int epg__cuda_bulk_fits(const epg__cuda_shape *shape, const epg__cuda_params *params)
{
    return shape->dependent && !params->is_void && params->user.bucket > shape->units * 8 && shared_bytes(params);
}

epg_status epg__cuda_send_bulk(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                               epg__cuda_params *params)
{
    uint32_t blocks = (params->user.bucket + BULK_THREADS / 32 - 1) / (BULK_THREADS / 32), most = shape->units * 8;
    epg__cuda_launch launch = {(const void *)send_bulk, "dispatch send: bulk", {blocks < most ? blocks : most, 1, 1},
                               BULK_THREADS, shared_bytes(params), 0, shape->dependent};
    params->parts = 1;
    return epg__cuda_launch_kernel(device, stream, &launch, params);
}

epg_status epg__cuda_bulk_prepare(epg_device *device)
{
    return epg__cuda_kernel_prepare(device, (const void *)send_bulk, BULK_BYTES);
}
