/* The table, what is found, all or none: with libraries that stand in for TVM-FFI, and with runtimes of the caller's.
 * test_scope_NAME.c are the other runtimes; test_scope_threads.c order and threads, test_scope_verify.c the rest. */
#include <dlfcn.h>
#include <string.h>
#include "scope/scope_ops.h"
#include "support/oom.h"
#include "support/scopes.h"

/* ---- what is there ---- */

static void what_is_not_loaded_is_absent_and_stays_so(void **state)
{
    (void)state;
    epg_scope_report report = EPG_SCOPE_REPORT_INIT;
    epg_scope_table *table = NULL;
    epg_scope *scope = NULL;
    assert_int_equal(epg_scope_table_create(NULL, &table), EPG_OK);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &scope), EPG_OK);
    assert_int_equal(report.count, 5);
    for (uint32_t i = 0; i < report.count; i++) {
        assert_int_equal(report.entries[i].state, EPG_SCOPE_ABSENT);
        assert_string_equal(report.entries[i].reason, "");
    }
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    void *library = NULL;
    assert_int_equal(epg__scope_library_open("libtvm_ffi.so", &library), EPG_OK);
    assert_null(library);
    epg_scope_table_destroy(table);
}

static void a_library_loaded_later_is_found(void **state)
{
    (void)state;
    epg_scope_report report = EPG_SCOPE_REPORT_INIT;
    epg_scope_table *table = table_of(0, NULL, 0);
    epg_scope *scope = NULL;
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &scope), EPG_OK);
    assert_int_equal(entry_of(&report, "TVM-FFI")->state, EPG_SCOPE_ABSENT);
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    tvm t = load_tvm("now", "TVMFFIEnvGetStream");
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &scope), EPG_OK);
    assert_int_equal(entry_of(&report, "TVM-FFI")->state, EPG_SCOPE_SET);
    assert_ptr_equal(t.get(2, DEVICE), STREAM(1));
    /* Nor is it gone while the table has it. */
    assert_int_equal(dlclose(t.handle), 0);
    assert_ptr_equal(t.get(2, DEVICE), STREAM(1));
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    epg_scope_table_destroy(table);
}

static void a_symbol_comes_from_the_library_that_owns_it(void **state)
{
    (void)state;
    void *library = standin_load("now/libtvm_ffi.so");
    assert_non_null(dlsym(library, "getenv")); /* the C library's, which every library depends on */
    assert_null(epg__scope_symbol(library, "getenv"));
    assert_non_null(epg__scope_symbol(library, "TVMFFIEnvSetStream"));
    assert_null(epg__scope_symbol(library, "no_such_symbol"));
    dlclose(library);
}

static void a_library_that_is_loaded_twice_is_unsupported(void **state)
{
    (void)state;
    epg_scope *scope = NULL;
    tvm one = load_tvm("now", "TVMFFIEnvGetStream"), other = load_tvm("former", "TVMFFIEnvGetCurrentStream");
    epg_scope_table *table = table_of(0, NULL, 0);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_ERR_UNSUPPORTED);
    assert_message("TVM-FFI: loaded twice: ");
    assert_message("now/libtvm_ffi.so and ");
    assert_null(one.get(2, DEVICE));
    assert_null(other.get(2, DEVICE));
    epg_scope_table_destroy(table);
    dlclose(one.handle);
    dlclose(other.handle);
}

static void cupy_without_an_interpreter_is_unsupported(void **state)
{
    (void)state;
    epg_scope *scope = NULL;
    void *library = standin_load("bare/cupy_backends/cuda/stream.so");
    epg_scope_table *table = table_of(0, NULL, 0);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_ERR_UNSUPPORTED);
    assert_string_equal(epg_message(), "CuPy: loaded, and there is no Python interpreter in the process");
    epg_scope_table_destroy(table);
    dlclose(library);
}

/* ---- TVM-FFI ---- */

static void check_tvm(const char *generation, const char *getter)
{
    tvm t = load_tvm(generation, getter);
    epg_scope_table *table = table_of(0, NULL, 0);
    epg_scope *outer = NULL, *inner = NULL;
    t.set(2, DEVICE, STREAM(7), NULL);
    t.set(2, DEVICE + 1, STREAM(8), NULL);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &outer), EPG_OK);
    assert_ptr_equal(t.get(2, DEVICE), STREAM(1));
    assert_int_equal(epg_scope_enter(table, DEVICE, EPG_STREAM_LEGACY, NULL, &inner), EPG_OK);
    assert_null(t.get(2, DEVICE));
    assert_int_equal(epg_scope_leave(inner), EPG_OK);
    assert_ptr_equal(t.get(2, DEVICE), STREAM(1));
    t.set(2, DEVICE, STREAM(9), NULL); /* what is set inside and not put back does not outlive the scope */
    assert_int_equal(epg_scope_leave(outer), EPG_OK);
    assert_ptr_equal(t.get(2, DEVICE), STREAM(7));
    assert_ptr_equal(t.get(2, DEVICE + 1), STREAM(8));
    epg_scope_table_destroy(table);
    dlclose(t.handle);
}

