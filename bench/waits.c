/* What waits for other streams' kernels: a few streams are held by kernels that spin, and each of CUDA's calls is made
 * meanwhile, with a synchronisation of its own stream where it enqueues. Needs a GPU.
 *
 * Virtual ranks on one GPU wait for one another in kernels: a call that waits for those is a deadlock until their
 * timeout, when it is made by the rank for which they wait. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "bench/check.h"
#include "bench/waits.h"

enum { HELD = 4, MEGABYTE = 1 << 20 };
#define HOLD_NS 400000000ull

typedef struct bench {
    cudaStream_t held[HELD], stream, made;
    uint32_t *go, *word;        /* mapped; the device's */
    void *pageable, *memory, *small, *mapped, *pooled;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t event;
} bench;

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static cudaError_t launch(bench *b, const void *kernel, cudaStream_t stream)
{
    void *arguments[] = {&b->word};
    return cudaLaunchKernel(kernel, (dim3){1, 1, 1}, (dim3){1, 1, 1}, arguments, 0, stream);
}

static cudaError_t finish(bench *b, cudaError_t error)
{
    return error == cudaSuccess ? cudaStreamSynchronize(b->stream) : error;
}

/* ---- the calls ---- */

static cudaError_t new_stream(bench *b) { return cudaStreamCreateWithFlags(&b->made, cudaStreamNonBlocking); }
static cudaError_t use_new_stream(bench *b)
{
    cudaError_t error = launch(b, waits_kernel.touch, b->made);
    return error == cudaSuccess ? cudaStreamSynchronize(b->made) : error;
}
static cudaError_t end_stream(bench *b) { return cudaStreamDestroy(b->made); }
static cudaError_t new_event(bench *b) { return cudaEventCreateWithFlags(&b->event, cudaEventDisableTiming); }
static cudaError_t device_memory(bench *b) { return cudaMalloc(&b->memory, 64 * MEGABYTE); }
static cudaError_t little_memory(bench *b) { return cudaMalloc(&b->small, 256); }
static cudaError_t mapped_memory(bench *b) { return cudaHostAlloc(&b->mapped, 4096, cudaHostAllocMapped); }
static cudaError_t zero(bench *b) { return finish(b, cudaMemsetAsync(b->memory, 0, 64 * MEGABYTE, b->stream)); }
static cudaError_t copy_in(bench *b)
{
    return finish(b, cudaMemcpyAsync(b->memory, b->pageable, 16 * MEGABYTE, cudaMemcpyHostToDevice, b->stream));
}
static cudaError_t copy_out(bench *b)
{
    return finish(b, cudaMemcpyAsync(b->pageable, b->memory, 16 * MEGABYTE, cudaMemcpyDeviceToHost, b->stream));
}
static cudaError_t copy_within(bench *b)
{
    return finish(b, cudaMemcpyAsync(b->memory, (char *)b->memory + 32 * MEGABYTE, 32 * MEGABYTE,
                                     cudaMemcpyDeviceToDevice, b->stream));
}
static cudaError_t copy_legacy(bench *b) { return cudaMemcpy(b->word, b->pageable, 4, cudaMemcpyHostToDevice); }
static cudaError_t load(const void *kernel)
{
    struct cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, kernel);
}
static cudaError_t prepare_kernel(bench *b)
{
    (void)b;
    return load(waits_kernel.prepared);
}
static cudaError_t prepared_kernel(bench *b) { return finish(b, launch(b, waits_kernel.prepared, b->stream)); }
static cudaError_t unprepared_kernel(bench *b) { return finish(b, launch(b, waits_kernel.unprepared, b->stream)); }
static cudaError_t little_frame(bench *b) { return finish(b, launch(b, waits_kernel.little_frame, b->stream)); }
static cudaError_t frame(bench *b) { return finish(b, launch(b, waits_kernel.frame, b->stream)); }
static cudaError_t larger_frame(bench *b) { return finish(b, launch(b, waits_kernel.larger_frame, b->stream)); }
static cudaError_t pool(bench *b) { return finish(b, cudaMallocAsync(&b->pooled, MEGABYTE, b->stream)); }
static cudaError_t unpool(bench *b) { return finish(b, cudaFreeAsync(b->pooled, b->stream)); }
static cudaError_t instantiate(bench *b) { return cudaGraphInstantiate(&b->exec, b->graph, 0); }
static cudaError_t upload(bench *b) { return finish(b, cudaGraphUpload(b->exec, b->stream)); }
static cudaError_t replay(bench *b) { return finish(b, cudaGraphLaunch(b->exec, b->stream)); }
static cudaError_t end_exec(bench *b) { return cudaGraphExecDestroy(b->exec); }
static cudaError_t free_device(bench *b) { return cudaFree(b->small); }
static cudaError_t free_mapped(bench *b) { return cudaFreeHost(b->mapped); }

