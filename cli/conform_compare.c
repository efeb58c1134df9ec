/* Comparing a conformance table with a file of the same columns, whole or in part. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conform.h"

typedef struct comparison {
    uint32_t rows, equal, differ, hung;
} comparison;

/* Splits a row behind its fourth comma; NULL if it has not eight fields. */
static char *split(char *line)
{
    char *answer = NULL;
    int commas = 0;
    for (char *at = line; *at; at++)
        if (*at == ',' && ++commas == 4)
            answer = at;
    if (commas != 7)
        return NULL;
    *answer = '\0';
    return answer + 1;
}

static const conform_line *find(const conform_table *table, const char *key)
{
    for (uint32_t i = 0; i < table->count; i++)
        if (!strcmp(table->lines[i].key, key))
            return &table->lines[i];
    return NULL;
}

/* A row in which either side hung says nothing about the other's answer, unless only our device hung. */
static void compare_row(const conform_line *line, const char *expected, FILE *out, comparison *sums)
{
    sums->rows++;
    if (!strncmp(expected, "hang", 4)) {
        sums->hung++;
        fprintf(out, "not comparable, since a driver hung: %s; this device: %s\n", line->key, line->answer);
    } else if (!strcmp(expected, line->answer)) {
        sums->equal++;
    } else {
        sums->differ++;
        fprintf(out, "-%s,%s\n+%s,%s\n", line->key, expected, line->key, line->answer);
    }
}

/* One line of the file. A sentence for what is wrong with it, or NULL. */
static const char *compare_line(const conform_table *table, char *text, bool *headed, FILE *out, comparison *sums)
{
    text[strcspn(text, "\r\n")] = '\0';
    if (text[0] == '#' || text[0] == '\0')
        return NULL;
    if (!*headed) {
        *headed = true;
        return strcmp(text, CONFORM_COLUMNS) ? "the columns are not " CONFORM_COLUMNS : NULL;
    }
    char *expected = split(text);
    const conform_line *line = expected ? find(table, text) : NULL;
    if (!expected)
        return "not a row of eight fields";
    if (!line)
        return "no row of the table has these first four fields";
    compare_row(line, expected, out, sums);
    return NULL;
}

static int complain(const char *command, const char *path, unsigned line, const char *what)
{
    fprintf(stderr, "%s: %s, line %u: %s\n", command, path, line, what);
    return CLI_BAD_INPUT;
}

int conform_compare(const char *command, const conform_table *table, const char *path, FILE *out)
{
    comparison sums = {0};
    unsigned number = 0;
    size_t room = 0;
    char *text = NULL;
    const char *wrong = NULL;
    bool headed = false;
    FILE *file = fopen(path, "r");
    if (!file) {
        fprintf(stderr, "%s: --against %s: %s\n", command, path, strerror(errno));
        return CLI_BAD_INPUT;
    }
    while (!wrong && getline(&text, &room, file) >= 0) {
        number++;
        wrong = compare_line(table, text, &headed, out, &sums);
    }
    if (!wrong && ferror(file))
        wrong = "the file cannot be read to its end";
    if (!wrong && sums.rows == 0)
        wrong = "the file ends without a row";
    free(text);
    fclose(file);
    if (wrong)
        return complain(command, path, number, wrong);
    fprintf(out, "%u rows of %s: %u equal, %u differ, %u not comparable\n", sums.rows, path, sums.equal, sums.differ,
            sums.hung);
    return sums.differ ? CLI_FAILED : CLI_OK;
}
