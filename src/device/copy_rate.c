/* The rate of a plain copy, with which the least time of other work is reckoned.
 *
 * Not here: the copy itself, which is each device's own (copy_launch). */
#include <stdlib.h>
#include "device/device_ops.h"

enum { TIMES = 10, STREAMS_MOST = 64, LEAST_BYTES = 1 << 16 };

typedef struct copies {
    epg_device *device;
    size_t bytes;
    char *from, *to;
    epg_stream streams[STREAMS_MOST];
    uint32_t count;             /* streams that share the copy */
    epg_event begin, end, order;
} copies;

static size_t part_bytes(const copies *c) { return c->bytes / c->count & ~(size_t)15; }

/* Random bytes, doubled on the device: zeros would be cheaper to move, and untouched pages to read. */
static epg_status fill(const copies *c)
{
    enum { SEED_BYTES = LEAST_BYTES };
    uint64_t *bytes = epg__zalloc(SEED_BYTES, 1, "what a copy copies"), state = 0x9E3779B97F4A7C15ull;
    if (!bytes)
        return EPG_ERR_NO_MEMORY;
    for (size_t i = 0; i < SEED_BYTES / sizeof *bytes; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        bytes[i] = state;
    }
    epg_status status = epg_memcpy(c->device, c->from, bytes, SEED_BYTES);
    free(bytes);
    for (size_t filled = SEED_BYTES; filled < c->bytes && status == EPG_OK; filled *= 2) {
        size_t more = c->bytes - filled < filled ? c->bytes - filled : filled;
        status = epg_memcpy(c->device, c->from + filled, c->from, more);
    }
    return status;
}

static epg_status enqueue(const copies *c, int times)
{
    size_t part = part_bytes(c);
    for (uint32_t s = 0; s < c->count; s++)
        for (int i = 0; i < times; i++)
            EPG_TRY(c->device->ops->copy_launch(c->device, c->streams[s], c->to + s * part, c->from + s * part, part));
    return EPG_OK;
}

/* All streams begin behind the first one's mark, and it ends behind all of them. */
static epg_status measure(const copies *c, double *bytes_per_second)
{
    epg_stream first = c->streams[0];
    double us;
    EPG_TRY(enqueue(c, 1)); /* warms up */
    EPG_TRY(epg_device_synchronize(c->device));
    EPG_TRY(epg_event_record(c->device, c->begin, first));
    for (uint32_t s = 1; s < c->count; s++)
        EPG_TRY(epg_stream_wait_event(c->device, c->streams[s], c->begin));
    EPG_TRY(enqueue(c, TIMES));
    for (uint32_t s = 1; s < c->count; s++) {
        EPG_TRY(epg_event_record(c->device, c->order, c->streams[s]));
        EPG_TRY(epg_stream_wait_event(c->device, first, c->order));
    }
    EPG_TRY(epg_event_record(c->device, c->end, first));
    EPG_TRY(epg_event_synchronize(c->device, c->end));
    EPG_TRY(epg_event_elapsed_us(c->device, c->begin, c->end, &us));
    if (us <= 0)
        return epg__fail(EPG_ERR_UNSUPPORTED, "%s: a copy takes no time there", c->device->info.name);
    *bytes_per_second = 2e6 * (double)part_bytes(c) * c->count * TIMES / us;
    return EPG_OK;
}

static epg_status create(copies *c)
{
    epg_device *d = c->device;
    uint32_t wanted = d->ops->copy_fills_device ? 1 : d->info.units;
    wanted = wanted < STREAMS_MOST ? wanted : STREAMS_MOST;
    EPG_TRY(epg_memory_alloc(d, EPG_MEMORY_DEVICE, c->bytes, (void **)&c->from));
    EPG_TRY(epg_memory_alloc(d, EPG_MEMORY_DEVICE, c->bytes, (void **)&c->to));
    EPG_TRY(epg_event_create(d, &c->begin));
    EPG_TRY(epg_event_create(d, &c->end));
    EPG_TRY(epg_event_create_order(d, &c->order));
    for (; c->count < wanted; c->count++)
        EPG_TRY(epg_stream_create(d, EPG_STREAM_NONBLOCKING, &c->streams[c->count]));
    return fill(c);
}

static void destroy(const copies *c)
{
    const epg_event events[] = {c->begin, c->end, c->order};
    for (uint32_t s = 0; s < c->count; s++) {
        epg_stream_synchronize(c->device, c->streams[s]);
        epg_stream_destroy(c->device, c->streams[s]);
    }
    for (size_t i = 0; i < EPG__COUNT_OF(events); i++)
        if (events[i])
            epg_event_destroy(c->device, events[i]);
    epg_memory_free(c->device, EPG_MEMORY_DEVICE, c->from);
    epg_memory_free(c->device, EPG_MEMORY_DEVICE, c->to);
}

epg_status epg_device_copy_rate(epg_device *device, size_t bytes, double *bytes_per_second)
{
    copies c = {.device = device, .bytes = bytes};
    if (!device || !bytes_per_second)
        return epg__fail(EPG_ERR_INVALID, "%s: %s is NULL", __func__, device ? "bytes_per_second" : "device");
    if (bytes < LEAST_BYTES)
        return epg__fail(EPG_ERR_INVALID, "%s: %zu bytes are too few for a rate, below %d", __func__, bytes,
                         LEAST_BYTES);
    if (device->simulator)
        return epg__fail(EPG_ERR_UNSUPPORTED, "%s: a simulated device's time is virtual", __func__);
    epg_status status = create(&c);
    if (status == EPG_OK)
        status = measure(&c, bytes_per_second);
    destroy(&c);
    return status;
}
