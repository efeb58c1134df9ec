/* Fixed-tile matrix products on OpenBLAS.
 *
 * A BLAS picks its inner kernel by the number of rows, and a kernel may treat the first rows of a panel otherwise
 * than the last (OpenBLAS 0.3.21 on Haswell does with 16 rows, not with 8). Either would make a token's bits depend
 * on its batch. So every product of a shape uses one row count, padded, and the row count is one that was seen to
 * keep rows independent.
 *
 * Columns are cut into panels of PANEL as well: it bounds what the probe costs (a head has 150 000 columns) and what
 * the BLAS packs at once. Invariant: probe and run make exactly the same BLAS calls, up to values. */
#include <cblas.h>
#include <stdlib.h>
#include <string.h>
#include "core/core_int.h"
#include "moe/gemm_tile_int.h"

enum { PANEL = 1024 };

static void multiply(uint32_t tile, uint32_t k, uint32_t n, uint32_t stride, const float *a, const float *b, float *c)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)tile, (int)n, (int)k, 1.0f, a, (int)k, b, (int)k, 0.0f, c,
                (int)stride);
}

void epg__gemm_run(const epg__gemm *gemm, uint32_t rows, const float *a, const float *b, float *c)
{
    for (uint32_t row = 0; row < rows; row += gemm->tile)
        for (uint32_t column = 0; column < gemm->n; column += PANEL) {
            uint32_t width = gemm->n - column < PANEL ? gemm->n - column : PANEL;
            multiply(gemm->tile, gemm->k, width, gemm->n, a + (size_t)row * gemm->k, b + (size_t)column * gemm->k,
                     c + (size_t)row * gemm->n + column);
        }
}

static float next_value(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*state >> 32) * 0x1p-31f;
}

typedef struct probe {
    uint32_t k, n, tile;
    float *a, *b, *c, *expected, *row;
} probe;

/* Puts the row where `mask` says, random ones elsewhere, and compares its outputs. */
static int same_bits(const probe *p, uint32_t mask, uint64_t *state)
{
    for (uint32_t i = 0; i < p->tile; i++)
        for (uint32_t j = 0; j < p->k; j++)
            p->a[(size_t)i * p->k + j] = mask >> i & 1 ? p->row[j] : next_value(state);
    multiply(p->tile, p->k, p->n, p->n, p->a, p->b, p->c);
    for (uint32_t i = 0; i < p->tile; i++)
        if (mask >> i & 1 && memcmp(p->c + (size_t)i * p->n, p->expected, p->n * sizeof(float)) != 0)
            return 0;
    return 1;
}

/* Every position is taken by the row, each time among other neighbours: alone at the ends, in both halves of a
 * chequer-board. */
static int run_probe(const probe *p, uint32_t trial)
{
    uint64_t state = 0x5DEECE66Du ^ (uint64_t)p->k << 32 ^ (uint64_t)trial << 16 ^ p->n;
    for (size_t i = 0; i < (size_t)p->n * p->k; i++)
        p->b[i] = next_value(&state);
    for (uint32_t j = 0; j < p->k; j++)
        p->row[j] = p->a[j] = next_value(&state);
    memset(p->a + p->k, 0, (size_t)(p->tile - 1) * p->k * sizeof(float));
    multiply(p->tile, p->k, p->n, p->n, p->a, p->b, p->c);
    memcpy(p->expected, p->c, p->n * sizeof(float));
    return same_bits(p, 0xAAAA, &state) && same_bits(p, 0x5555, &state) && same_bits(p, 0x8001, &state) &&
           same_bits(p, 0xFFFF, &state);
}

static epg_status probe_panel(uint32_t k, uint32_t n, uint32_t tile, int *independent)
{
    probe p = {.k = k, .n = n, .tile = tile};
    size_t rows = EPG__GEMM_ROWS;
    float *memory = epg__zalloc((rows + n + 1) * k + (rows + 1) * (size_t)n, sizeof *memory, "a probe of the BLAS");
    if (!memory)
        return EPG_ERR_NO_MEMORY;
    p.b = memory;
    p.a = p.b + (size_t)n * k;
    p.row = p.a + rows * k;
    p.c = p.row + k;
    p.expected = p.c + rows * n;
    /* A narrow product shows few sums at a time: several are looked at. */
    *independent = 1;
    for (uint32_t trial = 0; *independent && trial <= 256 / n; trial++)
        *independent = run_probe(&p, trial);
    free(memory);
    return EPG_OK;
}

epg_status epg__gemm_probe(uint32_t k, uint32_t n, uint32_t tile, int *independent)
{
    int panel = 1, tail = 1;
    if (n >= PANEL)
        EPG_TRY(probe_panel(k, PANEL, tile, &panel));
    if (panel && n % PANEL)
        EPG_TRY(probe_panel(k, n % PANEL, tile, &tail));
    *independent = panel && tail;
    return EPG_OK;
}

epg_status epg__gemm_choose(uint32_t k, uint32_t n, epg__gemm *gemm)
{
    static const uint32_t tiles[] = {16, 8, 4};
    /* Ranks are threads already, and a product split over threads may be summed in another order. */
    if (openblas_get_num_threads() != 1)
        openblas_set_num_threads(1);
    for (size_t i = 0; i < EPG__COUNT_OF(tiles); i++) {
        int independent = 0;
        EPG_TRY(epg__gemm_probe(k, n, tiles[i], &independent));
        if (independent) {
            *gemm = (epg__gemm){k, n, tiles[i]};
            return EPG_OK;
        }
    }
    *gemm = (epg__gemm){k, n, 1}; /* one row has no neighbours */
    return EPG_OK;
}
