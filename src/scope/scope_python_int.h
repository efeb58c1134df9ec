/* The Python interpreter that is in the process, for runtimes whose current stream is a Python object. None is ever
 * loaded or started.
 *
 * Its C interface is looked up by name, so the library needs no Python to be built or to run. Calls into it are made
 * between epg__python_enter and epg__python_leave, on any thread, with or without the interpreter's lock; no lock of
 * ours may be held in between, since whoever has the interpreter's may wait for it. */
#ifndef EPG_SCOPE_PYTHON_INT_H
#define EPG_SCOPE_PYTHON_INT_H

#include "core/core_int.h"

enum { EPG__PYTHON_SYMBOLS = 18 };

/* Fills in symbols[EPG__PYTHON_SYMBOLS], all of one library or the program; a failure's message says what is missing.
 * Does not enter. */
epg_status epg__python_find(void **symbols);

/* A thread's stay in the interpreter. */
typedef struct epg__python_stay {
    int lock;             /* what PyGILState_Ensure gave */
    bool stranger;        /* the interpreter did not know this thread, and forgets it when it leaves */
    void *error[3];       /* the exception that was being handled, put back at the end */
} epg__python_stay;

/* EPG_ERR_UNSUPPORTED if the interpreter has ended. */
epg_status epg__python_enter(void *const *symbols, epg__python_stay *stay);
void epg__python_leave(void *const *symbols, epg__python_stay *stay);

/* Leaves; but what Python has set for this thread alone lasts, though the thread may be a stranger. If that takes
 * something, true, and a later stay on this thread is to call epg__python_unkeep before it leaves. */
bool epg__python_keep(void *const *symbols, epg__python_stay *stay);
void epg__python_unkeep(void *const *symbols);

/* Calls `function` of module `name`, which is made from `source` where there is none yet, with the arguments that
 * `format` and what follows are to Py_BuildValue, which must make a tuple. *result is a new reference. A failure's
 * message is the exception's text. */
epg_status epg__python_call(void *const *symbols, const char *name, const char *source, const char *function,
                            void **result, const char *format, ...);

void epg__python_drop(void *const *symbols, void *object); /* lets go of a reference; NULL: does nothing */

#endif
