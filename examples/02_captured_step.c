/* A step with a pair in it, captured once per bucket and replayed with changing token counts.
 *
 * Two virtual ranks run the same six steps. The token counts differ from step to step and from rank to rank, and so do
 * the buckets: nothing about them is agreed upon. Each step runs twice, first eagerly, then through the runner's
 * graphs; the bits must be the same. In the eager round of odd steps rank 1 replays already, so that a replaying rank
 * and an eager one meet in the same pair. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include "epgraph/epgraph.h"

enum { RANKS = 2, EXPERTS = 4, HIDDEN = 16, TOPK = 2, MAX_TOKENS = 8, STEPS = 6 };

static const uint32_t buckets[] = {1, 2, 4, 8};
static const uint32_t token_counts[STEPS][RANKS] = {{3, 8}, {1, 0}, {8, 2}, {0, 5}, {4, 4}, {7, 1}};

typedef struct rank {
    epg_device *device;
    epg_team *team;
    epg_group *group;
    epg_runner *runner;
    epg_stream stream;
    void *tokens, *rows, *ids, *expert_rows, *out; /* device memory, the same for every step: graphs hold addresses */
    epg_runner_stats stats;
    uint32_t differing; /* steps whose replay was not the eager result */
    int ok;
} rank;

#define TRY(call)                    \
    do {                             \
        epg_status try_ = (call);    \
        if (try_ != EPG_OK)          \
            return try_;             \
    } while (0)

/* ---- the step ---- */

typedef struct bend_args {
    epg_dispatch_view view;
    float *out;
} bend_args;

/* Expert e maps x to x / (e + 2) + x * x: anything but exact, so that a sum in another order would show. */
static void bend_rows(const void *raw)
{
    const bend_args *args = raw;
    const epg_dispatch_view *v = &args->view;
    for (uint32_t e = 0; e < v->local_experts; e++)
        for (uint32_t p = v->offsets[e]; p < v->offsets[e] + v->counts[e]; p++) {
            const float *in = (const float *)v->rows + (size_t)v->row_index[p] * HIDDEN;
            for (uint32_t i = 0; i < HIDDEN; i++)
                args->out[(size_t)p * HIDDEN + i] = in[i] / (float)(v->first_expert + e + 2) + in[i] * in[i];
        }
}

/* The runner calls this to warm up, to capture, and for eager steps; it enqueues the same work each time. The token
 * count is read from device memory when the work runs. */
static epg_status step(void *ctx, const epg_step_call *call)
{
    rank *self = ctx;
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    bend_args bend = {EPG_DISPATCH_VIEW_INIT, self->expert_rows};

    args.bucket = call->bucket;
    args.tokens = self->tokens;
    args.rows = self->rows;
    args.topk_ids = self->ids;
    TRY(epg_dispatch(self->group, &args, &bend.view, call->stream));
    TRY(epg_host_launch(self->device, call->stream, bend_rows, &bend, sizeof bend, "bend rows"));
    return epg_combine(self->group, 0, self->expert_rows, self->out, call->stream);
}

/* ---- one rank ---- */

static epg_status set_up(rank *self)
{
    epg_group_options options = EPG_GROUP_OPTIONS_INIT;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    epg_runner_options runner = EPG_RUNNER_OPTIONS_INIT;
    epg_segment segment = {step, self, 0, "one pair"};

    options.experts = EXPERTS;
    options.hidden = HIDDEN;
    options.topk = TOPK;
    options.max_tokens = MAX_TOKENS;
    TRY(epg_stream_create(self->device, EPG_STREAM_NONBLOCKING, &self->stream));
    TRY(epg_group_create(self->team, &options, &self->group));
    TRY(epg_group_view(self->group, 0, &view));

    size_t row = HIDDEN * sizeof(float);
    TRY(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, sizeof(uint32_t), &self->tokens));
    TRY(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, MAX_TOKENS * row, &self->rows));
    TRY(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, MAX_TOKENS * TOPK * sizeof(int32_t), &self->ids));
    TRY(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, MAX_TOKENS * row, &self->out));
    TRY(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, view.row_capacity * row, &self->expert_rows));

    runner.segments = &segment;
    runner.segment_count = 1;
    runner.buckets = buckets;
    runner.bucket_count = sizeof buckets / sizeof *buckets;
    runner.groups = &self->group; /* it rehearses while the runner warms up: a warm-up sends nothing */
    runner.group_count = 1;
    return epg_runner_create(self->device, &runner, &self->runner);
}

/* Fills rows and ids with what this step and rank are to send. On the rank's own stream: epg_memcpy would use the
 * legacy stream, and the other rank may be in a capture that forbids it. */
