/* `epgraph conform`: what a device answers to each of 75 operations during a capture, in every situation. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conform.h"

enum { KEY_DEVICE = 256, KEY_CSV, KEY_AGAINST };
/* For one row. The host device has no driver to hang, and may share its cores with much else. */
enum { PATIENCE_MS = 2000, HOST_PATIENCE_MS = 60000 };

typedef struct conform_options {
    epg_device_options device;
    const char *csv, *against; /* NULL: not given */
} conform_options;

static const struct argp_option table_of_options[] = {
    {"device", KEY_DEVICE, "NAME", 0, "which is asked: host, or cuda (cuda:N for the Nth GPU, from 0) (host)", 1},
    {"csv", KEY_CSV, "FILE", 0, "write the table to FILE; without this and --against, to standard output", 1},
    {"against", KEY_AGAINST, "FILE", 0, "print the rows that differ from FILE's, and exit with 1 if there are any", 1},
    {NULL, 0, NULL, 0, NULL, 0}};

static error_t parse(int key, char *text, struct argp_state *state)
{
    conform_options *options = state->input;
    switch (key) {
    case KEY_DEVICE: cli_option_device(state, text, &options->device); return 0;
    case KEY_CSV: options->csv = text; return 0;
    case KEY_AGAINST: options->against = text; return 0;
    case ARGP_KEY_ARG: argp_error(state, "\"%s\" is one word too many", text); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static int write_table(const char *command, const conform_table *table, FILE *file, const char *path)
{
    fprintf(file, "%s\n", CONFORM_COLUMNS);
    for (uint32_t i = 0; i < table->count; i++)
        fprintf(file, "%s,%s\n", table->lines[i].key, table->lines[i].answer);
    if (fflush(file) == 0 && !ferror(file))
        return CLI_OK;
    fprintf(stderr, "%s: %s cannot be written: %s\n", command, path, strerror(errno));
    return CLI_FAILED;
}

static int write_file(const char *command, const conform_table *table, const char *path)
{
    FILE *file = fopen(path, "w");
    if (!file) {
        fprintf(stderr, "%s: --csv %s: %s\n", command, path, strerror(errno));
        return CLI_BAD_INPUT;
    }
    int code = write_table(command, table, file, path);
    fclose(file);
    return code;
}

static int report(const char *command, const conform_options *options, const conform_table *table)
{
    int code = CLI_OK;
    if (options->csv)
        code = write_file(command, table, options->csv);
    else if (!options->against)
        code = write_table(command, table, stdout, "standard output");
    if (options->against && code == CLI_OK)
        code = conform_compare(command, table, options->against, stdout);
    return code;
}

int cmd_conform(int argc, char **argv)
{
    static const struct argp argp = {table_of_options, parse, NULL,
                                     "Asks a device what it answers to one call made during a capture: 75 calls, in "
                                     "each capture mode, on each kind of stream, from each thread.", NULL, NULL, NULL};
    conform_options options = {.device = EPG_DEVICE_OPTIONS_INIT};
    conform_table table = {0, NULL};
    argp_parse(&argp, argc, argv, 0, NULL, &options);
    table.lines = calloc(epg_conform_count(), sizeof(*table.lines));
    if (!table.lines) {
        fprintf(stderr, "%s: no memory for the table\n", argv[0]);
        return CLI_FAILED;
    }
    bool host = options.device.kind == EPG_DEVICE_HOST;
    int code = conform_ask(argv[0], &options.device, host ? HOST_PATIENCE_MS : PATIENCE_MS, &table);
    if (code == CLI_OK)
        code = report(argv[0], &options, &table);
    free(table.lines);
    return code;
}
