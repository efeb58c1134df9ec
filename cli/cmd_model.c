/* `epgraph model`: writes a random checkpoint, of a preset's shape or of one put together from options. */
#include <stdio.h>
#include <string.h>
#include "cli.h"
#include "progress.h"

enum { KEY_LAYERS = 256, KEY_HIDDEN, KEY_EXPERTS, KEY_TOPK, KEY_INTERMEDIATE, KEY_VOCAB, KEY_SEED, KEY_SHARD,
       KEY_TYPE };

typedef struct model_options {
    const char *directory;
    const epg_preset *preset;
    uint32_t layers, hidden, experts, topk, intermediate, vocab; /* 0: the preset's */
    epg_tensor_type type;
    uint64_t seed, shard_mib;
} model_options;

static const struct argp_option table[] = {
    {"preset", 'p', "NAME", 0, "the shape (tiny); `epgraph info' lists them", 1},
    {"layers", KEY_LAYERS, "N", 0, "instead of the preset's, as are the next five", 2},
    {"hidden", KEY_HIDDEN, "N", 0, "elements of a row, a multiple of 8", 2},
    {"experts", KEY_EXPERTS, "N", 0, "experts of a layer", 2},
    {"topk", KEY_TOPK, "N", 0, "experts of a token", 2},
    {"intermediate", KEY_INTERMEDIATE, "N", 0, "inner width of an expert", 2},
    {"vocab", KEY_VOCAB, "N", 0, "token ids", 2},
    {"type", KEY_TYPE, "NAME", 0, "of the tensors: f32 (default), bf16 or f16", 3},
    {"seed", KEY_SEED, "N", 0, "of the weights (1)", 3},
    {"shard-mib", KEY_SHARD, "N", 0, "most MiB per file; 0 (default): one file", 3},
    {NULL, 0, NULL, 0, NULL, 0}};

static epg_tensor_type parse_type(struct argp_state *state, const char *text)
{
    if (!strcmp(text, "f32"))
        return EPG_TENSOR_F32;
    if (!strcmp(text, "bf16"))
        return EPG_TENSOR_BF16;
    if (strcmp(text, "f16"))
        argp_error(state, "--type %s: not one of f32, bf16, f16", text);
    return EPG_TENSOR_F16;
}

static const epg_preset *parse_preset(struct argp_state *state, const char *text)
{
    const epg_preset *preset = epg_preset_find(text);
    if (!preset)
        argp_error(state, "--preset %s: there is no such preset; `epgraph info' lists them", text);
    return preset;
}

static error_t parse_shape(int key, const char *text, struct argp_state *state, model_options *options)
{
    switch (key) {
    case KEY_LAYERS: options->layers = (uint32_t)cli_option_number(state, "layers", text, 1, 1024); return 0;
    case KEY_HIDDEN: options->hidden = (uint32_t)cli_option_number(state, "hidden", text, 8, 1u << 20); return 0;
    case KEY_EXPERTS: options->experts = (uint32_t)cli_option_number(state, "experts", text, 1, 1u << 16); return 0;
    case KEY_TOPK: options->topk = (uint32_t)cli_option_number(state, "topk", text, 1, EPG_TOPK_MAX); return 0;
    case KEY_INTERMEDIATE:
        options->intermediate = (uint32_t)cli_option_number(state, "intermediate", text, 1, 1u << 20);
        return 0;
    case KEY_VOCAB: options->vocab = (uint32_t)cli_option_number(state, "vocab", text, 1, 1u << 24); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    model_options *options = state->input;
    switch (key) {
    case 'p': options->preset = parse_preset(state, text); return 0;
    case KEY_TYPE: options->type = parse_type(state, text); return 0;
    case KEY_SEED: options->seed = cli_option_number(state, "seed", text, 0, UINT64_MAX); return 0;
    case KEY_SHARD: options->shard_mib = cli_option_number(state, "shard-mib", text, 0, 1u << 20); return 0;
    case ARGP_KEY_ARG:
        if (options->directory)
            argp_error(state, "\"%s\" is a second directory", text);
        options->directory = text;
        return 0;
    case ARGP_KEY_END:
        if (!options->directory)
            argp_error(state, "no directory given");
        return 0;
    default: return parse_shape(key, text, state, options);
    }
}

static epg_moe_shape shape_of(const model_options *options)
{
    epg_moe_shape shape = options->preset->shape;
    shape.layers = options->layers ? options->layers : shape.layers;
    shape.hidden = options->hidden ? options->hidden : shape.hidden;
    shape.experts = options->experts ? options->experts : shape.experts;
    shape.topk = options->topk ? options->topk : shape.topk;
    shape.intermediate = options->intermediate ? options->intermediate : shape.intermediate;
    shape.vocab = options->vocab ? options->vocab : shape.vocab;
    return shape;
}

static void show(void *ctx, uint64_t done, uint64_t all)
{
    progress *bar = ctx;
    bar->all = all;
    atomic_store(&bar->done, done);
    progress_draw(bar);
}

int cmd_model(int argc, char **argv)
{
    static const struct argp argp = {table, parse, "DIR",
                                     "Writes a random checkpoint in the layout of Qwen3-MoE: config.json and "
                                     "safetensors.",
                                     NULL, NULL, NULL};
    model_options options = {.preset = epg_preset_find("tiny"), .type = EPG_TENSOR_F32, .seed = 1};
    argp_parse(&argp, argc, argv, 0, NULL, &options);
    if (!options.preset)
        return cli_bad_input(argv[0], "the library has no preset \"tiny\"");
    progress bar;
    epg_checkpoint_write_options write = EPG_CHECKPOINT_WRITE_OPTIONS_INIT;
    write.shape = shape_of(&options);
    write.type = options.type;
    write.seed = options.seed;
    write.shard_bytes = options.shard_mib << 20;
    write.progress = show;
    write.progress_ctx = &bar;
    progress_start(&bar, "writing", 1);
    epg_status status = epg_checkpoint_write(options.directory, &write);
    progress_finish(&bar);
    if (status)
        return cli_bad_input(argv[0], epg_message());
    printf("%s: %u layers, hidden %u, %u experts, top-%u, vocabulary %u\n", options.directory, write.shape.layers,
           write.shape.hidden, write.shape.experts, write.shape.topk, write.shape.vocab);
    return CLI_OK;
}
