/* What a kernel of the host device may do to memory that other ranks see, and how it waits.
 *
 * Every access to another rank's memory, and every wait, goes through these wrappers. They name the memory order, and
 * they are the only places where a kernel can be observed half way: a scheduler that decides every interleaving hooks
 * in here and nowhere else.
 *
 * Pairing: epg__signal_store (release) is read by epg__signal_load (acquire); whatever the writer stored before it,
 * rows included, is visible to the reader after it. */
#ifndef EPG_HOST_KERNEL_INT_H
#define EPG_HOST_KERNEL_INT_H

#include <stdint.h>
#include <string.h>
#include "epgraph/device.h"

/* Where a rank sleeps while it waits for a signal. In symmetric memory. */
typedef struct epg__doorbell {
    uint32_t rings;   /* added to by any rank, after it stored a signal here */
    uint32_t waiters; /* non-zero while the owner sleeps; written by the owner */
} epg__doorbell;
_Static_assert(sizeof(epg__doorbell) == 8, "doorbell layout");

static inline void epg__rows_store(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }

/* Partner: epg__signal_load in the waiter. */
static inline void epg__signal_store(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* Partner: epg__signal_store in the sender. */
static inline uint64_t epg__signal_load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }

/* Words that carry no data behind them: counters, masks, records of waiting. */
static inline uint32_t epg__word_load(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void epg__word_store(uint32_t *word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

/* Wakes the owner of `bell` if it sleeps. Call it after the signal store. */
void epg__doorbell_ring(epg__doorbell *bell);

/* Sleeps until the bell rings again or `ns` nanoseconds pass. `seen` is epg__doorbell_seen's answer from before the
 * caller last looked at the signal, so that no ring between look and sleep is lost. */
static inline uint32_t epg__doorbell_seen(const epg__doorbell *bell)
{
    return __atomic_load_n(&bell->rings, __ATOMIC_SEQ_CST);
}
void epg__doorbell_wait(epg__doorbell *bell, uint32_t seen, uint64_t ns);

#endif
