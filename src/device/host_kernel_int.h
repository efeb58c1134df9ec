/* What a kernel of the host device may do to memory that other ranks see, and how it waits.
 *
 * Every access to another rank's memory, every read of what another rank wrote, and every wait goes through these
 * wrappers. They name the memory order, and they are the only places where a kernel can be observed half way: the
 * simulator, which decides every interleaving, hooks in here and nowhere else. Their first argument is that simulator;
 * it is NULL on a device with worker threads, which costs one predictable branch.
 *
 * Pairing: epg__signal_store (release) is read by epg__signal_load (acquire); whatever the writer stored before it,
 * rows included, is visible to the reader after it. */
#ifndef EPG_HOST_KERNEL_INT_H
#define EPG_HOST_KERNEL_INT_H

#include <stdint.h>
#include <string.h>
#include "device/doorbell_int.h"
#include "epgraph/device.h"

typedef struct epg__simulator epg__simulator;
typedef struct epg__simulator_ops {
    /* A relaxed store, made now or later; `split`: in pieces. */
    void (*store)(epg__simulator *sim, const char *what, void *to, const void *from, size_t bytes, int split);
    /* A store with release: everything this stream stored before is visible first. */
    void (*release)(epg__simulator *sim, const char *what, int noted, void *to, const void *from, size_t bytes);
    /* Comes right before a read of `bytes` at `from`; what the stream stored there itself is there. */
    void (*look)(epg__simulator *sim, const char *what, int noted, const void *from, size_t bytes);
    void (*ring)(epg__simulator *sim, epg__doorbell *bell);
    void (*wait)(epg__simulator *sim, epg__doorbell *bell, uint32_t seen, uint64_t ns);
    /* This memory is going away: what a killed rank stored there and is not visible yet never will be. */
    void (*forget)(epg__simulator *sim, const void *memory, size_t bytes);
    /* For a trace: what this fiber's stores, and its `noted` accesses, are about from here on. */
    void (*note)(epg__simulator *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
} epg__simulator_ops;

/* The head of the simulator. */
struct epg__simulator {
    const epg__simulator_ops *ops;
};

#define EPG__NOTE(sim, ...)                          \
    do {                                             \
        if (__builtin_expect((sim) != NULL, 0))      \
            (sim)->ops->note((sim), __VA_ARGS__);    \
    } while (0)

/* ---- data: relaxed stores, and reads that an acquire made safe ---- */

static inline void epg__rows_store(epg__simulator *sim, void *to, const void *from, size_t bytes)
{
    if (__builtin_expect(sim != NULL, 0))
        sim->ops->store(sim, "stores a row", to, from, bytes, 1);
    else
        memcpy(to, from, bytes);
}
static inline void epg__meta_store(epg__simulator *sim, void *to, const void *from, size_t bytes)
{
    if (__builtin_expect(sim != NULL, 0))
        sim->ops->store(sim, "stores the meta", to, from, bytes, 0);
    else
        memcpy(to, from, bytes);
}
static inline void epg__mark_store(epg__simulator *sim, uint32_t *to, uint32_t mark)
{
    if (__builtin_expect(sim != NULL, 0))
        sim->ops->store(sim, "stores a mark", to, &mark, sizeof mark, 0);
    else
        *to = mark;
}

/* Call it right before reading that memory. */
static inline void epg__data_look(epg__simulator *sim, const char *what, const void *from, size_t bytes)
{
    if (__builtin_expect(sim != NULL, 0))
        sim->ops->look(sim, what, 1, from, bytes);
}

/* How many of `count` elements to read between two looks: all of them, or under a simulator half. */
static inline uint32_t epg__rows_stride(const epg__simulator *sim, uint32_t count)
{
    return sim && count > 1 ? (count + 1) / 2 : count;
}

static inline void epg__rows_load(epg__simulator *sim, void *to, const char *from, size_t bytes)
{
    size_t stride = sim ? (bytes + 1) / 2 : bytes;
    for (size_t at = 0, part; at < bytes; at += part) {
        part = bytes - at < stride ? bytes - at : stride;
        epg__data_look(sim, "reads a row", from + at, part);
        memcpy((char *)to + at, from + at, part);
    }
}

/* ---- signals ---- */

/* Partner: epg__signal_load in the waiter. */
static inline void epg__signal_store(epg__simulator *sim, uint64_t *word, uint64_t value)
{
    if (__builtin_expect(sim != NULL, 0))
        sim->ops->release(sim, "stores a signal", 1, word, &value, sizeof value);
    else
        __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* Partner: epg__signal_store in the sender. */
static inline uint64_t epg__signal_load(epg__simulator *sim, const uint64_t *word)
{
    epg__data_look(sim, "looks at a signal", word, sizeof *word);
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* Words that carry no data behind them: counters, masks, records of waiting. */
static inline uint32_t epg__word_load(epg__simulator *sim, const uint32_t *word)
{
    if (__builtin_expect(sim != NULL, 0))
        sim->ops->look(sim, "looks at a word", 0, word, sizeof *word);
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
static inline void epg__word_store(epg__simulator *sim, uint32_t *word, uint32_t value)
{
    if (__builtin_expect(sim != NULL, 0))
        sim->ops->release(sim, "stores a word", 0, word, &value, sizeof value);
    else
        __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* Makes a word at least `value`; several of a rank's streams and its host may do so at once. */
static inline void epg__word_raise(epg__simulator *sim, uint32_t *word, uint32_t value)
{
    epg__data_look(sim, "raises a word", word, sizeof *word);
    uint32_t now = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    while (now < value && !__atomic_compare_exchange_n(word, &now, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
}

/* ---- doorbells ---- */

/* Wakes the owner of `bell` if it sleeps. Call it after the signal store. */
void epg__doorbell_ring(epg__simulator *sim, epg__doorbell *bell);

/* Sleeps until the bell rings again or `ns` nanoseconds pass. `seen` is epg__doorbell_seen's answer from before the
 * caller last looked at the signal, so that no ring between look and sleep is lost. */
static inline uint32_t epg__doorbell_seen(epg__simulator *sim, const epg__doorbell *bell)
{
    if (__builtin_expect(sim != NULL, 0))
        sim->ops->look(sim, "looks at its doorbell", 0, &bell->rings, sizeof bell->rings);
    return __atomic_load_n(&bell->rings, __ATOMIC_SEQ_CST);
}
void epg__doorbell_wait(epg__simulator *sim, epg__doorbell *bell, uint32_t seen, uint64_t ns);

#endif
