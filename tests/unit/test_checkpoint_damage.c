/* Checkpoints that lie: damaged configurations, headers, shards and tensors, each refused with a sentence that names
 * the file and the key or tensor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "support/checkpoint.h"
#include "support/ranks.h"

/* ---- config.json ---- */

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
        {"\"moe_intermediate_size\": 8", "\"moe_intermediate_size\": null", EPG_ERR_FORMAT,
         "moe_intermediate_size", "null"},
        {"\"rms_norm_eps\": ", "\"rms_norm_eps\": \"x\", \"y\": ", EPG_ERR_FORMAT, "rms_norm_eps", "\"x\""},
        {"\"norm_topk_prob\": true", "\"norm_topk_prob\": 1", EPG_ERR_FORMAT, "norm_topk_prob", "1"},
        {"\"qwen3_moe\"", "\"llama\"", EPG_ERR_UNSUPPORTED, "model_type", "llama"},
        {"\"silu\"", "\"gelu\"", EPG_ERR_UNSUPPORTED, "hidden_act", "gelu"},
        {"\"mlp_only_layers\": []", "\"mlp_only_layers\": [1]", EPG_ERR_UNSUPPORTED, "mlp_only_layers", "[1]"},
        {"\"decoder_sparse_step\": 1", "\"decoder_sparse_step\": 2", EPG_ERR_UNSUPPORTED, "decoder_sparse_step", "2"},
        {"\"hidden_size\": 16", "\"quantization_config\": {}, \"hidden_size\": 16", EPG_ERR_UNSUPPORTED,
         "config.json", "quantization_config"},
        {"\"hidden_size\": 16,", "\"hidden_size\": 16, \"hidden_size\": 16,", EPG_ERR_FORMAT, "config.json",
         "hidden_size"},
        {"}", "", EPG_ERR_FORMAT, "config.json", "not valid JSON"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        checkpoint_clear();
        checkpoint_write_small(EPG_TENSOR_F32, 0, 1);
        checkpoint_edit("config.json", cases[i].from, cases[i].to);
        checkpoint_refuse(cases[i].status, cases[i].first, cases[i].second);
    }
    checkpoint_spill("config.json", "[]", 2);
    checkpoint_refuse(EPG_ERR_FORMAT, "config.json", "an array");
    unlink(checkpoint_path("config.json"));
    checkpoint_refuse(EPG_ERR_NOT_FOUND, "config.json", checkpoint_directory());
}

static void test_config_defaults(void **state)
{
    epg_moe_shape shape = EPG_MOE_SHAPE_INIT;
    epg_checkpoint *c;
    (void)state;
    checkpoint_write_small(EPG_TENSOR_F32, 0, 1);
    checkpoint_edit("config.json", "\"norm_topk_prob\": true,", "");
    checkpoint_edit("config.json", "\"tie_word_embeddings\": false,", "");
    checkpoint_edit("config.json", "\"mlp_only_layers\": [],", "");
    assert_int_equal(epg_checkpoint_open(checkpoint_directory(), &c), EPG_OK);
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
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12, "tensor b", "inside tensor a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, "model.safetensors", "duplicate"},
    };
    (void)state;
    checkpoint_clear();
    checkpoint_write_small(EPG_TENSOR_F32, 0, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        checkpoint_craft("model.safetensors", cases[i].header, cases[i].data);
        checkpoint_refuse(EPG_ERR_FORMAT, cases[i].first, cases[i].second);
    }
    checkpoint_craft("model.safetensors", T("\"I64\"", "[1]", "[0,8]"), 8);
    checkpoint_refuse(EPG_ERR_NOT_FOUND, "model.layers.0.mlp.experts.0.gate_proj.weight", checkpoint_directory());
    checkpoint_craft("model.safetensors",
          "{\"model.layers.0.mlp.experts.0.gate_proj.weight\":"
          "{\"dtype\":\"I32\",\"shape\":[8,16],\"data_offsets\":[0,512]}}", 512);
    checkpoint_refuse(EPG_ERR_FORMAT, "experts.0.gate_proj", "I32");
}

