/* Products of any types and shapes on the CUDA device, without tensor cores: float32 models, mixed types, widths that
 * suit no tile of gemm_mma_cuda.cu.
 *
 * Blocks walk over items, an item being M rows of weights for N positions of one group; how many there are is found on
 * the device. A sum runs over pieces of K elements in order, each piece summed by itself first, so it depends on its
 * own row alone. */
#include "device/cuda_order_int.cuh"
#include "moe/moe_cuda_int.h"
#include "moe/number_cuda.cuh"

enum { M = 64, N = 16, K = 32, THREADS = 256, PER_THREAD = M * N / THREADS };

typedef struct tiles {
    float weights[M][K + 1], rows[N][K + 1], result[N][M + 1];
} tiles;

/* What a block works on: rows of weights from `first` on (GATED: half as many, from either half), positions from
 * `position` on. */
typedef struct item {
    uint32_t group, first, position, count;
} item;

static __device__ uint32_t rows_of_group(const epg__product &p, uint32_t group)
{
    uint32_t count = p.counts ? p.counts[group] : p.limit;
    return count < p.limit ? count : p.limit;
}

/* Moves on to item `index`, counted over all groups; `*start` is the index of the group's first. False: there is none.
 */
static __device__ bool find_item(const epg__product &p, uint32_t width, uint32_t index, uint32_t *start, item *it)
{
    uint32_t across = ((width + M - 1) / M);
    for (; it->group < p.groups; it->group++) {
        uint32_t count = rows_of_group(p, it->group), down = (count + N - 1) / N;
        if (index - *start < across * down) {
            uint32_t at = index - *start, row = at / across * N;
            it->first = at % across;
            it->position = (p.offsets ? p.offsets[it->group] : 0) + row;
            it->count = count - row < N ? count - row : N;
            return true;
        }
        *start += across * down;
    }
    return false;
}

/* Row r of the tile of weights; NULL beyond the last. */
template <typename Weight, int KIND>
static __device__ const Weight *weight_row(const epg__product &p, const item &it, uint32_t r)
{
    const Weight *weights = (const Weight *)p.weights + (size_t)it.group * p.m * p.k;
    if (KIND == EPG__PRODUCT_GATED) {
        uint32_t row = it.first * (M / 2) + r % (M / 2), half = p.m / 2;
        return row < half ? weights + (size_t)(r < M / 2 ? row : half + row) * p.k : NULL;
    }
    uint32_t row = it.first * M + r;
    return row < p.m ? weights + (size_t)row * p.k : NULL;
}

template <typename Row, typename Weight, int KIND>
static __device__ void load_tiles(const epg__product &p, const item &it, uint32_t k, tiles *s)
{
    for (uint32_t i = threadIdx.x; i < M * K; i += THREADS) {
        const Weight *row = weight_row<Weight, KIND>(p, it, i / K);
        s->weights[i / K][i % K] = row && k + i % K < p.k ? epg__widen(row[k + i % K]) : 0;
    }
    for (uint32_t i = threadIdx.x; i < N * K; i += THREADS) {
        uint32_t n = i / K, position = it.position + n;
        if (n < it.count && k + i % K < p.k) {
            size_t row = p.row_index ? p.row_index[position] : position;
            s->rows[n][i % K] = epg__widen(((const Row *)p.rows)[row * p.k + k + i % K]);
        } else {
            s->rows[n][i % K] = 0;
        }
    }
}

template <typename Row, typename Weight, int KIND>
static __device__ void multiply(const epg__product &p, const item &it, tiles *s)
{
    uint32_t m = threadIdx.x % M, n = threadIdx.x / M;
    float sums[PER_THREAD] = {};
    for (uint32_t k = 0; k < p.k; k += K) {
        float pieces[PER_THREAD] = {};
        __syncthreads();
        load_tiles<Row, Weight, KIND>(p, it, k, s);
        __syncthreads();
        for (uint32_t j = 0; j < K; j++)
            for (uint32_t i = 0; i < PER_THREAD; i++)
                pieces[i] = fmaf(s->weights[m][j], s->rows[n + i * (THREADS / M)][j], pieces[i]);
        for (uint32_t i = 0; i < PER_THREAD; i++)
            sums[i] += pieces[i];
    }
    for (uint32_t i = 0; i < PER_THREAD; i++)
        s->result[n + i * (THREADS / M)][m] = sums[i];
    __syncthreads();
}

