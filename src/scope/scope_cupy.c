/* CuPy: a stack of streams and a current one, per thread and device, as Python objects; and beside it the handles that
 * its launches read. Nothing of it can be set from C, so Python does it, in the interpreter that has imported CuPy.
 *
 * A stream is entered as a `with` statement enters it, and not by use(): what the code inside enters and exits then
 * falls back to this one. Leaving exits it; a stream that had been made current by use(), of which the stack knows
 * nothing, is made so again. CuPy takes a stream of the current GPU alone, so that is changed where need be. */
#include "scope/scope_ops.h"
#include "scope/scope_python_int.h"

enum { TOKEN = 0, KEPT = 1 };

static const char module[] = "_epgraph_scope_cupy";
static const char source[] =
    "import sys\n"
    "\n"
    "class Handle:\n"
    "    def __init__(self, ptr):\n"
    "        self.ptr = ptr\n"
    "    def __cuda_stream__(self):\n"
    "        return 0, self.ptr\n"
    "\n"
    "def launches():\n" /* get_stream_ptr(device) of CuPy's own C interface, or None */
    "    try:\n"
    "        from ctypes import PYFUNCTYPE, c_char_p, c_int, c_ssize_t, c_void_p, py_object, pythonapi\n"
    "        capsule = sys.modules['cupy_backends.cuda.stream'].__pyx_capi__['get_stream_ptr']\n"
    "        pointer = PYFUNCTYPE(c_void_p, py_object, c_char_p)(('PyCapsule_GetPointer', pythonapi))\n"
    "        return PYFUNCTYPE(c_ssize_t, c_int)(pointer(capsule, b'intptr_t (int)'))\n"
    "    except (ImportError, AttributeError, KeyError, ValueError):\n"
    "        return None\n"
    "\n"
    "read = launches()\n"
    "\n"
    "def expect(cuda, stream, ordinal):\n"
    "    now = cuda.get_current_stream()\n"
    "    if now is not stream:\n"
    "        raise RuntimeError('reads back stream %#x after %#x was set' % (now.ptr, stream.ptr))\n"
    "    if read is not None and read(ordinal) != stream.ptr:\n"
    "        raise RuntimeError('would launch on %#x after %#x was set' % (read(ordinal), stream.ptr))\n"
    "\n"
    "def wrapped(cuda, ptr, ordinal):\n"
    "    if ptr == 0:\n"
    "        return cuda.Stream.null\n"
    "    if hasattr(cuda.Stream, 'from_external'):\n"
    "        return cuda.Stream.from_external(Handle(ptr))\n"
    "    return cuda.ExternalStream(ptr, ordinal)\n" /* before CuPy 14 */
    "\n"
    "def push(cuda, ordinal, ptr):\n"
    "    before, stream = cuda.get_current_stream(), wrapped(cuda, ptr, ordinal)\n"
    "    stream.__enter__()\n"
    "    try:\n"
    "        expect(cuda, stream, ordinal)\n"
    "    except Exception:\n"
    "        pop(cuda, ordinal, before, stream)\n"
    "        raise\n"
    "    return ordinal, before, stream\n"
    "\n"
    "def pop(cuda, ordinal, before, stream):\n"
    "    stream.__exit__(None, None, None)\n"
    "    if cuda.get_current_stream() is not before:\n"
    "        before.use()\n"
    "    expect(cuda, before, ordinal)\n"
    "\n"
    "def on_gpu(what, ordinal, *rest):\n"
    "    cuda = sys.modules.get('cupy.cuda')\n"
    "    if cuda is None:\n"
    "        raise RuntimeError('loaded, and the module cupy.cuda is not imported')\n"
    "    here = cuda.runtime.getDevice()\n"
    "    if here == ordinal:\n"
    "        return what(cuda, ordinal, *rest)\n"
    "    cuda.runtime.setDevice(ordinal)\n"
    "    try:\n"
    "        return what(cuda, ordinal, *rest)\n"
    "    finally:\n"
    "        cuda.runtime.setDevice(here)\n"
    "\n"
    "def enter(ordinal, ptr):\n"
    "    return on_gpu(push, ordinal, ptr)\n"
    "\n"
    "def leave(token):\n"
    "    on_gpu(pop, *token)\n";

static epg_status find(epg__scope_found *found) { return epg__python_find(found->symbols); }

static epg_status set(const epg__scope_found *found, int ordinal, epg_stream stream, epg__scope_saved *saved)
{
    epg__python_stay stay;
    void *token = NULL;
    EPG_TRY(epg__python_enter(found->symbols, &stay));
    epg_status status = epg__python_call(found->symbols, module, source, "enter", &token, "(iK)", ordinal,
                                         (unsigned long long)(uintptr_t)stream);
    if (status != EPG_OK) {
        epg__python_leave(found->symbols, &stay);
        return status;
    }
    saved->words[TOKEN] = (uint64_t)(uintptr_t)token;
    saved->words[KEPT] = epg__python_keep(found->symbols, &stay);
    return EPG_OK;
}

static epg_status restore(const epg__scope_found *found, int ordinal, const epg__scope_saved *saved)
{
    epg__python_stay stay;
    void *token = (void *)(uintptr_t)saved->words[TOKEN], *result = NULL;
    (void)ordinal; /* the token has it */
    EPG_TRY(epg__python_enter(found->symbols, &stay));
    epg_status status = epg__python_call(found->symbols, module, source, "leave", &result, "(O)", token);
    epg__python_drop(found->symbols, result);
    epg__python_drop(found->symbols, token);
    if (saved->words[KEPT])
        epg__python_unkeep(found->symbols);
    epg__python_leave(found->symbols, &stay);
    return status;
}

const epg__scope_ops epg__scope_cupy = {
    .name = "CuPy", .file = "cupy_backends/cuda/stream.", .find = find, .set = set, .restore = restore};
