/* Groups: creation with the comparison of geometries, failures, statistics. Enqueueing is in pair.c. */
#include <stdlib.h>
#include <string.h>
#include "device/device_ops.h"
#include "ep/group_state_int.h"
#include "ep/kernels_int.h"
#include "ep/quantise_int.h"
#include "team/team_ops.h"

/* ---- options ---- */

static epg_status check_range(const char *name, uint32_t value, uint32_t least, uint32_t most)
{
    return value >= least && value <= most
               ? EPG_OK
               : epg__fail(EPG_ERR_INVALID, "%s is %u, outside %u..%u", name, value, least, most);
}

static epg_status check_layout(epg_group_options *o)
{
    EPG_TRY(check_range("layout", o->layout, EPG_LAYOUT_IN_PLACE, EPG_LAYOUT_MASKED));
    if (o->row_align == 0)
        o->row_align = 1;
    if (o->row_align & (o->row_align - 1))
        return epg__fail(EPG_ERR_INVALID, "row_align is %u, not a power of two", o->row_align);
    if (o->row_align != 1 && o->layout != EPG_LAYOUT_CONTIGUOUS)
        return epg__fail(EPG_ERR_INVALID, "row_align is %u, but only the contiguous layout aligns", o->row_align);
    return EPG_OK;
}

/* Options of some row types alone. */
static epg_status check_row_type(const epg_group_options *o)
{
    int fp8 = o->row_type == EPG_FLOAT8_E4M3, opaque = o->row_type == EPG_OPAQUE;
    EPG_TRY(check_range("row_type", o->row_type, EPG_FLOAT32, EPG_OPAQUE));
    EPG_TRY(check_range("scale_power_of_two", o->scale_power_of_two, 0, 1));
    if (o->scale_power_of_two && !fp8)
        return epg__fail(EPG_ERR_INVALID, "scale_power_of_two is 1, but row_type is %d, not fp8", (int)o->row_type);
    EPG_TRY(check_range("scale_layout", o->scale_layout, EPG_SCALES_ROW_MAJOR, EPG_SCALES_PACKED));
    if (o->scale_layout != EPG_SCALES_ROW_MAJOR && (!fp8 || o->layout == EPG_LAYOUT_IN_PLACE))
        return epg__fail(EPG_ERR_INVALID, "scale_layout is %d, but %s are row-major", (int)o->scale_layout,
                         fp8 ? "scales in place" : "the scales of rows that are not fp8");
    if (o->scale_layout == EPG_SCALES_PACKED && !o->scale_power_of_two)
        return epg__fail(EPG_ERR_INVALID, "scale_layout is %d, packed, which holds powers of two, but "
                         "scale_power_of_two is 0", (int)o->scale_layout);
    if (!opaque && (o->row_bytes || o->scale_bytes))
        return epg__fail(EPG_ERR_INVALID, "row_bytes is %u and scale_bytes %u, but row_type is %d, not opaque",
                         o->row_bytes, o->scale_bytes, (int)o->row_type);
    EPG_TRY(check_range("row_bytes", o->row_bytes, opaque, EPG_ROW_BYTES_MAX));
    return check_range("scale_bytes", o->scale_bytes, 0, EPG_ROW_BYTES_MAX);
}

