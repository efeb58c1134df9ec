/* The float formats of 16 and 8 bits, to and from float32, rounding to nearest even. Pure arithmetic: the same bits
 * with every compiler. */
#ifndef EPG_NUMBER_INT_H
#define EPG_NUMBER_INT_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define EPG__NUMBER_FN static inline __host__ __device__
#else
#define EPG__NUMBER_FN static inline
#endif

EPG__NUMBER_FN uint32_t epg__float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

EPG__NUMBER_FN float epg__bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float epg__bf16_to_float(uint16_t half) { return epg__bits_float((uint32_t)half << 16); }

static inline uint16_t epg__float_to_bf16(float value)
{
    uint32_t bits = epg__float_bits(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000)
        return (uint16_t)(bits >> 16 | 0x40); /* NaN: rounding could turn it into infinity */
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static inline float epg__f16_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 0x3FF;
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24, exact in float32 */
        float value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    if (exponent == 31)
        return epg__bits_float(sign | 0x7F800000 | fraction << 13);
    return epg__bits_float(sign | (exponent + 112) << 23 | fraction << 13);
}

static inline uint16_t epg__float_to_f16(float value)
{
    uint32_t bits = epg__float_bits(value), sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
    if (size > 0x7F800000)
        return (uint16_t)(sign | 0x7E00);
    if (size >= 0x477FF000) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7C00);
    if (size < 0x38800000) /* below 2^-14: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits */
        return (uint16_t)(sign | (epg__float_bits(epg__bits_float(size) + 0.5f) - 0x3F000000));
    return (uint16_t)(sign | (((size + 0xFFF + (size >> 13 & 1)) >> 13) - (112u << 10)));
}

/* fp8 e4m3 without infinities: exponent bias 7, NaN where all of exponent and fraction are set. */
static inline float epg__e4m3_to_float(uint8_t byte)
{
    uint32_t sign = (uint32_t)(byte & 0x80) << 24, exponent = byte >> 3 & 15, fraction = byte & 7;
    if ((byte & 0x7F) == 0x7F)
        return epg__bits_float(sign | 0x7FC00000);
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-9 */
        float value = (float)fraction * 0x1p-9f;
        return sign ? -value : value;
    }
    return epg__bits_float(sign | (exponent + 120) << 23 | fraction << 20);
}

/* Saturates at 448, infinities too; a NaN is 0x7F. */
EPG__NUMBER_FN uint8_t epg__float_to_e4m3(float value)
{
    uint32_t bits = epg__float_bits(value), sign = bits >> 24 & 0x80, size = bits & 0x7FFFFFFF;
    if (size > 0x7F800000)
        return 0x7F;
    if (size >= 0x43E00000) /* 448 */
        return (uint8_t)(sign | 0x7E);
    if (size < 0x3C800000) /* below 2^-6: adding 2^14 leaves the rounded multiple of 2^-9 in the low bits */
        return (uint8_t)(sign | (epg__float_bits(epg__bits_float(size) + 0x1p14f) - 0x46800000));
    return (uint8_t)(sign | (((size + 0x7FFFF + (size >> 20 & 1)) >> 20) - (120u << 3)));
}

#endif
