/* The public calls of a team: argument checks and counting, then the transport's table. */
#include <string.h>
#include "team/team_ops.h"

void epg_team_destroy(epg_team *team)
{
    if (team)
        team->ops->destroy(team);
}

uint32_t epg_team_rank(const epg_team *team) { return team->rank; }
uint32_t epg_team_size(const epg_team *team) { return team->size; }
const char *epg_team_transport(const epg_team *team) { return team->ops->name; }
epg_device *epg_team_device(const epg_team *team) { return team->device; }
uint32_t epg_team_incarnation(const epg_team *team) { return team->incarnation; }

static epg_status no_team(void) { return epg__fail(EPG_ERR_INVALID, "team is NULL"); }

epg_status epg_team_barrier(epg_team *team)
{
    if (!team)
        return no_team();
    team->stats.barriers++;
    return team->ops->barrier(team);
}

epg_status epg_team_allgather_begin(epg_team *team, const void *in, size_t bytes)
{
    if (!team)
        return no_team();
    if (!in || bytes == 0)
        return epg__fail(EPG_ERR_INVALID, "all-gather of %zu bytes from %p", bytes, in);
    team->stats.allgathers++;
    return team->ops->allgather_begin(team, in, bytes);
}

epg_status epg_team_allgather_end(epg_team *team, void *out)
{
    if (!team)
        return no_team();
    if (!out)
        return epg__fail(EPG_ERR_INVALID, "out is NULL");
    return team->ops->allgather_end(team, out);
}

epg_status epg_team_allgather(epg_team *team, const void *in, size_t bytes, void *out)
{
    if (!out)
        return epg__fail(EPG_ERR_INVALID, "out is NULL");
    EPG_TRY(epg_team_allgather_begin(team, in, bytes));
    return epg_team_allgather_end(team, out);
}

epg_status epg_team_abort(epg_team *team, const char *reason)
{
    return team ? team->ops->abort(team, reason ? reason : "no reason given") : no_team();
}

static epg_status check_place(const epg_team *team, uint32_t rank)
{
    if (!team)
        return no_team();
    return rank < team->size ? EPG_OK : epg__fail(EPG_ERR_INVALID, "rank is %u, not below %u", rank, team->size);
}

epg_status epg_team_retire(epg_team *team, uint32_t rank)
{
    EPG_TRY(check_place(team, rank));
    return team->ops->retire(team, rank);
}

epg_status epg_team_rejoin(epg_team *team, uint32_t rank, epg_team **joined)
{
    EPG_TRY(check_place(team, rank));
    if (!joined)
        return epg__fail(EPG_ERR_INVALID, "joined is NULL");
    return team->ops->rejoin(team, rank, joined);
}

epg_status epg_team_get_stats(const epg_team *team, epg_team_stats *stats)
{
    if (!team || !stats)
        return epg__fail(EPG_ERR_INVALID, "team or stats is NULL");
    EPG__CHECK_SIZE(stats, sizeof(uint32_t));
    uint32_t size = stats->size;
    memcpy(stats, &team->stats, size < sizeof *stats ? size : sizeof *stats);
    stats->size = size;
    return EPG_OK;
}
