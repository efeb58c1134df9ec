/* A thread for each rank, and rounds of work between two events. */
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include "bench_int.h"

#define TRY(call) do { epg_status try_status = (call); if (try_status) return try_status; } while (0)

struct bench_team {
    const char *name;
    epg_status (*body)(void *ctx, bench_rank *rank);
    void *ctx;
    pthread_mutex_t lock;       /* guards code, and the printing of the first failure */
    int code;                   /* what the command ends with */
};

/* Is it what was asked for, or what happened? */
static int exit_code(epg_status status)
{
    switch (status) {
    case EPG_OK: return CLI_OK;
    case EPG_ERR_INVALID:
    case EPG_ERR_UNSUPPORTED:
    case EPG_ERR_FORMAT:
    case EPG_ERR_NOT_FOUND: return CLI_BAD_INPUT;
    default: return CLI_FAILED;
    }
}

epg_status bench_fail(bench_rank *rank, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(rank->problem, sizeof(rank->problem), format, args);
    va_end(args);
    return EPG_ERR_STATE;
}

/* Keeps and prints the first failure, before the team is aborted and others fail for it. */
static void fail(bench_rank *rank, epg_status status)
{
    bench_team *all = rank->all;
    char text[700];
    snprintf(text, sizeof(text), "rank %u: %s", rank->rank, rank->problem[0] ? rank->problem : epg_message());
    pthread_mutex_lock(&all->lock);
    if (all->code == CLI_OK) {
        fprintf(stderr, "%s: %s\n", all->name, text);
        all->code = exit_code(status);
    }
    pthread_mutex_unlock(&all->lock);
    epg_team_abort(rank->team, text);
}

static epg_status run_body(bench_rank *rank)
{
    TRY(epg_stream_create(rank->device, EPG_STREAM_NONBLOCKING, &rank->stream));
    TRY(epg_event_create(rank->device, &rank->marks[0]));
    TRY(epg_event_create(rank->device, &rank->marks[1]));
    TRY(rank->all->body(rank->all->ctx, rank));
    return epg_team_barrier(rank->team); /* no peer is inside a pair with what is torn down now */
}

static void *rank_main(void *arg)
{
    bench_rank *rank = arg;
    epg_status status = run_body(rank);
    if (status != EPG_OK)
        fail(rank, status);
    for (int i = 0; i < 2; i++)
        if (rank->marks[i])
            epg_event_destroy(rank->device, rank->marks[i]);
    if (rank->stream)
        epg_stream_destroy(rank->device, rank->stream);
    return NULL;
}

/* A rank without a thread would leave the others waiting. */
static void run_threads(bench_team *all, bench_rank *ranks, pthread_t *threads, uint32_t count)
{
    uint32_t started = 0;
    while (started < count && !pthread_create(&threads[started], NULL, rank_main, &ranks[started]))
        started++;
    if (started < count) {
        fprintf(stderr, "%s: no thread for rank %u\n", all->name, started);
        all->code = CLI_FAILED;
        epg_team_abort(ranks[0].team, "a rank's thread could not be started");
    }
    for (uint32_t r = 0; r < started; r++)
        pthread_join(threads[r], NULL);
}

static epg_status run_team(bench_team *all, epg_device *device, epg_team **teams, bench_rank *ranks,
                           pthread_t *threads, uint32_t count)
{
    TRY(epg_team_create_threads(device, NULL, count, teams));
    pthread_mutex_init(&all->lock, NULL);
    for (uint32_t r = 0; r < count; r++)
        ranks[r] = (bench_rank){.all = all, .device = device, .team = teams[r], .rank = r};
    run_threads(all, ranks, threads, count);
    pthread_mutex_destroy(&all->lock);
    for (uint32_t r = 0; r < count; r++)
        epg_team_destroy(teams[r]);
    return EPG_OK;
}

int bench_on_ranks(const char *name, epg_device *device, uint32_t count,
                   epg_status (*body)(void *ctx, bench_rank *rank), void *ctx)
{
    bench_team all = {.name = name, .body = body, .ctx = ctx, .code = CLI_OK};
    epg_team **teams = calloc(count, sizeof *teams);
    bench_rank *ranks = calloc(count, sizeof *ranks);
    pthread_t *threads = calloc(count, sizeof *threads);
    if (!teams || !ranks || !threads) {
        fprintf(stderr, "%s: no memory for %u ranks\n", name, count);
        all.code = CLI_FAILED;
    } else {
        epg_status status = run_team(&all, device, teams, ranks, threads, count);
        if (status != EPG_OK) {
            fprintf(stderr, "%s: %s\n", name, epg_message());
            all.code = exit_code(status);
        }
    }
    free(threads);
    free(ranks);
    free(teams);
    return all.code;
}

epg_status bench_time(bench_rank *rank, bench_work work, void *ctx, double *us)
{
    TRY(epg_team_barrier(rank->team));
    TRY(epg_event_record(rank->device, rank->marks[0], rank->stream));
    TRY(work(ctx, rank));
    TRY(epg_event_record(rank->device, rank->marks[1], rank->stream));
    TRY(epg_stream_synchronize(rank->device, rank->stream));
    return epg_event_elapsed_us(rank->device, rank->marks[0], rank->marks[1], us);
}

epg_status bench_rounds(bench_rank *rank, bench_work work, void *ctx, double parts, bench_series *series)
{
    double us, *mine = series->us + (size_t)rank->rank * series->rounds;
    for (uint32_t round = 0; round <= series->rounds; round++) {
        TRY(bench_time(rank, work, ctx, &us));
        if (round > 0)
            mine[round - 1] = us / parts;
    }
    return EPG_OK;
}

epg_status bench_capture_work(bench_rank *rank, bench_work work, void *ctx, epg_graph *graph)
{
    *graph = NULL;
    TRY(epg_capture_begin(rank->device, rank->stream, EPG_CAPTURE_THREAD_LOCAL));
    epg_status status = work(ctx, rank);
    epg_status ended = epg_capture_end(rank->device, rank->stream, graph);
    if (status == EPG_OK)
        return ended;
    if (ended == EPG_OK)
        epg_graph_destroy(rank->device, *graph);
    *graph = NULL;
    return status;
}
