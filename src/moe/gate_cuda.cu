/* The gate on the CUDA device: router logits, softmax and the choice of experts, in one kernel.
 *
 * A block takes a tile of tokens and a part of the experts, each warp one expert or two: a logit is summed over the
 * lanes' pieces of a row, each in the order of k, then over the lanes, so it depends on the token's row alone, whatever
 * the tile. The block that comes last for its tokens chooses their experts, a warp per token. */
#include "device/cuda_order_int.cuh"
#include "moe/moe_cuda_int.h"
#include "moe/number_cuda.cuh"

enum { WARPS = 8, PROBABILITIES = 512 };

typedef struct params {
    epg__gate_args user;
    float *logits;      /* [max tokens][experts] */
    uint32_t *done;     /* [tiles of tokens] blocks that are through; 0 between kernels */
} params;

/* The router is what has to come from memory: where tokens are few, some of its pieces are under way at once. */
template <typename Row, typename Weight, int TOKENS, int PAIR>
static __device__ void add_products(const params &p, uint32_t first, uint32_t tokens, uint32_t expert,
                                    float sums[PAIR][TOKENS])
{
    enum { AHEAD = PAIR == 1 ? 8 / TOKENS : 1, STEP = 32 * 8 };
    uint32_t hidden = p.user.rows.hidden, experts = p.user.experts;
    const Weight *router = (const Weight *)p.user.router;
    for (uint32_t at = threadIdx.x % 32 * 8; at < hidden; at += AHEAD * STEP) {
        float weights[AHEAD][PAIR][8], row[8];
#pragma unroll
        for (uint32_t u = 0; u < AHEAD; u++)
            for (uint32_t e = 0; e < PAIR; e++)
                if (at + u * STEP < hidden)
                    epg__load8(router + (size_t)(expert + e < experts ? expert + e : expert) * hidden + at + u * STEP,
                               weights[u][e]);
#pragma unroll
        for (uint32_t u = 0; u < AHEAD; u++)
            for (uint32_t t = 0; t < TOKENS; t++) {
                if (at + u * STEP >= hidden)
                    continue;
                epg__load8((const Row *)p.user.in + (size_t)(first + t < tokens ? first + t : first) * hidden + at +
                           u * STEP, row);
                for (uint32_t e = 0; e < PAIR; e++)
                    for (uint32_t j = 0; j < 8; j++)
                        sums[e][t] = fmaf(weights[u][e][j], row[j], sums[e][t]);
            }
    }
}

template <typename Row, typename Weight, int TOKENS, int PAIR>
static __device__ void find_logits(const params &p, uint32_t first, uint32_t tokens, uint32_t expert)
{
    float sums[PAIR][TOKENS] = {};
    add_products<Row, Weight, TOKENS, PAIR>(p, first, tokens, expert, sums);
    for (uint32_t e = 0; e < PAIR; e++)
        for (uint32_t t = 0; t < TOKENS; t++) {
            for (uint32_t step = 16; step; step /= 2)
                sums[e][t] += __shfl_xor_sync(0xFFFFFFFFu, sums[e][t], step);
            if (threadIdx.x % 32 == 0 && first + t < tokens && expert + e < p.user.experts)
                p.logits[(size_t)(first + t) * p.user.experts + expert + e] = sums[e][t];
        }
}

static __device__ float warp_largest(float value)
{
    for (uint32_t step = 16; step; step /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, step));
    return value;
}

static __device__ float warp_sum(float value)
{
    for (uint32_t step = 16; step; step /= 2)
        value += __shfl_xor_sync(0xFFFFFFFFu, value, step);
    return value;
}

/* Logits to probabilities, which may take their place. Lane l owns the entries l, l + 32, ... throughout. */
static __device__ void softmax(const float *logits, float *row, uint32_t count)
{
    float largest = -INFINITY, sum = 0;
    for (uint32_t i = threadIdx.x % 32; i < count; i += 32)
        largest = fmaxf(largest, __ldcg(logits + i));
    largest = warp_largest(largest);
    for (uint32_t i = threadIdx.x % 32; i < count; i += 32)
        sum += row[i] = expf(__ldcg(logits + i) - largest);
    sum = warp_sum(sum);
    for (uint32_t i = threadIdx.x % 32; i < count; i += 32)
        row[i] /= sum;
}

/* Every choice is a valid id, even where a probability is not a number. Chosen entries become -1. */
static __device__ uint32_t take_largest(float *row, uint32_t count, float *value)
{
    uint64_t best = 0;
    for (uint32_t i = threadIdx.x % 32; i < count; i += 32)
        if (!(row[i] < 0)) {
            uint64_t key = epg__best_key(row[i], i);
            best = key > best ? key : best;
        }
    for (uint32_t step = 16; step; step /= 2) {
        uint64_t other = __shfl_xor_sync(0xFFFFFFFFu, best, step);
        best = other > best ? other : best;
    }
    uint32_t id = epg__best_id(best);
    *value = row[id];
    __syncwarp();
    if (threadIdx.x % 32 == id % 32)
        row[id] = -1;
    __syncwarp();
    return id;
}

