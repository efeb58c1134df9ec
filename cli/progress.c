/* A progress bar on stderr. */
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include "progress.h"

#define WIDTH 40

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void progress_start(progress *bar, const char *label, uint64_t all)
{
    bar->enabled = isatty(2);
    bar->label = label;
    bar->all = all ? all : 1;
    bar->drawn_ms = 0;
    atomic_store(&bar->done, 0);
}

void progress_add(progress *bar, uint64_t more)
{
    atomic_fetch_add_explicit(&bar->done, more, memory_order_relaxed);
}

void progress_draw(progress *bar)
{
    int64_t now = bar->enabled ? now_ms() : 0;
    if (!bar->enabled || now - bar->drawn_ms < 100)
        return;
    bar->drawn_ms = now;
    uint64_t done = atomic_load_explicit(&bar->done, memory_order_relaxed);
    double part = done >= bar->all ? 1.0 : (double)done / (double)bar->all;
    int filled = (int)(part * WIDTH);
    fprintf(stderr, "\r%-28s [%.*s%*s] %3d%%", bar->label, filled, "########################################",
            WIDTH - filled, "", (int)(part * 100));
}

void progress_finish(progress *bar)
{
    if (bar->enabled && bar->drawn_ms)
        fprintf(stderr, "\r%*s\r", WIDTH + 40, "");
}
