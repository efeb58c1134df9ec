/* The ranges that a profiler is told of. A profiler hands NVTX its own functions when NVTX is first used; so does this
 * program, by the symbol that NVTX keeps for one linked in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>
#define NVTX_NO_IMPL
#include <nvtx3/nvToolsExt.h>
#include "epgraph/epgraph.h"
#include "support/device_under_test.h"

#define OK(call) assert_int_equal((call), EPG_OK)

/* ---- the profiler ---- */

static const char *domain_name;
static char told[1024]; /* "replay(" and ")" */

static void tell(const char *text) { snprintf(told + strlen(told), sizeof told - strlen(told), "%s", text); }

static nvtxDomainHandle_t NVTX_API domain_create(const char *name)
{
    domain_name = name;
    return (nvtxDomainHandle_t)&domain_name;
}

static nvtxStringHandle_t NVTX_API string_register(nvtxDomainHandle_t domain, const char *text)
{
    assert_ptr_equal(domain, &domain_name);
    return (nvtxStringHandle_t)(uintptr_t)text;
}

static int NVTX_API range_push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t *attributes)
{
    assert_ptr_equal(domain, &domain_name);
    assert_int_equal(attributes->messageType, NVTX_MESSAGE_TYPE_REGISTERED);
    tell((const char *)attributes->message.registered);
    tell("(");
    return 0;
}

static int NVTX_API range_pop(nvtxDomainHandle_t domain)
{
    assert_ptr_equal(domain, &domain_name);
    tell(")");
    return 0;
}

static int NVTX_API attach(NvtxGetExportTableFunc_t get)
{
    const NvtxExportTableCallbacks *callbacks = get(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable table = NULL;
    unsigned size = 0;
    if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) ||
        size <= NVTX_CBID_CORE2_DomainCreateA)
        return 0;
    *table[NVTX_CBID_CORE2_DomainCreateA] = (NvtxFunctionPointer)domain_create;
    *table[NVTX_CBID_CORE2_DomainRegisterStringA] = (NvtxFunctionPointer)string_register;
    *table[NVTX_CBID_CORE2_DomainRangePushEx] = (NvtxFunctionPointer)range_push;
    *table[NVTX_CBID_CORE2_DomainRangePop] = (NvtxFunctionPointer)range_pop;
    return 1;
}

NvtxInitializeInjectionNvtxFunc_t InitializeInjectionNvtx2_fnptr = attach;

/* ---- one rank, in one thread ---- */

enum { HIDDEN = 64, TOKENS = 4, TOPK = 2, EXPERTS = 4 };

typedef struct fixture {
    epg_device *device;
    epg_stream stream;
    epg_team *team;
    epg_group *group;
    void *rows, *ids, *expert_rows, *out;
} fixture;

static epg_dispatch_args dispatch_args(const fixture *f)
{
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    args.bucket = TOKENS;
    args.rows = f->rows;
    args.topk_ids = f->ids;
    return args;
}

static epg_status step_fn(void *ctx, const epg_step_call *call)
{
    fixture *f = ctx;
    epg_dispatch_args args = dispatch_args(f);
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    epg_status status = epg_dispatch(f->group, &args, &view, call->stream);
    return status ? status : epg_combine(f->group, 0, f->expert_rows, f->out, call->stream);
}

static void *device_memory(epg_device *device, size_t bytes)
{
    void *memory;
    OK(epg_memory_alloc(device, EPG_MEMORY_DEVICE, bytes, &memory));
    return memory;
}

