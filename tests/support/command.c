#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "support/command.h"

static const char *directory(void **state) { return *state; }

outcome run(void **state, const char *arguments)
{
    char command[8192];
    const char *build = getenv("EPGRAPH_BUILD");
    int length = snprintf(command, sizeof(command), "%s/epgraph ", build ? build : "build");
    for (const char *at = arguments; *at; at++)
        length += snprintf(command + length, sizeof(command) - (size_t)length, *at == '@' ? "%s" : "%.1s",
                           *at == '@' ? directory(state) : at);
    snprintf(command + length, sizeof(command) - (size_t)length, " 2>&1 </dev/null");
    outcome out = {0};
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t got = fread(out.text, 1, sizeof(out.text) - 1, pipe);
    out.text[got] = '\0';
    int status = pclose(pipe);
    out.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return out;
}

void expect(void **state, const char *arguments, int code, const char *named)
{
    outcome out = run(state, arguments);
    if (out.code != code)
        fail_msg("epgraph %s: exit code %d, not %d: %s", arguments, out.code, code, out.text);
    if (named && !strstr(out.text, named))
        fail_msg("epgraph %s: \"%s\" is not in: %s", arguments, named, out.text);
}

const char *path(void **state, const char *name, char *text, size_t bytes)
{
    snprintf(text, bytes, "%s/%s", directory(state), name);
    return text;
}

void write_file(void **state, const char *name, const char *content, size_t bytes)
{
    char text[512];
    FILE *file = fopen(path(state, name, text, sizeof(text)), "w");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

char *read_file(void **state, const char *name, size_t *bytes)
{
    char text[512];
    FILE *file = fopen(path(state, name, text, sizeof(text)), "r");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *content = malloc(*bytes + 1);
    assert_non_null(content);
    assert_int_equal(fread(content, 1, *bytes, file), *bytes);
    content[*bytes] = '\0';
    fclose(file);
    return content;
}

int make_directory(void **state)
{
    static char name[64];
    strcpy(name, "/tmp/epgraph-cli-XXXXXX");
    *state = mkdtemp(name);
    return *state ? 0 : -1;
}

int remove_directory(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", directory(state));
    return system(command);
}
