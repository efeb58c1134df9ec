/* `epgraph bench`: tables, JSON whose figures are consistent, pictures, and what it says of bad options. No figure is
 * compared with a time: that depends on the machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <math.h>
#include <jansson.h>
#include <cmocka.h>
#include "support/command.h"

static json_t *run_json(void **state, const char *arguments)
{
    char command[1024], text[512];
    json_error_t error;
    size_t bytes;
    snprintf(command, sizeof(command), "bench %s --rounds 3 --json @/out.json >@/table.txt", arguments);
    expect(state, command, 0, NULL); /* the table may be longer than an outcome's text */
    char *table = read_file(state, "table.txt", &bytes);
    assert_non_null(strstr(table, "a copying kernel reads and writes"));
    free(table);
    json_t *root = json_load_file(path(state, "out.json", text, sizeof(text)), 0, &error);
    if (!root)
        fail_msg("%s: %s", text, error.text);
    assert_true(json_number_value(json_object_get(root, "copy_bytes_per_second")) > 0);
    assert_int_equal(strncmp(json_string_value(json_object_get(root, "device")), "host: ", 6), 0);
    return root;
}

static double number(json_t *row, const char *key)
{
    json_t *value = json_object_get(row, key);
    if (!json_is_number(value))
        fail_msg("%s is no number", key);
    return json_number_value(value);
}

static const char *text(json_t *row, const char *key)
{
    const char *value = json_string_value(json_object_get(row, key));
    if (!value)
        fail_msg("%s is no text", key);
    return value;
}

static void expect_ordered(json_t *row, const char *key, double least)
{
    json_t *times = json_object_get(row, key);
    double low = number(times, "p10"), median = number(times, "p50"), high = number(times, "p90");
    if (!(low > least && low <= median && median <= high))
        fail_msg("%s: %g, %g, %g", key, low, median, high);
}

static void expect_times(json_t *row, const char *key) { expect_ordered(row, key, 0); }

/* Bytes of a row at the caller's, on its way, and in combine. */
static void row_sizes(json_t *row, double *input, double *wire, double *output)
{
    const char *type = text(row, "row_type");
    double hidden = number(row, "hidden");
    *output = !strcmp(type, "f32") ? 4 * hidden : 2 * hidden;
    *wire = !strcmp(type, "fp8") ? hidden + 4 : !strcmp(type, "opaque") ? hidden + 2 : *output;
    *input = !strcmp(type, "opaque") ? *wire : *output;
}

/* A token has 1 to topk destinations, or itself alone. */
static void expect_bytes(json_t *row)
{
    double input, wire, output, topk = number(row, "topk"), tokens = number(row, "tokens") * number(row, "ranks");
    double dispatch = number(row, "dispatch_bytes") / tokens, combine = number(row, "combine_bytes") / tokens;
    row_sizes(row, &input, &wire, &output);
    assert_true(dispatch >= input + wire && dispatch <= input + 3 * topk * wire);
    assert_true(combine >= (topk + 1) * output && combine <= (3 * topk + 1) * output);
}

static void expect_pair_row(json_t *row)
{
    static const char *const times[] = {"replay_us", "void_replay_us", "eager_us", "dispatch_us", "combine_us"};
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
        expect_times(row, times[i]);
    expect_bytes(row);
    double ratio = number(json_object_get(row, "replay_us"), "p50") / number(row, "floor_us");
    assert_true(number(row, "floor_us") > 0);
    assert_true(number(row, "ratio") > 0.99 * ratio && number(row, "ratio") < 1.01 * ratio);
    assert_true(number(row, "protocol_bytes") > 0 && number(row, "expert_output_bytes") > 0);
    assert_int_equal(number(row, "expert_input_bytes") > 0, strcmp(text(row, "layout"), "in-place") != 0);
}

static void test_pair(void **state)
{
    json_t *root = run_json(state, "pair --ranks 1,2 --tokens 1,5 --hidden 64 --row-type f32,bf16,fp8,opaque "
                                   "--experts 16 --topk 4 --replays 2");
    json_t *rows = json_object_get(root, "rows"), *row;
    size_t i;
    assert_string_equal(text(root, "bench"), "pair");
    assert_int_equal(json_array_size(rows), 2 * 2 * 4 * 3 * 2); /* ranks, tokens, types, layouts, modes */
    json_array_foreach(rows, i, row)
        expect_pair_row(row);
    json_decref(root);
}

