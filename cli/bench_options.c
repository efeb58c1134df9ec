/* The options of `epgraph bench`. */
#include <string.h>
#include "bench_int.h"

enum {
    KEY_DEVICE = 256, KEY_TOKENS, KEY_HIDDEN, KEY_EXPERTS, KEY_TOPK, KEY_ROWS, KEY_LAYOUT, KEY_MODE, KEY_ROUNDS,
    KEY_REPLAYS, KEY_PAIRS, KEY_HT_TOKENS, KEY_MAX_TOKENS, KEY_MODEL, KEY_PRESET, KEY_LAYERS, KEY_SEED, KEY_JSON,
    KEY_PLOT
};

/* bench step has the second of these, the others have the first. */
static const struct argp_option exchange_table[] = {
    {"ht-tokens", KEY_HT_TOKENS, "N", 0, "those of switch's high-throughput pairs (as many)", 1},
    {"max-tokens", KEY_MAX_TOKENS, "N", 0, "what the group has room for (as many as are sent)", 1},
    {"hidden", KEY_HIDDEN, "LIST", 0, "elements of a row, a multiple of 8 (host: 256; cuda: 7168)", 1},
    {"row-type", KEY_ROWS, "LIST", 0, "f32, bf16, fp8, opaque (bf16)", 1},
    {"layout", KEY_LAYOUT, "LIST", 0, "in-place, contiguous, masked (all; contiguous for switch and capture)", 1},
    {"experts", KEY_EXPERTS, "N", 0, "over all ranks; a multiple of the ranks (32 on each)", 1},
    {"topk", KEY_TOPK, "N", 0, "experts of a token (8)", 1},
    {"pairs", KEY_PAIRS, "N", 0, "pairs in a graph (by the number of tokens and ranks; 48 for capture)", 1},
    {NULL, 0, NULL, 0, NULL, 0}};

static const struct argp_option model_table[] = {
    {"model", KEY_MODEL, "DIR", 0, "a checkpoint; its layers are run again and again", 1},
    {"preset", KEY_PRESET, "NAME", 0, "without --model: one layer of this shape is written for the run (host: tiny; "
                                      "cuda: qwen3-30b-a3b)", 1},
    {"layers", KEY_LAYERS, "N", 0, "layers of the step (48)", 1},
    {NULL, 0, NULL, 0, NULL, 0}};

static const struct argp_option common_table[] = {
    {NULL, 0, NULL, 0, "What runs (a list A,B,... makes a line for each):", 1},
    {"ranks", 'r', "LIST", 0, "virtual ranks (host: 2; cuda: 1)", 1},
    {"tokens", KEY_TOKENS, "LIST", 0, "tokens of each rank (host: 1,8; cuda: 1,8,32,128)", 1},
    {"mode", KEY_MODE, "LIST", 0, "ll, ht (both; ll for step and capture; not for switch)", 1},
    {NULL, 0, NULL, 0, "How it is measured:", 2},
    {"device", KEY_DEVICE, "NAME", 0, "host, or cuda (cuda:N for the Nth GPU, from 0) (host)", 2},
    {"rounds", KEY_ROUNDS, "N", 0, "times that are taken (11; cuda, pair, one rank: 51; switch: 31; step: 21)", 2},
    {"replays", KEY_REPLAYS, "N", 0, "replays in each (by the number of tokens and ranks; not for capture)", 2},
    {"seed", KEY_SEED, "N", 0, "of the routing (1)", 2},
    {NULL, 0, NULL, 0, "What comes out:", 3},
    {"json", KEY_JSON, "FILE", 0, "write the figures as JSON", 3},
    {"plot", KEY_PLOT, "FILE.svg", 0, "draw them; needs gnuplot", 3},
    {NULL, 0, NULL, 0, NULL, 0}};

static uint32_t number(struct argp_state *state, const char *option, const char *text, uint64_t least, uint64_t most)
{
    return (uint32_t)cli_option_number(state, option, text, least, most);
}

static void only_for(struct argp_state *state, int holds, const char *option)
{
    const bench_options *o = state->input;
    if (!holds)
        argp_error(state, "--%s is no option of bench %s", option, o->what->name);
}

