/* Whether a runtime follows its current stream: an operation made in a scope must end up in that stream's capture. This
 * finds what reading back cannot: a library that ignores the current stream, or has kept an earlier one. */
#include "scope/scope_ops.h"

/* Where it fails, `told` is what it left as its message, "" if nothing. */
static epg_status call(epg_status (*operation)(void *ctx), void *ctx, epg__message *told)
{
    epg__message before;
    epg__message_take(&before);
    epg_status status = operation(ctx);
    epg__message_keep(told);
    return status == EPG_OK ? epg__message_restore(&before, EPG_OK) : status;
}

/* Runs the operation under capture; the capture is ended, and the scope left, whatever happens. */
static epg_status capture_one(epg_scope_table *table, epg_device *device, int ordinal, epg_stream stream,
                              epg_status (*operation)(void *ctx), void *ctx, epg_graph *graph)
{
    epg_scope *scope = NULL;
    EPG_TRY(epg_scope_enter(table, ordinal, stream, NULL, &scope));
    epg_status status = epg_capture_begin(device, stream, EPG_CAPTURE_THREAD_LOCAL);
    if (status == EPG_OK) {
        epg__message told;
        epg_status result = call(operation, ctx, &told);
        status = epg_capture_end(device, stream, graph);
        if (result != EPG_OK)
            status = epg__fail(result, "the operation gave %s%s%s", epg_status_name(result), *told.text ? ": " : "",
                               told.text);
    }
    epg_status left = epg_scope_leave(scope);
    return status == EPG_OK ? left : status;
}

epg_status epg_scope_verify(epg_scope_table *table, epg_device *device, int ordinal,
                            epg_status (*operation)(void *ctx), void *ctx)
{
    epg_stream stream;
    epg_graph graph = NULL;
    size_t nodes = 0;
    if (!table || !device || !operation)
        return epg__fail(EPG_ERR_INVALID, "%s is NULL", !table ? "table" : !device ? "device" : "operation");
    EPG_TRY(epg_stream_create(device, EPG_STREAM_NONBLOCKING, &stream));
    epg_status status = capture_one(table, device, ordinal, stream, operation, ctx, &graph);
    if (status == EPG_OK)
        status = epg_graph_node_count(device, graph, &nodes);
    if (status == EPG_OK && nodes == 0)
        status = epg__fail(EPG_ERR_ESCAPED, "the operation was made in a scope and is not in that stream's capture");
    if (graph)
        epg_graph_destroy(device, graph);
    epg_stream_destroy(device, stream);
    return status;
}
