/* `epgraph simulate`: some hundreds of seeds of every kind of fault, its arguments, and that a seed repeats its run.
 * What a failure prints is tested where there is one: multi/test_mutants.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "support/command.h"

/* Sanitizers take their time. */
static int seeds(int many, int sanitized)
{
    const char *build = getenv("EPGRAPH_BUILD");
    return build && strlen(build) > 3 && !strcmp(build + strlen(build) - 3, "san") ? sanitized : many;
}

static void all_seeds_are_right(void **state)
{
    static const char *const kinds[] = {"none", "slow", "stop", "die", "join", "abandon", "wrap", "late", "any"};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        char arguments[128];
        snprintf(arguments, sizeof arguments, "simulate --seeds=1..%d --fault=%s", seeds(400, 20), kinds[i]);
        expect(state, arguments, 0, "seeds per minute");
    }
}

static void other_sizes_are_right_too(void **state)
{
    for (int ranks = 1; ranks <= 8; ranks++) {
        char arguments[128];
        snprintf(arguments, sizeof arguments, "simulate --ranks=%d --pairs=%d --seeds=1..%d", ranks, 1 + 3 * ranks,
                 seeds(60, 3));
        expect(state, arguments, 0, "seeds per minute");
    }
}

/* The line that begins with `name`, without what stands in it of time. */
static void line_of(const outcome *o, const char *name, char *line, size_t bytes)
{
    const char *at = strstr(o->text, name);
    assert_non_null(at);
    snprintf(line, bytes, "%.*s", (int)strcspn(at, "\n"), at);
}

static void a_seed_repeats_its_run(void **state)
{
    char first[200], second[200], other[200];
    outcome a = run(state, "simulate --seeds=5..60"), b = run(state, "simulate --seeds=5..60");
    outcome c = run(state, "simulate --seeds=5..61");
    line_of(&a, "digest", first, sizeof first);
    line_of(&b, "digest", second, sizeof second);
    line_of(&c, "digest", other, sizeof other);
    assert_string_equal(first, second);
    assert_string_not_equal(first, other);
    line_of(&a, "moves", first, sizeof first);
    line_of(&b, "moves", second, sizeof second);
    assert_string_equal(first, second);
}

static void the_programs_hold_what_is_claimed(void **state)
{
    char arguments[64];
    snprintf(arguments, sizeof arguments, "simulate --seeds=1..%d", seeds(400, 100));
    outcome o = run(state, arguments);
    assert_int_equal(o.code, 0);
    assert_null(strstr(o.text, " 0 met LL with HT"));
    assert_null(strstr(o.text, " 0 joined again"));
    assert_null(strstr(o.text, " 0 died"));
    assert_null(strstr(o.text, " 0 stopped"));
    assert_null(strstr(o.text, " 0 of an odd number"));
    assert_null(strstr(o.text, " 0 by a runner"));
    assert_null(strstr(o.text, " 0 tokens flagged"));
    assert_null(strstr(o.text, " 0 late stores"));
    assert_null(strstr(o.text, " 0 fp8"));
    assert_null(strstr(o.text, " 0 opaque"));
}

static void bad_arguments_are_named(void **state)
{
    expect(state, "simulate --help", 0, "--seeds");
    expect(state, "simulate --ranks=9", 2, "\"9\" is not in 1..8");
    expect(state, "simulate --pairs=x", 2, "\"x\"");
    expect(state, "simulate --seeds=7..3", 2, "\"7..3\" is empty");
    expect(state, "simulate --seeds=7..", 2, "\"7..\"");
    expect(state, "simulate --fault=fire", 2, "\"fire\"");
    expect(state, "simulate now", 2, "\"now\"");
    expect(state, "simulate --program=@/none", 2, "none");
    expect(state, "simulate --seeds=1 --trace=@/no/file", 2, "no/file");
}

static void programs_are_read(void **state)
{
    static const char good[] =
        "# one pair of two ranks\n"
        "program ranks=2 pairs=1 lanes=1 experts=1 logical=2 hidden=8 topk=1 tokens=2 slots=2 skew=2\n"
        "lanes 0\nrank 0 align=1 timeout_ms=4 slow=1 layout=masked\npart 0 0 mode=HT bucket=2 tokens=2\n"
        "rank 1 align=1 timeout_ms=4 slow=1\npart 1 0 bucket=1 tokens=1\n";
    size_t bytes;
    write_file(state, "good", good, sizeof good - 1);
    expect(state, "simulate --program=@/good --trace=@/trace", 0, "1 met LL with HT");
    char *trace = read_file(state, "trace", &bytes);
    assert_non_null(strstr(trace, "rank 1 stream 0"));
    free(trace);
    write_file(state, "bad", "program ranks=2 pears=1\n", 24);
    expect(state, "simulate --program=@/bad", 2, "line 1: there is no field \"pears\"");
    write_file(state, "bad", "program ranks=20\n", 17);
    expect(state, "simulate --program=@/bad", 2, "\"20\" is not in 1..8");
    write_file(state, "bad", "lanes\n", 6);
    expect(state, "simulate --program=@/bad", 2, "it has no line \"program\"");
    write_file(state, "bad", "program ranks=2 pairs=1\n", 24);
    expect(state, "simulate --program=@/bad", 2, "do not fit together");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_seeds_are_right),       cmocka_unit_test(other_sizes_are_right_too),
        cmocka_unit_test(a_seed_repeats_its_run),    cmocka_unit_test(the_programs_hold_what_is_claimed),
        cmocka_unit_test(bad_arguments_are_named),   cmocka_unit_test(programs_are_read),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
