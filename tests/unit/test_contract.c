/* docs/replay-contract.md: every sentence names its test, or says that nothing can detect it; every named test exists
 * and is run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { LINE = 1024, SOURCE = 1 << 20 };

static char *source_of(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = calloc(1, SOURCE);
    if (file && text) {
        size_t read = fread(text, 1, SOURCE - 1, file);
        text[read] = 0;
        fclose(file);
        return text;
    }
    free(text);
    if (file)
        fclose(file);
    return NULL;
}

/* 1 where `path` defines the test and gives it to cmocka. */
static int test_exists(const char *path, const char *name)
{
    char definition[512], use[512];
    char *source = source_of(path);
    snprintf(definition, sizeof definition, "static void %s(void **state)", name);
    snprintf(use, sizeof use, "_TEST(%s)", name); /* a macro of the program's own, with set-up and tear-down */
    int found = source && strstr(source, definition) && strstr(source, use);
    snprintf(use, sizeof use, "cmocka_unit_test(%s)", name);
    found |= source && strstr(source, definition) && strstr(source, use);
    free(source);
    return found;
}

/* A sentence is one line, "- ... [path: function]". 0: it has its test, 1: it is one that nothing can detect. */
static int check_sentence(const char *line)
{
    char path[256], name[256];
    const char *bracket = strrchr(line, '[');
    if (strstr(line, "(not detectable)"))
        return 1;
    if (!bracket || sscanf(bracket, "[%255[^:]: %255[a-z0-9_]]", path, name) != 2) {
        fail_msg("names no test: %s", line);
        return 0;
    }
    if (!test_exists(path, name))
        fail_msg("%s has no test %s", path, name);
    return 0;
}

static void every_sentence_has_its_test(void **state)
{
    (void)state;
    char line[LINE];
    int sentences = 0, undetectable = 0;
    FILE *file = fopen("docs/replay-contract.md", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        assert_non_null(strchr(line, '\n'));
        if (strncmp(line, "- ", 2))
            continue;
        sentences++;
        undetectable += check_sentence(line);
    }
    fclose(file);
    assert_true(sentences >= 40);
    assert_true(undetectable * 4 < sentences);
}

static void a_test_that_is_missing_or_not_run_is_found(void **state)
{
    (void)state;
    assert_true(test_exists("tests/unit/test_contract.c", "every_sentence_has_its_test"));
    assert_false(test_exists("tests/unit/test_contract.c", "no_such_test"));
    assert_false(test_exists("tests/unit/test_contract.c", "check_sentence"));
    assert_false(test_exists("tests/unit/no_such_file.c", "every_sentence_has_its_test"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_sentence_has_its_test),
        cmocka_unit_test(a_test_that_is_missing_or_not_run_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
