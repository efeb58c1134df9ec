/* Loads stand-ins, and is a runtime of the caller's. */
#include "support/scopes.h"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

void *standin_load(const char *file)
{
    char path[512];
    const char *build = getenv("EPGRAPH_BUILD");
    snprintf(path, sizeof path, "%s/tests/standins/%s", build ? build : "build", file);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fail_msg("%s", dlerror());
    return library;
}

void *standin_symbol(void *library, const char *name)
{
    void *symbol = dlsym(library, name);
    if (!symbol)
        fail_msg("%s", dlerror());
    return symbol;
}

tvm load_tvm(const char *generation, const char *getter)
{
    char file[128];
    snprintf(file, sizeof file, "%s/libtvm_ffi.so", generation);
    tvm t = {.handle = standin_load(file)};
    t.set = (int (*)(int32_t, int32_t, void *, void **))standin_symbol(t.handle, "TVMFFIEnvSetStream");
    t.get = (void *(*)(int32_t, int32_t))standin_symbol(t.handle, getter);
    t.behave = (void (*)(int))standin_symbol(t.handle, "standin_behave");
    t.behave(STANDIN_OBEY);
    t.set(2, DEVICE, NULL, NULL);
    return t;
}

static void note(fake *f, char what)
{
    char entry[3] = {what, f->letter, 0};
    if (f->calls)
        strcat(f->calls->text, entry);
}

static epg_status fake_get(void *ctx, int ordinal, epg_stream *stream)
{
    fake *f = ctx;
    assert_int_equal(ordinal, f->on_gpu_0 ? 0 : DEVICE);
    *stream = f->now;
    return f->get_gives;
}

static epg_status fake_set(void *ctx, int ordinal, epg_stream stream, void **before)
{
    fake *f = ctx;
    assert_int_equal(ordinal, f->on_gpu_0 ? 0 : DEVICE);
    assert_null(*before);
    note(f, 's');
    if (f->set_gives != EPG_OK)
        return f->set_gives;
    *before = f->now;
    if (!f->ignores)
        f->now = stream;
    return EPG_OK;
}

static epg_status fake_restore(void *ctx, int ordinal, void *before)
{
    fake *f = ctx;
    assert_int_equal(ordinal, f->on_gpu_0 ? 0 : DEVICE);
    note(f, 'r');
    if (f->restore_gives == EPG_OK)
        f->now = before;
    return f->restore_gives;
}

epg_scope_runtime runtime_of(const char *name, fake *f)
{
    epg_scope_runtime runtime = EPG_SCOPE_RUNTIME_INIT;
    runtime.name = name, runtime.ctx = f;
    runtime.get = fake_get, runtime.set = fake_set, runtime.restore = fake_restore;
    return runtime;
}

epg_scope_table *table_of(uint32_t best_effort, const epg_scope_runtime *runtimes, size_t count)
{
    epg_scope_options options = EPG_SCOPE_OPTIONS_INIT;
    epg_scope_table *table = NULL;
    options.best_effort = best_effort, options.runtimes = runtimes, options.runtime_count = count;
    assert_int_equal(epg_scope_table_create(&options, &table), EPG_OK);
    return table;
}

const epg_scope_entry *entry_of(const epg_scope_report *report, const char *name)
{
    for (uint32_t i = 0; i < report->count; i++)
        if (strcmp(report->entries[i].name, name) == 0)
            return &report->entries[i];
    fail_msg("no line for %s", name);
    return NULL;
}

void assert_message(const char *part)
{
    if (!strstr(epg_message(), part))
        fail_msg("\"%s\" is not in: %s", part, epg_message());
}
