/* Stands in for libtvm_ffi.so: its stream interface, by its real names, a stream per thread and device; and switches of
 * the test's own. */
#include "standins/standins.h"

static __thread void *streams[STANDIN_DEVICES];
static __thread int behaviour;

STANDIN_API void standin_behave(int how) { behaviour = how; }

STANDIN_API void *TVMFFIEnvGetStream(int32_t kind, int32_t device)
{
    return kind == 2 && device >= 0 && device < STANDIN_DEVICES ? streams[device] : 0;
}

STANDIN_API int TVMFFIEnvSetStream(int32_t kind, int32_t device, void *stream, void **before)
{
    if (kind != 2 || device < 0 || device >= STANDIN_DEVICES || behaviour == STANDIN_REFUSE)
        return -1;
    if (before)
        *before = streams[device];
    if (behaviour != STANDIN_IGNORE)
        streams[device] = stream;
    return 0;
}