static int set_up(void **state)
{
    static fixture f;
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    epg_group_options group = EPG_GROUP_OPTIONS_INIT;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    options.kind = EPG_DEVICE_CUDA;
    *state = &f;
    OK(epg_device_create(&options, &f.device));
    OK(epg_stream_create(f.device, EPG_STREAM_NONBLOCKING, &f.stream));
    OK(epg_team_create_threads(f.device, NULL, 1, &f.team));
    group.experts = EXPERTS, group.hidden = HIDDEN, group.topk = TOPK, group.max_tokens = TOKENS;
    group.row_type = EPG_BFLOAT16;
    OK(epg_group_create(f.team, &group, &f.group));
    OK(epg_group_view(f.group, 0, &view));
    f.rows = device_memory(f.device, TOKENS * HIDDEN * 2);
    f.ids = device_memory(f.device, TOKENS * TOPK * 4); /* zeroed: expert 0 twice, of which one counts */
    f.expert_rows = device_memory(f.device, (size_t)view.row_capacity * HIDDEN * 2);
    f.out = device_memory(f.device, TOKENS * HIDDEN * 2);
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    OK(epg_stream_synchronize(f->device, f->stream));
    epg_group_destroy(f->group);
    epg_team_destroy(f->team);
    epg_memory_free(f->device, EPG_MEMORY_DEVICE, f->rows);
    epg_memory_free(f->device, EPG_MEMORY_DEVICE, f->ids);
    epg_memory_free(f->device, EPG_MEMORY_DEVICE, f->expert_rows);
    epg_memory_free(f->device, EPG_MEMORY_DEVICE, f->out);
    epg_stream_destroy(f->device, f->stream);
    epg_device_destroy(f->device);
    return 0;
}

static void the_domain_is_named(void **state)
{
    (void)state;
    assert_string_equal(domain_name, "epgraph");
}

static void each_half_has_a_range(void **state)
{
    fixture *f = *state;
    epg_dispatch_args args = dispatch_args(f);
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    told[0] = 0;
    OK(epg_dispatch_send(f->group, &args, f->stream));
    OK(epg_dispatch_recv(f->group, 0, &view, f->stream));
    OK(epg_combine_send(f->group, 0, f->expert_rows, f->stream));
    OK(epg_combine_recv(f->group, 0, f->out, f->stream));
    assert_string_equal(told, "epg_dispatch_send()epg_dispatch_recv()epg_combine_send()epg_combine_recv()");
}

static void a_runner_has_ranges(void **state)
{
    fixture *f = *state;
    epg_segment segment = {step_fn, f, 0, "pair"};
    epg_runner_options options = EPG_RUNNER_OPTIONS_INIT;
    epg_runner_step step = EPG_RUNNER_STEP_INIT;
    epg_runner *runner;
    options.segments = &segment, options.segment_count = 1, options.max_bucket = TOKENS;
    options.groups = &f->group, options.group_count = 1, options.warmups = 1;
    OK(epg_runner_create(f->device, &options, &runner));
    step.tokens = TOKENS;
    step.stream = f->stream;
    told[0] = 0;
    OK(epg_runner_run(runner, &step));
    OK(epg_runner_run(runner, &step));
    step.eager = 1;
    OK(epg_runner_run(runner, &step));
#define PAIR "epg_dispatch()epg_combine()"
    assert_string_equal(told, "first use(warm-up(" PAIR ")probe(" PAIR ")capture(" PAIR ")instantiate())"
                              "replay()replay()eager step(" PAIR ")");
    epg_runner_destroy(runner);
}

static void a_refused_call_leaves_no_range_open(void **state)
{
    fixture *f = *state;
    told[0] = 0;
    assert_int_equal(epg_combine(f->group, 0, f->expert_rows, f->out, f->stream), EPG_ERR_STATE);
    assert_string_equal(told, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_domain_is_named),
        cmocka_unit_test(each_half_has_a_range),
        cmocka_unit_test(a_runner_has_ranges),
        cmocka_unit_test(a_refused_call_leaves_no_range_open),
    };
    epg_device *device;
    epg_device_options options = EPG_DEVICE_OPTIONS_INIT;
    options.kind = EPG_DEVICE_CUDA;
    if (epg_device_create(&options, &device) != EPG_OK) {
        puts(epg_message());
        return 77;
    }
    epg_device_destroy(device);
    if (test_device_serial()) {
        puts("compute-sanitizer is the profiler here");
        return 77;
    }
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
