/* One rank of a simulated program: what its host does from creation to the end. It asks nothing of its peers but what
 * the library does for it, and never looks at results; those are kept by its kernels. */
#include <stdlib.h>
#include <string.h>
#include "sim_rank_int.h"
#include "sim_rows.h"

#define SIM_TRY(call)                     \
    do {                                  \
        epg_status try_status_ = (call);  \
        if (try_status_ != EPG_OK)        \
            return try_status_;           \
    } while (0)

enum { NAP_NS = 20000 };

/* ---- streams ---- */

static epg_status order_by_event(sim_rank *r, epg_stream before, epg_stream after)
{
    epg_event event;
    SIM_TRY(epg_event_create(r->device, &event));
    epg_status status = epg_event_record(r->device, event, before);
    if (status == EPG_OK)
        status = epg_stream_wait_event(r->device, after, event);
    epg_event_destroy(r->device, event);
    return status;
}

/* Comes before a call that holds memory. */
static void hold(sim_rank *r)
{
    while (r->doomed && r->holds == 0)
        epg_simulation_sleep(r->device, NAP_NS);
    r->holds++;
}

static epg_status order(sim_rank *r, epg_stream before, epg_stream after)
{
    if (before == after)
        return EPG_OK;
    hold(r);
    epg_status status = order_by_event(r, before, after);
    r->holds--;
    return status;
}

/* streams[0] comes after all that the lanes' streams hold; or they come after it. */
static epg_status join_lanes(sim_rank *r, const epg_stream *streams)
{
    for (uint32_t l = 1; l < r->program->shape.lanes; l++)
        SIM_TRY(order(r, streams[l], streams[0]));
    return EPG_OK;
}
static epg_status fork_lanes(sim_rank *r, const epg_stream *streams)
{
    for (uint32_t l = 1; l < r->program->shape.lanes; l++)
        SIM_TRY(order(r, streams[0], streams[l]));
    return EPG_OK;
}

static epg_status make_streams(sim_rank *r)
{
    for (uint32_t l = 0; l < r->program->shape.lanes; l++) {
        if (l > 0 && !r->shape->streams) {
            r->stream[l] = r->stream[0];
            r->capture[l] = r->capture[0];
            continue;
        }
        SIM_TRY(epg_stream_create(r->device, EPG_STREAM_NONBLOCKING, &r->stream[l]));
        SIM_TRY(epg_stream_create(r->device, EPG_STREAM_NONBLOCKING, &r->capture[l]));
    }
    return EPG_OK;
}

/* ---- pairs ---- */

static epg_status load(sim_buffers *b, uint32_t pair, epg_stream stream)
{
    sim_load_args args = {b, pair};
    return epg_host_launch(b->rank->device, stream, sim_load_kernel, &args, sizeof args, "inputs");
}
static epg_status launch(sim_buffers *b, void (*kernel)(const void *), epg_stream stream, const char *name)
{
    sim_buffers_args args = {b};
    return epg_host_launch(b->rank->device, stream, kernel, &args, sizeof args, name);
}

typedef struct way { /* how a pair is run */
    uint32_t how, ht, bucket, pause;
    int captured;
} way;

static epg_status send(sim_buffers *b, const way *w, epg_stream stream)
{
    sim_rank *r = b->rank;
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    args.lane = b->lane;
    args.mode = w->ht ? EPG_MODE_HT : EPG_MODE_LL;
    args.bucket = w->bucket;
    args.tokens = &b->tokens;
    args.rows = b->rows;
    args.scales = sim_input_scale_bytes(r->program) ? b->scales : NULL;
    args.topk_type = r->shape->ids64 ? EPG_INT64 : EPG_INT32;
    args.topk_ids = r->shape->ids64 ? (const void *)b->ids64 : (const void *)b->ids32;
    args.topk_weights = r->shape->weights ? b->weights : NULL;
    return epg_dispatch_send(r->group, &args, stream);
}

static void pause_host(sim_rank *r, const way *w)
{
    if (w->pause)
        epg_simulation_sleep(r->device, w->pause);
}

