/* Paddle: phi's GPUContext, one per GPU and for all threads, holds a pointer to a phi::CUDAStream; PyTorch-compatible
 * code reads c10's names in the same library, which some generations keep apart, per thread (scope_paddle_c10.c).
 *
 * A phi::CUDAStream is a phi::Place, the handle, and whether it owns it. A scope registers one of its own, which owns
 * nothing, without clearing the one before: nothing is destroyed, and putting back the pointer puts back the object.
 * The Place is 16 bytes in the releases read (2.6.2, 3.3.1), and 40 where it holds a std::string: its constructor is
 * asked, and the object that is current must look accordingly before anything is set.
 *
 * These functions are C++ and throw: so all is checked before a call. The pool of contexts throws for a GPU that Paddle
 * does not use, so its map is read first; stream() throws for NULL, which is the legacy stream, so to Paddle that is
 * given by CUDA's other handle for it, 1.
 *
 * Invariant: what is registered is one of ours only while its scope is open. Two threads cannot have theirs at a time:
 * an object of ours names its thread in bytes that the class does not use, and a second thread's set is refused. */
#include <pthread.h>
#include <string.h>
#include "scope/scope_ops.h"
#include "scope/scope_paddle_int.h"

enum { INSTANCE, CONTEXT, CURRENT, HANDLE, SET, PLACE, COUNT, READY, POOL, CONTEXTS, C10_GET, C10_SET, SYMBOLS };
enum { PLACE_GPU = 2, OBJECT_BYTES = 56, THREAD_BYTES = 7, LEGACY_HANDLE = 1 };

static const char *const names[SYMBOLS] = {
    [INSTANCE] = "_ZN6paddle12experimental17DeviceContextPool8InstanceEv",
    [CONTEXT] = "_ZN6paddle12experimental17DeviceContextPool10GetMutableERKN3phi5PlaceE",
    [CURRENT] = "_ZNK3phi10GPUContext11cuda_streamEv",
    [HANDLE] = "_ZNK3phi10GPUContext6streamEv",
    [SET] = "_ZN3phi10GPUContext13SetCUDAStreamEPNS_10CUDAStreamEb",
    [PLACE] = "_ZN3phi5PlaceC1ENS_14AllocationTypeERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
    [COUNT] = "_ZN3phi8backends3gpu17GetGPUDeviceCountEv",
    [READY] = "_ZN3phi17DeviceContextPool13IsInitializedEv",
    [POOL] = "_ZN3phi17DeviceContextPool8InstanceEv",
    [CONTEXTS] = "_ZNK3phi17DeviceContextPool15device_contextsEv",
    [C10_GET] = "_ZN3c104cuda20getCurrentCUDAStreamEa",
    [C10_SET] = "_ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE",
};
_Static_assert((int)SYMBOLS <= (int)EPG__SCOPE_SYMBOLS, "found->symbols holds them");

typedef void *(*instance_fn)(void);
typedef void *(*context_fn)(void *pool, const void *place);
typedef void *(*current_fn)(const void *context);
typedef void *(*handle_fn)(const void *context);
typedef void (*set_fn)(void *context, void *stream, bool clear);
typedef void (*place_fn)(void *place, int type, const void *text);
typedef int (*count_fn)(void);
typedef bool (*ready_fn)(void);
typedef const struct map *(*contexts_fn)(const void *pool);

/* Where the fields of a phi::CUDAStream are; its Place begins with the GPU and a type. */
typedef struct layout {
    size_t text;  /* the Place's std::string; 0: a number at 8 instead */
    size_t id;    /* the handle; `owned`, a byte, is behind it, and THREAD_BYTES of no meaning behind that */
} layout;
enum { NUMBERED, NAMED };
static const layout layouts[] = {[NUMBERED] = {0, 16}, [NAMED] = {8, 40}};

/* libstdc++'s std::map from a phi::Place to a device context, a tree. */
typedef struct node {
    int colour;
    const struct node *parent, *left, *right;
    int8_t device, type; /* the key, as a Place begins */
} node;
typedef struct map {
    uint64_t compare;
    node head;           /* its parent is the root */
} map;
_Static_assert(offsetof(node, device) == 32 && offsetof(map, head.parent) == 16, "as the C++ library lays it out");

static const char mark[6] = "epgrap"; /* in the six bytes between a Place's type and what follows */

static const layout *layout_of(const epg__scope_found *found) { return &layouts[found->variant]; }

/* A field of an object, the first `bytes` of it. */
static uint64_t field(const void *object, size_t offset, size_t bytes)
{
    uint64_t value = 0;
    memcpy(&value, (const char *)object + offset, bytes);
    return value;
}

/* ---- what is there ---- */

