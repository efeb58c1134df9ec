/* Draws a table with gnuplot, an external program: it gets its commands and data through a pipe and writes the file
 * through its standard output, which is the file already opened here. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "bench_int.h"

extern char **environ;

struct bench_plot {
    char path[4096];
    FILE *commands;
    pid_t pid;
    int drawn;
};

/* Its standard input is the pipe's end, its standard output the file. */
static int start(bench_plot *plot, int input, int file)
{
    char program[] = "gnuplot";
    char *arguments[] = {program, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input, 0);
    posix_spawn_file_actions_adddup2(&actions, file, 1);
    int error = posix_spawnp(&plot->pid, program, &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

static void *give_up(bench_plot *plot, char *message, size_t bytes, const char *what, int error)
{
    snprintf(message, bytes, "%s%s", what, strerror(error));
    free(plot);
    return NULL;
}

bench_plot *bench_plot_open(const char *path, char *message, size_t bytes)
{
    int ends[2];
    bench_plot *plot = calloc(1, sizeof *plot);
    if (!plot || strlen(path) >= sizeof(plot->path))
        return give_up(plot, message, bytes, "", plot ? ENAMETOOLONG : ENOMEM);
    strcpy(plot->path, path);
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0)
        return give_up(plot, message, bytes, "", errno);
    int error = pipe2(ends, O_CLOEXEC) ? errno : 0;
    if (!error) {
        error = start(plot, ends[0], file);
        close(ends[0]);
        if (error)
            close(ends[1]);
    }
    close(file);
    if (!error && !(plot->commands = fdopen(ends[1], "w")))
        error = errno;
    if (error) {
        remove(path);
        return give_up(plot, message, bytes, "gnuplot cannot be started: ", error);
    }
    return plot;
}

static uint32_t column_of(const bench_table *table, const char *key)
{
    uint32_t c = 0;
    while (c < table->column_count && (!key || strcmp(table->columns[c].key, key)))
        c++;
    return c; /* column_count: there is none */
}

static const bench_value *row_at(const bench_table *table, uint32_t row)
{
    return table->values + (size_t)row * table->column_count;
}

/* What tells a row's line from others: its labels. A label that is the same in all rows is left out of the legend. */
static int same_label(const bench_table *table, uint32_t column, uint32_t a, uint32_t b)
{
    const bench_value *left = row_at(table, a) + column, *right = row_at(table, b) + column;
    if (table->columns[column].kind == BENCH_TEXT)
        return !strcmp(left->text, right->text);
    return left->number == right->number;
}

static int same_line(const bench_table *table, uint32_t a, uint32_t b)
{
    for (uint32_t c = 0; c < table->column_count; c++)
        if (table->columns[c].where & BENCH_LABEL && !same_label(table, c, a, b))
            return 0;
    return 1;
}

static int starts_line(const bench_table *table, uint32_t row)
{
    for (uint32_t before = 0; before < row; before++)
        if (same_line(table, before, row))
            return 0;
    return 1;
}

static void write_name(FILE *out, const bench_table *table, uint32_t row)
{
    for (uint32_t c = 0; c < table->column_count; c++) {
        int varies = 0;
        for (uint32_t other = 0; other < table->rows; other++)
            varies |= !same_label(table, c, row, other);
        if (!(table->columns[c].where & BENCH_LABEL) || !varies)
            continue;
        if (table->columns[c].kind == BENCH_TEXT)
            fprintf(out, "%s ", row_at(table, row)[c].text);
        else
            fprintf(out, "%.0f %s ", row_at(table, row)[c].number, table->columns[c].heading);
    }
}

/* x, median, 10th, 90th percentile, floor. */
static void write_block(FILE *out, const bench_table *table, uint32_t first, uint32_t x, uint32_t y, uint32_t floor)
{
    fprintf(out, "$line%u << END\n", first);
    for (uint32_t row = first; row < table->rows; row++) {
        const bench_value *values = row_at(table, row);
        if (same_line(table, first, row))
            fprintf(out, "%.0f %.6g %.6g %.6g %.6g\n", values[x].number, values[y].times.p50, values[y].times.p10,
                    values[y].times.p90, floor < table->column_count ? values[floor].number : NAN);
    }
    fprintf(out, "END\n");
}

/* gnuplot finds no range where all lines have one and the same x. */
static void write_range(FILE *out, const bench_table *table, uint32_t x)
{
    double least = row_at(table, 0)[x].number, most = least;
    for (uint32_t row = 1; row < table->rows; row++) {
        least = fmin(least, row_at(table, row)[x].number);
        most = fmax(most, row_at(table, row)[x].number);
    }
    if (least == most)
        fprintf(out, "set xrange [%g:%g]\n", least / 2, least * 2);
}

static void write_commands(FILE *out, const bench_table *table, const char *device)
{
    uint32_t x = column_of(table, table->x), y = column_of(table, table->y), floor = column_of(table, table->floor);
    uint32_t style = 0;
    fprintf(out, "set terminal svg size 900,600 background rgb 'white'\nset logscale xy 2\nset logscale y 10\n");
    fprintf(out, "set xlabel '%s'\nset ylabel 'us'\nset title \"%s\\n%s\" noenhanced\n", table->x, table->title,
            device);
    fprintf(out, "set key outside below\n");
    write_range(out, table, x);
    for (uint32_t row = 0; row < table->rows; row++)
        if (starts_line(table, row))
            write_block(out, table, row, x, y, floor);
    fprintf(out, "plot ");
    for (uint32_t row = 0; row < table->rows; row++) {
        if (!starts_line(table, row))
            continue;
        fprintf(out, "%s$line%u using 1:2:3:4 with yerrorlines lc %u title \"", style ? ", " : "", row,
                style + 1);
        write_name(out, table, row);
        fprintf(out, "\" noenhanced");
        if (floor < table->column_count)
            fprintf(out, ", $line%u using 1:5 with linespoints dt 2 pt 1 lc %u notitle", row, style + 1);
        style++;
    }
    fprintf(out, "\n");
}

/* Ends the commands and waits for the program: 0 where both went well. */
static int finish(bench_plot *plot)
{
    int status = 0, failed = fclose(plot->commands) != 0;
    plot->commands = NULL;
    if (waitpid(plot->pid, &status, 0) != plot->pid)
        return -1;
    return failed || !WIFEXITED(status) || WEXITSTATUS(status) != 0 ? -1 : 0;
}

int bench_plot_draw(bench_plot *plot, const bench_table *table, const char *device)
{
    void (*before)(int) = signal(SIGPIPE, SIG_IGN); /* gnuplot may have ended: that is an error of the write */
    write_commands(plot->commands, table, device);
    int failed = finish(plot);
    signal(SIGPIPE, before);
    plot->drawn = !failed;
    return failed;
}

/* No empty picture is left where nothing was drawn. */
void bench_plot_close(bench_plot *plot)
{
    if (!plot)
        return;
    if (plot->commands)
        finish(plot);
    if (!plot->drawn)
        remove(plot->path);
    free(plot);
}
