/* Bucket lists, for the runner and the step coordinator: both must round a token count up to the same bucket. */
#ifndef EPG_BUCKETS_INT_H
#define EPG_BUCKETS_INT_H

#include "core/core_int.h"

/* EPG_OK if the list is not empty, starts at 1 or more and ascends; else EPG_ERR_INVALID naming the pair out of
 * order. */
epg_status epg__buckets_check(const uint32_t *buckets, uint32_t count);

/* The smallest bucket that holds `tokens` (0 takes the first). EPG_ERR_NOT_FOUND above the largest. */
epg_status epg__buckets_find(const uint32_t *buckets, uint32_t count, uint32_t tokens, uint32_t *bucket);

#endif
