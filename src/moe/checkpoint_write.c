/* Writes a random checkpoint in Hugging Face's Qwen3-MoE layout.
 *
 * Not its job: attention tensors (this library's models have none). Invariants: every tensor has its own generator,
 * seeded by the seed and the tensor's number, so that its bytes depend neither on sharding nor on the other tensors.
 * The index and config.json come last: a checkpoint cut short does not open. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/core_int.h"
#include "moe/checkpoint_int.h"
#include "core/number_int.h"

enum { CHUNK = 1 << 16 }; /* elements made at a time */

typedef struct writer {
    const epg_checkpoint_write_options *options;
    const char *directory;
    uint64_t tensors;        /* in the whole checkpoint */
    uint64_t done, all;      /* bytes of data */
    uint32_t shards;
    unsigned char *chunk;
} writer;

/* A run of tensors that make one file. */
typedef struct run {
    uint64_t first, end, bytes;
} run;

static uint32_t element_bytes(epg_tensor_type type) { return type == EPG_TENSOR_F32 ? 4 : 2; }

/* Tensor number `i` of the checkpoint: embedding, layers, final norm, head. */
static epg__weight locate(const epg_moe_shape *shape, uint64_t i, epg__weight_info *info)
{
    uint64_t per_layer = 2 + 3 * (uint64_t)shape->experts, body = per_layer * shape->layers;
    uint64_t in_layer = i ? (i - 1) % per_layer : 0;
    uint32_t layer = i ? (uint32_t)((i - 1) / per_layer) : 0, expert = 0;
    epg__weight weight;
    if (i == 0) {
        weight = EPG__WEIGHT_EMBEDDING;
    } else if (i > body) {
        weight = i == body + 1 ? EPG__WEIGHT_FINAL_NORM : EPG__WEIGHT_HEAD;
    } else if (in_layer < 2) {
        weight = in_layer ? EPG__WEIGHT_ROUTER : EPG__WEIGHT_LAYER_NORM;
    } else {
        expert = (uint32_t)((in_layer - 2) / 3);
        weight = (epg__weight)(EPG__WEIGHT_GATE + (in_layer - 2) % 3);
    }
    epg__weight_describe(shape, weight, layer, expert, info);
    return weight;
}

static uint64_t tensor_bytes(const writer *w, uint64_t i, epg__weight_info *info)
{
    locate(&w->options->shape, i, info);
    return info->rows * info->columns * element_bytes(w->options->type);
}

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Near enough N(0, 1): four 16-bit uniforms, whose sum has the variance 65536^2 / 3. No libm, so the same bits
 * everywhere. */
static float next_normal(uint64_t *state)
{
    uint64_t bits = next_random(state);
    int32_t sum = (int32_t)(bits & 0xFFFF) + (int32_t)(bits >> 16 & 0xFFFF) + (int32_t)(bits >> 32 & 0xFFFF) +
                  (int32_t)(bits >> 48);
    return (float)(sum - 131070) * (1.7320508f / 65536);
}

/* 1/sqrt(n) by Newton's method: sqrt() is exact as well, but this keeps the file free of libm. */
static float inverse_root(uint64_t n)
{
    double root = (double)n;
    for (int i = 0; i < 64; i++)
        root = 0.5 * (root + (double)n / root);
    return (float)(1 / root);
}

static void make_values(uint64_t *state, float centre, float scale, epg_tensor_type type, size_t count,
                        unsigned char *out)
{
    for (size_t i = 0; i < count; i++) {
        float value = centre + scale * next_normal(state);
        uint16_t half = type == EPG_TENSOR_BF16 ? epg__float_to_bf16(value) : epg__float_to_f16(value);
        if (type == EPG_TENSOR_F32)
            memcpy(out + i * 4, &value, 4);
        else
            memcpy(out + i * 2, &half, 2);
    }
}

static epg_status io_error(const char *path, int error)
{
    return epg__fail(EPG_ERR_IO, "%s: cannot be written: %s", path, strerror(error ? error : EIO));
}

