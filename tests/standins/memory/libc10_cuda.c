/* Stands in for a library with c10's names in which a stream is 48 bytes and travels through memory, as a C++ class
 * that is not trivially copyable does: the caller's place comes first, and its address comes back. */
#include <stdlib.h>
#include <string.h>
#include "standins/standins.h"

STANDIN_API int8_t _ZN3c104cuda12device_countEv(void) { return STANDIN_DEVICES; }

STANDIN_API void *_ZN3c104cuda20getCurrentCUDAStreamEa(void *place, int8_t device)
{
    if (device < 0 || device >= STANDIN_DEVICES)
        abort();
    return memset(place, 1, 48);
}

/* Called as c10's are, these two would take a handle for an address. */
STANDIN_API void _ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE(void *stream)
{
    (void)stream;
    abort();
}

STANDIN_API void *_ZN3c104cuda21getStreamFromExternalEP11CUstream_sta(void *place, void *handle, int8_t device)
{
    (void)place, (void)handle, (void)device;
    abort();
}
