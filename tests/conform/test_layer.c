/* MoE layers and steps on teams of the device under test: against the double-precision reference, in every layout and
 * mode, and the same bits whatever the batch, the mode, the bucket and whether the step was captured. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "support/device_under_test.h"
#include "support/oom.h"
#include "support/ranks.h"

enum { MOST = 40, WIDEST = 1024 };

/* What the reference made of a row, kept while its checkpoint is open: the same rows come in every layout and mode. */
typedef struct known {
    struct known *next;
    uint32_t layer;
    double gap;
    float row[WIDEST], out[WIDEST]; /* 0 beyond `hidden` */
} known;

typedef struct plan {
    epg_checkpoint *checkpoint;
    epg_moe_shape shape;
    epg_layout layout;
    epg_dtype type;
    epg_mode mode;
    double bound;        /* largest error relative to the largest output */
} plan;

static char directory[] = "/tmp/epgraph-layer-XXXXXX";
static known *all_known; /* of the checkpoint that is open */
static pthread_mutex_t known_lock = PTHREAD_MUTEX_INITIALIZER;

/* Writes a checkpoint, and opens it for the plan. */
static void open_checkpoint(plan *p, const char *preset, int renormalise, epg_tensor_type type)
{
    epg_checkpoint_write_options options = EPG_CHECKPOINT_WRITE_OPTIONS_INIT;
    options.shape = epg_preset_find(preset)->shape;
    options.shape.norm_topk_prob = (uint32_t)renormalise;
    options.type = type;
    options.seed = 7;
    assert_int_equal(epg_checkpoint_write(directory, &options), EPG_OK);
    assert_int_equal(epg_checkpoint_open(directory, &p->checkpoint), EPG_OK);
    p->shape.size = sizeof p->shape;
    assert_int_equal(epg_checkpoint_shape(p->checkpoint, &p->shape), EPG_OK);
    assert_true(p->shape.hidden <= WIDEST);
}

static void close_checkpoint(plan *p)
{
    while (all_known) {
        known *k = all_known;
        all_known = k->next;
        free(k);
    }
    epg_checkpoint_close(p->checkpoint);
}

static epg_status make_group(test_rank *self, const plan *p, uint32_t lanes, epg_group **group)
{
    epg_group_options options = EPG_GROUP_OPTIONS_INIT;
    options.experts = p->shape.experts;
    options.hidden = p->shape.hidden;
    options.topk = p->shape.topk;
    options.max_tokens = MOST;
    options.lanes = lanes;
    options.row_type = p->type;
    options.layout = p->layout;
    options.row_align = p->layout == EPG_LAYOUT_CONTIGUOUS ? 8 : 0;
    return epg_group_create(self->team, &options, group);
}

static float read_value(epg_dtype type, const void *rows, size_t i)
{
    uint32_t bits;
    float value;
    if (type == EPG_FLOAT32)
        return ((const float *)rows)[i];
    bits = (uint32_t)((const uint16_t *)rows)[i] << 16;
    memcpy(&value, &bits, 4);
    return value;
}

static size_t row_bytes(const plan *p) { return p->shape.hidden * (p->type == EPG_FLOAT32 ? 4u : 2u); }

/* The reference's answer for a row of WIDEST elements; NULL: it failed. */
static const known *look_up(const plan *p, uint32_t layer, const float *row)
{
    pthread_mutex_lock(&known_lock);
    known *k = all_known;
    while (k && (k->layer != layer || memcmp(k->row, row, sizeof k->row)))
        k = k->next;
    if (!k && (k = calloc(1, sizeof *k))) {
        k->layer = layer;
        memcpy(k->row, row, sizeof k->row);
        if (epg_reference_layer(p->checkpoint, layer, row, k->out, &k->gap) == EPG_OK) {
            k->next = all_known;
            all_known = k;
        } else {
            free(k);
            k = NULL;
        }
    }
    pthread_mutex_unlock(&known_lock);
    return k;
}

