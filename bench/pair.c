/* What a dispatch and its combine take on a GPU: hidden 7168, top-8, bf16, experts that hand back their input.
 *
 * First one rank: a graph of one pair, 50 replays between two events. Then eight virtual ranks at once, each with a
 * graph of several pairs: the slowest rank's time, beside the bytes that must be moved over the rate of a copy kernel
 * in the same run (docs/results-h200.md has the formula). */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "epgraph/epgraph.h"

enum { HIDDEN = 7168, TOPK = 8, RANKS_MOST = 8, ROUNDS_MOST = 51 };

typedef struct plan {
    uint32_t ranks, tokens, experts;
    epg_layout layout;
    epg_mode mode;
    uint32_t max_expert_rows, pairs, replays, rounds;
} plan;

typedef struct job {
    const plan *p;
    epg_device *device;
    epg_team *team;
    pthread_barrier_t *start;
    uint32_t rank;
    double us[ROUNDS_MOST];
} job;

static void must(epg_status status, const char *what)
{
    if (status == EPG_OK)
        return;
    fprintf(stderr, "%s: %s\n", what, epg_message());
    exit(1);
}
#define MUST(call) must((call), #call)

static uint64_t next(uint64_t *s)
{
    uint64_t z = (*s += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static void *device_memory(epg_device *device, size_t bytes)
{
    void *memory;
    MUST(epg_memory_alloc(device, EPG_MEMORY_DEVICE, bytes, &memory));
    return memory;
}

/* Random rows and distinct experts; weights of 1/8. */
static void fill(const job *j, const epg_dispatch_args *args)
{
    size_t elements = (size_t)args->bucket * HIDDEN, choices = (size_t)args->bucket * TOPK;
    uint16_t *rows = malloc(elements * sizeof *rows);
    int32_t *ids = malloc(choices * sizeof *ids);
    float *weights = malloc(choices * sizeof *weights);
    uint64_t seed = j->rank * 77 + args->bucket;
    if (!rows || !ids || !weights)
        exit(1);
    for (size_t i = 0; i < elements; i++)
        rows[i] = (uint16_t)(0x3C00 | (next(&seed) & 0x83FF));
    for (size_t i = 0; i < choices; i++) {
        int again = 1;
        weights[i] = 1.0f / TOPK;
        while (again) {
            ids[i] = (int32_t)(next(&seed) % j->p->experts);
            again = 0;
            for (size_t before = i - i % TOPK; before < i; before++)
                again |= ids[before] == ids[i];
        }
    }
    MUST(epg_memcpy(j->device, (void *)args->rows, rows, elements * sizeof *rows));
    MUST(epg_memcpy(j->device, (void *)args->topk_ids, ids, choices * sizeof *ids));
    MUST(epg_memcpy(j->device, (void *)args->topk_weights, weights, choices * sizeof *weights));
    free(rows);
    free(ids);
    free(weights);
}

static epg_exec capture(job *j, epg_group *group, const epg_dispatch_args *args, const void *expert_rows, void *out,
                        epg_stream stream)
{
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    epg_graph graph;
    epg_exec exec;
    MUST(epg_capture_begin(j->device, stream, EPG_CAPTURE_THREAD_LOCAL));
    for (uint32_t i = 0; i < j->p->pairs; i++) {
        MUST(epg_dispatch(group, args, &view, stream));
        MUST(epg_combine(group, 0, expert_rows ? expert_rows : view.rows, out, stream));
    }
    MUST(epg_capture_end(j->device, stream, &graph));
    MUST(epg_graph_instantiate(j->device, graph, &exec));
    MUST(epg_graph_destroy(j->device, graph));
    MUST(epg_exec_upload(j->device, exec, stream));
    return exec;
}

static void measure(job *j, epg_exec exec, epg_stream stream)
{
    epg_event begin, end;
    MUST(epg_event_create(j->device, &begin));
    MUST(epg_event_create(j->device, &end));
    for (uint32_t round = 0; round <= j->p->rounds; round++) {
        double us;
        pthread_barrier_wait(j->start);
        MUST(epg_event_record(j->device, begin, stream));
        for (uint32_t i = 0; i < j->p->replays; i++)
            MUST(epg_exec_launch(j->device, exec, stream));
        MUST(epg_event_record(j->device, end, stream));
        MUST(epg_stream_synchronize(j->device, stream));
        MUST(epg_event_elapsed_us(j->device, begin, end, &us));
        if (round > 0) /* the first warms up */
            j->us[round - 1] = us / j->p->replays / j->p->pairs;
    }
    MUST(epg_event_destroy(j->device, begin));
    MUST(epg_event_destroy(j->device, end));
}

static void *run_rank(void *arg)
{
    job *j = arg;
    const plan *p = j->p;
    size_t rows = (size_t)p->tokens * HIDDEN * 2, choices = (size_t)p->tokens * TOPK;
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    epg_group *group;
    epg_stream stream;
    o.experts = p->experts;
    o.hidden = HIDDEN;
    o.topk = TOPK;
    o.max_tokens = p->tokens;
    o.row_type = EPG_BFLOAT16;
    o.layout = p->layout;
    o.max_expert_rows = p->max_expert_rows;
    MUST(epg_stream_create(j->device, EPG_STREAM_NONBLOCKING, &stream));
    MUST(epg_group_create(j->team, &o, &group));
    MUST(epg_group_view(group, 0, &view));
    args.mode = p->mode;
    args.bucket = p->tokens;
    args.rows = device_memory(j->device, rows);
    args.topk_ids = device_memory(j->device, choices * 4);
    args.topk_weights = device_memory(j->device, choices * 4);
    void *out = device_memory(j->device, rows), *expert_rows = NULL;
    if (view.row_index)
        expert_rows = device_memory(j->device, (size_t)view.row_capacity * HIDDEN * 2);
    fill(j, &args);
    epg_exec exec = capture(j, group, &args, expert_rows, out, stream);
    measure(j, exec, stream);
    MUST(epg_group_check(group, NULL));
    MUST(epg_exec_destroy(j->device, exec));
    MUST(epg_team_barrier(j->team));
    epg_group_destroy(group);
    void *const memory[] = {(void *)args.rows, (void *)args.topk_ids, (void *)args.topk_weights, out, expert_rows};
    for (int i = 0; i < 5; i++)
        if (memory[i])
            MUST(epg_memory_free(j->device, EPG_MEMORY_DEVICE, memory[i]));
    MUST(epg_stream_destroy(j->device, stream));
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorted times per pair, of the slowest rank in each round. */
static void run(epg_device *device, const plan *p, double *us)
{
    static const char *const layouts[] = {"in place", "contiguous", "masked"};
    epg_team *teams[RANKS_MOST];
    pthread_t threads[RANKS_MOST];
    job *jobs = calloc(p->ranks, sizeof *jobs);
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, p->ranks);
    if (!jobs)
        exit(1);
    MUST(epg_team_create_threads(device, NULL, p->ranks, teams));
    for (uint32_t r = 0; r < p->ranks; r++) {
        jobs[r] = (job){.p = p, .device = device, .team = teams[r], .start = &start, .rank = r};
        if (pthread_create(&threads[r], NULL, run_rank, &jobs[r]) != 0)
            exit(1);
    }
    for (uint32_t r = 0; r < p->ranks; r++)
        pthread_join(threads[r], NULL);
    memset(us, 0, p->rounds * sizeof *us);
    for (uint32_t r = 0; r < p->ranks; r++) {
        for (uint32_t i = 0; i < p->rounds; i++)
            us[i] = jobs[r].us[i] > us[i] ? jobs[r].us[i] : us[i];
        epg_team_destroy(teams[r]);
    }
    free(jobs);
    pthread_barrier_destroy(&start);
    qsort(us, p->rounds, sizeof *us, by_value);
    printf("%u rank%s, %4u tokens, %-10s %s: %8.2f us (%.2f to %.2f)", p->ranks, p->ranks > 1 ? "s" : "", p->tokens,
           layouts[p->layout], p->mode == EPG_MODE_LL ? "LL" : "HT", us[p->rounds / 2], us[p->rounds / 10],
           us[p->rounds - 1 - p->rounds / 10]);
}

/* Rows read and written for one token: the caller's, one copy per destination, what the experts read and wrote. */
static double rows_moved(const plan *p)
{
    double miss = 1, copies, local = (double)p->experts / p->ranks;
    for (int k = 0; k < TOPK; k++)
        miss *= (p->experts - local - k) / (p->experts - k);
    copies = p->ranks * (1 - miss);
    double dispatch = 1 + copies + (p->layout == EPG_LAYOUT_IN_PLACE ? 0 : copies + TOPK);
    return dispatch + TOPK + copies + copies + 1;
}

int main(void)
{
    static const uint32_t few[] = {1, 8, 32, 128};
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    epg_device *device;
    double us[ROUNDS_MOST];
    options.kind = EPG_DEVICE_CUDA;
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0); /* ranks wait for one another across streams */
    MUST(epg_device_create(&options, &device));
    for (int layout = EPG_LAYOUT_MASKED; layout >= EPG_LAYOUT_IN_PLACE; layout--)
        for (int i = 0; i < 4; i++) {
            run(device, &(plan){1, few[i], 32, (epg_layout)layout, EPG_MODE_LL, 0, 1, 50, ROUNDS_MOST}, us);
            puts("");
        }
    double rate;
    MUST(epg_device_copy_rate(device, (size_t)1 << 30, &rate));
    printf("copy kernel: %.0f GB/s, read and written\n", rate / 1e9);
    for (int layout = EPG_LAYOUT_CONTIGUOUS; layout >= EPG_LAYOUT_IN_PLACE; layout--)
        for (int many = 0; many < 2; many++) {
            plan p = {8, many ? 4096 : 128, 256, (epg_layout)layout, many ? EPG_MODE_HT : EPG_MODE_LL, many ? 40000 : 0,
                      many ? 2 : 10, many ? 2 : 4, 11};
            double least = rows_moved(&p) * p.tokens * p.ranks * HIDDEN * 2e6 / rate;
            run(device, &p, us);
            printf(", bytes / rate %.1f us: %.2f x\n", least, us[p.rounds / 2] / least);
        }
    epg_device_destroy(device);
    return 0;
}
