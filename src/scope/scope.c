/* The table of runtimes, and scopes: which runtimes are there, entering all or none of them, leaving in reverse.
 *
 * How a runtime is set is its own file's business. Invariants: the lock is not held while a runtime is set or put
 * back; a runtime that was found stays found, since the table keeps its library loaded. A thread's open scopes are a
 * stack, whatever their tables: two tables may set the same runtime, and one left late would undo the other. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "scope/scope_ops.h"

struct epg_scope_table {
    pthread_mutex_t lock;
    uint32_t references; /* the caller's own, and one per open scope; under the lock, as are all that follow */
    bool searched;
    uint64_t generation; /* of the libraries when they were last searched */
    bool best_effort;    /* does not change */
    uint32_t count;
    epg__scope_found found[EPG_SCOPE_MAX_RUNTIMES];
};

struct epg_scope {
    epg_scope_table *table;
    epg_scope *outer; /* the thread's next one outwards */
    pthread_t thread;
    int ordinal;
    bool is_set[EPG_SCOPE_MAX_RUNTIMES];
    epg__scope_saved saved[EPG_SCOPE_MAX_RUNTIMES];
};

/* The calling thread's, as its message is. */
static _Thread_local epg_scope *innermost;

static const epg__scope_ops *const built_in[] = {&epg__scope_torch, &epg__scope_tvm_ffi, &epg__scope_paddle,
                                                 &epg__scope_cupy, &epg__scope_warp};

/* ---- the table ---- */

static epg_status check_runtime(const epg_scope_runtime *runtime, size_t index)
{
    if (runtime->size != sizeof *runtime)
        return epg__fail(EPG_ERR_INVALID, "runtimes[%zu].size is %u: use the INIT macro", index, runtime->size);
    if (!runtime->name || !*runtime->name || strlen(runtime->name) >= EPG_SCOPE_NAME_BYTES)
        return epg__fail(EPG_ERR_INVALID, "runtimes[%zu].name is \"%.40s\": 1..%d bytes are needed", index,
                         runtime->name ? runtime->name : "", EPG_SCOPE_NAME_BYTES - 1);
    if (!runtime->get || !runtime->set || !runtime->restore)
        return epg__fail(EPG_ERR_INVALID, "runtime %s has no %s", runtime->name,
                         !runtime->get ? "get" : !runtime->set ? "set" : "restore");
    return EPG_OK;
}

static epg_status check_options(const epg_scope_options *options)
{
    EPG__CHECK_SIZE(options, sizeof(epg_scope_options));
    size_t most = EPG_SCOPE_MAX_RUNTIMES - EPG__COUNT_OF(built_in);
    if (options->runtime_count > most)
        return epg__fail(EPG_ERR_INVALID, "runtime_count is %zu, above %zu", options->runtime_count, most);
    if (options->runtime_count && !options->runtimes)
        return epg__fail(EPG_ERR_INVALID, "runtimes is NULL and runtime_count %zu", options->runtime_count);
    for (size_t i = 0; i < options->runtime_count; i++) {
        EPG_TRY(check_runtime(&options->runtimes[i], i));
        for (size_t j = 0; j < i; j++)
            if (strcmp(options->runtimes[i].name, options->runtimes[j].name) == 0)
                return epg__fail(EPG_ERR_INVALID, "runtimes[%zu] and runtimes[%zu] are both named %s", j, i,
                                 options->runtimes[i].name);
    }
    return EPG_OK;
}

static epg__scope_found *add(epg_scope_table *table, const epg__scope_ops *ops, const char *name)
{
    epg__scope_found *found = &table->found[table->count++];
    found->ops = ops;
    found->state = EPG_SCOPE_ABSENT;
    snprintf(found->name, sizeof found->name, "%s", name);
    return found;
}

static bool is_replaced(const epg_scope_options *options, const char *name)
{
    for (size_t i = 0; i < options->runtime_count; i++)
        if (strcmp(options->runtimes[i].name, name) == 0)
            return true;
    return false;
}

