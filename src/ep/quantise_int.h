/* bf16 rows to fp8 with scales, by the rule of group.h (epg_dtype). rows_cuda.cuh does the same on the GPU. */
#ifndef EPG_QUANTISE_INT_H
#define EPG_QUANTISE_INT_H

#include <stdint.h>
#include "ep/wire.h"
#include "epgraph/group.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The least amax, 448 * 2^-126: from here on scales and their inverses are normal numbers. */
#define EPG__AMAX_MIN 0x1.cp-118f

EPG__WIRE_FN uint32_t epg__scale_blocks(uint32_t hidden) { return (hidden + EPG_SCALE_BLOCK - 1) / EPG_SCALE_BLOCK; }

/* `fp8` has `hidden` bytes, `scales` one float per block. */
void epg__quantise_row(const uint16_t *row, uint32_t hidden, int power_of_two, uint8_t *fp8, float *scales);

#ifdef __cplusplus
}
#endif
#endif