/* Compares layer `layer` for one token; a choice that hangs on rounding is not held against the kernels. */
static int check_token(test_rank *self, const plan *p, uint32_t layer, const void *in, const void *out)
{
    float row[WIDEST] = {0};
    double worst = 0, largest = 0;
    for (uint32_t i = 0; i < p->shape.hidden; i++)
        row[i] = read_value(p->type, in, i);
    const known *expected = look_up(p, layer, row);
    RANK_CHECK(expected != NULL, "no reference");
    if (expected->gap < (p->type == EPG_FLOAT32 ? 1e-4 : 5e-2))
        return 0;
    for (uint32_t i = 0; i < p->shape.hidden; i++) {
        worst = fmax(worst, fabs((double)read_value(p->type, out, i) - (double)expected->out[i]));
        largest = fmax(largest, fabs((double)expected->out[i]));
    }
    RANK_CHECK(worst <= p->bound * largest, "layer %u: error %g of %g", layer, worst, largest);
    return 0;
}

static int put_ids(test_rank *self, const epg_model_buffers *b, uint32_t tokens, const int32_t *ids)
{
    RANK_OK(epg_memcpy(self->device, b->tokens, &tokens, sizeof tokens));
    RANK_OK(epg_memcpy(self->device, b->ids, ids, tokens * sizeof *ids));
    return 0;
}

/* Ranks wait for one another, which they cannot where streams do not run at once. */
static int run_all(uint32_t size, int (*body)(test_rank *self), plan *p)
{
    if (test_device_serial() && size > 1)
        return 0;
    return test_device_kind() == EPG_DEVICE_HOST ? run_ranks_both(size, 20000, body, p, 5)
                                                 : run_ranks(size, 20000, body, p);
}

static int states_against_reference(test_rank *self, const plan *p, const epg_model_buffers *b, uint32_t tokens,
                                    char *states)
{
    size_t bytes = (p->shape.layers + (size_t)1) * MOST * row_bytes(p);
    RANK_CHECK(states != NULL, "memory");
    RANK_OK(epg_memcpy(self->device, states, b->states, bytes));
    for (uint32_t l = 0; l < p->shape.layers; l++)
        for (uint32_t t = 0; t < tokens; t++) {
            const char *in = states + (l * (size_t)MOST + t) * row_bytes(p);
            if (check_token(self, p, l, in, in + MOST * row_bytes(p)))
                return 1;
        }
    return 0;
}

static int against_reference(test_rank *self)
{
    const plan *p = self->arg;
    epg_model_options options = EPG_MODEL_OPTIONS_INIT;
    epg_model_step_args args = EPG_MODEL_STEP_ARGS_INIT;
    epg_model_buffers b = EPG_MODEL_BUFFERS_INIT;
    epg_group *group;
    epg_model *model;
    uint32_t tokens = 3 + self->rank * 15; /* more than one block on some ranks */
    options.keep_states = 1;
    RANK_OK(make_group(self, p, 1, &group));
    RANK_OK(epg_model_create(group, p->checkpoint, &options, &model));
    if (tokens > MOST)
        tokens = 0; /* a rank without tokens */
    int32_t ids[MOST];
    for (uint32_t t = 0; t < tokens; t++)
        ids[t] = (int32_t)((t * 37 + self->rank * 11 + 5) % p->shape.vocab);
    RANK_OK(epg_model_get_buffers(model, &b));
    if (put_ids(self, &b, tokens, ids))
        return 1;
    args.bucket = MOST;
    args.mode = p->mode == EPG_MODE_AUTO ? self->rank % 2 ? EPG_MODE_LL : EPG_MODE_HT : p->mode;
    args.stream = self->stream;
    RANK_OK(epg_model_step(model, &args));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    char *states = malloc((p->shape.layers + (size_t)1) * MOST * row_bytes(p));
    int failed = states_against_reference(self, p, &b, tokens, states);
    free(states);
    uint32_t bad = 1;
    RANK_OK(epg_memcpy(self->device, &bad, b.bad_ids, sizeof bad));
    RANK_CHECK(!failed && bad == 0, "%u ids are bad", bad);
    epg_model_destroy(model);
    RANK_OK(epg_team_barrier(self->team));
    epg_group_destroy(group);
    return 0;
}

