/* The body of a library that stands in for Paddle's: phi's GPUContext by its real names, and c10's beside it. A
 * generation's file says what it has:
 *   PLACE_NAMED  a phi::Place holds a std::string; otherwise a number
 *   C10          the shim: NONE (inline in Paddle's headers), TLS (a state of its own, per thread), CONTEXT (reads the
 *                context; its setter registers an object of the thread's), MERGED (the same, but its setter writes into
 *                the context's object, and destroys a stream that this owns), FIRST (its own state, where that is set,
 *                before the context; setting registers an object too and clears the one before), DEFAULT (as FIRST, but
 *                the default stream where it is not set).
 * As in the real one, what would throw there does not come back here. */
#include <stddef.h>
#include <stdlib.h>
#include "standins/standins.h"

#define NONE 0
#define TLS 1
#define CONTEXT 2
#define MERGED 3
#define FIRST 4
#define DEFAULT 5

#ifdef PLACE_NAMED
typedef struct text {
    char *at;
    size_t length;
    char here[16];
} text;
typedef struct place {
    int8_t device, type;
    text kind;
} place;
#else
typedef struct place {
    int8_t device, type;
    size_t kind;
} place;
#endif

typedef struct stream {
    place where;
    uint64_t id;
    uint8_t owned;
} stream;

typedef struct context {
    stream *now;
    uint8_t owned;  /* the object, to be deleted with `clear` */
    stream first;
} context;

static context contexts[STANDIN_DEVICES];
static int behaviour, count = STANDIN_DEVICES, first, ready = 1, destroyed;

STANDIN_API void standin_behave(int how) { behaviour = how; }
STANDIN_API void standin_count(int devices) { count = devices; }
/* GPUs below this one are left out. */
STANDIN_API void standin_first(int device) { first = device; }
STANDIN_API void standin_ready(int is) { ready = is; }
/* Streams, and stream objects, that were destroyed since the library was loaded. */
STANDIN_API int standin_destroyed(void) { return destroyed; }

STANDIN_API int _ZN3phi8backends3gpu17GetGPUDeviceCountEv(void) { return count; }
STANDIN_API _Bool _ZN3phi17DeviceContextPool13IsInitializedEv(void) { return ready != 0; }

static void make_place(place *p, int device)
{
    p->device = (int8_t)device;
    p->type = 2;
#ifdef PLACE_NAMED
    p->kind = (text){p->kind.here, 0, {0}};
#else
    p->kind = 0;
#endif
}

/* phi::Place::Place(AllocationType, const std::string &): of device 0. A string begins with its address and length. */
STANDIN_API void _ZN3phi5PlaceC1ENS_14AllocationTypeERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE(
    place *p, int8_t type, const size_t *kind)
{
    if (kind[1] != 0)
        abort();
    make_place(p, 0);
    p->type = type;
}

static int device_of(const place *p)
{
    if (p->type != 2 || p->device < first || p->device >= count || !ready)
        abort();
#ifdef PLACE_NAMED
    if (p->kind.length != 0 || p->kind.at[0] != 0)
        abort();
#else
    if (p->kind != 0)
        abort();
#endif
    return p->device;
}

STANDIN_API void *_ZN6paddle12experimental17DeviceContextPool8InstanceEv(void) { return contexts; }

/* phi's own pool has a std::map of the places that it uses: here a tree with the CPU's at its root, all of it to the
 * right but for every other GPU. */
typedef struct tree {
    int colour;
    struct tree *parent, *left, *right;
    place where;
    void *context[2];
} tree;
typedef struct tree_map {
    char compare;
    tree head; /* the real one ends before the place, and a count follows */
} tree_map;

static tree_map uses;
static tree nodes[STANDIN_DEVICES + 1];

STANDIN_API void *_ZN3phi17DeviceContextPool8InstanceEv(void) { return ready ? &uses : (abort(), NULL); }

