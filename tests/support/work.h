/* Kernels for tests, the same on every device: they wait for a gate, note when they ran, meet one another, take time.
 *
 * A `work` lies in mapped memory, so that kernels and the test see it at one address. */
#ifndef TESTS_WORK_H
#define TESTS_WORK_H

#include "epgraph/device.h"

#ifdef __cplusplus
extern "C" {
#endif

#define WORK_PLACES 13

typedef struct work {
    uint32_t entered, open;   /* the gate: set by a gated kernel; set by the test */
    uint32_t clock;           /* how many notes were made */
    uint32_t at[WORK_PLACES]; /* which one was made here, from 1 */
} work;

work *work_create(epg_device *device); /* NULL: there was no memory */
void work_destroy(epg_device *device, work *w);
void work_open(work *w);               /* opens the gate */

/* Notes itself at a place, behind the gate if `gated`. */
epg_status work_note(epg_device *device, epg_stream stream, work *w, int gated, uint32_t place);

/* Counts at[mine] up and waits until at[theirs] is no less: two of these end only if they run at once. */
epg_status work_meet(epg_device *device, epg_stream stream, work *w, uint32_t mine, uint32_t theirs);

/* Takes this long. */
epg_status work_pause(epg_device *device, epg_stream stream, uint32_t us);

/* What the device's kernel is told; for work*.c and work_cuda.cu alone. */
typedef enum work_kind { WORK_NOTE, WORK_MEET, WORK_PAUSE } work_kind;
typedef struct work_params {
    work *w;
    work_kind kind;
    int gated;
    uint32_t mine, theirs, us;
} work_params;
epg_status work_launch_cuda(epg_device *device, epg_stream stream, const work_params *params);

#ifdef __cplusplus
}
#endif
#endif
