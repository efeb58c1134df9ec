/* `make install` into a temporary folder: what lands there, and that a program finds it through pkg-config, compiles
 * against it, starts and runs. Skipped where there is no pkg-config. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "epgraph/epgraph.h"

/* A sanitized library needs a sanitized program around it. */
#if defined(__has_feature)
#define HAS_FEATURE(name) __has_feature(name)
#else
#define HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || HAS_FEATURE(address_sanitizer)
#define SANITIZE "-fsanitize=address,undefined"
#elif defined(__SANITIZE_THREAD__) || HAS_FEATURE(thread_sanitizer)
#define SANITIZE "-fsanitize=thread"
#else
#define SANITIZE ""
#endif

static char folder[] = "/tmp/epgraph-install-XXXXXX";
static const char *build;

/* Runs a shell command; its exit code. */
__attribute__((format(printf, 1, 2))) static int shell(const char *format, ...)
{
    char command[4096];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(command, sizeof command, format, values);
    va_end(values);
    assert_in_range(length, 1, sizeof command - 1);
    int status = system(command);
    if (status != 0)
        fprintf(stderr, "failed: %s\n", command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void assert_there(const char *root, const char *path, mode_t mode)
{
    char full[512];
    struct stat st;
    snprintf(full, sizeof full, "%s/%s", root, path);
    if (stat(full, &st) != 0) /* follows the library's links */
        fail_msg("%s is not there", full);
    assert_true(S_ISREG(st.st_mode) && st.st_size > 0);
    assert_int_equal(st.st_mode & 0777, mode);
}

static void assert_installed(const char *root)
{
    assert_there(root, "include/epgraph/epgraph.h", 0644);
    assert_there(root, "include/epgraph/group.h", 0644);
    assert_there(root, "lib/libepgraph.a", 0644);
    assert_there(root, "lib/libepgraph.so." EPG_VERSION_STRING, 0755);
    assert_there(root, "lib/libepgraph.so.0", 0755);
    assert_there(root, "lib/libepgraph.so", 0755);
    assert_there(root, "lib/pkgconfig/epgraph.pc", 0644);
    assert_there(root, "bin/epgraph", 0755);
    assert_there(root, "share/man/man1/epgraph.1", 0644);
}

/* ---- DESTDIR: files go to the stage, the pkg-config file names the final place ---- */
static void test_stage(void **state)
{
    (void)state;
    char root[512];
    assert_int_equal(shell("make install BUILD='%s' DESTDIR='%s/stage' PREFIX=/opt/epg >'%s/log' 2>&1 || "
                           "{ cat '%s/log'; false; }", build, folder, folder, folder), 0);
    snprintf(root, sizeof root, "%s/stage/opt/epg", folder);
    assert_installed(root);
    assert_int_equal(shell("grep -qx prefix=/opt/epg '%s/lib/pkgconfig/epgraph.pc'", root), 0);
    assert_int_equal(shell("test \"$(ls '%s/stage')\" = opt", folder), 0);
}

/* ---- a program of a user's ---- */
static void test_user_program(void **state)
{
    (void)state;
    char root[512];
    snprintf(root, sizeof root, "%s/prefix", folder);
    assert_int_equal(shell("make install BUILD='%s' DESTDIR= PREFIX='%s' >'%s/log' 2>&1 || { cat '%s/log'; false; }",
                           build, root, folder, folder), 0);
    assert_installed(root);
    assert_int_equal(shell("test \"$(PKG_CONFIG_PATH='%s/lib/pkgconfig' pkg-config --modversion epgraph)\" = "
                           EPG_VERSION_STRING, root), 0);

    /* Shared, and then with the library linked in (-l: takes the archive by name). */
    assert_int_equal(shell("cd '%s' && export PKG_CONFIG_PATH='%s/lib/pkgconfig' && ${CC:-cc} -std=c99 " SANITIZE
                           " $(pkg-config --cflags epgraph) -o shared \"$OLDPWD/examples/01_two_ranks.c\" "
                           "$(pkg-config --libs epgraph) -pthread", folder, root), 0);
    assert_int_equal(shell("LD_LIBRARY_PATH='%s/lib' '%s/shared' >'%s/out'", root, folder, folder), 0);
    assert_int_equal(shell("grep -q 'every row is the one expected' '%s/out'", folder), 0);
    assert_int_equal(shell("cd '%s' && export PKG_CONFIG_PATH='%s/lib/pkgconfig' && ${CC:-cc} -std=c99 " SANITIZE
                           " $(pkg-config --cflags epgraph) -o static \"$OLDPWD/examples/01_two_ranks.c\" "
                           "$(pkg-config --static --libs epgraph | sed 's/-lepgraph/-l:libepgraph.a/')", folder, root),
                     0);
    assert_int_equal(shell("'%s/static' >'%s/out'", folder, folder), 0);
    assert_int_equal(shell("'%s/bin/epgraph' --help >'%s/out'", root, folder), 0);
}

/* Every public header stands on its own, as strict C99 and, where there is a C++ compiler, as C++. */
static void test_headers(void **state)
{
    (void)state;
    assert_int_equal(shell("for h in '%s'/prefix/include/epgraph/*.h; do echo \"#include <epgraph/${h##*/}>\" | "
                           "${CC:-cc} -x c -std=c99 -pedantic-errors -Wall -Wextra -Werror -fsyntax-only "
                           "-I'%s/prefix/include' - || exit 1; done", folder, folder), 0);
    assert_int_equal(shell("command -v c++ >/dev/null || exit 0; for h in '%s'/prefix/include/epgraph/*.h; do "
                           "echo \"#include <epgraph/${h##*/}>\" | c++ -x c++ -std=c++11 -pedantic-errors -Wall "
                           "-Wextra -Werror -fsyntax-only -I'%s/prefix/include' - || exit 1; done", folder, folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stage),
        cmocka_unit_test(test_user_program),
        cmocka_unit_test(test_headers),
    };
    if (system("command -v pkg-config >/dev/null 2>&1") != 0) {
        puts("pkg-config is not installed");
        return 77;
    }
    build = getenv("EPGRAPH_BUILD") ? getenv("EPGRAPH_BUILD") : "build";
    if (!mkdtemp(folder)) {
        perror(folder);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    shell("rm -rf '%s'", folder);
    return failed;
}