/* The preset tiny, its weights as float32: in each of 3 layers each rank's router, and from 4 experts (top-4) to all
 * 16, but not more than the tokens choose. */
static void expect_weights(json_t *row)
{
    double routers = 3 * number(row, "ranks") * 16 * 64 * 4, expert = 3 * 32 * 64 * 4;
    double most = fmin(16, 4 * number(row, "tokens") * number(row, "ranks"));
    double bytes = number(row, "weight_bytes") - routers;
    assert_true(bytes >= 3 * 4 * expert && bytes <= 3 * most * expert);
    assert_true(fmod(bytes, expert) == 0 && number(row, "floor_us") > 0);
}

static void expect_step_rows(json_t *root, size_t count)
{
    static const char *const times[] = {"replay_us", "eager_us", "host_launch_us"};
    json_t *rows = json_object_get(root, "rows"), *row;
    size_t i;
    assert_string_equal(text(root, "bench"), "step");
    assert_int_equal(json_array_size(rows), count);
    json_array_foreach(rows, i, row) {
        for (size_t k = 0; k < sizeof(times) / sizeof(times[0]); k++)
            expect_times(row, times[k]);
        expect_ordered(row, "runner_adds_us", -number(json_object_get(row, "host_launch_us"), "p90"));
        expect_ordered(row, "crossed_adds_us", -number(json_object_get(row, "host_launch_us"), "p90"));
        json_t *eager = json_object_get(row, "eager_us"), *replayed = json_object_get(row, "replay_us");
        double ratio = number(eager, "p50") / number(replayed, "p50");
        assert_true(number(row, "eager_ratio") > 0.99 * ratio && number(row, "eager_ratio") < 1.01 * ratio);
        assert_true(number(row, "layers") == 3 && number(row, "nodes") >= 3 * 5);
        expect_weights(row);
    }
}

/* On a layer written for the run, of which nothing stays, and on a checkpoint. */
static void test_step(void **state)
{
    char place[512];
    setenv("TMPDIR", path(state, "tmp", place, sizeof(place)), 1);
    expect(state, "bench step", 2, "/tmp/epgraph-bench-");
    assert_int_equal(mkdir(place, 0700), 0);
    json_t *root = run_json(state, "step --ranks 1,2 --tokens 1,3 --layers 3 --replays 2 --mode ll,ht");
    expect_step_rows(root, 2 * 2 * 2);
    json_decref(root);
    assert_int_equal(rmdir(place), 0); /* it is empty */
    unsetenv("TMPDIR");
    expect(state, "model --preset tiny --type f32 @/tiny", 0, NULL);
    root = run_json(state, "step --model @/tiny --ranks 2 --tokens 2 --layers 3 --replays 2");
    expect_step_rows(root, 1);
    json_decref(root);
    expect(state, "bench step --model @/absent", 2, "absent");
    expect(state, "bench step --ranks 3", 2, "3 does not divide the model's 16 experts");
    expect(state, "bench step --preset giant", 2, "giant");
    expect(state, "bench step --layers 0", 2, "--layers: \"0\"");
    expect(state, "bench step --hidden 64", 2, "--hidden");
}

/* Both modes in turn can take less than one of each: only times themselves are above 0. */
static void test_switch(void **state)
{
    static const char *const times[] = {"ll_us", "ht_us", "both_us", "apart_us"};
    json_t *root = run_json(state, "switch --ranks 1,2 --tokens 2,4 --ht-tokens 7 --hidden 64 --layout in-place,masked "
                                   "--replays 2");
    json_t *rows = json_object_get(root, "rows"), *row;
    size_t i;
    assert_string_equal(text(root, "bench"), "switch");
    assert_int_equal(json_array_size(rows), 2 * 2 * 2);
    json_array_foreach(rows, i, row) {
        for (size_t k = 0; k < sizeof(times) / sizeof(times[0]); k++)
            expect_times(row, times[k]);
        json_t *added = json_object_get(row, "switch_us");
        assert_true(number(added, "p10") <= number(added, "p50") && number(added, "p50") <= number(added, "p90"));
        assert_true(number(row, "ht_tokens") == 7 && number(row, "floor_us") > 0);
    }
    json_decref(root);
}

