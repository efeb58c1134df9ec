/* Between serve.c (the team) and serve_rank.c (one rank's loop). */
#ifndef CLI_SERVE_INT_H
#define CLI_SERVE_INT_H

#include <pthread.h>
#include "schedule.h"
#include "serve.h"

/* What the threads of one run share. */
typedef struct serve_shared {
    const serve_config *config;
    serve_result *result;       /* hashes and tokens: each place is written by the one rank that serves it */
    pthread_mutex_t lock;       /* guards result->status, in_setup and message */
} serve_shared;

typedef struct serve_rank {
    serve_shared *shared;
    epg_team *team;
    uint32_t rank;
    epg_group *group;
    epg_model *model;
    epg_model_buffers buffers;
    epg_runner *runner;
    epg_stepper *stepper;
    epg_stream stream;
    timeline_rank *line;        /* NULL: nothing is recorded */
    schedule schedule;
    epg_runner_input inputs[2];
    uint32_t max_tokens;
    uint32_t *token_count;      /* pinned, as are the next three: copies from and to the model's buffers */
    int32_t *ids;
    int32_t *next_ids;
    void *hidden;
    schedule_slot *slots;       /* [max_tokens] of the step that runs */
    epg_step_plan *plans;       /* [ranks] */
    uint64_t clock_us;
    uint32_t epoch;             /* pairs enqueued so far */
    int stepping;               /* set-up is done */
    double seconds;
    serve_counts counts;        /* this rank's part; steps are counted by rank 0 alone */
    serve_times times;
} serve_rank;

/* The body of a rank's thread; the argument is its serve_rank. Records its failure and aborts the team. */
void *serve_rank_main(void *rank);

#endif
