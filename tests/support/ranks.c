#include <pthread.h>
#include <stdlib.h>
#include "support/ranks.h"

typedef struct job {
    test_rank self;
    int (*body)(test_rank *self);
    int result;
} job;

static void *run_one(void *arg)
{
    job *j = arg;
    if (epg_stream_create(j->self.device, EPG_STREAM_NONBLOCKING, &j->self.stream) != EPG_OK)
        j->result = 1;
    else
        j->result = j->body(&j->self);
    if (j->result != 0)
        epg_team_abort(j->self.team, "a test's rank failed");
    return NULL;
}

int run_ranks(uint32_t size, uint32_t timeout_ms, int (*body)(test_rank *self), void *arg)
{
    epg_device *device = NULL;
    epg_team **teams = calloc(size, sizeof *teams);
    job *jobs = calloc(size, sizeof *jobs);
    pthread_t *threads = calloc(size, sizeof *threads);
    epg_team_options options = EPG_TEAM_OPTIONS_INIT;
    int failures = 0;

    options.timeout_ms = timeout_ms;
    if (!teams || !jobs || !threads || epg_device_create(NULL, &device) != EPG_OK ||
        epg_team_create_threads(device, &options, size, teams) != EPG_OK) {
        fprintf(stderr, "run_ranks: %s\n", epg_message());
        abort();
    }
    for (uint32_t r = 0; r < size; r++) {
        jobs[r] = (job){{device, teams[r], NULL, r, size, arg}, body, 0};
        if (pthread_create(&threads[r], NULL, run_one, &jobs[r]) != 0)
            abort();
    }
    for (uint32_t r = 0; r < size; r++) {
        pthread_join(threads[r], NULL);
        failures += jobs[r].result != 0;
        if (jobs[r].self.stream)
            epg_stream_destroy(device, jobs[r].self.stream);
        epg_team_destroy(teams[r]);
    }
    epg_device_destroy(device);
    free(threads);
    free(jobs);
    free(teams);
    return failures;
}
