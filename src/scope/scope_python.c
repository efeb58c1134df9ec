/* Calls into the Python interpreter of the process. What is called is the business of a runtime's file. */
#include <dlfcn.h>
#include <stdarg.h>
#include "scope/scope_ops.h"
#include "scope/scope_python_int.h"

/* One row per function: its place, its name, its type. */
#define PYTHON_FUNCTIONS(F)                                                             \
    F(IS_INITIALIZED, Py_IsInitialized, int (*)(void))                                  \
    F(THREAD, PyGILState_GetThisThreadState, void *(*)(void))                           \
    F(ENSURE, PyGILState_Ensure, int (*)(void))                                         \
    F(RELEASE, PyGILState_Release, void (*)(int))                                       \
    F(SAVE, PyEval_SaveThread, void *(*)(void))                                         \
    F(ERROR_FETCH, PyErr_Fetch, void (*)(void **, void **, void **))                    \
    F(ERROR_RESTORE, PyErr_Restore, void (*)(void *, void *, void *))                   \
    F(ERROR_NORMALIZE, PyErr_NormalizeException, void (*)(void **, void **, void **))   \
    F(ERROR_CLEAR, PyErr_Clear, void (*)(void))                                         \
    F(DROP, Py_DecRef, void (*)(void *))                                                \
    F(TEXT, PyObject_Str, void *(*)(void *))                                            \
    F(UTF8, PyUnicode_AsUTF8, const char *(*)(void *))                                  \
    F(MODULE, PyImport_AddModule, void *(*)(const char *))                              \
    F(EXECUTE, PyImport_ExecCodeModule, void *(*)(const char *, void *))                \
    F(COMPILE, Py_CompileString, void *(*)(const char *, const char *, int))            \
    F(ATTRIBUTE, PyObject_GetAttrString, void *(*)(void *, const char *))               \
    F(CALL, PyObject_CallObject, void *(*)(void *, void *))                             \
    F(BUILD, Py_VaBuildValue, void *(*)(const char *, va_list))

#define PLACE(place, name, type) place,
#define NAME(place, name, type) [place] = #name,
#define TYPE(place, name, type) typedef __typeof__(type) place##_fn;
enum { PYTHON_FUNCTIONS(PLACE) COUNT };
static const char *const names[COUNT] = {PYTHON_FUNCTIONS(NAME)};
PYTHON_FUNCTIONS(TYPE)
#define PYTHON(place) ((place##_fn)symbols[place])

_Static_assert((int)COUNT == (int)EPG__PYTHON_SYMBOLS, "the caller's symbols hold them");
_Static_assert((int)COUNT <= (int)EPG__SCOPE_SYMBOLS, "found->symbols holds them");

enum { FILE_INPUT = 257, GIL_LOCKED = 0 }; /* Py_file_input, PyGILState_LOCKED */

epg_status epg__python_find(void **symbols)
{
    for (int i = 0; i < COUNT; i++) {
        /* In the scope of the whole process, where extension modules find theirs. */
        symbols[i] = dlsym(RTLD_DEFAULT, names[i]);
        if (!symbols[i] && i == 0)
            return epg__fail(EPG_ERR_UNSUPPORTED, "loaded, and there is no Python interpreter in the process");
        if (!symbols[i] || !epg__scope_same_library(symbols[i], symbols[0]))
            return epg__fail(EPG_ERR_UNSUPPORTED, "the Python interpreter has no %s of its own", names[i]);
    }
    return EPG_OK;
}

epg_status epg__python_enter(void *const *symbols, epg__python_stay *stay)
{
    if (!PYTHON(IS_INITIALIZED)())
        return epg__fail(EPG_ERR_UNSUPPORTED, "the Python interpreter has ended");
    stay->stranger = !PYTHON(THREAD)();
    stay->lock = PYTHON(ENSURE)();
    PYTHON(ERROR_FETCH)(&stay->error[0], &stay->error[1], &stay->error[2]);
    return EPG_OK;
}

void epg__python_leave(void *const *symbols, epg__python_stay *stay)
{
    PYTHON(ERROR_RESTORE)(stay->error[0], stay->error[1], stay->error[2]);
    PYTHON(RELEASE)(stay->lock);
}

bool epg__python_keep(void *const *symbols, epg__python_stay *stay)
{
    if (stay->stranger)
        PYTHON(SAVE)(); /* gives back the lock, and keeps the thread's state and what Ensure counted on it */
    else
        epg__python_leave(symbols, stay);
    return stay->stranger;
}

/* Ensure has counted twice by now; this takes one back, and the lock stays. */
void epg__python_unkeep(void *const *symbols) { PYTHON(RELEASE)(GIL_LOCKED); }

void epg__python_drop(void *const *symbols, void *object) { PYTHON(DROP)(object); }

/* The pending exception's text as our message. */
static epg_status raised(void *const *symbols)
{
    void *error[3] = {NULL, NULL, NULL};
    PYTHON(ERROR_FETCH)(&error[0], &error[1], &error[2]);
    PYTHON(ERROR_NORMALIZE)(&error[0], &error[1], &error[2]);
    void *text = error[1] ? PYTHON(TEXT)(error[1]) : NULL;
    const char *utf8 = text ? PYTHON(UTF8)(text) : NULL;
    epg__fail(EPG_ERR_UNSUPPORTED, "%s", utf8 && *utf8 ? utf8 : "an exception without a text");
    PYTHON(ERROR_CLEAR)(); /* of a text that could not be made */
    PYTHON(DROP)(text);
    for (int i = 0; i < 3; i++)
        PYTHON(DROP)(error[i]);
    return EPG_ERR_UNSUPPORTED;
}

/* A new reference, or NULL and an exception. */
static void *function_of(void *const *symbols, const char *name, const char *source, const char *function)
{
    void *module = PYTHON(MODULE)(name); /* borrowed */
    void *found = module ? PYTHON(ATTRIBUTE)(module, function) : NULL;
    if (found || !module)
        return found;
    PYTHON(ERROR_CLEAR)();
    void *code = PYTHON(COMPILE)(source, name, FILE_INPUT);
    module = code ? PYTHON(EXECUTE)(name, code) : NULL;
    found = module ? PYTHON(ATTRIBUTE)(module, function) : NULL;
    PYTHON(DROP)(module);
    PYTHON(DROP)(code);
    return found;
}

epg_status epg__python_call(void *const *symbols, const char *name, const char *source, const char *function,
                            void **result, const char *format, ...)
{
    va_list given;
    va_start(given, format);
    void *arguments = PYTHON(BUILD)(format, given);
    va_end(given);
    void *called = arguments ? function_of(symbols, name, source, function) : NULL;
    *result = called ? PYTHON(CALL)(called, arguments) : NULL;
    epg_status status = *result ? EPG_OK : raised(symbols);
    PYTHON(DROP)(called);
    PYTHON(DROP)(arguments);
    return status;
}