static epg_status load_inputs(rank *self, uint32_t number, uint32_t r)
{
    float rows[MAX_TOKENS][HIDDEN];
    int32_t ids[MAX_TOKENS][TOPK];
    for (uint32_t t = 0; t < MAX_TOKENS; t++) {
        for (uint32_t i = 0; i < HIDDEN; i++)
            rows[t][i] = (float)((number * 31 + r * 17 + t * 7 + i) % 23) / 7.0f - 1.0f;
        for (uint32_t k = 0; k < TOPK; k++)
            ids[t][k] = (int32_t)((number + r + t + k * (1 + t % 3)) % EXPERTS);
    }
    TRY(epg_memcpy_async(self->device, self->rows, rows, sizeof rows, self->stream));
    TRY(epg_memcpy_async(self->device, self->ids, ids, sizeof ids, self->stream));
    TRY(epg_memcpy_async(self->device, self->tokens, &token_counts[number][r], sizeof(uint32_t), self->stream));
    return epg_stream_synchronize(self->device, self->stream); /* rows and ids are about to go out of scope */
}

static epg_status run_once(rank *self, uint32_t tokens, int eager, float out[MAX_TOKENS][HIDDEN])
{
    const epg_runner_input input = {"rows", self->rows}; /* were it to move, the replay would be refused by name */
    epg_runner_step one = EPG_RUNNER_STEP_INIT;
    one.tokens = tokens;
    one.eager = eager;
    one.stream = self->stream;
    one.inputs = &input;
    one.input_count = 1;
    TRY(epg_memset_async(self->device, self->out, 0, sizeof(float) * MAX_TOKENS * HIDDEN, self->stream));
    TRY(epg_runner_run(self->runner, &one));
    TRY(epg_memcpy_async(self->device, out, self->out, sizeof(float) * MAX_TOKENS * HIDDEN, self->stream));
    TRY(epg_stream_synchronize(self->device, self->stream));
    return epg_group_check(self->group, NULL);
}

static epg_status run_steps(rank *self, uint32_t r)
{
    float eager[MAX_TOKENS][HIDDEN], replayed[MAX_TOKENS][HIDDEN];
    for (uint32_t s = 0; s < STEPS; s++) {
        int mixed = s % 2 == 1 && r == 1;
        TRY(load_inputs(self, s, r));
        TRY(run_once(self, token_counts[s][r], !mixed, eager));
        TRY(run_once(self, token_counts[s][r], 0, replayed));
        self->differing += memcmp(eager, replayed, sizeof eager) != 0;
    }
    return epg_runner_get_stats(self->runner, &self->stats);
}

static void tear_down(rank *self)
{
    void *memory[] = {self->tokens, self->rows, self->ids, self->expert_rows, self->out};
    epg_team_barrier(self->team); /* no peer is inside a pair with this rank any more */
    epg_runner_destroy(self->runner);
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
    epg_status status = set_up(self);
    if (status == EPG_OK)
        status = run_steps(self, r);
    if (status != EPG_OK) {
        fprintf(stderr, "rank %u: %s: %s\n", r, epg_status_name(status), epg_message());
        epg_team_abort(self->team, "a rank of the example failed");
    }
    self->ok = status == EPG_OK;
    tear_down(self);
    return NULL;
}

/* ---- both ---- */

static int report(const rank *ranks)
{
    int ok = 1;
    for (uint32_t r = 0; r < RANKS; r++) {
        const epg_runner_stats *s = &ranks[r].stats;
        printf("rank %u: %llu captures, %llu replays, %llu eager steps, %llu tokens replayed, %llu rows of padding; ",
               r, (unsigned long long)s->captures, (unsigned long long)s->replays, (unsigned long long)s->eager,
               (unsigned long long)s->tokens, (unsigned long long)s->padding);
        printf(ranks[r].differing ? "%u steps DIFFER from eager\n" : "replay equals eager, bit for bit\n",
               ranks[r].differing);
        ok = ok && ranks[r].differing == 0;
    }
    return ok;
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
        ranks[r].stats = (epg_runner_stats)EPG_RUNNER_STATS_INIT;
        if (pthread_create(&threads[r], NULL, run_rank, &ranks[r]) != 0) {
            perror("pthread_create");
            return 1;
        }
    }
    for (uint32_t r = 0; r < RANKS; r++) {
        pthread_join(threads[r], NULL);
        ok = ok && ranks[r].ok;
    }
    ok = ok && report(ranks);
    for (uint32_t r = 0; r < RANKS; r++)
        epg_team_destroy(teams[r]);
    epg_device_destroy(device);
    return ok ? 0 : 1;
}
