/* A group's operations on the CUDA device: fills in the kernels' parameters and picks the launcher.
 *
 * What the host must read or write while kernels run (the failure record, the abort word) lies in mapped memory. The
 * rest of the region is reached by copies on a stream of the group's own, which waits for no other. */
#include <stdlib.h>
#include <string.h>
#include "device/device_ops.h"
#include "ep/group_state_int.h"
#include "ep/kernels_int.h"
#include "ep/lane_cuda_int.h"
#include "team/team_ops.h"

/* Mapped memory. */
typedef struct page {
    epg_wire_record record; /* writer: the kernels; `taken`: the host too */
    uint32_t aborted;       /* writer: the abort hook */
    uint32_t word;          /* the host's end of a copy, as are the next two */
    uint64_t counters[EPG_COUNTERS];
    epg_wire_geometry geometry;
} page;

typedef struct state {
    epg__cuda_shape shape;
    page *page;
    epg_stream side;
    void **peers;           /* [ranks], device memory */
    void *blocks[EPG_LANES_MAX];
    epg__cuda_lane lanes[EPG_LANES_MAX];
} state;

static char *own_region(const epg_group *g) { return g->peers[epg_team_rank(g->team)]; }
static uint32_t *lives_of(const epg_group *g, uint32_t lane)
{
    return (uint32_t *)(own_region(g) + g->wire.incarnation) + (size_t)lane * g->wire.geometry.ranks;
}

/* ---- on the group's own stream ---- */

/* What is enqueued between the two waits for no other work, whatever stream of the device is being captured, and is
 * done when the second returns. One thread at a time per group. */
static epg_status side_begin(epg_group *g, epg_capture_mode *mode)
{
    *mode = EPG_CAPTURE_RELAXED;
    return epg_capture_mode_exchange(g->device, mode);
}
static epg_status side_end(epg_group *g, epg_capture_mode mode, epg_status status)
{
    if (status == EPG_OK)
        status = epg_stream_synchronize(g->device, ((const state *)g->kernels_state)->side);
    epg_capture_mode_exchange(g->device, &mode);
    return status;
}

/* One end is the page. */
static epg_status side_copy(epg_group *g, void *to, const void *from, size_t bytes)
{
    epg_capture_mode mode;
    EPG_TRY(side_begin(g, &mode));
    return side_end(g, mode, epg_memcpy_async(g->device, to, from, bytes, ((const state *)g->kernels_state)->side));
}

/* ---- creation ---- */

static epg__cuda_lane lane_for_kernels(const epg__lane *l, const state *s)
{
    return (epg__cuda_lane){
        .wire = *l->wire,
        .number = l->number,
        .rank = l->rank,
        .ranks = l->ranks,
        .incarnation = l->incarnation,
        .local_experts = l->local_experts,
        .layout = l->layout,
        .row_align = l->row_align,
        .rows_per_expert = l->rows_per_expert,
        .row_capacity = l->row_capacity,
        .fan = l->fan,
        .timeout_ns = l->timeout_ns,
        .peers = s->peers,
        .expert_map = l->expert_map,
        .pair = l->pair,
        .entering = l->entering,
        .entries = l->entries,
        .flags = l->flags,
        .share_count = l->share_count,
        .shares = l->shares,
        .sent = l->sent,
        .received = l->received,
        .returned = l->returned,
        .place = l->place,
        .offsets = l->offsets,
        .counts = l->counts,
        .total = l->total,
        .row_index = l->row_index,
        .row_source = l->row_source,
        .row_token = l->row_token,
        .row_weight = l->row_weight,
        .expert_rows = l->expert_rows,
        .expert_scales = l->expert_scales,
        .scale_place = l->scale_place,
        .record = &s->page->record,
        .aborted = &s->page->aborted,
    };
}

/* Words of the largest table: dispatch send's counts of its chunks, or what dispatch recv has for each expert. */
static size_t scratch_words(const epg__lane *lane)
{
    size_t send = (size_t)EPG_CUDA_CHUNKS * lane->ranks, rows = 2 * EPG_CUDA_WARPS;
    if (lane->local_experts <= EPG_CUDA_PLACED_EXPERTS)
        rows = EPG_CUDA_PLACERS * (EPG_CUDA_PLACER_WARPS + 1);
    size_t recv = rows * lane->local_experts;
    return send > recv ? send : recv;
}

