/* The group object: group.c creates and describes it, pair.c enqueues on it. */
#ifndef EPG_GROUP_STATE_INT_H
#define EPG_GROUP_STATE_INT_H

#include "ep/lane_int.h"

/* The host's side of a lane: which half comes next, and in which capture the open pair began (0: eagerly). */
typedef struct epg__lane_order {
    epg_operation next;
    epg_mode mode;   /* LL or HT, of the open pair */
    uint32_t bucket; /* of the open pair */
    uint64_t capture_id;
} epg__lane_order;

struct epg_group {
    epg_team *team;
    epg_device *device;
    const struct epg__kernels *kernels; /* of the device's kind */
    void *kernels_state;                /* theirs */
    epg_group_options options; /* defaults filled in */
    epg_wire_layout wire;
    uint32_t ll_max_tokens;
    void **peers;              /* [ranks] */
    int32_t *expert_map;
    epg__lane lanes[EPG_LANES_MAX];
    epg__lane_order order[EPG_LANES_MAX];
    epg__group_counts counts;
    uint64_t cleans, region_bytes, local_bytes, expert_bytes;
    uint32_t lanes_made;
    int hooked;
    int outside;               /* joined its place, not admitted yet */
    int rehearsing;            /* the last epg_group_rehearse turned it on */
    uint32_t *newest;          /* [ranks] the incarnation of each rank admitted last */
};

/* Memory of this rank alone; with a team and a device in `g`. Does not touch symmetric memory. */
epg_status epg__group_create_private(epg_group *g, const epg_group_options *options);

/* EPG_ERR_MISMATCH names the first field of two geometries that differs. */
epg_status epg__group_compare(const epg_wire_geometry *theirs, const epg_wire_geometry *ours, uint32_t their_rank,
                              uint32_t our_rank);

/* From now on an abort of the team ends the group's waits. */
epg_status epg__group_hook(epg_group *g);

/* The capture that `stream` is in, 0 for none. */
uint64_t epg__group_capture_of(const epg_group *g, epg_stream stream);

#endif
