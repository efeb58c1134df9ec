#include "support/work.h"

epg_status work_launch_cuda(epg_device *device, epg_stream stream, const work_params *params)
{
    (void)device, (void)stream, (void)params;
    return EPG_ERR_UNSUPPORTED;
}
