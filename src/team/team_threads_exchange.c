/* The collective exchange of a team of threads.
 *
 * Every collective is the same exchange: a rank posts its contribution under its next sequence number and waits until
 * all ranks have posted theirs. A rank posts number n+1 only after it has read all posts of n, hence n+2 only after all
 * ranks have read n: two generations of posts would do. There are three because a rank that takes a retired place
 * begins with the first number that nobody has posted, n+1, and another may still be reading n-1.
 *
 * A retired rank's posts of the past count; nobody waits for others. Every rank sees the same: a rank is retired once
 * it posts nothing more, and the next on its place begins with a number that nobody can have read. */
#include <stdio.h>
#include <string.h>
#include "team/team_threads_int.h"

static epg__post *post_at(const epg__world *w, uint64_t sequence, uint32_t rank)
{
    return &w->posts[sequence % EPG__GENERATIONS][rank];
}

static epg_status post_now(epg__threads_team *team, const void *in, size_t bytes)
{
    epg__world *w = team->world;
    epg__lock_take(w->engine, &w->lock);
    epg_status status = w->aborted ? epg__threads_aborted(w) : epg__threads_check(team);
    epg__post *mine = post_at(w, team->sequence + 1, team->head.rank);
    if (status == EPG_OK && bytes > mine->capacity) {
        void *grown = epg__grow(mine->data, bytes, 1, "an all-gather");
        if (grown) {
            mine->data = grown;
            mine->capacity = bytes;
        } else {
            status = EPG_ERR_NO_MEMORY;
        }
    }
    if (status == EPG_OK) {
        if (bytes)
            memcpy(mine->data, in, bytes);
        mine->bytes = bytes;
        mine->sequence = ++team->sequence;
        epg__cond_broadcast(w->engine, &w->changed);
    }
    epg__lock_drop(w->engine, &w->lock);
    if (status == EPG_ERR_NO_MEMORY)
        epg__threads_abort(&team->head, "no memory for an all-gather"); /* the others would wait for this post */
    return status;
}

/* Ranks whose post of this sequence number is still to come, as text; 0 if there is none. */
static uint32_t list_missing(const epg__world *w, uint64_t sequence, char *text, size_t room)
{
    uint32_t missing = 0;
    size_t used = 0;
    text[0] = 0;
    for (uint32_t r = 0; r < w->size; r++) {
        if (post_at(w, sequence, r)->sequence == sequence || w->places[r].retired || sequence < w->places[r].first)
            continue;
        missing++;
        if (used + 16 < room)
            used += (size_t)snprintf(text + used, room - used, "%s%u", missing > 1 ? ", " : "", r);
    }
    return missing;
}

/* With the lock held: until every rank has posted this rank's last sequence number. */
static epg_status wait_all(epg__threads_team *team, const char *what)
{
    epg__world *w = team->world;
    uint64_t deadline = epg__now_ns(w->engine) + team->head.timeout_ms * 1000000ull;
    epg_status status = EPG_OK;
    char missing[256];
    for (;;) {
        if (list_missing(w, team->sequence, missing, sizeof missing) == 0)
            return EPG_OK;
        if (w->aborted)
            return epg__threads_aborted(w);
        if (status == EPG_ERR_TIMEOUT)
            return epg__fail(EPG_ERR_TIMEOUT, "%s: no answer in %u ms from rank %s", what, team->head.timeout_ms,
                             missing);
        EPG_TRY(status);
        status = w->engine->ops->wait(w->engine, &w->changed, &w->lock, deadline, what);
    }
}

epg_status epg__threads_allgather_begin(epg_team *base, const void *in, size_t bytes)
{
    epg__threads_team *team = epg__threads_of(base);
    if (team->open)
        return epg__fail(EPG_ERR_STATE, "an all-gather is open already on rank %u", base->rank);
    EPG_TRY(post_now(team, in, bytes));
    team->open = 1;
    team->open_bytes = bytes;
    return EPG_OK;
}

static epg_status collect(epg__threads_team *team, char *out)
{
    epg__world *w = team->world;
    size_t bytes = team->open_bytes;
    for (uint32_t r = 0; r < w->size; r++) {
        const epg__post *p = post_at(w, team->sequence, r);
        if (p->sequence != team->sequence) { /* nobody sits there */
            memset(out + r * bytes, 0, bytes);
            continue;
        }
        if (p->bytes != bytes)
            return epg__fail(EPG_ERR_MISMATCH, "all-gather: rank %u gave %zu bytes where rank %u gave %zu", r, p->bytes,
                             team->head.rank, bytes);
        if (bytes)
            memcpy(out + r * bytes, p->data, bytes);
    }
    return EPG_OK;
}

epg_status epg__threads_allgather_end(epg_team *base, void *out)
{
    epg__threads_team *team = epg__threads_of(base);
    epg__world *w = team->world;
    if (!team->open)
        return epg__fail(EPG_ERR_STATE, "no all-gather is open on rank %u", base->rank);
    epg__lock_take(w->engine, &w->lock);
    epg_status status = epg__threads_check(team);
    if (status == EPG_OK)
        status = wait_all(team, "all-gather");
    team->open = status == EPG_ERR_TIMEOUT; /* the missing ranks may be retired, and the wait taken up again */
    if (status == EPG_OK)
        status = collect(team, out);
    epg__lock_drop(w->engine, &w->lock);
    return status;
}

epg_status epg__threads_barrier(epg_team *base)
{
    epg__threads_team *team = epg__threads_of(base);
    if (team->open)
        return epg__fail(EPG_ERR_STATE, "barrier between the halves of an all-gather on rank %u", base->rank);
    epg__world *w = team->world;
    EPG_TRY(post_now(team, NULL, 0));
    epg__lock_take(w->engine, &w->lock);
    epg_status status = wait_all(team, "barrier");
    epg__lock_drop(w->engine, &w->lock);
    return status;
}

/* With the lock held: the largest sequence number that any rank has posted. */
uint64_t epg__threads_last_posted(const epg__world *w)
{
    uint64_t last = 0;
    for (int g = 0; g < EPG__GENERATIONS; g++)
        for (uint32_t r = 0; r < w->size; r++)
            last = w->posts[g][r].sequence > last ? w->posts[g][r].sequence : last;
    return last;
}
