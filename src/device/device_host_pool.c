/* The host device's stream-ordered allocation: a pool of blocks, and the memory of graphs.
 *
 * Not here: which calls a capture allows (device_host_capture.c), the memory of epg_memory_alloc (device_host.c).
 *
 * The pool's blocks go from LIVE to FREEING when a free is enqueued, to IDLE when it has run, and are handed out again
 * when IDLE, or FREEING in the stream that asks: there, whoever used the block comes earlier. A graph's block keeps its
 * address while a node names it. It is LIVE from a launch that allocates and does not free it to its free; both are
 * counted in the order of the calls, which is also the order in which the caller must have put the work.
 *
 * Invariants: a block is in the device's list while it has holders. Holders are the pool (until it gives a block of its
 * own back), each piece of work that names the block, and for a graph's block its being LIVE. */
#include <stdlib.h>
#include "device/device_host_int.h"

typedef enum block_state { BLOCK_IDLE, BLOCK_FREEING, BLOCK_LIVE } block_state;

struct epg__host_block {
    epg__host_block *next;
    epg__host_device *device;
    uint32_t holders;
    block_state state;
    uint64_t capture;    /* the graph's; 0: a block of the pool */
    bool freed_inside;   /* the graph that allocates it also frees it */
    epg_stream freed_in; /* of FREEING */
    uint64_t turn;       /* frees so far */
    size_t bytes;
    void *memory;
};

/* ---- blocks ---- */

static epg__host_block *block_new(epg__host_device *device, size_t bytes, uint64_t capture)
{
    epg__host_block *block = epg__zalloc(1, sizeof *block, "a block of memory");
    void *memory = block ? epg__zalloc_aligned(EPG__HOST_MEMORY_ALIGN, bytes, 1, "stream-ordered memory") : NULL;
    if (!memory) {
        free(block);
        return NULL;
    }
    *block = (epg__host_block){.next = device->blocks, .device = device, .holders = 1, .state = BLOCK_LIVE,
                               .capture = capture, .bytes = bytes, .memory = memory};
    device->blocks = block;
    return block;
}

void epg__host_block_drop(epg__host_block *block)
{
    epg__host_block **link = &block->device->blocks;
    if (--block->holders > 0)
        return;
    while (*link != block)
        link = &(*link)->next;
    *link = block->next;
    free(block->memory);
    free(block);
}

static epg__host_block *block_find(const epg__host_device *device, const void *memory)
{
    epg__host_block *block = device->blocks;
    while (block && block->memory != memory)
        block = block->next;
    return block;
}

/* A block for `bytes` that work on `stream` may use from here on, or NULL: the smallest that does, and that wastes no
 * more than half of itself. */
static epg__host_block *block_reuse(const epg__host_device *device, size_t bytes, epg_stream stream)
{
    epg__host_block *best = NULL;
    for (epg__host_block *b = device->blocks; b; b = b->next) {
        bool ours = b->state == BLOCK_IDLE || (b->state == BLOCK_FREEING && b->freed_in == stream);
        if (b->capture == 0 && ours && b->bytes >= bytes && b->bytes / 2 <= bytes && (!best || b->bytes < best->bytes))
            best = b;
    }
    return best;
}

static epg__host_work *block_work(epg__host_kind kind, const char *name, epg__host_block *block)
{
    epg__host_work *work = epg__host_work_create(kind, name, NULL, 0);
    if (!work)
        return NULL;
    work->u.memory.block = block;
    work->u.memory.turn = block->turn;
    block->holders++;
    return work;
}

void epg__host_release_run(const epg__host_work *work)
{
    epg__host_block *block = work->u.memory.block;
    /* Handed out again meanwhile, and perhaps freed again: then another free ends it. */
    if (block->state == BLOCK_FREEING && block->turn == work->u.memory.turn)
        block->state = BLOCK_IDLE;
}

