/* The plain copy whose rate epg_device_copy_rate measures, by one core. */
#include <string.h>
#include "device/device_host_int.h"

typedef struct params {
    void *to;
    const void *from;
    size_t bytes;
} params;

static void copy(const void *args)
{
    const params *p = args;
    memcpy(p->to, p->from, p->bytes);
}

epg_status epg__host_copy_launch(epg_device *device, epg_stream stream, void *to, const void *from, size_t bytes)
{
    params p = {to, from, bytes};
    return epg__host_launch(device, stream, copy, &p, sizeof p, "copy");
}
