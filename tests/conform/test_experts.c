/* Experts on their own, on the device under test: against sums in double precision, in every mix of row and weight
 * types, through an index and without; and the same bits for a row whatever stands beside it, wherever it stands, eager
 * and captured. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "epgraph/epgraph.h"
#include "support/device_under_test.h"

#define OK(call) assert_int_equal((call), EPG_OK)

enum { EXPERTS_MOST = 8, PATTERN = 0x5A };

/* A shape and the device memory of one set of experts. */
typedef struct bed {
    epg_device *device;
    epg_stream stream;
    epg_experts_options o;
    uint32_t capacity, source_rows;   /* of out; behind the index */
    epg_experts *experts;
    float *gate_up, *down, *rows;     /* as the device has them, widened */
    void *d_gate_up, *d_down, *d_rows, *d_out, *d_workspace;
    uint32_t *d_index, *d_offsets, *d_counts;
    size_t workspace_bytes;
    char *out;                        /* what came back */
} bed;

static uint64_t next(uint64_t *s)
{
    uint64_t z = (*s += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static size_t width(epg_dtype type) { return type == EPG_FLOAT32 ? 4 : 2; }

static uint16_t half_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static float widened(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void *device_memory(bed *b, size_t bytes)
{
    void *memory = NULL;
    OK(epg_memory_alloc(b->device, EPG_MEMORY_DEVICE, bytes, &memory));
    return memory;
}

/* Uniform values in -scale .. scale, on the device in `type`, and here as what the device has. */
static float *random_values(bed *b, epg_dtype type, size_t count, float scale, uint64_t seed, void **memory)
{
    float *values = malloc(count * sizeof *values);
    uint16_t *halves = malloc(count * sizeof *halves);
    assert_true(values && halves);
    for (size_t i = 0; i < count; i++) {
        values[i] = scale * (float)((double)(next(&seed) >> 11) / 4503599627370496.0 - 1);
        halves[i] = half_of(values[i]);
        if (type == EPG_BFLOAT16)
            values[i] = widened(halves[i]);
    }
    *memory = device_memory(b, count * width(type));
    OK(epg_memcpy(b->device, *memory, type == EPG_FLOAT32 ? (void *)values : (void *)halves, count * width(type)));
    free(halves);
    return values;
}

static bed make_bed(uint32_t experts, uint32_t hidden, uint32_t inner, epg_dtype rows, epg_dtype weights,
                    uint32_t capacity)
{
    bed b = {
        .o = {sizeof b.o, experts, hidden, inner, rows, weights}, .capacity = capacity, .source_rows = capacity + 13};
    size_t matrix = (size_t)hidden * inner * experts;
    OK(test_device_create(&b.device));
    OK(epg_stream_create(b.device, EPG_STREAM_NONBLOCKING, &b.stream));
    OK(epg_experts_create(b.device, &b.o, &b.experts));
    b.gate_up = random_values(&b, weights, 2 * matrix, 1.7f / sqrtf((float)hidden), 1, &b.d_gate_up);
    b.down = random_values(&b, weights, matrix, 1.7f / sqrtf((float)inner), 2, &b.d_down);
    b.rows = random_values(&b, rows, (size_t)b.source_rows * hidden, 2, 3, &b.d_rows);
    OK(epg_experts_workspace(b.experts, capacity, &b.workspace_bytes));
    b.d_workspace = device_memory(&b, b.workspace_bytes);
    b.d_out = device_memory(&b, capacity * hidden * width(rows));
    b.d_index = device_memory(&b, capacity * sizeof(uint32_t));
    b.d_offsets = device_memory(&b, (experts + 1) * sizeof(uint32_t));
    b.d_counts = device_memory(&b, experts * sizeof(uint32_t));
    b.out = malloc(capacity * hidden * width(rows));
    assert_non_null(b.out);
    return b;
}

static void end_bed(bed *b)
{
    void *const memory[] = {b->d_gate_up,   b->d_down,  b->d_rows,    b->d_out,
                            b->d_workspace, b->d_index, b->d_offsets, b->d_counts};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        OK(epg_memory_free(b->device, EPG_MEMORY_DEVICE, memory[i]));
    free(b->gate_up);
    free(b->down);
    free(b->rows);
    free(b->out);
    epg_experts_destroy(b->experts);
    OK(epg_stream_destroy(b->device, b->stream));
    epg_device_destroy(b->device);
}

/* One arrangement of rows: position p of out is computed from row index[p]. */
typedef struct rows_at {
    uint32_t offsets[EXPERTS_MOST + 1], counts[EXPERTS_MOST];
    uint32_t *index;    /* [capacity] */
    int in_place;       /* through the index; else row p is position p's */
} rows_at;

static void upload(bed *b, const rows_at *at)
{
    OK(epg_memcpy(b->device, b->d_index, at->index, b->capacity * sizeof(uint32_t)));
    OK(epg_memcpy(b->device, b->d_offsets, at->offsets, (b->o.local_experts + 1) * sizeof(uint32_t)));
    OK(epg_memcpy(b->device, b->d_counts, at->counts, b->o.local_experts * sizeof(uint32_t)));
    OK(epg_memset(b->device, b->d_out, PATTERN, b->capacity * b->o.hidden * width(b->o.row_type)));
    OK(epg_memset(b->device, b->d_workspace, 0xFF, b->workspace_bytes)); /* NaN */
}

static epg_dispatch_view view_of(const bed *b, const rows_at *at)
{
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    view.local_experts = b->o.local_experts;
    view.row_capacity = b->capacity;
    view.rows = b->d_rows;
    view.row_index = at->in_place ? b->d_index : NULL;
    view.offsets = b->d_offsets;
    view.counts = b->d_counts;
    return view;
}

static epg_status enqueue(bed *b, const rows_at *at)
{
    epg_dispatch_view view = view_of(b, at);
    epg_experts_args args = EPG_EXPERTS_ARGS_INIT;
    args.view = &view;
    args.gate_up = b->d_gate_up;
    args.down = b->d_down;
    args.workspace = b->d_workspace;
    args.workspace_bytes = b->workspace_bytes;
    args.out = b->d_out;
    return epg_experts_run(b->experts, &args, b->stream);
}

static void fetch(bed *b)
{
    OK(epg_stream_synchronize(b->device, b->stream));
    OK(epg_memcpy(b->device, b->out, b->d_out, b->capacity * b->o.hidden * width(b->o.row_type)));
}

static void run_once(bed *b, const rows_at *at)
{
    upload(b, at);
    OK(enqueue(b, at));
    fetch(b);
}

static double dot(const float *a, const float *b, uint32_t count)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static void expected_row(const bed *b, uint32_t expert, const float *row, double *inner, double *out)
{
    uint32_t hidden = b->o.hidden, n = b->o.intermediate;
    const float *gate = b->gate_up + (size_t)expert * 2 * n * hidden, *down = b->down + (size_t)expert * n * hidden;
    for (uint32_t j = 0; j < n; j++) {
        double g = dot(gate + (size_t)j * hidden, row, hidden), u = dot(gate + (size_t)(n + j) * hidden, row, hidden);
        inner[j] = g / (1 + exp(-g)) * u;
    }
    for (uint32_t i = 0; i < hidden; i++) {
        out[i] = 0;
        for (uint32_t j = 0; j < n; j++)
            out[i] += inner[j] * (double)down[(size_t)i * n + j];
    }
}

static double got(const bed *b, size_t i)
{
    return b->o.row_type == EPG_FLOAT32 ? (double)((const float *)b->out)[i]
                                        : (double)widened(((const uint16_t *)b->out)[i]);
}

static int untouched(const bed *b, uint32_t p)
{
    size_t bytes = b->o.hidden * width(b->o.row_type);
    for (size_t i = 0; i < bytes; i++)
        if (b->out[p * bytes + i] != PATTERN)
            return 0;
    return 1;
}

/* Every position, or of many every seventh; the largest error is held against the row's largest value. */
static void compare(const bed *b, const rows_at *at)
{
    double *inner = calloc(b->o.intermediate, sizeof *inner), *out = calloc(b->o.hidden, sizeof *out);
    double bound = b->o.row_type == EPG_FLOAT32 ? 1e-5 : 2e-2;
    uint32_t filled = 0;
    for (uint32_t e = 0; e < b->o.local_experts; e++)
        for (uint32_t p = at->offsets[e]; p < at->offsets[e] + at->counts[e]; p += at->counts[e] > 40 ? 7 : 1) {
            double worst = 0, largest = 0;
            expected_row(b, e, b->rows + (size_t)(at->in_place ? at->index[p] : p) * b->o.hidden, inner, out);
            for (uint32_t i = 0; i < b->o.hidden; i++) {
                worst = fmax(worst, fabs(got(b, (size_t)p * b->o.hidden + i) - out[i]));
                largest = fmax(largest, fabs(out[i]));
            }
            if (!(worst <= bound * largest))
                fail_msg("expert %u, position %u: error %g of %g", e, p, worst, largest);
            filled++;
        }
    assert_true(filled > 0);
    for (uint32_t p = at->offsets[b->o.local_experts]; p < b->capacity; p++)
        assert_true(untouched(b, p));
    free(inner);
    free(out);
}

/* counts[e] rows each, starts aligned to `align`, rows picked at random. */
static rows_at arrange(const bed *b, const uint32_t *counts, uint32_t align, int in_place, uint64_t seed)
{
    rows_at at = {.index = calloc(b->capacity, sizeof(uint32_t)), .in_place = in_place};
    uint32_t used = 0;
    assert_non_null(at.index);
    for (uint32_t e = 0; e < b->o.local_experts; e++) {
        at.offsets[e] = used;
        at.counts[e] = counts[e];
        used = (used + counts[e] + align - 1) / align * align;
    }
    at.offsets[b->o.local_experts] = used;
    assert_true(used <= b->capacity);
    for (uint32_t p = 0; p < b->capacity; p++)
        at.index[p] = (uint32_t)(next(&seed) % b->source_rows);
    return at;
}

/* ---- against double precision ---- */

typedef struct size_case {
    uint32_t experts, hidden, inner, counts[EXPERTS_MOST];
} size_case;

static const size_case sizes[] = {
    {3, 64, 32, {1, 0, 5}},
    {4, 128, 64, {17, 3, 0, 33}},
    {2, 72, 40, {9, 70}},           /* no multiple of any tile */
    {2, 8, 1, {2, 1}},
    {3, 200, 13, {4, 31, 1}},       /* rows of weights that are not aligned */
    {2, 256, 192, {130, 257}},
};

static void the_sums_are_right(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int mix = 0; mix < 8; mix++) {
            bed b = make_bed(sizes[s].experts, sizes[s].hidden, sizes[s].inner, (epg_dtype)(mix & 1),
                             (epg_dtype)(mix >> 1 & 1), 420);
            rows_at at = arrange(&b, sizes[s].counts, mix & 4 ? 8 : 1, mix >> 2 & 1, 5);
            run_once(&b, &at);
            compare(&b, &at);
            free(at.index);
            end_bed(&b);
        }
}

/* ---- bits ---- */

/* Row r with expert e, whatever was asked for beside it: each arrangement's bits against those of a row alone. */
static void check_bits(bed *b, const rows_at *at, char *alone, char *known)
{
    size_t bytes = b->o.hidden * width(b->o.row_type);
    run_once(b, at);
    for (uint32_t e = 0; e < b->o.local_experts; e++)
        for (uint32_t p = at->offsets[e]; p < at->offsets[e] + at->counts[e]; p++) {
            size_t place = (size_t)e * b->source_rows + at->index[p];
            if (!known[place]) {
                memcpy(alone + place * bytes, b->out + p * bytes, bytes);
                known[place] = 1;
            } else if (memcmp(alone + place * bytes, b->out + p * bytes, bytes)) {
                fail_msg("expert %u, row %u at position %u of %u differs", e, at->index[p], p - at->offsets[e],
                         at->counts[e]);
            }
        }
}

static void bits_of(epg_dtype rows, epg_dtype weights, uint32_t hidden, uint32_t inner)
{
    static const uint32_t counts[][2] = {{1, 1}, {2, 7}, {8, 9}, {16, 17}, {24, 31}, {32, 33}, {48, 64},
                                         {65, 100}, {128, 129}, {200, 255}, {256, 300}, {0, 1}, {310, 0}};
    bed b = make_bed(2, hidden, inner, rows, weights, 640);
    b.source_rows = 24; /* so that rows come again and again */
    char *alone = calloc((size_t)2 * b.source_rows, hidden * width(rows)), *known = calloc(2, b.source_rows);
    assert_true(alone && known);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        rows_at at = arrange(&b, counts[i], 1, 1, 100 + i);
        check_bits(&b, &at, alone, known);
        free(at.index);
    }
    b.source_rows = 640 + 13;
    free(alone);
    free(known);
    end_bed(&b);
}

static void a_rows_bits_are_its_own(void **state)
{
    (void)state;
    bits_of(EPG_FLOAT32, EPG_FLOAT32, 64, 48);
    bits_of(EPG_BFLOAT16, EPG_FLOAT32, 64, 48);
    bits_of(EPG_BFLOAT16, EPG_BFLOAT16, 256, 192);
    bits_of(EPG_BFLOAT16, EPG_BFLOAT16, 328, 136);
}

/* One capture serves other counts than it was made with. */
static void captured_runs_are_the_eager_ones(void **state)
{
    static const uint32_t counts[][3] = {{0, 0, 0}, {3, 0, 1}, {40, 150, 9}, {0, 1, 0}};
    bed b = make_bed(3, 128, 64, EPG_BFLOAT16, EPG_BFLOAT16, 256);
    size_t bytes = (size_t)b.capacity * b.o.hidden * width(b.o.row_type);
    char *eager = malloc(bytes);
    epg_graph graph;
    epg_exec exec;
    (void)state;
    rows_at at = arrange(&b, counts[1], 1, 1, 1);
    upload(&b, &at);
    OK(epg_capture_begin(b.device, b.stream, EPG_CAPTURE_THREAD_LOCAL));
    OK(enqueue(&b, &at));
    OK(epg_capture_end(b.device, b.stream, &graph));
    OK(epg_graph_instantiate(b.device, graph, &exec));
    OK(epg_graph_destroy(b.device, graph));
    free(at.index);
    for (size_t i = 0; eager && i < sizeof counts / sizeof *counts; i++) {
        at = arrange(&b, counts[i], 1, 1, i);
        run_once(&b, &at);
        memcpy(eager, b.out, bytes);
        upload(&b, &at);
        OK(epg_exec_launch(b.device, exec, b.stream));
        fetch(&b);
        assert_memory_equal(eager, b.out, bytes);
        free(at.index);
    }
    OK(epg_exec_destroy(b.device, exec));
    free(eager);
    end_bed(&b);
}

/* ---- refusals ---- */

static void refused(bed *b, epg_experts_options o, epg_status status, const char *text)
{
    epg_experts *experts = NULL;
    assert_int_equal(epg_experts_create(b->device, &o, &experts), status);
    assert_null(experts);
    assert_non_null(strstr(epg_message(), text));
}

static void bad_input_is_named(void **state)
{
    bed b = make_bed(2, 64, 32, EPG_FLOAT32, EPG_FLOAT32, 32);
    epg_experts_options o = b.o;
    static const uint32_t counts[2] = {1, 1};
    rows_at at = arrange(&b, counts, 1, 1, 1);
    epg_dispatch_view view = view_of(&b, &at);
    epg_experts_args args = {sizeof args, &view, b.d_gate_up, b.d_down, b.d_workspace, b.workspace_bytes, b.d_out};
    (void)state;
    o.hidden = 60;
    refused(&b, o, EPG_ERR_INVALID, "hidden is 60");
    o = b.o, o.intermediate = 0;
    refused(&b, o, EPG_ERR_INVALID, "intermediate is 0");
    o = b.o, o.local_experts = 0;
    refused(&b, o, EPG_ERR_INVALID, "local_experts is 0");
    o = b.o, o.weight_type = (epg_dtype)77;
    refused(&b, o, EPG_ERR_UNSUPPORTED, "weight_type is 77");
    args.workspace_bytes--;
    assert_int_equal(epg_experts_run(b.experts, &args, b.stream), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "32 rows need"));
    args.workspace_bytes++;
    args.down = (char *)b.d_down + 4;
    assert_int_equal(epg_experts_run(b.experts, &args, b.stream), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "down is"));
    args.down = b.d_down;
    view.row_stride = 320;
    assert_int_equal(epg_experts_run(b.experts, &args, b.stream), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "320 bytes apart"));
    view.row_stride = 256;
    view.local_experts = 3;
    assert_int_equal(epg_experts_run(b.experts, &args, b.stream), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "3 local experts"));
    assert_int_equal(epg_experts_run(NULL, &args, b.stream), EPG_ERR_INVALID);
    epg_experts_destroy(NULL);
    free(at.index);
    end_bed(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sums_are_right),
        cmocka_unit_test(a_rows_bits_are_its_own),
        cmocka_unit_test(captured_runs_are_the_eager_ones),
        cmocka_unit_test(bad_input_is_named),
    };
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
