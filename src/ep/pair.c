/* Enqueues the halves of pairs, keeps their order per lane, and ends pairs that broke.
 *
 * Nothing here allocates, waits or reads device data: every call may run during capture. A captured operation holds the
 * addresses given to it and nothing that changes from pair to pair. */
#include <string.h>
#include "ep/group_state_int.h"

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

static epg_status enqueue(epg_group *g, uint32_t lane, epg_operation operation, void (*kernel)(const void *args),
                          const void *args, size_t bytes, epg_stream stream)
{
    uint64_t capture = epg__group_capture_of(g, stream);
    if (g->outside && capture == 0 && !g->rehearsing)
        return epg__fail(EPG_ERR_STATE, "%s in lane %u: the rank joins again and was not admitted yet",
                         epg__operation_name(operation), lane);
    if (operation != EPG_OP_DISPATCH_SEND && capture != g->order[lane].capture_id)
        return epg__fail(EPG_ERR_STATE, "%s in lane %u: its pair was opened %s", epg__operation_name(operation), lane,
                         g->order[lane].capture_id ? "in another capture" : "outside of this capture");
    EPG_TRY(epg_host_launch(g->device, stream, kernel, args, bytes, epg__operation_name(operation)));
    g->counts.issued++;
    g->counts.captured += capture != 0;
    if (operation == EPG_OP_DISPATCH_SEND)
        g->order[lane].capture_id = capture;
    g->order[lane].next = operation == EPG_OP_COMBINE_RECV ? EPG_OP_DISPATCH_SEND : operation + 1;
    return EPG_OK;
}

static epg_mode choose_mode(const epg_group *g, epg_mode mode, uint32_t bucket)
{
    if (mode != EPG_MODE_AUTO)
        return mode;
    return bucket <= g->ll_max_tokens ? EPG_MODE_LL : EPG_MODE_HT;
}

/* ---- the four halves ---- */

static epg_status enqueue_send(epg_group *g, const epg_dispatch_args *user, int is_void, epg_stream stream)
{
    uint32_t lane = user->lane;
    epg__dispatch_send_args args = {&g->lanes[lane], *user, is_void};
    g->order[lane].mode = choose_mode(g, user->mode, user->bucket);
    return enqueue(g, lane, EPG_OP_DISPATCH_SEND,
                   g->order[lane].mode == EPG_MODE_LL ? epg__dispatch_send_ll_host : epg__dispatch_send_ht_host, &args,
                   sizeof args, stream);
}

epg_status epg_dispatch_send(epg_group *group, const epg_dispatch_args *args, epg_stream stream)
{
    if (!args)
        return epg__fail(EPG_ERR_INVALID, "args is NULL");
    EPG__CHECK_SIZE(args, sizeof *args);
    EPG_TRY(check_call(group, args->lane, EPG_OP_DISPATCH_SEND));
    if (args->bucket > group->options.max_tokens)
        return epg__fail(EPG_ERR_INVALID, "bucket is %u, above max_tokens %u", args->bucket, group->options.max_tokens);
    if (args->bucket > 0 && (!args->rows || !args->topk_ids))
        return epg__fail(EPG_ERR_INVALID, "%s is NULL with a bucket of %u", args->rows ? "topk_ids" : "rows", args->bucket);
    if ((unsigned)args->mode > EPG_MODE_HT)
        return epg__fail(EPG_ERR_INVALID, "mode is %d", (int)args->mode);
    if ((unsigned)args->topk_type > EPG_INT64)
        return epg__fail(EPG_ERR_INVALID, "topk_type is %d", (int)args->topk_type);
    return enqueue_send(group, args, 0, stream);
}

static void fill_view(const epg__lane *lane, epg_dispatch_view *view)
{
    const char *own_rows = epg__own_lane(lane) + lane->wire->rows;
    *view = (epg_dispatch_view){
        .size = sizeof *view,
        .local_experts = lane->local_experts,
        .first_expert = lane->first_expert,
        .row_capacity = lane->row_capacity,
        .rows = lane->layout == EPG_LAYOUT_IN_PLACE ? own_rows : lane->expert_rows,
        .row_index = lane->layout == EPG_LAYOUT_IN_PLACE ? lane->row_index : NULL,
        .offsets = lane->offsets,
        .counts = lane->counts,
        .total = lane->total,
        .row_source = lane->row_source,
        .row_token = lane->row_token,
        .row_weight = lane->row_weight,
    };
}

static epg_status enqueue_half(epg_group *g, uint32_t lane, epg_operation operation, int is_void, const void *rows,
                               void *out, epg_stream stream)
{
    epg_mode mode = g->order[lane].mode;
    epg__half_args args = {&g->lanes[lane], is_void, rows, out};
    void (*kernel)(const void *) = epg__combine_recv_host;
    if (operation == EPG_OP_DISPATCH_RECV)
        kernel = mode == EPG_MODE_LL ? epg__dispatch_recv_ll_host : epg__dispatch_recv_ht_host;
    else if (operation == EPG_OP_COMBINE_SEND)
        kernel = mode == EPG_MODE_LL ? epg__combine_send_ll_host : epg__combine_send_ht_host;
    return enqueue(g, lane, operation, kernel, &args, sizeof args, stream);
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
    EPG_TRY(epg_dispatch_send(group, args, stream));
    return epg_dispatch_recv(group, args->lane, view, stream);
}

epg_status epg_combine(epg_group *group, uint32_t lane, const void *expert_rows, void *out, epg_stream stream)
{
    if (!out)
        return epg__fail(EPG_ERR_INVALID, "out is NULL");
    EPG_TRY(epg_combine_send(group, lane, expert_rows, stream));
    return epg_combine_recv(group, lane, out, stream);
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

typedef struct rehearsal_args {
    epg__simulator *sim;
    uint32_t *word;
    uint32_t on;
} rehearsal_args;

static void set_rehearsal(const void *raw)
{
    const rehearsal_args *args = raw;
    epg__word_store(args->sim, args->word, args->on);
}

epg_status epg_group_rehearse(epg_group *group, int on, epg_stream stream)
{
    if (!group)
        return epg__fail(EPG_ERR_INVALID, "group is NULL");
    if (epg__group_capture_of(group, stream) != 0)
        return epg__fail(EPG_ERR_STATE, "a rehearsal cannot be captured");
    epg_wire_header *header = group->peers[epg_team_rank(group->team)];
    rehearsal_args args = {group->lanes[0].sim, &header->rehearsal, on != 0};
    EPG_TRY(epg_host_launch(group->device, stream, set_rehearsal, &args, sizeof args, "rehearsal"));
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
