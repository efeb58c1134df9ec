/* The options of `epgraph run`. */
#ifndef CLI_RUN_OPTIONS_H
#define CLI_RUN_OPTIONS_H

#include <stdint.h>
#include "epgraph/epgraph.h"

typedef struct run_options {
    uint32_t ranks, chunk, batch;
    uint32_t requests;          /* 0: not given */
    const char *model, *trace, *json, *timeline;
    uint32_t timeline_steps;
    uint32_t buckets[EPG_BUCKETS_MAX];
    uint32_t bucket_count;
    uint64_t seed;
    epg_step_policy policy;
    epg_mode mode;
    epg_device_options device;
    int eager, check;
} run_options;

/* Exits with CLI_BAD_INPUT, the option and its value named, where the options cannot be used. */
void run_options_parse(int argc, char **argv, run_options *options);

#endif