static epg_status probe_place(epg__scope_found *found)
{
    uint64_t place[8] = {0}, untouched[8];
    epg__paddle_text none;
    memset(place, 0xA5, sizeof place);
    memcpy(untouched, place, sizeof place);
    epg__paddle_text_init(&none);
    ((place_fn)found->symbols[PLACE])(place, PLACE_GPU, &none);
    bool numbered = place[1] == 0 && memcmp(place + 2, untouched + 2, sizeof place - 16) == 0;
    bool named = epg__paddle_text_is_empty((const char *)place + 8) &&
                 memcmp(place + 5, untouched + 5, sizeof place - 40) == 0;
    if (field(place, 1, 1) != PLACE_GPU || (!numbered && !named))
        return epg__fail(EPG_ERR_UNSUPPORTED, "its phi::Place is none of the known ones");
    found->variant = named ? NAMED : NUMBERED;
    return EPG_OK;
}

/* Whether Paddle uses the GPU: it may have been told to leave some out, and throws when asked for one of those. */
static bool holds(const node *n, int ordinal)
{
    if (!n)
        return false;
    return (n->type == PLACE_GPU && n->device == ordinal) || holds(n->left, ordinal) || holds(n->right, ordinal);
}

static bool has_context(const epg__scope_found *found, int ordinal)
{
    const void *pool = ((instance_fn)found->symbols[POOL])();
    return holds(((contexts_fn)found->symbols[CONTEXTS])(pool)->head.parent, ordinal);
}

static epg_status probe_c10(const epg__scope_found *found)
{
    int gpu = 0;
    while (!has_context(found, gpu))
        if (++gpu > 127)
            return epg__fail(EPG_ERR_NOT_READY, "it has no device context of a GPU");
    return found->symbols[C10_GET] ? epg__paddle_c10_probe(found->symbols[C10_GET], gpu) : EPG_OK;
}

static epg_status find(epg__scope_found *found)
{
    for (int i = 0; i < SYMBOLS; i++)
        found->symbols[i] = epg__scope_symbol(found->handle, names[i]);
    if (!found->symbols[SET] && !found->symbols[HANDLE])
        return epg__fail(EPG_ERR_NOT_FOUND, "this Paddle is built without GPUs");
    for (int i = 0; i < C10_GET; i++)
        if (!found->symbols[i])
            return epg__fail(EPG_ERR_UNSUPPORTED, "the library has no %s", names[i]);
    if (!found->symbols[C10_SET]) /* then a getter is a copy of one in a header, which reads the context */
        found->symbols[C10_GET] = NULL;
    else if (!found->symbols[C10_GET])
        return epg__fail(EPG_ERR_UNSUPPORTED, "the library has no %s", names[C10_GET]);
    if (((count_fn)found->symbols[COUNT])() < 1)
        return epg__fail(EPG_ERR_UNSUPPORTED, "it sees no GPU");
    if (!((ready_fn)found->symbols[READY])())
        return epg__fail(EPG_ERR_NOT_READY, "it has not made its device contexts yet");
    EPG_TRY(probe_place(found));
    return probe_c10(found);
}

static epg_status context_of(const epg__scope_found *found, int ordinal, void **context)
{
    uint64_t place[5] = {(uint64_t)(ordinal | PLACE_GPU << 8)};
    if (!has_context(found, ordinal))
        return epg__fail(EPG_ERR_UNSUPPORTED, "it has no device context of GPU %d", ordinal);
    if (layout_of(found)->text)
        epg__paddle_text_init((char *)place + layout_of(found)->text);
    *context = ((context_fn)found->symbols[CONTEXT])(((instance_fn)found->symbols[INSTANCE])(), place);
    return EPG_OK;
}

/* ---- a stream object of ours ---- */

static uint64_t this_thread(void) { return (uint64_t)(uintptr_t)pthread_self() << 8 >> 8; }

static void make_object(const layout *l, int ordinal, uint64_t handle, char *object)
{
    uint64_t thread = this_thread();
    memset(object, 0, OBJECT_BYTES);
    object[0] = (char)ordinal;
    object[1] = PLACE_GPU;
    memcpy(object + 2, mark, sizeof mark);
    if (l->text)
        epg__paddle_text_init(object + l->text);
    memcpy(object + l->id, &handle, sizeof handle);
    memcpy(object + l->id + 9, &thread, THREAD_BYTES);
}

/* The object that is current, which may be Paddle's or one of ours, is laid out as the Place promised. */
static epg_status check_object(const epg__scope_found *found, const void *context, int ordinal, const void *object)
{
    const layout *l = layout_of(found);
    uint64_t handle = field(object, l->id, 8);
    bool place_fits = l->text ? epg__paddle_text_is_empty((const char *)object + l->text) : field(object, 8, 8) == 0;
    if (field(object, 0, 1) != (uint64_t)ordinal || field(object, 1, 1) != PLACE_GPU || !place_fits)
        return epg__fail(EPG_ERR_UNSUPPORTED, "its phi::CUDAStream does not begin with the place of GPU %d", ordinal);
    /* stream() throws for NULL */
    if (handle && (uint64_t)(uintptr_t)((handle_fn)found->symbols[HANDLE])(context) != handle)
        return epg__fail(EPG_ERR_UNSUPPORTED, "its phi::CUDAStream has no handle at %zu", l->id);
    if (memcmp((const char *)object + 2, mark, sizeof mark) == 0 &&
        field(object, l->id + 9, THREAD_BYTES) != this_thread())
        return epg__fail(EPG_ERR_UNSUPPORTED, "a scope of another thread is open, and it keeps one stream for all");
    return EPG_OK;
}

