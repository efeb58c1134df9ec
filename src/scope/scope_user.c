/* A runtime of the caller's, set through its callbacks; get before and after shows that they did what they say. */
#include "scope/scope_ops.h"

enum { BEFORE = 0, STREAM = 1 };

static epg_stream canonical(epg_stream stream) { return stream == EPG_STREAM_LEGACY ? NULL : stream; }

static epg_status failed(const char *callback, epg_status status)
{
    return epg__fail(EPG_ERR_UNSUPPORTED, "%s gave %s", callback, epg_status_name(status));
}

static epg_status current(const epg_scope_runtime *user, int ordinal, epg_stream *stream)
{
    epg_status status = user->get(user->ctx, ordinal, stream);
    if (status != EPG_OK)
        return failed("get", status);
    *stream = canonical(*stream);
    return EPG_OK;
}

static epg_status expect(const epg_scope_runtime *user, int ordinal, epg_stream stream, const char *after)
{
    epg_stream now = NULL;
    EPG_TRY(current(user, ordinal, &now));
    if (now != canonical(stream))
        return epg__fail(EPG_ERR_UNSUPPORTED, "reads back %p after %s, which should be %p", (void *)now, after,
                         (void *)stream);
    return EPG_OK;
}

static epg_status find(epg__scope_found *found)
{
    (void)found;
    return EPG_OK;
}

static epg_status set(const epg__scope_found *found, int ordinal, epg_stream stream, epg__scope_saved *saved)
{
    const epg_scope_runtime *user = &found->user;
    epg_stream was = NULL;
    void *before = NULL;
    EPG_TRY(current(user, ordinal, &was));
    epg_status status = user->set(user->ctx, ordinal, stream, &before);
    if (status != EPG_OK)
        return failed("set", status);
    status = expect(user, ordinal, stream, "set");
    if (status != EPG_OK)
        user->restore(user->ctx, ordinal, before);
    saved->words[BEFORE] = (uint64_t)(uintptr_t)before;
    saved->words[STREAM] = (uint64_t)(uintptr_t)was;
    return status;
}

static epg_status restore(const epg__scope_found *found, int ordinal, const epg__scope_saved *saved)
{
    const epg_scope_runtime *user = &found->user;
    epg_status status = user->restore(user->ctx, ordinal, (void *)(uintptr_t)saved->words[BEFORE]);
    if (status != EPG_OK)
        return failed("restore", status);
    return expect(user, ordinal, (epg_stream)(uintptr_t)saved->words[STREAM], "restore");
}

const epg__scope_ops epg__scope_user = {.find = find, .set = set, .restore = restore};
