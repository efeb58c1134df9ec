#include <pthread.h>
#include <stdlib.h>
#include "support/device_under_test.h"
#include "support/ranks.h"

#ifdef __SANITIZE_THREAD__
#define THREADS_SANITIZED
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREADS_SANITIZED
#endif
#endif

enum { LIVES_MOST = 16 };

typedef struct job {
    test_rank self;
    epg_team *gone[LIVES_MOST]; /* handles of lives that ended: what those left behind may still need them */
    int (*body)(test_rank *self);
    int result;
} job;

typedef struct crew {
    epg_device *device;
    epg_team **teams;
    job *jobs;
    uint32_t size;
} crew;

static int live_once(job *j)
{
    test_rank *self = &j->self;
    RANK_OK(epg_stream_create(self->device, EPG_STREAM_NONBLOCKING, &self->stream));
    return j->body(self);
}

/* Ends a life and takes the place again. */
static int live_again(job *j)
{
    test_rank *self = &j->self;
    epg_team *gone = j->gone[self->incarnation] = self->team;
    RANK_CHECK(self->incarnation + 1 < LIVES_MOST, "too many lives");
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_stream_destroy(self->device, self->stream));
    self->stream = NULL;
    RANK_OK(epg_team_retire(gone, self->rank));
    RANK_OK(epg_team_rejoin(gone, self->rank, &self->team));
    self->incarnation = epg_team_incarnation(self->team);
    return 0;
}

static void run_one(job *j)
{
    while ((j->result = live_once(j)) == RANK_DIES && (j->result = live_again(j)) == 0)
        ;
    if (j->result != 0)
        epg_team_abort(j->self.team, "a test's rank failed");
}

static void *thread_main(void *arg)
{
    run_one(arg);
    return NULL;
}

static void program_main(void *ctx, uint32_t rank)
{
    crew *c = ctx;
    run_one(&c->jobs[rank]);
}

static crew crew_make(uint32_t size, uint32_t timeout_ms, int (*body)(test_rank *self), void *arg,
                      const epg_simulation_options *simulation)
{
    crew c = {NULL, calloc(size, sizeof *c.teams), calloc(size, sizeof *c.jobs), size};
    epg_device_options device = EPG_DEVICE_OPTIONS_INIT;
    epg_team_options options = EPG_TEAM_OPTIONS_INIT;

    device.kind = simulation ? EPG_DEVICE_HOST : test_device_kind();
    device.simulation = simulation;
    options.timeout_ms = timeout_ms;
    if (!c.teams || !c.jobs || epg_device_create(&device, &c.device) != EPG_OK ||
        epg_team_create_threads(c.device, &options, size, c.teams) != EPG_OK) {
        fprintf(stderr, "run_ranks: %s\n", epg_message());
        abort();
    }
    for (uint32_t r = 0; r < size; r++)
        c.jobs[r] = (job){{c.device, c.teams[r], NULL, r, size, 0, arg}, {NULL}, body, 0};
    return c;
}

static int crew_end(crew *c)
{
    int failures = 0;
    for (uint32_t r = 0; r < c->size; r++) {
        failures += c->jobs[r].result != 0;
        if (c->jobs[r].self.stream)
            epg_stream_destroy(c->device, c->jobs[r].self.stream);
        for (uint32_t life = 0; life < c->jobs[r].self.incarnation; life++)
            epg_team_destroy(c->jobs[r].gone[life]);
        epg_team_destroy(c->jobs[r].self.team);
    }
    epg_device_destroy(c->device);
    free(c->jobs);
    free(c->teams);
    return failures;
}

int run_ranks(uint32_t size, uint32_t timeout_ms, int (*body)(test_rank *self), void *arg)
{
    crew c = crew_make(size, timeout_ms, body, arg, NULL);
    pthread_t *threads = calloc(size, sizeof *threads);
    for (uint32_t r = 0; r < size; r++)
        if (!threads || pthread_create(&threads[r], NULL, thread_main, &c.jobs[r]) != 0)
            abort();
    for (uint32_t r = 0; r < size; r++)
        pthread_join(threads[r], NULL);
    free(threads);
    return crew_end(&c);
}

int run_ranks_simulated(uint32_t size, uint32_t timeout_ms, int (*body)(test_rank *self), void *arg, uint64_t seed)
{
    epg_simulation_options options = EPG_SIMULATION_OPTIONS_INIT;
    options.seed = seed;
    options.late_percent = 30;
    crew c = crew_make(size, timeout_ms, body, arg, &options);
    epg_status status = epg_simulation_run(c.device, size, program_main, &c);
    if (status != EPG_OK)
        fprintf(stderr, "seed %llu: %s\n", (unsigned long long)seed, epg_message());
    return crew_end(&c) + (status != EPG_OK);
}

uint64_t simulated_seeds(uint64_t seeds)
{
#ifdef THREADS_SANITIZED
    return seeds ? 1 : 0;
#else
    return seeds;
#endif
}

int run_ranks_both(uint32_t size, uint32_t timeout_ms, int (*body)(test_rank *self), void *arg, uint64_t seeds)
{
    int failures = run_ranks(size, timeout_ms, body, arg);
    for (uint64_t seed = 0; failures == 0 && seed < simulated_seeds(seeds); seed++) {
        failures = run_ranks_simulated(size, timeout_ms, body, arg, seed);
        if (failures)
            fprintf(stderr, "seed %llu: %d ranks failed\n", (unsigned long long)seed, failures);
    }
    return failures;
}
