/* Checkpoints: written and read again in every type and sharding; files that lie, each refused with a sentence that
 * names the file and the key or tensor; failures of memory and disk. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "epgraph/epgraph.h"
#include "support/oom.h"
#include "support/ranks.h"

static char root[] = "/tmp/epgraph-checkpoint-XXXXXX";
static char directory[128];

static const char *at(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static void clear_directory(void)
{
    DIR *dir = opendir(directory);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        unlink(at(entry->d_name));
    if (dir)
        closedir(dir);
}

static int exists(const char *name) { return access(at(name), F_OK) == 0; }

static epg_moe_shape small_shape(void)
{
    epg_moe_shape s = EPG_MOE_SHAPE_INIT;
    s.layers = 2;
    s.hidden = 16;
    s.experts = 4;
    s.topk = 2;
    s.intermediate = 8;
    s.vocab = 32;
    return s;
}

static void write_checkpoint(epg_tensor_type type, uint64_t shard_bytes, uint64_t seed)
{
    epg_checkpoint_write_options options = EPG_CHECKPOINT_WRITE_OPTIONS_INIT;
    options.shape = small_shape();
    options.type = type;
    options.seed = seed;
    options.shard_bytes = shard_bytes;
    assert_int_equal(epg_checkpoint_write(directory, &options), EPG_OK);
}

static char *slurp(const char *name, size_t *bytes)
{
    FILE *file = fopen(at(name), "r");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *text = calloc(*bytes + 1, 1);
    assert_int_equal(fread(text, 1, *bytes, file), *bytes);
    fclose(file);
    return text;
}

static void spill(const char *name, const void *data, size_t bytes)
{
    FILE *file = fopen(at(name), "w");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

/* A safetensors file from a header's text and a number of data bytes, all 1. */
static void craft(const char *name, const char *header, size_t data_bytes)
{
    size_t length = strlen(header), bytes = 8 + length + data_bytes;
    unsigned char *file = malloc(bytes);
    memset(file, 1, bytes);
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)length >> 8 * i);
    memcpy(file + 8, header, length);
    spill(name, file, bytes);
    free(file);
}

/* Opening must fail with this status, and the message must hold both words. */
static void refuse(epg_status status, const char *first, const char *second)
{
    epg_checkpoint *checkpoint = NULL;
    epg_status got = epg_checkpoint_open(directory, &checkpoint);
    if (got != status || !strstr(epg_message(), first) || !strstr(epg_message(), second))
        fail_msg("got %s \"%s\", wanted %s with \"%s\" and \"%s\"", epg_status_name(got), got ? epg_message() : "",
                 epg_status_name(status), first, second);
    assert_null(checkpoint);
}

/* ---- round trip ---- */

static void check_values(const epg_checkpoint *c, const char *name, uint64_t rows, uint64_t columns, float centre, float scale)
{
    float values[32 * 16], sum = 0, squares = 0;
    uint64_t count = rows * columns;
    assert_int_equal(epg_checkpoint_read(c, name, 0, rows, columns, values), EPG_OK);
    for (uint64_t i = 0; i < count; i++) {
        assert_true(fabsf(values[i] - centre) <= 4 * scale);
        sum += values[i] - centre;
        squares += (values[i] - centre) * (values[i] - centre);
    }
    assert_true(fabsf(sum / (float)count) < 1.5f * scale);
    assert_true(squares / (float)count > 0.2f * scale * scale && squares / (float)count < 3 * scale * scale);
    float row[16];
    assert_int_equal(epg_checkpoint_read(c, name, rows - 1, 1, columns, row), EPG_OK);
    assert_memory_equal(row, values + (rows - 1) * columns, columns * sizeof(float));
}

static void check_round_trip(epg_tensor_type type)
{
    epg_checkpoint *c;
    epg_moe_shape shape = EPG_MOE_SHAPE_INIT, wanted = small_shape();
    assert_int_equal(epg_checkpoint_open(directory, &c), EPG_OK);
    assert_int_equal(epg_checkpoint_shape(c, &shape), EPG_OK);
    assert_memory_equal(&shape, &wanted, sizeof shape);
    assert_int_equal(epg_checkpoint_type(c), type);
    check_values(c, "model.embed_tokens.weight", 32, 16, 0, 1);
    check_values(c, "model.layers.1.post_attention_layernorm.weight", 1, 16, 1, 0.1f);
    check_values(c, "model.layers.0.mlp.gate.weight", 4, 16, 0, 0.25f);
    check_values(c, "model.layers.1.mlp.experts.3.up_proj.weight", 8, 16, 0, 0.25f);
    check_values(c, "model.layers.1.mlp.experts.3.down_proj.weight", 16, 8, 0, 0.36f);
    check_values(c, "model.norm.weight", 1, 16, 1, 0.1f);
    check_values(c, "lm_head.weight", 32, 16, 0, 0.25f);
    epg_checkpoint_close(c);
}

