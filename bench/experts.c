/* What the experts take on a GPU: gate and up, silu, down, for 1 to 512 rows per expert, every expert active; and for a
 * row in each of the first eight alone, as one token brings it.
 *
 * Beside each time: the weights' bytes over it, as a part of the rate of a copying kernel in the same run; and what
 * cuBLAS reaches on the same matrices, each expert's by itself (as a loop over experts would), and on one matrix with
 * the rows of all experts. cuBLAS is looked for when the program runs; without it these columns stay empty. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "bench/check.h"
#include "epgraph/epgraph.h"

enum { ROWS_MOST = 512, CALLS = 20, PATTERN_BYTES = 32 << 20 };

typedef struct shape {
    uint32_t hidden, inner, experts;
} shape;

/* cublasGemmEx, and a handle for it. */
typedef struct blas {
    void *handle;
    int (*gemm)(void *handle, int opa, int opb, int m, int n, int k, const void *alpha, const void *a, int atype,
                int lda, const void *b, int btype, int ldb, const void *beta, void *c, int ctype, int ldc, int compute,
                int algo);
} blas;

typedef struct bed {
    epg_device *device;
    epg_stream stream;
    epg_event begin, end;
    blas rival;
    double copy_rate;
    shape s;
    epg_experts *experts;
    void *gate_up, *down, *rows, *out, *workspace;
    size_t workspace_bytes;
    uint32_t *index, *offsets, *counts;
    uint32_t capacity;
} bed;

static void *device_memory(bed *b, size_t bytes)
{
    void *memory;
    CHECK(epg_memory_alloc(b->device, EPG_MEMORY_DEVICE, bytes, &memory));
    return memory;
}

/* Random bf16 of -1 .. 1, times `scale`: a pattern of some MiB, again and again. */
static void *random_memory(bed *b, size_t bytes, float scale)
{
    static uint16_t pattern[PATTERN_BYTES / 2];
    uint64_t seed = 42;
    void *memory = device_memory(b, bytes);
    for (size_t i = 0; i < PATTERN_BYTES / 2; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        float value = scale * (float)(int32_t)(seed >> 32) * 0x1p-31f;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        pattern[i] = (uint16_t)(bits >> 16);
    }
    for (size_t at = 0; at < bytes; at += PATTERN_BYTES) {
        size_t part = bytes - at < PATTERN_BYTES ? bytes - at : PATTERN_BYTES;
        if (at == 0)
            CHECK(epg_memcpy(b->device, memory, pattern, part));
        else
            CHECK(epg_memcpy(b->device, (char *)memory + at, memory, part));
    }
    return memory;
}

/* ---- cuBLAS ---- */

static void find_blas(bed *b)
{
    void *library = dlopen("libcublas.so.13", RTLD_NOW);
    if (!library)
        library = dlopen("libcublas.so", RTLD_NOW);
    if (!library)
        return;
    int (*create)(void **), (*set_stream)(void *, void *);
    *(void **)&create = dlsym(library, "cublasCreate_v2");
    *(void **)&set_stream = dlsym(library, "cublasSetStream_v2");
    *(void **)&b->rival.gemm = dlsym(library, "cublasGemmEx");
    if (!create || !set_stream || !b->rival.gemm || create(&b->rival.handle) || set_stream(b->rival.handle, b->stream))
        b->rival.handle = NULL;
}

/* out[rows][m] = in[rows][k] times weights[m][k] transposed, bf16, summed in float32. */
static void blas_product(bed *b, uint32_t rows, uint32_t m, uint32_t k, const void *in, const void *weights, void *out)
{
    enum { OP_N = 0, OP_T = 1, R_16BF = 14, COMPUTE_32F = 68, DEFAULT = -1 };
    float one = 1, zero = 0;
    if (b->rival.gemm(b->rival.handle, OP_T, OP_N, (int)m, (int)rows, (int)k, &one, weights, R_16BF, (int)k, in, R_16BF,
                      (int)k, &zero, out, R_16BF, (int)m, COMPUTE_32F, DEFAULT)) {
        fprintf(stderr, "cublasGemmEx failed\n");
        exit(1);
    }
}

