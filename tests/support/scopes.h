/* What tests of stream scopes share: libraries that stand in for runtimes, and a runtime of the caller's. Streams are
 * addresses that nobody follows. Includes cmocka. */
#ifndef TESTS_SCOPES_H
#define TESTS_SCOPES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include "epgraph/scope.h"
#include "standins/standins.h"

#define STREAM(n) ((epg_stream)(uintptr_t)(0x1000 * (n)))

enum { DEVICE = 1 }; /* the GPU that fakes expect */

/* Loads a stand-in, "GENERATION/libNAME.so"; fails the test where it cannot. standin_symbol likewise. */
void *standin_load(const char *file);
void *standin_symbol(void *library, const char *name);

typedef struct tvm {
    void *handle;
    int (*set)(int32_t, int32_t, void *, void **);
    void *(*get)(int32_t, int32_t);
    void (*behave)(int);
} tvm;

/* On this thread it obeys, and GPU DEVICE has no stream set. */
tvm load_tvm(const char *generation, const char *getter);

/* A runtime of the caller's: a value, and a log of what was called on all of them. */
typedef struct fake_log {
    char text[256];
} fake_log;

typedef struct fake {
    char letter;
    fake_log *calls;
    epg_stream now;
    epg_status get_gives, set_gives, restore_gives;
    int ignores;
    int on_gpu_0; /* it expects GPU 0, not DEVICE */
} fake;

epg_scope_runtime runtime_of(const char *name, fake *f);
epg_scope_table *table_of(uint32_t best_effort, const epg_scope_runtime *runtimes, size_t count);

/* The report's line for `name`; fails the test where there is none. */
const epg_scope_entry *entry_of(const epg_scope_report *report, const char *name);

/* epg_message() contains `part`. */
void assert_message(const char *part);

#endif
