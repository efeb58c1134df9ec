/* Waiting for a signal on the host device: a doorbell is an event count on a futex.
 *
 * The owner announces that it sleeps, looks once more at the count, and sleeps on it; a ringer adds to the count and
 * looks whether anybody sleeps. Both orders are sequentially consistent, so either the owner sees the new count or
 * the ringer sees the sleeper. Polling with a growing sleep was rejected: with 64 ranks on 2 cores it burns the cores
 * or adds a millisecond per wait. */
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "device/host_kernel_int.h"

void epg__doorbell_ring(epg__simulator *sim, epg__doorbell *bell)
{
    if (sim) {
        sim->ops->ring(sim, bell);
        return;
    }
    __atomic_add_fetch(&bell->rings, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&bell->waiters, __ATOMIC_SEQ_CST) != 0)
        syscall(SYS_futex, &bell->rings, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
}

void epg__doorbell_wait(epg__simulator *sim, epg__doorbell *bell, uint32_t seen, uint64_t ns)
{
    if (sim) {
        sim->ops->wait(sim, bell, seen, ns);
        return;
    }
    struct timespec bound = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    __atomic_add_fetch(&bell->waiters, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&bell->rings, __ATOMIC_SEQ_CST) == seen)
        syscall(SYS_futex, &bell->rings, FUTEX_WAIT, seen, &bound, NULL, 0);
    __atomic_sub_fetch(&bell->waiters, 1, __ATOMIC_SEQ_CST);
}