/* Checks the caller's options and fills in the defaults. */
static epg_status complete_options(const epg_group_options *given, uint32_t ranks, epg_group_options *o)
{
    long long timeout_ms;
    if (!given)
        return epg__fail(EPG_ERR_INVALID, "options is NULL");
    EPG__CHECK_SIZE(given, sizeof *given);
    *o = *given;
    o->size = sizeof *o;
    EPG_TRY(check_range("experts", o->experts, 1, 1u << 20));
    if (o->experts % ranks)
        return epg__fail(EPG_ERR_INVALID, "experts is %u, which %u ranks do not divide", o->experts, ranks);
    if (o->logical_experts == 0)
        o->logical_experts = o->experts;
    EPG_TRY(check_range("logical_experts", o->logical_experts, 1, 1u << 20));
    EPG_TRY(check_range("hidden", o->hidden, 8, 1u << 20));
    if (o->hidden % 8)
        return epg__fail(EPG_ERR_INVALID, "hidden is %u, not a multiple of 8", o->hidden);
    EPG_TRY(check_range("topk", o->topk, 1, EPG_TOPK_MAX));
    EPG_TRY(check_range("max_tokens", o->max_tokens, 1, EPG_WIRE_COUNT_MAX));
    if (o->slots == 0)
        o->slots = o->max_tokens;
    EPG_TRY(check_range("slots", o->slots, 1, o->max_tokens));
    EPG_TRY(check_range("lanes", o->lanes, 1, EPG_LANES_MAX));
    EPG_TRY(check_layout(o));
    EPG_TRY(check_row_type(o));
    if (o->timeout_ms == 0) {
        EPG_TRY(epg__setting_integer(EPG__SETTING_TIMEOUT_MS, 1, UINT32_MAX, &timeout_ms));
        o->timeout_ms = (uint32_t)timeout_ms;
    }
    return EPG_OK;
}

/* Rows a lane's views can hold: what can come at most, unless the caller bounds it. */
static epg_status complete_capacity(epg_group_options *o, uint32_t ranks, uint32_t *capacity)
{
    uint64_t local = o->experts / ranks, per_expert = (uint64_t)ranks * o->slots;
    uint64_t all = per_expert * (o->topk < local ? o->topk : local);
    if (o->layout == EPG_LAYOUT_CONTIGUOUS)
        all += local * (o->row_align - 1);
    if (o->rows_per_expert == 0 || o->rows_per_expert > per_expert)
        o->rows_per_expert = per_expert < UINT32_MAX ? (uint32_t)per_expert : UINT32_MAX;
    if (o->layout == EPG_LAYOUT_MASKED)
        all = local * o->rows_per_expert;
    else if (o->max_expert_rows && o->max_expert_rows < all)
        all = o->max_expert_rows;
    if (all >= EPG_WIRE_NONE || 2 * per_expert >= EPG_WIRE_NONE)
        return epg__fail(EPG_ERR_INVALID,
                         "%llu expert rows per lane (%u ranks x %u slots); bound them with slots, max_expert_rows or "
                         "rows_per_expert",
                         (unsigned long long)all, ranks, o->slots);
    *capacity = o->max_expert_rows = (uint32_t)all;
    return EPG_OK;
}

static uint32_t width_of(epg_dtype type) { return type == EPG_FLOAT32 ? 4 : type == EPG_BFLOAT16 ? 2 : 1; }

static epg_wire_geometry geometry_of(const epg_group_options *o, uint32_t ranks)
{
    epg_wire_geometry geometry = {
        .version = EPG_WIRE_VERSION,
        .ranks = ranks,
        .experts = o->experts,
        .logical_experts = o->logical_experts,
        .hidden = o->hidden,
        .topk = o->topk,
        .max_tokens = o->max_tokens,
        .slots = o->slots,
        .lanes = o->lanes,
        .row_type = o->row_type,
        .first_epoch = o->first_epoch,
        .power_of_two = o->scale_power_of_two,
        .row_bytes = o->row_bytes,
        .scale_bytes = o->scale_bytes,
    };
    if (o->row_type == EPG_FLOAT8_E4M3)
        geometry.scale_bytes = epg__scale_blocks(o->hidden) * (uint32_t)sizeof(float);
    if (o->row_type != EPG_OPAQUE)
        geometry.row_bytes = o->hidden * width_of(o->row_type);
    return geometry;
}