/* Memory that only these kernels need. `done` has a cache line of its own. */
static epg_status make_lane(epg_group *g, state *s, uint32_t number)
{
    enum { DONE = 64, BAD_IDS = 2 * EPG_CUDA_CHUNKS };
    const epg_wire_geometry *geometry = &g->wire.geometry;
    const epg__lane *lane = &g->lanes[number];
    epg__cuda_lane *own = &s->lanes[number];
    size_t shares = (size_t)geometry->max_tokens * lane->fan, choices = (size_t)geometry->max_tokens * geometry->topk;
    size_t scratch = scratch_words(lane), bytes = (DONE + BAD_IDS + scratch + 2 * shares + choices) * sizeof(uint32_t);
    EPG_TRY(epg_memory_alloc(g->device, EPG_MEMORY_DEVICE, bytes, &s->blocks[number]));
    g->local_bytes += bytes;
    *own = lane_for_kernels(lane, s);
    own->done = s->blocks[number];
    own->bad_ids = own->done + DONE;
    own->scratch = own->bad_ids + BAD_IDS;
    own->routed = (epg__share *)(own->scratch + scratch);
    own->chosen = (uint32_t *)(own->routed + shares);
    return EPG_OK;
}

/* How many channels the driver has for a process's streams, by the variable that it reads when it starts. */
static uint32_t channels(void)
{
    enum { USUAL = 8, MOST = 32 };
    const char *set = getenv("CUDA_DEVICE_MAX_CONNECTIONS");
    long count = set ? strtol(set, NULL, 10) : USUAL;
    return count < 1 ? USUAL : count > MOST ? MOST : (uint32_t)count;
}

/* A wait for another rank is a block, one for each rank and lane of a device, that must leave room for those it waits
 * for: the largest fills a multiprocessor, and a GPU runs no more than 128 grids at once. With work behind it, it also
 * takes a channel, and while more than half of them are taken the driver no longer finds a free one for every other
 * stream (docs/results-h200.md). Lanes may wait in one stream, so only the ranks are sure to take one each. */
static epg_status check_room(const epg_group *g, const epg__cuda_limits *limits)
{
    enum { MOST_GRIDS = 128 };
    uint32_t sharing = g->team->sharing, lanes = g->options.lanes, half = channels() > 1 ? channels() / 2 : 1;
    uint32_t room = limits->units < MOST_GRIDS ? limits->units : MOST_GRIDS;
    if ((uint64_t)sharing * lanes >= room)
        return epg__fail(EPG_ERR_UNSUPPORTED,
                         "%u ranks with %u lanes on one GPU: the kernels that wait for one another could fill it; ranks "
                         "times lanes must be below %u here", sharing, lanes, room);
    if (sharing > half)
        return epg__fail(EPG_ERR_UNSUPPORTED,
                         "%u ranks on one GPU: while they wait for one another they could hold up streams that they "
                         "wait for; CUDA_DEVICE_MAX_CONNECTIONS is %u, good for %u ranks (32, set before CUDA starts, "
                         "is good for 16)", sharing, channels(), half);
    return EPG_OK;
}

static epg_status prepare(epg_group *g, state *s)
{
    epg__cuda_limits limits;
    void *memory;
    EPG_TRY(epg__cuda_get_limits(g->device, &limits));
    EPG_TRY(check_room(g, &limits));
    s->shape = (epg__cuda_shape){limits.units, g->team->sharing, limits.compute >= 90};
    EPG_TRY(epg__cuda_send_prepare(g->device));
    EPG_TRY(epg__cuda_recv_prepare(g->device));
    EPG_TRY(epg__cuda_combine_prepare(g->device));
    EPG_TRY(epg__cuda_local_prepare(g->device));
    EPG_TRY(epg__cuda_admit_prepare(g->device));
    EPG_TRY(epg__cuda_few_prepare(g->device));
    EPG_TRY(epg_memory_alloc(g->device, EPG_MEMORY_MAPPED, sizeof(page), &memory));
    s->page = memory;
    EPG_TRY(epg_memory_alloc(g->device, EPG_MEMORY_DEVICE, g->wire.geometry.ranks * sizeof(void *), &memory));
    s->peers = memory;
    return epg_stream_create(g->device, EPG_STREAM_NONBLOCKING, &s->side);
}

