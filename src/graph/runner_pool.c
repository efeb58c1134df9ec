/* Scratch memory of a runner: every entry starts at the first byte, so that all entries share the memory of the
 * largest.
 *
 * Invariant: a chunk never moves and the list only grows at its end, so the same requests from the same mark give the
 * same addresses for as long as the pool lives. Captured graphs hold those addresses. */
#include <stdlib.h>
#include "graph/runner_int.h"

enum { ALIGN = 256, LEAST_CHUNK = 64 * 1024 };

void epg__pool_seek(epg__pool *pool, epg__pool_mark at, const epg__pool_mark *limit, bool may_grow)
{
    pool->at = at;
    pool->bounded = limit != NULL;
    if (limit)
        pool->limit = *limit;
    pool->may_grow = may_grow;
}

static bool fits(const epg__pool *pool, epg__pool_mark at, size_t bytes)
{
    return at.chunk < pool->count && pool->chunks[at.chunk].bytes - at.offset >= bytes;
}

static bool within(const epg__pool *pool, epg__pool_mark at, size_t bytes)
{
    if (!pool->bounded || at.chunk < pool->limit.chunk)
        return true;
    return at.chunk == pool->limit.chunk && at.offset + bytes <= pool->limit.offset;
}

/* Appends a chunk that holds `bytes`; at least as much as there is, so that the list stays short. */
static epg_status grow(epg__pool *pool, size_t bytes)
{
    epg__pool_chunk chunk;
    size_t least = pool->bytes > LEAST_CHUNK ? (size_t)pool->bytes : LEAST_CHUNK, padded;

    chunk.bytes = bytes > least ? bytes : least;
    if (!epg__add(chunk.bytes, ALIGN, &padded))
        return epg__fail(EPG_ERR_NO_MEMORY, "%zu bytes of scratch memory were asked for", bytes);
    if (pool->count == pool->capacity) {
        epg__pool_chunk *more = epg__grow(pool->chunks, pool->capacity * 2 + 4, sizeof *more, "the runner's pool");
        if (!more)
            return EPG_ERR_NO_MEMORY;
        pool->chunks = more;
        pool->capacity = pool->capacity * 2 + 4;
    }
    EPG_TRY(epg_memory_alloc(pool->device, EPG_MEMORY_DEVICE, padded, &chunk.memory));
    chunk.base = (char *)chunk.memory + (ALIGN - (uintptr_t)chunk.memory % ALIGN) % ALIGN;
    pool->chunks[pool->count++] = chunk;
    pool->bytes += chunk.bytes;
    return EPG_OK;
}

epg_status epg__pool_take(epg__pool *pool, size_t bytes, void **memory)
{
    size_t padded;
    if (!epg__add(bytes ? bytes : 1, ALIGN - 1, &padded))
        return epg__fail(EPG_ERR_NO_MEMORY, "%zu bytes of scratch memory were asked for", bytes);
    padded -= padded % ALIGN;

    epg__pool_mark at = pool->at;
    while (at.chunk < pool->count && !fits(pool, at, padded))
        at = (epg__pool_mark){at.chunk + 1, 0};
    if (!pool->may_grow && (at.chunk == pool->count || !within(pool, at, padded)))
        return epg__fail(EPG_ERR_NO_MEMORY, "%zu bytes of scratch memory: the step asks for more than its warm-up did",
                         bytes);
    if (at.chunk == pool->count)
        EPG_TRY(grow(pool, padded));
    *memory = pool->chunks[at.chunk].base + at.offset;
    pool->at = (epg__pool_mark){at.chunk, at.offset + padded};
    return EPG_OK;
}

void epg__pool_free(epg__pool *pool)
{
    for (size_t i = 0; i < pool->count; i++)
        epg_memory_free(pool->device, EPG_MEMORY_DEVICE, pool->chunks[i].memory);
    free(pool->chunks);
    *pool = (epg__pool){.device = pool->device};
}

epg_status epg_step_alloc(const epg_step_call *call, size_t bytes, void **memory)
{
    if (!call || !memory)
        return epg__fail(EPG_ERR_INVALID, "epg_step_alloc: %s is NULL", call ? "memory" : "call");
    if (!call->runner)
        return epg__fail(EPG_ERR_INVALID, "epg_step_alloc: call->runner is NULL");
    if (!call->runner->busy)
        return epg__fail(EPG_ERR_STATE, "epg_step_alloc was called outside of a step function");
    return epg__pool_take(&call->runner->pool, bytes, memory);
}