void epg__host_pool_end(epg__host_device *device)
{
    while (device->blocks) {
        epg__host_block *next = device->blocks->next;
        free(device->blocks->memory);
        free(device->blocks);
        device->blocks = next;
    }
}

/* ---- allocating ---- */

/* During its own capture a stream may allocate; elsewhere it is as unsafe as any allocation. */
static epg_status check_call(epg_stream stream, const char *what)
{
    EPG_TRY(epg__capture_check_work(stream, what));
    return stream->capture ? EPG_OK : epg__capture_check_unsafe(stream->device, what);
}

static epg_status alloc_node(epg_stream stream, size_t bytes, void **memory)
{
    epg__host_block *block = block_new(stream->device, bytes, epg__capture_id(stream));
    epg__host_work *work = block ? block_work(EPG__HOST_ALLOC, "alloc", block) : NULL;
    epg_status status = work ? epg__capture_add(stream, work) : EPG_ERR_NO_MEMORY;
    if (status == EPG_OK) {
        block->state = BLOCK_IDLE;
        *memory = block->memory;
    } else {
        epg__capture_spoil(stream, status, "epg_memory_alloc_async");
        if (work)
            epg__host_work_free(work);
    }
    if (block)
        epg__host_block_drop(block); /* the node holds it now */
    return status;
}

static epg_status alloc_now(epg_stream stream, size_t bytes, void **memory)
{
    epg__host_block *block = block_reuse(stream->device, bytes, stream);
    if (!block)
        block = block_new(stream->device, bytes, 0);
    if (!block)
        return EPG_ERR_NO_MEMORY;
    block->state = BLOCK_LIVE;
    *memory = block->memory;
    return EPG_OK;
}

epg_status epg__host_memory_alloc_async(epg_device *base, size_t bytes, epg_stream stream, void **memory)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_status status = epg__host_resolve(device, stream, &stream);
    if (status == EPG_OK)
        status = check_call(stream, "epg_memory_alloc_async");
    if (status == EPG_OK && bytes == 0)
        *memory = NULL;
    else if (status == EPG_OK)
        status = stream->capture ? alloc_node(stream, bytes, memory) : alloc_now(stream, bytes, memory);
    epg__host_unlock(device);
    return status;
}

/* ---- freeing ---- */

static epg_status fail_unknown(const void *memory, const char *what)
{
    return epg__fail(EPG_ERR_INVALID, "%s: %p is not allocated by epg_memory_alloc_async, or was freed", what, memory);
}

/* What frees a block at once: a graph's has no further use until the next launch, the pool's may be handed out. */
static void block_idle(epg__host_block *block)
{
    block->state = BLOCK_IDLE;
    block->turn++;
    if (block->capture)
        epg__host_block_drop(block);
}

/* A graph may free what it allocated, and what another graph left. A refusal is a caller's slip, not lost work: as on a
 * driver, the capture stays valid. */
static epg_status check_free_node(epg_stream stream, const epg__host_block *block, const void *memory)
{
    const char *what = "epg_memory_free_async";
    if (!block || (block->capture && block->freed_inside))
        return fail_unknown(memory, what);
    if (!block->capture)
        return epg__fail(EPG_ERR_INVALID, "%s: %p was allocated outside of graphs and cannot be freed in capture %llu",
                         what, memory, (unsigned long long)epg__capture_id(stream));
    return EPG_OK;
}

static epg_status free_node(epg_stream stream, epg__host_block *block, const void *memory)
{
    const char *what = "epg_memory_free_async";
    EPG_TRY(check_free_node(stream, block, memory));
    epg__host_work *work = block_work(EPG__HOST_FREE, "free", block);
    epg_status status = work ? epg__capture_add(stream, work) : EPG_ERR_NO_MEMORY;
    if (status == EPG_OK)
        block->freed_inside = block->capture == epg__capture_id(stream);
    else if (work)
        epg__host_work_free(work);
    return status == EPG_OK ? status : epg__capture_spoil(stream, status, what);
}