static void test_reference(void **state)
{
    static const uint32_t sizes[] = {1, 2, 4};
    static const char *const presets[] = {"tiny", "small", "wide"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        plan p = {NULL, {0}, EPG_LAYOUT_IN_PLACE, EPG_FLOAT32, EPG_MODE_LL, 1e-5};
        open_checkpoint(&p, presets[i], i != 1, i == 1 ? EPG_TENSOR_BF16 : EPG_TENSOR_F32);
        for (int layout = 0; layout < 3; layout++)
            for (int mode = 0; mode < 3; mode++)
                for (int s = 0; s < 3; s++) {
                    if (i && mode && s != 2)
                        continue; /* the tiny model does every combination */
                    p.layout = (epg_layout)layout;
                    p.mode = (epg_mode)mode;
                    if (!test_device_serial() || sizes[s] == 1)
                        assert_int_equal(run_ranks(sizes[s], 20000, against_reference, &p), 0);
                }
        close_checkpoint(&p);
    }
}

static void test_reference_bf16(void **state)
{
    static const struct run {
        const char *preset;
        epg_tensor_type type;
        uint32_t ranks;
    } runs[] = {{"tiny", EPG_TENSOR_F16, 2},
                {"tiny", EPG_TENSOR_BF16, 1},
                {"small", EPG_TENSOR_BF16, 2},
                {"wide", EPG_TENSOR_BF16, 4}};
    (void)state;
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        plan p = {NULL, {0}, EPG_LAYOUT_CONTIGUOUS, EPG_BFLOAT16, EPG_MODE_AUTO, 2e-2};
        open_checkpoint(&p, runs[i].preset, 1, runs[i].type);
        p.layout = (epg_layout)(i % 3);
        assert_int_equal(run_all(runs[i].ranks, against_reference, &p), 0);
        close_checkpoint(&p);
    }
}

/* ---- the same bits ---- */

/* One step; the ids are those of tokens first .. first+count-1 of a fixed sequence. */
static int step(test_rank *self, epg_model *model, const plan *p, const epg_model_step_args *args, uint32_t first,
                uint32_t count)
{
    epg_model_buffers b = EPG_MODEL_BUFFERS_INIT;
    int32_t ids[MOST];
    RANK_OK(epg_model_get_buffers(model, &b));
    for (uint32_t t = 0; t < count; t++)
        ids[t] = (int32_t)(((first + t) * 29 + self->rank * 3) % p->shape.vocab);
    if (put_ids(self, &b, count, ids))
        return 1;
    RANK_OK(epg_model_step(model, args));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    return 0;
}

/* What a step left: its final hidden states, then its next ids. */
typedef struct result {
    char *hidden;
    int32_t next[MOST];
} result;

static int get_result(test_rank *self, const plan *p, const epg_model_buffers *b, result *r)
{
    RANK_CHECK(r->hidden != NULL, "memory");
    RANK_OK(epg_memcpy(self->device, r->hidden, b->hidden, MOST * row_bytes(p)));
    RANK_OK(epg_memcpy(self->device, r->next, b->next_ids, sizeof r->next));
    return 0;
}

