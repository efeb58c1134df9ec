/* The CUDA kernels of a model that work on rows one by one: embedding, norm, residual, and the ids out of the head.
 *
 * Each block takes whole rows. The threads of a block follow from the row's width alone, so that sums over a row have
 * one order. */
#include "device/cuda_order_int.cuh"
#include "moe/moe_cuda_int.h"
#include "moe/number_cuda.cuh"

#define BLOCK_MOST 512u

template <typename Row, typename Weight>
static __global__ void __launch_bounds__(BLOCK_MOST) embed(const __grid_constant__ epg__embed_args a)
{
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    uint32_t tokens = epg__live_rows(a.rows), hidden = a.rows.hidden;
    for (uint32_t t = blockIdx.x; t < tokens; t += gridDim.x) {
        int32_t id = a.ids[t];
        if (id < 0 || (uint32_t)id >= a.vocab) {
            if (threadIdx.x == 0)
                atomicAdd(a.bad_ids, 1u);
            id = 0;
        }
        const Weight *from = (const Weight *)a.embedding + (size_t)id * hidden;
        Row *to = (Row *)a.out + (size_t)t * hidden;
        for (uint32_t i = threadIdx.x * 8; i < hidden; i += blockDim.x * 8) {
            float values[8];
            epg__load8(from + i, values);
            epg__store8(to + i, values);
        }
    }
}

/* The block's sum of everyone's value, in every thread: pairs of lanes, then the warps in order. */
static __device__ float block_sum(float value)
{
    __shared__ float warps[BLOCK_MOST / 32];
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (uint32_t step = 16; step; step /= 2)
        value += __shfl_xor_sync(0xFFFFFFFFu, value, step);
    __syncthreads();
    if (lane == 0)
        warps[warp] = value;
    __syncthreads();
    float sum = 0;
    for (uint32_t w = 0; w < blockDim.x / 32; w++)
        sum += warps[w];
    return sum;
}

template <typename Row>
static __global__ void __launch_bounds__(BLOCK_MOST) norm(const __grid_constant__ epg__norm_args a)
{
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    uint32_t tokens = epg__live_rows(a.rows), hidden = a.rows.hidden;
    for (uint32_t t = blockIdx.x; t < tokens; t += gridDim.x) {
        const Row *from = (const Row *)a.in + (size_t)t * hidden;
        Row *to = (Row *)a.out + (size_t)t * hidden;
        float squares = 0, values[8];
        for (uint32_t i = threadIdx.x * 8; i < hidden; i += blockDim.x * 8) {
            epg__load8(from + i, values);
            for (int j = 0; j < 8; j++)
                squares += values[j] * values[j];
        }
        float scale = 1 / sqrtf(block_sum(squares) / (float)hidden + a.eps);
        for (uint32_t i = threadIdx.x * 8; i < hidden; i += blockDim.x * 8) {
            epg__load8(from + i, values);
            for (int j = 0; j < 8; j++)
                values[j] = values[j] * scale * a.weight[i + j];
            epg__store8(to + i, values);
        }
    }
}

template <typename Row>
static __global__ void __launch_bounds__(BLOCK_MOST) residual(const __grid_constant__ epg__residual_args a)
{
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    size_t count = (size_t)epg__live_rows(a.rows) * a.rows.hidden, stride = (size_t)gridDim.x * blockDim.x * 8;
    for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 8; i < count; i += stride) {
        float values[8], add[8];
        epg__load8((const Row *)a.in + i, values);
        epg__load8((const Row *)a.add + i, add);
        for (int j = 0; j < 8; j++)
            values[j] += add[j];
        epg__store8((Row *)a.out + i, values);
    }
}

static __global__ void take_best(const __grid_constant__ epg__take_args a)
{
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    uint32_t tokens = epg__live_rows(a.rows);
    for (uint32_t t = blockIdx.x * blockDim.x + threadIdx.x; t < tokens; t += gridDim.x * blockDim.x) {
        a.next_ids[t] = (int32_t)epg__best_id(a.best[t]);
        a.best[t] = 0;
    }
}

static const void *const embeds[2][2] = {
    {(const void *)embed<float, float>, (const void *)embed<float, epg__bf16>},
    {(const void *)embed<epg__bf16, float>, (const void *)embed<epg__bf16, epg__bf16>}};
static const void *const norms[2] = {(const void *)norm<float>, (const void *)norm<epg__bf16>};
static const void *const residuals[2] = {(const void *)residual<float>, (const void *)residual<epg__bf16>};

/* One block for a row, as many at once as are worth having. */
static epg__cuda_launch row_launch(const epg__moe_launch *shape, const void *kernel, const char *name,
                                   const epg__rows *rows)
{
    uint32_t threads = (rows->hidden / 8 + 31) / 32 * 32, most = shape->units * 8;
    uint32_t blocks = rows->bucket < most ? rows->bucket : most;
    epg__cuda_launch launch = {kernel, name, {blocks, 1, 1}, 0, 0, shape->dependent};
    launch.block = threads < BLOCK_MOST ? threads : BLOCK_MOST;
    return launch;
}

extern "C" epg_status epg__cuda_embed(epg_device *device, epg_stream stream, const epg__moe_launch *shape,
                                      epg_dtype weight_type, const epg__embed_args *args)
{
    epg__cuda_launch launch = row_launch(shape, embeds[args->rows.type][weight_type], "embedding", &args->rows);
    return epg__cuda_launch_kernel(device, stream, &launch, args);
}

extern "C" epg_status epg__cuda_norm(epg_device *device, epg_stream stream, const epg__moe_launch *shape,
                                     const epg__norm_args *args)
{
    epg__cuda_launch launch = row_launch(shape, norms[args->rows.type], "norm", &args->rows);
    return epg__cuda_launch_kernel(device, stream, &launch, args);
}

extern "C" epg_status epg__cuda_residual(epg_device *device, epg_stream stream, const epg__moe_launch *shape,
                                         const epg__residual_args *args)
{
    epg__cuda_launch launch = row_launch(shape, residuals[args->rows.type], "residual", &args->rows);
    return epg__cuda_launch_kernel(device, stream, &launch, args);
}

extern "C" epg_status epg__cuda_take_best(epg_device *device, epg_stream stream, const epg__moe_launch *shape,
                                          const epg__take_args *args)
{
    epg__cuda_launch launch = {(const void *)take_best, "next ids", {(args->rows.bucket + 127) / 128, 1, 1}, 128, 0,
                               shape->dependent};
    return epg__cuda_launch_kernel(device, stream, &launch, args);
}

epg_status epg__gate_prepare(epg_device *device);

extern "C" epg_status epg__moe_prepare(epg_device *device, epg__moe_launch *shape)
{
    const void *const kernels[] = {
        embeds[0][0], embeds[0][1], embeds[1][0], embeds[1][1], norms[0],
        norms[1],     residuals[0], residuals[1], (const void *)take_best,
    };
    epg__cuda_limits limits;
    epg_status status = epg__cuda_get_limits(device, &limits);
    if (status != EPG_OK)
        return status;
    shape->units = limits.units;
    shape->dependent = limits.compute >= 90;
    for (const void *kernel : kernels)
        if (status == EPG_OK)
            status = epg__cuda_kernel_prepare(device, kernel, 0);
    return status == EPG_OK ? epg__gate_prepare(device) : status;
}