static epg_status free_now(epg_stream stream, epg__host_block *block, const void *memory)
{
    if (!block || block->state != BLOCK_LIVE)
        return fail_unknown(memory, "epg_memory_free_async");
    if (block->capture || epg__host_stream_clear(stream)) {
        block_idle(block);
        return EPG_OK;
    }
    block->turn++;
    epg__host_work *work = block_work(EPG__HOST_RELEASE, "free", block);
    epg_status status = work ? epg__host_push(stream, work) : EPG_ERR_NO_MEMORY;
    if (status == EPG_OK) {
        block->state = BLOCK_FREEING;
        block->freed_in = stream;
    } else if (work) {
        epg__host_work_free(work);
    }
    return status;
}

epg_status epg__host_memory_free_async(epg_device *base, void *memory, epg_stream stream)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg__host_block *block = memory ? block_find(device, memory) : NULL;
    epg_status status = epg__host_resolve(device, stream, &stream);
    if (status == EPG_OK)
        status = check_call(stream, "epg_memory_free_async");
    if (status == EPG_OK && memory)
        status = stream->capture ? free_node(stream, block, memory) : free_now(stream, block, memory);
    epg__host_unlock(device);
    return status;
}

epg_status epg__host_pool_free(epg__host_device *device, void *memory, bool *found)
{
    epg__host_block *block = memory ? block_find(device, memory) : NULL;
    *found = block != NULL;
    if (!block)
        return EPG_OK;
    if (block->state != BLOCK_LIVE)
        return fail_unknown(memory, "epg_memory_free");
    block_idle(block);
    return EPG_OK;
}

epg_status epg__host_memory_trim(epg_device *base, size_t keep)
{
    epg__host_device *device = epg__host_of(base);
    size_t held = 0;
    epg__host_lock(device);
    epg_status status = epg__capture_check_unsafe(device, "epg_memory_trim");
    for (epg__host_block *b = device->blocks; status == EPG_OK && b; b = b->next)
        held += b->capture ? 0 : b->bytes;
    for (epg__host_block *b = device->blocks, *next; status == EPG_OK && b && held > keep; b = next) {
        next = b->next;
        if (b->capture || b->state != BLOCK_IDLE || b->holders > 1) /* an overtaken free may still be queued */
            continue;
        held -= b->bytes;
        epg__host_block_drop(b);
    }
    epg__host_unlock(device);
    return status;
}

/* ---- launches of graphs that allocate or free ---- */

epg_status epg__host_pool_check_launch(const epg__host_body *body)
{
    if (!body->memory_nodes)
        return EPG_OK;
    for (size_t i = 0; i < body->count; i++) {
        const epg__host_work *work = body->nodes[i].work;
        const epg__host_block *block = work->u.memory.block;
        if (work->kind == EPG__HOST_ALLOC && !block->freed_inside && block->state == BLOCK_LIVE)
            return epg__fail(EPG_ERR_INVALID, "epg_exec_launch: %p, which node %zu allocates, was not freed since the "
                             "last launch", block->memory, i);
        if (work->kind == EPG__HOST_FREE && !block->freed_inside && block->state != BLOCK_LIVE)
            return epg__fail(EPG_ERR_INVALID, "epg_exec_launch: %p, which node %zu frees, is not allocated",
                             block->memory, i);
    }
    return EPG_OK;
}

void epg__host_pool_launched(const epg__host_body *body)
{
    for (size_t i = 0; body->memory_nodes && i < body->count; i++) {
        const epg__host_work *work = body->nodes[i].work;
        if (work->kind != EPG__HOST_ALLOC && work->kind != EPG__HOST_FREE)
            continue;
        epg__host_block *block = work->u.memory.block;
        if (block->freed_inside)
            continue;
        if (work->kind == EPG__HOST_ALLOC) {
            block->state = BLOCK_LIVE;
            block->holders++;
        } else if (block->state == BLOCK_LIVE) {
            block_idle(block);
        }
    }
}
