/* config.json of a Hugging Face Qwen3-MoE model, as a shape; and JSON files in general.
 *
 * Not its job: tensors. A key that would change what the layers compute, and that they do not implement, is refused. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "core/core_int.h"
#include "moe/checkpoint_int.h"

const char *epg__json_kind(const json_t *value)
{
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "a whole number";
    case JSON_REAL: return "a number with a fraction";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_NULL: return "null";
    }
    return "null";
}

char *epg__path_join(const char *directory, const char *name)
{
    size_t bytes = strlen(directory) + strlen(name) + 2;
    char *path = epg__zalloc(bytes, 1, "a path");
    if (path)
        snprintf(path, bytes, "%s/%s", directory, name);
    return path;
}

epg_status epg__json_read(const char *path, json_t **root)
{
    json_error_t error;
    FILE *file = fopen(path, "re");
    if (!file)
        return epg__fail(errno == ENOENT ? EPG_ERR_NOT_FOUND : EPG_ERR_IO, "%s: %s", path, strerror(errno));
    json_t *json = json_loadf(file, JSON_REJECT_DUPLICATES, &error);
    int failed = ferror(file);
    fclose(file);
    if (failed) {
        json_decref(json);
        return epg__fail(EPG_ERR_IO, "%s: cannot be read", path);
    }
    if (!json)
        return epg__fail(EPG_ERR_FORMAT, "%s: not valid JSON: %s (line %d)", path, error.text, error.line);
    if (!json_is_object(json)) {
        epg__fail(EPG_ERR_FORMAT, "%s: holds %s, not an object", path, epg__json_kind(json));
        json_decref(json);
        return EPG_ERR_FORMAT;
    }
    *root = json;
    return EPG_OK;
}

/* A value as it would be written in the file, or its kind where that is too long for a message. */
static void show(const json_t *value, char *text, size_t bytes)
{
    size_t used = json_dumpb(value, text, bytes - 1, JSON_ENCODE_ANY | JSON_COMPACT);
    if (used && used < bytes)
        text[used] = 0;
    else
        snprintf(text, bytes, "%s", epg__json_kind(value));
}

static epg_status get_size(const char *path, const json_t *root, const char *key, long long most, uint32_t *out)
{
    const json_t *value = json_object_get(root, key);
    char text[64];
    if (!value)
        return epg__fail(EPG_ERR_FORMAT, "%s: the key %s is missing", path, key);
    show(value, text, sizeof text);
    if (!json_is_integer(value))
        return epg__fail(EPG_ERR_FORMAT, "%s: %s is %s, not a whole number", path, key, text);
    if (json_integer_value(value) < 1 || json_integer_value(value) > most)
        return epg__fail(EPG_ERR_FORMAT, "%s: %s is %s, not within 1 and %lld", path, key, text, most);
    *out = (uint32_t)json_integer_value(value);
    return EPG_OK;
}

static epg_status get_flag(const char *path, const json_t *root, const char *key, uint32_t *out)
{
    const json_t *value = json_object_get(root, key);
    char text[64];
    *out = 0;
    if (!value)
        return EPG_OK;
    show(value, text, sizeof text);
    if (!json_is_boolean(value))
        return epg__fail(EPG_ERR_FORMAT, "%s: %s is %s, not true or false", path, key, text);
    *out = json_is_true(value);
    return EPG_OK;
}

static epg_status get_eps(const char *path, const json_t *root, float *out)
{
    const json_t *value = json_object_get(root, "rms_norm_eps");
    char text[64];
    if (!value)
        return epg__fail(EPG_ERR_FORMAT, "%s: the key rms_norm_eps is missing", path);
    show(value, text, sizeof text);
    if (!json_is_number(value))
        return epg__fail(EPG_ERR_FORMAT, "%s: rms_norm_eps is %s, not a number", path, text);
    if (!(json_number_value(value) > 0 && json_number_value(value) < 1))
        return epg__fail(EPG_ERR_FORMAT, "%s: rms_norm_eps is %s, not between 0 and 1", path, text);
    *out = (float)json_number_value(value);
    return EPG_OK;
}

static epg_status check_word(const char *path, const json_t *root, const char *key, const char *wanted, int required)
{
    const json_t *value = json_object_get(root, key);
    if (!value)
        return required ? epg__fail(EPG_ERR_FORMAT, "%s: the key %s is missing", path, key) : EPG_OK;
    if (!json_is_string(value))
        return epg__fail(EPG_ERR_FORMAT, "%s: %s is %s, not a string", path, key, epg__json_kind(value));
    if (strcmp(json_string_value(value), wanted) != 0)
        return epg__fail(EPG_ERR_UNSUPPORTED, "%s: %s is %s; only %s is supported", path, key, json_string_value(value),
                         wanted);
    return EPG_OK;
}