static void tvm_ffi_is_set_and_put_back(void **state)
{
    (void)state;
    check_tvm("now", "TVMFFIEnvGetStream");
}

static void tvm_ffi_with_its_former_names_too(void **state)
{
    (void)state;
    check_tvm("former", "TVMFFIEnvGetCurrentStream");
}

static void tvm_ffi_without_its_interface_is_unsupported(void **state)
{
    (void)state;
    epg_scope_report report = EPG_SCOPE_REPORT_INIT;
    epg_scope *scope = NULL;
    void *library = standin_load("bare/libtvm_ffi.so");
    epg_scope_table *table = table_of(0, NULL, 0);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &scope), EPG_ERR_UNSUPPORTED);
    assert_message("TVM-FFI: the library has no TVMFFIEnvSetStream");
    assert_int_equal(entry_of(&report, "TVM-FFI")->state, EPG_SCOPE_UNSUPPORTED);
    assert_string_equal(entry_of(&report, "TVM-FFI")->reason, "the library has no TVMFFIEnvSetStream");
    assert_null(scope);
    epg_scope_table_destroy(table);
    dlclose(library);
}

static void a_set_that_fails_or_does_nothing_is_noticed(void **state)
{
    (void)state;
    epg_scope *scope = NULL;
    tvm t = load_tvm("now", "TVMFFIEnvGetStream");
    epg_scope_table *table = table_of(0, NULL, 0);
    t.set(2, DEVICE, STREAM(7), NULL);
    t.behave(STANDIN_REFUSE);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_ERR_UNSUPPORTED);
    assert_message("TVM-FFI: TVMFFIEnvSetStream gave -1 for stream 0x1000");
    t.behave(STANDIN_IGNORE);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_ERR_UNSUPPORTED);
    assert_message("TVM-FFI: reads back 0x7000 after stream 0x1000 was set");
    t.behave(STANDIN_OBEY);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_OK);
    t.behave(STANDIN_IGNORE);
    assert_int_equal(epg_scope_leave(scope), EPG_ERR_UNSUPPORTED);
    assert_message("TVM-FFI: reads back 0x1000 after stream 0x7000 was set");
    epg_scope_table_destroy(table);
    dlclose(t.handle);
}

/* ---- runtimes of the caller's, and all or none ---- */

static void runtimes_are_put_back_in_reverse(void **state)
{
    (void)state;
    fake_log calls = {""};
    fake a = {.letter = 'a', .calls = &calls, .now = STREAM(5)}, b = {.letter = 'b', .calls = &calls};
    epg_scope_runtime runtimes[] = {runtime_of("first", &a), runtime_of("second", &b)};
    epg_scope_report report = EPG_SCOPE_REPORT_INIT;
    epg_scope_table *table = table_of(0, runtimes, 2);
    epg_scope *scope = NULL;
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &scope), EPG_OK);
    assert_int_equal(report.count, 7);
    assert_int_equal(entry_of(&report, "first")->state, EPG_SCOPE_SET);
    assert_ptr_equal(a.now, STREAM(1));
    assert_ptr_equal(b.now, STREAM(1));
    a.now = STREAM(3);
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    assert_ptr_equal(a.now, STREAM(5));
    assert_null(b.now);
    assert_string_equal(calls.text, "sasbrbra");
    epg_scope_table_destroy(table);
}

