/* Ranges for profilers, by NVTX, in the domain "epgraph".
 *
 * NVTX is headers alone; what it knows of a profiler lies in variables of its own, which are the process's. Where no
 * profiler was loaded when the first device was created there is no domain, and a range costs a test of a pointer. The
 * domain is never destroyed: a profiler may give two devices the same. */
#include <nvtx3/nvToolsExt.h>
#include "device/device_cuda_int.h"

void epg__cuda_ranges_create(epg__cuda_device *device)
{
    static const char *const names[EPG__RANGE_COUNT] = {
        [EPG__RANGE_FIRST_USE] = "first use",
        [EPG__RANGE_WARMUP] = "warm-up",
        [EPG__RANGE_PROBE] = "probe",
        [EPG__RANGE_CAPTURE] = "capture",
        [EPG__RANGE_INSTANTIATE] = "instantiate",
        [EPG__RANGE_REPLAY] = "replay",
        [EPG__RANGE_EAGER] = "eager step",
        [EPG__RANGE_DISPATCH] = "epg_dispatch",
        [EPG__RANGE_COMBINE] = "epg_combine",
        [EPG__RANGE_DISPATCH_SEND] = "epg_dispatch_send",
        [EPG__RANGE_DISPATCH_RECV] = "epg_dispatch_recv",
        [EPG__RANGE_COMBINE_SEND] = "epg_combine_send",
        [EPG__RANGE_COMBINE_RECV] = "epg_combine_recv",
    };
    device->ranges = nvtxDomainCreateA("epgraph");
    for (int i = 0; device->ranges && i < EPG__RANGE_COUNT; i++)
        device->range_names[i] = nvtxDomainRegisterStringA(device->ranges, names[i]);
}

void epg__cuda_range_push(epg_device *base, epg__range range)
{
    const epg__cuda_device *device = epg__cuda_of(base);
    if (!device->ranges)
        return;
    nvtxEventAttributes_t attributes = {
        .version = NVTX_VERSION,
        .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE,
        .messageType = NVTX_MESSAGE_TYPE_REGISTERED,
        .message.registered = device->range_names[range],
    };
    nvtxDomainRangePushEx(device->ranges, &attributes);
}

void epg__cuda_range_pop(epg_device *base)
{
    const epg__cuda_device *device = epg__cuda_of(base);
    if (device->ranges)
        nvtxDomainRangePop(device->ranges);
}
