/* The conformance table's parts: what a row has to work with (conform.c makes it), and the operations (conform_ops.c).
 * Written against the public API and the probes of device_ops.h, so that one body asks every device. */
#ifndef EPG_CONFORM_INT_H
#define EPG_CONFORM_INT_H

#include "device/device_ops.h"
#include "epgraph/conform.h"

enum { EPG__CONFORM_OPS = 75, EPG__CONFORM_BYTES = 4096, EPG__CONFORM_COPY = 64 };

typedef struct epg__conform_thread epg__conform_thread;

typedef struct epg__conform_world {
    epg_device *device;
    /* For all rows. */
    epg__conform_thread *thread; /* the other one */
    void *to, *from, *pinned;  /* two places on the device and one on the host, for copies */
    char *pageable;
    epg_exec exec;             /* one launch of the probe */
    void *spare, *spare_pinned; /* for operations that free; NULL once one did */
    /* One row's own. */
    epg_capture_mode mode;
    epg_stream captured;       /* NULL: the operation destroyed it */
    epg_stream blocking, nonblocking;
    epg_event before;          /* recorded in `nonblocking` before the capture began */
    epg_event event;           /* not recorded yet */
    void *spare_async;         /* stream-ordered memory; NULL once the operation freed it */
    void *got;                 /* memory that the operation allocated */
    epg_memory_kind got_kind;
    bool ended;                /* the operation ended the capture */
    int end_result;
    uint64_t nodes;
} epg__conform_world;

extern const char *const epg__conform_names[EPG__CONFORM_OPS];

/* Makes operation `op`. What a row's set-up fails at is its caller's to tell apart: here every status is an answer. */
epg_status epg__conform_ask(epg__conform_world *world, uint32_t op);

/* conform_thread.c: the other thread. create leaves it ready to be asked; destroying NULL does nothing. */
epg_status epg__conform_thread_create(epg_device *device, epg__conform_thread **thread);
void epg__conform_thread_destroy(epg__conform_thread *thread);

/* As epg__conform_ask, on that thread. */
epg_status epg__conform_thread_ask(epg__conform_thread *thread, epg__conform_world *world, uint32_t op);

/* Ends the capture and notes what came of it. */
epg_status epg__conform_end(epg__conform_world *world);

#endif
