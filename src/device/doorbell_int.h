/* Where a rank of the host device sleeps while it waits for a signal: a part of the wire layout, hence without anything
 * that a CUDA compiler would not take. How to ring it and wait on it: host_kernel_int.h. */
#ifndef EPG_DOORBELL_INT_H
#define EPG_DOORBELL_INT_H

#include <assert.h>
#include <stdint.h>

/* In symmetric memory. */
typedef struct epg__doorbell {
    uint32_t rings;   /* added to by any rank, after it stored a signal here */
    uint32_t waiters; /* non-zero while the owner sleeps; written by the owner */
} epg__doorbell;
static_assert(sizeof(epg__doorbell) == 8, "doorbell layout");

#endif
