/* Stream scopes: one stream made current in every runtime of the process that keeps a "current stream".
 *
 * A library that launches on another runtime's current stream does so on stream 0 as long as nobody told that runtime
 * of the stream in use; under capture its work then fails or is silently not captured. A scope tells all of them, reads
 * each one back, and leaving it puts back exactly what each had.
 *
 * Known runtimes: PyTorch (libc10_cuda.so; a stream of its pool stays one), Paddle (libphi_core.so, libphi.so before;
 * its device context and its c10 names), both on x86-64; TVM-FFI (libtvm_ffi.so); and CuPy (through the Python
 * interpreter that has imported it). Warp is found and reported as not supported; it, and any other, can be set by
 * callbacks. Libraries are looked for among those that the process has loaded, at each enter if any was loaded since
 * the last; none is ever loaded, and no interpreter started. A PyTorch or Paddle that is built without GPUs is absent.
 *
 * Paddle keeps one stream per GPU for all threads. While a scope of one thread is open there, another thread's is
 * refused by name; and threads that enter no scope launch on the scope's stream too. Where its c10 keeps a stream per
 * thread that was never set, leaving sets it to what it read as: it cannot be unset.
 *
 * What this cannot do: move streams that a library has cached, or that are passed to it as an argument. Paddle is one:
 * its cuBLAS and cuDNN handles keep the stream that was current when they were made (2.6.2; Paddle's thread 79155), so
 * a matrix product of Paddle's may go past a scope, and past Paddle's own stream guard; and let it make one before the
 * first scope, lest its handles keep the scope's stream. Reading back does not find such a library; epg_scope_verify
 * does. */
#ifndef EPGRAPH_SCOPE_H
#define EPGRAPH_SCOPE_H

#include <stddef.h>
#include <stdint.h>
#include "epgraph/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct epg_scope_table epg_scope_table; /* the runtimes; make one per process */
typedef struct epg_scope epg_scope;             /* between an enter and its leave */

#define EPG_SCOPE_MAX_RUNTIMES 16 /* built in and added, together */
#define EPG_SCOPE_NAME_BYTES 32
#define EPG_SCOPE_REASON_BYTES 192

/* A runtime that the caller adds. A built-in one of the same name gives way to it. The callbacks are called on the
 * thread that enters and leaves, without a lock held, and must not enter or leave. `ordinal` is the GPU, as CUDA counts
 * them. NULL and EPG_STREAM_LEGACY are the same stream here. */
typedef struct epg_scope_runtime {
    uint32_t size;
    const char *name; /* copied; 1..31 bytes */
    void *ctx;

    /* The runtime's current stream. */
    epg_status (*get)(void *ctx, int ordinal, epg_stream *stream);

    /* Makes `stream` current. *before, NULL when called, is what `restore` gets: whatever says exactly what was
     * current. Where it fails it has changed nothing. */
    epg_status (*set)(void *ctx, int ordinal, epg_stream stream, void **before);
    epg_status (*restore)(void *ctx, int ordinal, void *before);
} epg_scope_runtime;
#define EPG_SCOPE_RUNTIME_INIT {sizeof(epg_scope_runtime), NULL, NULL, NULL, NULL, NULL}

typedef struct epg_scope_options {
    uint32_t size;
    uint32_t best_effort;              /* not 0: a runtime that cannot be set does not make enter fail */
    const epg_scope_runtime *runtimes; /* copied; set after the built-in ones, in this order */
    size_t runtime_count;
} epg_scope_options;
#define EPG_SCOPE_OPTIONS_INIT {sizeof(epg_scope_options), 0, NULL, 0}

typedef enum epg_scope_state {
    EPG_SCOPE_SET = 0,        /* the stream was made current, and read back */
    EPG_SCOPE_ABSENT = 1,     /* the runtime is not loaded, or has no stream of a GPU */
    EPG_SCOPE_UNSUPPORTED = 2 /* it is there and was left as it is; `reason` says why */
} epg_scope_state;

typedef struct epg_scope_entry {
    char name[EPG_SCOPE_NAME_BYTES];
    epg_scope_state state;
    char reason[EPG_SCOPE_REASON_BYTES]; /* "" unless unsupported */
} epg_scope_entry;

typedef struct epg_scope_report {
    uint32_t size;
    uint32_t count;
    epg_scope_entry entries[EPG_SCOPE_MAX_RUNTIMES];
} epg_scope_report;
#define EPG_SCOPE_REPORT_INIT {sizeof(epg_scope_report), 0, {{{0}, EPG_SCOPE_SET, {0}}}}

/* `options` may be NULL: the built-in runtimes, all of which must be set or absent. Calls no runtime. */
EPG_API epg_status epg_scope_table_create(const epg_scope_options *options, epg_scope_table **table);

/* Destroying NULL does nothing. Scopes that are open stay so, and are left as always; entering another is not
 * possible. */
EPG_API void epg_scope_table_destroy(epg_scope_table *table);

/* Makes `stream` of GPU `ordinal` (0..127) current on the calling thread in every runtime found. `stream` is a stream
 * of the CUDA device, hence any cudaStream_t; where all runtimes that are loaded are the caller's own, it may be a
 * stream of the host device.
 *
 * EPG_ERR_UNSUPPORTED, unless the table is best effort, names the first runtime that could not be set, and why; all
 * others then have back what they had. `report`, which may be NULL, is filled in then too: a line for each runtime,
 * with what became of it, before anything was put back.
 *
 * Scopes nest, in one thread in the order of a stack, and several threads may each have their own. A runtime that keeps
 * one current stream for all threads, Paddle, serves one thread's scopes at a time: see to it that they exclude one
 * another. May run during capture: it allocates host memory and makes no CUDA call of its own; CuPy asks which GPU is
 * the thread's, and where it is another, that is changed and put back. With CuPy loaded it takes Python's global lock
 * for a moment, whether or not the thread has it: nobody may keep that lock and wait for this thread. */
EPG_API epg_status epg_scope_enter(epg_scope_table *table, int ordinal, epg_stream stream, epg_scope_report *report,
                                   epg_scope **scope);

/* Puts back, in reverse, what every runtime had at enter, whatever was set since, and frees the scope. On the thread
 * that entered, the innermost of its scopes first, whatever their tables: otherwise EPG_ERR_STATE, and nothing has
 * changed. If a runtime does not take back what it had, EPG_ERR_UNSUPPORTED names it; the others have theirs, and the
 * scope is gone. Leaving NULL does nothing. May run during capture. */
EPG_API epg_status epg_scope_leave(epg_scope *scope);

/* Shows that a library follows: enters a scope on a non-blocking stream of its own, captures there while `operation`
 * makes one small operation through that library, and requires a node in the graph. EPG_ERR_ESCAPED if there is none:
 * the operation went to another stream, and has run there. A failure of `operation` is forwarded. `ordinal` is the GPU
 * of `device`. Nothing of the graph runs. */
EPG_API epg_status epg_scope_verify(epg_scope_table *table, epg_device *device, int ordinal,
                                    epg_status (*operation)(void *ctx), void *ctx);

#ifdef __cplusplus
}
#endif
#endif
