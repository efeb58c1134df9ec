#ifndef TESTS_GPU_LAUNCH_H
#define TESTS_GPU_LAUNCH_H

#include "device/cuda_kernel_int.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct launch_params {
    uint32_t *out;
    uint32_t count, value;
} launch_params;
typedef enum launch_which { LAUNCH_SHARED, LAUNCH_CHAIN, LAUNCH_MEET } launch_which;
const void *launch_kernel(launch_which which);

#ifdef __cplusplus
}
#endif
#endif
