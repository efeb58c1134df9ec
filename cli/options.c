/* Reading the first word and numbers from options and files, and the small texts that every subcommand prints. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cli.h"

typedef struct first_word {
    const char *missing;
    int index;
} first_word;

static error_t parse_first_word(int key, char *argument, struct argp_state *state)
{
    first_word *found = state->input;
    (void)argument;
    if (key == ARGP_KEY_ARG) {
        found->index = state->next - 1;
        state->next = state->argc;
        return 0;
    }
    if (key == ARGP_KEY_NO_ARGS)
        argp_error(state, "%s", found->missing);
    return ARGP_ERR_UNKNOWN;
}

int cli_first_word(int argc, char **argv, const char *usage, const char *doc, const char *missing)
{
    const struct argp argp = {NULL, parse_first_word, usage, doc, NULL, NULL, NULL};
    first_word found = {missing, 0};
    argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &found);
    return found.index;
}

int cli_number(const char *text, uint64_t least, uint64_t most, uint64_t *number, char *message, size_t bytes)
{
    char *end = NULL;
    errno = 0;
    /* strtoull takes "-1" and " 1"; we take digits alone. */
    unsigned long long value = isdigit((unsigned char)text[0]) ? strtoull(text, &end, 10) : 0;
    if (!end || *end) {
        snprintf(message, bytes, "\"%s\" is not a whole number", text);
        return -1;
    }
    if (errno == ERANGE || value < least || value > most) {
        snprintf(message, bytes, "\"%s\" is not in %" PRIu64 "..%" PRIu64, text, least, most);
        return -1;
    }
    *number = value;
    return 0;
}

uint64_t cli_option_number(struct argp_state *state, const char *option, const char *text, uint64_t least,
                           uint64_t most)
{
    char message[256];
    uint64_t number = 0;
    if (cli_number(text, least, most, &number, message, sizeof(message)))
        argp_error(state, "--%s: %s", option, message);
    return number;
}

void cli_option_device(struct argp_state *state, const char *text, epg_device_options *device)
{
    device->kind = strcmp(text, "host") ? EPG_DEVICE_CUDA : EPG_DEVICE_HOST;
    device->ordinal = 0;
    if (!strncmp(text, "cuda:", 5))
        device->ordinal = (int)cli_option_number(state, "device", text + 5, 0, INT_MAX);
    else if (device->kind == EPG_DEVICE_CUDA && strcmp(text, "cuda"))
        argp_error(state, "--device %s: not one of host, cuda, cuda:N", text);
}

int cli_bad_input(const char *command, const char *text)
{
    fprintf(stderr, "%s: %s\n", command, text);
    return CLI_BAD_INPUT;
}

const char *cli_bytes(uint64_t bytes, char *text, size_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    unsigned unit = 0;
    while (value >= 1024.0 && unit < 4) {
        value /= 1024.0;
        unit++;
    }
    snprintf(text, size, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}