static epg_status write_tensor(writer *w, FILE *file, const char *path, uint64_t i)
{
    epg__weight_info info;
    epg__weight weight = locate(&w->options->shape, i, &info);
    uint64_t left = info.rows * info.columns, state = w->options->seed ^ (i + 1) * 0xD1342543DE82EF95u;
    uint32_t bytes = element_bytes(w->options->type);
    float scale = weight == EPG__WEIGHT_EMBEDDING ? 1 : info.vector ? 0.1f : inverse_root(info.columns);
    next_random(&state);
    while (left) {
        size_t count = left < CHUNK ? (size_t)left : CHUNK;
        make_values(&state, info.vector ? 1 : 0, scale, w->options->type, count, w->chunk);
        errno = 0;
        if (fwrite(w->chunk, bytes, count, file) != count)
            return io_error(path, errno);
        left -= count;
        w->done += count * bytes;
        if (w->options->progress)
            w->options->progress(w->options->progress_ctx, w->done, w->all);
    }
    return EPG_OK;
}

/* The header's length and the header, padded with spaces so that the data starts at a multiple of 8. The length is
 * known once the text stands behind its place. */
static epg_status write_header(const writer *w, FILE *file, const char *path, const run *r)
{
    static const char *const types[] = {[EPG_TENSOR_F32] = "F32", [EPG_TENSOR_BF16] = "BF16", [EPG_TENSOR_F16] = "F16"};
    unsigned char length[8] = {0};
    uint64_t offset = 0;
    errno = 0;
    fwrite(length, 1, sizeof length, file);
    fprintf(file, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (uint64_t i = r->first; i < r->end; i++) {
        epg__weight_info info;
        uint64_t size = tensor_bytes(w, i, &info);
        fprintf(file, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", info.name, types[w->options->type]);
        if (!info.vector)
            fprintf(file, "%" PRIu64 ",", info.rows);
        fprintf(file, "%" PRIu64 "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", info.columns, offset, offset + size);
        offset += size;
    }
    fputc('}', file);
    long end = ftell(file);
    for (; end % 8 != 0 && end > 0; end++)
        fputc(' ', file);
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)(end - 8) >> 8 * i);
    int failed = end < 0 || fseek(file, 0, SEEK_SET) != 0 || fwrite(length, 1, sizeof length, file) != sizeof length ||
                 fseek(file, end, SEEK_SET) != 0 || ferror(file);
    return failed ? io_error(path, errno) : EPG_OK;
}

static epg_status fill_shard(writer *w, FILE *file, const char *path, const void *ctx)
{
    const run *r = ctx;
    EPG_TRY(write_header(w, file, path, r));
    for (uint64_t i = r->first; i < r->end; i++)
        EPG_TRY(write_tensor(w, file, path, i));
    return EPG_OK;
}

static epg_status fill_config(writer *w, FILE *file, const char *path, const void *ctx)
{
    static const char *const types[] = {[EPG_TENSOR_F32] = "float32", [EPG_TENSOR_BF16] = "bfloat16",
                                        [EPG_TENSOR_F16] = "float16"};
    const epg_moe_shape *s = &w->options->shape;
    (void)path;
    (void)ctx;
    fprintf(file,
            "{\n  \"architectures\": [\"Qwen3MoeForCausalLM\"],\n  \"model_type\": \"qwen3_moe\",\n"
            "  \"hidden_size\": %u,\n"
            "  \"num_hidden_layers\": %u,\n  \"num_experts\": %u,\n  \"num_experts_per_tok\": %u,\n"
            "  \"moe_intermediate_size\": %u,\n  \"vocab_size\": %u,\n  \"rms_norm_eps\": %.9g,\n"
            "  \"norm_topk_prob\": %s,\n  \"tie_word_embeddings\": %s,\n  \"hidden_act\": \"silu\",\n"
            "  \"decoder_sparse_step\": 1,\n  \"mlp_only_layers\": [],\n  \"torch_dtype\": \"%s\"\n}\n",
            s->hidden, s->layers, s->experts, s->topk, s->intermediate, s->vocab, (double)s->norm_eps,
            s->norm_topk_prob ? "true" : "false", s->tied_head ? "true" : "false", types[w->options->type]);
    return EPG_OK;
}

static void shard_name(const writer *w, uint32_t i, char *name, size_t bytes)
{
    if (w->shards == 1)
        snprintf(name, bytes, "model.safetensors");
    else
        snprintf(name, bytes, "model-%05u-of-%05u.safetensors", i + 1, w->shards);
}

/* Tensors in order, until the next one would not fit; a tensor larger than shard_bytes gets a file of its own. */
static run next_run(const writer *w, uint64_t first)
{
    epg__weight_info info;
    run r = {first, first, 0};
    while (r.end < w->tensors) {
        uint64_t bytes = tensor_bytes(w, r.end, &info), most = w->options->shard_bytes;
        if (most && r.end > first && (bytes > most || r.bytes > most - bytes))
            break;
        r.bytes += bytes;
        r.end++;
    }
    return r;
}

