/* The command `epgraph`: picks the subcommand. Each subcommand reads its own options. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cli.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {{"run", cmd_run}, {"model", cmd_model}, {"info", cmd_info}, {"bench", cmd_bench},
              {"conform", cmd_conform}, {"simulate", cmd_simulate}};

static const char doc[] =
    "Expert-parallel dispatch and combine inside captured graphs, in mixed prefill and decode.\v"
    "Commands:\n"
    "  run       serve requests through the MoE layers of a checkpoint, on virtual ranks\n"
    "  model     write a small random checkpoint\n"
    "  info      devices, settings, presets, and the memory that a group needs\n"
    "  bench     times on a device: pairs, decode steps, switches of mode, captures\n"
    "  conform   what a device answers to calls during a capture, against a driver's\n"
    "  simulate  random programs on a simulated device, every interleaving from a seed, every output checked\n"
    "\n"
    "`epgraph COMMAND --help' lists a command's options.\n"
    "Exit codes: 0 all went well; 1 the run failed or a check did not hold; 2 bad usage or bad input.";

static void print_version(FILE *stream, struct argp_state *state)
{
    (void)state;
    fprintf(stream, "epgraph %s\n", epg_version());
}

int main(int argc, char **argv)
{
    /* Virtual ranks on a GPU wait for one another in streams. With CUDA's default, 8, more streams than that share
     * hardware queues, and a kernel that waits could stand before the one it waits for. CUDA reads it at its start. */
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
    argp_err_exit_status = CLI_BAD_INPUT;
    argp_program_version_hook = print_version;
    int first = cli_first_word(argc, argv, "COMMAND [OPTION...]", doc, "no command given");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (!strcmp(argv[first], commands[i].name)) {
            char name[64];
            snprintf(name, sizeof(name), "epgraph %s", commands[i].name);
            argv[first] = name;
            return commands[i].run(argc - first, argv + first);
        }
    fprintf(stderr, "epgraph: there is no command \"%s\"; there are run, model, info, bench, conform and simulate\n",
            argv[first]);
    return CLI_BAD_INPUT;
}
