/* --check: the same workload served in other ways must give the same bits, and a sample of positions must agree with
 * the serial reference. */
#ifndef CLI_CHECK_H
#define CLI_CHECK_H

#include "serve.h"

typedef struct check_result {
    int ran;
    int replay_equals_eager;
    int mixed_equals_eager;
    double oracle_max_rel_err;
    double oracle_limit;
    uint32_t oracle_compared;   /* (position, layer) pairs */
    uint32_t oracle_skipped;    /* those left out, because the choice of experts was a matter of rounding */
    char message[1024];         /* what did not hold, the first place of each; "" if all did */
} check_result;

/* Chooses positions by the workload's seed and gives each room for its states. 0, or -1 without memory. */
int check_choose_samples(const serve_config *config, uint32_t most, serve_sample **samples, uint32_t *count);
void check_free_samples(epg_device *device, serve_sample *samples, uint32_t count);

/* Serves the workload of `config` twice more and compares with `first`, which config gave. *other_times gets the
 * times of the run that differs in graph or eager alone. EPG_OK means that the checks ran, whatever they found. */
epg_status check_run(const serve_config *config, const serve_result *first, serve_times *other_times,
                     check_result *check);

/* Did the oracle's, or every check, hold? An oracle that compared nothing did not. */
int check_oracle_held(const check_result *check);
int check_held(const check_result *check);

#endif