/* Dense layers among the sparse ones, and quantised weights, would be read as something they are not. */
static epg_status check_refused(const char *path, const json_t *root)
{
    const json_t *dense = json_object_get(root, "mlp_only_layers");
    const json_t *every = json_object_get(root, "decoder_sparse_step");
    const json_t *quantised = json_object_get(root, "quantization_config");
    char text[64];
    if (dense && !json_is_null(dense) && !json_is_array(dense))
        return epg__fail(EPG_ERR_FORMAT, "%s: mlp_only_layers is %s, not an array", path, epg__json_kind(dense));
    if (dense && json_array_size(dense)) {
        show(dense, text, sizeof text);
        return epg__fail(EPG_ERR_UNSUPPORTED, "%s: mlp_only_layers is %s; models with dense layers are not supported",
                         path, text);
    }
    if (every && !(json_is_integer(every) && json_integer_value(every) == 1)) {
        show(every, text, sizeof text);
        return epg__fail(json_is_integer(every) ? EPG_ERR_UNSUPPORTED : EPG_ERR_FORMAT,
                         "%s: decoder_sparse_step is %s; only 1 is supported", path, text);
    }
    if (quantised && !json_is_null(quantised))
        return epg__fail(EPG_ERR_UNSUPPORTED, "%s: quantization_config is set; quantised weights are not supported",
                         path);
    return EPG_OK;
}

static epg_status read_keys(const char *path, const json_t *root, epg_moe_shape *shape)
{
    EPG_TRY(check_word(path, root, "model_type", "qwen3_moe", 1));
    EPG_TRY(check_word(path, root, "hidden_act", "silu", 0));
    EPG_TRY(check_refused(path, root));
    EPG_TRY(get_size(path, root, "hidden_size", 1 << 20, &shape->hidden));
    EPG_TRY(get_size(path, root, "num_hidden_layers", 1 << 16, &shape->layers));
    EPG_TRY(get_size(path, root, "num_experts", 1 << 16, &shape->experts));
    EPG_TRY(get_size(path, root, "num_experts_per_tok", shape->experts, &shape->topk));
    EPG_TRY(get_size(path, root, "moe_intermediate_size", 1 << 20, &shape->intermediate));
    EPG_TRY(get_size(path, root, "vocab_size", 1 << 28, &shape->vocab));
    EPG_TRY(get_eps(path, root, &shape->norm_eps));
    EPG_TRY(get_flag(path, root, "norm_topk_prob", &shape->norm_topk_prob));
    return get_flag(path, root, "tie_word_embeddings", &shape->tied_head);
}

epg_status epg__config_read(const char *path, epg_moe_shape *shape)
{
    epg_moe_shape read = EPG_MOE_SHAPE_INIT;
    json_t *root;
    EPG_TRY(epg__json_read(path, &root));
    epg_status status = read_keys(path, root, &read);
    json_decref(root);
    if (status == EPG_OK)
        *shape = read;
    return status;
}

/* The limits are those of get_size above: what is written can be read. */
epg_status epg__shape_check(const epg_moe_shape *s)
{
    const struct { const char *name; uint32_t value, most; } fields[] = {
        {"layers", s->layers, 1 << 16}, {"hidden", s->hidden, 1 << 20}, {"experts", s->experts, 1 << 16},
        {"topk", s->topk, s->experts}, {"intermediate", s->intermediate, 1 << 20}, {"vocab", s->vocab, 1 << 28},
    };
    for (size_t i = 0; i < EPG__COUNT_OF(fields); i++)
        if (fields[i].value < 1 || fields[i].value > fields[i].most)
            return epg__fail(EPG_ERR_INVALID, "shape.%s is %u, not within 1 and %u", fields[i].name, fields[i].value,
                             fields[i].most);
    if (s->norm_topk_prob > 1 || s->tied_head > 1)
        return epg__fail(EPG_ERR_INVALID, "shape.norm_topk_prob is %u and shape.tied_head %u; each is 0 or 1",
                         s->norm_topk_prob, s->tied_head);
    if (!(s->norm_eps > 0 && s->norm_eps < 1))
        return epg__fail(EPG_ERR_INVALID, "shape.norm_eps is %g, not between 0 and 1", (double)s->norm_eps);
    return EPG_OK;
}
