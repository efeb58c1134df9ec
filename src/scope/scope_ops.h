/* What scope.c asks of a runtime, and how a runtime's file finds the symbols that it needs.
 *
 * A runtime is looked for (find) under the table's lock, until it is there. From then on its epg__scope_found does not
 * change, so that set and restore read it on any thread without the lock. */
#ifndef EPG_SCOPE_OPS_H
#define EPG_SCOPE_OPS_H

#include "core/core_int.h"
#include "epgraph/scope.h"

enum { EPG__SCOPE_SYMBOLS = 18, EPG__SCOPE_SAVED_WORDS = 11 };

typedef struct epg__scope_ops epg__scope_ops;

typedef struct epg__scope_found {
    const epg__scope_ops *ops;
    char name[EPG_SCOPE_NAME_BYTES];
    epg_scope_state state;               /* SET stands for "can be set" */
    char reason[EPG_SCOPE_REASON_BYTES]; /* why not; "" otherwise */
    void *handle;                        /* a reference that keeps it loaded; NULL: none */
    void *symbols[EPG__SCOPE_SYMBOLS];
    int variant;                         /* of those that the runtime's file knows, as found */
    epg_scope_runtime user;              /* the caller's own runtime alone */
} epg__scope_found;

/* What one scope keeps of one runtime: exactly what restore needs, at one address until then. */
typedef struct epg__scope_saved {
    uint64_t words[EPG__SCOPE_SAVED_WORDS];
} epg__scope_saved;

struct epg__scope_ops {
    const char *name;
    const char *file;        /* as epg__scope_library_open takes it */
    const char *former_file; /* the same in earlier generations, looked for where there is no `file`; NULL: none */

    /* The library is there: resolves what is needed, and probes it. A failure's message says why the runtime is
     * unsupported. Two are none, for it is as good as absent: EPG_ERR_NOT_FOUND, it is built without GPUs, and
     * EPG_ERR_NOT_READY, it has no stream yet. */
    epg_status (*find)(epg__scope_found *found);

    /* Saves what is current, makes `stream` current and reads it back. A failure leaves the runtime as it was. */
    epg_status (*set)(const epg__scope_found *found, int ordinal, epg_stream stream, epg__scope_saved *saved);

    /* Puts back what was saved, and reads it back. */
    epg_status (*restore)(const epg__scope_found *found, int ordinal, const epg__scope_saved *saved);
};

extern const epg__scope_ops epg__scope_torch, epg__scope_tvm_ffi, epg__scope_paddle, epg__scope_cupy, epg__scope_warp;
extern const epg__scope_ops epg__scope_user;

/* A number that changes whenever a library is loaded or unloaded. */
uint64_t epg__scope_libraries_generation(void);

/* A reference to the loaded library `pattern`, to be closed with dlclose; *library is NULL if there is none, which is
 * no failure. A pattern is a file name, after which a version may follow ("libx.so" is libx.so.1 too), or, with a slash
 * in it, a part of a path. EPG_ERR_UNSUPPORTED, naming both, if two are loaded: they have two states. */
epg_status epg__scope_library_open(const char *pattern, void **library);

/* The address of a symbol that `library` itself defines; NULL if it does not, even where a library that it depends on
 * does: other runtimes export the same names with another ABI. */
void *epg__scope_symbol(void *library, const char *symbol);

/* Whether two addresses lie in one loaded library, or both in the program. */
bool epg__scope_same_library(const void *one, const void *other);

/* What c10::cuda::getCurrentCUDAStream of `getter`'s library returned for a GPU that it knows. */
typedef struct epg__scope_probe {
    bool through_memory;
    void *place;                /* where that memory was */
    uint64_t registers[2];      /* where it was not */
    unsigned char memory[64];   /* a copy of it, otherwise */
} epg__scope_probe;

/* EPG_ERR_UNSUPPORTED on a machine whose conventions are not known. */
epg_status epg__scope_probe_stream(void *getter, int device, epg__scope_probe *probe);

#endif
