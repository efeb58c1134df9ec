/* What the files of the command share: exit codes, the subcommands, and the reading of numbers. The command uses
 * epgraph's public API only. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <argp.h>
#include <stdint.h>
#include "epgraph/epgraph.h"

enum {
    CLI_OK = 0,
    CLI_FAILED = 1,    /* the run failed, or a check did not hold */
    CLI_BAD_INPUT = 2  /* bad usage, or input that cannot be used */
};

/* Each gets argv[0] = "epgraph NAME" and returns an exit code. */
int cmd_run(int argc, char **argv);
int cmd_model(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_simulate(int argc, char **argv);
int cmd_conform(int argc, char **argv);

/* Parses up to the first word that is no option, to which everything after it belongs, and gives its index. Without one,
 * prints `missing` and exits with CLI_BAD_INPUT. */
int cli_first_word(int argc, char **argv, const char *usage, const char *doc, const char *missing);

/* Reads `text`, the whole of it, as a number in least..most. On failure writes a sentence with the text to message. */
int cli_number(const char *text, uint64_t least, uint64_t most, uint64_t *number, char *message, size_t bytes);

/* The same for an option; argp_error (which exits with CLI_BAD_INPUT) names the option and its text. */
uint64_t cli_option_number(struct argp_state *state, const char *option, const char *text, uint64_t least,
                           uint64_t most);

/* Reads a device's name: "host", "cuda" or "cuda:N". */
void cli_option_device(struct argp_state *state, const char *text, epg_device_options *device);

/* Prints "COMMAND: text" on stderr and returns CLI_BAD_INPUT. */
int cli_bad_input(const char *command, const char *text);

/* "12.3 MiB" */
const char *cli_bytes(uint64_t bytes, char *text, size_t size);

#endif
