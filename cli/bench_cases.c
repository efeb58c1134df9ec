/* Case after case, each on its ranks, each a row of the table. */
#include "bench_int.h"

typedef struct walk {
    bench_run *run;
    const bench_steps *steps;
} walk;

static int no_memory(const bench_run *run, const bench_case *what)
{
    fprintf(stderr, "%s: no memory for %u tokens on each of %u ranks\n", run->options->name, what->tokens, what->ranks);
    return CLI_FAILED;
}

static int report_case(const bench_job *job, const bench_steps *steps)
{
    bench_value *row = bench_table_row(&job->run->table);
    if (!row)
        return no_memory(job->run, job->what);
    if (steps->report(job, row) == EPG_OK)
        return CLI_OK;
    fprintf(stderr, "%s: %s\n", job->run->options->name, epg_message());
    return CLI_FAILED;
}

static int run_case(void *ctx, const bench_case *what)
{
    const walk *w = ctx;
    bench_run *run = w->run;
    bench_job job = {.run = run, .what = what};
    int failed = bench_routing_make(what, run->options->seed, &job.routing);
    for (uint32_t i = 0; i < w->steps->series; i++)
        failed |= bench_series_make(&job.series[i], what->ranks, what->rounds);
    int code = failed ? no_memory(run, what)
                      : bench_on_ranks(run->options->name, run->device, what->ranks, w->steps->body, &job);
    if (code == CLI_OK)
        code = report_case(&job, w->steps);
    for (uint32_t i = 0; i < w->steps->series; i++)
        bench_series_free(&job.series[i]);
    bench_routing_free(&job.routing);
    progress_add(&run->bar, 1);
    progress_draw(&run->bar);
    return code;
}

int bench_run_cases(bench_run *run, const bench_steps *steps)
{
    walk w = {run, steps};
    progress_start(&run->bar, "measuring", bench_case_count(run->options));
    progress_draw(&run->bar);
    return bench_for_cases(run->options, run_case, &w);
}
