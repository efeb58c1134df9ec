/* `epgraph conform`: asking a device all rows of the conformance table, and comparing the answers with a file's. */
#ifndef CLI_CONFORM_H
#define CLI_CONFORM_H

#include <stdbool.h>
#include <stdio.h>
#include "cli.h"

#define CONFORM_COLUMNS "mode,stream,thread,op,op_result,status_after,end_result,nodes"

enum { CONFORM_KEY = 128, CONFORM_TEXT = 64 };

/* One row, as text: the combination, and the answers; a row that hung has "hang,,,". */
typedef struct conform_line {
    bool hung;
    char key[CONFORM_KEY];     /* "global,blocking,same,launch_legacy" */
    char answer[CONFORM_TEXT]; /* "906,invalidated,901,0" */
} conform_line;

typedef struct conform_table {
    uint32_t count;
    conform_line *lines;
} conform_table;

/* conform_ask.c: asks the device in a child process, so that a call that never returns costs the child alone: a row
 * that takes longer than `patience_ms` hung. Fills `table`, whose lines are for epg_conform_count() rows. An exit code;
 * failures are told on stderr. */
int conform_ask(const char *command, const epg_device_options *device, int patience_ms, conform_table *table);

/* conform_compare.c: prints where `table` differs from the rows of the file, and a summary. An exit code: 1 if a row
 * differs, 2 if the file cannot be used. */
int conform_compare(const char *command, const conform_table *table, const char *path, FILE *out);

#endif