static int batch_body(test_rank *self)
{
    const plan *p = self->arg;
    enum { BATCH = 37 };
    epg_model_step_args args = EPG_MODEL_STEP_ARGS_INIT;
    epg_model_buffers b = EPG_MODEL_BUFFERS_INIT;
    epg_group *group;
    epg_model *model;
    RANK_OK(make_group(self, p, 2, &group));
    RANK_OK(epg_model_create(group, p->checkpoint, NULL, &model));
    RANK_OK(epg_model_get_buffers(model, &b));
    RANK_CHECK(b.states == NULL, "states without keep_states");
    size_t bytes = row_bytes(p);
    result all = {malloc(MOST * bytes), {0}}, now = {malloc(MOST * bytes), {0}};
    args.stream = self->stream;
    args.bucket = MOST;
    args.mode = EPG_MODE_HT;
    if (step(self, model, p, &args, 0, BATCH) || get_result(self, p, &b, &all))
        return 1;
    for (uint32_t first = 0; first < BATCH; first += 4) { /* alone, in fives, on either lane and in either mode */
        uint32_t count = first % 8 || first + 5 > BATCH ? 1 : 5;
        args.lane = first / 4 % 2;
        args.bucket = count == 1 ? 1 : 8;
        args.mode = first % 3 ? EPG_MODE_LL : EPG_MODE_HT;
        if (step(self, model, p, &args, first, count) || get_result(self, p, &b, &now))
            return 1;
        RANK_CHECK(memcmp(now.hidden, all.hidden + first * bytes, count * bytes) == 0,
                   "token %u of %u differs from its batch", first, count);
        RANK_CHECK(memcmp(now.next, all.next + first, count * sizeof *now.next) == 0, "token %u: another next id",
                   first);
    }
    free(all.hidden);
    free(now.hidden);
    epg_model_destroy(model);
    RANK_OK(epg_team_barrier(self->team));
    epg_group_destroy(group);
    return 0;
}

static void test_batch_invariance(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        plan p = {NULL, {0}, EPG_LAYOUT_IN_PLACE, EPG_FLOAT32, EPG_MODE_AUTO, 0};
        open_checkpoint(&p, "small", 1, i ? EPG_TENSOR_BF16 : EPG_TENSOR_F32);
        for (int layout = 0; layout < 3; layout++)
            for (int type = i; type < 2; type++) {
                p.layout = (epg_layout)layout;
                p.type = (epg_dtype)type;
                assert_int_equal(run_all(test_device_serial() ? 1 : 2, batch_body, &p), 0);
            }
        close_checkpoint(&p);
    }
}

/* A captured step, replayed with other tokens and counts, against the eager one. Ids out of range count as 0. */
static int capture_body(test_rank *self)
{
    const plan *p = self->arg;
    epg_model_step_args args = EPG_MODEL_STEP_ARGS_INIT;
    epg_model_buffers b = EPG_MODEL_BUFFERS_INIT;
    epg_group *group;
    epg_model *model;
    epg_graph graph;
    epg_exec exec;
    size_t bytes = row_bytes(p);
    result eager = {malloc(MOST * bytes), {0}}, now = {malloc(MOST * bytes), {0}};
    RANK_OK(make_group(self, p, 1, &group));
    RANK_OK(epg_model_create(group, p->checkpoint, NULL, &model));
    RANK_OK(epg_model_get_buffers(model, &b));
    args.stream = self->stream;
    args.bucket = 8;
    RANK_OK(epg_capture_begin(self->device, self->stream, EPG_CAPTURE_THREAD_LOCAL));
    RANK_OK(epg_model_step(model, &args));
    RANK_OK(epg_capture_end(self->device, self->stream, &graph));
    RANK_OK(epg_graph_instantiate(self->device, graph, &exec));
    RANK_OK(epg_graph_destroy(self->device, graph));
    for (uint32_t count = 0; count <= 8; count += 2) {
        if (step(self, model, p, &args, count * 3, count) || get_result(self, p, &b, &eager))
            return 1;
        RANK_OK(epg_memset(self->device, b.hidden, 0x5A, 8 * bytes));
        RANK_OK(epg_exec_launch(self->device, exec, self->stream));
        RANK_OK(epg_stream_synchronize(self->device, self->stream));
        if (get_result(self, p, &b, &now))
            return 1;
        RANK_CHECK(memcmp(eager.hidden, now.hidden, count * bytes) == 0, "replay with %u tokens differs", count);
        RANK_CHECK(memcmp(eager.next, now.next, count * sizeof *now.next) == 0, "replay with %u tokens: other ids",
                   count);
        RANK_CHECK(count == 8 || now.hidden[count * bytes] == 0x5A, "row %u beyond the tokens was written", count);
    }
    const int32_t bad_ones[3] = {-1, (int32_t)p->shape.vocab, 0};
    uint32_t bad = 0;
    if (put_ids(self, &b, 3, bad_ones))
        return 1;
    RANK_OK(epg_exec_launch(self->device, exec, self->stream));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_memcpy(self->device, &bad, b.bad_ids, sizeof bad));
    RANK_CHECK(bad == 2, "bad_ids is %u", bad);
    if (get_result(self, p, &b, &now))
        return 1;
    RANK_CHECK(memcmp(now.hidden, now.hidden + 2 * bytes, bytes) == 0, "an id out of range is not id 0");
    RANK_OK(epg_exec_destroy(self->device, exec));
    free(eager.hidden);
    free(now.hidden);
    epg_model_destroy(model);
    RANK_OK(epg_team_barrier(self->team));
    epg_group_destroy(group);
    return 0;
}