epg_status epg_scope_table_create(const epg_scope_options *options, epg_scope_table **table)
{
    const epg_scope_options defaults = EPG_SCOPE_OPTIONS_INIT;
    if (!table)
        return epg__fail(EPG_ERR_INVALID, "table is NULL");
    if (!options)
        options = &defaults;
    EPG_TRY(check_options(options));
    epg_scope_table *made = epg__zalloc(1, sizeof *made, "a table of runtimes");
    if (!made)
        return EPG_ERR_NO_MEMORY;
    pthread_mutex_init(&made->lock, NULL);
    made->references = 1;
    made->best_effort = options->best_effort != 0;
    for (size_t i = 0; i < EPG__COUNT_OF(built_in); i++)
        if (!is_replaced(options, built_in[i]->name))
            add(made, built_in[i], built_in[i]->name);
    for (size_t i = 0; i < options->runtime_count; i++) {
        epg__scope_found *found = add(made, &epg__scope_user, options->runtimes[i].name);
        found->user = options->runtimes[i];
        found->user.name = found->name;
        found->state = EPG_SCOPE_SET;
    }
    *table = made;
    return EPG_OK;
}

/* With the lock held; lets go of it, and of the table with its last reference. */
static void release_locked(epg_scope_table *table)
{
    bool last = --table->references == 0;
    pthread_mutex_unlock(&table->lock);
    if (!last)
        return;
    for (uint32_t i = 0; i < table->count; i++)
        if (table->found[i].handle)
            dlclose(table->found[i].handle);
    pthread_mutex_destroy(&table->lock);
    free(table);
}

void epg_scope_table_destroy(epg_scope_table *table)
{
    if (!table)
        return;
    pthread_mutex_lock(&table->lock);
    release_locked(table);
}

/* ---- which runtimes are there ---- */

static epg_status open_library(epg__scope_found *found)
{
    EPG_TRY(epg__scope_library_open(found->ops->file, &found->handle));
    if (!found->handle && found->ops->former_file)
        return epg__scope_library_open(found->ops->former_file, &found->handle);
    return EPG_OK;
}

/* False if it is to be looked for again, though no library was loaded in between. */
static bool look_for(epg__scope_found *found)
{
    epg_status status = open_library(found);
    if (status == EPG_OK && !found->handle)
        return true;
    if (status == EPG_OK)
        status = found->ops->find(found);
    if (status == EPG_ERR_NOT_FOUND || status == EPG_ERR_NOT_READY) {
        dlclose(found->handle);
        found->handle = NULL;
        return status == EPG_ERR_NOT_FOUND;
    }
    found->state = status == EPG_OK ? EPG_SCOPE_SET : EPG_SCOPE_UNSUPPORTED;
    if (status != EPG_OK)
        snprintf(found->reason, sizeof found->reason, "%s", epg_message());
    return true;
}

static void search_locked(epg_scope_table *table)
{
    uint64_t generation = epg__scope_libraries_generation();
    if (table->searched && generation == table->generation)
        return;
    table->searched = true;
    for (uint32_t i = 0; i < table->count; i++)
        if (table->found[i].state == EPG_SCOPE_ABSENT && !look_for(&table->found[i]))
            table->searched = false;
    table->generation = generation;
}

/* ---- entering ---- */

static void report_line(epg_scope_report *report, uint32_t index, const epg__scope_found *found, epg_scope_state state,
                        const char *reason)
{
    epg_scope_entry *entry = &report->entries[index];
    entry->state = state;
    memcpy(entry->name, found->name, sizeof entry->name);
    entry->reason[0] = 0;
    if (*reason) /* hardly ever, and formatting takes longer than the rest of a scope */
        snprintf(entry->reason, sizeof entry->reason, "%s", reason);
}

static epg_status restore_all(epg_scope *scope)
{
    epg_status first = EPG_OK;
    char reason[EPG_SCOPE_REASON_BYTES] = "";
    for (uint32_t i = scope->table->count; i-- > 0;) {
        const epg__scope_found *found = &scope->table->found[i];
        if (!scope->is_set[i] || found->ops->restore(found, scope->ordinal, &scope->saved[i]) == EPG_OK || first)
            continue;
        first = EPG_ERR_UNSUPPORTED;
        snprintf(reason, sizeof reason, "%.31s: %.150s", found->name, epg_message());
    }
    return first ? epg__fail(first, "%s", reason) : EPG_OK;
}