static epg_status create(epg_group *g)
{
    state *s = epg__zalloc(1, sizeof *s, "a group's CUDA state");
    if (!s)
        return EPG_ERR_NO_MEMORY;
    g->kernels_state = s;
    EPG_TRY(prepare(g, s));
    for (uint32_t l = 0; l < g->options.lanes; l++)
        EPG_TRY(make_lane(g, s, l));
    return EPG_OK;
}

static void destroy(epg_group *g)
{
    state *s = g->kernels_state;
    if (!s)
        return;
    for (uint32_t l = 0; l < EPG_LANES_MAX; l++)
        if (s->blocks[l])
            epg_memory_free(g->device, EPG_MEMORY_DEVICE, s->blocks[l]);
    if (s->side)
        epg_stream_destroy(g->device, s->side);
    if (s->peers)
        epg_memory_free(g->device, EPG_MEMORY_DEVICE, s->peers);
    if (s->page)
        epg_memory_free(g->device, EPG_MEMORY_MAPPED, s->page);
    free(s);
}

/* The region's addresses, for the kernels. */
static epg_status know_region(epg_group *g)
{
    state *s = g->kernels_state;
    for (uint32_t l = 0; l < g->options.lanes; l++)
        s->lanes[l].own = own_region(g);
    return epg_memcpy(g->device, s->peers, g->peers, g->wire.geometry.ranks * sizeof(void *));
}

/* The region came zeroed: what is left is what is not zero. */
static epg_status ready(epg_group *g)
{
    char *own = own_region(g);
    epg_wire_header header = {.version = EPG_WIRE_VERSION,
                              .ranks = g->wire.geometry.ranks,
                              .geometry_hash = epg__wire_hash(&g->wire.geometry),
                              .incarnation = g->team->incarnation,
                              .geometry = g->wire.geometry};
    EPG_TRY(know_region(g));
    EPG_TRY(epg_memcpy(g->device, own, &header, sizeof header));
    for (uint32_t l = 0; l < g->options.lanes; l++) {
        epg_wire_lane lane = {.epoch = g->options.first_epoch};
        EPG_TRY(epg_memcpy(g->device, epg__lane_at(&g->wire, own, l), &lane, sizeof lane));
        EPG_TRY(epg_memcpy(g->device, lives_of(g, l), g->newest, header.ranks * sizeof(uint32_t)));
    }
    return EPG_OK;
}

/* ---- operations ---- */

static epg__cuda_params params_for(const epg_group *g, uint32_t lane)
{
    const state *s = g->kernels_state;
    epg__cuda_params params = {.lane = s->lanes[lane]};
    params.user.bucket = g->order[lane].bucket;
    return params;
}

static epg_status check_rows(const char *what, const void *rows)
{
    if ((uintptr_t)rows % 16)
        return epg__fail(EPG_ERR_INVALID, "%s is %p, not aligned to 16 bytes", what, rows);
    return EPG_OK;
}

static epg_status check_input(const epg_group *g, const epg_dispatch_args *user)
{
    EPG_TRY(check_rows("rows", user->rows));
    if (g->options.row_type == EPG_FLOAT8_E4M3 && (uintptr_t)user->scales % 4)
        return epg__fail(EPG_ERR_INVALID, "scales is %p, not aligned to 4 bytes", user->scales);
    return EPG_OK;
}

static epg_status dispatch_send(epg_group *g, const epg_dispatch_args *user, int is_void, epg_mode mode,
                                epg_stream stream)
{
    const state *s = g->kernels_state;
    epg__cuda_params params = params_for(g, user->lane);
    EPG_TRY(check_input(g, user));
    params.user = *user;
    params.is_void = (uint32_t)is_void;
    if (mode == EPG_MODE_LL && !is_void && epg__cuda_send_few_fits(&params.lane, user->bucket))
        return epg__cuda_send_few(g->device, stream, &s->shape, &params);
    return epg__cuda_dispatch_send(g->device, stream, &s->shape, &params);
}

