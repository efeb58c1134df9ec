/* A progress bar on stderr: drawn on a terminal, silent otherwise. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdatomic.h>
#include <stdint.h>

typedef struct progress {
    int enabled;
    const char *label;
    uint64_t all;
    _Atomic uint64_t done;      /* any thread adds to it */
    int64_t drawn_ms;           /* the drawing thread's own */
} progress;

void progress_start(progress *bar, const char *label, uint64_t all);
void progress_add(progress *bar, uint64_t more);   /* any thread */
void progress_draw(progress *bar);                 /* one thread; at most ten times a second */
void progress_finish(progress *bar);               /* wipes the line */

#endif