static epg_status plan(const epg_group_options *given, uint32_t ranks, epg_group *g)
{
    uint32_t capacity = 0;
    EPG_TRY(complete_options(given, ranks, &g->options));
    EPG_TRY(complete_capacity(&g->options, ranks, &capacity));
    epg_wire_geometry geometry = geometry_of(&g->options, ranks);
    if (!epg__wire_plan(&geometry, &g->wire))
        return epg__fail(EPG_ERR_INVALID, "a region of %u ranks x %u slots x %u elements does not fit in memory", ranks,
                         g->options.slots, g->options.hidden);
    g->region_bytes = g->wire.total;
    for (uint32_t l = 0; l < g->options.lanes; l++) {
        size_t local, expert;
        g->lanes[l] = (epg__lane){
            .wire = &g->wire,
            .number = l,
            .ranks = ranks,
            .local_experts = g->options.experts / ranks,
            .layout = g->options.layout,
            .scale_layout = g->options.scale_layout,
            .row_align = g->options.row_align,
            .rows_per_expert = g->options.rows_per_expert,
            .row_capacity = capacity,
            .fan = g->options.topk < ranks ? g->options.topk : ranks,
            .timeout_ns = (uint64_t)g->options.timeout_ms * 1000000u,
        };
        EPG_TRY(epg__lane_plan(&g->lanes[l], &local, &expert));
        g->local_bytes += local;
        g->expert_bytes += expert;
    }
    return EPG_OK;
}

epg_status epg_group_plan_bytes(const epg_group_options *options, uint32_t ranks, epg_group_stats *stats)
{
    if (!stats)
        return epg__fail(EPG_ERR_INVALID, "stats is NULL");
    EPG__CHECK_SIZE(stats, sizeof *stats);
    EPG_TRY(check_range("ranks", ranks, 1, EPG_TEAM_MAX_RANKS));
    epg_group *g = epg__zalloc(1, sizeof *g, "a group's plan");
    if (!g)
        return EPG_ERR_NO_MEMORY;
    epg_status status = plan(options, ranks, g);
    if (status == EPG_OK)
        *stats = (epg_group_stats){.size = stats->size,
                                   .region_bytes = g->region_bytes,
                                   .local_bytes = g->local_bytes,
                                   .expert_input_bytes = g->expert_bytes};
    free(g);
    return status;
}

/* ---- creation ---- */

/* What a rank brings to the creation. */
typedef struct creation {
    epg_wire_geometry geometry; /* version 0: it failed */
    uint32_t incarnation;
} creation;

epg_status epg__group_compare(const epg_wire_geometry *theirs, const epg_wire_geometry *ours, uint32_t their_rank,
                              uint32_t our_rank)
{
    static const char *const names[] = {
        "wire version", "ranks", "experts",  "logical_experts", "hidden",             "topk",      "max_tokens",
        "slots",        "lanes", "row_type", "first_epoch",     "scale_power_of_two", "row_bytes", "scale_bytes"};
    static_assert(sizeof names / sizeof *names == sizeof(epg_wire_geometry) / sizeof(uint32_t), "a name per field");
    const uint32_t *their = (const uint32_t *)theirs, *our = (const uint32_t *)ours;
    for (size_t f = 0; f < EPG__COUNT_OF(names); f++)
        if (their[f] != our[f])
            return epg__fail(EPG_ERR_MISMATCH, "%s is %u on rank %u and %u on rank %u", names[f], their[f], their_rank,
                             our[f], our_rank);
    return EPG_OK;
}

/* Every rank's geometry against this rank's, by name. A rank that failed on its own offers zeros, so that all learn
 * of it. */
static epg_status compare_geometries(epg_team *team, const creation *mine, creation *all)
{
    EPG_TRY(epg_team_allgather(team, mine, sizeof *mine, all));
    for (uint32_t r = 0; r < epg_team_size(team); r++) {
        if (all[r].geometry.version == 0)
            return epg__fail(EPG_ERR_MISMATCH, "rank %u could not create its group", r);
        EPG_TRY(epg__group_compare(&all[r].geometry, &mine->geometry, r, epg_team_rank(team)));
    }
    return EPG_OK;
}