static void one_that_cannot_be_set_leaves_none_set(void **state)
{
    (void)state;
    fake_log calls = {""};
    fake a = {.letter = 'a', .calls = &calls, .now = STREAM(5)}, c = {.letter = 'c', .calls = &calls};
    fake b = {.letter = 'b', .calls = &calls, .set_gives = EPG_ERR_STATE};
    epg_scope_runtime runtimes[] = {runtime_of("first", &a), runtime_of("second", &b), runtime_of("third", &c)};
    epg_scope_report report = EPG_SCOPE_REPORT_INIT;
    tvm t = load_tvm("now", "TVMFFIEnvGetStream");
    epg_scope_table *table = table_of(0, runtimes, 3);
    epg_scope *scope = NULL;
    t.set(2, DEVICE, STREAM(7), NULL);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &scope), EPG_ERR_UNSUPPORTED);
    assert_string_equal(epg_message(), "second: set gave EPG_ERR_STATE");
    assert_null(scope);
    assert_string_equal(calls.text, "sasbscrcra");
    assert_ptr_equal(a.now, STREAM(5));
    assert_null(c.now);
    assert_ptr_equal(t.get(2, DEVICE), STREAM(7));
    assert_int_equal(entry_of(&report, "first")->state, EPG_SCOPE_SET);
    assert_int_equal(entry_of(&report, "second")->state, EPG_SCOPE_UNSUPPORTED);
    assert_string_equal(entry_of(&report, "second")->reason, "set gave EPG_ERR_STATE");
    assert_int_equal(entry_of(&report, "third")->state, EPG_SCOPE_SET);

    a.restore_gives = EPG_ERR_IO;
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_ERR_UNSUPPORTED);
    assert_message("second: set gave EPG_ERR_STATE; and what was set before could not be put back: first: restore");
    epg_scope_table_destroy(table);
    dlclose(t.handle);
}

static void best_effort_sets_what_can_be_set(void **state)
{
    (void)state;
    fake a = {.now = STREAM(5)}, b = {.ignores = 1, .now = STREAM(6)}, c = {.get_gives = EPG_ERR_IO};
    epg_scope_runtime runtimes[] = {runtime_of("first", &a), runtime_of("second", &b), runtime_of("third", &c)};
    epg_scope_report report = EPG_SCOPE_REPORT_INIT;
    void *library = standin_load("bare/libtvm_ffi.so"), *warp = standin_load("bare/warp/bin/warp.so");
    epg_scope_table *table = table_of(1, runtimes, 3);
    epg_scope *scope = NULL;
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &scope), EPG_OK);
    assert_int_equal(entry_of(&report, "TVM-FFI")->state, EPG_SCOPE_UNSUPPORTED);
    assert_int_equal(entry_of(&report, "Warp")->state, EPG_SCOPE_UNSUPPORTED);
    assert_int_equal(entry_of(&report, "CuPy")->state, EPG_SCOPE_ABSENT);
    assert_non_null(strstr(entry_of(&report, "Warp")->reason, "cannot set it"));
    assert_string_equal(entry_of(&report, "second")->reason, "reads back 0x6000 after set, which should be 0x1000");
    assert_string_equal(entry_of(&report, "third")->reason, "get gave EPG_ERR_IO");
    assert_ptr_equal(a.now, STREAM(1));
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    assert_ptr_equal(a.now, STREAM(5));
    assert_ptr_equal(b.now, STREAM(6));
    epg_scope_table_destroy(table);
    dlclose(warp);
    dlclose(library);
}

static void a_runtime_of_the_same_name_replaces_a_built_in_one(void **state)
{
    (void)state;
    fake a = {.now = STREAM(5)};
    epg_scope_runtime runtime = runtime_of("Warp", &a);
    epg_scope_report report = EPG_SCOPE_REPORT_INIT;
    void *warp = standin_load("bare/warp/bin/warp.so");
    epg_scope_table *table = table_of(0, &runtime, 1);
    epg_scope *scope = NULL;
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &scope), EPG_OK);
    assert_int_equal(report.count, 5);
    assert_int_equal(entry_of(&report, "Warp")->state, EPG_SCOPE_SET);
    assert_ptr_equal(a.now, STREAM(1));
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    epg_scope_table_destroy(table);
    dlclose(warp);
}

static void a_leave_that_fails_puts_the_others_back(void **state)
{
    (void)state;
    fake a = {.now = STREAM(5)}, b = {.now = STREAM(6)};
    epg_scope_runtime runtimes[] = {runtime_of("first", &a), runtime_of("second", &b)};
    epg_scope_table *table = table_of(0, runtimes, 2);
    epg_scope *scope = NULL;
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_OK);
    b.restore_gives = EPG_ERR_IO;
    assert_int_equal(epg_scope_leave(scope), EPG_ERR_UNSUPPORTED);
    assert_string_equal(epg_message(), "second: restore gave EPG_ERR_IO");
    assert_ptr_equal(a.now, STREAM(5));
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(2), NULL, &scope), EPG_OK); /* nothing is left open */
    b.restore_gives = EPG_OK;
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    epg_scope_table_destroy(table);
}