static __device__ void raise_best(const epg__product &p, const item &it, const tiles *s)
{
    uint64_t best = 0;
    for (uint32_t m = 0; threadIdx.x < it.count && m < M && it.first * M + m < p.m; m++) {
        uint64_t key = epg__best_key(s->result[threadIdx.x][m], it.first * M + m);
        best = key > best ? key : best;
    }
    if (best)
        atomicMax((unsigned long long *)p.best + it.position + threadIdx.x, best);
}

template <typename Row, int KIND> static __device__ void store(const epg__product &p, const item &it, const tiles *s)
{
    const uint32_t columns = KIND == EPG__PRODUCT_GATED ? M / 2 : M, width = KIND == EPG__PRODUCT_GATED ? p.m / 2 : p.m;
    for (uint32_t i = threadIdx.x; i < it.count * columns; i += THREADS) {
        uint32_t n = i / columns, c = i % columns, column = it.first * columns + c;
        float value = s->result[n][c];
        if (KIND == EPG__PRODUCT_GATED)
            value = value / (1 + expf(-value)) * s->result[n][M / 2 + c];
        if (column < width)
            epg__narrow(value, (Row *)p.out + (size_t)(it.position + n) * width + column);
    }
}

template <typename Row, typename Weight, int KIND>
static __global__ void __launch_bounds__(THREADS) plain(const __grid_constant__ epg__product p)
{
    __shared__ tiles s;
    item it = {};
    uint32_t start = 0;
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    for (uint32_t index = blockIdx.x; find_item(p, p.m, index, &start, &it); index += gridDim.x) {
        multiply<Row, Weight, KIND>(p, it, &s);
        if (KIND == EPG__PRODUCT_BEST)
            raise_best(p, it, &s);
        else
            store<Row, KIND>(p, it, &s);
        __syncthreads();
    }
}

#define KERNELS(Row, Weight) \
    {(const void *)plain<Row, Weight, 0>, (const void *)plain<Row, Weight, 1>, (const void *)plain<Row, Weight, 2>}
static const void *const kernels_for[2][2][EPG__PRODUCT_KINDS] = {
    {KERNELS(float, float), KERNELS(float, epg__bf16)},
    {KERNELS(epg__bf16, float), KERNELS(epg__bf16, epg__bf16)},
};
static_assert(EPG__PRODUCT_ROWS == 0 && EPG__PRODUCT_GATED == 1 && EPG__PRODUCT_BEST == 2, "the order of the kernels");

static epg_status launch(epg_device *device, epg_stream stream, const epg__product_kernels *self,
                         epg__product_kind kind, const epg__product *product)
{
    epg__cuda_launch launch = {self->kernel[kind], self->name[kind], {self->blocks[kind], 1, 1}, THREADS, 0,
                               self->dependent};
    return epg__cuda_launch_kernel(device, stream, &launch, product);
}

extern "C" epg_status epg__product_plain(epg_device *device, epg_dtype row_type, epg_dtype weight_type,
                                         epg__product_kernels *kernels)
{
    static const char *const names[EPG__PRODUCT_KINDS] = {"down", "gate and up", "head"};
    epg__cuda_limits limits;
    uint32_t per_unit = 0;
    epg_status status = epg__cuda_get_limits(device, &limits);
    *kernels = epg__product_kernels{launch, {}, {}, {}, limits.compute >= 90};
    for (int kind = 0; kind < EPG__PRODUCT_KINDS && status == EPG_OK; kind++) {
        kernels->kernel[kind] = kernels_for[row_type][weight_type][kind];
        kernels->name[kind] = names[kind];
        status = epg__cuda_kernel_prepare(device, kernels->kernel[kind], 0);
        if (status == EPG_OK)
            status = epg__cuda_kernel_blocks(device, kernels->kernel[kind], THREADS, 0, &per_unit);
        kernels->blocks[kind] = limits.units * per_unit;
    }
    return status;
}