/* Sets every runtime, those after a failure too: the report is to say of each what can be done with it. */
static epg_status set_all(epg_scope *scope, epg_stream stream, const epg_scope_state *states, epg_scope_report *report)
{
    epg_status first = EPG_OK;
    char reason[EPG_SCOPE_NAME_BYTES + EPG_SCOPE_REASON_BYTES] = "";
    for (uint32_t i = 0; i < scope->table->count; i++) {
        const epg__scope_found *found = &scope->table->found[i];
        epg_scope_state state = states[i];
        const char *why = state == EPG_SCOPE_UNSUPPORTED ? found->reason : "";
        scope->is_set[i] =
            state == EPG_SCOPE_SET && found->ops->set(found, scope->ordinal, stream, &scope->saved[i]) == EPG_OK;
        if (state == EPG_SCOPE_SET && !scope->is_set[i])
            state = EPG_SCOPE_UNSUPPORTED, why = epg_message();
        if (report)
            report_line(report, i, found, state, why);
        if (state == EPG_SCOPE_UNSUPPORTED && !first) {
            first = EPG_ERR_UNSUPPORTED;
            snprintf(reason, sizeof reason, "%s: %.190s", found->name, why);
        }
    }
    if (report)
        report->count = scope->table->count;
    if (first == EPG_OK || scope->table->best_effort)
        return EPG_OK;
    if (restore_all(scope) != EPG_OK)
        return epg__fail_prefix(first, "%s; and what was set before could not be put back: ", reason);
    return epg__fail(first, "%s", reason);
}

static epg_status check_enter(const epg_scope_table *table, int ordinal, epg_stream stream,
                              const epg_scope_report *report, epg_scope **scope)
{
    if (!table || !scope)
        return epg__fail(EPG_ERR_INVALID, "%s is NULL", table ? "scope" : "table");
    if (ordinal < 0 || ordinal > 127)
        return epg__fail(EPG_ERR_INVALID, "ordinal is %d, outside 0..127", ordinal);
    /* Runtimes take an odd value for something else than a handle. */
    if (((uintptr_t)stream & 1) && stream != EPG_STREAM_LEGACY)
        return epg__fail(EPG_ERR_INVALID, "stream is %p, which is odd and no stream", (void *)stream);
    if (report && report->size != sizeof *report)
        return epg__fail(EPG_ERR_INVALID, "report->size is %u: use the INIT macro", report->size);
    return EPG_OK;
}

epg_status epg_scope_enter(epg_scope_table *table, int ordinal, epg_stream stream, epg_scope_report *report,
                           epg_scope **scope)
{
    epg_scope_state states[EPG_SCOPE_MAX_RUNTIMES];
    EPG_TRY(check_enter(table, ordinal, stream, report, scope));
    epg_scope *made = epg__zalloc(1, sizeof *made, "a stream scope");
    if (!made)
        return EPG_ERR_NO_MEMORY;
    made->table = table, made->thread = pthread_self(), made->ordinal = ordinal;
    pthread_mutex_lock(&table->lock);
    search_locked(table);
    for (uint32_t i = 0; i < table->count; i++)
        states[i] = table->found[i].state;
    table->references++;
    pthread_mutex_unlock(&table->lock);

    epg_status status = set_all(made, stream == EPG_STREAM_LEGACY ? NULL : stream, states, report);
    if (status != EPG_OK) {
        pthread_mutex_lock(&table->lock);
        release_locked(table);
        free(made);
        return status;
    }
    made->outer = innermost;
    innermost = made;
    *scope = made;
    return EPG_OK;
}

/* ---- leaving ---- */

epg_status epg_scope_leave(epg_scope *scope)
{
    if (!scope)
        return EPG_OK;
    epg_scope_table *table = scope->table;
    if (!pthread_equal(scope->thread, pthread_self()))
        return epg__fail(EPG_ERR_STATE, "a scope is left on another thread than the one that entered it");
    if (innermost != scope)
        return epg__fail(EPG_ERR_STATE, "a scope is left before one that was entered inside it");
    innermost = scope->outer;

    epg_status status = restore_all(scope);
    pthread_mutex_lock(&table->lock);
    release_locked(table);
    free(scope);
    return status;
}