static void on_abort(void *ctx)
{
    epg_group *g = ctx;
    g->kernels->abort(g);
}

static epg_status make_map(epg_group *g)
{
    size_t bytes = g->options.logical_experts * sizeof(int32_t);
    void *map;
    int32_t *identity = epg__zalloc(g->options.logical_experts, sizeof *identity, "the expert map");
    if (!identity)
        return EPG_ERR_NO_MEMORY;
    for (uint32_t e = 0; e < g->options.logical_experts; e++)
        identity[e] = e < g->options.experts ? (int32_t)e : -1;
    epg_status status = epg_memory_alloc(g->device, EPG_MEMORY_DEVICE, bytes, &map);
    if (status == EPG_OK) {
        g->expert_map = map;
        status = epg_memcpy(g->device, map, identity, bytes);
    }
    free(identity);
    return status;
}

static epg_status make_local(epg_group *g, uint32_t spin)
{
    uint32_t rank = epg_team_rank(g->team);
    EPG_TRY(make_map(g));
    for (uint32_t l = 0; l < g->options.lanes; l++) {
        epg__lane *lane = &g->lanes[l];
        lane->device = g->device;
        lane->sim = g->device->simulator;
        lane->rank = rank;
        lane->incarnation = g->team->incarnation;
        lane->first_expert = rank * lane->local_experts;
        lane->spin = lane->sim ? 0 : spin; /* polls that are moves gain nothing */
        lane->peers = g->peers;
        lane->expert_map = g->expert_map;
        g->lanes_made = l + 1;
        EPG_TRY(epg__lane_create(lane));
        g->order[l].next = EPG_OP_DISPATCH_SEND;
    }
    return g->kernels->create(g);
}

epg_status epg__group_create_private(epg_group *g, const epg_group_options *options)
{
    long long ll_max = 0, spin = 0;
    g->kernels = g->device->info.kind == EPG_DEVICE_CUDA ? &epg__kernels_cuda : &epg__kernels_host;
    EPG_TRY(epg__setting_integer(EPG__SETTING_LL_MAX_TOKENS, 0, UINT32_MAX, &ll_max));
    EPG_TRY(epg__setting_integer(EPG__SETTING_SPIN, 0, 1000000, &spin));
    EPG_TRY(plan(options, epg_team_size(g->team), g));
    g->ll_max_tokens = (uint32_t)ll_max;
    g->peers = epg__zalloc(epg_team_size(g->team), sizeof *g->peers, "peer addresses");
    g->newest = g->peers ? epg__zalloc(epg_team_size(g->team), sizeof *g->newest, "peer incarnations") : NULL;
    return g->newest ? make_local(g, (uint32_t)spin) : EPG_ERR_NO_MEMORY;
}

epg_status epg__group_hook(epg_group *g)
{
    EPG_TRY(g->team->ops->on_abort_add(g->team, on_abort, g));
    g->hooked = 1;
    return EPG_OK;
}

/* Collective. A rank that failed on its own still takes part in the comparison. */
static epg_status create_shared(epg_group *g, creation *all, epg_status private_status)
{
    char cause[512];
    creation mine = {private_status == EPG_OK ? g->wire.geometry : (epg_wire_geometry){0}, g->team->incarnation};
    strncpy(cause, epg_message(), sizeof cause - 1);
    cause[sizeof cause - 1] = 0;
    epg_status status = compare_geometries(g->team, &mine, all);
    if (private_status != EPG_OK)
        return epg__fail(private_status, "%s", cause);
    EPG_TRY(status);
    EPG_TRY(g->team->ops->symmetric_alloc(g->team, g->wire.total, g->peers));
    for (uint32_t r = 0; r < g->wire.geometry.ranks; r++)
        g->newest[r] = all[r].incarnation;
    g->cleans++;
    status = g->kernels->ready(g);
    if (status == EPG_OK)
        status = epg__group_hook(g);
    if (status != EPG_OK) {
        epg_team_abort(g->team, "a rank could not finish its group"); /* the others are on their way to the barrier */
        return status;
    }
    return epg_team_barrier(g->team); /* no peer may write before this region is clean */
}

