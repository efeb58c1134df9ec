/* Stands in for libtvm_ffi.so: its stream interface, by its real names, a stream per thread and device; and switches of
 * the test's own. */
#include "standins/standins.h"
#include "standins/thread.h"

typedef struct state {
    void *streams[STANDIN_DEVICES];
    int behaviour;
} state;

static state *mine(void) { return standin_thread(sizeof(state)); }

STANDIN_API void standin_behave(int how) { mine()->behaviour = how; }

STANDIN_API void *TVMFFIEnvGetStream(int32_t kind, int32_t device)
{
    return kind == 2 && device >= 0 && device < STANDIN_DEVICES ? mine()->streams[device] : 0;
}

STANDIN_API int TVMFFIEnvSetStream(int32_t kind, int32_t device, void *stream, void **before)
{
    if (kind != 2 || device < 0 || device >= STANDIN_DEVICES || mine()->behaviour == STANDIN_REFUSE)
        return -1;
    if (before)
        *before = mine()->streams[device];
    if (mine()->behaviour != STANDIN_IGNORE)
        mine()->streams[device] = stream;
    return 0;
}
