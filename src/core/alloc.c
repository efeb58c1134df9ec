/* Checked allocation: zeroed, overflow-safe, with a message that names what the memory was for. */
#include <stdlib.h>
#include <string.h>
#include "core/core_int.h"

static void *no_memory(size_t count, size_t size, const char *what)
{
    epg__fail(EPG_ERR_NO_MEMORY, "no memory for %s (%zu x %zu bytes)", what, count, size);
    return NULL;
}

void *epg__zalloc(size_t count, size_t size, const char *what)
{
    void *memory = calloc(count ? count : 1, size);
    return memory ? memory : no_memory(count, size, what);
}

void *epg__zalloc_aligned(size_t align, size_t count, size_t size, const char *what)
{
    size_t bytes;
    void *memory;
    if (!epg__mul(count ? count : 1, size, &bytes) || posix_memalign(&memory, align, bytes) != 0)
        return no_memory(count, size, what);
    return memset(memory, 0, bytes);
}

void *epg__grow(void *old, size_t count, size_t size, const char *what)
{
    size_t bytes;
    void *memory = epg__mul(count ? count : 1, size, &bytes) ? realloc(old, bytes) : NULL;
    return memory ? memory : no_memory(count, size, what);
}

char *epg__strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = epg__zalloc(bytes, 1, "a string");
    return copy ? memcpy(copy, text, bytes) : NULL;
}
