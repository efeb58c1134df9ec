/* What the runner needs of a group beyond the public API. */
#ifndef EPG_GROUP_INT_H
#define EPG_GROUP_INT_H

#include "epgraph/group.h"

/* Operations enqueued so far by the host, and how many of them were captured. The runner compares the two over a
 * capture: a difference is an operation that escaped it. */
typedef struct epg__group_counts {
    uint64_t issued, captured;
} epg__group_counts;
epg__group_counts epg__group_get_counts(const epg_group *group);

/* After a capture failed: puts back the order of every lane whose pair was opened in it. Nothing of it ran. */
void epg__group_discard_capture(epg_group *group, uint64_t capture_id);

/* EPG_OK if no pair is open in any lane; else EPG_ERR_STATE with the lane and the operation that is missing. A graph
 * must hold whole pairs. */
epg_status epg__group_check_closed(const epg_group *group);

/* The group's name for an operation: "dispatch send". */
const char *epg__operation_name(epg_operation operation);

#endif
