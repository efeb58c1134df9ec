/* Enqueues the halves of pairs, keeps their order per lane, and ends pairs that broke.
 *
 * Nothing here allocates, waits or reads device data: every call may run during capture. A captured operation holds the
 * addresses given to it and nothing that changes from pair to pair. */
#include <string.h>
#include "device/device_ops.h"
#include "ep/group_state_int.h"
#include "ep/kernels_int.h"

static epg_status check_call(const epg_group *g, uint32_t lane, epg_operation operation)
{
    if (!g)
        return epg__fail(EPG_ERR_INVALID, "group is NULL");
    if (lane >= g->options.lanes)
        return epg__fail(EPG_ERR_INVALID, "lane is %u, not below %u", lane, g->options.lanes);
    if (g->order[lane].next != operation)
        return epg__fail(EPG_ERR_STATE, "%s in lane %u, where %s comes next", epg__operation_name(operation), lane,
                         epg__operation_name(g->order[lane].next));
    return EPG_OK;
}

uint64_t epg__group_capture_of(const epg_group *g, epg_stream stream)
{
    epg_capture_status status;
    uint64_t id;
    if (epg_capture_query(g->device, stream, &status, &id) != EPG_OK || status == EPG_CAPTURE_NONE)
        return 0;
    return id;
}

/* A pair lies in one capture, or in none. */
static epg_status check_capture(const epg_group *g, uint32_t lane, epg_operation operation, uint64_t capture)
{
    if (g->outside && capture == 0 && !g->rehearsing)
        return epg__fail(EPG_ERR_STATE, "%s in lane %u: the rank joins again and was not admitted yet",
                         epg__operation_name(operation), lane);
    if (operation == EPG_OP_DISPATCH_SEND || capture == g->order[lane].capture_id)
        return EPG_OK;
    return epg__fail(EPG_ERR_STATE, "%s in lane %u: its pair was opened %s", epg__operation_name(operation), lane,
                     g->order[lane].capture_id ? "in another capture" : "outside of this capture");
}

/* An operation was enqueued. */
static void advance(epg_group *g, uint32_t lane, epg_operation operation, uint64_t capture)
{
    g->counts.issued++;
    g->counts.captured += capture != 0;
    if (operation == EPG_OP_DISPATCH_SEND)
        g->order[lane].capture_id = capture;
    g->order[lane].next = operation == EPG_OP_COMBINE_RECV ? EPG_OP_DISPATCH_SEND : operation + 1;
}

static epg_mode choose_mode(const epg_group *g, epg_mode mode, uint32_t bucket)
{
    if (mode != EPG_MODE_AUTO)
        return mode;
    return bucket <= g->ll_max_tokens ? EPG_MODE_LL : EPG_MODE_HT;
}

/* Around what enqueues, for profilers: range_begin(g, ...), then range_end(g, the call). */
static void range_begin(const epg_group *g, epg__range range) { g->device->ops->range_push(g->device, range); }
static epg_status range_end(const epg_group *g, epg_status status)
{
    g->device->ops->range_pop(g->device);
    return status;
}

/* ---- the four halves ---- */

static void open_pair(epg_group *g, const epg_dispatch_args *user)
{
    g->order[user->lane].mode = choose_mode(g, user->mode, user->bucket);
    g->order[user->lane].bucket = user->bucket;
}

static epg_status enqueue_send(epg_group *g, const epg_dispatch_args *user, int is_void, epg_stream stream)
{
    uint64_t capture = epg__group_capture_of(g, stream);
    EPG_TRY(check_capture(g, user->lane, EPG_OP_DISPATCH_SEND, capture));
    open_pair(g, user);
    range_begin(g, EPG__RANGE_DISPATCH_SEND);
    EPG_TRY(range_end(g, g->kernels->dispatch_send(g, user, is_void, g->order[user->lane].mode, stream)));
    advance(g, user->lane, EPG_OP_DISPATCH_SEND, capture);
    return EPG_OK;
}

