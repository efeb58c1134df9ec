/* Rows of float32 and bf16 in CUDA kernels: eight elements at a time, 16-byte accesses, computed in float32. */
#ifndef EPG_NUMBER_CUDA_CUH
#define EPG_NUMBER_CUDA_CUH

#include <cuda_bf16.h>
#include <stdint.h>
#include "moe/model_ops.h"

typedef __nv_bfloat16 epg__bf16;

static __device__ inline float epg__widen(float value) { return value; }
static __device__ inline float epg__widen(epg__bf16 value) { return __bfloat162float(value); }
static __device__ inline void epg__narrow(float value, float *out) { *out = value; }
static __device__ inline void epg__narrow(float value, epg__bf16 *out) { *out = __float2bfloat16_rn(value); }

static __device__ inline uint32_t epg__pack(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}
static __device__ inline float epg__low(uint32_t pair) { return __uint_as_float(pair << 16); }
static __device__ inline float epg__high(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }

static __device__ inline void epg__load8(const float *from, float out[8])
{
    float4 a = ((const float4 *)from)[0], b = ((const float4 *)from)[1];
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
    out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}
static __device__ inline void epg__load8(const epg__bf16 *from, float out[8])
{
    uint4 v = *(const uint4 *)from;
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    for (int i = 0; i < 4; i++) {
        out[2 * i] = epg__low(words[i]);
        out[2 * i + 1] = epg__high(words[i]);
    }
}
static __device__ inline void epg__store8(float *to, const float in[8])
{
    ((float4 *)to)[0] = make_float4(in[0], in[1], in[2], in[3]);
    ((float4 *)to)[1] = make_float4(in[4], in[5], in[6], in[7]);
}
static __device__ inline void epg__store8(epg__bf16 *to, const float in[8])
{
    *(uint4 *)to = make_uint4(epg__pack(in[0], in[1]), epg__pack(in[2], in[3]), epg__pack(in[4], in[5]),
                              epg__pack(in[6], in[7]));
}

/* How many rows there are: read when the kernel runs. */
static __device__ inline uint32_t epg__live_rows(const epg__rows &rows)
{
    uint32_t tokens = rows.tokens ? *rows.tokens : rows.bucket;
    return tokens < rows.bucket ? tokens : rows.bucket;
}

/* Largest value first, then lowest id; above 0 for every value, a NaN below all numbers. */
static __device__ inline uint64_t epg__best_key(float value, uint32_t id)
{
    uint32_t bits = __float_as_uint(value + 0.0f); /* -0 is 0 */
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)(value == value ? bits : 0) << 32 | (0xFFFFFFFFu - id);
}
static __device__ inline uint32_t epg__best_id(uint64_t key) { return 0xFFFFFFFFu - (uint32_t)key; }

#endif
