/* Deterministic simulation: a host device without threads, on which a seed decides every interleaving.
 *
 * Host programs (one per rank, say) and the work of all streams run as fibers of the calling thread. One of them makes
 * its next move at a time, chosen from the seed; a move is as small as a part of a row's store, one signal, one poll.
 * Time is virtual: it passes with moves, and jumps to the next deadline when nobody can move. Same seed, same programs:
 * the same run, bit for bit. Stores to symmetric memory may become visible late: after later relaxed stores of the same
 * stream, never after its next release or the end of the kernel.
 *
 * A simulated device, its teams and all else made from it belong to one operating system thread at a time. Each program
 * counts as a thread of its own for capture modes, per-thread default streams and epg_message(). */
#ifndef EPGRAPH_SIMULATION_H
#define EPGRAPH_SIMULATION_H

#include "epgraph/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct epg_simulation_options {
    uint32_t size;
    uint32_t late_percent; /* chance, of 100, that a relaxed store becomes visible late */
    uint64_t seed;
    uint64_t move_ns;      /* virtual time of one move; 0: 100 */
    uint64_t max_moves;    /* a run that needs more ends with EPG_ERR_TIMEOUT; 0: no bound */
    /* NULL, or called for every move but those that only leave a library call: who ("rank 2 stream 1"; program i is
     * called rank i), at which virtual time, does what ("dispatch send: stores a row of token 3 to rank 0, slot 5,
     * epoch 7"). It must not call the library. */
    void (*trace)(void *ctx, uint64_t time_ns, const char *who, const char *what);
    void *trace_ctx;
} epg_simulation_options;
#define EPG_SIMULATION_OPTIONS_INIT {sizeof(epg_simulation_options), 0, 0, 0, 0, NULL, NULL}

/* The options are given to epg_device_create in epg_device_options.simulation. Below, a device that is not simulated is
 * EPG_ERR_UNSUPPORTED. */

/* Runs program(ctx, i) for i in 0..programs-1 as fibers, with all stream work, until all programs have returned or were
 * killed, and all work but that of killed ones is done. A stream belongs to the program that created it, the legacy
 * stream and those made outside of a run to none. Blocking calls of the library (synchronize, a team's collectives, the
 * destruction of an executable graph) let the others move, as do all calls that enqueue.
 *
 * EPG_ERR_STATE where nobody can move any more (a deadlock: the message names every blocked fiber and what it waits
 * for), EPG_ERR_TIMEOUT past max_moves. All programs and all stream work are cut off then, as by epg_simulation_kill,
 * and the device can still be used and destroyed. May be called several times, one after the other; not by a program.
 *
 * A program that is cut off never returns: what it had allocated is lost unless the caller can reach it. Work that is
 * cut off holds no memory of the library. */
EPG_API epg_status epg_simulation_run(epg_device *device, uint32_t programs, void (*program)(void *ctx, uint32_t index),
                                      void *ctx);

/* In a program or a kernel: others may move here. `what` (may be NULL) is for the trace. Does nothing on other devices.
 * The library sees its own accesses only: a kernel that reads rows where they arrived calls this between them. */
EPG_API void epg_simulation_move(epg_device *device, const char *what);

/* ---- faults; during a run, from any program ---- */

/* The program and its streams make no move for so long. */
EPG_API epg_status epg_simulation_stop(epg_device *device, uint32_t program, uint64_t ns);

/* The program and its streams make no move any more; queued work of its streams is dropped, their captures end. Stores
 * still held back land late or never. A program that kills itself does not return from the call. */
EPG_API epg_status epg_simulation_kill(epg_device *device, uint32_t program);

/* Its moves come `factor` times less often; 1: as before. */
EPG_API epg_status epg_simulation_slow(epg_device *device, uint32_t program, uint32_t factor);

/* Starts program(ctx, index) anew in the place of a killed one: a rank that joins again. EPG_ERR_STATE if it was not
 * killed. */
EPG_API epg_status epg_simulation_restart(epg_device *device, uint32_t program);

/* Sleeps in virtual time; in a program. Does nothing on other devices. */
EPG_API void epg_simulation_sleep(epg_device *device, uint64_t ns);

/* ---- what a simulation tells; 0 on other devices ---- */
EPG_API uint64_t epg_simulation_moves(epg_device *device);  /* moves made so far */
EPG_API uint64_t epg_simulation_digest(epg_device *device); /* of all moves so far: equal digests, equal runs */

#ifdef __cplusplus
}
#endif
#endif
