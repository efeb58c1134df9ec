/* Matrix products whose bits do not depend on a row's position or neighbours. */
#ifndef EPG_GEMM_TILE_INT_H
#define EPG_GEMM_TILE_INT_H

#include <stdint.h>
#include "epgraph/status.h"

/* Rows of every block of inputs and outputs. Tiles divide it. */
enum { EPG__GEMM_ROWS = 16 };

/* One shape of product: [rows][k] x [n][k] transposed. Chosen at creation, then constant. */
typedef struct epg__gemm {
    uint32_t k, n;
    uint32_t tile;  /* rows per call of the BLAS: 16, 8, 4 or 1 */
} epg__gemm;

/* Takes the largest tile for which this machine's BLAS gives a row the same bits wherever it stands and whatever stands
 * beside it. Sets the process's OpenBLAS to one thread. Takes up to a second for large shapes; not during capture. */
epg_status epg__gemm_choose(uint32_t k, uint32_t n, epg__gemm *gemm);

/* c[rows][n] = a[rows][k] * b[n][k] transposed, rows at most EPG__GEMM_ROWS. Both a and c have EPG__GEMM_ROWS rows:
 * those of a from `rows` on must be zero (finite would do), those of c are undefined. */
void epg__gemm_run(const epg__gemm *gemm, uint32_t rows, const float *a, const float *b, float *c);

/* 1 if tile `tile` keeps rows independent for this shape: what choose asks for each tile. For tests as well. */
epg_status epg__gemm_probe(uint32_t k, uint32_t n, uint32_t tile, int *independent);

#endif