/* ---- arguments and memory ---- */

static void bad_arguments_are_named(void **state)
{
    (void)state;
    fake a = {.now = NULL};
    epg_scope_runtime runtimes[] = {runtime_of("mine", &a), runtime_of("mine", &a)};
    epg_scope_options options = EPG_SCOPE_OPTIONS_INIT;
    epg_scope_report report = {0};
    epg_scope_table *table = NULL;
    epg_scope *scope = NULL;
    options.runtimes = runtimes, options.runtime_count = 2;
    assert_int_equal(epg_scope_table_create(&options, &table), EPG_ERR_INVALID);
    assert_message("both named mine");
    options.runtime_count = 13;
    assert_int_equal(epg_scope_table_create(&options, &table), EPG_ERR_INVALID);
    assert_message("runtime_count is 13, above 11");
    options.runtime_count = 1;
    runtimes[0].restore = NULL;
    assert_int_equal(epg_scope_table_create(&options, &table), EPG_ERR_INVALID);
    assert_message("runtime mine has no restore");
    runtimes[0].name = "a name that is longer than it may be";
    assert_int_equal(epg_scope_table_create(&options, &table), EPG_ERR_INVALID);
    assert_int_equal(epg_scope_table_create(NULL, NULL), EPG_ERR_INVALID);
    table = table_of(0, NULL, 0);
    assert_int_equal(epg_scope_enter(NULL, DEVICE, STREAM(1), NULL, &scope), EPG_ERR_INVALID);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, NULL), EPG_ERR_INVALID);
    assert_int_equal(epg_scope_enter(table, -1, STREAM(1), NULL, &scope), EPG_ERR_INVALID);
    assert_message("ordinal is -1");
    assert_int_equal(epg_scope_enter(table, 128, STREAM(1), NULL, &scope), EPG_ERR_INVALID);
    assert_int_equal(epg_scope_enter(table, DEVICE, (epg_stream)(uintptr_t)0x1003, NULL, &scope), EPG_ERR_INVALID);
    assert_message("0x1003");
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &scope), EPG_ERR_INVALID);
    assert_message("report->size is 0");
    assert_null(scope);
    epg_scope_table_destroy(table);
    epg_scope_table_destroy(NULL);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    int failures = 0;
    fake a = {.now = STREAM(5)};
    epg_scope_runtime runtime = runtime_of("mine", &a);
    epg_scope_options options = EPG_SCOPE_OPTIONS_INIT;
    options.runtimes = &runtime, options.runtime_count = 1;
    for (long nth = 0;; nth++) {
        epg_scope_table *table = NULL;
        epg_scope *scope = NULL;
        oom_track_start();
        oom_fail_at(nth);
        epg_status status = epg_scope_table_create(&options, &table);
        if (status == EPG_OK)
            status = epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope);
        int delivered = oom_stop();
        assert_int_equal(status, delivered ? EPG_ERR_NO_MEMORY : EPG_OK);
        assert_ptr_equal(a.now, delivered ? STREAM(5) : STREAM(1));
        assert_int_equal(epg_scope_leave(scope), EPG_OK);
        epg_scope_table_destroy(table);
        assert_int_equal(oom_tracked(), 0);
        if (!delivered)
            break;
        failures++;
    }
    assert_int_equal(failures, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_loaded_is_absent_and_stays_so),
        cmocka_unit_test(a_library_loaded_later_is_found),
        cmocka_unit_test(a_symbol_comes_from_the_library_that_owns_it),
        cmocka_unit_test(a_library_that_is_loaded_twice_is_unsupported),
        cmocka_unit_test(cupy_without_an_interpreter_is_unsupported),
        cmocka_unit_test(tvm_ffi_is_set_and_put_back),
        cmocka_unit_test(tvm_ffi_with_its_former_names_too),
        cmocka_unit_test(tvm_ffi_without_its_interface_is_unsupported),
        cmocka_unit_test(a_set_that_fails_or_does_nothing_is_noticed),
        cmocka_unit_test(runtimes_are_put_back_in_reverse),
        cmocka_unit_test(one_that_cannot_be_set_leaves_none_set),
        cmocka_unit_test(best_effort_sets_what_can_be_set),
        cmocka_unit_test(a_runtime_of_the_same_name_replaces_a_built_in_one),
        cmocka_unit_test(a_leave_that_fails_puts_the_others_back),
        cmocka_unit_test(bad_arguments_are_named),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
