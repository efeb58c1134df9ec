/* A lane's local memory: one walk places the parts and gives the size. */
#include "ep/lane_int.h"
#include "ep/quantise_int.h"

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
    l->staged = part(w, 1, l->wire->row_bytes);
    l->row_index = part(w, l->layout == EPG_LAYOUT_IN_PLACE ? capacity : 0, word);
}

/* Of column-major scales each column begins at a multiple of 16 bytes, which is 4 rows. */
static epg__scale_place scale_place(const epg__lane *lane)
{
    const epg_wire_layout *w = lane->wire;
    uint32_t group = lane->layout == EPG_LAYOUT_MASKED ? lane->rows_per_expert : lane->row_capacity;
    uint32_t blocks = w->geometry.row_type == EPG_FLOAT8_E4M3 ? epg__scale_blocks(w->geometry.hidden) : 0;
    size_t column = (((size_t)group + 3) & ~(size_t)3) * sizeof(float), columns = blocks;
    if (lane->scale_layout == EPG_SCALES_ROW_MAJOR)
        return (epg__scale_place){lane->scale_layout,      group,          blocks,
                                  group * w->scale_bytes, w->scale_bytes, blocks ? sizeof(float) : 1};
    if (lane->scale_layout == EPG_SCALES_PACKED)
        columns = (columns + 3) / 4;
    return (epg__scale_place){lane->scale_layout, group, blocks, columns * column, sizeof(float), column};
}

/* Bytes of the rows that are copied, and of rows and scales together; false where they do not fit in memory. */
static bool copied_bytes(const epg__lane *lane, size_t *rows, size_t *all)
{
    size_t scales = 0, count = lane->layout == EPG_LAYOUT_IN_PLACE ? 0 : lane->row_capacity;
    size_t groups = lane->layout == EPG_LAYOUT_MASKED ? lane->local_experts : count > 0;
    bool fits = epg__mul(count, lane->wire->payload_bytes, rows);
    if (lane->wire->scale_bytes)
        fits = fits && epg__mul(groups, lane->scale_place.expert, &scales);
    return fits && epg__add(*rows, scales, all);
}

epg_status epg__lane_plan(epg__lane *lane, size_t *local_bytes, size_t *expert_bytes)
{
    walk w = {NULL, 0, true};
    size_t rows;
    lane->scale_place = scale_place(lane);
    place_parts(lane, &w);
    if (!w.fits || !copied_bytes(lane, &rows, expert_bytes))
        return epg__fail(EPG_ERR_INVALID, "%u rows per lane do not fit in memory", lane->row_capacity);
    *local_bytes = w.end;
    return EPG_OK;
}

epg_status epg__lane_create(epg__lane *lane)
{
    size_t local_bytes, row_bytes, expert_bytes;
    void *rows = NULL;
    EPG_TRY(epg__lane_plan(lane, &local_bytes, &expert_bytes));
    EPG_TRY(epg_memory_alloc(lane->device, EPG_MEMORY_DEVICE, local_bytes, &lane->block));
    walk w = {lane->block, 0, true};
    place_parts(lane, &w);
    if (expert_bytes) {
        EPG_TRY(epg_memory_alloc(lane->device, EPG_MEMORY_DEVICE, expert_bytes, &rows));
        lane->expert_rows = rows;
        if (copied_bytes(lane, &row_bytes, &expert_bytes) && expert_bytes > row_bytes)
            lane->expert_scales = lane->expert_rows + row_bytes;
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