static void test_capture(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        plan p = {NULL, {0}, EPG_LAYOUT_MASKED, EPG_BFLOAT16, EPG_MODE_AUTO, 0};
        open_checkpoint(&p, "tiny", 1, i ? EPG_TENSOR_BF16 : EPG_TENSOR_F32);
        assert_int_equal(run_all(test_device_serial() ? 1 : 2, capture_body, &p), 0);
        close_checkpoint(&p);
    }
}

/* ---- the caller's experts ---- */

/* Experts that answer with the rows they are given: out = in + norm(in) * (sum of the weights, 1). */
typedef struct echo {
    uint32_t calls, layers;     /* bits of the layers it was called for */
} echo;

static epg_status answer(void *ctx, uint32_t layer, const epg_dispatch_view *view, epg_stream stream,
                         const void **expert_rows)
{
    echo *e = ctx;
    (void)stream;
    e->calls++;
    e->layers |= 1u << layer;
    *expert_rows = view->rows; /* contiguous: position p is row p */
    return EPG_OK;
}

static int own_experts_body(test_rank *self)
{
    const plan *p = self->arg;
    epg_model_options options = EPG_MODEL_OPTIONS_INIT;
    epg_model_step_args args = EPG_MODEL_STEP_ARGS_INIT;
    epg_model_buffers b = EPG_MODEL_BUFFERS_INIT;
    epg_group *group;
    epg_model *model;
    echo e = {0, 0};
    const int32_t ids[2] = {5, 9};
    float states[3 * MOST * 64];
    options.keep_states = 1;
    options.experts = answer;
    options.experts_ctx = &e;
    RANK_OK(make_group(self, p, 1, &group));
    RANK_OK(epg_model_create(group, p->checkpoint, &options, &model));
    RANK_OK(epg_model_get_buffers(model, &b));
    args.stream = self->stream;
    args.bucket = 2;
    if (put_ids(self, &b, 2, ids))
        return 1;
    RANK_OK(epg_model_step(model, &args));
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_CHECK(e.calls == 2 && e.layers == 3, "%u calls, layers %x", e.calls, e.layers);
    RANK_OK(epg_memcpy(self->device, states, b.states, 3 * MOST * row_bytes(p)));
    for (uint32_t t = 0; t < 2; t++) { /* what was added has the norm's direction and size */
        double squares = 0, added = 0;
        for (uint32_t i = 0; i < 64; i++) {
            double in = (double)states[t * 64 + i], d = (double)states[(MOST + t) * 64 + i] - in;
            squares += in * in;
            added += d * in;
        }
        RANK_CHECK(added > 0.5 * squares / sqrt(squares / 64), "token %u: %g added along %g", t, added, squares);
    }
    epg_model_destroy(model);
    RANK_OK(epg_team_barrier(self->team));
    epg_group_destroy(group);
    return 0;
}

static void test_own_experts(void **state)
{
    plan p = {NULL, {0}, EPG_LAYOUT_CONTIGUOUS, EPG_FLOAT32, EPG_MODE_AUTO, 0};
    open_checkpoint(&p, "tiny", 1, EPG_TENSOR_F32);
    (void)state;
    assert_int_equal(p.shape.hidden, 64);
    assert_int_equal(run_ranks(test_device_serial() ? 1 : 2, 20000, own_experts_body, &p), 0);
    close_checkpoint(&p);
}

