/* How a library returns a c10 stream. PyTorch's is 16 trivially copyable bytes, which x86-64 returns in two registers;
 * Paddle's, of the same names, is a class that is not, and comes back through memory that the caller provides. */
#include <string.h>
#include <sys/mman.h>
#include "scope/scope_ops.h"

#if defined(__x86_64__)
enum { CONVENTION_IS_KNOWN = 1 };
#else
enum { CONVENTION_IS_KNOWN = 0 };
#endif

enum { PLACE_BYTES = 4096 };

typedef struct registers {
    uint64_t first, second;
} registers;

typedef registers (*getter_fn)(void *place, int64_t device);

/* Memory at a multiple of 4 GiB, so that its address is 0 to whoever reads 32 bits of it or fewer; NULL if there is no
 * place. Looked for below the library that is probed: a program that is not relocated has nothing below it. */
static void *place_below(const void *library)
{
    uintptr_t step = (uintptr_t)1 << 32, address = (uintptr_t)library & ~(step - 1);
    for (int i = 0; i < 64 && address > step; i++, address -= step) {
        void *place = mmap((void *)address, PLACE_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (place == (void *)address)
            return place;
        if (place != MAP_FAILED)
            munmap(place, PLACE_BYTES);
    }
    return NULL;
}

/* Asks for the device's stream so that either convention is served. Where it comes back in registers, the first
 * argument is the device, of which a callee may read 8 bits or 32: the place's address is the device in both, and need
 * not be aligned for that (x86-64 does not mind). Where it comes back through memory, the place is that memory, its
 * address comes back, and the device is the second argument. */
epg_status epg__scope_probe_stream(void *getter, int device, epg__scope_probe *probe)
{
    if (!CONVENTION_IS_KNOWN)
        return epg__fail(EPG_ERR_UNSUPPORTED, "how it passes a stream is known for x86-64 alone");
    void *page = place_below(getter);
    if (!page)
        return epg__fail(EPG_ERR_UNSUPPORTED, "no address was free to probe how it passes a stream");
    char *place = (char *)page + device;
    registers got = ((getter_fn)getter)(place, device);
    *probe = (epg__scope_probe){got.first == (uint64_t)(uintptr_t)place, place, {got.first, got.second}, {0}};
    memcpy(probe->memory, place, sizeof probe->memory);
    munmap(page, PLACE_BYTES);
    return EPG_OK;
}
