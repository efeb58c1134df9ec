/* Two ranks exchange tokens: dispatch, experts, combine.
 *
 * Two virtual ranks (threads of this process) own two experts each. Every rank sends three tokens to two experts per
 * token; expert e multiplies a row by e + 1; combine brings back the weighted sum. All numbers are small and exact, so
 * that what came back can be compared for equality. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include "epgraph/epgraph.h"

enum { RANKS = 2, EXPERTS = 4, HIDDEN = 8, TOPK = 2, TOKENS = 3 };

static const float weights[TOKENS][TOPK] = {{0.5f, 0.5f}, {0.25f, 0.75f}, {1.0f, 0.0f}};
static const int32_t chosen[RANKS][TOKENS][TOPK] = {
    {{0, 3}, {2, 1}, {3, -1}}, /* -1: no second expert */
    {{1, 0}, {3, 2}, {0, -1}},
};

typedef struct rank {
    epg_device *device;
    epg_team *team;
    epg_group *group;
    epg_stream stream;
    void *rows, *ids, *weights, *expert_rows, *out; /* device memory */
    float back[TOKENS][HIDDEN];
    int ok;
} rank;

#define TRY(call)                    \
    do {                             \
        epg_status try_ = (call);    \
        if (try_ != EPG_OK)          \
            return try_;             \
    } while (0)

/* ---- the experts: a kernel of the host device ---- */

typedef struct scale_args {
    epg_dispatch_view view;
    float *out;
} scale_args;

/* Runs in stream order, after dispatch recv: only now do the view's arrays say how many rows there are. */
static void scale_rows(const void *raw)
{
    const scale_args *args = raw;
    const epg_dispatch_view *v = &args->view;
    for (uint32_t e = 0; e < v->local_experts; e++)
        for (uint32_t p = v->offsets[e]; p < v->offsets[e] + v->counts[e]; p++) {
            const float *in = (const float *)v->rows + (size_t)v->row_index[p] * HIDDEN;
            for (uint32_t i = 0; i < HIDDEN; i++)
                args->out[(size_t)p * HIDDEN + i] = in[i] * (float)(v->first_expert + e + 1);
        }
}

/* ---- one rank ---- */

static float input(uint32_t r, uint32_t token, uint32_t i) { return (float)(100 * r + 10 * token + i); }

static epg_status set_up(rank *self, uint32_t r)
{
    epg_group_options options = EPG_GROUP_OPTIONS_INIT;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    float rows[TOKENS][HIDDEN];

    options.experts = EXPERTS;
    options.hidden = HIDDEN;
    options.topk = TOPK;
    options.max_tokens = TOKENS;
    TRY(epg_stream_create(self->device, EPG_STREAM_NONBLOCKING, &self->stream));
    TRY(epg_group_create(self->team, &options, &self->group)); /* collective: compares the options across ranks */
    TRY(epg_group_view(self->group, 0, &view));

    TRY(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, sizeof rows, &self->rows));
    TRY(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, sizeof chosen[r], &self->ids));
    TRY(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, sizeof weights, &self->weights));
    TRY(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, sizeof rows, &self->out));
    TRY(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, (size_t)view.row_capacity * HIDDEN * sizeof(float),
                         &self->expert_rows));

    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t i = 0; i < HIDDEN; i++)
            rows[t][i] = input(r, t, i);
    TRY(epg_memcpy(self->device, self->rows, rows, sizeof rows));
    TRY(epg_memcpy(self->device, self->ids, chosen[r], sizeof chosen[r]));
    return epg_memcpy(self->device, self->weights, weights, sizeof weights);
}

static epg_status exchange(rank *self)
{
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    scale_args scale = {EPG_DISPATCH_VIEW_INIT, self->expert_rows};

    args.bucket = TOKENS; /* args.tokens is NULL: all of the bucket is real */
    args.rows = self->rows;
    args.topk_ids = self->ids;
    args.topk_weights = self->weights;
    TRY(epg_dispatch(self->group, &args, &scale.view, self->stream));
    TRY(epg_host_launch(self->device, self->stream, scale_rows, &scale, sizeof scale, "scale rows"));
    TRY(epg_combine(self->group, 0, self->expert_rows, self->out, self->stream));
    TRY(epg_memcpy_async(self->device, self->back, self->out, sizeof self->back, self->stream));
    TRY(epg_stream_synchronize(self->device, self->stream));
    return epg_group_check(self->group, NULL); /* a wait that expired, an id out of range, ... */
}

static void tear_down(rank *self)
{
    void *memory[] = {self->rows, self->ids, self->weights, self->expert_rows, self->out};
    epg_team_barrier(self->team); /* no peer is inside a pair with this rank any more */
    epg_group_destroy(self->group);
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (memory[i])
            epg_memory_free(self->device, EPG_MEMORY_DEVICE, memory[i]);
    if (self->stream)
        epg_stream_destroy(self->device, self->stream);
}

static void *run_rank(void *raw)
{
    rank *self = raw;
    uint32_t r = epg_team_rank(self->team);
    epg_status status = set_up(self, r);
    if (status == EPG_OK)
        status = exchange(self);
    if (status != EPG_OK) {
        fprintf(stderr, "rank %u: %s: %s\n", r, epg_status_name(status), epg_message());
        epg_team_abort(self->team, "a rank of the example failed"); /* so that the other one does not wait for it */
    }
    self->ok = status == EPG_OK;
    tear_down(self);
    return NULL;
}

/* ---- both ---- */

static int check(const rank *ranks)
{
    int wrong = 0;
    for (uint32_t r = 0; r < RANKS; r++)
        for (uint32_t t = 0; t < TOKENS; t++) {
            float factor = 0;
            for (uint32_t k = 0; k < TOPK; k++)
                if (chosen[r][t][k] >= 0)
                    factor += weights[t][k] * (float)(chosen[r][t][k] + 1);
            printf("rank %u token %u: experts %d %2d, times %.2f:", r, t, chosen[r][t][0], chosen[r][t][1], factor);
            for (uint32_t i = 0; i < HIDDEN; i++) {
                printf(" %g", ranks[r].back[t][i]);
                wrong += ranks[r].back[t][i] != input(r, t, i) * factor;
            }
            printf("\n");
        }
    printf(wrong ? "%d numbers are wrong\n" : "every row is the one expected\n", wrong);
    return wrong == 0;
}

int main(void)
{
    epg_device *device = NULL;
    epg_team *teams[RANKS];
    pthread_t threads[RANKS];
    rank ranks[RANKS];
    int ok = 1;

    memset(ranks, 0, sizeof ranks);
    if (epg_device_create(NULL, &device) != EPG_OK || epg_team_create_threads(device, NULL, RANKS, teams) != EPG_OK) {
        fprintf(stderr, "%s\n", epg_message());
        epg_device_destroy(device);
        return 1;
    }
    for (uint32_t r = 0; r < RANKS; r++) {
        ranks[r].device = device;
        ranks[r].team = teams[r];
        if (pthread_create(&threads[r], NULL, run_rank, &ranks[r]) != 0) {
            perror("pthread_create");
            return 1;
        }
    }
    for (uint32_t r = 0; r < RANKS; r++) {
        pthread_join(threads[r], NULL);
        ok = ok && ranks[r].ok;
    }
    ok = ok && check(ranks);
    for (uint32_t r = 0; r < RANKS; r++)
        epg_team_destroy(teams[r]);
    epg_device_destroy(device);
    return ok ? 0 : 1;
}