/* What a row is made of, beside its elements. */
static epg_status check_scales(const epg_group *g, const epg_dispatch_args *args)
{
    epg_dtype type = g->options.row_type;
    int given = type == EPG_FLOAT8_E4M3 ? args->input_type == EPG_FLOAT8_E4M3 : g->options.scale_bytes > 0;
    if (type == EPG_FLOAT8_E4M3 && args->input_type != EPG_BFLOAT16 && args->input_type != EPG_FLOAT8_E4M3)
        return epg__fail(EPG_ERR_INVALID, "input_type is %d; an fp8 group takes bf16 (%d) or fp8 (%d) rows",
                         (int)args->input_type, EPG_BFLOAT16, EPG_FLOAT8_E4M3);
    if (given && args->bucket > 0 && !args->scales)
        return epg__fail(EPG_ERR_INVALID, "scales is NULL with a bucket of %u", args->bucket);
    if (!given && args->scales)
        return epg__fail(EPG_ERR_INVALID, "scales is %p, but these rows come without scales", args->scales);
    return EPG_OK;
}

static epg_status check_send(const epg_group *group, const epg_dispatch_args *args)
{
    if (!args)
        return epg__fail(EPG_ERR_INVALID, "args is NULL");
    EPG__CHECK_SIZE(args, sizeof *args);
    EPG_TRY(check_call(group, args->lane, EPG_OP_DISPATCH_SEND));
    if (args->bucket > group->options.max_tokens)
        return epg__fail(EPG_ERR_INVALID, "bucket is %u, above max_tokens %u", args->bucket, group->options.max_tokens);
    if (args->bucket > 0 && (!args->rows || !args->topk_ids))
        return epg__fail(EPG_ERR_INVALID, "%s is NULL with a bucket of %u", args->rows ? "topk_ids" : "rows",
                         args->bucket);
    if ((unsigned)args->mode > EPG_MODE_HT)
        return epg__fail(EPG_ERR_INVALID, "mode is %d", (int)args->mode);
    if ((unsigned)args->topk_type > EPG_INT64)
        return epg__fail(EPG_ERR_INVALID, "topk_type is %d", (int)args->topk_type);
    return check_scales(group, args);
}

epg_status epg_dispatch_send(epg_group *group, const epg_dispatch_args *args, epg_stream stream)
{
    EPG_TRY(check_send(group, args));
    return enqueue_send(group, args, 0, stream);
}

/* Where a view's rows and scales lie. */
static void place_view(const epg__lane *lane, epg_dispatch_view *view)
{
    const epg_wire_layout *w = lane->wire;
    const epg__scale_place *place = &lane->scale_place;
    const char *own_rows = epg__own_lane(lane) + w->rows;
    int in_place = lane->layout == EPG_LAYOUT_IN_PLACE;
    view->rows = in_place ? own_rows : lane->expert_rows;
    view->row_stride = in_place ? w->row_bytes : w->payload_bytes;
    if (w->scale_bytes == 0)
        return;
    view->scales = in_place ? own_rows + w->payload_bytes : lane->expert_scales;
    view->scale_expert_stride = lane->layout == EPG_LAYOUT_MASKED ? place->expert : 0;
    view->scale_row_stride = in_place ? w->row_bytes : place->row;
    view->scale_block_stride = place->block;
}

static void fill_view(const epg__lane *lane, epg_dispatch_view *view)
{
    *view = (epg_dispatch_view){
        .size = sizeof *view,
        .local_experts = lane->local_experts,
        .first_expert = lane->first_expert,
        .row_capacity = lane->row_capacity,
        .row_index = lane->layout == EPG_LAYOUT_IN_PLACE ? lane->row_index : NULL,
        .offsets = lane->offsets,
        .counts = lane->counts,
        .total = lane->total,
        .row_source = lane->row_source,
        .row_token = lane->row_token,
        .row_weight = lane->row_weight,
    };
    place_view(lane, view);
}

