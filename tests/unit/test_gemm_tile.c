/* Products in fixed tiles: right, and a row's bits the same in every position among any neighbours. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "moe/gemm_tile_int.h"

static const uint32_t shapes[][2] = { /* k, n */
    {1, 1}, {1, 5}, {7, 13}, {8, 8}, {33, 1}, {64, 16}, {32, 64}, {65, 257}, {100, 100}, {128, 64}, {16, 64},
    {255, 1023}, {256, 1025}, {768, 2048}, {2048, 128}, {64, 3000},
};

static float value(void) { return (float)(random() % 200001 - 100000) / 65536; }

typedef struct fixture {
    epg__gemm gemm;
    float *a, *b, *c, *row, *expected;
} fixture;

static fixture make(uint32_t k, uint32_t n)
{
    fixture f;
    assert_int_equal(epg__gemm_choose(k, n, &f.gemm), EPG_OK);
    f.a = calloc((size_t)EPG__GEMM_ROWS * k, sizeof(float));
    f.b = calloc((size_t)n * k, sizeof(float));
    f.c = calloc((size_t)EPG__GEMM_ROWS * n, sizeof(float));
    f.row = calloc(k, sizeof(float));
    f.expected = calloc(n, sizeof(float));
    for (size_t i = 0; i < (size_t)n * k; i++)
        f.b[i] = value();
    for (uint32_t i = 0; i < k; i++)
        f.row[i] = value();
    return f;
}

static void release(fixture *f)
{
    free(f->a);
    free(f->b);
    free(f->c);
    free(f->row);
    free(f->expected);
}

static void test_value(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        uint32_t k = shapes[s][0], n = shapes[s][1];
        fixture f = make(k, n);
        for (size_t i = 0; i < (size_t)EPG__GEMM_ROWS * k; i++)
            f.a[i] = value();
        epg__gemm_run(&f.gemm, EPG__GEMM_ROWS, f.a, f.b, f.c);
        for (uint32_t i = 0; i < EPG__GEMM_ROWS; i++)
            for (uint32_t j = 0; j < n; j++) {
                double sum = 0, size = 0;
                for (uint32_t l = 0; l < k; l++) {
                    sum += (double)f.a[i * (size_t)k + l] * (double)f.b[j * (size_t)k + l];
                    size += fabs((double)f.a[i * (size_t)k + l] * (double)f.b[j * (size_t)k + l]);
                }
                assert_true(fabs((double)f.c[i * (size_t)n + j] - sum) <= 1e-5 * size);
            }
        release(&f);
    }
}

static void test_rows_are_independent(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        uint32_t k = shapes[s][0], n = shapes[s][1];
        fixture f = make(k, n);
        memcpy(f.a, f.row, k * sizeof(float));
        epg__gemm_run(&f.gemm, 1, f.a, f.b, f.c);
        memcpy(f.expected, f.c, n * sizeof(float));
        for (uint32_t rows = 1; rows <= EPG__GEMM_ROWS; rows++) {
            uint32_t at = (uint32_t)random() % rows;
            uint32_t first = rows == EPG__GEMM_ROWS ? 0 : at, end = rows == EPG__GEMM_ROWS ? rows : at + 1;
            for (uint32_t position = first; position < end; position++) {
                memset(f.a, 0, (size_t)EPG__GEMM_ROWS * k * sizeof(float));
                for (size_t i = 0; i < (size_t)rows * k; i++)
                    f.a[i] = value();
                memcpy(f.a + (size_t)position * k, f.row, k * sizeof(float));
                epg__gemm_run(&f.gemm, rows, f.a, f.b, f.c);
                assert_memory_equal(f.c + (size_t)position * n, f.expected, n * sizeof(float));
            }
        }
        release(&f);
    }
}

static void test_choice(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        epg__gemm gemm;
        int independent;
        assert_int_equal(epg__gemm_choose(shapes[s][0], shapes[s][1], &gemm), EPG_OK);
        assert_int_equal(EPG__GEMM_ROWS % gemm.tile, 0);
        assert_int_equal(epg__gemm_probe(gemm.k, gemm.n, gemm.tile, &independent), EPG_OK);
        assert_true(independent || gemm.tile == 1);
        if (gemm.tile < EPG__GEMM_ROWS) { /* the next larger one was refused for a reason */
            assert_int_equal(epg__gemm_probe(gemm.k, gemm.n, gemm.tile == 1 ? 4 : gemm.tile * 2, &independent), EPG_OK);
            assert_false(independent);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_value),
        cmocka_unit_test(test_rows_are_independent),
        cmocka_unit_test(test_choice),
    };
    srandom(3);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
