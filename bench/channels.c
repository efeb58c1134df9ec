/* Which streams hold up others. Needs a GPU; CUDA_DEVICE_MAX_CONNECTIONS is the caller's to set (CUDA's default is 8).
 *
 * Some streams are held by a kernel that waits, alone or with another kernel behind it, and each other stream gets a
 * kernel: how many do not run? And: threads give a new stream each a kernel that waits for the other threads', and
 * three more: how often does one not come, by what the stream was used for before? */
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "bench/check.h"
#include "bench/waits.h"

enum { STREAMS = 96, THREADS = 8, ROUNDS = 40, BEHIND = 3 };

static uint32_t *go, *word; /* mapped; the device's */

static void launch(const void *kernel, void **arguments, cudaStream_t stream)
{
    CHECK_CUDA(cudaLaunchKernel(kernel, (dim3){1, 1, 1}, (dim3){1, 1, 1}, arguments, 0, stream));
}

static void touch(cudaStream_t stream)
{
    void *arguments[] = {&word};
    launch(waits_kernel.touch, arguments, stream);
}

static void hold(cudaStream_t stream)
{
    uint64_t ns = 1000000000;
    void *arguments[] = {&go, &ns};
    launch(waits_kernel.hold, arguments, stream);
}

static cudaStream_t new_stream(void)
{
    cudaStream_t stream;
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

static void load(const void *kernel)
{
    struct cudaFuncAttributes attributes;
    CHECK_CUDA(cudaFuncGetAttributes(&attributes, kernel));
}

/* ---- held streams ---- */

static int held_up(const cudaStream_t *streams, int held, bool more_behind)
{
    int count = 0;
    *(volatile uint32_t *)go = 0;
    for (int i = 0; i < held; i++) {
        hold(streams[i]);
        if (more_behind)
            touch(streams[i]);
    }
    for (int i = held; i < STREAMS; i++)
        touch(streams[i]);
    usleep(10000);
    for (int i = held; i < STREAMS; i++)
        count += cudaStreamQuery(streams[i]) == cudaErrorNotReady;
    *(volatile uint32_t *)go = 1;
    CHECK_CUDA(cudaDeviceSynchronize());
    return count;
}

static void measure_held(void)
{
    static const int held[] = {1, 2, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 24, 28, 31, 32};
    cudaStream_t streams[STREAMS];
    for (int i = 0; i < STREAMS; i++) {
        streams[i] = new_stream();
        touch(streams[i]);
    }
    CHECK_CUDA(cudaDeviceSynchronize());
    printf("  streams held   others held up   by kernels with one behind\n");
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        int others = STREAMS - held[i];
        printf("  %12d   %4d of %d %13d of %d\n", held[i], held_up(streams, held[i], false), others,
               held_up(streams, held[i], true), others);
    }
    for (int i = 0; i < STREAMS; i++)
        CHECK_CUDA(cudaStreamDestroy(streams[i]));
}

/* ---- first uses at once ---- */

typedef enum before { NOTHING, AN_EVENT, A_FILL, A_KERNEL, WAYS } before;
static const char *const before_names[WAYS] = {"not used before", "an event recorded", "4 bytes filled", "one kernel"};

typedef struct party {
    pthread_barrier_t barrier;
    uint32_t *words; /* the device's: [2] for each round */
    before before;
} party;

static void use(cudaStream_t stream, before how)
{
    cudaEvent_t event;
    if (how == A_KERNEL)
        touch(stream);
    if (how == A_FILL)
        CHECK_CUDA(cudaMemsetAsync(word, 0, sizeof *word, stream));
    if (how != AN_EVENT)
        return;
    CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    CHECK_CUDA(cudaEventRecord(event, stream));
    CHECK_CUDA(cudaEventDestroy(event));
}

static void *attend(void *ctx)
{
    party *p = ctx;
    uint32_t count = THREADS;
    uint64_t ns = 20000000;
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t *words = p->words + 2 * round;
        void *arguments[] = {&words, &count, &ns};
        cudaStream_t stream = new_stream();
        use(stream, p->before);
        pthread_barrier_wait(&p->barrier);
        launch(waits_kernel.meet, arguments, stream);
        for (int i = 0; i < BEHIND; i++)
            touch(stream);
        CHECK_CUDA(cudaStreamSynchronize(stream));
        pthread_barrier_wait(&p->barrier);
        CHECK_CUDA(cudaStreamDestroy(stream));
    }
    return NULL;
}

static int rounds_lost(before how)
{
    party p = {.before = how};
    uint32_t words[2 * ROUNDS];
    pthread_t threads[THREADS];
    void *memory;
    int lost = 0;
    CHECK_CUDA(cudaMalloc(&memory, sizeof words));
    CHECK_CUDA(cudaMemset(memory, 0, sizeof words));
    p.words = memory;
    if (pthread_barrier_init(&p.barrier, NULL, THREADS))
        exit(1);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, attend, &p))
            exit(1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK_CUDA(cudaMemcpy(words, memory, sizeof words, cudaMemcpyDeviceToHost));
    for (int i = 0; i < ROUNDS; i++)
        lost += words[2 * i + 1] > 0;
    pthread_barrier_destroy(&p.barrier);
    CHECK_CUDA(cudaFree(memory));
    return lost;
}

int main(void)
{
    const char *connections = getenv("CUDA_DEVICE_MAX_CONNECTIONS");
    struct cudaDeviceProp about;
    void *memory;
    CHECK_CUDA(cudaGetDeviceProperties(&about, 0));
    CHECK_CUDA(cudaHostAlloc(&memory, sizeof *go, cudaHostAllocMapped));
    go = memory;
    CHECK_CUDA(cudaMalloc(&memory, sizeof *word));
    word = memory;
    load(waits_kernel.hold);
    load(waits_kernel.meet);
    load(waits_kernel.touch);
    printf("%s; CUDA_DEVICE_MAX_CONNECTIONS is %s\n", about.name, connections ? connections : "not set");
    measure_held();
    printf("  %d threads, a new stream each: rounds in which one did not come\n", THREADS);
    for (int how = 0; how < WAYS; how++)
        printf("  %-18s %2d of %d\n", before_names[how], rounds_lost((before)how), ROUNDS);
    return 0;
}
