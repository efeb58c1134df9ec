/* bf16 rows to fp8 with scales, on the host. */
#include "core/number_int.h"
#include "ep/quantise_int.h"

static int is_finite(uint16_t element) { return (element & 0x7F80) != 0x7F80; }

/* The largest size of the finite elements; of two floats without sign the larger has the larger bits. */
static float largest_of(const uint16_t *elements, uint32_t count)
{
    uint16_t largest = 0;
    for (uint32_t i = 0; i < count; i++)
        if (is_finite(elements[i]) && (elements[i] & 0x7FFF) > largest)
            largest = elements[i] & 0x7FFF;
    float amax = epg__bf16_to_float(largest);
    return amax > EPG__AMAX_MIN ? amax : EPG__AMAX_MIN;
}

/* amax / 448 rounded up to a power of two. The quotient of a bf16 and 448 is a power of two or off it by more than
 * float32 rounds. */
static float power_above(float scale)
{
    uint32_t bits = epg__float_bits(scale);
    return epg__bits_float((bits + 0x7FFFFF) & 0x7F800000);
}

void epg__quantise_row(const uint16_t *row, uint32_t hidden, int power_of_two, uint8_t *fp8, float *scales)
{
    for (uint32_t first = 0; first < hidden; first += EPG_SCALE_BLOCK) {
        uint32_t count = hidden - first < EPG_SCALE_BLOCK ? hidden - first : EPG_SCALE_BLOCK;
        float amax = largest_of(row + first, count), scale = amax / 448, inverse = 448 / amax;
        if (power_of_two) {
            scale = power_above(scale);
            inverse = 1 / scale;
        }
        for (uint32_t i = first; i < first + count; i++)
            fp8[i] = is_finite(row[i]) ? epg__float_to_e4m3(epg__bf16_to_float(row[i]) * inverse) : 0x7F;
        scales[first / EPG_SCALE_BLOCK] = scale;
    }
}
