/* The marks that a model makes while a step is enqueued: which, in which order, around what; a step without them is as
 * long as it was. One rank. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "epgraph/epgraph.h"
#include "support/device_under_test.h"

#define OK(call) assert_int_equal((call), EPG_OK)

enum { TOKENS = 4, MOST_MARKS = 64 };
static char directory[] = "/tmp/epgraph-marks-XXXXXX";

typedef struct fixture {
    epg_device *device;
    epg_stream stream;
    epg_team *team;
    epg_group *group;
    epg_checkpoint *checkpoint;
    epg_moe_shape shape;
    epg_model *model;
    char told[MOST_MARKS + 1];      /* a letter per mark */
    uint32_t layers[MOST_MARKS];
    uint32_t marks, fail_at;        /* 0: never */
    uint64_t *stamps;               /* mapped */
} fixture;

static epg_status mark(void *ctx, uint32_t layer, epg_model_phase phase, epg_stream stream)
{
    fixture *f = ctx;
    assert_ptr_equal(stream, f->stream);
    assert_true(f->marks < MOST_MARKS);
    f->told[f->marks] = "eNGDXCAhz"[phase];
    f->layers[f->marks++] = layer;
    if (f->marks == f->fail_at)
        return EPG_ERR_STATE;
    return epg_timestamp_async(f->device, &f->stamps[f->marks - 1], stream);
}

static void make_model(fixture *f, uint32_t size)
{
    epg_model_options options = EPG_MODEL_OPTIONS_INIT;
    options.size = size;
    options.mark = mark;
    options.mark_ctx = f;
    OK(epg_model_create(f->group, f->checkpoint, &options, &f->model));
}

static epg_model_step_args step_args(const fixture *f)
{
    epg_model_step_args args = EPG_MODEL_STEP_ARGS_INIT;
    args.bucket = TOKENS;
    args.stream = f->stream;
    return args;
}

static int open_all(fixture *f)
{
    epg_group_options group = EPG_GROUP_OPTIONS_INIT;
    if (test_device_create(&f->device) || epg_stream_create(f->device, EPG_STREAM_NONBLOCKING, &f->stream) ||
        epg_team_create_threads(f->device, NULL, 1, &f->team))
        return 1;
    group.experts = f->shape.experts;
    group.hidden = f->shape.hidden;
    group.topk = f->shape.topk;
    group.max_tokens = TOKENS;
    group.row_type = EPG_BFLOAT16;
    size_t bytes = MOST_MARKS * sizeof *f->stamps;
    return epg_group_create(f->team, &group, &f->group) != EPG_OK ||
           epg_memory_alloc(f->device, EPG_MEMORY_MAPPED, bytes, (void **)&f->stamps) != EPG_OK;
}

static int set_up(void **state)
{
    epg_checkpoint_write_options options = EPG_CHECKPOINT_WRITE_OPTIONS_INIT;
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (!f)
        return 1;
    options.shape = epg_preset_find("tiny")->shape;
    options.type = EPG_TENSOR_BF16;
    f->shape = options.shape;
    if (epg_checkpoint_write(directory, &options) || epg_checkpoint_open(directory, &f->checkpoint) || open_all(f)) {
        print_error("%s\n", epg_message());
        return 1;
    }
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    epg_model_destroy(f->model);
    epg_group_destroy(f->group);
    epg_team_destroy(f->team);
    epg_memory_free(f->device, EPG_MEMORY_MAPPED, f->stamps);
    epg_stream_destroy(f->device, f->stream);
    epg_device_destroy(f->device);
    epg_checkpoint_close(f->checkpoint);
    free(f);
    return 0;
}

static void expect_step(const fixture *f)
{
    uint32_t at = 0;
    assert_int_equal(f->marks, EPG_MODEL_MARKS(f->shape.layers));
    assert_int_equal(f->told[at++], 'e');
    for (uint32_t layer = 0; layer < f->shape.layers; layer++)
        for (const char *phase = "NGDXCA"; *phase; phase++, at++) {
            assert_int_equal(f->told[at], *phase);
            assert_int_equal(f->layers[at], layer);
        }
    assert_string_equal(&f->told[at], "hz");
    assert_int_equal(f->layers[at], f->shape.layers);
    assert_int_equal(f->layers[at + 1], f->shape.layers);
}

static void a_step_makes_them_all(void **state)
{
    fixture *f = *state;
    make_model(f, sizeof(epg_model_options));
    epg_model_step_args args = step_args(f);
    OK(epg_model_step(f->model, &args));
    expect_step(f);
    OK(epg_stream_synchronize(f->device, f->stream));
    for (uint32_t m = 1; m < f->marks; m++)
        assert_true(f->stamps[m] >= f->stamps[m - 1] && f->stamps[0] > 0);
    memset(f->told, 0, sizeof f->told);
    f->marks = 0;
    args.head = 0; /* as many without a head */
    OK(epg_model_step(f->model, &args));
    expect_step(f);
    OK(epg_stream_synchronize(f->device, f->stream));
}

static void a_layer_makes_its_own_and_the_end(void **state)
{
    fixture *f = *state;
    epg_model_buffers b = EPG_MODEL_BUFFERS_INIT;
    make_model(f, sizeof(epg_model_options));
    OK(epg_model_get_buffers(f->model, &b));
    epg_model_step_args args = step_args(f);
    OK(epg_model_layer(f->model, 1, b.tokens, b.hidden, b.hidden, &args));
    assert_string_equal(f->told, "NGDXCAz");
    for (uint32_t m = 0; m < f->marks; m++)
        assert_int_equal(f->layers[m], 1);
    OK(epg_stream_synchronize(f->device, f->stream));
}

static void a_failing_mark_ends_the_step(void **state)
{
    fixture *f = *state;
    make_model(f, sizeof(epg_model_options));
    epg_model_step_args args = step_args(f);
    f->fail_at = 3;
    assert_int_equal(epg_model_step(f->model, &args), EPG_ERR_STATE);
    assert_int_equal(f->marks, 3);
    OK(epg_stream_synchronize(f->device, f->stream));
}

/* How many nodes a captured step has. */
static size_t nodes_of_step(fixture *f)
{
    epg_graph graph;
    size_t nodes;
    epg_model_step_args args = step_args(f);
    OK(epg_capture_begin(f->device, f->stream, EPG_CAPTURE_THREAD_LOCAL));
    OK(epg_model_step(f->model, &args));
    OK(epg_capture_end(f->device, f->stream, &graph));
    OK(epg_graph_node_count(f->device, graph, &nodes));
    OK(epg_graph_destroy(f->device, graph));
    return nodes;
}

static void without_a_callback_nothing_is_enqueued(void **state)
{
    fixture *f = *state;
    make_model(f, sizeof(epg_model_options));
    size_t with = nodes_of_step(f);
    assert_int_equal(f->marks, EPG_MODEL_MARKS(f->shape.layers));
    epg_model_destroy(f->model);
    make_model(f, offsetof(epg_model_options, mark)); /* an older caller's options end there */
    f->marks = 0;
    assert_int_equal(nodes_of_step(f), with - EPG_MODEL_MARKS(f->shape.layers));
    assert_int_equal(f->marks, 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(a_step_makes_them_all), T(a_layer_makes_its_own_and_the_end), T(a_failing_mark_ends_the_step),
        T(without_a_callback_nothing_is_enqueued),
    };
    if (test_device_missing())
        return 77;
    if (!mkdtemp(directory))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    return system(command) != 0 || failed;
}