static void test_round_trip(void **state)
{
    (void)state;
    for (int type = 0; type < 3; type++) {
        clear_directory();
        write_checkpoint((epg_tensor_type)type, 0, 3);
        assert_true(exists("model.safetensors") && !exists("model.safetensors.index.json"));
        check_round_trip((epg_tensor_type)type);
        write_checkpoint((epg_tensor_type)type, 4096, 3); /* over the old one */
        assert_true(!exists("model.safetensors") && exists("model.safetensors.index.json"));
        check_round_trip((epg_tensor_type)type);
        write_checkpoint((epg_tensor_type)type, 1, 3); /* a file per tensor */
        check_round_trip((epg_tensor_type)type);
    }
}

/* The values do not depend on the sharding, and those of the narrow types are the float32 ones, rounded. */
static void test_same_values(void **state)
{
    static const char *const name = "model.layers.1.mlp.experts.2.gate_proj.weight";
    float first[128], values[128];
    (void)state;
    for (int i = 0; i < 4; i++) {
        epg_checkpoint *c;
        write_checkpoint(i == 2 ? EPG_TENSOR_BF16 : i == 3 ? EPG_TENSOR_F16 : EPG_TENSOR_F32, i == 1 ? 3000 : 0, 5);
        assert_int_equal(epg_checkpoint_open(directory, &c), EPG_OK);
        assert_int_equal(epg_checkpoint_read(c, name, 0, 8, 16, i ? values : first), EPG_OK);
        for (int j = 0; i && j < 128; j++)
            assert_true(fabsf(values[j] - first[j]) <= (i == 1 ? 0 : i == 2 ? 0x1p-8f : 0x1p-11f) * fabsf(first[j]) + (i == 3 ? 0x1p-25f : 0));
        epg_checkpoint_close(c);
    }
}

static void test_same_bytes(void **state)
{
    size_t bytes[3];
    char *text[3];
    (void)state;
    for (int i = 0; i < 3; i++) {
        write_checkpoint(EPG_TENSOR_F32, 0, i == 2 ? 10 : 9);
        text[i] = slurp("model.safetensors", &bytes[i]);
    }
    assert_int_equal(bytes[0], bytes[1]);
    assert_memory_equal(text[0], text[1], bytes[0]);
    assert_true(memcmp(text[0], text[2], bytes[0]) != 0);
    for (int i = 0; i < 3; i++)
        free(text[i]);
}

static void test_tied_head(void **state)
{
    epg_checkpoint_write_options options = EPG_CHECKPOINT_WRITE_OPTIONS_INIT;
    epg_moe_shape shape = EPG_MOE_SHAPE_INIT;
    epg_checkpoint *c;
    float row[16];
    (void)state;
    options.shape = small_shape();
    options.shape.tied_head = 1;
    options.shape.norm_topk_prob = 0;
    options.shape.norm_eps = 1e-5f;
    assert_int_equal(epg_checkpoint_write(directory, &options), EPG_OK);
    assert_int_equal(epg_checkpoint_open(directory, &c), EPG_OK);
    assert_int_equal(epg_checkpoint_shape(c, &shape), EPG_OK);
    assert_memory_equal(&shape, &options.shape, sizeof shape);
    assert_int_equal(epg_checkpoint_read(c, "lm_head.weight", 0, 1, 16, row), EPG_ERR_NOT_FOUND);
    assert_non_null(strstr(epg_message(), "lm_head.weight"));
    epg_checkpoint_close(c);
}

static void count_bytes(void *ctx, uint64_t done, uint64_t all)
{
    uint64_t *seen = ctx;
    assert_true(done > seen[0] && done <= all);
    seen[0] = done;
    seen[1] = all;
}