/* ---- refusals ---- */

static int mismatch_body(test_rank *self)
{
    plan p = *(const plan *)self->arg;
    epg_model_step_args args = EPG_MODEL_STEP_ARGS_INIT;
    epg_group *group;
    epg_model *model = NULL;
    float row[64] = {0};
    p.shape.topk = 2;
    RANK_OK(make_group(self, &p, 1, &group));
    RANK_CHECK(epg_model_create(group, p.checkpoint, NULL, &model) == EPG_ERR_MISMATCH, "another topk was accepted");
    RANK_CHECK(strstr(epg_message(), "topk is 2, the checkpoint's 4") && !model, "message");
    epg_group_destroy(group);
    p.shape.topk = 4;
    RANK_OK(make_group(self, &p, 1, &group));
    RANK_OK(epg_model_create(group, p.checkpoint, NULL, &model));
    args.stream = self->stream;
    args.bucket = MOST + 1;
    RANK_CHECK(epg_model_step(model, &args) == EPG_ERR_INVALID && strstr(epg_message(), "41"), "bucket");
    args.bucket = 1;
    args.lane = 1;
    RANK_CHECK(epg_model_step(model, &args) == EPG_ERR_INVALID && strstr(epg_message(), "lane is 1"), "lane");
    args.lane = 0;
    RANK_CHECK(epg_model_layer(model, 2, NULL, row, row, &args) == EPG_ERR_INVALID && strstr(epg_message(), "2 of 2"),
               "layer");
    epg_model_destroy(model);
    epg_group_destroy(group);
    return 0;
}

static void test_refusals(void **state)
{
    plan p = {NULL, {0}, EPG_LAYOUT_IN_PLACE, EPG_FLOAT32, EPG_MODE_AUTO, 0};
    open_checkpoint(&p, "tiny", 1, EPG_TENSOR_F32);
    (void)state;
    assert_int_equal(run_ranks(1, 20000, mismatch_body, &p), 0);
    close_checkpoint(&p);
}

/* Every allocation of epg_model_create fails once: a status, and nothing left behind. */
static int memory_body(test_rank *self)
{
    const plan *p = self->arg;
    epg_status status = EPG_ERR_NO_MEMORY;
    epg_group *group;
    RANK_OK(make_group(self, p, 2, &group));
    for (long nth = 0; status != EPG_OK; nth++) {
        epg_model *model = NULL;
        oom_track_start();
        oom_fail_at(nth);
        status = epg_model_create(group, p->checkpoint, NULL, &model);
        int delivered = oom_stop();
        RANK_CHECK(status == (delivered ? EPG_ERR_NO_MEMORY : EPG_OK), "allocation %ld: %s", nth,
                   epg_status_name(status));
        epg_model_destroy(model);
        RANK_CHECK(oom_tracked() == 0, "allocation %ld: %ld blocks left", nth, oom_tracked());
    }
    epg_group_destroy(group);
    return 0;
}

static void test_memory(void **state)
{
    plan p = {NULL, {0}, EPG_LAYOUT_IN_PLACE, EPG_FLOAT32, EPG_MODE_AUTO, 0};
    if (test_device_kind() != EPG_DEVICE_HOST) /* a driver's own memory fails in its own way */
        skip();
    open_checkpoint(&p, "tiny", 1, EPG_TENSOR_F32);
    (void)state;
    assert_int_equal(run_ranks(1, 20000, memory_body, &p), 0);
    close_checkpoint(&p);
}

static int remove_directory(void **state)
{
    static const char *const names[] = {"/config.json", "/model.safetensors"};
    char path[128];
    (void)state;
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s%s", directory, names[i]);
        remove(path);
    }
    return remove(directory);
}

static int make_directory(void **state)
{
    (void)state;
    return mkdtemp(directory) == NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_reference_bf16),
        cmocka_unit_test(test_batch_invariance),
        cmocka_unit_test(test_capture),
        cmocka_unit_test(test_own_experts),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_memory),
    };
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
