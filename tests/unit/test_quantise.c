/* fp8: every code, every bf16 value, float32 values around every rounding boundary, and whole rows, against tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
#include <cmocka.h>
#include "core/number_int.h"
#include "ep/quantise_int.h"
#include "support/fp8_oracle.h"

static void every_code_has_its_value_and_comes_back(void **state)
{
    (void)state;
    for (int code = 0; code < 256; code++) {
        float value = epg__e4m3_to_float((uint8_t)code);
        if ((code & 0x7F) == 0x7F) {
            assert_true(isnan(value));
            assert_int_equal(epg__float_to_e4m3(value), 0x7F);
            continue;
        }
        assert_true((double)value == fp8_value((uint8_t)code));
        assert_int_equal(signbit(value) != 0, code >> 7);
        assert_int_equal(epg__float_to_e4m3(value), code);
    }
    assert_true(fp8_value(0x7E) == 448);
    assert_true(fp8_value(0x01) == 0x1p-9);
}

/* All float32 values that differ in their upper 20 bits, with the lower ones 0, 1, or all set: every boundary between
 * two codes lies on one of them, and its neighbours too. */
static void floats_round_to_the_nearest_code(void **state)
{
    (void)state;
    for (uint64_t upper = 0; upper < 1u << 20; upper++)
        for (uint32_t low = 0; low < 3; low++) {
            uint32_t bits = (uint32_t)(upper << 12) | (low == 2 ? 0xFFF : low);
            float value = epg__bits_float(bits);
            uint8_t want = isnan(value) ? 0x7F : fp8_nearest(value);
            if (epg__float_to_e4m3(value) != want)
                fail_msg("%a (0x%08X) became 0x%02X, not 0x%02X", (double)value, bits, epg__float_to_e4m3(value), want);
        }
}

static void check_row(const uint16_t *row, uint32_t count, int power_of_two)
{
    uint8_t codes[1024], want_codes[1024];
    float scales[8], want_scales[8];
    memset(codes, 0xEE, sizeof codes);
    memset(want_codes, 0xEE, sizeof want_codes);
    memset(scales, 0xEE, sizeof scales);
    memset(want_scales, 0xEE, sizeof want_scales);
    epg__quantise_row(row, count, power_of_two, codes, scales);
    fp8_row(row, count, power_of_two, want_codes, want_scales);
    assert_memory_equal(codes, want_codes, sizeof codes);
    assert_memory_equal(scales, want_scales, sizeof scales);
    for (uint32_t b = 0; power_of_two && b < (count + 127) / 128; b++)
        assert_int_equal(epg__float_bits(scales[b]) & 0x807FFFFF, 0);
}

/* Each bf16 value as the largest of a block (and as an infinity or a NaN in one), in rows of several lengths. */
static void rows_of_every_size_of_number(void **state)
{
    (void)state;
    uint16_t row[1024];
    uint32_t seed = 1;
    for (uint32_t largest = 0; largest < 1u << 16; largest++) {
        for (int i = 0; i < 1024; i++) {
            seed = seed * 1664525 + 1013904223;
            row[i] = (uint16_t)(seed >> 16 & (largest | 0x80FF));
        }
        row[seed % 1024] = (uint16_t)largest;
        check_row(row, 8 + largest % 128 * 8, largest % 2);
    }
}

static void blocks_of_zeros_and_of_what_is_not_finite(void **state)
{
    (void)state;
    uint16_t row[256] = {0};
    uint8_t codes[256];
    float scales[2];
    row[128] = 0x7F80, row[129] = 0xFF80, row[130] = 0x7FC0, row[131] = 0x3F80; /* inf, -inf, NaN, 1 */
    epg__quantise_row(row, 256, 0, codes, scales);
    assert_true(scales[0] == 0x1p-126f);
    assert_int_equal(codes[0], 0);
    assert_true(scales[1] == 1.0f / 448);
    assert_int_equal(codes[128], 0x7F);
    assert_int_equal(codes[129], 0x7F);
    assert_int_equal(codes[130], 0x7F);
    assert_int_equal(codes[131], 0x7E);
    epg__quantise_row(row, 256, 1, codes, scales);
    assert_true(scales[1] == 0x1p-8f); /* 448 / 256 holds 1 */
    assert_int_equal(codes[131], 0x78);
    check_row(row, 256, 0);
    check_row(row, 256, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_its_value_and_comes_back),
        cmocka_unit_test(floats_round_to_the_nearest_code),
        cmocka_unit_test(rows_of_every_size_of_number),
        cmocka_unit_test(blocks_of_zeros_and_of_what_is_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
