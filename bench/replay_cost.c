/* What a runner adds to a replay, against the bare CUDA call, and what a capture costs. Needs a GPU.
 *
 * The step is N empty kernels. Host time is that of the call, in a batch between two synchronisations in which the ways
 * on one stream take turns call by call, so that all meet the same queue; where the stream changes, a batch of its own
 * follows. "Adds" is the difference to the bare call in the same round. GPU time is between two events around a batch of
 * one way. Medians over ROUNDS rounds, with the 10th and 90th percentile. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "bench/check.h"
#include "device/device_ops.h"
#include "epgraph/runner.h"

enum { BATCH = 21, ROUNDS = 101, WARM = 5 };
typedef enum way { BARE, EXEC, RUNNER, CROSSING, WAYS } way;
static const char *const way_names[WAYS] = {"cudaGraphLaunch", "epg_exec_launch", "epg_runner_run",
                                            "epg_runner_run, stream changes each time"};

typedef struct bench {
    epg_device *device;
    epg_stream streams[2];
    int kernels;
    epg_runner *runner;
    epg_exec exec;
} bench;

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return left < right ? -1 : left > right;
}

static epg_status step(void *ctx, const epg_step_call *call)
{
    bench *b = ctx;
    for (int i = 0; i < b->kernels; i++) {
        epg_status status = b->device->ops->probe_launch(b->device, call->stream);
        if (status != EPG_OK)
            return status;
    }
    return EPG_OK;
}

static void replay(bench *b, way how, int turn)
{
    epg_runner_step one = EPG_RUNNER_STEP_INIT;
    one.tokens = 1;
    one.stream = b->streams[how == CROSSING ? turn & 1 : 0];
    if (how == BARE)
        CHECK_CUDA(cudaGraphLaunch((cudaGraphExec_t)b->exec, (cudaStream_t)b->streams[0]));
    else if (how == EXEC)
        CHECK(epg_exec_launch(b->device, b->exec, b->streams[0]));
    else
        CHECK(epg_runner_run(b->runner, &one));
}

/* What the rounds gave, us per call or replay. */
typedef struct results {
    double host[WAYS][ROUNDS], adds[WAYS][ROUNDS], gpu[WAYS][ROUNDS];
} results;

static double call_us(bench *b, way how, int turn)
{
    double start = now_us();
    replay(b, how, turn);
    return now_us() - start;
}

static void host_round(bench *b, double us[WAYS])
{
    for (int how = 0; how < WAYS; how++)
        us[how] = 0;
    for (int i = 0; i < BATCH; i++)
        for (int k = 0; k < CROSSING; k++) { /* each comes first as often */
            int how = (i + k) % CROSSING;
            us[how] += call_us(b, (way)how, i) / BATCH;
        }
    CHECK(epg_device_synchronize(b->device));
    for (int i = 0; i < BATCH; i++)
        us[CROSSING] += call_us(b, CROSSING, i) / BATCH;
    CHECK(epg_device_synchronize(b->device));
}

/* The batch ends on the stream on which it began: CROSSING has an even number of replays, the last on streams[1]. */
static double gpu_us(bench *b, way how, const epg_event marks[2])
{
    double us = 0;
    CHECK(epg_event_record(b->device, marks[0], b->streams[0]));
    for (int i = 0; i < BATCH; i++)
        replay(b, how, i);
    CHECK(epg_event_record(b->device, marks[1], b->streams[how == CROSSING]));
    CHECK(epg_event_synchronize(b->device, marks[1]));
    CHECK(epg_event_elapsed_us(b->device, marks[0], marks[1], &us));
    return us / BATCH;
}

static void run_rounds(bench *b, const epg_event marks[2], results *r)
{
    double host[WAYS], gpu;
    for (int i = -WARM; i < ROUNDS; i++) {
        host_round(b, host);
        for (int how = 0; how < WAYS; how++) {
            gpu = gpu_us(b, (way)how, marks);
            if (i < 0)
                continue;
            r->host[how][i] = host[how];
            r->adds[how][i] = host[how] - host[BARE];
            r->gpu[how][i] = gpu;
        }
    }
}

