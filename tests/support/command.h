/* Running the command as a user does, in a directory of the test's own. For the test's main thread: failures are
 * cmocka's. */
#ifndef TESTS_SUPPORT_COMMAND_H
#define TESTS_SUPPORT_COMMAND_H

#include <stddef.h>

typedef struct outcome {
    int code;
    char text[16384];           /* stdout and stderr */
} outcome;

/* Set-up and tear-down: *state is the directory's name. */
int make_directory(void **state);
int remove_directory(void **state);

/* Runs $EPGRAPH_BUILD/epgraph with `arguments`, in which every "@" stands for the test's directory. */
outcome run(void **state, const char *arguments);

/* As run; the exit code must be `code`, and what is printed must hold `named` (NULL: anything). */
void expect(void **state, const char *arguments, int code, const char *named);

/* Files in that directory. read_file: the whole of it, with a zero behind it, for free(). */
const char *path(void **state, const char *name, char *text, size_t bytes);
void write_file(void **state, const char *name, const char *content, size_t bytes);
char *read_file(void **state, const char *name, size_t *bytes);

#endif