epg_status epg_group_create(epg_team *team, const epg_group_options *options, epg_group **group)
{
    if (!team || !group)
        return epg__fail(EPG_ERR_INVALID, "team or group is NULL");
    epg_group *g = epg__zalloc(1, sizeof *g, "a group");
    creation *all = g ? epg__zalloc(team->size, sizeof *all, "the ranks' geometries") : NULL;
    if (!all) {
        free(g);
        epg_team_abort(team, "no memory for a group"); /* the others wait in the comparison */
        return EPG_ERR_NO_MEMORY;
    }
    g->team = team;
    g->device = team->device;
    epg_status status = create_shared(g, all, epg__group_create_private(g, options));
    free(all);
    if (status != EPG_OK) {
        epg_group_destroy(g);
        return status;
    }
    *group = g;
    return EPG_OK;
}

void epg_group_destroy(epg_group *g)
{
    if (!g)
        return;
    if (g->hooked)
        g->team->ops->on_abort_remove(g->team, on_abort, g);
    if (g->kernels)
        g->kernels->destroy(g);
    for (uint32_t l = 0; l < g->lanes_made; l++)
        epg__lane_destroy(&g->lanes[l]);
    if (g->expert_map)
        epg_memory_free(g->device, EPG_MEMORY_DEVICE, g->expert_map);
    if (g->peers && g->peers[epg_team_rank(g->team)])
        g->team->ops->symmetric_free(g->team, g->peers[epg_team_rank(g->team)]);
    free(g->peers);
    free(g->newest);
    free(g);
}

/* ---- what a group tells ---- */

static epg_status need(const void *group, const void *out)
{
    return group && out ? EPG_OK : epg__fail(EPG_ERR_INVALID, "%s is NULL", group ? "an output" : "group");
}

epg_status epg_group_get_options(const epg_group *group, epg_group_options *options)
{
    EPG_TRY(need(group, options));
    EPG__CHECK_SIZE(options, sizeof *options);
    *options = group->options;
    return EPG_OK;
}

epg_team *epg_group_team(const epg_group *group) { return group->team; }

epg_status epg_group_expert_map(epg_group *group, int32_t **map)
{
    EPG_TRY(need(group, map));
    *map = group->expert_map;
    return EPG_OK;
}

static epg_status check_lane(const epg_group *g, uint32_t lane)
{
    return lane < g->options.lanes ? EPG_OK
                                   : epg__fail(EPG_ERR_INVALID, "lane is %u, not below %u", lane, g->options.lanes);
}

epg_status epg_group_flags(epg_group *group, uint32_t lane, const uint32_t **flags)
{
    EPG_TRY(need(group, flags));
    EPG_TRY(check_lane(group, lane));
    *flags = group->lanes[lane].flags;
    return EPG_OK;
}

const char *epg__operation_name(epg_operation operation)
{
    static const char *const names[] = {"no operation", "dispatch send", "dispatch recv",
                                        "combine send", "combine recv",  "join"};
    return (unsigned)operation < EPG__COUNT_OF(names) ? names[operation] : "an unknown operation";
}

