#include <time.h>
#include "device/device_ops.h"
#include "support/work.h"

work *work_create(epg_device *device)
{
    void *memory;
    return epg_memory_alloc(device, EPG_MEMORY_MAPPED, sizeof(work), &memory) == EPG_OK ? memory : NULL;
}

void work_destroy(epg_device *device, work *w) { epg_memory_free(device, EPG_MEMORY_MAPPED, w); }
void work_open(work *w) { __atomic_store_n(&w->open, 1, __ATOMIC_RELEASE); }

/* ---- the host device's kernel ---- */

static void pause_us(uint32_t us)
{
    struct timespec t = {us / 1000000, (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

static void meet(work *w, uint32_t mine, uint32_t theirs)
{
    uint32_t turn = __atomic_add_fetch(&w->at[mine], 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&w->at[theirs], __ATOMIC_SEQ_CST) < turn)
        pause_us(50);
}

static void kernel(const void *args)
{
    const work_params *p = args;
    if (p->gated) {
        __atomic_store_n(&p->w->entered, 1, __ATOMIC_RELEASE);
        while (!__atomic_load_n(&p->w->open, __ATOMIC_ACQUIRE))
            pause_us(100);
    }
    if (p->kind == WORK_NOTE) /* a plain store: a race detector sees notes that overlap */
        p->w->at[p->mine] = __atomic_add_fetch(&p->w->clock, 1, __ATOMIC_SEQ_CST);
    else if (p->kind == WORK_MEET)
        meet(p->w, p->mine, p->theirs);
    else
        pause_us(p->us);
}

/* ---- either device's ---- */

static epg_status launch(epg_device *device, epg_stream stream, const work_params *params)
{
    if (device->info.kind == EPG_DEVICE_CUDA)
        return work_launch_cuda(device, stream, params);
    return epg_host_launch(device, stream, kernel, params, sizeof *params, "work");
}

epg_status work_note(epg_device *device, epg_stream stream, work *w, int gated, uint32_t place)
{
    work_params params = {.w = w, .kind = WORK_NOTE, .gated = gated, .mine = place};
    return launch(device, stream, &params);
}

epg_status work_meet(epg_device *device, epg_stream stream, work *w, uint32_t mine, uint32_t theirs)
{
    work_params params = {.w = w, .kind = WORK_MEET, .mine = mine, .theirs = theirs};
    return launch(device, stream, &params);
}

epg_status work_pause(epg_device *device, epg_stream stream, uint32_t us)
{
    work_params params = {.kind = WORK_PAUSE, .us = us};
    return launch(device, stream, &params);
}
