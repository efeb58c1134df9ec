/* A run: the team, its threads, and the sums over ranks. */
#include <math.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include "digest.h"
#include "serve_int.h"

static epg_status fail(serve_result *result, epg_status status, const char *message)
{
    result->status = status;
    result->in_setup = 1;
    snprintf(result->message, sizeof(result->message), "%s", message);
    return status;
}

static int compare_times(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int append_times(serve_times *to, const serve_times *from)
{
    if (!from->count)
        return 0;
    double *grown = realloc(to->values, (to->count + from->count) * sizeof(double));
    if (!grown)
        return -1;
    memcpy(grown + to->count, from->values, from->count * sizeof(double));
    *to = (serve_times){grown, to->count + from->count, to->count + from->count};
    return 0;
}

/* Adds up what the ranks counted. Called when their threads have ended. */
static void collect(serve_result *result, const serve_rank *ranks, uint32_t count)
{
    serve_counts *sum = &result->counts;
    *sum = ranks[0].counts; /* rank 0 counts the steps; here come the other ranks' graphs and calls */
    result->seconds = ranks[0].seconds;
    for (uint32_t r = 0; r < count; r++) {
        if (r) {
            sum->captures += ranks[r].counts.captures;
            sum->replays += ranks[r].counts.replays;
            sum->eager += ranks[r].counts.eager;
            sum->padding += ranks[r].counts.padding;
            sum->cleans += ranks[r].counts.cleans;
            sum->barriers += ranks[r].counts.barriers;
        }
        if (append_times(&result->times, &ranks[r].times) && !result->status)
            fail(result, EPG_ERR_NO_MEMORY, "no memory for the step times");
        free(ranks[r].times.values);
    }
    if (result->times.count)
        qsort(result->times.values, result->times.count, sizeof(double), compare_times);
}

/* Starts the threads and waits for them. A rank without a thread would leave the others waiting: the team is aborted.
 */
static void run_threads(serve_shared *shared, serve_rank *ranks, pthread_t *threads, uint32_t count)
{
    uint32_t started = 0;
    while (started < count && !pthread_create(&threads[started], NULL, serve_rank_main, &ranks[started]))
        started++;
    if (started < count) {
        pthread_mutex_lock(&shared->lock);
        if (!shared->result->status)
            fail(shared->result, EPG_ERR_SYSTEM, "a rank's thread could not be started");
        pthread_mutex_unlock(&shared->lock);
        epg_team_abort(ranks[0].team, "a rank's thread could not be started");
    }
    for (uint32_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
}

static epg_status run_team(const serve_config *config, serve_result *result, epg_team **teams, serve_rank *ranks,
                           pthread_t *threads)
{
    epg_status status = epg_team_create_threads(config->device, NULL, config->ranks, teams);
    if (status)
        return fail(result, status, epg_message());
    result->team = epg_team_transport(teams[0]);
    serve_shared shared = {.config = config, .result = result};
    pthread_mutex_init(&shared.lock, NULL);
    for (uint32_t r = 0; r < config->ranks; r++)
        ranks[r] = (serve_rank){.shared = &shared, .team = teams[r], .rank = r};
    run_threads(&shared, ranks, threads, config->ranks);
    collect(result, ranks, config->ranks);
    pthread_mutex_destroy(&shared.lock);
    for (uint32_t r = 0; r < config->ranks; r++)
        epg_team_destroy(teams[r]);
    return result->status;
}

epg_status serve_run(const serve_config *config, serve_result *result)
{
    const workload *load = config->load;
    *result = (serve_result){.hashes = calloc(load->positions, sizeof(uint64_t)),
                             .tokens = calloc(load->generated_tokens + 1, sizeof(int32_t))};
    epg_team **teams = calloc(config->ranks, sizeof(*teams));
    serve_rank *ranks = calloc(config->ranks, sizeof(*ranks));
    pthread_t *threads = calloc(config->ranks, sizeof(*threads));
    if (result->hashes && result->tokens && teams && ranks && threads)
        run_team(config, result, teams, ranks, threads);
    else
        fail(result, EPG_ERR_NO_MEMORY, "no memory for the results of this many positions");
    free(threads);
    free(ranks);
    free(teams);
    return result->status;
}

void serve_result_free(serve_result *result)
{
    free(result->hashes);
    free(result->tokens);
    free(result->times.values);
    *result = (serve_result){0};
}

uint64_t serve_states_digest(const workload *load, const serve_result *result)
{
    return digest_bytes(DIGEST_START, result->hashes, load->positions * sizeof(uint64_t));
}

uint64_t serve_tokens_digest(const workload *load, const serve_result *result)
{
    return digest_bytes(DIGEST_START, result->tokens, load->generated_tokens * sizeof(int32_t));
}

double serve_percentile(const serve_times *times, double part)
{
    if (!times->count)
        return NAN;
    size_t index = (size_t)(part * (double)(times->count - 1) + 0.5);
    return times->values[index];
}
