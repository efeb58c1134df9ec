/* The command, as a user calls it: exit code, what it says on stderr, and the figures of a run. Bad input is made here,
 * by writing a good checkpoint and damaging it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <jansson.h>
#include <cmocka.h>
#include "support/command.h"

#define AZURE_TRACE "../shared/data/AzureLLMInferenceTrace_code.csv"

/* A good checkpoint in NAME, for a test to damage. */
static void write_model(void **state, const char *name)
{
    char arguments[256];
    snprintf(arguments, sizeof(arguments), "model --preset tiny @/%s", name);
    expect(state, arguments, 0, NULL);
}

/* Changes the first `from` in a file to `to`, of the same length where the file is a safetensors one. */
static void replace(void **state, const char *name, const char *from, const char *to)
{
    size_t bytes, before, length = strlen(from);
    char *content = read_file(state, name, &bytes), *at = memmem(content, bytes, from, length);
    if (!at)
        fail_msg("%s does not hold %s", name, from);
    before = (size_t)(at - content);
    char *changed = malloc(bytes + strlen(to));
    memcpy(changed, content, before);
    memcpy(changed + before, to, strlen(to));
    memcpy(changed + before + strlen(to), at + length, bytes - before - length);
    write_file(state, name, changed, bytes - length + strlen(to));
    free(changed);
    free(content);
}

static void test_usage(void **state)
{
    expect(state, "", 2, "no command given");
    expect(state, "fly", 2, "\"fly\"");
    expect(state, "--frob", 2, "--frob");
    expect(state, "--help", 0, "model");
    expect(state, "--version", 0, "epgraph 0.1.0");
    expect(state, "run --help", 0, "--buckets");
    expect(state, "run --version", 0, "epgraph 0.1.0");
    expect(state, "info --help", 0, "--ranks");
    expect(state, "model --help", 0, "--preset");
    expect(state, "run --frob", 2, "--frob");
    expect(state, "run", 2, "--model");
    expect(state, "model", 2, "no directory");
    expect(state, "model --preset giant @/x", 2, "giant");
    expect(state, "model --type f8 @/x", 2, "f8");
    expect(state, "model @/no/such/parent", 2, "no/such/parent");
    expect(state, "info extra", 2, "extra");
}

static void test_values(void **state)
{
    expect(state, "run --model @/good --requests 0", 2, "--requests: \"0\"");
    expect(state, "run --model @/good --requests 12x", 2, "\"12x\"");
    expect(state, "run --model @/good --requests -3", 2, "\"-3\"");
    expect(state, "run --model @/good --ranks four", 2, "--ranks: \"four\"");
    expect(state, "run --model @/good --ranks 99999999999999999999999", 2, "99999999999999999999999");
    expect(state, "run --model @/good --buckets 1,8,4", 2, "4 follows 8");
    expect(state, "run --model @/good --buckets 4,4", 2, "4 follows 4");
    expect(state, "run --model @/good --buckets 1,,4", 2, "\"\" is not a whole number");
    expect(state, "run --model @/good --buckets 0,1", 2, "\"0\"");
    expect(state, "run --model @/good --buckets 1,2 --batch 3", 2, "--batch 3");
    expect(state, "run --model @/good --chunk 0", 2, "--chunk: \"0\"");
    expect(state, "run --model @/good --mode fast", 2, "fast");
    expect(state, "run --model @/good --policy both", 2, "both");
    expect(state, "run --model @/good --device tpu", 2, "tpu");
    expect(state, "run --model @/good --device cuda:x", 2, "\"x\"");
    expect(state, "run --model @/good --device cuda", 2, "--device cuda: ");
    expect(state, "run --model @/good extra", 2, "extra");
    expect(state, "run --model @/good --ranks 3", 2, "--ranks 3");
}

