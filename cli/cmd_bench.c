/* `epgraph bench`: picks what is measured, opens what it needs, reports. What can be wrong with the input is found
 * before anything is measured. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include "bench_int.h"

static const bench_what *const benches[] = {&bench_pair, &bench_step, &bench_switch, &bench_capture};
enum { BENCHES = sizeof(benches) / sizeof(benches[0]) };

static const char doc[] =
    "Measures on this device, with random rows: medians with the 10th and 90th percentile, beside the least time in "
    "which the bytes can be moved.\v"
    "What is measured:\n"
    "  pair      a dispatch and its combine, by mode, tokens, ranks, hidden size, row type and layout\n"
    "  step      the layers of a decode step: norm, gate, dispatch, experts, combine\n"
    "  switch    pairs of both modes in turn, against the same where no lane switches\n"
    "  capture   what a graph of pairs costs: capture, instantiation, upload, update; time and memory\n"
    "\n"
    "`epgraph bench WHAT --help' lists the options.";

static int bad(const bench_run *run, const char *option, const char *value, const char *why)
{
    fprintf(stderr, "%s: --%s %s: %s\n", run->options->name, option, value, why);
    return CLI_BAD_INPUT;
}

static int open_files(bench_run *run)
{
    const bench_options *options = run->options;
    char message[256];
    if (options->json && !(run->json = fopen(options->json, "w")))
        return bad(run, "json", options->json, strerror(errno));
    if (options->plot && !(run->plot = bench_plot_open(options->plot, message, sizeof(message))))
        return bad(run, "plot", options->plot, message);
    return CLI_OK;
}

static int open_device(bench_run *run)
{
    int host = run->options->device.kind == EPG_DEVICE_HOST;
    size_t bytes = host ? (size_t)64 << 20 : (size_t)1 << 30; /* more than caches hold */
    run->info = (epg_device_info)EPG_DEVICE_INFO_INIT;
    if (epg_device_create(&run->options->device, &run->device) != EPG_OK)
        return bad(run, "device", host ? "host" : "cuda", epg_message());
    if (epg_device_describe(run->device, &run->info) == EPG_OK &&
        epg_device_copy_rate(run->device, bytes, &run->copy_rate) == EPG_OK)
        return CLI_OK;
    fprintf(stderr, "%s: %s\n", run->options->name, epg_message());
    return CLI_FAILED;
}

/* No empty file is left where a run ended before its figures; devices and pipes are left alone. */
static void close_json(bench_run *run)
{
    struct stat info;
    if (!run->json)
        return;
    int empty = !fstat(fileno(run->json), &info) && S_ISREG(info.st_mode) && info.st_size == 0;
    fclose(run->json);
    if (empty)
        remove(run->options->json);
}

static int run_bench(bench_run *run, const bench_what *what)
{
    int code = open_files(run);
    if (code == CLI_OK)
        code = open_device(run);
    if (code == CLI_OK)
        code = what->run(run);
    progress_finish(&run->bar);
    if (code == CLI_OK)
        code = bench_report(run);
    bench_plot_close(run->plot);
    close_json(run);
    bench_table_free(&run->table);
    epg_device_destroy(run->device);
    return code;
}

int cmd_bench(int argc, char **argv)
{
    int first = cli_first_word(argc, argv, "WHAT [OPTION...]", doc,
                               "it is not said what is measured: pair, step, switch or capture");
    for (int i = 0; i < BENCHES; i++)
        if (!strcmp(argv[first], benches[i]->name)) {
            char name[64];
            bench_options options;
            bench_run run = {.options = &options};
            snprintf(name, sizeof(name), "%s %s", argv[0], benches[i]->name);
            argv[first] = name;
            bench_options_parse(argc - first, argv + first, benches[i], &options);
            return run_bench(&run, benches[i]);
        }
    fprintf(stderr, "%s: there is no benchmark \"%s\"; there are pair, step, switch and capture\n", argv[0],
            argv[first]);
    return CLI_BAD_INPUT;
}
