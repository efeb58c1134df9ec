/* The device's clock: how fine it is, what a timestamp costs, and how far the host's idea of it runs off. Needs a GPU.
 *
 * Fineness: the smallest difference between neighbours among timestamps that run back to back, and how many are equal.
 * Cost: the time of such a graph by its number of timestamps. Run-off: a timestamp taken between two looks at
 * epg_device_now_ns must lie between them; by how much it does not, from second to second. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include "bench/check.h"
#include "epgraph/device.h"

enum { STAMPS = 1000, REPLAYS = 20, SECONDS = 12 };

typedef struct bench {
    epg_device *device;
    epg_stream stream;
    uint64_t *slots, *copy; /* [STAMPS]: the device's, the host's */
} bench;

static epg_exec capture_stamps(bench *b)
{
    epg_graph graph;
    epg_exec exec;
    CHECK(epg_capture_begin(b->device, b->stream, EPG_CAPTURE_THREAD_LOCAL));
    for (int i = 0; i < STAMPS; i++)
        CHECK(epg_timestamp_async(b->device, &b->slots[i], b->stream));
    CHECK(epg_capture_end(b->device, b->stream, &graph));
    CHECK(epg_graph_instantiate(b->device, graph, &exec));
    CHECK(epg_graph_destroy(b->device, graph));
    return exec;
}

static void fineness(bench *b)
{
    epg_exec exec = capture_stamps(b);
    uint64_t least = UINT64_MAX, divisor = 0, equal = 0, back = 0, span = 0;
    for (int r = 0; r < REPLAYS; r++) {
        CHECK(epg_exec_launch(b->device, exec, b->stream));
        CHECK(epg_memcpy_async(b->device, b->copy, b->slots, STAMPS * sizeof *b->copy, b->stream));
        CHECK(epg_stream_synchronize(b->device, b->stream));
        for (int i = 1; i < STAMPS; i++) {
            uint64_t step = b->copy[i] - b->copy[i - 1];
            equal += step == 0;
            back += b->copy[i] < b->copy[i - 1];
            if (step && step < least)
                least = step;
            for (uint64_t a = step; a; ) { /* the greatest common divisor of all steps */
                uint64_t rest = divisor % a;
                divisor = a;
                a = rest;
            }
        }
        span = b->copy[STAMPS - 1] - b->copy[0];
    }
    printf("neighbours among %d timestamps, %d replays: least difference %" PRIu64 " ns, all are multiples of %" PRIu64
           " ns, %" PRIu64 " equal, %" PRIu64 " backwards\n", STAMPS, REPLAYS, least, divisor, equal, back);
    printf("a timestamp as a node of a graph: %.2f us\n", (double)span / 1000.0 / (STAMPS - 1));
    CHECK(epg_exec_destroy(b->device, exec));
}

/* How far the device's time of a moment is outside of the host's bounds for it; 0: inside. */
static int64_t outside(bench *b, uint64_t *width)
{
    uint64_t before = epg_device_now_ns(b->device);
    CHECK(epg_timestamp_async(b->device, b->slots, b->stream));
    CHECK(epg_memcpy_async(b->device, b->copy, b->slots, sizeof *b->copy, b->stream));
    CHECK(epg_stream_synchronize(b->device, b->stream));
    uint64_t after = epg_device_now_ns(b->device);
    *width = after - before;
    if (*b->copy < before)
        return -(int64_t)(before - *b->copy);
    return *b->copy > after ? (int64_t)(*b->copy - after) : 0;
}

static void run_off(bench *b)
{
    for (int second = 0; second <= SECONDS; second += 2) {
        uint64_t width, least = UINT64_MAX;
        int64_t off = 0;
        for (int i = 0; i < 20; i++) {
            int64_t now = outside(b, &width);
            if (width < least)
                least = width, off = now;
        }
        printf("after %2d s: the timestamp is %" PRId64 " ns outside of the host's bounds, which are %" PRIu64
               " ns apart\n", second, off, least);
        struct timespec rest = {2, 0};
        nanosleep(&rest, NULL);
    }
}

int main(void)
{
    bench b = {0};
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    epg_device_info info = EPG_DEVICE_INFO_INIT;
    options.kind = EPG_DEVICE_CUDA;
    if (epg_device_create(&options, &b.device) != EPG_OK) {
        puts(epg_message());
        return 77;
    }
    CHECK(epg_device_describe(b.device, &info));
    printf("%s\n", info.name);
    CHECK(epg_stream_create(b.device, EPG_STREAM_NONBLOCKING, &b.stream));
    CHECK(epg_memory_alloc(b.device, EPG_MEMORY_DEVICE, STAMPS * sizeof *b.slots, (void **)&b.slots));
    CHECK(epg_memory_alloc(b.device, EPG_MEMORY_PINNED, STAMPS * sizeof *b.copy, (void **)&b.copy));
    fineness(&b);
    run_off(&b);
    epg_memory_free(b.device, EPG_MEMORY_DEVICE, b.slots);
    epg_memory_free(b.device, EPG_MEMORY_PINNED, b.copy);
    epg_stream_destroy(b.device, b.stream);
    epg_device_destroy(b.device);
    return 0;
}
