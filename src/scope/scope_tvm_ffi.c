/* TVM-FFI (FlashInfer, CuTe DSL and others launch through it): a stream per thread, kind of device and device, behind a
 * plain C interface. A stream that was never set reads as NULL, and NULL puts that back. */
#include "scope/scope_ops.h"

enum { DEVICE_CUDA = 2, SET = 0, GET = 1 };

typedef int (*set_fn)(int32_t kind, int32_t device, void *stream, void **before);
typedef void *(*get_fn)(int32_t kind, int32_t device);

static epg_status find(epg__scope_found *found)
{
    found->symbols[SET] = epg__scope_symbol(found->handle, "TVMFFIEnvSetStream");
    found->symbols[GET] = epg__scope_symbol(found->handle, "TVMFFIEnvGetStream");
    if (!found->symbols[GET])
        found->symbols[GET] = epg__scope_symbol(found->handle, "TVMFFIEnvGetCurrentStream"); /* its former name */
    if (!found->symbols[SET])
        return epg__fail(EPG_ERR_UNSUPPORTED, "the library has no TVMFFIEnvSetStream");
    if (!found->symbols[GET])
        return epg__fail(EPG_ERR_UNSUPPORTED, "the library has no TVMFFIEnvGetStream to read a stream back with");
    return EPG_OK;
}

static epg_status put(const epg__scope_found *found, int ordinal, void *stream, void **before)
{
    int result = ((set_fn)found->symbols[SET])(DEVICE_CUDA, ordinal, stream, before);
    if (result != 0)
        return epg__fail(EPG_ERR_UNSUPPORTED, "TVMFFIEnvSetStream gave %d for stream %p", result, stream);
    void *now = ((get_fn)found->symbols[GET])(DEVICE_CUDA, ordinal);
    if (now != stream)
        return epg__fail(EPG_ERR_UNSUPPORTED, "reads back %p after stream %p was set", now, stream);
    return EPG_OK;
}

static epg_status set(const epg__scope_found *found, int ordinal, epg_stream stream, epg__scope_saved *saved)
{
    void *before = ((get_fn)found->symbols[GET])(DEVICE_CUDA, ordinal), *replaced = before;
    epg_status status = put(found, ordinal, stream, &replaced);
    if (status == EPG_OK && replaced != before)
        status = epg__fail(EPG_ERR_UNSUPPORTED, "TVMFFIEnvSetStream says it replaced %p, but %p was current", replaced,
                           before);
    if (status != EPG_OK)
        ((set_fn)found->symbols[SET])(DEVICE_CUDA, ordinal, before, NULL);
    saved->words[0] = (uint64_t)(uintptr_t)before;
    return status;
}

static epg_status restore(const epg__scope_found *found, int ordinal, const epg__scope_saved *saved)
{
    return put(found, ordinal, (void *)(uintptr_t)saved->words[0], NULL);
}

const epg__scope_ops epg__scope_tvm_ffi = {
    .name = "TVM-FFI", .file = "libtvm_ffi.so", .find = find, .set = set, .restore = restore};
