/* The checkpoint that `epgraph bench step` runs on: one given, or one written for the run and removed after it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "bench_int.h"

/* One layer of the preset's shape: it is run again and again. Little vocabulary, for no token is embedded. */
static epg_checkpoint_write_options what_to_write(const epg_preset *preset, uint64_t seed)
{
    epg_checkpoint_write_options write = EPG_CHECKPOINT_WRITE_OPTIONS_INIT;
    write.shape = preset->shape;
    write.shape.layers = 1;
    write.shape.vocab = 64;
    write.type = EPG_TENSOR_BF16;
    write.seed = seed;
    return write;
}

static void remove_weights(const char *directory)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    char path[BENCH_PATH_MAX + 32];
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", directory, files[i]);
        unlink(path);
    }
    rmdir(directory);
}

static int make_directory(char *directory, size_t bytes, char *message, size_t message_bytes)
{
    const char *parent = getenv("TMPDIR");
    int length = snprintf(directory, bytes, "%s/epgraph-bench-XXXXXX", parent && *parent ? parent : "/tmp");
    if (length > 0 && (size_t)length < bytes && mkdtemp(directory))
        return 0;
    snprintf(message, message_bytes, "%s: %s", directory, strerror(errno));
    directory[0] = '\0';
    return -1;
}

static int write_weights(const bench_options *options, bench_weights *weights, char *message, size_t bytes)
{
    epg_checkpoint_write_options write = what_to_write(options->preset, options->seed);
    if (make_directory(weights->directory, sizeof(weights->directory), message, bytes))
        return -1;
    if (epg_checkpoint_write(weights->directory, &write) == EPG_OK)
        return 0;
    snprintf(message, bytes, "%s", epg_message());
    return -1;
}

int bench_weights_open(const bench_options *options, bench_weights *weights, char *message, size_t bytes)
{
    *weights = (bench_weights){.shape = EPG_MOE_SHAPE_INIT};
    if (!options->model && write_weights(options, weights, message, bytes))
        return -1;
    const char *directory = options->model ? options->model : weights->directory;
    if (epg_checkpoint_open(directory, &weights->checkpoint) == EPG_OK &&
        epg_checkpoint_shape(weights->checkpoint, &weights->shape) == EPG_OK)
        return 0;
    snprintf(message, bytes, "%s", epg_message());
    return -1;
}

void bench_weights_close(bench_weights *weights)
{
    epg_checkpoint_close(weights->checkpoint);
    if (weights->directory[0])
        remove_weights(weights->directory);
    *weights = (bench_weights){.directory = ""};
}
