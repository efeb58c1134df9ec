/* Places the parts of a region, and hashes a geometry. */
#include "core/core_int.h"
#include "ep/wire.h"
#include "epgraph/group.h"

/* Puts count x size bytes at the next 256-byte boundary. */
static bool place(size_t *end, size_t count, size_t size, size_t *at)
{
    size_t bytes, aligned;
    if (!epg__mul(count, size, &bytes) || !epg__add(*end, 255, &aligned))
        return false;
    *at = aligned & ~(size_t)255;
    return epg__add(*at, bytes, end);
}

static size_t aligned(size_t bytes, size_t unit) { return (bytes + unit - 1) & ~(unit - 1); }

int epg__wire_plan(const epg_wire_geometry *g, epg_wire_layout *w)
{
    size_t ranks = g->ranks, cells, end = sizeof(epg_wire_lane), all = sizeof(epg_wire_header);
    *w = (epg_wire_layout){.geometry = *g};
    w->payload_bytes = aligned(g->row_bytes, 16);
    w->scale_bytes = aligned(g->scale_bytes, 16);
    w->row_bytes = w->scale_bytes ? aligned(w->payload_bytes + w->scale_bytes, 128) : w->payload_bytes;
    w->return_bytes = (size_t)g->hidden * (g->row_type == EPG_FLOAT32 ? 4 : 2);
    w->meta_bytes = aligned(sizeof(epg_wire_meta) + g->topk * sizeof(epg_wire_route), 32);
    if (!epg__mul(2 * ranks, g->slots, &cells))
        return 0;
    if (!place(&end, 4 * ranks, sizeof(uint64_t), &w->signals) || !place(&end, cells, sizeof(uint32_t), &w->marks) ||
        !place(&end, cells, w->meta_bytes, &w->meta) || !place(&end, cells, w->row_bytes, &w->rows) ||
        !place(&end, cells, w->return_bytes, &w->returns) || !place(&end, 0, 0, &w->lane_bytes))
        return 0;
    return place(&all, ranks, sizeof(uint32_t), &w->mask) &&
           place(&all, g->lanes * ranks, sizeof(uint32_t), &w->incarnation) &&
           place(&all, g->lanes, w->lane_bytes, &w->lanes) && (w->total = all) != 0;
}

/* FNV-1a over the geometry's bytes (it has no padding). */
uint64_t epg__wire_hash(const epg_wire_geometry *g)
{
    const unsigned char *bytes = (const unsigned char *)g;
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < sizeof *g; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3ull;
    return hash;
}
