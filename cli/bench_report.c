/* The table for people and the JSON for programs, from the same rows. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "bench_int.h"

bench_value *bench_table_row(bench_table *table)
{
    if (table->rows == table->room) {
        uint32_t room = table->room ? 2 * table->room : 16;
        bench_value *grown = realloc(table->values, (size_t)room * table->column_count * sizeof *grown);
        if (!grown)
            return NULL;
        table->values = grown;
        table->room = room;
    }
    bench_value *row = table->values + (size_t)table->rows++ * table->column_count;
    memset(row, 0, table->column_count * sizeof *row);
    return row;
}

void bench_table_free(bench_table *table)
{
    free(table->values);
    table->values = NULL;
}

/* ---- the table ---- */

static const char *number_text(double number, const char *format, char *text, size_t bytes)
{
    if (!isfinite(number))
        return "-";
    snprintf(text, bytes, format, number);
    return text;
}

/* Three digits that count, and no more places than two. */
static const char *us_format(double us) { return us < 100 ? "%.2f" : us < 1000 ? "%.1f" : "%.0f"; }

static const char *cell_text(bench_kind kind, const bench_value *value, char *text, size_t bytes)
{
    const bench_times *t = &value->times;
    char low[32], middle[32], high[32];
    switch (kind) {
    case BENCH_TEXT: return value->text;
    case BENCH_COUNT: return number_text(value->number, "%.0f", text, bytes);
    case BENCH_REAL: return number_text(value->number, us_format(value->number), text, bytes);
    case BENCH_BYTES: return isfinite(value->number) ? cli_bytes((uint64_t)value->number, text, bytes) : "-";
    case BENCH_TIMES:
        if (!isfinite(t->p50))
            return "-";
        snprintf(text, bytes, "%s (%s to %s)", number_text(t->p50, us_format(t->p50), middle, sizeof(middle)),
                 number_text(t->p10, us_format(t->p50), low, sizeof(low)),
                 number_text(t->p90, us_format(t->p50), high, sizeof(high)));
        return text;
    }
    return "";
}

static const bench_value *cell(const bench_table *table, uint32_t row, uint32_t column)
{
    return &table->values[(size_t)row * table->column_count + column];
}

static int column_width(const bench_table *table, uint32_t column)
{
    const bench_column *c = &table->columns[column];
    size_t width = strlen(c->heading);
    char text[128];
    for (uint32_t row = 0; row < table->rows; row++) {
        size_t length = strlen(cell_text(c->kind, cell(table, row, column), text, sizeof(text)));
        width = length > width ? length : width;
    }
    return (int)width;
}

/* Are two rows the same in all columns of this table? */
static int same_row(const bench_table *table, int where, uint32_t a, uint32_t b)
{
    char left[128], right[128];
    for (uint32_t c = 0; c < table->column_count; c++)
        if (table->columns[c].where & where &&
            strcmp(cell_text(table->columns[c].kind, cell(table, a, c), left, sizeof(left)),
                   cell_text(table->columns[c].kind, cell(table, b, c), right, sizeof(right))))
            return 0;
    return 1;
}

static int repeats(const bench_table *table, int where, uint32_t row)
{
    for (uint32_t before = 0; before < row; before++)
        if (same_row(table, where, before, row))
            return 1;
    return 0;
}

/* Texts to the left, numbers to the right. */
static void print_line(const bench_table *table, int where, const int *widths, const uint32_t *row)
{
    char text[128];
    printf(" ");
    for (uint32_t c = 0; c < table->column_count; c++) {
        const bench_column *column = &table->columns[c];
        if (!(column->where & where))
            continue;
        const char *shown = row ? cell_text(column->kind, cell(table, *row, c), text, sizeof(text)) : column->heading;
        printf(column->kind == BENCH_TEXT ? " %-*s" : " %*s", widths[c], shown);
    }
    putchar('\n');
}

static void print_columns(const bench_table *table, int where)
{
    int widths[BENCH_COLUMNS_MAX] = {0};
    for (uint32_t c = 0; c < table->column_count; c++)
        if (table->columns[c].where & where)
            widths[c] = column_width(table, c);
    print_line(table, where, widths, NULL);
    for (uint32_t row = 0; row < table->rows; row++)
        if (!repeats(table, where, row))
            print_line(table, where, widths, &row);
}

static int has_columns(const bench_table *table, int where)
{
    int found = 0;
    for (uint32_t c = 0; c < table->column_count; c++)
        found |= table->columns[c].where & where;
    return found != 0;
}

static void print_tables(const bench_run *run)
{
    printf("%s; a copying kernel reads and writes %.1f GB/s\n\n", run->info.name, run->copy_rate / 1e9);
    printf("%s\n", run->table.title);
    print_columns(&run->table, BENCH_MAIN);
    if (has_columns(&run->table, BENCH_MEMORY)) {
        printf("\nMemory of each rank\n");
        print_columns(&run->table, BENCH_MEMORY);
    }
}

/* ---- JSON ---- */

static json_t *real_or_null(double number) { return isfinite(number) ? json_real(number) : json_null(); }

static json_t *value_json(bench_kind kind, const bench_value *value)
{
    switch (kind) {
    case BENCH_TEXT: return json_string(value->text);
    case BENCH_COUNT:
    case BENCH_BYTES: return isfinite(value->number) ? json_integer((json_int_t)value->number) : json_null();
    case BENCH_REAL: return real_or_null(value->number);
    case BENCH_TIMES:
        if (!isfinite(value->times.p50))
            return json_null();
        return json_pack("{s:f, s:f, s:f}", "p10", value->times.p10, "p50", value->times.p50, "p90", value->times.p90);
    }
    return NULL;
}

static json_t *rows_json(const bench_table *table)
{
    json_t *rows = json_array();
    for (uint32_t r = 0; r < table->rows; r++) {
        json_t *row = json_object();
        for (uint32_t c = 0; c < table->column_count; c++)
            json_object_set_new(row, table->columns[c].key, value_json(table->columns[c].kind, cell(table, r, c)));
        json_array_append_new(rows, row);
    }
    return rows;
}

static int write_json(const bench_run *run)
{
    json_t *rows = rows_json(&run->table);
    json_t *root = json_pack("{s:s, s:s, s:s, s:f, s:o}", "bench", run->table.bench, "version", epg_version(), "device",
                             run->info.name, "copy_bytes_per_second", run->copy_rate, "rows", rows);
    int failed = !root || json_dumpf(root, run->json, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) ||
                 fputc('\n', run->json) == EOF || fflush(run->json);
    json_decref(root);
    return failed ? -1 : 0;
}

int bench_report(bench_run *run)
{
    const char *name = run->options->name;
    print_tables(run);
    if (fflush(stdout)) {
        fprintf(stderr, "%s: standard output could not be written: %s\n", name, strerror(errno));
        return CLI_FAILED;
    }
    if (run->json && write_json(run)) {
        fprintf(stderr, "%s: --json %s could not be written: %s\n", name, run->options->json, strerror(errno));
        return CLI_FAILED;
    }
    if (run->plot && bench_plot_draw(run->plot, &run->table, run->info.name)) {
        fprintf(stderr, "%s: --plot %s: gnuplot failed\n", name, run->options->plot);
        return CLI_FAILED;
    }
    return CLI_OK;
}