static void test_capture(void **state)
{
    static const char *const times[] = {"capture_us", "instantiate_us", "upload_us", "runner_us", "after_reset_us"};
    json_t *root = run_json(state, "capture --ranks 1,2 --tokens 1,3 --hidden 64 --pairs 3 --mode ht");
    json_t *rows = json_object_get(root, "rows"), *row;
    size_t i;
    assert_string_equal(text(root, "bench"), "capture");
    assert_int_equal(json_array_size(rows), 2 * 2);
    json_array_foreach(rows, i, row) {
        for (size_t k = 0; k < sizeof(times) / sizeof(times[0]); k++)
            expect_times(row, times[k]);
        assert_true(number(row, "nodes") >= 3 * 2 && number(row, "pairs_per_graph") == 3);
        assert_true(json_is_null(json_object_get(row, "update_us"))); /* the host device cannot */
        assert_true(json_is_null(json_object_get(row, "graph_bytes")));
    }
    json_decref(root);
}

/* One line for each item, in the order of the lists. */
static void test_lists(void **state)
{
    static const double tokens[] = {4, 2, 3};
    json_t *root = run_json(state, "pair --ranks 1 --tokens 4,2,3 --hidden 16 --layout masked --mode ht --pairs 3 "
                                   "--replays 2");
    json_t *rows = json_object_get(root, "rows"), *row;
    size_t i;
    assert_int_equal(json_array_size(rows), 3);
    json_array_foreach(rows, i, row) {
        assert_true(number(row, "tokens") == tokens[i]);
        assert_string_equal(text(row, "layout"), "masked");
        assert_string_equal(text(row, "mode"), "ht");
        assert_true(number(row, "pairs_per_graph") == 3 && number(row, "rounds") == 3 && number(row, "replays") == 2);
        assert_true(number(row, "experts") == 32 && number(row, "topk") == 8);
    }
    json_decref(root);
}

/* A group has room for more tokens than are sent: more memory, as many tokens. */
static void test_max_tokens(void **state)
{
    static const char small[] = "pair --ranks 2 --tokens 3 --hidden 64 --layout contiguous --mode ll --replays 2";
    double protocol[2];
    char command[256];
    for (int i = 0; i < 2; i++) {
        snprintf(command, sizeof(command), "%s%s", small, i ? " --max-tokens 48" : "");
        json_t *root = run_json(state, command);
        json_t *row = json_array_get(json_object_get(root, "rows"), 0);
        assert_true(number(row, "tokens") == 3 && number(row, "max_tokens") == (i ? 48 : 3));
        expect_pair_row(row);
        protocol[i] = number(row, "protocol_bytes");
        json_decref(root);
    }
    assert_true(protocol[1] > 8 * protocol[0]);
    expect(state, "bench pair --tokens 3,9 --max-tokens 8", 2, "--max-tokens 8 is below the 9 tokens");
    expect(state, "bench switch --tokens 3 --ht-tokens 9 --max-tokens 8", 2, "--max-tokens 8 is below the 9 tokens");
}

static void test_table(void **state)
{
    outcome out = run(state, "bench pair --ranks 2 --tokens 3 --hidden 64 --layout contiguous --rounds 2");
    assert_int_equal(out.code, 0);
    assert_non_null(strstr(out.text, "A dispatch and its combine"));
    assert_non_null(strstr(out.text, "contiguous ll"));
    assert_non_null(strstr(out.text, "contiguous ht"));
    char *memory = strstr(out.text, "Memory of each rank");
    assert_non_null(memory);
    assert_non_null(strstr(memory, "KiB"));
    char *line = strstr(memory, "contiguous");
    assert_true(line && !strstr(line + 1, "contiguous")); /* once, whichever the mode */
}

