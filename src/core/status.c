/* Names, texts and native codes of statuses, and the calling thread's message. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "core/core_int.h"

/* Per-thread state, as errno is (scopes are a thread's too, nothing else): the last failure's sentence. A message on a
 * handle was rejected: a call that fails to create a handle has none to put it on. */
enum { MESSAGE_BYTES = sizeof(epg__message) };
static _Thread_local char own[MESSAGE_BYTES];
static _Thread_local char *elsewhere; /* a simulated thread's; NULL: `own` is used */

static char *message_now(void) { return elsewhere ? elsewhere : own; }

void epg__message_use(epg__message *message) { elsewhere = message ? message->text : NULL; }

const char *epg_status_name(epg_status status)
{
    switch (EPG_IS_NATIVE(status) ? (int)EPG_ERR_NATIVE : (int)status) {
#define NAME(code, name, native, text) case code: return "EPG_" #name;
        EPG_STATUS_TABLE(NAME)
#undef NAME
    }
    return "unknown status";
}

const char *epg_status_text(epg_status status)
{
    switch (EPG_IS_NATIVE(status) ? (int)EPG_ERR_NATIVE : (int)status) {
#define TEXT(code, name, native, text) case code: return text;
        EPG_STATUS_TABLE(TEXT)
#undef TEXT
    }
    return "unknown status";
}

int epg_status_native(epg_status status)
{
    if (EPG_IS_NATIVE(status))
        return (int)status - (int)EPG_ERR_NATIVE;
    switch ((int)status) {
#define NATIVE(code, name, native, text) case code: return native;
        EPG_STATUS_TABLE(NATIVE)
#undef NATIVE
    }
    return 0;
}

const char *epg_message(void) { return message_now(); }

epg_status epg__fail(epg_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(message_now(), MESSAGE_BYTES, format, args);
    va_end(args);
    return status;
}

void epg__message_keep(epg__message *kept) { snprintf(kept->text, sizeof kept->text, "%s", message_now()); }

void epg__message_take(epg__message *kept)
{
    epg__message_keep(kept);
    message_now()[0] = 0;
}

epg_status epg__message_restore(const epg__message *kept, epg_status status)
{
    return epg__fail(status, "%s", kept->text);
}

epg_status epg__fail_prefix(epg_status status, const char *format, ...)
{
    char cause[MESSAGE_BYTES];
    va_list args;
    char *message = message_now();
    memcpy(cause, message, sizeof cause);
    va_start(args, format);
    int used = vsnprintf(message, MESSAGE_BYTES, format, args);
    va_end(args);
    if (used >= 0 && (size_t)used < MESSAGE_BYTES)
        snprintf(message + used, MESSAGE_BYTES - (size_t)used, "%s", cause);
    return status;
}
