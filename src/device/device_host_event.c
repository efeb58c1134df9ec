/* The host device's events: marks in a stream's order that other streams, and the caller, can wait for.
 *
 * Not here: what an event means to a capture (device_host_capture.c).
 *
 * Invariants: every record makes a new epg__host_record, so a wait that took the old one is not moved by a later
 * record. An event has a record, or a capture id, or neither. */
#include <stdlib.h>
#include "device/device_host_int.h"

void epg__host_record_finish(epg__host_record *record)
{
    epg__engine *engine = epg__host_engine(record->device);
    record->time_ns = epg__now_ns(engine);
    record->done = true;
    epg__cond_broadcast(engine, &record->finished);
}

static void record_free(epg__host_record *record)
{
    *record->link = record->next;
    if (record->next)
        record->next->link = record->link;
    epg__host_engine(record->device)->ops->cond_destroy(&record->finished);
    free(record);
}

void epg__host_record_drop(epg__host_record *record)
{
    if (!record || --record->refs > 0)
        return;
    record_free(record);
}

void epg__host_records_end(epg__host_device *device)
{
    while (device->records)
        record_free(device->records);
}

static epg__host_record *record_create(epg__host_device *device)
{
    epg__host_record *record = epg__zalloc(1, sizeof *record, "an event's record");
    if (!record)
        return NULL;
    record->refs = 1;
    record->device = device;
    record->next = device->records;
    record->link = &device->records;
    if (record->next)
        record->next->link = &record->next;
    device->records = record;
    epg__host_engine(device)->ops->cond_init(&record->finished);
    return record;
}

/* Queues a RECORD or WAIT of `record`, which gets one holder more. */
static epg_status push_record(epg_stream stream, epg__host_kind kind, epg__host_record *record)
{
    epg__host_work *work = epg__host_work_create(kind, kind == EPG__HOST_WAIT ? "event wait" : "event record", NULL, 0);
    if (!work)
        return EPG_ERR_NO_MEMORY;
    work->u.record = record;
    record->refs++;
    epg_status status = epg__host_push(stream, work);
    if (status != EPG_OK)
        epg__host_work_free(work);
    return status;
}

epg_status epg__host_event_create(epg_device *device, epg_event *event)
{
    epg_event made = epg__zalloc(1, sizeof *made, "an event");
    (void)device;
    if (!made)
        return EPG_ERR_NO_MEMORY;
    *event = made;
    return EPG_OK;
}

epg_status epg__host_event_destroy(epg_device *base, epg_event event)
{
    epg__host_device *device = epg__host_of(base);
    if (!event)
        return EPG_OK;
    epg__host_lock(device);
    epg__host_record_drop(event->record);
    epg__host_unlock(device);
    free(event->frontier.nodes);
    free(event);
    return EPG_OK;
}

static epg_status record_uncaptured(epg_stream stream, epg_event event)
{
    epg__host_record *record = record_create(stream->device);
    if (!record)
        return EPG_ERR_NO_MEMORY;
    if (epg__host_stream_clear(stream)) {
        epg__host_record_finish(record); /* nothing before it: no worker needed */
    } else {
        epg_status status = push_record(stream, EPG__HOST_RECORD, record);
        if (status != EPG_OK) {
            epg__host_record_drop(record);
            return status;
        }
    }
    epg__host_record_drop(event->record);
    event->record = record;
    event->capture_id = 0;
    return EPG_OK;
}

epg_status epg__host_event_record(epg_device *base, epg_event event, epg_stream stream)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_status status = epg__host_resolve(device, stream, &stream);
    if (status == EPG_OK)
        status = epg__capture_check_work(stream, "epg_event_record");
    if (status == EPG_OK)
        status = stream->capture ? epg__capture_record(stream, event) : record_uncaptured(stream, event);
    epg__host_unlock(device);
    return status;
}

epg_status epg__host_stream_wait_event(epg_device *base, epg_stream stream, epg_event event)
{
    epg__host_device *device = epg__host_of(base);
    bool handled = false;
    epg__host_lock(device);
    epg_status status = epg__host_resolve(device, stream, &stream);
    if (status == EPG_OK)
        status = epg__capture_wait(stream, event, &handled);
    if (status == EPG_OK && !handled && event->record && !event->record->done)
        status = push_record(stream, EPG__HOST_WAIT, event->record);
    epg__host_unlock(device);
    return status;
}

/* The rules of a look at an event's progress: not at a captured one, and as unsafe as any other look. */
static epg_status check_look(epg__host_device *device, epg_event event, const char *what)
{
    EPG_TRY(epg__capture_check_event(device, event, true, what));
    return epg__capture_check_unsafe(device, what);
}

epg_status epg__host_event_query(epg_device *base, epg_event event)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_status status = check_look(device, event, "epg_event_query");
    if (status == EPG_OK && event->record && !event->record->done)
        status = epg__fail(EPG_ERR_NOT_READY, "the work before the event has not finished");
    epg__host_unlock(device);
    return status;
}

epg_status epg__host_event_synchronize(epg_device *base, epg_event event)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_status status = check_look(device, event, "epg_event_synchronize");
    epg__host_record *record = event->record;
    if (status == EPG_OK && record) {
        record->refs++;
        while (status == EPG_OK && !record->done)
            status = epg__host_wait(device, &record->finished, "an event");
        epg__host_record_drop(record);
    }
    epg__host_unlock(device);
    return status;
}

static epg_status elapsed(epg__host_device *device, epg_event start, epg_event stop, double *us)
{
    EPG_TRY(epg__capture_check_event(device, start, false, "epg_event_elapsed_us"));
    EPG_TRY(epg__capture_check_event(device, stop, false, "epg_event_elapsed_us"));
    if (!start->record || !stop->record)
        return epg__fail(EPG_ERR_HANDLE, "epg_event_elapsed_us: the %s event was never recorded",
                         start->record ? "stop" : "start");
    if (!start->record->done || !stop->record->done)
        return epg__fail(EPG_ERR_NOT_READY, "the work before the %s event has not finished",
                         start->record->done ? "stop" : "start");
    *us = (double)(int64_t)(stop->record->time_ns - start->record->time_ns) / 1000.0;
    return EPG_OK;
}

epg_status epg__host_event_elapsed_us(epg_device *base, epg_event start, epg_event stop, double *us)
{
    epg__host_device *device = epg__host_of(base);
    epg__host_lock(device);
    epg_status status = elapsed(device, start, stop, us);
    epg__host_unlock(device);
    return status;
}