static void test_plot(void **state)
{
    size_t bytes;
    if (system("command -v gnuplot >/dev/null 2>&1") != 0) {
        print_message("skipped: there is no gnuplot\n");
        skip();
    }
    expect(state, "bench pair --ranks 1 --tokens 1,2,4 --hidden 16 --rounds 2 --plot '@/a b\"$(x).svg'", 0, NULL);
    char *picture = read_file(state, "a b\"$(x).svg", &bytes);
    assert_non_null(strstr(picture, "<svg"));
    assert_non_null(strstr(picture, "contiguous ht")); /* in the legend */
    assert_null(strstr(picture, "bf16 "));              /* the same in all lines */
    assert_non_null(strstr(picture, "</svg>"));
    free(picture);
    outcome out = run(state, "bench pair --ranks 1 --tokens 4 --hidden 16 --rounds 2 --plot @/one.svg"); /* a single x */
    assert_int_equal(out.code, 0);
    assert_null(strstr(out.text, "Warning")); /* gnuplot's */
}

static void test_no_gnuplot(void **state)
{
    char *before = strdup(getenv("PATH"));
    assert_non_null(before);
    setenv("PATH", "/no/such/folder", 1);
    outcome out = run(state, "bench pair --plot @/none.svg");
    setenv("PATH", before, 1);
    free(before);
    assert_int_equal(out.code, 2);
    assert_non_null(strstr(out.text, "gnuplot cannot be started: No such file"));
    expect(state, "bench pair --plot @/no/such/folder/x.svg", 2, "No such file or directory");
    expect(state, "bench pair --plot @/x.png", 2, "x.png: the name must end in .svg");
}

static void test_bad_input(void **state)
{
    expect(state, "bench", 2, "it is not said what is measured");
    expect(state, "bench fast", 2, "\"fast\"");
    expect(state, "bench --help", 0, "pair");
    expect(state, "bench pair --help", 0, "--layout");
    expect(state, "bench pair extra", 2, "\"extra\"");
    expect(state, "bench pair --frob", 2, "--frob");
    expect(state, "bench pair --tokens 0", 2, "--tokens: \"0\"");
    expect(state, "bench pair --tokens 1,,2", 2, "\"\" is not a whole number");
    expect(state, "bench pair --tokens 1,x", 2, "\"x\"");
    expect(state, "bench pair --hidden 12", 2, "12 is not a multiple of 8");
    expect(state, "bench pair --layout flat", 2, "\"flat\"");
    expect(state, "bench pair --mode ll,fast", 2, "\"fast\"");
    expect(state, "bench pair --row-type int8", 2, "\"int8\"");
    expect(state, "bench pair --ranks 3 --experts 8", 2, "3 does not divide the 8 experts");
    expect(state, "bench pair --experts 4 --topk 5", 2, "--topk 5");
    expect(state, "bench pair --topk 33", 2, "\"33\"");
    expect(state, "bench pair --rounds 0", 2, "--rounds: \"0\"");
    expect(state, "bench pair --ht-tokens 3", 2, "--ht-tokens is no option of bench pair");
    expect(state, "bench switch --ht-tokens 0", 2, "--ht-tokens: \"0\"");
    expect(state, "bench switch --mode ll", 2, "--mode is no option of bench switch");
    expect(state, "bench capture --replays 2", 2, "--replays is no option of bench capture");
    expect(state, "bench pair --device gpu", 2, "gpu");
    expect(state, "bench pair --device cuda", 2, "--device cuda: ");
    setenv("EPGRAPH_TIMEOUT_MS", "soon", 1);
    expect(state, "bench pair", 2, "EPGRAPH_TIMEOUT_MS is \"soon\"");
    unsetenv("EPGRAPH_TIMEOUT_MS");
    expect(state, "bench pair --json @/no/such/out.json", 2, "no/such/out.json");
    expect(state, "bench pair --ranks 1 --tokens 1 --hidden 16 --json /dev/full", 1, "/dev/full");
}

int main(void)
{
    setenv("CUDA_VISIBLE_DEVICES", "", 1); /* the same answers where there is a GPU */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pair),       cmocka_unit_test(test_lists),      cmocka_unit_test(test_table),
        cmocka_unit_test(test_max_tokens),
        cmocka_unit_test(test_step),       cmocka_unit_test(test_switch),    cmocka_unit_test(test_capture),
        cmocka_unit_test(test_plot),       cmocka_unit_test(test_no_gnuplot), cmocka_unit_test(test_bad_input)};
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