static epg_status dispatch_recv(epg_group *g, uint32_t lane, int is_void, epg_stream stream)
{
    const state *s = g->kernels_state;
    epg__cuda_params params = params_for(g, lane);
    params.is_void = (uint32_t)is_void;
    params.is_ht = g->order[lane].mode == EPG_MODE_HT;
    return epg__cuda_dispatch_recv(g->device, stream, &s->shape, &params);
}

static epg_status combine_send(epg_group *g, uint32_t lane, int is_void, const void *expert_rows, epg_stream stream)
{
    const state *s = g->kernels_state;
    epg__cuda_params params = params_for(g, lane);
    EPG_TRY(check_rows("expert_rows", expert_rows));
    params.is_void = (uint32_t)is_void;
    params.expert_rows = expert_rows;
    return epg__cuda_combine_send(g->device, stream, &s->shape, &params);
}

static epg_status combine_recv(epg_group *g, uint32_t lane, int is_void, void *out, epg_stream stream)
{
    const state *s = g->kernels_state;
    epg__cuda_params params = params_for(g, lane);
    EPG_TRY(check_rows("out", out));
    params.is_void = (uint32_t)is_void;
    params.out = out;
    return epg__cuda_combine_recv(g->device, stream, &s->shape, &params);
}

/* The short way, for one rank in low-latency mode. */
static epg_status dispatch(epg_group *g, const epg_dispatch_args *user, epg_mode mode, epg_stream stream, int *halves)
{
    const state *s = g->kernels_state;
    epg__cuda_params params = params_for(g, user->lane);
    if (mode == EPG_MODE_LL && epg__cuda_local_dispatch_fits(&params.lane, user->bucket)) {
        EPG_TRY(check_input(g, user));
        params.user = *user;
        EPG_TRY(epg__cuda_local_dispatch(g->device, stream, &s->shape, &params));
    } else {
        EPG_TRY(dispatch_send(g, user, 0, mode, stream));
        *halves = 1;
        EPG_TRY(dispatch_recv(g, user->lane, 0, stream));
    }
    *halves = 2;
    return EPG_OK;
}

/* Both addresses are looked at before anything is enqueued. */
static epg_status combine(epg_group *g, uint32_t lane, const void *expert_rows, void *out, epg_stream stream,
                          int *halves)
{
    const state *s = g->kernels_state;
    epg__cuda_params params = params_for(g, lane);
    EPG_TRY(check_rows("expert_rows", expert_rows));
    EPG_TRY(check_rows("out", out));
    if (g->wire.geometry.ranks == 1 && g->order[lane].mode == EPG_MODE_LL) {
        params.expert_rows = expert_rows;
        params.out = out;
        EPG_TRY(epg__cuda_local_combine(g->device, stream, &s->shape, &params));
    } else {
        EPG_TRY(combine_send(g, lane, 0, expert_rows, stream));
        *halves = 1;
        EPG_TRY(combine_recv(g, lane, 0, out, stream));
    }
    *halves = 2;
    return EPG_OK;
}

static epg_status rehearse(epg_group *g, int on, epg_stream stream)
{
    epg__cuda_word word = {&((epg_wire_header *)own_region(g))->rehearsal, on != 0};
    return epg__cuda_store_word(g->device, stream, &word);
}

/* ---- joining again ---- */

static epg_status join(epg_group *g)
{
    const state *s = g->kernels_state;
    uint32_t rank = epg_team_rank(g->team);
    epg_capture_mode mode;
    EPG_TRY(know_region(g));
    EPG_TRY(side_copy(g, &s->page->geometry, &((epg_wire_header *)own_region(g))->geometry, sizeof s->page->geometry));
    EPG_TRY(epg__group_compare(&s->page->geometry, &g->wire.geometry, rank, rank));
    epg__cuda_admission clean = {.lane = s->lanes[0]};
    EPG_TRY(side_begin(g, &mode));
    return side_end(g, mode, epg__cuda_clean_place(g->device, s->side, &clean));
}

