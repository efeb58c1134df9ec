/* PyTorch: c10's current stream, per thread and device. Its functions are C++, called here under their mangled names.
 *
 * c10::cuda::CUDAStream is 16 trivially copyable bytes: kind and index of the device in the first two, then an id,
 * which is 0 for the default stream, odd for a stream of PyTorch's pool, and else the handle itself. On x86-64 it
 * travels in two registers, as the struct below does. Kept and put back whole, a pool stream stays that pool stream; a
 * handle alone would come back as an external stream that compares unequal.
 *
 * These functions throw where an argument is out of range, or there is no GPU, and the setter checks nothing: so all is
 * checked before a call. Under these names a library may also return through memory (Paddle's do): a probe tells. */
#include "scope/scope_ops.h"

enum { GET, SET, EXTERNAL, COUNT, SYMBOLS };
enum { KIND_CUDA = 1, DEVICE_BITS = 0xFFFF };

typedef struct stream16 {
    uint64_t device; /* only its low 16 bits have a meaning */
    uint64_t id;
} stream16;
_Static_assert(sizeof(stream16) == 16, "what two registers hold");
_Static_assert((int)SYMBOLS <= (int)EPG__SCOPE_SYMBOLS, "found->symbols holds them");

typedef stream16 (*get_fn)(int8_t device);
typedef void (*set_fn)(stream16 stream);
typedef stream16 (*external_fn)(void *handle, int8_t device);
typedef int8_t (*count_fn)(void);

static const char *const names[SYMBOLS] = {
    [GET] = "_ZN3c104cuda20getCurrentCUDAStreamEa",
    [SET] = "_ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE",
    [EXTERNAL] = "_ZN3c104cuda21getStreamFromExternalEP11CUstream_sta",
    [COUNT] = "_ZN3c104cuda12device_countEv",
};

static bool is_of(stream16 stream, int ordinal)
{
    return (stream.device & DEVICE_BITS) == (uint64_t)(KIND_CUDA | ordinal << 8);
}

static stream16 current(const epg__scope_found *found, int ordinal)
{
    return ((get_fn)found->symbols[GET])((int8_t)ordinal);
}

static epg_status probe(const epg__scope_found *found)
{
    epg__scope_probe probe;
    EPG_TRY(epg__scope_probe_stream(found->symbols[GET], 0, &probe));
    if (probe.through_memory)
        return epg__fail(EPG_ERR_UNSUPPORTED, "returns a stream through memory, not in registers as c10 does");
    stream16 got = {probe.registers[0], probe.registers[1]};
    if (!is_of(got, 0))
        return epg__fail(EPG_ERR_UNSUPPORTED, "its stream of GPU 0 begins with 0x%04x, not 0x%04x",
                         (unsigned)(got.device & DEVICE_BITS), (unsigned)KIND_CUDA);
    return EPG_OK;
}

static epg_status find(epg__scope_found *found)
{
    for (int i = 0; i < SYMBOLS; i++) {
        found->symbols[i] = epg__scope_symbol(found->handle, names[i]);
        if (!found->symbols[i])
            return epg__fail(EPG_ERR_UNSUPPORTED, "the library has no %s", names[i]);
    }
    if (((count_fn)found->symbols[COUNT])() < 1)
        return epg__fail(EPG_ERR_UNSUPPORTED, "it sees no GPU");
    return probe(found);
}

static epg_status put(const epg__scope_found *found, int ordinal, stream16 stream)
{
    ((set_fn)found->symbols[SET])(stream);
    stream16 now = current(found, ordinal);
    if (now.id != stream.id || !is_of(now, ordinal))
        return epg__fail(EPG_ERR_UNSUPPORTED, "reads back stream id 0x%llx after 0x%llx was set",
                         (unsigned long long)now.id, (unsigned long long)stream.id);
    return EPG_OK;
}

static epg_status set(const epg__scope_found *found, int ordinal, epg_stream stream, epg__scope_saved *saved)
{
    int count = ((count_fn)found->symbols[COUNT])();
    if (ordinal >= count)
        return epg__fail(EPG_ERR_UNSUPPORTED, "it sees %d GPUs, and GPU %d was asked for", count, ordinal);
    stream16 before = current(found, ordinal);
    stream16 wanted = ((external_fn)found->symbols[EXTERNAL])(stream, (int8_t)ordinal);
    if (wanted.id != (uint64_t)(uintptr_t)stream || !is_of(wanted, ordinal))
        return epg__fail(EPG_ERR_UNSUPPORTED, "makes stream %p one with the id 0x%llx", (void *)stream,
                         (unsigned long long)wanted.id);
    epg_status status = put(found, ordinal, wanted);
    if (status != EPG_OK)
        ((set_fn)found->symbols[SET])(before);
    *saved = (epg__scope_saved){{before.device, before.id}};
    return status;
}

static epg_status restore(const epg__scope_found *found, int ordinal, const epg__scope_saved *saved)
{
    return put(found, ordinal, (stream16){saved->words[0], saved->words[1]});
}

const epg__scope_ops epg__scope_torch = {
    .name = "PyTorch", .file = "libc10_cuda.so", .find = find, .set = set, .restore = restore};