static epg_status run_pair(sim_buffers *b, const way *w, epg_stream stream)
{
    sim_rank *r = b->rank;
    r->issued += 4;
    r->captured += w->captured ? 4 : 0;
    SIM_TRY(send(b, w, stream));
    pause_host(r, w);
    if (w->how == SIM_ABANDON_SENT)
        return epg_pair_abandon(r->group, b->lane, stream);
    SIM_TRY(epg_dispatch_recv(r->group, b->lane, &b->view, stream));
    pause_host(r, w);
    SIM_TRY(launch(b, sim_experts_kernel, stream, "experts"));
    if (w->how == SIM_ABANDON_HELD)
        return epg_pair_abandon(r->group, b->lane, stream);
    SIM_TRY(epg_combine_send(r->group, b->lane, b->expert_out, stream));
    pause_host(r, w);
    SIM_TRY(epg_combine_recv(r->group, b->lane, b->out, stream));
    return launch(b, sim_finish_kernel, stream, "outputs");
}

static epg_status fill_experts(void *raw, uint32_t index, const epg_dispatch_view *view, epg_stream stream,
                               const void **expert_rows)
{
    sim_buffers *b = raw;
    (void)index;
    b->view = *view;
    *expert_rows = b->expert_out;
    return launch(b, sim_experts_kernel, stream, "experts");
}

/* ---- graphs ---- */

static epg_status run_graph(sim_rank *r, uint32_t g, const epg_stream *streams, int captured)
{
    const sim_graph *graph = &r->program->graph[r->number][g];
    SIM_TRY(fork_lanes(r, streams));
    for (uint32_t j = 0; j < graph->pairs; j++) {
        way w = {SIM_EAGER, graph->ht[j], graph->bucket[j], 0, captured};
        SIM_TRY(run_pair(&r->graph[g][j], &w, streams[graph->lane[j]]));
    }
    return join_lanes(r, streams);
}

static epg_status load_graph(sim_rank *r, uint32_t g, uint32_t pair, epg_stream stream)
{
    for (uint32_t j = 0; j < r->program->graph[r->number][g].pairs; j++)
        SIM_TRY(load(&r->graph[g][j], pair == SIM_REHEARSED ? pair : pair + j, stream));
    return EPG_OK;
}

static epg_status runner_step(void *ctx, const epg_step_call *call)
{
    sim_rank *r = ctx;
    epg_stream streams[SIM_LANES];
    memcpy(streams, r->capture, sizeof streams);
    for (uint32_t l = 0; l == 0 || (!r->shape->streams && l < SIM_LANES); l++)
        streams[l] = call->stream;
    if (call->phase == EPG_PHASE_WARMUP)
        SIM_TRY(load_graph(r, call->variant, SIM_REHEARSED, call->stream));
    return run_graph(r, call->variant, streams, call->phase != EPG_PHASE_WARMUP);
}

static epg_status make_runner(sim_rank *r)
{
    epg_segment segment = {runner_step, r, 0, "pairs"};
    epg_runner_options options = EPG_RUNNER_OPTIONS_INIT;
    options.segments = &segment, options.segment_count = 1;
    options.groups = &r->group, options.group_count = 1;
    options.max_bucket = 1;
    options.warmups = (int)r->shape->warmups;
    return epg_runner_create(r->device, &options, &r->runner);
}

/* Rehearses on the streams that lanes use, which have been joined to streams[0]. */
static epg_status rehearse(sim_rank *r, uint32_t times, const epg_stream *streams, uint32_t g)
{
    if (times == 0)
        return EPG_OK;
    SIM_TRY(epg_group_rehearse(r->group, 1, streams[0]));
    for (uint32_t i = 0; i < times; i++) {
        SIM_TRY(load_graph(r, g, SIM_REHEARSED, streams[0]));
        SIM_TRY(run_graph(r, g, streams, 0));
    }
    return epg_group_rehearse(r->group, 0, streams[0]);
}

static epg_status capture_raw(sim_rank *r, uint32_t g)
{
    epg_graph graph = NULL;
    SIM_TRY(rehearse(r, r->shape->warmups, r->stream, g));
    SIM_TRY(epg_capture_begin(r->device, r->capture[0], EPG_CAPTURE_THREAD_LOCAL));
    epg_status status = run_graph(r, g, r->capture, 1);
    epg_status ended = epg_capture_end(r->device, r->capture[0], &graph);
    SIM_TRY(status);
    SIM_TRY(ended);
    status = epg_graph_instantiate(r->device, graph, &r->exec[g]);
    epg_graph_destroy(r->device, graph);
    return status;
}

static epg_runner_step runner_step_of(const sim_rank *r, uint32_t g)
{
    epg_runner_step step = EPG_RUNNER_STEP_INIT;
    step.variant = g;
    step.stream = r->stream[0];
    return step;
}

