/* Experts on their own: the handle, and the checks of what a caller gives. The arithmetic is the device's
 * (epg__experts_kernels). */
#include <stdlib.h>
#include "core/core_int.h"
#include "device/device_ops.h"
#include "moe/model_ops.h"

static epg_status check_type(const char *field, epg_dtype type)
{
    if (type == EPG_FLOAT32 || type == EPG_BFLOAT16)
        return EPG_OK;
    return epg__fail(EPG_ERR_UNSUPPORTED, "%s is %d; experts have kernels for float32 (%d) and bf16 (%d)", field,
                     (int)type, EPG_FLOAT32, EPG_BFLOAT16);
}

static epg_status check_options(const epg_experts_options *o)
{
    size_t weights;
    EPG__CHECK_SIZE(o, sizeof *o);
    if (!o->local_experts || !o->intermediate)
        return epg__fail(EPG_ERR_INVALID, "%s is 0", o->local_experts ? "intermediate" : "local_experts");
    if (!o->hidden || o->hidden % 8)
        return epg__fail(EPG_ERR_INVALID, "hidden is %u, not a multiple of 8", o->hidden);
    if (o->intermediate > UINT32_MAX / 2 || !epg__mul((size_t)o->hidden * 8, o->intermediate, &weights))
        return epg__fail(EPG_ERR_INVALID, "an expert of %u x %u does not fit in memory", o->hidden, o->intermediate);
    EPG_TRY(check_type("row_type", o->row_type));
    return check_type("weight_type", o->weight_type);
}

epg_status epg_experts_create(epg_device *device, const epg_experts_options *options, epg_experts **out)
{
    epg_status status;
    if (!device || !options || !out)
        return epg__fail(EPG_ERR_INVALID, "epg_experts_create: %s is NULL",
                         !device ? "device" : !options ? "options" : "experts");
    EPG_TRY(check_options(options));
    epg_experts *experts = epg__zalloc(1, sizeof *experts, "experts");
    if (!experts)
        return EPG_ERR_NO_MEMORY;
    experts->device = device;
    experts->options = *options;
    experts->kernels = device->info.kind == EPG_DEVICE_HOST ? &epg__experts_kernels_host : &epg__experts_kernels_cuda;
    EPG_TRY_GOTO(experts->kernels->create(experts), destroy);
    *out = experts;
    return EPG_OK;
destroy:
    epg_experts_destroy(experts);
    return status;
}

void epg_experts_destroy(epg_experts *experts)
{
    if (!experts)
        return;
    experts->kernels->destroy(experts);
    free(experts);
}

epg_status epg_experts_workspace(const epg_experts *experts, uint32_t row_capacity, size_t *bytes)
{
    if (!experts || !bytes)
        return epg__fail(EPG_ERR_INVALID, "epg_experts_workspace: %s is NULL", experts ? "bytes" : "experts");
    *bytes = experts->kernels->workspace(experts, row_capacity);
    return EPG_OK;
}

static epg_status check_memory(const char *name, const void *memory)
{
    if (!memory || (uintptr_t)memory % 16)
        return epg__fail(EPG_ERR_INVALID, "epg_experts_run: %s is %p, not memory aligned to 16 bytes", name, memory);
    return EPG_OK;
}

static epg_status check_args(const epg_experts *experts, const epg_experts_args *args)
{
    EPG__CHECK_SIZE(args, sizeof *args);
    const epg_dispatch_view *view = args->view;
    if (!view || !view->offsets || !view->counts)
        return epg__fail(EPG_ERR_INVALID, "epg_experts_run: %s is NULL",
                         !view ? "view" : view->offsets ? "view->counts" : "view->offsets");
    if (view->local_experts != experts->options.local_experts)
        return epg__fail(EPG_ERR_INVALID, "epg_experts_run: the view has %u local experts, the options said %u",
                         view->local_experts, experts->options.local_experts);
    size_t bytes = experts->options.hidden * epg__dtype_bytes(experts->options.row_type);
    if (view->row_stride && view->row_stride != bytes)
        return epg__fail(EPG_ERR_INVALID,
                         "epg_experts_run: the view's rows are %llu bytes apart, rows of the options have %zu",
                         (unsigned long long)view->row_stride, bytes);
    EPG_TRY(check_memory("view->rows", view->rows));
    EPG_TRY(check_memory("gate_up", args->gate_up));
    EPG_TRY(check_memory("down", args->down));
    EPG_TRY(check_memory("workspace", args->workspace));
    EPG_TRY(check_memory("out", args->out));
    size_t needed = experts->kernels->workspace(experts, view->row_capacity);
    if (args->workspace_bytes < needed)
        return epg__fail(EPG_ERR_INVALID, "epg_experts_run: the workspace has %zu bytes, %u rows need %zu",
                         args->workspace_bytes, view->row_capacity, needed);
    return EPG_OK;
}

epg_status epg_experts_run(epg_experts *experts, const epg_experts_args *args, epg_stream stream)
{
    if (!experts || !args)
        return epg__fail(EPG_ERR_INVALID, "epg_experts_run: %s is NULL", experts ? "args" : "experts");
    EPG_TRY(check_args(experts, args));
    return experts->kernels->run(experts, args, stream);
}
