/* Stands in for the CUDA device where the library was built without it. */
#include "device/device_ops.h"

epg_status epg__device_cuda_create(const epg_device_options *options, epg_device **device)
{
    (void)options, (void)device;
    return epg__fail(EPG_ERR_UNSUPPORTED, "this library was built without CUDA (make CUDA=1 builds it in)");
}
