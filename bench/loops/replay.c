/* The loop that bench/python_replay.py times: replays from C. */
#include <stdint.h>
#include <time.h>
#include "epgraph/runner.h"

typedef epg_status (*run_fn)(epg_runner *, const epg_runner_step *);

EPG_API int64_t replay_loop(run_fn run, epg_runner *runner, const epg_runner_step *step, int count);

/* Nanoseconds for `count` steps, one after the other; negative: the status of a call that failed. */
int64_t replay_loop(run_fn run, epg_runner *runner, const epg_runner_step *step, int count)
{
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < count; i++) {
        epg_status status = run(runner, step);
        if (status != EPG_OK)
            return -(int64_t)status;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (end.tv_sec - start.tv_sec) * INT64_C(1000000000) + end.tv_nsec - start.tv_nsec;
}