/* `space` holds PROBABILITIES floats; more than that stay where the logits were. */
static __device__ void choose(const params &p, uint32_t token, float *space)
{
    const epg__gate_args &a = p.user;
    float *logits = p.logits + (size_t)token * a.experts, sum = 0, weight = 0, mine = 0;
    float *row = a.experts <= PROBABILITIES ? space : logits;
    uint32_t chosen = 0;
    softmax(logits, row, a.experts);
    __syncwarp();
    for (uint32_t k = 0; k < a.topk; k++) {
        uint32_t id = take_largest(row, a.experts, &weight);
        sum += weight;
        if (threadIdx.x % 32 == k) {
            chosen = id;
            mine = weight;
        }
    }
    if (threadIdx.x % 32 < a.topk) {
        size_t at = (size_t)token * a.topk + threadIdx.x % 32;
        a.ids[at] = (int32_t)chosen;
        a.weights[at] = a.renormalise ? mine / sum : mine;
    }
}

template <typename Row, typename Weight, int TOKENS, int PAIR>
static __global__ void __launch_bounds__(WARPS * 32) gate(const __grid_constant__ params p)
{
    static_assert(TOKENS <= WARPS, "a warp chooses for each token");
    __shared__ float space[TOKENS][PROBABILITIES];
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    uint32_t tokens = epg__live_rows(p.user.rows), warp = threadIdx.x / 32, expert = (blockIdx.x * WARPS + warp) * PAIR;
    for (uint32_t tile = blockIdx.y; tile * TOKENS < tokens; tile += gridDim.y) {
        uint32_t first = tile * TOKENS;
        if (expert < p.user.experts)
            find_logits<Row, Weight, TOKENS, PAIR>(p, first, tokens, expert);
        if (epg__block_done(&p.done[tile], gridDim.x) && warp < TOKENS && first + warp < tokens)
            choose(p, first + warp, space[warp]);
    }
}

/* A form of the kernel, for buckets up to `most`: tokens of a tile, and experts of a warp. One token needs no tile;
 * few are done sooner by more warps, many by fewer reads of their rows. */
static const struct form {
    uint32_t most, tokens, pair;
    const void *kernels[2][2];  /* [type of the rows][of the router] */
} forms[] = {
#define KERNELS(tokens, pair)                                                                                     \
    {{(const void *)gate<float, float, tokens, pair>, (const void *)gate<float, epg__bf16, tokens, pair>},        \
     {(const void *)gate<epg__bf16, float, tokens, pair>, (const void *)gate<epg__bf16, epg__bf16, tokens, pair>}}
    {1, 1, 1, KERNELS(1, 1)},
    {16, 2, 1, KERNELS(2, 1)},
    {UINT32_MAX, 8, 2, KERNELS(8, 2)},
#undef KERNELS
};
enum { FORMS = sizeof(forms) / sizeof(forms[0]) };
static_assert(EPG_TOPK_MAX <= 32, "a lane keeps each choice");

/* `done` stands behind the logits. */
static size_t logits_bytes(uint32_t tokens, uint32_t experts)
{
    return ((size_t)tokens * experts * sizeof(float) + 255) / 256 * 256;
}

/* A tile is one token at least. */
extern "C" size_t epg__gate_scratch(uint32_t max_tokens, uint32_t experts)
{
    return logits_bytes(max_tokens, experts) + max_tokens * sizeof(uint32_t);
}

extern "C" epg_status epg__cuda_gate(epg_device *device, epg_stream stream, const epg__moe_launch *shape,
                                     epg_dtype weight_type, const epg__gate_args *args)
{
    const struct form *form = forms;
    while (args->rows.bucket > form->most)
        form++;
    uint32_t tiles = (args->rows.bucket + form->tokens - 1) / form->tokens, experts = WARPS * form->pair;
    params p = {*args, (float *)args->scratch, NULL};
    p.done = (uint32_t *)((char *)args->scratch + logits_bytes(args->max_tokens, args->experts));
    epg__cuda_launch launch = {form->kernels[args->rows.type][weight_type], "gate",
                               {(args->experts + experts - 1) / experts, 1, 1}, WARPS * 32, 0, shape->dependent};
    launch.grid[1] = tiles < 65535 ? tiles : 65535;
    return epg__cuda_launch_kernel(device, stream, &launch, &p);
}

epg_status epg__gate_prepare(epg_device *device)
{
    epg_status status = EPG_OK;
    for (int i = 0; i < 4 * FORMS && status == EPG_OK; i++)
        status = epg__cuda_kernel_prepare(device, forms[i / 4].kernels[i / 2 % 2][i % 2], 0);
    return status;
}
