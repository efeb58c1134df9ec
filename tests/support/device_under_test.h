/* The device that a test's bodies run on: EPGRAPH_TEST_DEVICE, "host" (also if unset) or "cuda". One body serves every
 * device; what only one of them promises is asked for by kind. */
#ifndef TESTS_DEVICE_UNDER_TEST_H
#define TESTS_DEVICE_UNDER_TEST_H

#include <stdbool.h>
#include "epgraph/device.h"

epg_device_kind test_device_kind(void);

/* Kernels of different streams do not run at once, and a launch ends with its kernel (under compute-sanitizer):
 * EPGRAPH_TEST_SERIAL is set. Bodies that need more skip themselves. */
bool test_device_serial(void);
epg_status test_device_create(epg_device **device);

/* Prints why, and gives true, where that device cannot be had: main then returns 77. */
bool test_device_missing(void);

/* The same of a test for a GPU alone: also where the device is another. */
bool test_gpu_missing(void);

#endif
