/* epgraph: expert-parallel dispatch and combine inside CUDA graphs, in mixed prefill and decode.
 *
 * The headers in reading order. Every call returns an epg_status; outputs come last and are written only on success.
 * Structs open with `size` and have an INIT macro. Unless its comment says otherwise, a call may not run during
 * capture. */
#ifndef EPGRAPH_EPGRAPH_H
#define EPGRAPH_EPGRAPH_H

#include "epgraph/status.h"   /* statuses and messages */
#include "epgraph/settings.h" /* environment variables */
#include "epgraph/device.h"   /* streams, events, memory, capture, graphs */
#include "epgraph/conform.h"  /* what a device answers during capture, row by row */
#include "epgraph/simulation.h" /* a device on which a seed decides every interleaving */
#include "epgraph/scope.h"    /* one stream current in every runtime of the process */
#include "epgraph/team.h"     /* ranks */
#include "epgraph/group.h"    /* dispatch and combine */
#include "epgraph/runner.h"   /* capture and replay per bucket */
#include "epgraph/step.h"     /* what every rank runs this step */
#include "epgraph/experts.h"  /* the experts of one rank, on what dispatch hands out */
#include "epgraph/moe.h"      /* checkpoints and MoE layers */
#include "epgraph/abi.h"      /* struct layouts, for bindings */

#define EPG_VERSION_MAJOR 0
#define EPG_VERSION_MINOR 1
#define EPG_VERSION_PATCH 0
#define EPG_VERSION_STRING "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

/* The library's version, EPG_VERSION_STRING of its build. */
EPG_API const char *epg_version(void);

#ifdef __cplusplus
}
#endif
#endif
