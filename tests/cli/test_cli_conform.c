/* `epgraph conform`: the table it prints, the files it compares with, and what it says of files that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "support/command.h"

#define TRUTH "tests/data/capture_h200.csv"
#define COLUMNS "mode,stream,thread,op,op_result,status_after,end_result,nodes\n"

static void put(void **state, const char *name, const char *text) { write_file(state, name, text, strlen(text)); }

static void test_table(void **state)
{
    size_t bytes;
    expect(state, "conform --csv=@/out.csv", 0, NULL);
    char *text = read_file(state, "out.csv", &bytes);
    size_t lines = 0;
    for (const char *at = text; (at = strchr(at, '\n')); at++)
        lines++;
    assert_int_equal(lines, 901);
    assert_int_equal(strncmp(text, COLUMNS, strlen(COLUMNS)), 0);
    assert_non_null(strstr(text, "\nglobal,blocking,same,launch_legacy,906,invalidated,901,0\n"));
    assert_non_null(strstr(text, "\nrelaxed,nonblocking,other,launch_legacy,0,active,0,1\n"));
    free(text);
    expect(state, "conform > @/stdout.csv && cmp @/stdout.csv @/out.csv", 0, NULL);
    expect(state, "conform --against=@/out.csv", 0, "900 equal, 0 differ, 0 not comparable");
}

static void test_driver(void **state)
{
    expect(state, "conform --device=host --against=" TRUTH, 0, "900 rows of " TRUTH ": 900 equal, 0 differ");
}

static void test_differences(void **state)
{
    put(state, "doctored.csv", "# a comment\n" COLUMNS "global,blocking,same,none,0,active,0,1\r\n"
                               "global,blocking,same,malloc,0,active,0,1\n");
    expect(state, "conform --against=@/doctored.csv", 1, "-global,blocking,same,malloc,0,active,0,1\n"
                                                         "+global,blocking,same,malloc,900,invalidated,901,0\n");
    expect(state, "conform --against=@/doctored.csv", 1, "2 rows of");
    expect(state, "conform --against=@/doctored.csv", 1, "1 equal, 1 differ, 0 not comparable");
    expect(state, "conform --against=@/doctored.csv --csv=@/too.csv", 1, "1 differ");
    expect(state, "conform --against=@/too.csv", 0, "900 equal"); /* the file is written all the same */
}

static void test_hang(void **state)
{
    put(state, "hang.csv", COLUMNS "relaxed,blocking,other,launch_perthread,hang,,,\n"
                                   "global,blocking,same,none,0,active,0,1\n");
    expect(state, "conform --against=@/hang.csv", 0,
           "relaxed,blocking,other,launch_perthread; this device: 0,active,0,1");
    expect(state, "conform --against=@/hang.csv", 0, "1 equal, 0 differ, 1 not comparable");
}

static void test_bad_input(void **state)
{
    put(state, "empty.csv", "");
    put(state, "columns.csv", "mode,stream\n");
    put(state, "headed.csv", COLUMNS "\n");
    put(state, "short.csv", COLUMNS "global,blocking,same,none,0,active\n");
    put(state, "unknown.csv", COLUMNS "global,blocking,same,fly,0,active,0,1\n");
    expect(state, "conform --help", 0, "--against");
    expect(state, "conform --frob", 2, "--frob");
    expect(state, "conform extra", 2, "extra");
    expect(state, "conform --device gpu", 2, "gpu");
    expect(state, "conform --device cuda", 2, "epgraph conform: "); /* no GPU is visible here */
    expect(state, "conform --against=@/none.csv", 2, "none.csv");
    expect(state, "conform --against=@", 2, "cannot be read");
    expect(state, "conform --against=@/empty.csv", 2, "without a row");
    expect(state, "conform --against=@/headed.csv", 2, "line 2: the file ends without a row");
    expect(state, "conform --against=@/columns.csv", 2, "line 1: the columns are not mode,");
    expect(state, "conform --against=@/short.csv", 2, "line 2: not a row of eight fields");
    expect(state, "conform --against=@/unknown.csv", 2, "line 2: no row of the table");
    expect(state, "conform --csv=@/no/such/folder", 2, "no/such/folder");
    expect(state, "conform --csv=/dev/full", 1, "/dev/full");
}

int main(void)
{
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_driver),
                                       cmocka_unit_test(test_differences), cmocka_unit_test(test_hang),
                                       cmocka_unit_test(test_bad_input)};
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
