#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "support/device_under_test.h"

epg_device_kind test_device_kind(void)
{
    const char *name = getenv("EPGRAPH_TEST_DEVICE");
    return name && !strcmp(name, "cuda") ? EPG_DEVICE_CUDA : EPG_DEVICE_HOST;
}

bool test_device_serial(void) { return getenv("EPGRAPH_TEST_SERIAL") != NULL; }

epg_status test_device_create(epg_device **device)
{
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    options.kind = test_device_kind();
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0); /* for tests that wait across streams; read by CUDA at its start */
    return epg_device_create(&options, device);
}

bool test_device_missing(void)
{
    epg_device *device;
    epg_status status = test_device_create(&device);
    if (status == EPG_OK)
        epg_device_destroy(device);
    else
        puts(epg_message());
    return status == EPG_ERR_UNSUPPORTED;
}

bool test_gpu_missing(void)
{
    if (test_device_kind() == EPG_DEVICE_CUDA)
        return test_device_missing();
    puts("EPGRAPH_TEST_DEVICE is not cuda");
    return true;
}