static void blas_each(bed *b, uint32_t rows)
{
    size_t size = (size_t)b->s.hidden * b->s.inner * 2;
    for (uint32_t e = 0; e < b->s.experts; e++) {
        const char *in = (const char *)b->rows + (size_t)e * rows * b->s.hidden * 2;
        blas_product(b, rows, 2 * b->s.inner, b->s.hidden, in, (const char *)b->gate_up + e * 2 * size, b->workspace);
        blas_product(b, rows, b->s.hidden, b->s.inner, b->workspace, (const char *)b->down + e * size, b->out);
    }
}

/* As many rows as all experts have, in a workspace of theirs. */
static void blas_one(bed *b, uint32_t rows)
{
    blas_product(b, rows * b->s.experts, 2 * b->s.inner, b->s.hidden, b->rows, b->gate_up, b->workspace);
    blas_product(b, rows * b->s.experts, b->s.hidden, b->s.inner, b->workspace, b->down, b->out);
}

/* ---- ours ---- */

static void make_bed(bed *b, const shape *s)
{
    size_t matrix = (size_t)s->hidden * s->inner * 2;
    epg_experts_options o = EPG_EXPERTS_OPTIONS_INIT;
    b->s = *s;
    b->capacity = s->experts * ROWS_MOST;
    o.local_experts = s->experts;
    o.hidden = s->hidden;
    o.intermediate = s->inner;
    o.row_type = o.weight_type = EPG_BFLOAT16;
    CHECK(epg_experts_create(b->device, &o, &b->experts));
    CHECK(epg_experts_workspace(b->experts, 2 * b->capacity, &b->workspace_bytes)); /* cuBLAS keeps gate and up apart */
    b->gate_up = random_memory(b, 2 * matrix * s->experts, 0.03f);
    b->down = random_memory(b, matrix * s->experts, 0.03f);
    b->rows = random_memory(b, (size_t)b->capacity * s->hidden * 2, 1);
    b->out = device_memory(b, (size_t)b->capacity * s->hidden * 2);
    b->workspace = device_memory(b, b->workspace_bytes);
    b->index = device_memory(b, b->capacity * sizeof(uint32_t));
    b->offsets = device_memory(b, (s->experts + 1) * sizeof(uint32_t));
    b->counts = device_memory(b, s->experts * sizeof(uint32_t));
}

static void end_bed(bed *b)
{
    void *const memory[] = {b->gate_up, b->down, b->rows, b->out, b->workspace, b->index, b->offsets, b->counts};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        CHECK(epg_memory_free(b->device, EPG_MEMORY_DEVICE, memory[i]));
    epg_experts_destroy(b->experts);
}

/* Rows in place, for the first `active` experts: position p is some row of all, none twice. */
static void arrange(bed *b, uint32_t rows, uint32_t active)
{
    uint32_t total = rows * b->s.experts, *index = malloc(total * sizeof *index),
             *offsets = malloc((b->s.experts + 1) * 8);
    if (!index || !offsets)
        exit(1);
    uint32_t *counts = offsets + b->s.experts + 1;
    for (uint32_t p = 0; p < total; p++)
        index[p] = (uint32_t)(((uint64_t)p * 7919 + 13) % total);
    for (uint32_t e = 0; e <= b->s.experts; e++)
        offsets[e] = e * rows;
    for (uint32_t e = 0; e < b->s.experts; e++)
        counts[e] = e < active ? rows : 0;
    CHECK(epg_memcpy(b->device, b->index, index, total * sizeof *index));
    CHECK(epg_memcpy(b->device, b->offsets, offsets, (b->s.experts + 1) * sizeof *offsets));
    CHECK(epg_memcpy(b->device, b->counts, counts, b->s.experts * sizeof *counts));
    free(index);
    free(offsets);
}

