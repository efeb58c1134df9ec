/* Options that are lists: of numbers, and of names of row types, layouts and modes. */
#include <string.h>
#include "bench_int.h"

typedef struct name {
    const char *text;
    uint32_t value;
} name;

static const name row_types[] = {
    {"f32", EPG_FLOAT32}, {"bf16", EPG_BFLOAT16}, {"fp8", EPG_FLOAT8_E4M3}, {"opaque", EPG_OPAQUE}, {NULL, 0}};
static const name layouts[] = {
    {"in-place", EPG_LAYOUT_IN_PLACE}, {"contiguous", EPG_LAYOUT_CONTIGUOUS}, {"masked", EPG_LAYOUT_MASKED}, {NULL, 0}};
static const name modes[] = {{"ll", EPG_MODE_LL}, {"ht", EPG_MODE_HT}, {NULL, 0}};

static void append(struct argp_state *state, const char *option, bench_list *list, uint32_t value)
{
    if (list->count == BENCH_LIST_MAX)
        argp_error(state, "--%s: more than %d items", option, BENCH_LIST_MAX);
    list->values[list->count++] = value;
}

/* Cuts the next item off `rest`, a copy of the option's text. */
static const char *next_item(struct argp_state *state, const char *option, const char *text, char *copy, size_t bytes,
                             char **rest)
{
    if (!*rest) {
        if (strlen(text) >= bytes)
            argp_error(state, "--%s: the list is longer than %zu characters", option, bytes - 1);
        *rest = strcpy(copy, text);
    }
    return strsep(rest, ",");
}

void bench_parse_numbers(struct argp_state *state, const char *option, const char *text, uint64_t least, uint64_t most,
                         bench_list *list)
{
    char copy[1024], *rest = NULL;
    list->count = 0;
    do {
        const char *item = next_item(state, option, text, copy, sizeof(copy), &rest);
        append(state, option, list, (uint32_t)cli_option_number(state, option, item, least, most));
    } while (rest);
}

static void parse_names(struct argp_state *state, const char *option, const char *text, const name *names,
                        bench_list *list)
{
    char copy[1024], *rest = NULL;
    list->count = 0;
    do {
        const char *item = next_item(state, option, text, copy, sizeof(copy), &rest);
        const name *found = names;
        while (found->text && strcmp(found->text, item))
            found++;
        if (!found->text)
            argp_error(state, "--%s: there is no \"%s\"", option, item);
        append(state, option, list, found->value);
    } while (rest);
}

static const char *name_of(const name *names, uint32_t value)
{
    while (names->text && names->value != value)
        names++;
    return names->text ? names->text : "?";
}

const char *bench_row_type_name(epg_dtype type) { return name_of(row_types, (uint32_t)type); }
const char *bench_layout_name(epg_layout layout) { return name_of(layouts, (uint32_t)layout); }
const char *bench_mode_name(epg_mode mode) { return name_of(modes, (uint32_t)mode); }

void bench_parse_row_types(struct argp_state *state, const char *text, bench_list *list)
{
    parse_names(state, "row-type", text, row_types, list);
}

void bench_parse_layouts(struct argp_state *state, const char *text, bench_list *list)
{
    parse_names(state, "layout", text, layouts, list);
}

void bench_parse_modes(struct argp_state *state, const char *text, bench_list *list)
{
    parse_names(state, "mode", text, modes, list);
}
