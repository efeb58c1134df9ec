/* What the programs here do where a call fails: they print their own name, the call and why, and end. */
#ifndef BENCH_CHECK_H
#define BENCH_CHECK_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static inline void check_failed(const char *call, const char *why)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, call, why);
    exit(1);
}

#define CHECK(call)                                                \
    do {                                                           \
        if ((call) != EPG_OK)                                      \
            check_failed(#call, epg_message());                    \
    } while (0)

#define CHECK_CUDA(call)                                           \
    do {                                                           \
        cudaError_t check_error_ = (call);                         \
        if (check_error_ != cudaSuccess)                           \
            check_failed(#call, cudaGetErrorString(check_error_)); \
    } while (0)

#endif