static epg_status capture_graph(sim_rank *r, uint32_t g)
{
    if (r->ready_graphs >> g & 1)
        return EPG_OK;
    epg_runner_step step = runner_step_of(r, g);
    SIM_TRY(join_lanes(r, r->stream));
    hold(r);
    epg_status status = r->runner ? epg_runner_capture_all(r->runner, &step) : capture_raw(r, g);
    r->holds--;
    SIM_TRY(status);
    SIM_TRY(fork_lanes(r, r->stream));
    r->ready_graphs |= 1u << g;
    return EPG_OK;
}

static epg_status replay(sim_rank *r, uint32_t pair)
{
    uint32_t g = r->program->part[r->number][pair].graph;
    epg_runner_step step = runner_step_of(r, g);
    SIM_TRY(capture_graph(r, g));
    SIM_TRY(join_lanes(r, r->stream));
    SIM_TRY(load_graph(r, g, pair, r->stream[0]));
    SIM_TRY(r->runner ? epg_runner_run(r->runner, &step) : epg_exec_launch(r->device, r->exec[g], r->stream[0]));
    return fork_lanes(r, r->stream);
}

/* ---- steps ---- */

static epg_status rehearse_eager(sim_rank *r, sim_buffers *b, const way *w)
{
    SIM_TRY(join_lanes(r, r->stream));
    SIM_TRY(epg_group_rehearse(r->group, 1, r->stream[0]));
    SIM_TRY(load(b, SIM_REHEARSED, r->stream[0]));
    SIM_TRY(run_pair(b, w, r->stream[0]));
    SIM_TRY(epg_group_rehearse(r->group, 0, r->stream[0]));
    return fork_lanes(r, r->stream);
}

static epg_status run_single(sim_rank *r, uint32_t pair)
{
    const sim_part *part = &r->program->part[r->number][pair];
    uint32_t lane = r->program->lane[pair];
    sim_buffers *b = &r->eager[lane];
    way w = {part->how, part->ht, part->bucket, part->how == SIM_SPLIT ? part->delay / 4 : 0, 0};
    if (part->rehearse)
        SIM_TRY(rehearse_eager(r, b, &w));
    SIM_TRY(load(b, pair, r->stream[lane]));
    if (part->how != SIM_FILL && part->how != SIM_FILL_VOID)
        return run_pair(b, &w, r->stream[lane]);
    r->issued += 4;
    return epg_group_fill(r->group, lane, 1, part->how == SIM_FILL ? fill_experts : NULL, b, r->stream[lane]);
}

static epg_status set_map(sim_rank *r, uint32_t map)
{
    sim_map_args args = {r, map};
    return epg_host_launch(r->device, r->stream[0], sim_map_kernel, &args, sizeof args, "expert map");
}

static epg_status wait_all(sim_rank *r)
{
    for (uint32_t l = 0; l < r->program->shape.lanes; l++)
        SIM_TRY(epg_stream_synchronize(r->device, r->stream[l]));
    return EPG_OK;
}

/* Runs the step that begins at `pair`; *next: the first pair after it. */
static epg_status run_step(sim_rank *r, uint32_t pair, uint32_t *next)
{
    const sim_part *part = &r->program->part[r->number][pair];
    uint32_t pairs = sim_replay_pairs(r->program, r->number, pair);
    *next = pair + (pairs ? pairs : 1);
    if (part->delay)
        epg_simulation_sleep(r->device, part->delay);
    if (!r->shape->streams && (pair == 0 || r->life || part->map != part[-1].map))
        SIM_TRY(set_map(r, part->map));
    if (pairs)
        SIM_TRY(replay(r, pair));
    else
        SIM_TRY(run_single(r, pair));
    return part->wait ? wait_all(r) : EPG_OK;
}

/* ---- a rank that joins again ---- */

static epg_status admit(sim_rank *r)
{
    epg_member members[SIM_RANKS];
    uint32_t epochs[SIM_LANES];
    epg_admission admission = EPG_ADMISSION_INIT;
    sim_run_state *run = r->run;
    for (uint32_t i = 0; i < r->program->shape.ranks; i++)
        members[i] = i == run->join_rank ? (epg_member){1, EPG_MEMBER_JOINS} : (epg_member){0, EPG_MEMBER_STAYS};
    for (uint32_t l = 0; l < r->program->shape.lanes; l++)
        epochs[l] = r->program->shape.first_epoch + 1;
    for (uint32_t i = 0; i < run->join_pair; i++)
        epochs[r->program->lane[i]]++;
    admission.ranks = r->program->shape.ranks;
    admission.members = members;
    admission.epochs = epochs;
    r->admitted = 1;
    SIM_TRY(join_lanes(r, r->stream));
    SIM_TRY(epg_group_admit(r->group, &admission, r->stream[0]));
    return fork_lanes(r, r->stream);
}