typedef epg_status (*admit_step)(epg_device *device, epg_stream stream, const epg__cuda_admission *admission);

/* One step of an admission, for all members and lanes. */
static epg_status admit_all(epg_group *g, const epg_admission *admission, admit_step step, epg_stream stream)
{
    const state *s = g->kernels_state;
    epg__cuda_admission part = {.joins = (uint32_t)g->outside};
    for (uint32_t l = 0; l < g->options.lanes; l++) {
        part.lane = s->lanes[l];
        part.epoch = admission->epochs[l];
        for (part.first = 0; part.first < admission->ranks; part.first += part.count) {
            uint32_t left = admission->ranks - part.first;
            part.count = left < EPG_CUDA_MEMBERS ? left : EPG_CUDA_MEMBERS;
            memcpy(part.members, admission->members + part.first, part.count * sizeof *part.members);
            EPG_TRY(step(g->device, stream, &part));
        }
    }
    return EPG_OK;
}

static epg_status admit(epg_group *g, const epg_admission *admission, epg_stream stream)
{
    EPG_TRY(admit_all(g, admission, epg__cuda_note_members, stream));
    return g->outside ? admit_all(g, admission, epg__cuda_await_invitations, stream) : EPG_OK;
}

/* ---- what the host sees ---- */

static void abort_waits(epg_group *g)
{
    const state *s = g->kernels_state;
    __atomic_store_n(&s->page->aborted, 1, __ATOMIC_RELEASE); /* partner: epg__look in wait_cuda.cuh */
}

static const epg_wire_record *record(const epg_group *g) { return &((const state *)g->kernels_state)->page->record; }

static epg_status clear_record(epg_group *g)
{
    const state *s = g->kernels_state;
    __atomic_store_n(&s->page->record.taken, 0, __ATOMIC_RELEASE);
    s->page->word = 0;
    return side_copy(g, &((epg_wire_header *)own_region(g))->record.taken, &s->page->word, sizeof(uint32_t));
}

static epg_status read_word(epg_group *g, const uint32_t *word, uint32_t *value)
{
    const state *s = g->kernels_state;
    EPG_TRY(side_copy(g, &s->page->word, word, sizeof(uint32_t)));
    *value = s->page->word;
    return EPG_OK;
}

static epg_status alive(epg_group *g, uint32_t rank, int *answer)
{
    uint32_t mask, life;
    int all = 1;
    EPG_TRY(read_word(g, (uint32_t *)(own_region(g) + g->wire.mask) + rank, &mask));
    for (uint32_t l = 0; l < g->options.lanes; l++) {
        EPG_TRY(read_word(g, lives_of(g, l) + rank, &life));
        all &= life >= mask;
    }
    *answer = all;
    return EPG_OK;
}

/* A kernel, since others may be raising the word at once. */
static epg_status give_up(epg_group *g, uint32_t rank, uint32_t incarnation)
{
    epg__cuda_word word = {(uint32_t *)(own_region(g) + g->wire.mask) + rank, incarnation + 1};
    epg_capture_mode mode;
    EPG_TRY(side_begin(g, &mode));
    return side_end(g, mode, epg__cuda_raise_word(g->device, ((const state *)g->kernels_state)->side, &word));
}

static epg_status counters(epg_group *g, uint64_t value[EPG_COUNTERS])
{
    const state *s = g->kernels_state;
    EPG_TRY(side_copy(g, s->page->counters, ((epg_wire_header *)own_region(g))->counters, sizeof s->page->counters));
    for (int i = 0; i < EPG_COUNTERS; i++)
        value[i] = s->page->counters[i];
    return EPG_OK;
}

const epg__kernels epg__kernels_cuda = {
    .create = create,
    .ready = ready,
    .destroy = destroy,
    .join = join,
    .admit = admit,
    .dispatch_send = dispatch_send,
    .dispatch_recv = dispatch_recv,
    .combine_send = combine_send,
    .combine_recv = combine_recv,
    .dispatch = dispatch,
    .combine = combine,
    .rehearse = rehearse,
    .abort = abort_waits,
    .record = record,
    .clear_record = clear_record,
    .alive = alive,
    .give_up = give_up,
    .counters = counters,
};
