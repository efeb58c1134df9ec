/* Conformance of a device's capture: what it answers to one call made while a stream is being captured.
 *
 * The table has a row for each of 75 operations, each capture mode, each kind of the captured stream, and each thread
 * that may make the call: the one that began the capture, or another. The operations and their columns are those of the
 * table in tests/data/, which was read from a CUDA driver; docs/capture-rules.md says what the answers mean. */
#ifndef EPGRAPH_CONFORM_H
#define EPGRAPH_CONFORM_H

#include "epgraph/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One row. The library fills it whole; the texts live for ever. */
typedef struct epg_conform_row {
    uint32_t size;
    uint32_t index;                  /* its place in the table */
    epg_capture_mode mode;
    epg_stream_kind stream;          /* the captured one */
    int other_thread;                /* 1: the call came from a thread that did not begin the capture */
    const char *op;                  /* "launch_legacy" */
    int op_result;                   /* the answers, as the CUDA runtime's codes: the call's, ... */
    epg_capture_status status_after; /* ... the capture's status after it, ... */
    int end_result;                  /* ... what ending the capture gave (-1: the call destroyed its stream), ... */
    uint64_t nodes;                  /* ... and the nodes of the graph that came of it */
} epg_conform_row;
#define EPG_CONFORM_ROW_INIT {sizeof(epg_conform_row), 0, EPG_CAPTURE_GLOBAL, EPG_STREAM_BLOCKING, 0, NULL, 0, \
                              EPG_CAPTURE_NONE, 0, 0}

typedef struct epg_conform_options {
    uint32_t size;
    uint32_t first; /* begin with this row */
} epg_conform_options;
#define EPG_CONFORM_OPTIONS_INIT {sizeof(epg_conform_options), 0}

/* Rows of the table. */
EPG_API uint32_t epg_conform_count(void);

/* Which combination a row is; its answers are left at 0. EPG_ERR_INVALID if there is no such row. */
EPG_API epg_status epg_conform_describe(uint32_t index, epg_conform_row *row);

/* Runs the rows in their order and hands each to `emit`. `options` may be NULL: all rows. The device must not be used
 * otherwise meanwhile, and this thread's capture mode must be global. A row's answers are no failure, whatever they
 * are; a failure is what keeps a row from being asked. A call that hangs a driver hangs here. Not during capture. */
EPG_API epg_status epg_conform_run(epg_device *device, const epg_conform_options *options,
                                   void (*emit)(void *ctx, const epg_conform_row *row), void *ctx);

#ifdef __cplusplus
}
#endif
#endif
