/* The table behind a group's operations, one per kind of device, chosen when the group is created. pair.c keeps the
 * order of operations and calls through it; group.c reads and writes through it what lies where only the device can.
 *
 * What enqueues may run during capture. */
#ifndef EPG_KERNELS_INT_H
#define EPG_KERNELS_INT_H

#include "ep/lane_int.h"

typedef struct epg__kernels {
    /* Before the region exists (whatever needs memory), once it does, and at the end. `ready` puts the region in its
     * first state: nobody masked, no signal ever sent, every rank in the life that g->newest says. */
    epg_status (*create)(epg_group *g);
    epg_status (*ready)(epg_group *g);
    void (*destroy)(epg_group *g);

    /* Instead of `ready`, on a place that was lost: EPG_ERR_MISMATCH where the region is another geometry's; else it is
     * as if new, but for the mark of a rank that was not admitted yet, and tells the new incarnation last. Peers may be
     * running. */
    epg_status (*join)(epg_group *g);
    epg_status (*admit)(epg_group *g, const epg_admission *admission, epg_stream stream);

    epg_status (*dispatch_send)(epg_group *g, const epg_dispatch_args *user, int is_void, epg_mode mode,
                                epg_stream stream);
    epg_status (*dispatch_recv)(epg_group *g, uint32_t lane, int is_void, epg_stream stream);
    epg_status (*combine_send)(epg_group *g, uint32_t lane, int is_void, const void *expert_rows, epg_stream stream);
    epg_status (*combine_recv)(epg_group *g, uint32_t lane, int is_void, void *out, epg_stream stream);

    /* Both halves of one, where that is shorter than one after the other. *halves counts those that were enqueued, also
     * where the call fails. */
    epg_status (*dispatch)(epg_group *g, const epg_dispatch_args *user, epg_mode mode, epg_stream stream, int *halves);
    epg_status (*combine)(epg_group *g, uint32_t lane, const void *expert_rows, void *out, epg_stream stream,
                          int *halves);

    epg_status (*rehearse)(epg_group *g, int on, epg_stream stream);

    /* From any thread, without waiting for the group's work. */
    void (*abort)(epg_group *g);
    const epg_wire_record *(*record)(const epg_group *g); /* ready to be read where `taken` is 2 */
    epg_status (*clear_record)(epg_group *g);
    epg_status (*alive)(epg_group *g, uint32_t rank, int *alive);                     /* in every lane */
    epg_status (*give_up)(epg_group *g, uint32_t rank, uint32_t incarnation);         /* that life of it */
    epg_status (*counters)(epg_group *g, uint64_t value[EPG_COUNTERS]);
} epg__kernels;

extern const epg__kernels epg__kernels_host;
extern const epg__kernels epg__kernels_cuda; /* in a library built without CUDA: every group fails at creation */

#endif
