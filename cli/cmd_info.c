/* `epgraph info`: devices, settings, presets, and the memory that a group of a preset's shape needs. */
#include <stdio.h>
#include "cli.h"

enum { KEY_TOKENS = 256 };

typedef struct info_options {
    uint32_t ranks, tokens;
    const epg_preset *preset;   /* NULL: a line for every preset */
} info_options;

static const struct argp_option table[] = {
    {"ranks", 'r', "N", 0, "ranks of the group whose memory is shown (8)", 1},
    {"preset", 'p', "NAME", 0, "show this preset alone", 1},
    {"tokens", KEY_TOKENS, "N", 0, "most tokens that a rank sends in one pair (256)", 1},
    {NULL, 0, NULL, 0, NULL, 0}};

static error_t parse(int key, char *text, struct argp_state *state)
{
    info_options *options = state->input;
    switch (key) {
    case 'r': options->ranks = (uint32_t)cli_option_number(state, "ranks", text, 1, EPG_TEAM_MAX_RANKS); return 0;
    case KEY_TOKENS: options->tokens = (uint32_t)cli_option_number(state, "tokens", text, 1, 1u << 20); return 0;
    case 'p':
        options->preset = epg_preset_find(text);
        if (!options->preset)
            argp_error(state, "--preset %s: there is no such preset; `epgraph info' lists them", text);
        return 0;
    case ARGP_KEY_ARG: argp_error(state, "\"%s\" is one word too many", text); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static epg_status print_device(epg_device_kind kind, int ordinal)
{
    epg_device *device;
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    epg_device_info info = EPG_DEVICE_INFO_INIT;
    char memory[32];
    options.kind = kind;
    options.ordinal = ordinal;
    epg_status status = epg_device_create(&options, &device);
    if (status != EPG_OK)
        return status;
    if (epg_device_describe(device, &info) == EPG_OK)
        printf("  %s, %u units, %s of memory\n", info.name, info.units,
               cli_bytes(info.memory_bytes, memory, sizeof(memory)));
    epg_device_destroy(device);
    return EPG_OK;
}

/* A machine without a GPU is no failure; a GPU that is there and cannot be used is told with its reason. */
static int print_devices(const char *name)
{
    epg_status status;
    int ordinal = 0;
    puts("Devices");
    if (print_device(EPG_DEVICE_HOST, 0) != EPG_OK) {
        fprintf(stderr, "%s: %s\n", name, epg_message());
        return CLI_FAILED;
    }
    while ((status = print_device(EPG_DEVICE_CUDA, ordinal)) == EPG_OK)
        ordinal++;
    if (ordinal == 0 || status != EPG_ERR_INVALID) /* which says that there is no device of this number */
        printf("  cuda: %s\n", epg_message());
    return CLI_OK;
}

static void print_settings(void)
{
    printf("\nSettings (environment variables)\n  %-24s %-10s %-10s %s\n", "name", "value", "default", "meaning");
    for (size_t i = 0; i < epg_setting_count(); i++) {
        epg_setting_info info;
        if (epg_setting_get(i, &info) == EPG_OK)
            printf("  %-24s %-10s %-10s %s\n", info.name, info.value, info.default_value, info.help);
    }
}

static void print_preset(const epg_preset *preset)
{
    const epg_moe_shape *shape = &preset->shape;
    printf("  %-20s %6u %6u %7u %5u %12u %8u  %s\n", preset->name, shape->layers, shape->hidden, shape->experts,
           shape->topk, shape->intermediate, shape->vocab, preset->about);
}

/* A group carries one row type per group: float32 for the small presets of ours, bf16 for published models. */
static void print_memory(const epg_preset *preset, const info_options *options)
{
    epg_group_options group = EPG_GROUP_OPTIONS_INIT;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    char region[32], local[32], rows[32];
    group.experts = preset->shape.experts;
    group.hidden = preset->shape.hidden;
    group.topk = preset->shape.topk;
    group.max_tokens = options->tokens;
    group.row_type = preset->published ? EPG_BFLOAT16 : EPG_FLOAT32;
    group.layout = EPG_LAYOUT_CONTIGUOUS; /* in place the experts' input is in the symmetric memory */
    if (epg_group_plan_bytes(&group, options->ranks, &stats) != EPG_OK)
        printf("  %-20s %s\n", preset->name, epg_message());
    else
        printf("  %-20s %12s %12s %14s  %s\n", preset->name, cli_bytes(stats.region_bytes, region, sizeof(region)),
               cli_bytes(stats.local_bytes, local, sizeof(local)),
               cli_bytes(stats.expert_input_bytes, rows, sizeof(rows)), preset->published ? "bf16" : "float32");
}

static void print_presets(const info_options *options)
{
    printf("\nPresets (models whose names begin with a maker's have the dimensions that it published)\n"
           "  %-20s %6s %6s %7s %5s %12s %8s\n",
           "name", "layers", "hidden", "experts", "top-k", "intermediate", "vocab");
    for (size_t i = 0; i < epg_preset_count(); i++)
        if (!options->preset || options->preset == epg_preset_at(i))
            print_preset(epg_preset_at(i));
    printf("\nMemory of the exchange, per rank, for %u ranks that send up to %u tokens. Apart from the protocol's: "
           "room for\nevery row that can come to the experts, once for their input (not in place) and once for their "
           "output\n"
           "  %-20s %12s %12s %14s  %s\n",
           options->ranks, options->tokens, "name", "symmetric", "local", "experts' rows", "rows");
    for (size_t i = 0; i < epg_preset_count(); i++)
        if (!options->preset || options->preset == epg_preset_at(i))
            print_memory(epg_preset_at(i), options);
}

int cmd_info(int argc, char **argv)
{
    static const struct argp argp = {table, parse, NULL,
                                     "Shows devices, settings, presets, and the memory that a group needs.", NULL, NULL,
                                     NULL};
    info_options options = {.ranks = 8, .tokens = 256};
    argp_parse(&argp, argc, argv, 0, NULL, &options);
    int code = print_devices(argv[0]);
    print_settings();
    print_presets(&options);
    return code;
}