static void test_progress(void **state)
{
    epg_checkpoint_write_options options = EPG_CHECKPOINT_WRITE_OPTIONS_INIT;
    uint64_t seen[2] = {0, 0};
    (void)state;
    options.shape = small_shape();
    options.progress = count_bytes;
    options.progress_ctx = seen;
    assert_int_equal(epg_checkpoint_write(directory, &options), EPG_OK);
    assert_int_equal(seen[0], seen[1]);
    assert_int_equal(seen[0], 4 * (2 * 32 * 16 + 16 + 2 * (16 + 4 * 16 + 4 * 3 * 8 * 16)));
}

static void test_read_refusals(void **state)
{
    static const char *const name = "model.layers.0.mlp.gate.weight";
    epg_checkpoint *c;
    float out[128];
    (void)state;
    write_checkpoint(EPG_TENSOR_F32, 0, 1);
    assert_int_equal(epg_checkpoint_open(directory, &c), EPG_OK);
    assert_int_equal(epg_checkpoint_read(c, name, 0, 4, 15, out), EPG_ERR_FORMAT);
    assert_true(strstr(epg_message(), name) && strstr(epg_message(), "[4, 16]") && strstr(epg_message(), "15"));
    assert_int_equal(epg_checkpoint_read(c, name, 3, 2, 16, out), EPG_ERR_FORMAT);
    assert_int_equal(epg_checkpoint_read(c, name, UINT64_MAX, 2, 16, out), EPG_ERR_FORMAT);
    assert_int_equal(epg_checkpoint_read(c, name, 2, UINT64_MAX, 16, out), EPG_ERR_FORMAT);
    assert_int_equal(epg_checkpoint_read(c, "model.norm.weight", 1, 1, 16, out), EPG_ERR_FORMAT);
    assert_int_equal(epg_checkpoint_read(c, "nothing", 0, 1, 16, out), EPG_ERR_NOT_FOUND);
    assert_int_equal(epg_checkpoint_read(c, name, 0, 1, 16, NULL), EPG_ERR_INVALID);
    assert_int_equal(epg_reference_layer(c, 2, out, out, NULL), EPG_ERR_INVALID);
    epg_checkpoint_close(c);
    epg_checkpoint_close(NULL);
}

/* ---- config.json ---- */

/* Rewrites config.json with `from` replaced by `to`; both checkpoints' tensors stay. */
static void edit(const char *name, const char *from, const char *to)
{
    size_t bytes;
    char *text = slurp(name, &bytes), *found = memmem(text, bytes, from, strlen(from)), *made = malloc(bytes + strlen(to) + 1);
    if (!found)
        fail_msg("%s does not hold %s", name, from);
    size_t head = (size_t)(found - text), tail = bytes - head - strlen(from);
    memcpy(made, text, head);
    memcpy(made + head, to, strlen(to));
    memcpy(made + head + strlen(to), found + strlen(from), tail);
    spill(name, made, head + strlen(to) + tail);
    free(made);
    free(text);
}