static epg_status fill_index(writer *w, FILE *file, const char *path, const void *ctx)
{
    const char *comma = "";
    uint64_t first = 0;
    (void)path;
    (void)ctx;
    fprintf(file, "{\"metadata\":{\"total_size\":%" PRIu64 "},\"weight_map\":{", w->all);
    for (uint32_t shard = 0; shard < w->shards; shard++) {
        run r = next_run(w, first);
        char name[64];
        shard_name(w, shard, name, sizeof name);
        for (uint64_t i = r.first; i < r.end; i++) {
            epg__weight_info info;
            locate(&w->options->shape, i, &info);
            fprintf(file, "%s\n\"%s\":\"%s\"", comma, info.name, name);
            comma = ",";
        }
        first = r.end;
    }
    fprintf(file, "}}\n");
    return EPG_OK;
}

typedef epg_status (*fill_fn)(writer *w, FILE *file, const char *path, const void *ctx);

/* Writes one file whole, or removes it. */
static epg_status write_file(writer *w, const char *name, fill_fn fill, const void *ctx)
{
    char *path = epg__path_join(w->directory, name);
    if (!path)
        return EPG_ERR_NO_MEMORY;
    FILE *file = fopen(path, "we");
    epg_status status = file ? fill(w, file, path, ctx) : io_error(path, errno);
    if (file) {
        errno = 0;
        int failed = fflush(file) != 0 || ferror(file), error = errno;
        failed |= fclose(file) != 0;
        if (failed && status == EPG_OK)
            status = io_error(path, error ? error : errno);
        if (status != EPG_OK)
            unlink(path);
    }
    free(path);
    return status;
}

/* An earlier checkpoint's config.json, single file or index would make a mixture of old and new look whole. */
static epg_status remove_old(const writer *w)
{
    static const char *const names[] = {"config.json", "model.safetensors", "model.safetensors.index.json"};
    for (size_t i = 0; i < EPG__COUNT_OF(names); i++) {
        char *path = epg__path_join(w->directory, names[i]);
        if (!path)
            return EPG_ERR_NO_MEMORY;
        int failed = unlink(path) != 0 && errno != ENOENT && errno != ENOTDIR;
        epg_status status = failed ? io_error(path, errno) : EPG_OK;
        free(path);
        EPG_TRY(status);
    }
    return EPG_OK;
}

static epg_status write_all(writer *w)
{
    uint64_t first = 0;
    char name[64];
    EPG_TRY(remove_old(w));
    for (uint32_t i = 0; i < w->shards; i++) {
        run r = next_run(w, first);
        shard_name(w, i, name, sizeof name);
        EPG_TRY(write_file(w, name, fill_shard, &r));
        first = r.end;
    }
    if (w->shards > 1)
        EPG_TRY(write_file(w, "model.safetensors.index.json", fill_index, NULL));
    return write_file(w, "config.json", fill_config, NULL);
}

static epg_status plan(writer *w)
{
    const epg_moe_shape *s = &w->options->shape;
    w->tensors = 2 + (uint64_t)s->layers * (2 + 3 * (uint64_t)s->experts) + !s->tied_head;
    for (uint64_t first = 0; first < w->tensors;) {
        run r = next_run(w, first);
        w->all += r.bytes;
        w->shards++;
        first = r.end;
    }
    if (mkdir(w->directory, 0777) != 0 && errno != EEXIST)
        return epg__fail(EPG_ERR_IO, "%s: cannot make the directory: %s", w->directory, strerror(errno));
    w->chunk = epg__zalloc(CHUNK, 4, "random weights");
    return w->chunk ? EPG_OK : EPG_ERR_NO_MEMORY;
}

epg_status epg_checkpoint_write(const char *directory, const epg_checkpoint_write_options *options)
{
    writer w = {.options = options, .directory = directory};
    if (!directory || !*directory || !options)
        return epg__fail(EPG_ERR_INVALID, "epg_checkpoint_write: %s",
                         options ? "no directory is given" : "options is NULL");
    EPG__CHECK_SIZE(options, sizeof *options);
    if ((unsigned)options->type > EPG_TENSOR_F16)
        return epg__fail(EPG_ERR_INVALID, "options->type is %d, not one of epg_tensor_type", (int)options->type);
    EPG_TRY(epg__shape_check(&options->shape));
    epg_status status = plan(&w);
    if (status == EPG_OK)
        status = write_all(&w);
    free(w.chunk);
    return status;
}