static void test_files(void **state)
{
    static const char trace[] = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,20,3\n"
                                "2023-11-16 18:17:04.0319600,lots,3\n";
    write_file(state, "bad.csv", trace, sizeof(trace) - 1);
    expect(state, "run --model @/absent", 2, "absent");
    expect(state, "run --model @/good --trace @/absent.csv", 2, "absent.csv: No such file");
    expect(state, "run --model @/good --trace @", 2, "Is a directory");
    expect(state, "run --model @/good --trace @/bad.csv", 2, "bad.csv:3: ContextTokens \"lots\"");
    expect(state, "run --model @/good --trace @/bad.csv --requests 1", 0, "Steps");
    expect(state, "run --model @/good --json @/no/such/out.json", 2, "no/such/out.json");
    expect(state, "run --model @/good --requests 2 --json /dev/full", 1, "/dev/full");
}

static void test_damaged_config(void **state)
{
    write_model(state, "nokey");
    replace(state, "nokey/config.json", "\"num_experts_per_tok\"", "\"num_experts_per_tik\"");
    expect(state, "run --model @/nokey", 2, "num_experts_per_tok");
    write_model(state, "word");
    replace(state, "word/config.json", "\"hidden_size\": ", "\"hidden_size\": \"wide\", \"was\": ");
    expect(state, "run --model @/word", 2, "hidden_size");
}

/* Gives tensor `to` the place in the file that tensor `from` has; both places must have as many digits. */
static void share_place(void **state, const char *name, const char *from, const char *to)
{
    static const char key[] = "\"data_offsets\":[";
    size_t bytes;
    char *content = read_file(state, name, &bytes);
    char *source = memmem(content, bytes, from, strlen(from)), *target = memmem(content, bytes, to, strlen(to));
    assert_true(source && target);
    source = strstr(source, key);
    target = strstr(target, key);
    assert_true(source && target);
    size_t length = strcspn(source, "]");
    assert_int_equal(length, strcspn(target, "]"));
    memcpy(target, source, length);
    write_file(state, name, content, bytes);
    free(content);
}

/* Damages to the one safetensors file of a checkpoint. */
static void test_damaged_tensors(void **state)
{
    size_t bytes;
    write_model(state, "short");
    char *content = read_file(state, "short/model.safetensors", &bytes);
    write_file(state, "short/model.safetensors", content, bytes / 2);
    expect(state, "run --model @/short", 2, "model.safetensors");
    write_file(state, "short/model.safetensors", content, 5);
    expect(state, "run --model @/short", 2, "model.safetensors");
    memset(content, 0xff, 8);
    write_file(state, "short/model.safetensors", content, bytes);
    expect(state, "run --model @/short", 2, "model.safetensors");
    free(content);
    write_model(state, "lies");
    replace(state, "lies/model.safetensors", "\"data_offsets\":[0,", "\"data_offsets\":[8,");
    expect(state, "run --model @/lies", 2, "model.safetensors");
    write_model(state, "overlap");
    share_place(state, "overlap/model.safetensors", "layers.0.mlp.experts.10.gate_proj",
                "layers.0.mlp.experts.11.gate_proj");
    expect(state, "run --model @/overlap", 2, "overlap");
}

static void test_settings(void **state)
{
    setenv("EPGRAPH_TIMEOUT_MS", "soon", 1);
    expect(state, "run --model @/good", 2, "EPGRAPH_TIMEOUT_MS is \"soon\"");
    unsetenv("EPGRAPH_TIMEOUT_MS");
}

static json_t *run_json(void **state, const char *arguments)
{
    char command[1024], text[512];
    json_error_t error;
    snprintf(command, sizeof(command), "%s --json @/out.json", arguments);
    expect(state, command, 0, NULL);
    json_t *root = json_load_file(path(state, "out.json", text, sizeof(text)), 0, &error);
    if (!root)
        fail_msg("%s: %s", text, error.text);
    return root;
}

static json_int_t number(json_t *root, const char *object, const char *key)
{
    json_t *value = json_object_get(json_object_get(root, object), key);
    if (!json_is_integer(value))
        fail_msg("%s.%s is not a number", object, key);
    return json_integer_value(value);
}

