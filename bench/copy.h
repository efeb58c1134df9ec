/* A plain copy on the GPU, for the rate that it reaches. */
#ifndef BENCH_COPY_H
#define BENCH_COPY_H

#include <stddef.h>
#include "epgraph/device.h"

#ifdef __cplusplus
extern "C" {
#endif

epg_status bench_copy(epg_device *device, epg_stream stream, void *to, const void *from, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