static const struct {
    const char *name;
    cudaError_t (*call)(bench *b);
} calls[] = {
    {"cudaMalloc, 64 MiB", device_memory},
    {"cudaMalloc, 256 bytes", little_memory},
    {"cudaHostAlloc, mapped, 4 KiB", mapped_memory},
    {"cudaMemsetAsync", zero},
    {"cudaMemcpyAsync from pageable memory", copy_in},
    {"cudaMemcpyAsync to pageable memory", copy_out},
    {"cudaMemcpyAsync on the device", copy_within},
    {"cudaMemcpy on the legacy stream", copy_legacy},
    {"cudaStreamCreateWithFlags", new_stream},
    {"first launch in that stream", use_new_stream},
    {"cudaStreamDestroy", end_stream},
    {"cudaEventCreateWithFlags", new_event},
    {"cudaMallocAsync, the first", pool},
    {"cudaFreeAsync", unpool},
    {"cudaFuncGetAttributes, kernel not loaded", prepare_kernel},
    {"first launch of that kernel", prepared_kernel},
    {"first launch of a kernel not loaded", unprepared_kernel},
    {"first launch with 64 bytes of local memory", little_frame},
    {"first launch with 4 KiB of it", frame},
    {"first launch with 64 KiB of it", larger_frame},
    {"another launch with 64 KiB of it", larger_frame},
    {"cudaGraphInstantiate, 200 kernels", instantiate},
    {"cudaGraphUpload", upload},
    {"first cudaGraphLaunch", replay},
    {"cudaGraphExecDestroy", end_exec},
    {"cudaFree", free_device},
    {"cudaFreeHost", free_mapped},
};

/* ---- holding ---- */

static void hold(const bench *b)
{
    uint64_t ns = HOLD_NS;
    void *arguments[] = {(void *)&b->go, &ns};
    *(volatile uint32_t *)b->go = 0;
    for (int i = 0; i < HELD; i++)
        CHECK_CUDA(cudaLaunchKernel(waits_kernel.hold, (dim3){1, 1, 1}, (dim3){32, 1, 1}, arguments, 0, b->held[i]));
}

static void let_go(const bench *b)
{
    *(volatile uint32_t *)b->go = 1;
    CHECK_CUDA(cudaDeviceSynchronize());
}

static void set_up(bench *b)
{
    void *memory;
    b->pageable = calloc(16, MEGABYTE);
    if (!b->pageable)
        exit(1);
    CHECK_CUDA(cudaHostAlloc(&memory, sizeof *b->go, cudaHostAllocMapped));
    b->go = memory;
    CHECK_CUDA(cudaMalloc(&memory, sizeof *b->word));
    b->word = memory;
    CHECK_CUDA(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking));
    for (int i = 0; i < HELD; i++)
        CHECK_CUDA(cudaStreamCreateWithFlags(&b->held[i], cudaStreamNonBlocking));
    CHECK_CUDA(launch(b, waits_kernel.touch, b->stream));
    CHECK_CUDA(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < 200; i++)
        CHECK_CUDA(launch(b, waits_kernel.touch, b->stream));
    CHECK_CUDA(cudaStreamEndCapture(b->stream, &b->graph));
    CHECK_CUDA(load(waits_kernel.little_frame));
    CHECK_CUDA(load(waits_kernel.frame));
    CHECK_CUDA(load(waits_kernel.larger_frame));
    hold(b); /* once before, so that what it loads is loaded */
    let_go(b);
}

int main(void)
{
    bench b = {.go = NULL};
    struct cudaDeviceProp about;
    set_up(&b);
    CHECK_CUDA(cudaGetDeviceProperties(&about, 0));
    printf("%s; %d streams are held for %.0f ms meanwhile\n", about.name, HELD, HOLD_NS / 1e6);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        hold(&b);
        double begin = now_ms();
        cudaError_t error = calls[i].call(&b);
        if (error != cudaSuccess)
            check_failed(calls[i].name, cudaGetErrorString(error));
        double took = now_ms() - begin;
        int still = cudaStreamQuery(b.held[0]) == cudaErrorNotReady;
        printf("  %-42s %8.2f ms  %s\n", calls[i].name, took, still ? "" : "waits");
        let_go(&b);
    }
    return 0;
}
