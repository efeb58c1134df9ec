/* What `epgraph run` prints and writes. */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include <stdio.h>
#include "check.h"
#include "serve.h"

typedef struct report {
    const serve_config *config;
    const serve_result *result;
    const serve_times *replay_times, *eager_times; /* either may be empty */
    const check_result *check;
    const char *device, *team, *model, *trace;     /* trace: NULL for synthetic requests */
    const char *timeline_file;                     /* NULL: there is none */
    const timeline_counts *timeline;
} report;

void report_print(const report *report, FILE *stream);

/* 0, or -1 if the file cannot be written whole. */
int report_json(const report *report, FILE *stream);

#endif