static epg_status enqueue_half(epg_group *g, uint32_t lane, epg_operation operation, int is_void, const void *rows,
                               void *out, epg_stream stream)
{
    uint64_t capture = epg__group_capture_of(g, stream);
    EPG_TRY(check_capture(g, lane, operation, capture));
    range_begin(g, (epg__range)(EPG__RANGE_DISPATCH_SEND + (operation - EPG_OP_DISPATCH_SEND)));
    if (operation == EPG_OP_DISPATCH_RECV)
        EPG_TRY(range_end(g, g->kernels->dispatch_recv(g, lane, is_void, stream)));
    else if (operation == EPG_OP_COMBINE_SEND)
        EPG_TRY(range_end(g, g->kernels->combine_send(g, lane, is_void, rows, stream)));
    else
        EPG_TRY(range_end(g, g->kernels->combine_recv(g, lane, is_void, out, stream)));
    advance(g, lane, operation, capture);
    return EPG_OK;
}

epg_status epg_dispatch_recv(epg_group *group, uint32_t lane, epg_dispatch_view *view, epg_stream stream)
{
    EPG_TRY(check_call(group, lane, EPG_OP_DISPATCH_RECV));
    if (!view)
        return epg__fail(EPG_ERR_INVALID, "view is NULL");
    EPG__CHECK_SIZE(view, sizeof *view);
    EPG_TRY(enqueue_half(group, lane, EPG_OP_DISPATCH_RECV, 0, NULL, NULL, stream));
    fill_view(&group->lanes[lane], view);
    return EPG_OK;
}

epg_status epg_combine_send(epg_group *group, uint32_t lane, const void *expert_rows, epg_stream stream)
{
    EPG_TRY(check_call(group, lane, EPG_OP_COMBINE_SEND));
    if (!expert_rows)
        return epg__fail(EPG_ERR_INVALID, "expert_rows is NULL");
    return enqueue_half(group, lane, EPG_OP_COMBINE_SEND, 0, expert_rows, NULL, stream);
}

epg_status epg_combine_recv(epg_group *group, uint32_t lane, void *out, epg_stream stream)
{
    EPG_TRY(check_call(group, lane, EPG_OP_COMBINE_RECV));
    if (!out)
        return epg__fail(EPG_ERR_INVALID, "out is NULL");
    return enqueue_half(group, lane, EPG_OP_COMBINE_RECV, 0, NULL, out, stream);
}

epg_status epg_dispatch(epg_group *group, const epg_dispatch_args *args, epg_dispatch_view *view, epg_stream stream)
{
    if (!view)
        return epg__fail(EPG_ERR_INVALID, "view is NULL");
    EPG__CHECK_SIZE(view, sizeof *view);
    EPG_TRY(check_send(group, args));
    uint64_t capture = epg__group_capture_of(group, stream);
    EPG_TRY(check_capture(group, args->lane, EPG_OP_DISPATCH_SEND, capture));
    open_pair(group, args);
    range_begin(group, EPG__RANGE_DISPATCH);
    int halves = 0;
    epg_mode mode = group->order[args->lane].mode;
    epg_status status = range_end(group, group->kernels->dispatch(group, args, mode, stream, &halves));
    for (int i = 0; i < halves; i++) /* of one that failed between its halves, too */
        advance(group, args->lane, EPG_OP_DISPATCH_SEND + i, capture);
    EPG_TRY(status);
    fill_view(&group->lanes[args->lane], view);
    return EPG_OK;
}

epg_status epg_combine(epg_group *group, uint32_t lane, const void *expert_rows, void *out, epg_stream stream)
{
    EPG_TRY(check_call(group, lane, EPG_OP_COMBINE_SEND));
    if (!expert_rows || !out)
        return epg__fail(EPG_ERR_INVALID, "%s is NULL", expert_rows ? "out" : "expert_rows");
    uint64_t capture = epg__group_capture_of(group, stream);
    EPG_TRY(check_capture(group, lane, EPG_OP_COMBINE_SEND, capture));
    range_begin(group, EPG__RANGE_COMBINE);
    int halves = 0;
    epg_status status = range_end(group, group->kernels->combine(group, lane, expert_rows, out, stream, &halves));
    for (int i = 0; i < halves; i++)
        advance(group, lane, EPG_OP_COMBINE_SEND + i, capture);
    return status;
}

