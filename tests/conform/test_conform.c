/* The device under test answers every row of the conformance table as a CUDA driver did (tests/data/capture_h200.csv).
 *
 * EPGRAPH_CAPTURE_TRUTH may name another table of the same columns, whole or in part, to be compared as well; rows in
 * which its driver hung are left out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "epgraph/conform.h"
#include "support/device_under_test.h"

#define TRUTH "tests/data/capture_h200.csv"
#define RULES "docs/capture-rules.md"
enum { ROWS = 900, LINE = 160 };

typedef struct table {
    uint32_t count;
    char rows[ROWS][LINE];
} table;

static void note(void *ctx, const epg_conform_row *row)
{
    static const char *const modes[] = {"global", "thread_local", "relaxed"};
    static const char *const kinds[] = {"blocking", "nonblocking"}, *const threads[] = {"same", "other"};
    static const char *const states[] = {"none", "active", "invalidated"};
    table *t = ctx;
    assert_int_equal(row->index, t->count);
    assert_true(t->count < ROWS);
    snprintf(t->rows[t->count++], LINE, "%s,%s,%s,%s,%d,%s,%d,%d", modes[row->mode], kinds[row->stream],
             threads[row->other_thread], row->op, row->op_result, states[row->status_after], row->end_result,
             (int)row->nodes);
}

static const char *find(const table *t, const char *line)
{
    size_t key = 0;
    for (int commas = 0; line[key] && commas < 4; key++)
        commas += line[key] == ',';
    for (uint32_t i = 0; i < t->count; i++)
        if (!strncmp(t->rows[i], line, key))
            return t->rows[i];
    fail_msg("the table has no row for \"%s\"", line);
    return NULL;
}

/* How many of the file's rows are as they should be. */
static uint32_t compare(const table *t, const char *path, uint32_t *hung)
{
    char line[LINE];
    uint32_t equal = 0, wrong = 0;
    FILE *file = fopen(path, "r");
    if (!file)
        fail_msg("%s cannot be read", path);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        if (line[0] == '#' || !strncmp(line, "mode,", 5))
            continue;
        const char *row = find(t, line);
        if (strstr(line, ",hang,")) {
            ++*hung;
        } else if (strcmp(row, line)) {
            print_error("%s: %s\nthe device: %s\n", path, line, row);
            wrong++;
        } else {
            equal++;
        }
    }
    fclose(file);
    assert_int_equal(wrong, 0);
    return equal;
}

static void ask_all(table *t)
{
    epg_device *device;
    memset(t, 0, sizeof *t);
    assert_int_equal(test_device_create(&device), EPG_OK);
    assert_int_equal(epg_conform_run(device, NULL, note, t), EPG_OK);
    epg_device_destroy(device);
}

static void every_row_is_the_drivers(void **state)
{
    table *t = *state;
    uint32_t hung = 0;
    ask_all(t);
    assert_int_equal(t->count, epg_conform_count());
    assert_int_equal(t->count, ROWS);
    assert_int_equal(compare(t, TRUTH, &hung), ROWS);
    assert_int_equal(hung, 0);
}

static void another_table_may_be_compared(void **state)
{
    const char *path = getenv("EPGRAPH_CAPTURE_TRUTH");
    table *t = *state;
    uint32_t hung = 0;
    if (!path)
        skip();
    ask_all(t);
    uint32_t equal = compare(t, path, &hung);
    assert_true(equal > 0);
    print_message("%s: %u rows are equal, %u hung their driver\n", path, equal, hung);
}

/* Rows do not lean on one another: a run that begins anywhere gives the same answers. */
static void rows_stand_alone(void **state)
{
    table *whole = *state, *part = calloc(1, sizeof *part);
    epg_conform_options options = EPG_CONFORM_OPTIONS_INIT;
    epg_device *device;
    assert_non_null(part);
    ask_all(whole);
    assert_int_equal(test_device_create(&device), EPG_OK);
    options.first = part->count = 437;
    assert_int_equal(epg_conform_run(device, &options, note, part), EPG_OK);
    assert_int_equal(part->count, ROWS);
    for (uint32_t i = options.first; i < ROWS; i++)
        assert_string_equal(part->rows[i], whole->rows[i]);
    options.first = ROWS;
    assert_int_equal(epg_conform_run(device, &options, note, part), EPG_OK); /* nothing is left to ask */
    epg_device_destroy(device);
    free(part);
}

static void every_operation_has_a_rule(void **state)
{
    static char text[65536];
    FILE *file = fopen(RULES, "r");
    (void)state;
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    for (uint32_t i = 0; i < epg_conform_count(); i++) {
        epg_conform_row row = EPG_CONFORM_ROW_INIT;
        char quoted[80];
        assert_int_equal(epg_conform_describe(i, &row), EPG_OK);
        snprintf(quoted, sizeof quoted, "`%s`", row.op);
        if (!strstr(text, quoted))
            fail_msg(RULES " names no rule for %s", row.op);
    }
}

static void bad_arguments(void **state)
{
    epg_conform_options options = EPG_CONFORM_OPTIONS_INIT;
    epg_conform_row row = EPG_CONFORM_ROW_INIT;
    epg_device *device;
    assert_int_equal(test_device_create(&device), EPG_OK);
    assert_int_equal(epg_conform_run(NULL, NULL, note, *state), EPG_ERR_INVALID);
    assert_int_equal(epg_conform_run(device, NULL, NULL, *state), EPG_ERR_INVALID);
    options.first = ROWS + 1;
    assert_int_equal(epg_conform_run(device, &options, note, *state), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "901"));
    options.size = 0;
    assert_int_equal(epg_conform_run(device, &options, note, *state), EPG_ERR_INVALID);
    assert_int_equal(epg_conform_describe(ROWS, &row), EPG_ERR_INVALID);
    assert_int_equal(epg_conform_describe(0, NULL), EPG_ERR_INVALID);
    assert_int_equal(epg_conform_describe(ROWS - 1, &row), EPG_OK);
    assert_int_equal(row.mode, EPG_CAPTURE_RELAXED);
    assert_int_equal(row.stream, EPG_STREAM_NONBLOCKING);
    assert_int_equal(row.other_thread, 1);
    assert_string_equal(row.op, "cross_event_record_then_query_from_pre");
    epg_device_destroy(device);
}

static int setup(void **state) { return (*state = calloc(1, sizeof(table))) == NULL; }
static int teardown(void **state)
{
    free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_the_drivers),
        cmocka_unit_test(another_table_may_be_compared),
        cmocka_unit_test(rows_stand_alone),
        cmocka_unit_test(every_operation_has_a_rule),
        cmocka_unit_test(bad_arguments),
    };
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, setup, teardown);
}
