/* Checkpoints: written and read again in every type and sharding; failures of memory and disk. */
#include <math.h>
#include <signal.h>
#include <setjmp.h>
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
#include "support/checkpoint.h"
#include "support/oom.h"

/* ---- round trip ---- */

static void check_values(const epg_checkpoint *c, const char *name, uint64_t rows, uint64_t columns, float centre,
                         float scale)
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
    epg_moe_shape shape = EPG_MOE_SHAPE_INIT, wanted = checkpoint_small_shape();
    assert_int_equal(epg_checkpoint_open(checkpoint_directory(), &c), EPG_OK);
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
        checkpoint_clear();
        checkpoint_write_small((epg_tensor_type)type, 0, 3);
        assert_true(checkpoint_has("model.safetensors") && !checkpoint_has("model.safetensors.index.json"));
        check_round_trip((epg_tensor_type)type);
        checkpoint_write_small((epg_tensor_type)type, 4096, 3); /* over the old one */
        assert_true(!checkpoint_has("model.safetensors") && checkpoint_has("model.safetensors.index.json"));
        check_round_trip((epg_tensor_type)type);
        checkpoint_write_small((epg_tensor_type)type, 1, 3); /* a file per tensor */
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
        epg_tensor_type type = i == 2 ? EPG_TENSOR_BF16 : i == 3 ? EPG_TENSOR_F16 : EPG_TENSOR_F32;
        checkpoint_write_small(type, i == 1 ? 3000 : 0, 5);
        assert_int_equal(epg_checkpoint_open(checkpoint_directory(), &c), EPG_OK);
        assert_int_equal(epg_checkpoint_read(c, name, 0, 8, 16, i ? values : first), EPG_OK);
        for (int j = 0; i && j < 128; j++)
            assert_true(fabsf(values[j] - first[j]) <=
                        (i == 1 ? 0 : i == 2 ? 0x1p-8f : 0x1p-11f) * fabsf(first[j]) + (i == 3 ? 0x1p-25f : 0));
        epg_checkpoint_close(c);
    }
}

static void test_same_bytes(void **state)
{
    size_t bytes[3];
    char *text[3];
    (void)state;
    for (int i = 0; i < 3; i++) {
        checkpoint_write_small(EPG_TENSOR_F32, 0, i == 2 ? 10 : 9);
        text[i] = checkpoint_slurp("model.safetensors", &bytes[i]);
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
    options.shape = checkpoint_small_shape();
    options.shape.tied_head = 1;
    options.shape.norm_topk_prob = 0;
    options.shape.norm_eps = 1e-5f;
    assert_int_equal(epg_checkpoint_write(checkpoint_directory(), &options), EPG_OK);
    assert_int_equal(epg_checkpoint_open(checkpoint_directory(), &c), EPG_OK);
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
    options.shape = checkpoint_small_shape();
    options.progress = count_bytes;
    options.progress_ctx = seen;
    assert_int_equal(epg_checkpoint_write(checkpoint_directory(), &options), EPG_OK);
    assert_int_equal(seen[0], seen[1]);
    assert_int_equal(seen[0], 4 * (2 * 32 * 16 + 16 + 2 * (16 + 4 * 16 + 4 * 3 * 8 * 16)));
}

static void test_read_refusals(void **state)
{
    static const char *const name = "model.layers.0.mlp.gate.weight";
    epg_checkpoint *c;
    float out[128];
    (void)state;
    checkpoint_write_small(EPG_TENSOR_F32, 0, 1);
    assert_int_equal(epg_checkpoint_open(checkpoint_directory(), &c), EPG_OK);
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

/* ---- failures of memory and disk ---- */

static void test_memory(void **state)
{
    (void)state;
    checkpoint_clear();
    for (int sharded = 0; sharded < 2; sharded++) {
        checkpoint_write_small(EPG_TENSOR_F32, sharded ? 4096 : 0, 1);
        epg_status status = EPG_ERR_NO_MEMORY;
        for (long nth = 0; status != EPG_OK; nth++) {
            epg_checkpoint *c = NULL;
            oom_track_start();
            oom_fail_at(nth);
            status = epg_checkpoint_open(checkpoint_directory(), &c);
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
    assert_int_equal(epg_checkpoint_write(checkpoint_directory(), &options), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "layers is 0"));
    options.shape = checkpoint_small_shape();
    options.shape.topk = 5;
    assert_int_equal(epg_checkpoint_write(checkpoint_directory(), &options), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "topk is 5"));
    options.shape.topk = 2;
    options.type = (epg_tensor_type)3;
    assert_int_equal(epg_checkpoint_write(checkpoint_directory(), &options), EPG_ERR_INVALID);
    options.type = EPG_TENSOR_F32;
    assert_int_equal(epg_checkpoint_write("/nowhere/at/all", &options), EPG_ERR_IO);
    assert_non_null(strstr(epg_message(), "/nowhere/at/all"));
    checkpoint_spill("file", "x", 1);
    assert_int_equal(epg_checkpoint_write(checkpoint_path("file"), &options), EPG_ERR_IO);
    assert_non_null(strstr(epg_message(), "Not a directory"));
    unlink(checkpoint_path("file"));
}

/* A full disk, played by a limit on the size of files. */
static void test_disk_full(void **state)
{
    epg_checkpoint_write_options options = EPG_CHECKPOINT_WRITE_OPTIONS_INIT;
    struct rlimit old, low;
    (void)state;
    checkpoint_clear();
    options.shape = checkpoint_small_shape();
    getrlimit(RLIMIT_FSIZE, &old);
    low = old;
    low.rlim_cur = 10000;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &low);
    epg_status status = epg_checkpoint_write(checkpoint_directory(), &options);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(status, EPG_ERR_IO);
    assert_true(strstr(epg_message(), "model.safetensors") && strstr(epg_message(), "File too large"));
    assert_false(checkpoint_has("model.safetensors") || checkpoint_has("config.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_same_values), cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_tied_head), cmocka_unit_test(test_progress), cmocka_unit_test(test_read_refusals),
        cmocka_unit_test(test_memory), cmocka_unit_test(test_write_refusals), cmocka_unit_test(test_disk_full),
    };
    return cmocka_run_group_tests(tests, checkpoint_set_up, checkpoint_tear_down);
}