/* Called before what ends before pair `end` is enqueued, in a first life: a rank that stays admits the other one when
 * it is ready, and waits for it rather than enqueue a pair in which it takes part. */
static epg_status meet_joiner(sim_rank *r, uint32_t end)
{
    sim_run_state *run = r->run;
    if (r->life || r->admitted || run->join_pair == r->program->shape.pairs)
        return EPG_OK;
    while (end > run->join_pair && (r->number == run->join_rank || !run->join_ready))
        epg_simulation_sleep(r->device, NAP_NS); /* the rank that is to die waits for that here */
    return run->join_ready && r->number != run->join_rank ? admit(r) : EPG_OK;
}

/* A rank waits for the one that joins with all earlier pairs enqueued, and none of the others: its peers must not have
 * to wait for it meanwhile. A replay across that point is then run pair by pair, as is what a second life finds begun.
 */
static int is_broken_replay(const sim_rank *r, uint32_t pair)
{
    const sim_part *part = &r->program->part[r->number][pair];
    uint32_t join = r->run->join_pair;
    if (part->how != SIM_REPLAY || part->index > 0)
        return part->how == SIM_REPLAY;
    return !r->life && !r->run->join_ready && pair < join && join < r->program->shape.pairs &&
           pair + sim_replay_pairs(r->program, r->number, pair) > join;
}

/* ---- the program ---- */

static size_t part_of(char *base, size_t *end, size_t bytes, void *member)
{
    *end = (*end + 63) & ~(size_t)63;
    char *at = base ? base + *end : NULL;
    memcpy(member, &at, sizeof at);
    return *end += bytes;
}

static void place_buffers(sim_rank *r, sim_buffers *b, uint32_t lane, const epg_dispatch_view *view, char *base,
                          size_t *end)
{
    const sim_shape *s = &r->program->shape;
    size_t row = sim_row_bytes(r->program), choices = (size_t)s->tokens * s->topk;
    b->rank = r;
    b->lane = lane;
    b->view = *view;
    part_of(base, end, (size_t)s->tokens * sim_input_bytes(r->program), &b->rows);
    part_of(base, end, (size_t)s->tokens * sim_input_scale_bytes(r->program), &b->scales);
    part_of(base, end, s->tokens * row, &b->out);
    part_of(base, end, view->row_capacity * row, &b->expert_out);
    part_of(base, end, choices * sizeof *b->ids32, &b->ids32);
    part_of(base, end, choices * sizeof *b->ids64, &b->ids64);
    part_of(base, end, choices * sizeof *b->weights, &b->weights);
}

static epg_status place_all(sim_rank *r, const epg_dispatch_view *views, char *base, size_t *end)
{
    for (uint32_t l = 0; l < r->program->shape.lanes; l++) {
        place_buffers(r, &r->eager[l], l, &views[l], base, end);
        SIM_TRY(epg_group_flags(r->group, l, &r->eager[l].flags));
    }
    for (uint32_t g = 0; g < SIM_GRAPHS; g++)
        for (uint32_t j = 0; j < r->program->graph[r->number][g].pairs; j++) {
            uint32_t l = r->program->graph[r->number][g].lane[j];
            place_buffers(r, &r->graph[g][j], l, &views[l], base, end);
            r->graph[g][j].flags = r->eager[l].flags;
        }
    return EPG_OK;
}

static epg_status make_buffers(sim_rank *r)
{
    epg_dispatch_view views[SIM_LANES];
    size_t end = 0;
    for (uint32_t l = 0; l < r->program->shape.lanes; l++) {
        views[l] = (epg_dispatch_view)EPG_DISPATCH_VIEW_INIT;
        SIM_TRY(epg_group_view(r->group, l, &views[l]));
    }
    SIM_TRY(place_all(r, views, NULL, &end));
    r->memory = calloc(1, end + 64);
    if (!r->memory)
        return EPG_ERR_NO_MEMORY;
    end = 0;
    return place_all(r, views, r->memory, &end);
}