static error_t parse_exchange(int key, char *text, struct argp_state *state)
{
    bench_options *o = state->input;
    switch (key) {
    case KEY_HIDDEN: bench_parse_numbers(state, "hidden", text, 8, 1u << 20, &o->hidden); return 0;
    case KEY_ROWS: bench_parse_row_types(state, text, &o->row_types); return 0;
    case KEY_LAYOUT: bench_parse_layouts(state, text, &o->layouts); return 0;
    case KEY_EXPERTS: o->experts = number(state, "experts", text, 1, 1u << 16); return 0;
    case KEY_TOPK: o->topk = number(state, "topk", text, 1, EPG_TOPK_MAX); return 0;
    case KEY_HT_TOKENS:
        only_for(state, o->what->switches, "ht-tokens");
        o->ht_tokens = number(state, "ht-tokens", text, 1, 1u << 20);
        return 0;
    case KEY_MAX_TOKENS: o->max_tokens = number(state, "max-tokens", text, 1, 1u << 20); return 0;
    case KEY_PAIRS: o->pairs = number(state, "pairs", text, 1, 10000); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_model(int key, char *text, struct argp_state *state)
{
    bench_options *o = state->input;
    switch (key) {
    case KEY_MODEL: o->model = text; return 0;
    case KEY_PRESET:
        o->preset = epg_preset_find(text);
        if (!o->preset)
            argp_error(state, "--preset %s: there is no such preset; `epgraph info' lists them", text);
        return 0;
    case KEY_LAYERS: o->layers = number(state, "layers", text, 1, 1024); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_common(int key, char *text, struct argp_state *state)
{
    bench_options *o = state->input;
    switch (key) {
    case 'r': bench_parse_numbers(state, "ranks", text, 1, EPG_TEAM_MAX_RANKS, &o->ranks); return 0;
    case KEY_TOKENS: bench_parse_numbers(state, "tokens", text, 1, 1u << 20, &o->tokens); return 0;
    case KEY_MODE:
        only_for(state, !o->what->switches, "mode");
        bench_parse_modes(state, text, &o->modes);
        return 0;
    case KEY_DEVICE: cli_option_device(state, text, &o->device); return 0;
    case KEY_ROUNDS: o->rounds = number(state, "rounds", text, 1, BENCH_ROUNDS_MAX); return 0;
    case KEY_REPLAYS:
        only_for(state, !o->what->replays_once, "replays");
        o->replays = number(state, "replays", text, 1, 100000);
        return 0;
    case KEY_SEED: o->seed = cli_option_number(state, "seed", text, 0, UINT64_MAX); return 0;
    case KEY_JSON: o->json = text; return 0;
    case KEY_PLOT: o->plot = text; return 0;
    case ARGP_KEY_ARG: argp_error(state, "\"%s\" is one word too many", text); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* What was not given: small on the host, what decode looks like on a GPU. */
static void set_defaults(bench_options *o)
{
    static const bench_list few = {{1, 8}, 2}, many = {{1, 8, 32, 128}, 4}, bf16 = {{EPG_BFLOAT16}, 1},
                            all_layouts = {{EPG_LAYOUT_IN_PLACE, EPG_LAYOUT_CONTIGUOUS, EPG_LAYOUT_MASKED}, 3},
                            both_modes = {{EPG_MODE_LL, EPG_MODE_HT}, 2};
    int host = o->device.kind == EPG_DEVICE_HOST;
    if (!o->ranks.count)
        o->ranks = (bench_list){{host ? 2 : 1}, 1};
    if (!o->tokens.count)
        o->tokens = host ? few : many;
    if (!o->hidden.count)
        o->hidden = (bench_list){{host ? 256 : 7168}, 1};
    if (!o->row_types.count)
        o->row_types = bf16;
    if (!o->layouts.count)
        o->layouts = all_layouts;
    if (!o->modes.count)
        o->modes = both_modes;
    if (!o->topk)
        o->topk = 8;
    if (!o->preset)
        o->preset = epg_preset_find(host ? "tiny" : "qwen3-30b-a3b");
}

/* What only the options together can break. */
static void check_together(struct argp_state *state, const bench_options *o)
{
    for (uint32_t i = 0; i < o->hidden.count; i++)
        if (o->hidden.values[i] % 8)
            argp_error(state, "--hidden: %u is not a multiple of 8", o->hidden.values[i]);
    for (uint32_t i = 0; !o->what->has_model && i < o->ranks.count; i++) {
        uint32_t ranks = o->ranks.values[i], experts = o->experts ? o->experts : 32 * ranks;
        if (experts % ranks)
            argp_error(state, "--ranks: %u does not divide the %u experts", ranks, experts);
        if (o->topk > experts)
            argp_error(state, "--topk %u is above the %u experts", o->topk, experts);
    }
    for (uint32_t i = 0; o->max_tokens && i < o->tokens.count; i++) {
        uint32_t sent = o->tokens.values[i] > o->ht_tokens ? o->tokens.values[i] : o->ht_tokens;
        if (sent > o->max_tokens)
            argp_error(state, "--max-tokens %u is below the %u tokens that are sent", o->max_tokens, sent);
    }
    size_t length = o->plot ? strlen(o->plot) : 0;
    if (o->plot && (length < 5 || strcmp(o->plot + length - 4, ".svg")))
        argp_error(state, "--plot %s: the name must end in .svg", o->plot);
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    bench_options *o = state->input;
    (void)text;
    if (key == ARGP_KEY_INIT) {
        state->child_inputs[0] = state->input;
        state->child_inputs[1] = state->input;
        return 0;
    }
    if (key != ARGP_KEY_END)
        return ARGP_ERR_UNKNOWN;
    set_defaults(o);
    check_together(state, o);
    return 0;
}

void bench_options_parse(int argc, char **argv, const bench_what *what, bench_options *options)
{
    static const struct argp exchange = {exchange_table, parse_exchange, NULL, NULL, NULL, NULL, NULL},
                             model = {model_table, parse_model, NULL, NULL, NULL, NULL, NULL},
                             common = {common_table, parse_common, NULL, NULL, NULL, NULL, NULL};
    const struct argp_child children[] = {
        {what->has_model ? &model : &exchange, 0, NULL, 0}, {&common, 0, NULL, 0}, {NULL, 0, NULL, 0}};
    const struct argp argp = {NULL, parse, NULL, what->about, children, NULL, NULL};
    *options = (bench_options){.name = argv[0], .what = what, .device = EPG_DEVICE_OPTIONS_INIT, .seed = 1};
    if (what->defaults)
        what->defaults(options);
    argp_parse(&argp, argc, argv, 0, NULL, options);
}
