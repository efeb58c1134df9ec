/* What the conformance table asks of the host device and no caller needs: device_ops.h says what each is for. None
 * touches a capture but the two that enqueue. */
#include "device/device_host_int.h"

static void probe(const void *args) { (void)args; }
static void callback(void *ctx) { (void)ctx; }

epg_status epg__host_probe_launch(epg_device *device, epg_stream stream)
{
    return epg__host_launch(device, stream, probe, NULL, 0, "probe");
}

/* A callback holds up its stream, and can so be no node; a host function can. */
epg_status epg__host_probe_callback(epg_device *base, epg_stream stream)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_stream found;
    epg_status status = epg__host_resolve(device, stream, &found);
    if (status == EPG_OK && found->capture)
        status = epg__capture_refuse(found, "a stream callback");
    epg__host_unlock(device);
    return status == EPG_OK ? epg__host_func(base, stream, callback, NULL, "callback") : status;
}

/* One call runs a kernel of the host device, and a stream's worker runs one at a time. */
epg_status epg__host_probe_attributes(epg_device *device, int *block_threads)
{
    (void)device;
    *block_threads = 1;
    return EPG_OK;
}

epg_status epg__host_probe_occupancy(epg_device *device, int *blocks)
{
    (void)device;
    *blocks = 1;
    return EPG_OK;
}

/* No error outlives the call that returned it. */
epg_status epg__host_probe_last_error(epg_device *device)
{
    (void)device;
    return EPG_OK;
}

/* Any thread may use any host device. */
epg_status epg__host_probe_make_current(epg_device *device)
{
    (void)device;
    return EPG_OK;
}
