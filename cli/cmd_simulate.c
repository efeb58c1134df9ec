/* `epgraph simulate`: random programs on a device on which a seed decides every interleaving; every output is checked.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "cli.h"
#include "sim_cover.h"
#include "sim_shrink.h"

enum { KEY_SEEDS = 256, KEY_FAULT, KEY_PROGRAM, KEY_TRACE, KEY_NO_SHRINK, MOVES_SHOWN = 60, MOVE_BYTES = 160 };

typedef struct simulate_options {
    const char *name;
    uint32_t ranks, pairs;
    uint64_t first, last;
    sim_fault_kind fault;
    const char *program, *trace;
    int no_shrink;
} simulate_options;

static const struct argp_option table[] = {
    {"ranks", 'r', "N", 0, "ranks (4)", 1},
    {"pairs", 'p', "N", 0, "pairs of a dispatch and its combine that every rank runs (6)", 1},
    {"seeds", KEY_SEEDS, "A..B", 0, "the seeds, one program each (1..1000)", 1},
    {"fault", KEY_FAULT, "KIND",
     0, "what may go wrong: none, slow, stop, die, join, abandon, wrap, late, or any, a mixture of all (any)", 1},
    {"program", KEY_PROGRAM, "FILE", 0, "run the program in FILE, as a failure prints it, instead of seeds", 2},
    {"trace", KEY_TRACE, "FILE", 0, "write all moves of the failing program, or of the only one, to FILE", 2},
    {"no-shrink", KEY_NO_SHRINK, NULL, 0, "do not look for a smaller program that fails in the same way", 2},
    {NULL, 0, NULL, 0, NULL, 0}};

static void read_seeds(struct argp_state *state, const char *text, simulate_options *o)
{
    char first[32], message[256];
    const char *dots = strstr(text, "..");
    size_t length = dots ? (size_t)(dots - text) : strlen(text);
    snprintf(first, sizeof first, "%.*s", (int)(length < sizeof first ? length : sizeof first - 1), text);
    if (length >= sizeof first || cli_number(first, 0, UINT64_MAX - 1, &o->first, message, sizeof message) ||
        cli_number(dots ? dots + 2 : first, 0, UINT64_MAX - 1, &o->last, message, sizeof message))
        argp_error(state, "--seeds: \"%s\" is not A..B", text);
    if (o->last < o->first)
        argp_error(state, "--seeds: \"%s\" is empty: %" PRIu64 " is above %" PRIu64, text, o->first, o->last);
}

static sim_fault_kind read_fault(struct argp_state *state, const char *text)
{
    for (int i = 0; i < SIM_FAULT_KINDS; i++)
        if (!strcmp(sim_fault_names[i], text))
            return (sim_fault_kind)i;
    argp_error(state, "--fault: there is no fault \"%s\"", text);
    return SIM_FAULT_NONE;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    simulate_options *o = state->input;
    switch (key) {
    case 'r': o->ranks = (uint32_t)cli_option_number(state, "ranks", text, 1, SIM_RANKS); return 0;
    case 'p': o->pairs = (uint32_t)cli_option_number(state, "pairs", text, 1, SIM_PAIRS); return 0;
    case KEY_SEEDS: read_seeds(state, text, o); return 0;
    case KEY_FAULT: o->fault = read_fault(state, text); return 0;
    case KEY_PROGRAM: o->program = text; return 0;
    case KEY_TRACE: o->trace = text; return 0;
    case KEY_NO_SHRINK: o->no_shrink = 1; return 0;
    case ARGP_KEY_ARG: argp_error(state, "\"%s\" is one word too many", text); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* ---- the trace of a failure ---- */

typedef struct moves {
    FILE *file;                               /* NULL: only the last moves are kept */
    char last[MOVES_SHOWN][MOVE_BYTES];
    uint64_t count;
} moves;

static void keep_move(void *ctx, uint64_t time_ns, const char *who, const char *what)
{
    moves *m = ctx;
    char *line = m->last[m->count++ % MOVES_SHOWN];
    snprintf(line, MOVE_BYTES, "%12.1f us  %s: %s", (double)time_ns * 1e-3, who, what);
    if (m->file)
        fprintf(m->file, "%s\n", line);
}

static void print_moves(const moves *m)
{
    uint64_t shown = m->count < MOVES_SHOWN ? m->count : MOVES_SHOWN;
    printf("\nThe last %" PRIu64 " of %" PRIu64 " moves:\n", shown, m->count);
    for (uint64_t i = m->count - shown; i < m->count; i++)
        printf("  %s\n", m->last[i % MOVES_SHOWN]);
}

