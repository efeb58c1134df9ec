/* PyTorch in a stream scope, with a libc10_cuda.so that stands in for it. */
#include <dlfcn.h>
#include "support/scopes.h"

typedef struct torch {
    void *handle;
    standin_stream (*get)(int8_t);
    void (*set)(standin_stream);
    void (*behave)(int), (*count)(int);
} torch;

static torch load_torch(int gpus)
{
    torch t = {.handle = standin_load("now/libc10_cuda.so")};
    t.get = (standin_stream(*)(int8_t))standin_symbol(t.handle, "_ZN3c104cuda20getCurrentCUDAStreamEa");
    t.set = (void (*)(standin_stream))standin_symbol(t.handle, "_ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE");
    t.behave = (void (*)(int))standin_symbol(t.handle, "standin_behave");
    t.count = (void (*)(int))standin_symbol(t.handle, "standin_count");
    t.count(gpus);
    return t;
}

/* How PyTorch names a stream of its pool: an odd id, and no handle. */
static const standin_stream pool_stream = {1 | DEVICE << 8, 7 << 5 | 1 << 1 | 1};

static void a_pool_stream_of_pytorch_comes_back_as_itself(void **state)
{
    (void)state;
    epg_scope_report report = EPG_SCOPE_REPORT_INIT;
    epg_scope *outer = NULL, *inner = NULL;
    torch t = load_torch(2);
    epg_scope_table *table = table_of(0, NULL, 0);
    t.set(pool_stream);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &outer), EPG_OK);
    assert_int_equal(entry_of(&report, "PyTorch")->state, EPG_SCOPE_SET);
    assert_int_equal(t.get(DEVICE).id, (uintptr_t)STREAM(1));
    assert_int_equal(t.get(0).id, 0);
    assert_int_equal(epg_scope_enter(table, DEVICE, EPG_STREAM_LEGACY, NULL, &inner), EPG_OK);
    assert_int_equal(t.get(DEVICE).id, 0);
    assert_int_equal(epg_scope_leave(inner), EPG_OK);
    assert_int_equal(t.get(DEVICE).id, (uintptr_t)STREAM(1));
    assert_int_equal(epg_scope_leave(outer), EPG_OK);
    assert_int_equal(t.get(DEVICE).id, pool_stream.id);
    epg_scope_table_destroy(table);
    dlclose(t.handle);
}

static void pytorch_is_not_asked_for_a_gpu_that_it_has_not(void **state)
{
    (void)state;
    epg_scope *scope = NULL;
    torch t = load_torch(0);
    epg_scope_table *table = table_of(0, NULL, 0);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_ERR_UNSUPPORTED);
    assert_string_equal(epg_message(), "PyTorch: it sees no GPU");
    epg_scope_table_destroy(table);
    t.count(1);
    table = table_of(0, NULL, 0);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_ERR_UNSUPPORTED);
    assert_string_equal(epg_message(), "PyTorch: it sees 1 GPUs, and GPU 1 was asked for");
    assert_int_equal(epg_scope_enter(table, 0, STREAM(1), NULL, &scope), EPG_OK);
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    epg_scope_table_destroy(table);
    dlclose(t.handle);
}

static void pytorch_that_does_not_take_a_stream_is_noticed(void **state)
{
    (void)state;
    epg_scope *scope = NULL;
    torch t = load_torch(2);
    epg_scope_table *table = table_of(0, NULL, 0);
    t.set(pool_stream);
    t.behave(STANDIN_IGNORE);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_ERR_UNSUPPORTED);
    assert_string_equal(epg_message(), "PyTorch: reads back stream id 0xe3 after 0x1000 was set");
    t.behave(STANDIN_OBEY);
    assert_int_equal(t.get(DEVICE).id, pool_stream.id);
    epg_scope_table_destroy(table);
    dlclose(t.handle);
}

static void another_convention_under_pytorchs_names_is_found_out(void **state)
{
    (void)state;
    epg_scope *scope = NULL;
    void *library = standin_load("memory/libc10_cuda.so");
    epg_scope_table *table = table_of(0, NULL, 0);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_ERR_UNSUPPORTED);
    assert_message("PyTorch: returns a stream through memory");
    epg_scope_table_destroy(table);
    dlclose(library);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pool_stream_of_pytorch_comes_back_as_itself),
        cmocka_unit_test(pytorch_is_not_asked_for_a_gpu_that_it_has_not),
        cmocka_unit_test(pytorch_that_does_not_take_a_stream_is_noticed),
        cmocka_unit_test(another_convention_under_pytorchs_names_is_found_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
