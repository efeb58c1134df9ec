/* The watchdog of `epgraph conform`: a device that hangs, and one that dies, in the middle of the table. The device's
 * part is played by the function that stands in for epg_conform_run (the Makefile links it so). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>
#include "../../cli/conform.h"

enum { PATIENCE_MS = 3000, NONE = -1 };

/* What the device does, of the parent before it forks. */
static struct script {
    uint32_t hangs_at[2];
    int dies_at, fails_at; /* NONE: nowhere */
} script;

epg_status __wrap_epg_conform_run(epg_device *device, const epg_conform_options *options,
                                  void (*emit)(void *ctx, const epg_conform_row *row), void *ctx);
epg_status __wrap_epg_conform_run(epg_device *device, const epg_conform_options *options,
                                  void (*emit)(void *ctx, const epg_conform_row *row), void *ctx)
{
    (void)device;
    for (uint32_t i = options->first; i < epg_conform_count(); i++) {
        epg_conform_row row = EPG_CONFORM_ROW_INIT;
        while (i == script.hangs_at[0] || i == script.hangs_at[1])
            pause();
        if ((int)i == script.dies_at)
            raise(SIGKILL);
        if ((int)i == script.fails_at)
            return EPG_ERR_NO_MEMORY;
        if (epg_conform_describe(i, &row) != EPG_OK)
            return EPG_ERR_INVALID;
        row.op_result = (int)i;
        row.status_after = EPG_CAPTURE_ACTIVE;
        emit(ctx, &row);
    }
    return EPG_OK;
}

static int ask(conform_table *table)
{
    epg_device_options device = EPG_DEVICE_OPTIONS_INIT;
    table->count = 0;
    table->lines = calloc(epg_conform_count(), sizeof *table->lines);
    assert_non_null(table->lines);
    return conform_ask("test", &device, PATIENCE_MS, table);
}

static void rows_that_hang_are_named_and_passed_by(void **state)
{
    conform_table table;
    (void)state;
    script = (struct script){{3, 899}, NONE, NONE};
    assert_int_equal(ask(&table), CLI_OK);
    assert_int_equal(table.count, 900);
    for (uint32_t i = 0; i < 900; i++) {
        char expected[CONFORM_TEXT];
        bool hung = i == 3 || i == 899;
        snprintf(expected, sizeof expected, hung ? "hang,,," : "%u,active,0,0", i);
        assert_string_equal(table.lines[i].answer, expected);
        assert_int_equal(table.lines[i].hung, hung);
    }
    assert_string_equal(table.lines[3].key, "global,blocking,same,launch_perthread");
    assert_string_equal(table.lines[899].key, "relaxed,nonblocking,other,cross_event_record_then_query_from_pre");
    free(table.lines);
}

static void a_device_that_dies_is_a_failure(void **state)
{
    conform_table table;
    (void)state;
    script = (struct script){{UINT32_MAX, UINT32_MAX}, 5, NONE};
    assert_int_equal(ask(&table), CLI_FAILED);
    assert_int_equal(table.count, 5);
    free(table.lines);
}

static void a_row_that_cannot_be_asked_is_a_failure(void **state)
{
    conform_table table;
    (void)state;
    script = (struct script){{UINT32_MAX, UINT32_MAX}, NONE, 7};
    assert_int_equal(ask(&table), CLI_FAILED);
    assert_int_equal(table.count, 7);
    free(table.lines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_that_hang_are_named_and_passed_by),
                                       cmocka_unit_test(a_device_that_dies_is_a_failure),
                                       cmocka_unit_test(a_row_that_cannot_be_asked_is_a_failure)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