/* ---- setting ---- */

enum { SAVED_CONTEXT, SAVED_BEFORE, SAVED_C10, SAVED_OBJECT };
_Static_assert((SAVED_OBJECT * 8 + OBJECT_BYTES) <= EPG__SCOPE_SAVED_WORDS * 8, "a scope keeps the object");

static void *pointer(uint64_t word) { return (void *)(uintptr_t)word; }

static bool has_c10(const epg__scope_found *found) { return found->symbols[C10_GET] != NULL; }

static epg_status expect(const epg__scope_found *found, const void *context, uint64_t handle)
{
    void *now = ((handle_fn)found->symbols[HANDLE])(context);
    if ((uint64_t)(uintptr_t)now != handle)
        return epg__fail(EPG_ERR_UNSUPPORTED, "reads back %p after stream 0x%llx was set", now,
                         (unsigned long long)handle);
    return EPG_OK;
}

/* Both the context and c10 say `handle` at the end. */
static epg_status put(const epg__scope_found *found, int ordinal, uint64_t handle, epg__scope_saved *saved)
{
    void *context = pointer(saved->words[SAVED_CONTEXT]);
    char *object = (char *)&saved->words[SAVED_OBJECT];
    uint64_t c10 = handle;
    make_object(layout_of(found), ordinal, handle, object);
    ((set_fn)found->symbols[SET])(context, object, false);
    EPG_TRY(expect(found, context, handle));
    if (!has_c10(found))
        return EPG_OK;
    EPG_TRY(epg__paddle_c10_get(found->symbols[C10_GET], ordinal, &c10));
    if (c10 == handle) /* it reads the context: its setter, which may destroy a stream, is not needed */
        return EPG_OK;
    epg__paddle_c10_set(found->symbols[C10_SET], ordinal, handle);
    ((set_fn)found->symbols[SET])(context, object, false); /* c10's setter may have registered an object of its own */
    EPG_TRY(epg__paddle_c10_expect(found->symbols[C10_GET], ordinal, handle));
    return expect(found, context, handle);
}

static epg_status restore(const epg__scope_found *found, int ordinal, const epg__scope_saved *saved)
{
    void *context = pointer(saved->words[SAVED_CONTEXT]), *before = pointer(saved->words[SAVED_BEFORE]);
    uint64_t c10 = saved->words[SAVED_C10];
    ((set_fn)found->symbols[SET])(context, before, false);
    if (has_c10(found) && epg__paddle_c10_expect(found->symbols[C10_GET], ordinal, c10) != EPG_OK) {
        epg__paddle_c10_set(found->symbols[C10_SET], ordinal, c10);
        ((set_fn)found->symbols[SET])(context, before, false); /* as above */
    }
    void *now = ((current_fn)found->symbols[CURRENT])(context);
    if (now != before)
        return epg__fail(EPG_ERR_UNSUPPORTED, "reads back stream object %p after %p was put back", now, before);
    return has_c10(found) ? epg__paddle_c10_expect(found->symbols[C10_GET], ordinal, c10) : EPG_OK;
}

static epg_status set(const epg__scope_found *found, int ordinal, epg_stream stream, epg__scope_saved *saved)
{
    void *context = NULL;
    uint64_t c10 = 0;
    EPG_TRY(context_of(found, ordinal, &context));
    void *before = ((current_fn)found->symbols[CURRENT])(context);
    EPG_TRY(check_object(found, context, ordinal, before));
    if (has_c10(found))
        EPG_TRY(epg__paddle_c10_get(found->symbols[C10_GET], ordinal, &c10));
    *saved = (epg__scope_saved){{[SAVED_CONTEXT] = (uint64_t)(uintptr_t)context,
                                 [SAVED_BEFORE] = (uint64_t)(uintptr_t)before, [SAVED_C10] = c10}};
    epg_status status = put(found, ordinal, stream ? (uint64_t)(uintptr_t)stream : LEGACY_HANDLE, saved);
    if (status != EPG_OK) {
        char kept[EPG_SCOPE_REASON_BYTES];
        strncpy(kept, epg_message(), sizeof kept - 1);
        kept[sizeof kept - 1] = 0;
        restore(found, ordinal, saved);
        return epg__fail(status, "%s", kept);
    }
    return EPG_OK;
}

const epg__scope_ops epg__scope_paddle = {.name = "Paddle",
                                          .file = "libphi_core.so",
                                          .former_file = "libphi.so",
                                          .find = find,
                                          .set = set,
                                          .restore = restore};