static epg_status say(const epg_group *g, const epg_group_record *r)
{
    const char *op = epg__operation_name(r->operation);
    unsigned long long expected = r->expected, seen = r->seen;
    uint32_t me = epg_team_rank(g->team);
    switch (r->status) {
    case EPG_OK: return EPG_OK;
    case EPG_ERR_ROUTING:
        return epg__fail(r->status,
                         "rank %u, %s, epoch %u: expert id %lld is out of range 0..%llu, chosen twice, or mapped to no "
                         "expert", me, op, r->epoch, (long long)r->seen, expected - 1);
    case EPG_ERR_OVERFLOW:
        return epg__fail(r->status, "rank %u, %s, epoch %u: %llu rows came where %llu fit", me, op, r->epoch, seen,
                         expected);
    case EPG_ERR_STATE:
        return epg__fail(r->status, "rank %u, %s, lane %u: a replay before the rank was admitted again", me, op,
                         r->lane);
    case EPG_ERR_TIMEOUT:
        return epg__fail(r->status,
                         "rank %u, %s, lane %u: no signal from rank %u for epoch %llu in %u ms (last seen: %llu)", me,
                         op, r->lane, r->peer, expected, g->options.timeout_ms, seen);
    default:
        return epg__fail(r->status, "rank %u, %s, lane %u, waiting for rank %u: %s (expected epoch %llu, seen %llu)",
                         me, op, r->lane, r->peer, epg_status_text(r->status), expected, seen);
    }
}

epg_status epg_group_check(epg_group *group, epg_group_record *record)
{
    epg_group_record found = EPG_GROUP_RECORD_INIT;
    EPG_TRY(need(group, group));
    if (record)
        EPG__CHECK_SIZE(record, sizeof *record);
    const epg_wire_record *r = group->kernels->record(group);
    if (epg__word_load(group->device->simulator, &r->taken) == 2) { /* partner: epg__record_failure */
        found.status = (epg_status)r->status;
        found.operation = (epg_operation)r->operation;
        found.lane = r->lane;
        found.epoch = r->epoch;
        found.peer = r->peer;
        found.expected = r->expected;
        found.seen = r->seen;
        found.time_ns = r->time_ns;
    }
    if (record)
        *record = found;
    return say(group, &found);
}

epg_status epg_group_clear_record(epg_group *group)
{
    EPG_TRY(need(group, group));
    return group->kernels->clear_record(group);
}

static epg_status check_peer(const epg_group *g, uint32_t rank)
{
    return rank < g->wire.geometry.ranks
               ? EPG_OK
               : epg__fail(EPG_ERR_INVALID, "rank is %u, not below %u", rank, g->wire.geometry.ranks);
}

epg_status epg_group_alive(epg_group *group, uint32_t rank, int *alive)
{
    EPG_TRY(need(group, alive));
    EPG_TRY(check_peer(group, rank));
    return group->kernels->alive(group, rank, alive);
}

epg_status epg_group_mask(epg_group *group, uint32_t rank)
{
    EPG_TRY(need(group, group));
    EPG_TRY(check_peer(group, rank));
    if (rank == epg_team_rank(group->team))
        return epg__fail(EPG_ERR_INVALID, "rank %u cannot mask itself", rank);
    return group->kernels->give_up(group, rank, group->newest[rank]);
}

epg_status epg_group_get_stats(epg_group *group, epg_group_stats *stats)
{
    EPG_TRY(need(group, stats));
    EPG__CHECK_SIZE(stats, sizeof *stats);
    uint64_t value[EPG_COUNTERS];
    EPG_TRY(group->kernels->counters(group, value));
    *stats = (epg_group_stats){
        .size = stats->size,
        .issued = group->counts.issued,
        .captured = group->counts.captured,
        .cleans = group->cleans,
        .pairs = value[EPG_COUNT_PAIRS],
        .dropped_tokens = value[EPG_COUNT_DROPPED_TOKENS],
        .dropped_rows = value[EPG_COUNT_DROPPED_ROWS],
        .bad_ids = value[EPG_COUNT_BAD_IDS],
        .flagged = value[EPG_COUNT_FLAGGED],
        .timeouts = value[EPG_COUNT_TIMEOUTS],
        .region_bytes = group->region_bytes,
        .local_bytes = group->local_bytes,
        .expert_input_bytes = group->expert_bytes,
    };
    return EPG_OK;
}
