/* bf16 rows to fp8 with scales, by the rule of group.h (epg_dtype). quantise_cuda.cuh is the same on the GPU. */
#ifndef EPG_QUANTISE_INT_H
#define EPG_QUANTISE_INT_H

#include <stdint.h>
#include "epgraph/group.h"

/* The least amax, 448 * 2^-126: from here on scales and their inverses are normal numbers. */
#define EPG__AMAX_MIN 0x1.cp-118f

static inline uint32_t epg__scale_blocks(uint32_t hidden) { return (hidden + EPG_SCALE_BLOCK - 1) / EPG_SCALE_BLOCK; }

/* `fp8` has `hidden` bytes, `scales` one float per block. */
void epg__quantise_row(const uint16_t *row, uint32_t hidden, int power_of_two, uint8_t *fp8, float *scales);

#endif
