/* What the kernels of replayed graphs take, each by itself: a library that CUDA loads into a program.
 *
 *   CUDA_INJECTION64_PATH=$PWD/build/bench/libkernel_times.so epgraph bench step --device=cuda --rounds=3
 *
 * CUPTI notes when each kernel began and ended; at the program's end a line for each graph that was launched says how
 * many kernels a launch has, the sum of their times, the time in which one of them ran at least, and the time from the
 * first's beginning to the last's end; then the kernels by name. Medians over launches. A kernel that may start before
 * the one ahead has ended (programmatic dependent launch) begins early and waits: the sum counts that time twice, "one
 * at least" once. Tracing itself makes the gaps between kernels longer. */
#include <cupti.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER_BYTES = 4 << 20, NAMES_MOST = 256 };

typedef struct kernel {
    uint32_t graph, launch;     /* the launch: CUPTI's correlation id */
    uint32_t name;              /* index into names */
    uint64_t start, end;        /* ns */
} kernel;

/* An injected library has no handle to hang its state on. */
static struct {
    pthread_mutex_t lock;
    kernel *kernels;
    size_t count, room, dropped;
    char *names[NAMES_MOST];
    uint32_t name_count;
} trace = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uint32_t name_index(const char *name)
{
    for (uint32_t i = 0; i < trace.name_count; i++)
        if (!strcmp(trace.names[i], name))
            return i;
    if (trace.name_count == NAMES_MOST)
        return NAMES_MOST - 1; /* the last name stands for all others, too */
    trace.names[trace.name_count] = strdup(name);
    return trace.name_count++;
}

static void note(const CUpti_ActivityKernel10 *record)
{
    if (record->graphId == 0)
        return; /* launched by itself */
    if (trace.count == trace.room) {
        size_t room = trace.room ? 2 * trace.room : 65536;
        kernel *grown = realloc(trace.kernels, room * sizeof *grown);
        if (!grown) {
            trace.dropped++;
            return;
        }
        trace.kernels = grown;
        trace.room = room;
    }
    trace.kernels[trace.count++] = (kernel){record->graphId, record->correlationId, name_index(record->name),
                                            record->start, record->end};
}

static void CUPTIAPI request(uint8_t **buffer, size_t *bytes, size_t *records)
{
    *buffer = aligned_alloc(8, BUFFER_BYTES);
    *bytes = *buffer ? BUFFER_BYTES : 0;
    *records = 0;
}

static void CUPTIAPI complete(CUcontext context, uint32_t stream, uint8_t *buffer, size_t bytes, size_t valid)
{
    CUpti_Activity *record = NULL;
    size_t dropped = 0;
    (void)bytes;
    pthread_mutex_lock(&trace.lock);
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS)
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL)
            note((const CUpti_ActivityKernel10 *)record);
    if (cuptiActivityGetNumDroppedRecords(context, stream, &dropped) == CUPTI_SUCCESS)
        trace.dropped += dropped;
    pthread_mutex_unlock(&trace.lock);
    free(buffer);
}

/* ---- what is said at the end ---- */

static int by_launch(const void *a, const void *b)
{
    const kernel *x = a, *y = b;
    if (x->graph != y->graph)
        return x->graph < y->graph ? -1 : 1;
    if (x->launch != y->launch)
        return x->launch < y->launch ? -1 : 1;
    return (x->start > y->start) - (x->start < y->start);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, ascending);
    return values[count / 2];
}

typedef struct launch_times {
    double *sum, *busy, *span;  /* in us, one of each for every launch */
} launch_times;

/* The kernels of one launch begin at `first`, by their start: how many there are. */
static size_t one_launch(const kernel *first, const kernel *end, size_t index, launch_times *times)
{
    uint64_t total = 0, busy = 0, last = first->start;
    const kernel *k = first;
    for (; k < end && k->graph == first->graph && k->launch == first->launch; k++) {
        total += k->end - k->start;
        if (k->end > last) {
            busy += k->end - (k->start > last ? k->start : last);
            last = k->end;
        }
    }
    times->sum[index] = (double)total / 1e3;
    times->busy[index] = (double)busy / 1e3;
    times->span[index] = (double)(last - first->start) / 1e3;
    return (size_t)(k - first);
}

static void print_names(const kernel *first, const kernel *end, size_t launches)
{
    for (uint32_t name = 0; name < trace.name_count; name++) {
        double total = 0;
        size_t count = 0;
        for (const kernel *k = first; k < end; k++)
            if (k->name == name) {
                total += (double)(k->end - k->start) / 1e3;
                count++;
            }
        if (count)
            printf("    %6.1f x %9.2f us  %s\n", (double)count / (double)launches, total / (double)count,
                   trace.names[name]);
    }
}

/* One graph's line; returns where the next begins. */
static const kernel *print_graph(const kernel *first, const kernel *end, launch_times *times)
{
    size_t launches = 0, each = 0;
    const kernel *k = first;
    while (k < end && k->graph == first->graph) {
        each = one_launch(k, end, launches++, times);
        k += each;
    }
    printf("graph %u: %zu launches of %zu kernels; us: their times in sum %.2f, one at least %.2f, ", first->graph,
           launches, each, median(times->sum, launches), median(times->busy, launches));
    printf("first to last %.2f\n", median(times->span, launches));
    print_names(first, k, launches);
    return k;
}

static void report(void)
{
    cuptiActivityFlushAll(1);
    pthread_mutex_lock(&trace.lock);
    double *values = calloc(trace.count + 1, 3 * sizeof *values);
    launch_times times = {values, values + trace.count, values + 2 * trace.count};
    const kernel *k = trace.kernels, *end = k + trace.count;
    if (trace.count)
        qsort(trace.kernels, trace.count, sizeof *trace.kernels, by_launch);
    while (values && k < end)
        k = print_graph(k, end, &times);
    if (trace.dropped)
        printf("%zu records were lost\n", trace.dropped);
    free(values);
    pthread_mutex_unlock(&trace.lock);
}

/* CUDA calls this as it starts, once it has loaded the library. */
__attribute__((visibility("default"))) int InitializeInjection(void);
int InitializeInjection(void)
{
    if (cuptiActivityRegisterCallbacks(request, complete) == CUPTI_SUCCESS &&
        cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) == CUPTI_SUCCESS && atexit(report) == 0)
        return 1;
    fprintf(stderr, "libkernel_times: CUPTI cannot trace kernels here\n");
    return 0;
}
