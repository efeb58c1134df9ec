/* Libraries that the process has loaded, and the symbols that are their own. Loads none. */
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include "scope/scope_ops.h"

enum { PATH_BYTES = 1024 };

typedef struct search {
    const char *pattern;
    unsigned count;
    char paths[2][PATH_BYTES];
} search;

static int note_generation(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size;
    *(uint64_t *)data = (uint64_t)(info->dlpi_adds + info->dlpi_subs);
    return 1; /* every entry has the same two counters */
}

uint64_t epg__scope_libraries_generation(void)
{
    uint64_t generation = 0;
    dl_iterate_phdr(note_generation, &generation);
    return generation;
}

static bool matches(const char *pattern, const char *path)
{
    if (strchr(pattern, '/'))
        return strstr(path, pattern) != NULL;
    const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
    size_t length = strlen(pattern);
    return strncmp(file, pattern, length) == 0 && (file[length] == 0 || file[length] == '.');
}

/* Only notes the path: dlopen does not belong under the loader's lock, which is held here. */
static int note_match(struct dl_phdr_info *info, size_t size, void *data)
{
    search *s = data;
    (void)size;
    if (!info->dlpi_name || !matches(s->pattern, info->dlpi_name))
        return 0;
    if (s->count < EPG__COUNT_OF(s->paths))
        snprintf(s->paths[s->count], PATH_BYTES, "%s", info->dlpi_name);
    s->count++;
    return 0;
}

epg_status epg__scope_library_open(const char *pattern, void **library)
{
    search s = {.pattern = pattern};
    dl_iterate_phdr(note_match, &s);
    if (s.count > 1)
        return epg__fail(EPG_ERR_UNSUPPORTED, "loaded twice: %.70s and %.70s", s.paths[0], s.paths[1]);
    /* NULL also where it was unloaded in between. */
    *library = s.count ? dlopen(s.paths[0], RTLD_NOLOAD | RTLD_LOCAL | RTLD_NOW) : NULL;
    return EPG_OK;
}

bool epg__scope_same_library(const void *one, const void *other)
{
    Dl_info info;
    struct link_map *owner = NULL, *others = NULL;
    return dladdr1(one, &info, (void **)&owner, RTLD_DL_LINKMAP) &&
           dladdr1(other, &info, (void **)&others, RTLD_DL_LINKMAP) && owner == others;
}

void *epg__scope_symbol(void *library, const char *symbol)
{
    Dl_info info;
    struct link_map *owner = NULL, *self = NULL;
    void *address = dlsym(library, symbol);
    if (!address || dlinfo(library, RTLD_DI_LINKMAP, &self) != 0)
        return NULL;
    if (!dladdr1(address, &info, (void **)&owner, RTLD_DL_LINKMAP))
        return NULL;
    return owner == self ? address : NULL;
}