static void test_truncation(void **state)
{
    size_t bytes;
    (void)state;
    checkpoint_clear();
    checkpoint_write_small(EPG_TENSOR_BF16, 0, 1);
    char *text = checkpoint_slurp("model.safetensors", &bytes);
    for (size_t i = 0; i < bytes; i += i < 16 ? 1 : 97) {
        checkpoint_spill("model.safetensors", text, i);
        checkpoint_refuse(EPG_ERR_FORMAT, "model.safetensors", "");
    }
    memset(text, 0xFF, 8);
    checkpoint_spill("model.safetensors", text, bytes);
    checkpoint_refuse(EPG_ERR_FORMAT, "model.safetensors", "18446744073709551615");
    free(text);
}

/* Random damage to the header: the file opens or is refused, and what opens can be read. The sanitizers watch. */
static void test_damage(void **state)
{
    static const char alphabet[] = "0123456789-.,:[]{}\"eFIU ";
    size_t bytes;
    (void)state;
    checkpoint_clear();
    checkpoint_write_small(EPG_TENSOR_BF16, 0, 1);
    char *text = checkpoint_slurp("model.safetensors", &bytes), *damaged = malloc(bytes);
    size_t header = 8 + ((unsigned char)text[0] | (size_t)(unsigned char)text[1] << 8);
    srandom(11);
    for (int i = 0; i < 1500; i++) {
        epg_checkpoint *c = NULL;
        float out[32 * 16];
        memcpy(damaged, text, bytes);
        for (long n = random() % 3; n >= 0; n--)
            damaged[(size_t)random() % (header - 8) + 8] = alphabet[(size_t)random() % (sizeof alphabet - 1)];
        checkpoint_spill("model.safetensors", damaged, bytes);
        if (epg_checkpoint_open(checkpoint_directory(), &c) == EPG_OK) {
            epg_checkpoint_read(c, "model.embed_tokens.weight", 0, 32, 16, out);
            epg_checkpoint_read(c, "lm_head.weight", 0, 32, 16, out);
        } else {
            assert_non_null(strstr(epg_message(), checkpoint_directory()));
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
    checkpoint_clear();
    checkpoint_write_small(EPG_TENSOR_F32, 4096, 1);
    unlink(checkpoint_path("model-00002-of-00005.safetensors"));
    checkpoint_refuse(EPG_ERR_NOT_FOUND, "model-00002-of-00005.safetensors", "tensor model.");
    checkpoint_write_small(EPG_TENSOR_F32, 4096, 1);
    checkpoint_edit(index, "\"model.norm.weight\":\"model-0000", "\"model.norm.weight\":\"../model-0000");
    checkpoint_refuse(EPG_ERR_FORMAT, "model.norm.weight", "../model-0000");
    checkpoint_write_small(EPG_TENSOR_F32, 4096, 1);
    checkpoint_edit(index, "model.norm.weight", "model.other.weight");
    checkpoint_refuse(EPG_ERR_FORMAT, index, "model.other.weight");
    checkpoint_write_small(EPG_TENSOR_F32, 4096, 1);
    checkpoint_edit(index, "\"model.embed_tokens.weight\":\"model-00001-of-00005.safetensors\"",
                    "\"model.embed_tokens.weight\":5");
    checkpoint_refuse(EPG_ERR_FORMAT, "model.embed_tokens.weight", "a whole number");
    checkpoint_write_small(EPG_TENSOR_F32, 4096, 1);
    checkpoint_edit(index, "weight_map", "weights");
    checkpoint_refuse(EPG_ERR_FORMAT, index, "weight_map is missing");
    unlink(checkpoint_path(index));
    checkpoint_refuse(EPG_ERR_NOT_FOUND, "model.safetensors.index.json", checkpoint_directory());
    mkdir(checkpoint_path("model.safetensors"), 0777);
    checkpoint_refuse(EPG_ERR_IO, "model.safetensors", "regular file");
    rmdir(checkpoint_path("model.safetensors"));
}

static void test_tensor_in_two_shards(void **state)
{
    size_t bytes;
    (void)state;
    checkpoint_clear();
    checkpoint_write_small(EPG_TENSOR_F32, 4096, 1);
    char *text = checkpoint_slurp("model-00001-of-00005.safetensors", &bytes);
    checkpoint_spill("extra.safetensors", text, bytes);
    free(text);
    checkpoint_edit("model.safetensors.index.json", "\"weight_map\":{",
                    "\"weight_map\":{\"again\":\"extra.safetensors\",");
    checkpoint_refuse(EPG_ERR_FORMAT, "extra.safetensors", "model.");
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
    int named = status == EPG_OK || (strstr(epg_message(), c->first) && strstr(epg_message(), c->second));
    int mine = status == c->status && named;
    /* The broken expert is rank 1's: rank 0 reads no byte of it. */
    RANK_CHECK(strstr(c->first, "experts.3") && self->rank == 0 ? status == EPG_OK : mine, "%s, wanted %s",
               epg_status_name(status), c->first);
    epg_model_destroy(model);
    RANK_OK(epg_team_barrier(self->team));
    epg_group_destroy(group);
    return 0;
}

static void load(epg_status status, const char *first, const char *second)
{
    load_case c = {NULL, status, first, second};
    assert_int_equal(epg_checkpoint_open(checkpoint_directory(), &c.checkpoint), EPG_OK);
    assert_int_equal(run_ranks(2, 20000, load_body, &c), 0);
    epg_checkpoint_close(c.checkpoint);
}

/* Zeroes one tensor of model.safetensors in place, found through the header's own words. */
static void zero_tensor(const char *name)
{
    size_t bytes;
    unsigned long begin, end;
    char *text = checkpoint_slurp("model.safetensors", &bytes), key[128];
    size_t length = (unsigned char)text[0] | (size_t)(unsigned char)text[1] << 8;
    snprintf(key, sizeof key, "\"%s\"", name);
    char *entry = strstr(text + 8, key);
    assert_non_null(entry);
    assert_int_equal(sscanf(strstr(entry, "data_offsets"), "data_offsets\":[%lu,%lu]", &begin, &end), 2);
    memset(text + 8 + length + begin, 0, end - begin);
    checkpoint_spill("model.safetensors", text, bytes);
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
    checkpoint_clear();
    checkpoint_write_small(EPG_TENSOR_F32, 0, 1);
    load(EPG_OK, "", "");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char renamed[128];
        checkpoint_write_small((epg_tensor_type)(i % 3), 0, 1);
        zero_tensor(names[i]);
        load(EPG_ERR_FORMAT, names[i], "all zero");
        checkpoint_write_small(EPG_TENSOR_F32, 0, 1);
        snprintf(renamed, sizeof renamed, "%s", names[i]);
        renamed[0] = 'X';
        checkpoint_edit("model.safetensors", names[i], renamed);
        load(EPG_ERR_NOT_FOUND, names[i], "no tensor");
    }
    checkpoint_write_small(EPG_TENSOR_F32, 0, 1);
    checkpoint_edit("model.safetensors", "mlp.gate.weight\":{\"dtype\":\"F32\",\"shape\":[4,16]",
                    "mlp.gate.weight\":{\"dtype\":\"F32\",\"shape\":[16,4]");
    load(EPG_ERR_FORMAT, "model.layers.0.mlp.gate.weight", "[16, 4]");
    checkpoint_write_small(EPG_TENSOR_F32, 0, 1);
    checkpoint_edit("model.safetensors", "mlp.gate.weight\":{\"dtype\":\"F32\"",
                    "mlp.gate.weight\":{\"dtype\":\"I32\"");
    load(EPG_ERR_FORMAT, "model.layers.0.mlp.gate.weight", "I32");
    checkpoint_write_small(EPG_TENSOR_F32, 0, 1);
    checkpoint_edit("config.json", "\"num_experts\": 4", "\"num_experts\": 8");
    load(EPG_ERR_MISMATCH, "experts is 4", "8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config), cmocka_unit_test(test_config_defaults), cmocka_unit_test(test_headers),
        cmocka_unit_test(test_truncation), cmocka_unit_test(test_damage), cmocka_unit_test(test_index),
        cmocka_unit_test(test_tensor_in_two_shards), cmocka_unit_test(test_loading),
    };
    return cmocka_run_group_tests(tests, checkpoint_set_up, checkpoint_tear_down);
}
