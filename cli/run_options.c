/* The options of `epgraph run`: reading, and the limits that need no file. */
#include <string.h>
#include "cli.h"
#include "run_options.h"

#define MOST_CHUNK 65536u
#define MOST_TIMELINE_STEPS 1000000u
#define DEFAULT_TIMELINE_STEPS 200u

enum { KEY_CHECK = 256, KEY_EAGER, KEY_DEVICE, KEY_MODE, KEY_POLICY, KEY_SEED, KEY_BUCKETS, KEY_BATCH, KEY_JSON,
       KEY_CHUNK, KEY_TIMELINE, KEY_TIMELINE_STEPS };

static const struct argp_option table[] = {
    {NULL, 0, NULL, 0, "What runs:", 1},
    {"model", 'm', "DIR", 0, "the checkpoint: config.json and safetensors (`epgraph model' writes one)", 1},
    {"requests", 'n', "N", 0, "how many requests (64; with --trace, all of it)", 1},
    {"trace", 't', "FILE.csv", 0, "requests from a trace: TIMESTAMP,ContextTokens,GeneratedTokens", 1},
    {"seed", KEY_SEED, "N", 0, "of the prompts, the synthetic requests and the oracle's sample (1)", 1},
    {NULL, 0, NULL, 0, "Where and how:", 2},
    {"ranks", 'r', "N", 0, "virtual ranks; must divide the model's experts (4)", 2},
    {"device", KEY_DEVICE, "NAME", 0, "host, or cuda (cuda:N for the Nth GPU, from 0) (host)", 2},
    {"chunk", KEY_CHUNK, "N", 0, "most prompt tokens of a rank in one step (256)", 2},
    {"buckets", KEY_BUCKETS, "A,B,...", 0, "token counts for which decode is captured, ascending (1,2,4,8,16)", 2},
    {"batch", KEY_BATCH, "N", 0, "most sequences that a rank holds at once (the largest bucket)", 2},
    {"policy", KEY_POLICY, "NAME", 0, "mixed: each rank runs what it has; one-phase: none decodes while one prefills "
                                      "(mixed)", 2},
    {"mode", KEY_MODE, "NAME", 0, "ll, ht, or auto by token count (auto)", 2},
    {"eager", KEY_EAGER, NULL, 0, "no graphs: decode is launched kernel by kernel", 2},
    {NULL, 0, NULL, 0, "What comes out:", 3},
    {"check", KEY_CHECK, NULL, 0, "serve again, eagerly and one phase at a time, and compare every bit; compare a "
                                  "sample with a serial oracle", 3},
    {"json", KEY_JSON, "FILE", 0, "write the figures as JSON", 3},
    {"timeline", KEY_TIMELINE, "FILE", 0, "write what each rank and its stream did when, as Chrome trace events "
                                        "(for Perfetto)", 3},
    {"timeline-steps", KEY_TIMELINE_STEPS, "N", 0, "how many steps of it, the first ones (200)", 3},
    {NULL, 0, NULL, 0, NULL, 0}};

/* "1,2,4" into options->buckets; each above the one before. */
static void parse_buckets(struct argp_state *state, const char *text, run_options *options)
{
    char copy[4096], *rest = copy;
    if (strlen(text) >= sizeof(copy))
        argp_error(state, "--buckets: the list is longer than %zu characters", sizeof(copy) - 1);
    strcpy(copy, text);
    options->bucket_count = 0;
    while (rest) {
        char *item = strsep(&rest, ",");
        uint32_t bucket = (uint32_t)cli_option_number(state, "buckets", item, 1, MOST_CHUNK);
        uint32_t before = options->bucket_count ? options->buckets[options->bucket_count - 1] : 0;
        if (bucket <= before)
            argp_error(state, "--buckets %s: buckets must ascend, but %u follows %u", text, bucket, before);
        if (options->bucket_count == EPG_BUCKETS_MAX)
            argp_error(state, "--buckets: more than %d buckets", EPG_BUCKETS_MAX);
        options->buckets[options->bucket_count++] = bucket;
    }
}