static void expect_checked(json_t *root)
{
    json_t *check = json_object_get(root, "check");
    assert_true(json_is_true(json_object_get(check, "replay_equals_eager")));
    assert_true(json_is_true(json_object_get(check, "mixed_equals_eager")));
    assert_true(json_real_value(json_object_get(check, "oracle_max_rel_err")) < 1e-5);
    assert_int_equal(number(root, "switch", "cleans"), 0);
    assert_int_equal(number(root, "switch", "barriers"), 0);
    assert_int_equal(number(root, "graph", "eager"), 0);
    assert_true(number(root, "graph", "replays") > 0);
    assert_true(number(root, "steps", "mixed") > 0);
    assert_int_equal(number(root, "steps", "total"),
                     number(root, "steps", "mixed") + number(root, "steps", "decode_only") +
                         number(root, "steps", "prefill_only"));
}

static void test_checked_run(void **state)
{
    json_t *root = run_json(state, "run --model @/good --ranks 4 --requests 16 --check");
    expect_checked(root);
    static const char *const keys[] = {"device", "team", "ranks", "model", "requests", "tokens", "steps", "graph",
                                       "switch", "step_us", "tokens_digest", "states_digest", "check"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        assert_non_null(json_object_get(root, keys[i]));
    assert_int_equal(json_object_size(root), sizeof(keys) / sizeof(keys[0]));
    assert_int_equal(json_integer_value(json_object_get(root, "requests")), 16);
    json_decref(root);
}

/* One seed gives the same digests, whatever the mode, buckets, policy and chunk; another seed gives others. */
static void test_digests(void **state)
{
    static const char *const runs[] = {"",
                                       "--mode ll",
                                       "--mode ht",
                                       "--buckets 1,3,5",
                                       "--buckets 2 --policy one-phase",
                                       "--eager",
                                       "--chunk 17 --batch 3",
                                       "--seed 2"};
    char first[2][32] = {"", ""};
    for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
        char arguments[256];
        snprintf(arguments, sizeof(arguments), "run --model @/good --ranks 2 --requests 8 %s", runs[i]);
        json_t *root = run_json(state, arguments);
        static const char *const names[] = {"states_digest", "tokens_digest"};
        for (int k = 0; k < 2; k++) {
            const char *digest = json_string_value(json_object_get(root, names[k]));
            assert_non_null(digest);
            int same = !strcmp(first[k], digest);
            if (i && same == (i + 1 == sizeof(runs) / sizeof(runs[0])))
                fail_msg("%s: %s is %s, and %s in the first run", arguments, names[k], digest, first[k]);
            if (!i)
                snprintf(first[k], sizeof(first[k]), "%s", digest);
        }
        json_decref(root);
    }
}

static void test_types(void **state)
{
    expect(state, "model --preset tiny --type bf16 --seed 3 --shard-mib 1 @/bf16", 0, NULL);
    expect(state, "run --model @/bf16 --ranks 2 --requests 8 --check", 0, "bf16");
    expect(state, "model --preset tiny --type f16 @/f16", 0, NULL);
    expect(state, "run --model @/f16 --ranks 2 --requests 4 --check", 0, "bf16");
}

static void test_azure_trace(void **state)
{
    if (access(AZURE_TRACE, R_OK)) {
        print_message("skipped: %s is not here\n", AZURE_TRACE);
        skip();
    }
    json_t *root = run_json(state, "run --model @/good --ranks 4 --requests 20 --check --trace " AZURE_TRACE);
    expect_checked(root);
    json_decref(root);
}

static void test_info(void **state)
{
    expect(state, "info", 0, "EPGRAPH_TIMEOUT_MS");
    expect(state, "info --preset tiny --ranks 2 --tokens 64", 0, "tiny");
}

static int set_up(void **state)
{
    if (make_directory(state))
        return -1;
    outcome out = run(state, "model --preset tiny @/good");
    if (out.code)
        print_error("%s\n", out.text);
    return out.code;
}

int main(void)
{
    setenv("CUDA_VISIBLE_DEVICES", "", 1); /* the same answers where there is a GPU */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usage),           cmocka_unit_test(test_values),  cmocka_unit_test(test_files),
        cmocka_unit_test(test_damaged_config),  cmocka_unit_test(test_damaged_tensors),
        cmocka_unit_test(test_checked_run),     cmocka_unit_test(test_digests), cmocka_unit_test(test_types),
        cmocka_unit_test(test_azure_trace),     cmocka_unit_test(test_info),    cmocka_unit_test(test_settings)};
    return cmocka_run_group_tests(tests, set_up, remove_directory);
}