static void test_config(void **state)
{
    static const struct { const char *from, *to; epg_status status; const char *first, *second; } cases[] = {
        {"\"hidden_size\": 16,", "", EPG_ERR_FORMAT, "config.json", "hidden_size is missing"},
        {"\"num_experts\": 4", "\"num_experts\": \"four\"", EPG_ERR_FORMAT, "num_experts", "four"},
        {"\"num_experts\": 4", "\"num_experts\": 4.5", EPG_ERR_FORMAT, "num_experts", "4.5"},
        {"\"num_experts\": 4", "\"num_experts\": -4", EPG_ERR_FORMAT, "num_experts", "-4"},
        {"\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 5", EPG_ERR_FORMAT, "num_experts_per_tok", "5"},
        {"\"vocab_size\": 32", "\"vocab_size\": 99999999999", EPG_ERR_FORMAT, "vocab_size", "99999999999"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0", EPG_ERR_FORMAT, "num_hidden_layers", "0"},
        {"\"moe_intermediate_size\": 8", "\"moe_intermediate_size\": null", EPG_ERR_FORMAT, "moe_intermediate_size", "null"},
        {"\"rms_norm_eps\": ", "\"rms_norm_eps\": \"x\", \"y\": ", EPG_ERR_FORMAT, "rms_norm_eps", "\"x\""},
        {"\"norm_topk_prob\": true", "\"norm_topk_prob\": 1", EPG_ERR_FORMAT, "norm_topk_prob", "1"},
        {"\"qwen3_moe\"", "\"llama\"", EPG_ERR_UNSUPPORTED, "model_type", "llama"},
        {"\"silu\"", "\"gelu\"", EPG_ERR_UNSUPPORTED, "hidden_act", "gelu"},
        {"\"mlp_only_layers\": []", "\"mlp_only_layers\": [1]", EPG_ERR_UNSUPPORTED, "mlp_only_layers", "[1]"},
        {"\"decoder_sparse_step\": 1", "\"decoder_sparse_step\": 2", EPG_ERR_UNSUPPORTED, "decoder_sparse_step", "2"},
        {"\"hidden_size\": 16", "\"quantization_config\": {}, \"hidden_size\": 16", EPG_ERR_UNSUPPORTED, "config.json", "quantization_config"},
        {"\"hidden_size\": 16,", "\"hidden_size\": 16, \"hidden_size\": 16,", EPG_ERR_FORMAT, "config.json", "hidden_size"},
        {"}", "", EPG_ERR_FORMAT, "config.json", "not valid JSON"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        clear_directory();
        write_checkpoint(EPG_TENSOR_F32, 0, 1);
        edit("config.json", cases[i].from, cases[i].to);
        refuse(cases[i].status, cases[i].first, cases[i].second);
    }
    spill("config.json", "[]", 2);
    refuse(EPG_ERR_FORMAT, "config.json", "an array");
    unlink(at("config.json"));
    refuse(EPG_ERR_NOT_FOUND, "config.json", directory);
}

static void test_config_defaults(void **state)
{
    epg_moe_shape shape = EPG_MOE_SHAPE_INIT;
    epg_checkpoint *c;
    (void)state;
    write_checkpoint(EPG_TENSOR_F32, 0, 1);
    edit("config.json", "\"norm_topk_prob\": true,", "");
    edit("config.json", "\"tie_word_embeddings\": false,", "");
    edit("config.json", "\"mlp_only_layers\": [],", "");
    assert_int_equal(epg_checkpoint_open(directory, &c), EPG_OK);
    assert_int_equal(epg_checkpoint_shape(c, &shape), EPG_OK);
    assert_int_equal(shape.norm_topk_prob, 0);
    assert_int_equal(shape.tied_head, 0);
    epg_checkpoint_close(c);
}

/* ---- headers ---- */

static void test_headers(void **state)
{
#define T(dtype, shape, offsets) "{\"w\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    static const struct { const char *header; size_t data; const char *first, *second; } cases[] = {
        {"{", 0, "model.safetensors", "not valid JSON"},
        {"[]", 0, "model.safetensors", "an array"},
        {"{\"w\":3}", 0, "tensor w", "a whole number"},
        {"{\"w\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor w", "no dtype"},
        {"{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "tensor w", "no shape"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor w", "no data_offsets"},
        {T("\"F33\"", "[1]", "[0,4]"), 4, "tensor w", "F33"},
        {T("7", "[1]", "[0,4]"), 4, "tensor w", "dtype is a whole number"},
        {T("\"F32\"", "{}", "[0,4]"), 4, "tensor w", "shape is an object"},
        {T("\"F32\"", "[-1]", "[0,4]"), 4, "tensor w", "-1"},
        {T("\"F32\"", "[1.0]", "[0,4]"), 4, "tensor w", "fraction"},
        {T("\"F32\"", "[\"1\"]", "[0,4]"), 4, "tensor w", "a string"},
        {T("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "tensor w", "9 dimensions"},
        {T("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, "tensor w", "64 bits"},
        {T("\"F32\"", "[4611686018427387904]", "[0,0]"), 0, "tensor w", "64 bits"},
        {T("\"F32\"", "[99999999999999999999]", "[0,0]"), 0, "model.safetensors", "integer"},
        {T("\"F32\"", "[1]", "[4]"), 4, "tensor w", "two numbers"},
        {T("\"F32\"", "[1]", "[0,4.0]"), 4, "tensor w", "data_offsets"},
        {T("\"F32\"", "[1]", "[-4,0]"), 4, "tensor w", "-4"},
        {T("\"F32\"", "[1]", "[4,0]"), 4, "tensor w", "[4, 0]"},
        {T("\"F32\"", "[1]", "[4,8]"), 4, "tensor w", "[4, 8]"},
        {T("\"F32\"", "[2]", "[0,4]"), 4, "tensor w", "need 8"},
        {T("\"F32\"", "[1]", "[4,8]"), 8, "tensor w", "ends at 0"},
        {T("\"F32\"", "[1]", "[0,4]"), 8, "model.safetensors", "byte 4 of 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12, "tensor b", "inside tensor a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, "model.safetensors", "duplicate"},
    };
    (void)state;
    clear_directory();
    write_checkpoint(EPG_TENSOR_F32, 0, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        craft("model.safetensors", cases[i].header, cases[i].data);
        refuse(EPG_ERR_FORMAT, cases[i].first, cases[i].second);
    }
    craft("model.safetensors", T("\"I64\"", "[1]", "[0,8]"), 8);
    refuse(EPG_ERR_NOT_FOUND, "model.layers.0.mlp.experts.0.gate_proj.weight", directory);
    craft("model.safetensors",
          "{\"model.layers.0.mlp.experts.0.gate_proj.weight\":{\"dtype\":\"I32\",\"shape\":[8,16],\"data_offsets\":[0,512]}}", 512);
    refuse(EPG_ERR_FORMAT, "experts.0.gate_proj", "I32");
}

static void test_truncation(void **state)
{
    size_t bytes;
    (void)state;
    clear_directory();
    write_checkpoint(EPG_TENSOR_BF16, 0, 1);
    char *text = slurp("model.safetensors", &bytes);
    for (size_t i = 0; i < bytes; i += i < 16 ? 1 : 97) {
        spill("model.safetensors", text, i);
        refuse(EPG_ERR_FORMAT, "model.safetensors", "");
    }
    memset(text, 0xFF, 8);
    spill("model.safetensors", text, bytes);
    refuse(EPG_ERR_FORMAT, "model.safetensors", "18446744073709551615");
    free(text);
}

/* Random damage to the header: the file opens or is refused, and what opens can be read. The sanitizers watch. */
static void test_damage(void **state)
{
    static const char alphabet[] = "0123456789-.,:[]{}\"eFIU ";
    size_t bytes;
    (void)state;
    clear_directory();
    write_checkpoint(EPG_TENSOR_BF16, 0, 1);
    char *text = slurp("model.safetensors", &bytes), *damaged = malloc(bytes);
    size_t header = 8 + ((unsigned char)text[0] | (size_t)(unsigned char)text[1] << 8);
    srandom(11);
    for (int i = 0; i < 1500; i++) {
        epg_checkpoint *c = NULL;
        float out[32 * 16];
        memcpy(damaged, text, bytes);
        for (long n = random() % 3; n >= 0; n--)
            damaged[(size_t)random() % (header - 8) + 8] = alphabet[(size_t)random() % (sizeof alphabet - 1)];
        spill("model.safetensors", damaged, bytes);
        if (epg_checkpoint_open(directory, &c) == EPG_OK) {
            epg_checkpoint_read(c, "model.embed_tokens.weight", 0, 32, 16, out);
            epg_checkpoint_read(c, "lm_head.weight", 0, 32, 16, out);
        } else {
            assert_non_null(strstr(epg_message(), directory));
        }
        epg_checkpoint_close(c);
    }
    free(damaged);
    free(text);
}

/* ---- shards ---- */

static void test_index(void **state)
{
    static const char *const index = "model.safetensors.index.json";
    (void)state;
    clear_directory();
    write_checkpoint(EPG_TENSOR_F32, 4096, 1);
    unlink(at("model-00002-of-00005.safetensors"));
    refuse(EPG_ERR_NOT_FOUND, "model-00002-of-00005.safetensors", "tensor model.");
    write_checkpoint(EPG_TENSOR_F32, 4096, 1);
    edit(index, "\"model.norm.weight\":\"model-0000", "\"model.norm.weight\":\"../model-0000");
    refuse(EPG_ERR_FORMAT, "model.norm.weight", "../model-0000");
    write_checkpoint(EPG_TENSOR_F32, 4096, 1);
    edit(index, "model.norm.weight", "model.other.weight");
    refuse(EPG_ERR_FORMAT, index, "model.other.weight");
    write_checkpoint(EPG_TENSOR_F32, 4096, 1);
    edit(index, "\"model.embed_tokens.weight\":\"model-00001-of-00005.safetensors\"", "\"model.embed_tokens.weight\":5");
    refuse(EPG_ERR_FORMAT, "model.embed_tokens.weight", "a whole number");
    write_checkpoint(EPG_TENSOR_F32, 4096, 1);
    edit(index, "weight_map", "weights");
    refuse(EPG_ERR_FORMAT, index, "weight_map is missing");
    unlink(at(index));
    refuse(EPG_ERR_NOT_FOUND, "model.safetensors.index.json", directory);
    mkdir(at("model.safetensors"), 0777);
    refuse(EPG_ERR_IO, "model.safetensors", "regular file");
    rmdir(at("model.safetensors"));
}

static void test_tensor_in_two_shards(void **state)
{
    size_t bytes;
    (void)state;
    clear_directory();
    write_checkpoint(EPG_TENSOR_F32, 4096, 1);
    char *text = slurp("model-00001-of-00005.safetensors", &bytes);
    spill("extra.safetensors", text, bytes);
    free(text);
    edit("model.safetensors.index.json", "\"weight_map\":{", "\"weight_map\":{\"again\":\"extra.safetensors\",");
    refuse(EPG_ERR_FORMAT, "extra.safetensors", "model.");
}

/* ---- failures of memory and disk ---- */

static void test_memory(void **state)
{
    (void)state;
    clear_directory();
    for (int sharded = 0; sharded < 2; sharded++) {
        write_checkpoint(EPG_TENSOR_F32, sharded ? 4096 : 0, 1);
        epg_status status = EPG_ERR_NO_MEMORY;
        for (long nth = 0; status != EPG_OK; nth++) {
            epg_checkpoint *c = NULL;
            oom_track_start();
            oom_fail_at(nth);
            status = epg_checkpoint_open(directory, &c);
            int delivered = oom_stop();
            if (status != EPG_OK) {
                assert_true(delivered);
                assert_int_equal(status, EPG_ERR_NO_MEMORY);
                assert_null(c);
            }
            epg_checkpoint_close(c);
            assert_int_equal(oom_tracked(), 0);
        }
    }
}

static void test_write_refusals(void **state)
{
    epg_checkpoint_write_options options = EPG_CHECKPOINT_WRITE_OPTIONS_INIT;
    (void)state;
    assert_int_equal(epg_checkpoint_write(directory, &options), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "layers is 0"));
    options.shape = small_shape();
    options.shape.topk = 5;
    assert_int_equal(epg_checkpoint_write(directory, &options), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "topk is 5"));
    options.shape.topk = 2;
    options.type = (epg_tensor_type)3;
    assert_int_equal(epg_checkpoint_write(directory, &options), EPG_ERR_INVALID);
    options.type = EPG_TENSOR_F32;
    assert_int_equal(epg_checkpoint_write("/nowhere/at/all", &options), EPG_ERR_IO);
    assert_non_null(strstr(epg_message(), "/nowhere/at/all"));
    spill("file", "x", 1);
    assert_int_equal(epg_checkpoint_write(at("file"), &options), EPG_ERR_IO);
    assert_non_null(strstr(epg_message(), "Not a directory"));
    unlink(at("file"));
}

/* A full disk, played by a limit on the size of files. */
static void test_disk_full(void **state)
{
    epg_checkpoint_write_options options = EPG_CHECKPOINT_WRITE_OPTIONS_INIT;
    struct rlimit old, low;
    (void)state;
    clear_directory();
    options.shape = small_shape();
    getrlimit(RLIMIT_FSIZE, &old);
    low = old;
    low.rlim_cur = 10000;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &low);
    epg_status status = epg_checkpoint_write(directory, &options);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(status, EPG_ERR_IO);
    assert_true(strstr(epg_message(), "model.safetensors") && strstr(epg_message(), "File too large"));
    assert_false(exists("model.safetensors") || exists("config.json"));
}

/* ---- what loading a model refuses, by name ---- */

typedef struct load_case {
    epg_checkpoint *checkpoint;
    epg_status status;
    const char *first, *second;
} load_case;

static int load_body(test_rank *self)
{
    const load_case *c = self->arg;
    epg_group_options options = EPG_GROUP_OPTIONS_INIT;
    epg_group *group;
    epg_model *model = NULL;
    options.experts = 4;
    options.hidden = 16;
    options.topk = 2;
    options.max_tokens = 4;
    RANK_OK(epg_group_create(self->team, &options, &group));
    epg_status status = epg_model_create(group, c->checkpoint, NULL, &model);
    int mine = status == c->status && (status == EPG_OK || (strstr(epg_message(), c->first) && strstr(epg_message(), c->second)));
    /* The broken expert is rank 1's: rank 0 reads no byte of it. */
    RANK_CHECK(strstr(c->first, "experts.3") && self->rank == 0 ? status == EPG_OK : mine, "%s, wanted %s", epg_status_name(status), c->first);
    epg_model_destroy(model);
    RANK_OK(epg_team_barrier(self->team));
    epg_group_destroy(group);
    return 0;
}

static void load(epg_status status, const char *first, const char *second)
{
    load_case c = {NULL, status, first, second};
    assert_int_equal(epg_checkpoint_open(directory, &c.checkpoint), EPG_OK);
    assert_int_equal(run_ranks(2, 20000, load_body, &c), 0);
    epg_checkpoint_close(c.checkpoint);
}

/* Zeroes one tensor of model.safetensors in place, found through the header's own words. */
static void zero_tensor(const char *name)
{
    size_t bytes;
    unsigned long begin, end;
    char *text = slurp("model.safetensors", &bytes), key[128];
    size_t length = (unsigned char)text[0] | (size_t)(unsigned char)text[1] << 8;
    snprintf(key, sizeof key, "\"%s\"", name);
    char *entry = strstr(text + 8, key);
    assert_non_null(entry);
    assert_int_equal(sscanf(strstr(entry, "data_offsets"), "data_offsets\":[%lu,%lu]", &begin, &end), 2);
    memset(text + 8 + length + begin, 0, end - begin);
    spill("model.safetensors", text, bytes);
    free(text);
}

static void test_loading(void **state)
{
    static const char *const names[] = {
        "model.embed_tokens.weight", "model.layers.1.post_attention_layernorm.weight", "model.layers.0.mlp.gate.weight",
        "model.layers.1.mlp.experts.3.gate_proj.weight", "model.layers.1.mlp.experts.3.up_proj.weight",
        "model.layers.0.mlp.experts.3.down_proj.weight", "model.norm.weight", "lm_head.weight",
    };
    (void)state;
    clear_directory();
    write_checkpoint(EPG_TENSOR_F32, 0, 1);
    load(EPG_OK, "", "");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char renamed[128];
        write_checkpoint((epg_tensor_type)(i % 3), 0, 1);
        zero_tensor(names[i]);
        load(EPG_ERR_FORMAT, names[i], "all zero");
        write_checkpoint(EPG_TENSOR_F32, 0, 1);
        snprintf(renamed, sizeof renamed, "%s", names[i]);
        renamed[0] = 'X';
        edit("model.safetensors", names[i], renamed);
        load(EPG_ERR_NOT_FOUND, names[i], "no tensor");
    }
    write_checkpoint(EPG_TENSOR_F32, 0, 1);
    edit("model.safetensors", "mlp.gate.weight\":{\"dtype\":\"F32\",\"shape\":[4,16]", "mlp.gate.weight\":{\"dtype\":\"F32\",\"shape\":[16,4]");
    load(EPG_ERR_FORMAT, "model.layers.0.mlp.gate.weight", "[16, 4]");
    write_checkpoint(EPG_TENSOR_F32, 0, 1);
    edit("model.safetensors", "mlp.gate.weight\":{\"dtype\":\"F32\"", "mlp.gate.weight\":{\"dtype\":\"I32\"");
    load(EPG_ERR_FORMAT, "model.layers.0.mlp.gate.weight", "I32");
    write_checkpoint(EPG_TENSOR_F32, 0, 1);
    edit("config.json", "\"num_experts\": 4", "\"num_experts\": 8");
    load(EPG_ERR_MISMATCH, "experts is 4", "8");
}

static int make_root(void **state)
{
    (void)state;
    if (!mkdtemp(root))
        return 1;
    snprintf(directory, sizeof directory, "%s/checkpoint", root); /* made by the writer */
    return 0;
}

static int remove_root(void **state)
{
    (void)state;
    clear_directory();
    return rmdir(directory) != 0 || rmdir(root) != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_same_values), cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_tied_head), cmocka_unit_test(test_progress), cmocka_unit_test(test_read_refusals),
        cmocka_unit_test(test_config), cmocka_unit_test(test_config_defaults), cmocka_unit_test(test_headers),
        cmocka_unit_test(test_truncation), cmocka_unit_test(test_damage), cmocka_unit_test(test_index), cmocka_unit_test(test_tensor_in_two_shards),
        cmocka_unit_test(test_memory), cmocka_unit_test(test_write_refusals), cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_loading),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
