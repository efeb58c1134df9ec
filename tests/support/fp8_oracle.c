#include <math.h>
#include "support/fp8_oracle.h"

double fp8_value(uint8_t code)
{
    int exponent = code >> 3 & 15, fraction = code & 7;
    double size = exponent ? ldexp(8 + fraction, exponent - 10) : ldexp(fraction, -9);
    if (exponent == 15 && fraction == 7)
        return NAN;
    return code & 0x80 ? -size : size;
}

/* Codes 0 .. 0x7E are in the order of their values, so two neighbours are the candidates. */
uint8_t fp8_nearest(double value)
{
    double size = fabs(value);
    uint8_t low = 0, high = 0x7E;
    if (isnan(value))
        return 0x7F;
    while (high - low > 1) {
        uint8_t middle = (uint8_t)((low + high) / 2);
        if (fp8_value(middle) <= size)
            low = middle;
        else
            high = middle;
    }
    double below = size - fp8_value(low), above = fp8_value(high) - size;
    uint8_t code = below < above || (below == above && low % 2 == 0) ? low : high;
    return (uint8_t)(code | (signbit(value) ? 0x80 : 0));
}

double bf16_value(uint16_t bits)
{
    int exponent = bits >> 7 & 255, fraction = bits & 127;
    double size = exponent ? ldexp(128 + fraction, exponent - 134) : ldexp(fraction, -133);
    if (exponent == 255)
        size = fraction ? NAN : INFINITY;
    return bits & 0x8000 ? -size : size;
}

static float scale_of(double amax, int power_of_two)
{
    double scale = ldexp(1, -126);
    if (!power_of_two)
        return (float)(amax / 448);
    while (scale * 448 < amax)
        scale *= 2;
    return (float)scale;
}

void fp8_row(const uint16_t *row, uint32_t count, int power_of_two, uint8_t *codes, float *scales)
{
    for (uint32_t first = 0; first < count; first += 128) {
        uint32_t end = first + 128 < count ? first + 128 : count;
        double amax = ldexp(448, -126);
        for (uint32_t i = first; i < end; i++)
            if (isfinite(bf16_value(row[i])))
                amax = fmax(amax, fabs(bf16_value(row[i])));
        float scale = scale_of(amax, power_of_two);
        double inverse = power_of_two ? 1 / (double)scale : (double)(float)(448 / amax);
        for (uint32_t i = first; i < end; i++) {
            double x = bf16_value(row[i]); /* x * inverse is exact in double */
            codes[i] = isfinite(x) ? fp8_nearest((float)(x * inverse)) : 0x7F;
        }
        scales[first / 128] = scale;
    }
}
