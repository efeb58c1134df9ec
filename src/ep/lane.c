/* A lane's local memory: one walk places the parts and gives the size. */
#include "ep/lane_int.h"

typedef struct walk {
    char *base; /* NULL: only measuring */
    size_t end;
    bool fits;
} walk;

static void *part(walk *w, size_t count, size_t size)
{
    size_t bytes, at = (w->end + 63) & ~(size_t)63;
    w->fits = w->fits && epg__mul(count, size, &bytes) && epg__add(at, bytes, &w->end);
    return w->base ? w->base + at : NULL;
}

static void place_parts(epg__lane *l, walk *w)
{
    const epg_wire_geometry *g = &l->wire->geometry;
    size_t tokens = g->max_tokens, ranks = g->ranks, capacity = l->row_capacity, word = sizeof(uint32_t);
    l->pair = part(w, 1, sizeof *l->pair);
    l->entering = part(w, 1, word);
    l->entries = part(w, ranks, sizeof *l->entries);
    l->flags = part(w, tokens, word);
    l->share_count = part(w, tokens, word);
    l->shares = part(w, tokens * l->fan, sizeof *l->shares);
    l->sent = part(w, ranks, word);
    l->received = part(w, ranks, word);
    l->returned = part(w, ranks, word);
    l->place = part(w, ranks * g->slots * g->topk, word);
    l->offsets = part(w, (size_t)l->local_experts + 1, word);
    l->counts = part(w, l->local_experts, word);
    l->total = part(w, 1, word);
    l->cursor = part(w, l->local_experts, word);
    l->row_source = part(w, capacity, word);
    l->row_token = part(w, capacity, word);
    l->row_weight = part(w, capacity, sizeof(float));
    l->sum = part(w, g->hidden, sizeof(float));
    l->row_index = part(w, l->layout == EPG_LAYOUT_IN_PLACE ? capacity : 0, word);
}

epg_status epg__lane_plan(epg__lane *lane, size_t *local_bytes, size_t *expert_bytes)
{
    walk w = {NULL, 0, true};
    size_t rows = lane->layout == EPG_LAYOUT_IN_PLACE ? 0 : lane->row_capacity;
    place_parts(lane, &w);
    if (!w.fits || !epg__mul(rows, lane->wire->row_bytes, expert_bytes))
        return epg__fail(EPG_ERR_INVALID, "%u rows per lane do not fit in memory", lane->row_capacity);
    *local_bytes = w.end;
    return EPG_OK;
}

epg_status epg__lane_create(epg__lane *lane)
{
    size_t local_bytes, expert_bytes;
    void *rows = NULL;
    EPG_TRY(epg__lane_plan(lane, &local_bytes, &expert_bytes));
    EPG_TRY(epg_memory_alloc(lane->device, EPG_MEMORY_DEVICE, local_bytes, &lane->block));
    walk w = {lane->block, 0, true};
    place_parts(lane, &w);
    if (expert_bytes) {
        EPG_TRY(epg_memory_alloc(lane->device, EPG_MEMORY_DEVICE, expert_bytes, &rows));
        lane->expert_rows = rows;
    }
    return EPG_OK;
}

void epg__lane_destroy(epg__lane *lane)
{
    if (lane->expert_rows)
        epg_memory_free(lane->device, EPG_MEMORY_DEVICE, lane->expert_rows);
    if (lane->block)
        epg_memory_free(lane->device, EPG_MEMORY_DEVICE, lane->block);
}