static void ours(bed *b, uint32_t rows)
{
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    (void)rows;
    view.local_experts = b->s.experts;
    view.row_capacity = b->capacity;
    view.rows = b->rows;
    view.row_index = b->index;
    view.offsets = b->offsets;
    view.counts = b->counts;
    epg_experts_args args = {sizeof args, &view, b->gate_up, b->down, b->workspace, b->workspace_bytes, b->out};
    CHECK(epg_experts_run(b->experts, &args, b->stream));
}

static double time_us(bed *b, void (*work)(bed *b, uint32_t rows), uint32_t rows)
{
    double us;
    for (int i = 0; i < 3; i++)
        work(b, rows);
    CHECK(epg_event_record(b->device, b->begin, b->stream));
    for (int i = 0; i < CALLS; i++)
        work(b, rows);
    CHECK(epg_event_record(b->device, b->end, b->stream));
    CHECK(epg_stream_synchronize(b->device, b->stream));
    CHECK(epg_event_elapsed_us(b->device, b->begin, b->end, &us));
    return us / CALLS;
}

static double show_ours(bed *b, const char *name, uint32_t rows, uint32_t active)
{
    double weights = 6.0 * b->s.hidden * b->s.inner * active;
    arrange(b, rows, active);
    double us = time_us(b, ours, rows);
    printf("%6s %10.1f %11.0f%% %9.1f", name, us, 100 * weights / (us * 1e-6) / b->copy_rate,
           weights * rows / us * 1e-6);
    return us;
}

static void run_shape(bed *b, const shape *s)
{
    double weights = 6.0 * s->hidden * s->inner * s->experts;
    char name[16];
    make_bed(b, s);
    printf("\n%u x %u, %u experts, %.0f MB of weights; copy %.0f GB/s\n", s->hidden, s->inner, s->experts,
           weights / 1e6, b->copy_rate / 1e9);
    printf("%6s %10s %12s %9s %14s %14s\n", "rows", "us", "of the copy", "TFLOP/s", "of cuBLAS each", "of cuBLAS one");
    show_ours(b, "1 of 8", 1, 8);
    printf("\n");
    for (uint32_t rows = 1; rows <= ROWS_MOST; rows *= 2) {
        snprintf(name, sizeof name, "%u", rows);
        double us = show_ours(b, name, rows, s->experts), flops = weights * rows;
        if (b->rival.handle) {
            double each = time_us(b, blas_each, rows), one = time_us(b, blas_one, rows);
            printf(" %7.1f (%3.0f%%) %7.1f (%3.0f%%)", flops / each * 1e-6, 100 * each / us, flops / one * 1e-6,
                   100 * one / us);
        }
        printf("\n");
        fflush(stdout);
    }
    end_bed(b);
}

int main(void)
{
    static const shape shapes[] = {{2048, 768, 64}, {7168, 2048, 32}};
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    epg_device_info info = EPG_DEVICE_INFO_INIT;
    bed b = {0};
    options.kind = EPG_DEVICE_CUDA;
    CHECK(epg_device_create(&options, &b.device));
    CHECK(epg_device_describe(b.device, &info));
    puts(info.name);
    CHECK(epg_stream_create(b.device, EPG_STREAM_NONBLOCKING, &b.stream));
    CHECK(epg_event_create(b.device, &b.begin));
    CHECK(epg_event_create(b.device, &b.end));
    CHECK(epg_device_copy_rate(b.device, (size_t)1 << 30, &b.copy_rate));
    find_blas(&b);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        run_shape(&b, &shapes[i]);
    CHECK(epg_event_destroy(b.device, b.begin));
    CHECK(epg_event_destroy(b.device, b.end));
    CHECK(epg_stream_destroy(b.device, b.stream));
    epg_device_destroy(b.device);
    return 0;
}