STANDIN_API void *_ZNK3phi17DeviceContextPool15device_contextsEv(tree_map *map)
{
    tree *at = &nodes[STANDIN_DEVICES];
    make_place(&at->where, 0);
    at->where.type = 1;
    at->left = at->right = NULL;
    map->head.parent = at;
    for (int i = first; i < count; i++) {
        tree *next = &nodes[i];
        *next = (tree){0};
        make_place(&next->where, i);
        *(i & 1 ? &at->left : &at->right) = next;
        next->parent = at;
        at = next;
    }
    return map;
}

static context *context_of(int device)
{
    context *c = &contexts[device];
    if (device < first)
        abort();
    if (!c->now) {
        make_place(&c->first.where, device);
        c->first.id = 0x500 + (uint64_t)device * 0x10;
        c->first.owned = c->owned = 1;
        c->now = &c->first;
    }
    return c;
}

STANDIN_API void *_ZN6paddle12experimental17DeviceContextPool10GetMutableERKN3phi5PlaceE(void *pool, const place *p)
{
    if (pool != contexts)
        abort();
    return context_of(device_of(p));
}

STANDIN_API void *_ZNK3phi10GPUContext11cuda_streamEv(const context *c) { return c->now; }

STANDIN_API void *_ZNK3phi10GPUContext6streamEv(const context *c)
{
    if (!c->now->id)
        abort();
    device_of(&c->now->where);
    return (void *)(uintptr_t)c->now->id;
}

STANDIN_API void _ZN3phi10GPUContext13SetCUDAStreamEPNS_10CUDAStreamEb(context *c, stream *s, _Bool clear)
{
    if (behaviour == STANDIN_IGNORE)
        return;
    destroyed += clear && c->owned;
    c->owned = 0;
    c->now = s;
}

#if C10 != NONE
#include "standins/thread.h"

typedef struct c10_stream {
    int8_t kind, index;
    struct {
        char *at;
        size_t length;
        char here[16];
    } custom;
    int64_t id;
} c10_stream;

/* c10's of a thread. */
typedef struct state {
    uint64_t id[STANDIN_DEVICES];
    uint8_t is_set[STANDIN_DEVICES];
    stream object[STANDIN_DEVICES];
} state;

static state *mine(void) { return standin_thread(sizeof(state)); }

static int checked(int device)
{
    if (device < 0 || device >= count)
        abort();
    return device;
}

static uint64_t current(int device)
{
    if (C10 == TLS || (C10 == FIRST && mine()->is_set[device]) || C10 == DEFAULT)
        return mine()->id[device];
    return context_of(device)->now->id;
}

/* A probe's place need not be aligned. */
__attribute__((no_sanitize("alignment"))) STANDIN_API c10_stream *
_ZN3c104cuda20getCurrentCUDAStreamEa(c10_stream *result, int8_t device)
{
    result->kind = 1;
    result->index = device;
    result->custom.at = result->custom.here;
    result->custom.length = 0;
    result->custom.here[0] = 0;
    result->id = (int64_t)current(checked(device));
    return result;
}

static void tell_context(int device, uint64_t id)
{
    context *c = context_of(device);
    if (C10 == MERGED) {
        destroyed += c->now->owned && c->now->id != 0;
        c->now->id = id;
        return;
    }
    stream *object = &mine()->object[device];
    make_place(&object->where, device);
    object->id = id;
    _ZN3phi10GPUContext13SetCUDAStreamEPNS_10CUDAStreamEb(c, object, C10 != CONTEXT);
}

STANDIN_API void _ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE(c10_stream *s)
{
    int device = checked(s->index);
    if (s->kind != 1 || s->custom.length != 0 || s->custom.at != s->custom.here)
        abort();
    if (behaviour == STANDIN_IGNORE)
        return;
    mine()->id[device] = (uint64_t)s->id;
    mine()->is_set[device] = 1;
    if (C10 != TLS)
        tell_context(device, (uint64_t)s->id);
}
#endif
