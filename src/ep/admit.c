/* Joining again, the host's side: a group on a place that was lost, and the admission that all ranks enqueue. What the
 * device does with it is admit_host.c's and admit_cuda.cu's. */
#include "device/device_ops.h"
#include "ep/group_state_int.h"
#include "ep/kernels_int.h"
#include "team/team_ops.h"

/* ---- a group on a lost place ---- */

static epg_status join_place(epg_group *g, const epg_group_options *options)
{
    EPG_TRY(epg__group_create_private(g, options));
    EPG_TRY(g->team->ops->symmetric_join(g->team, g->wire.total, g->peers));
    EPG_TRY(g->kernels->join(g));
    g->cleans++;
    g->outside = 1;
    return epg__group_hook(g); /* after the cleaning: it may find the team aborted */
}

epg_status epg_group_join(epg_team *team, const epg_group_options *options, epg_group **group)
{
    if (!team || !group)
        return epg__fail(EPG_ERR_INVALID, "team or group is NULL");
    if (team->incarnation == 0)
        return epg__fail(EPG_ERR_STATE, "rank %u is in its first life: its groups are created, not joined", team->rank);
    epg_group *g = epg__zalloc(1, sizeof *g, "a group");
    if (!g)
        return EPG_ERR_NO_MEMORY;
    g->team = team;
    g->device = team->device;
    epg_status status = join_place(g, options);
    if (status != EPG_OK) {
        epg_group_destroy(g);
        return status;
    }
    *group = g;
    return EPG_OK;
}

/* ---- admission ---- */

static epg_status check_member(const epg_group *g, const epg_member *member, uint32_t rank)
{
    if (member->state > EPG_MEMBER_JOINS)
        return epg__fail(EPG_ERR_INVALID, "the state of rank %u is %u", rank, member->state);
    if (member->incarnation > EPG_TEAM_MAX_INCARNATION)
        return epg__fail(EPG_ERR_INVALID, "the incarnation of rank %u is %u, above %d", rank, member->incarnation,
                         EPG_TEAM_MAX_INCARNATION);
    if (member->state == EPG_MEMBER_JOINS && member->incarnation == 0)
        return epg__fail(EPG_ERR_INVALID, "rank %u joins with incarnation 0, which is a first life", rank);
    if (rank == g->team->rank && member->incarnation != g->team->incarnation)
        return epg__fail(EPG_ERR_INVALID, "this rank, %u, is incarnation %u, and %u in the admission", rank,
                         g->team->incarnation, member->incarnation);
    return EPG_OK;
}

static epg_status check_admission(const epg_group *g, const epg_admission *a)
{
    static const char *const states[] = {"is gone", "stays", "joins"};
    uint32_t ranks = g->wire.geometry.ranks;
    if (a->ranks != ranks || !a->members || !a->epochs)
        return epg__fail(EPG_ERR_INVALID, "an admission of %u ranks to a team of %u, members %p, epochs %p", a->ranks,
                         ranks, (const void *)a->members, (const void *)a->epochs);
    for (uint32_t r = 0; r < ranks; r++)
        EPG_TRY(check_member(g, &a->members[r], r));
    uint32_t state = a->members[g->team->rank].state;
    if (state != (g->outside ? EPG_MEMBER_JOINS : EPG_MEMBER_STAYS))
        return epg__fail(EPG_ERR_STATE, "this rank, %u, %s in the admission, and its group %s", g->team->rank,
                         states[state], g->outside ? "was joined and not admitted yet" : "takes part already");
    return epg__group_check_closed(g);
}

epg_status epg_group_admit(epg_group *group, const epg_admission *admission, epg_stream stream)
{
    if (!group || !admission)
        return epg__fail(EPG_ERR_INVALID, "%s is NULL", group ? "admission" : "group");
    EPG__CHECK_SIZE(admission, sizeof *admission);
    EPG_TRY(check_admission(group, admission));
    if (epg__group_capture_of(group, stream) != 0)
        return epg__fail(EPG_ERR_STATE, "an admission cannot be captured");
    EPG_TRY(group->kernels->admit(group, admission, stream));
    for (uint32_t r = 0; r < admission->ranks; r++)
        if (group->newest[r] < admission->members[r].incarnation)
            group->newest[r] = admission->members[r].incarnation;
    group->outside = 0;
    return EPG_OK;
}