static void print_times(double us[ROUNDS])
{
    qsort(us, ROUNDS, sizeof *us, ascending);
    printf(" %8.2f (%.2f to %.2f)", us[ROUNDS / 2], us[ROUNDS / 10], us[ROUNDS * 9 / 10]);
}

static void print_ways(results *r)
{
    printf("  %-42s %-24s %-24s %s\n", "us per replay", "host", "adds", "GPU");
    for (int how = 0; how < WAYS; how++) {
        printf("  %-42s", way_names[how]);
        print_times(r->host[how]);
        print_times(r->adds[how]);
        print_times(r->gpu[how]);
        printf("\n");
    }
}

static void make_exec(bench *b)
{
    epg_graph graph;
    epg_exec again;
    epg_step_call call = {.size = sizeof call, .stream = b->streams[0]};
    CHECK(epg_capture_begin(b->device, b->streams[0], EPG_CAPTURE_THREAD_LOCAL));
    CHECK(step(b, &call));
    CHECK(epg_capture_end(b->device, b->streams[0], &graph));
    double start = now_us();
    CHECK(epg_graph_instantiate(b->device, graph, &b->exec));
    double made = now_us();
    CHECK(epg_exec_update(b->device, b->exec, graph));
    double updated = now_us();
    CHECK(epg_graph_instantiate(b->device, graph, &again)); /* the first one of a process pays for more */
    printf("  instantiate %.1f us, the first time %.1f us; update %.1f us\n", now_us() - updated, made - start,
           updated - made);
    CHECK(epg_exec_upload(b->device, b->exec, b->streams[0]));
    CHECK(epg_exec_destroy(b->device, again));
    CHECK(epg_graph_destroy(b->device, graph));
}

static double first_use(bench *b)
{
    double start = now_us();
    replay(b, RUNNER, 0);
    CHECK(epg_stream_synchronize(b->device, b->streams[0]));
    return now_us() - start;
}

static void make_runner(bench *b)
{
    static const uint32_t buckets[] = {1};
    epg_segment segment = {step, b, 0, "empty kernels"};
    epg_runner_options options = EPG_RUNNER_OPTIONS_INIT;
    options.segments = &segment;
    options.segment_count = 1;
    options.buckets = buckets;
    options.bucket_count = 1;
    CHECK(epg_runner_create(b->device, &options, &b->runner));
    double first = first_use(b);
    CHECK(epg_runner_reset(b->runner));
    printf("  first use %.0f us, again after a reset %.0f us\n", first, first_use(b));
}

static void measure(bench *b, int kernels)
{
    static results r;
    epg_event marks[2];
    b->kernels = kernels;
    printf("\n%d empty kernels\n", kernels);
    make_exec(b);
    make_runner(b);
    CHECK(epg_event_create(b->device, &marks[0]));
    CHECK(epg_event_create(b->device, &marks[1]));
    run_rounds(b, marks, &r);
    print_ways(&r);
    epg_runner_destroy(b->runner);
    CHECK(epg_exec_destroy(b->device, b->exec));
    CHECK(epg_event_destroy(b->device, marks[0]));
    CHECK(epg_event_destroy(b->device, marks[1]));
}

int main(void)
{
    bench b = {0};
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    epg_device_info info = EPG_DEVICE_INFO_INIT;
    options.kind = EPG_DEVICE_CUDA;
    if (epg_device_create(&options, &b.device) != EPG_OK) {
        puts(epg_message());
        return 77;
    }
    CHECK(epg_device_describe(b.device, &info));
    printf("%s, CUDA %d.%d\n", info.name, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    CHECK(epg_stream_create(b.device, EPG_STREAM_NONBLOCKING, &b.streams[0]));
    CHECK(epg_stream_create(b.device, EPG_STREAM_NONBLOCKING, &b.streams[1]));
    static const int sizes[] = {1, 100, 1000};
    for (int i = 0; i < 3; i++)
        measure(&b, sizes[i]);
    epg_stream_destroy(b.device, b.streams[0]);
    epg_stream_destroy(b.device, b.streams[1]);
    epg_device_destroy(b.device);
    return 0;
}