static epg_status make_group(sim_rank *r)
{
    const sim_shape *s = &r->program->shape;
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    o.experts = s->ranks * s->experts;
    o.logical_experts = s->logical;
    o.hidden = s->hidden;
    o.topk = s->topk;
    o.max_tokens = s->tokens;
    o.slots = s->slots;
    o.lanes = s->lanes;
    o.layout = (epg_layout)r->shape->layout;
    o.row_align = r->shape->align;
    o.rows_per_expert = r->shape->rows_per_expert;
    o.max_expert_rows = r->shape->expert_rows;
    o.timeout_ms = r->shape->timeout_ms;
    o.first_epoch = s->first_epoch;
    sim_row_options(r->program, r->number, &o);
    return r->life ? epg_group_join(r->team, &o, &r->group) : epg_group_create(r->team, &o, &r->group);
}

static epg_status prepare(sim_rank *r)
{
    SIM_TRY(make_streams(r));
    SIM_TRY(make_group(r));
    SIM_TRY(make_buffers(r));
    SIM_TRY(epg_group_expert_map(r->group, &r->map));
    if (r->shape->runner)
        SIM_TRY(make_runner(r));
    if (r->life) {
        r->run->join_ready = 1;
        SIM_TRY(admit(r));
    }
    for (uint32_t g = 0; g < SIM_GRAPHS && r->shape->early; g++)
        if (r->program->graph[r->number][g].pairs)
            SIM_TRY(capture_graph(r, g));
    return EPG_OK;
}

/* One pair of a replay, eagerly. */
static epg_status run_broken(sim_rank *r, uint32_t pair)
{
    const sim_part *part = &r->program->part[r->number][pair];
    sim_buffers *b = &r->eager[r->program->lane[pair]];
    way w = {SIM_EAGER, part->ht, part->bucket, 0, 0};
    if (!r->shape->streams)
        SIM_TRY(set_map(r, part->map));
    SIM_TRY(load(b, pair, r->stream[b->lane]));
    return run_pair(b, &w, r->stream[b->lane]);
}

static epg_status run_pairs(sim_rank *r)
{
    uint32_t pair = r->life ? r->run->join_pair : 0, next;
    for (; pair < r->program->shape.pairs; pair = next) {
        int broken = is_broken_replay(r, pair);
        uint32_t pairs = broken ? 1 : sim_replay_pairs(r->program, r->number, pair);
        next = pair + 1;
        SIM_TRY(meet_joiner(r, pair + (pairs ? pairs : 1)));
        SIM_TRY(broken ? run_broken(r, pair) : run_step(r, pair, &next));
    }
    return wait_all(r);
}

static epg_status keep_end(sim_rank *r)
{
    sim_end *end = &r->run->result->end[r->number];
    end->record = (epg_group_record)EPG_GROUP_RECORD_INIT;
    end->stats = (epg_group_stats)EPG_GROUP_STATS_INIT;
    end->runner = (epg_runner_stats)EPG_RUNNER_STATS_INIT;
    epg_group_check(r->group, &end->record);
    SIM_TRY(epg_group_get_stats(r->group, &end->stats));
    if (r->runner)
        SIM_TRY(epg_runner_get_stats(r->runner, &end->runner));
    for (uint32_t i = 0; i < r->program->shape.ranks; i++)
        SIM_TRY(epg_group_alive(r->group, i, &end->alive[i]));
    end->life = r->life;
    end->issued = r->issued;
    end->captured = r->captured;
    end->time_ns = epg_device_now_ns(r->device);
    end->ended = 1;
    return EPG_OK;
}

void sim_rank_live(sim_rank *r)
{
    const char *doing = "preparing";
    epg_status status = prepare(r);
    if (status == EPG_OK)
        doing = "running pairs", status = run_pairs(r);
    if (status == EPG_OK)
        doing = "reading statistics", status = keep_end(r);
    if (status != EPG_OK)
        sim_trouble(r->run, "rank %u, %s: %s: %s", r->number, doing, epg_status_name(status), epg_message());
    r->done = 1;
}

void sim_rank_destroy(sim_rank *r)
{
    epg_runner_destroy(r->runner);
    for (uint32_t g = 0; g < SIM_GRAPHS; g++)
        if (r->exec[g])
            epg_exec_destroy(r->device, r->exec[g]);
    epg_group_destroy(r->group);
    for (uint32_t l = 0; l < SIM_LANES; l++)
        if (r->stream[l] && (l == 0 || r->stream[l] != r->stream[0])) {
            epg_stream_destroy(r->device, r->stream[l]);
            epg_stream_destroy(r->device, r->capture[l]);
        }
    free(r->memory);
}
