/* Every combination of the options' lists, each on its ranks, each a row of the table. */
#include "bench_int.h"

static uint32_t case_count(const bench_options *o)
{
    return o->ranks.count * o->hidden.count * o->row_types.count * o->layouts.count * o->modes.count * o->tokens.count;
}

/* So that a round takes some milliseconds at least, and no longer than it must where ranks are many or rows are. */
static void choose_counts(const bench_options *o, bench_case *what)
{
    int host = o->device.kind == EPG_DEVICE_HOST, large = what->most_tokens > 256, alone = what->ranks == 1;
    uint32_t pairs = alone && !large ? 1 : host || large ? 2 : 10, replays = large || host ? 2 : alone ? 50 : 4;
    if (o->what->switches && alone && !large && !host)
        pairs = 10, replays = 10;
    if (o->what->has_model && !host)
        replays = 10;
    what->pairs = o->pairs ? o->pairs : pairs;
    what->replays = o->replays ? o->replays : replays;
    what->rounds = o->rounds ? o->rounds : alone && !host ? 51 : 11;
}

/* Case `index`, in which tokens change fastest and ranks most slowly. */
static bench_case case_at(const bench_options *o, uint32_t index)
{
    const bench_list *const lists[] = {&o->tokens, &o->modes, &o->layouts, &o->row_types, &o->hidden, &o->ranks};
    uint32_t picked[6];
    for (int i = 0; i < 6; i++) {
        picked[i] = lists[i]->values[index % lists[i]->count];
        index /= lists[i]->count;
    }
    bench_case what = {.tokens = picked[0], .mode = (epg_mode)picked[1], .layout = (epg_layout)picked[2],
                       .row_type = (epg_dtype)picked[3], .hidden = picked[4], .ranks = picked[5], .topk = o->topk};
    what.ht_tokens = !o->what->switches ? 0 : o->ht_tokens ? o->ht_tokens : what.tokens;
    what.most_tokens = what.ht_tokens > what.tokens ? what.ht_tokens : what.tokens;
    what.lanes = o->what->switches ? 2 : 1;
    what.experts = o->experts ? o->experts : 32 * what.ranks;
    choose_counts(o, &what);
    if (o->max_tokens > what.most_tokens)
        what.most_tokens = o->max_tokens;
    return what;
}

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

static int run_case(bench_run *run, const bench_steps *steps, const bench_case *what)
{
    bench_job job = {.run = run, .what = what};
    int failed = bench_routing_make(what, run->options->seed, &job.routing);
    for (uint32_t i = 0; i < steps->series; i++)
        failed |= bench_series_make(&job.series[i], what->ranks, what->rounds);
    int code = failed ? no_memory(run, what)
                      : bench_on_ranks(run->options->name, run->device, what->ranks, steps->body, &job);
    if (code == CLI_OK)
        code = report_case(&job, steps);
    for (uint32_t i = 0; i < steps->series; i++)
        bench_series_free(&job.series[i]);
    bench_routing_free(&job.routing);
    progress_add(&run->bar, 1);
    progress_draw(&run->bar);
    return code;
}

int bench_run_cases(bench_run *run, const bench_steps *steps)
{
    uint32_t count = case_count(run->options);
    int code = CLI_OK;
    progress_start(&run->bar, "measuring", count);
    progress_draw(&run->bar);
    for (uint32_t i = 0; i < count && code == CLI_OK; i++) {
        bench_case what = case_at(run->options, i);
        code = run_case(run, steps, &what);
    }
    return code;
}
