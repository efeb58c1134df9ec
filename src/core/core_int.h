/* core, for the library's other parts: messages, checked allocation, settings. Depends on nothing. */
#ifndef EPG_CORE_INT_H
#define EPG_CORE_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "epgraph/settings.h"
#include "epgraph/status.h"

/* Writes this thread's message and returns `status`: `return epg__fail(EPG_ERR_INVALID, "ranks is %d, ...", n);`
 * Whoever detects an error first calls it; callers forward the status untouched. */
epg_status epg__fail(epg_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts a prefix before this thread's message ("layer 3: ...") and returns `status`. */
epg_status epg__fail_prefix(epg_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

typedef struct epg__message {
    char text[1024];
} epg__message;

/* Where the calling thread's messages go from here on: for a simulation, whose programs each count as a thread. NULL:
 * the thread's own place. */
void epg__message_use(epg__message *message);

/* A copy of the calling thread's message, to be put back after calls that may write another; restore returns
 * `status`. */
void epg__message_keep(epg__message *kept);
epg_status epg__message_restore(const epg__message *kept, epg_status status);

/* As keep, and leaves none: before a caller's function, which may fail without a message of ours, and an older
 * failure's must not be taken for its own. */
void epg__message_take(epg__message *kept);

/* Forwards a failure to the caller. */
#define EPG_TRY(call)                        \
    do {                                     \
        epg_status try_status_ = (call);     \
        if (try_status_ != EPG_OK)           \
            return try_status_;              \
    } while (0)

/* As EPG_TRY, with a jump to a clean-up label; `status` must be in scope. */
#define EPG_TRY_GOTO(call, label)            \
    do {                                     \
        status = (call);                     \
        if (status != EPG_OK)                \
            goto label;                      \
    } while (0)

/* Zeroed memory for `count` objects of `size` bytes; NULL, with a message naming `what` and the bytes, if there is
 * none or the product overflows. count 0 gives a pointer that may be freed. */
void *epg__zalloc(size_t count, size_t size, const char *what);

/* Like epg__zalloc, aligned to `align` (a power of two, at least sizeof(void *)). Freed with free(). */
void *epg__zalloc_aligned(size_t align, size_t count, size_t size, const char *what);

/* Grows an array to hold `count` objects; the new part is not cleared. NULL leaves `old` as it was. */
void *epg__grow(void *old, size_t count, size_t size, const char *what);

/* A copy of `text`; NULL with a message if there is no memory. */
char *epg__strdup(const char *text);

/* The settings, by index into the table in settings.c. Each reads the environment now: call it at creation only. */
typedef enum epg__setting {
    EPG__SETTING_TIMEOUT_MS,
    EPG__SETTING_LL_MAX_TOKENS,
    EPG__SETTING_WARMUPS,
    EPG__SETTING_SPIN,
    EPG__SETTING_COUNT
} epg__setting;

/* The setting as an integer in [least, most]; EPG_ERR_INVALID names the variable and its text otherwise. */
epg_status epg__setting_integer(epg__setting setting, long long least, long long most, long long *value);

#define EPG__COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* a*b and a+b that refuse to wrap: false, and *out untouched, where the result does not fit. */
static inline bool epg__mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool epg__add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

/* Checks a public options struct's `size` field against the version compiled here: options may only grow at the end, so
 * a caller built against an older header passes a smaller one. `least` is the size of the first published version. */
#define EPG__CHECK_SIZE(options, least)                                                                        \
    do {                                                                                                       \
        if ((options)->size < (least) || (options)->size > 4096)                                               \
            return epg__fail(EPG_ERR_INVALID, #options "->size is %u: use the INIT macro", (options)->size);   \
    } while (0)

#endif
