/* The CUDA device alone: how kernels are launched, its clock, and its errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>
#include "device/device_ops.h"
#include "gpu/launch.h"
#include "support/device_under_test.h"

#define OK(call) assert_int_equal((call), EPG_OK)

const void *epg__cuda_clock_kernel(void);

typedef struct fixture {
    epg_device *device;
    epg_stream stream;
    uint32_t *out; /* mapped */
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    return !f || test_device_create(&f->device) != EPG_OK ||
           epg_stream_create(f->device, EPG_STREAM_NONBLOCKING, &f->stream) != EPG_OK ||
           epg_memory_alloc(f->device, EPG_MEMORY_MAPPED, 64, (void **)&f->out) != EPG_OK;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    epg_memory_free(f->device, EPG_MEMORY_MAPPED, f->out);
    epg_stream_destroy(f->device, f->stream);
    epg_device_destroy(f->device);
    free(f);
    return 0;
}

static void limits_are_the_devices(void **state)
{
    fixture *f = *state;
    epg__cuda_limits limits;
    epg_device_info info = EPG_DEVICE_INFO_INIT;
    OK(epg__cuda_get_limits(f->device, &limits));
    OK(epg_device_describe(f->device, &info));
    assert_int_equal(limits.units, info.units);
    assert_true(limits.compute >= 80);
}

/* 99 KiB: what every GPU from compute capability 8.0 on can give a block. */
static void much_shared_memory_needs_preparation(void **state)
{
    fixture *f = *state;
    uint32_t bytes = 99 * 1024, few = 0, many = 0;
    launch_params params = {f->out, bytes / 4, 77};
    epg__cuda_launch launch = {.kernel = launch_kernel(LAUNCH_SHARED), .name = "shared", .block = 128};
    launch.shared_bytes = bytes;
    assert_int_equal(epg__cuda_launch_kernel(f->device, f->stream, &launch, &params), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "shared"));
    OK(epg__cuda_kernel_prepare(f->device, launch.kernel, bytes));
    OK(epg__cuda_launch_kernel(f->device, f->stream, &launch, &params));
    OK(epg_stream_synchronize(f->device, f->stream));
    assert_int_equal(*f->out, 77);
    OK(epg__cuda_kernel_blocks(f->device, launch.kernel, 128, bytes, &few));
    assert_in_range(few, 1, 2);
    OK(epg__cuda_kernel_blocks(f->device, launch.kernel, 128, 1024, &many));
    assert_true(many > few);
}

/* Also as a graph, where the dependence becomes an edge of another kind. */
static void dependent_kernels_run_in_order(void **state)
{
    fixture *f = *state;
    epg__cuda_launch launch = {.kernel = launch_kernel(LAUNCH_CHAIN), .name = "chain", .block = 1, .dependent = 1};
    epg_graph graph;
    epg_exec exec;
    uint32_t expected = 0;
    OK(epg_capture_begin(f->device, f->stream, EPG_CAPTURE_THREAD_LOCAL));
    for (uint32_t i = 1; i <= 8; i++) {
        launch_params params = {f->out, 0, i};
        OK(epg__cuda_launch_kernel(f->device, f->stream, &launch, &params));
    }
    OK(epg_capture_end(f->device, f->stream, &graph));
    OK(epg_graph_instantiate(f->device, graph, &exec));
    OK(epg_exec_upload(f->device, exec, f->stream));
    for (int round = 0; round < 10; round++)
        OK(epg_exec_launch(f->device, exec, f->stream));
    OK(epg_stream_synchronize(f->device, f->stream));
    for (uint32_t i = 0; i < 80; i++)
        expected = expected * 3 + i % 8 + 1;
    assert_int_equal(*f->out, expected);
    OK(epg_exec_destroy(f->device, exec));
    OK(epg_graph_destroy(f->device, graph));
}

static void append(void *ctx, const char *text) { strncat(ctx, text, 4095 - strlen(ctx)); }

static void a_dump_names_kernels(void **state)
{
    fixture *f = *state;
    epg__cuda_launch launch = {.kernel = launch_kernel(LAUNCH_CHAIN), .name = "chain", .block = 1, .dependent = 1};
    launch_params params = {f->out, 0, 1};
    epg_graph graph;
    char text[4096] = "";
    OK(epg_capture_begin(f->device, f->stream, EPG_CAPTURE_THREAD_LOCAL));
    OK(epg__cuda_launch_kernel(f->device, f->stream, &launch, &params));
    OK(epg__cuda_launch_kernel(f->device, f->stream, &launch, &params));
    OK(epg_capture_end(f->device, f->stream, &graph));
    OK(epg_graph_dot(f->device, graph, append, text));
    assert_non_null(strstr(text, "test_chain"));
    assert_non_null(strstr(text, "n0 -> n1;"));
    OK(epg_graph_destroy(f->device, graph));
}

/* The device's clock is the one that kernels read, to within what reading it beside the host's can tell. */
static void the_clock_is_the_kernels(void **state)
{
    enum { NEAR_NS = 20000000 };
    fixture *f = *state;
    epg__cuda_launch launch = {.kernel = epg__cuda_clock_kernel(), .name = "clock", .block = 1};
    for (int i = 0; i < 3; i++) {
        uint64_t before = epg_device_now_ns(f->device);
        OK(epg__cuda_launch_kernel(f->device, f->stream, &launch, &f->out));
        OK(epg_stream_synchronize(f->device, f->stream));
        uint64_t after = epg_device_now_ns(f->device), read;
        memcpy(&read, f->out, sizeof read);
        assert_true(read + NEAR_NS >= before && read <= after + NEAR_NS);
    }
}

static void a_cuda_error_keeps_its_number(void **state)
{
    fixture *f = *state;
    epg__cuda_launch launch = {.kernel = launch_kernel(LAUNCH_CHAIN), .name = "chain", .block = 5000};
    launch_params params = {f->out, 0, 1};
    epg_status status = epg__cuda_launch_kernel(f->device, f->stream, &launch, &params);
    assert_true(status != EPG_OK && epg_status_native(status) > 0);
    assert_non_null(strstr(epg_message(), "chain: cudaError"));
    OK(f->device->ops->probe_last_error(f->device)); /* nothing is left for another library to find */
    void *huge = NULL;
    assert_int_equal(epg_memory_alloc(f->device, EPG_MEMORY_DEVICE, (size_t)1 << 50, &huge), EPG_ERR_NO_MEMORY);
    assert_null(huge);
    epg_device_options none = EPG_DEVICE_OPTIONS_INIT;
    epg_device *device = NULL;
    none.kind = EPG_DEVICE_CUDA;
    none.ordinal = 4096;
    assert_int_equal(epg_device_create(&none, &device), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "4096"));
}

static void its_kernels_are_for_its_device(void **state)
{
    fixture *f = *state;
    epg__cuda_launch launch = {.kernel = launch_kernel(LAUNCH_CHAIN), .name = "chain", .block = 1};
    launch_params params = {f->out, 0, 1};
    epg_device *host;
    OK(epg_device_create(NULL, &host));
    assert_int_equal(epg__cuda_launch_kernel(host, NULL, &launch, &params), EPG_ERR_UNSUPPORTED);
    epg_device_destroy(host);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(limits_are_the_devices), T(much_shared_memory_needs_preparation), T(dependent_kernels_run_in_order),
        T(a_dump_names_kernels), T(the_clock_is_the_kernels), T(a_cuda_error_keeps_its_number),
        T(its_kernels_are_for_its_device),
    };
    if (test_gpu_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