/* Runs a program once more and writes down its moves. */
static int trace(const simulate_options *o, const sim_program *p, int print)
{
    moves *m = calloc(1, sizeof *m);
    sim_result *result = malloc(sizeof *result);
    int code = CLI_OK;
    if (!m || !result)
        code = CLI_FAILED;
    else if (o->trace && (m->file = fopen(o->trace, "w")) == NULL) {
        fprintf(stderr, "%s: --trace %s: %s\n", o->name, o->trace, strerror(errno));
        code = CLI_BAD_INPUT;
    } else if (sim_run(p, p->shape.schedule, keep_move, m, result) == 0) {
        if (print)
            print_moves(m);
        sim_result_free(result);
    }
    if (m && m->file && fclose(m->file)) {
        fprintf(stderr, "%s: --trace %s: %s\n", o->name, o->trace, strerror(errno));
        code = CLI_FAILED;
    }
    free(result);
    free(m);
    return code;
}

/* ---- one program ---- */

static void report_failure(const simulate_options *o, sim_program *p, sim_verdict verdict, const char *text)
{
    char smaller[1024];
    snprintf(smaller, sizeof smaller, "%s", text);
    if (!o->no_shrink)
        sim_shrink(p, verdict, smaller, sizeof smaller);
    trace(o, p, 1);
    if (!o->no_shrink)
        printf("\nThe shrunk program fails so: %s\n", smaller);
    printf("\nThe program%s; written to a file, `epgraph simulate --program=FILE' runs it again:\n\n",
           o->no_shrink ? "" : " after shrinking, whose moves these are");
    sim_print(p, stdout);
}

/* CLI_OK where all was right; then it is counted in `cover`. */
static int run_program(const simulate_options *o, sim_program *p, int twice, const char *what, sim_cover *cover)
{
    sim_result *result = malloc(sizeof *result);
    sim_verdict verdict = SIM_RIGHT;
    char text[1024];
    if (!result || sim_try(p, twice, result, &verdict, text, sizeof text)) {
        fprintf(stderr, "%s: out of memory\n", o->name);
        free(result);
        return CLI_FAILED;
    }
    if (verdict == SIM_RIGHT)
        sim_cover_add(cover, p, result, sim_seen_digest(p, result));
    sim_result_free(result);
    free(result);
    if (verdict == SIM_RIGHT)
        return CLI_OK;
    printf("%s failed: %s\n", what, text);
    report_failure(o, p, verdict, text);
    return CLI_FAILED;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int run_seeds(const simulate_options *o, sim_program *p, sim_cover *cover)
{
    double start = seconds();
    int code = CLI_OK;
    printf("%u ranks, %u pairs, seeds %" PRIu64 "..%" PRIu64 ", faults: %s\n", o->ranks, o->pairs, o->first, o->last,
           sim_fault_names[o->fault]);
    for (uint64_t seed = o->first; seed <= o->last && code == CLI_OK; seed++) {
        char what[256];
        snprintf(what, sizeof what,
                 "seed %" PRIu64 " (epgraph simulate --ranks=%u --pairs=%u --seeds=%" PRIu64 " --fault=%s)", seed,
                 o->ranks, o->pairs, seed, sim_fault_names[o->fault]);
        sim_generate(seed, o->ranks, o->pairs, o->fault, p);
        code = run_program(o, p, seed % 8 == 0, what, cover);
    }
    double took = seconds() - start;
    if (code == CLI_OK) {
        sim_cover_print(cover, stdout);
        printf("speed      %.0f seeds per minute\n", (double)cover->programs * 60 / (took > 0 ? took : 1));
    }
    return code;
}

static int run_file(const simulate_options *o, sim_program *p, sim_cover *cover)
{
    char message[512];
    FILE *file = fopen(o->program, "r");
    if (!file) {
        fprintf(stderr, "%s: --program %s: %s\n", o->name, o->program, strerror(errno));
        return CLI_BAD_INPUT;
    }
    int bad = sim_read(file, p, message, sizeof message);
    fclose(file);
    if (bad) {
        fprintf(stderr, "%s: --program %s: %s\n", o->name, o->program, message);
        return CLI_BAD_INPUT;
    }
    int code = run_program(o, p, 1, o->program, cover);
    if (code == CLI_OK)
        sim_cover_print(cover, stdout);
    return code;
}

int cmd_simulate(int argc, char **argv)
{
    static const struct argp argp = {table,
                                     parse,
                                     NULL,
                                     "Runs random programs of dispatch and combine on a simulated device, where a seed "
                                     "decides every interleaving, and checks "
                                     "every output. The first failure prints its seed, its last moves and a smaller "
                                     "program that fails in the same way.",
                                     NULL,
                                     NULL,
                                     NULL};
    simulate_options o = {.name = argv[0], .ranks = 4, .pairs = 6, .first = 1, .last = 1000, .fault = SIM_FAULT_ANY};
    sim_cover cover = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    sim_program *p = malloc(sizeof *p);
    if (!p) {
        fprintf(stderr, "%s: out of memory\n", argv[0]);
        return CLI_FAILED;
    }
    int code = o.program ? run_file(&o, p, &cover) : run_seeds(&o, p, &cover);
    if (code == CLI_OK && o.trace)
        code = trace(&o, p, 0);
    free(p);
    return code;
}