static int parse_name(struct argp_state *state, const char *option, const char *text, const char *const *names)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(text, names[i]))
            return i;
    argp_error(state, names[2] ? "--%s %s: not one of %s, %s, %s" : "--%s %s: not one of %s, %s", option, text,
               names[0], names[1], names[2]);
    return 0;
}

static void check_together(struct argp_state *state, run_options *options)
{
    uint32_t largest = options->buckets[options->bucket_count - 1];
    if (!options->model)
        argp_error(state, "--model DIR is needed; `epgraph model DIR' writes a small one");
    if (!options->batch)
        options->batch = largest;
    if (options->batch > largest)
        argp_error(state, "--batch %u is above the largest bucket, %u", options->batch, largest);
    if (options->timeline_steps && !options->timeline)
        argp_error(state, "--timeline-steps %u is of --timeline, which is not given", options->timeline_steps);
    if (!options->timeline_steps)
        options->timeline_steps = DEFAULT_TIMELINE_STEPS;
}

static error_t parse_numbers(int key, char *text, struct argp_state *state, run_options *options)
{
    switch (key) {
    case 'n': options->requests = (uint32_t)cli_option_number(state, "requests", text, 1, 100000000); return 0;
    case 'r': options->ranks = (uint32_t)cli_option_number(state, "ranks", text, 1, EPG_TEAM_MAX_RANKS); return 0;
    case KEY_SEED: options->seed = cli_option_number(state, "seed", text, 0, UINT64_MAX); return 0;
    case KEY_CHUNK: options->chunk = (uint32_t)cli_option_number(state, "chunk", text, 1, MOST_CHUNK); return 0;
    case KEY_BATCH: options->batch = (uint32_t)cli_option_number(state, "batch", text, 1, MOST_CHUNK); return 0;
    case KEY_TIMELINE_STEPS:
        options->timeline_steps = (uint32_t)cli_option_number(state, "timeline-steps", text, 1, MOST_TIMELINE_STEPS);
        return 0;
    case KEY_BUCKETS: parse_buckets(state, text, options); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    static const char *const modes[] = {"auto", "ll", "ht", NULL}, *const policies[] = {"mixed", "one-phase", NULL};
    run_options *options = state->input;
    switch (key) {
    case 'm': options->model = text; return 0;
    case 't': options->trace = text; return 0;
    case KEY_JSON: options->json = text; return 0;
    case KEY_TIMELINE: options->timeline = text; return 0;
    case KEY_EAGER: options->eager = 1; return 0;
    case KEY_CHECK: options->check = 1; return 0;
    case KEY_MODE: options->mode = (epg_mode)parse_name(state, "mode", text, modes); return 0;
    case KEY_POLICY: options->policy = (epg_step_policy)parse_name(state, "policy", text, policies); return 0;
    case KEY_DEVICE: cli_option_device(state, text, &options->device); return 0;
    case ARGP_KEY_ARG: argp_error(state, "\"%s\" is one word too many", text); return 0;
    case ARGP_KEY_END: check_together(state, options); return 0;
    default: return parse_numbers(key, text, state, options);
    }
}

void run_options_parse(int argc, char **argv, run_options *options)
{
    static const struct argp argp = {table, parse, "--model DIR",
                                     "Serves requests through the MoE layers of a checkpoint: prompts are prefilled in "
                                     "chunks, then decoded token by token, decode steps replayed from captured graphs.",
                                     NULL, NULL, NULL};
    *options = (run_options){.ranks = 4, .chunk = 256, .seed = 1, .buckets = {1, 2, 4, 8, 16}, .bucket_count = 5,
                             .device = EPG_DEVICE_OPTIONS_INIT};
    argp_parse(&argp, argc, argv, 0, NULL, options);
}