epg_status epg_group_view(epg_group *group, uint32_t lane, epg_dispatch_view *view)
{
    if (!group || !view)
        return epg__fail(EPG_ERR_INVALID, "group or view is NULL");
    EPG__CHECK_SIZE(view, sizeof *view);
    if (lane >= group->options.lanes)
        return epg__fail(EPG_ERR_INVALID, "lane is %u, not below %u", lane, group->options.lanes);
    fill_view(&group->lanes[lane], view);
    return EPG_OK;
}

/* ---- pairs without tokens, pairs that broke ---- */

epg_status epg_pair_abandon(epg_group *group, uint32_t lane, epg_stream stream)
{
    if (!group)
        return epg__fail(EPG_ERR_INVALID, "group is NULL");
    if (lane >= group->options.lanes)
        return epg__fail(EPG_ERR_INVALID, "lane is %u, not below %u", lane, group->options.lanes);
    epg__lane_order *order = &group->order[lane];
    if (order->next == EPG_OP_DISPATCH_SEND)
        return EPG_OK;
    if (order->capture_id != 0 && order->capture_id != epg__group_capture_of(group, stream)) {
        order->next = EPG_OP_DISPATCH_SEND; /* its graph was never made: nothing ran */
        return EPG_OK;
    }
    while (order->next != EPG_OP_DISPATCH_SEND)
        EPG_TRY(enqueue_half(group, lane, order->next, 1, NULL, NULL, stream));
    return EPG_OK;
}

static epg_status fill_one(epg_group *g, uint32_t lane, uint32_t index, epg_experts_fn experts, void *ctx,
                           epg_stream stream)
{
    epg_dispatch_args nothing = EPG_DISPATCH_ARGS_INIT;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    const void *rows = NULL;
    nothing.lane = lane;
    EPG_TRY(enqueue_send(g, &nothing, 1, stream));
    EPG_TRY(enqueue_half(g, lane, EPG_OP_DISPATCH_RECV, experts == NULL, NULL, NULL, stream));
    if (experts) {
        fill_view(&g->lanes[lane], &view);
        EPG_TRY(experts(ctx, index, &view, stream, &rows));
        if (!rows)
            return epg__fail(EPG_ERR_INVALID, "the experts of fill pair %u gave no output buffer", index);
    }
    EPG_TRY(enqueue_half(g, lane, EPG_OP_COMBINE_SEND, experts == NULL, rows, NULL, stream));
    return enqueue_half(g, lane, EPG_OP_COMBINE_RECV, 1, NULL, NULL, stream);
}

epg_status epg_group_fill(epg_group *group, uint32_t lane, uint32_t pairs, epg_experts_fn experts, void *ctx,
                          epg_stream stream)
{
    EPG_TRY(check_call(group, lane, EPG_OP_DISPATCH_SEND));
    for (uint32_t i = 0; i < pairs; i++)
        EPG_TRY(fill_one(group, lane, i, experts, ctx, stream));
    return EPG_OK;
}

epg_status epg_group_rehearse(epg_group *group, int on, epg_stream stream)
{
    if (!group)
        return epg__fail(EPG_ERR_INVALID, "group is NULL");
    if (epg__group_capture_of(group, stream) != 0)
        return epg__fail(EPG_ERR_STATE, "a rehearsal cannot be captured");
    EPG_TRY(group->kernels->rehearse(group, on, stream));
    group->rehearsing = on != 0;
    return EPG_OK;
}

/* ---- for the runner ---- */

epg__group_counts epg__group_get_counts(const epg_group *group) { return group->counts; }

void epg__group_discard_capture(epg_group *group, uint64_t capture_id)
{
    for (uint32_t l = 0; l < group->options.lanes; l++)
        if (group->order[l].capture_id == capture_id)
            group->order[l].next = EPG_OP_DISPATCH_SEND;
}

epg_status epg__group_check_closed(const epg_group *group)
{
    for (uint32_t l = 0; l < group->options.lanes; l++)
        if (group->order[l].next != EPG_OP_DISPATCH_SEND)
            return epg__fail(EPG_ERR_STATE, "a pair is open in lane %u: %s is missing", l,
                             epg__operation_name(group->order[l].next));
    return EPG_OK;
}
