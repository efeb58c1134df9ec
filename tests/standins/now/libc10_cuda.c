/* Stands in for PyTorch's libc10_cuda.so: a stream is 16 bytes in two registers, which is how C passes this struct too.
 * As there, the getter does not come back from an index out of range, and the setter checks nothing. */
#include <stdlib.h>
#include "standins/standins.h"
#include "standins/thread.h"

typedef struct state {
    uint64_t ids[STANDIN_DEVICES];
    int behaviour, count;
} state;

static state *mine(void) { return standin_thread(sizeof(state)); }

STANDIN_API void standin_behave(int how) { mine()->behaviour = how; }
STANDIN_API void standin_count(int devices) { mine()->count = devices; }
STANDIN_API int8_t _ZN3c104cuda12device_countEv(void) { return (int8_t)mine()->count; }

static standin_stream stream_of(int8_t device, uint64_t id)
{
    if (device < 0 || device >= mine()->count)
        abort();
    /* Padding is whatever was in the register. */
    return (standin_stream){0xABCDEF0000ull << 16 | (uint64_t)(1 | device << 8), id};
}

STANDIN_API standin_stream _ZN3c104cuda20getCurrentCUDAStreamEa(int8_t device)
{
    return stream_of(device, mine()->ids[device & (STANDIN_DEVICES - 1)]);
}

STANDIN_API void _ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE(standin_stream stream)
{
    if (mine()->behaviour != STANDIN_IGNORE)
        mine()->ids[(stream.device >> 8) & 0xFF] = stream.id;
}

STANDIN_API standin_stream _ZN3c104cuda21getStreamFromExternalEP11CUstream_sta(void *handle, int8_t device)
{
    return stream_of(device, (uint64_t)(uintptr_t)handle);
}
