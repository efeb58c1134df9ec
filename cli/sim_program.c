/* The form of a program: the ranges of its fields, what makes it whole, and its text. One table per kind of line serves
 * checking, printing and reading. */
#include <stddef.h>
#include <string.h>
#include "cli.h"
#include "sim_program.h"

const char *const sim_fault_names[SIM_FAULT_KINDS + 1] = {"none",    "slow", "stop", "die", "join",
                                                          "abandon", "wrap", "late", "any", NULL};
static const char *const how_names[SIM_HOWS + 1] = {"eager",     "split",        "replay",       "fill",
                                                    "fill-void", "abandon-sent", "abandon-held", NULL};
static const char *const layout_names[] = {"in-place", "contiguous", "masked", NULL};
static const char *const mode_names[] = {"LL", "HT", NULL};
static const char *const type_names[] = {"float32", "bf16", "fp8", "opaque", NULL};

typedef struct field {
    const char *name;
    size_t offset;
    uint32_t least, most;
    const char *const *words; /* names of 0, 1, ...; NULL: a number */
} field;

#define FIELD(type, member, least, most) {#member, offsetof(type, member), least, most, NULL}
#define WORDS(type, name, member, words, most) {name, offsetof(type, member), 0, most, words}

static const field shape_fields[] = {
    FIELD(sim_shape, ranks, 1, SIM_RANKS),     FIELD(sim_shape, pairs, 1, SIM_PAIRS),
    FIELD(sim_shape, lanes, 1, SIM_LANES),     FIELD(sim_shape, experts, 1, SIM_LOCAL_EXPERTS),
    FIELD(sim_shape, logical, 1, SIM_LOGICAL), FIELD(sim_shape, hidden, 8, SIM_HIDDEN),
    FIELD(sim_shape, topk, 1, SIM_TOPK),       FIELD(sim_shape, tokens, 1, SIM_TOKENS),
    FIELD(sim_shape, slots, 1, SIM_TOKENS),    WORDS(sim_shape, "rows", type, type_names, 3),
    FIELD(sim_shape, first_epoch, 0, UINT32_MAX), FIELD(sim_shape, skew, 1, SIM_LOGICAL),
    FIELD(sim_shape, bad, 0, 100),             FIELD(sim_shape, late, 0, 100),
    FIELD(sim_shape, data, 0, UINT32_MAX),     FIELD(sim_shape, schedule, 0, UINT32_MAX), {0}};
static const field rank_fields[] = {
    WORDS(sim_rank_shape, "layout", layout, layout_names, 2), FIELD(sim_rank_shape, align, 1, 8),
    FIELD(sim_rank_shape, expert_rows, 0, 1024),  FIELD(sim_rank_shape, rows_per_expert, 0, 1024),
    FIELD(sim_rank_shape, timeout_ms, 1, 10000),  FIELD(sim_rank_shape, streams, 0, 1),
    FIELD(sim_rank_shape, ids64, 0, 1),           FIELD(sim_rank_shape, weights, 0, 1),
    FIELD(sim_rank_shape, runner, 0, 1),          FIELD(sim_rank_shape, warmups, 0, 4),
    FIELD(sim_rank_shape, early, 0, 1),           FIELD(sim_rank_shape, slow, 1, 100), {0}};
static const field part_fields[] = {
    WORDS(sim_part, "how", how, how_names, SIM_HOWS - 1), FIELD(sim_part, graph, 0, SIM_GRAPHS - 1),
    FIELD(sim_part, index, 0, SIM_GRAPH_PAIRS - 1),       WORDS(sim_part, "mode", ht, mode_names, 1),
    FIELD(sim_part, bucket, 1, SIM_TOKENS),               FIELD(sim_part, tokens, 0, 1000),
    FIELD(sim_part, map, 0, 100),                         FIELD(sim_part, delay, 0, 1000000000),
    FIELD(sim_part, wait, 0, 1),                          FIELD(sim_part, rehearse, 0, 1), {0}};
static const field fault_fields[] = {
    WORDS(sim_fault, "kind", kind, sim_fault_names, SIM_FAULT_JOIN), FIELD(sim_fault, rank, 0, SIM_RANKS - 1),
    FIELD(sim_fault, pair, 0, SIM_PAIRS - 1), FIELD(sim_fault, after, 0, 1000000000),
    FIELD(sim_fault, time, 0, 1000000000),
    FIELD(sim_fault, back, 0, SIM_PAIRS - 1), {0}};

/* A graph is printed pair by pair. */
typedef struct graph_pair {
    uint32_t lane, ht, bucket;
} graph_pair;
static const field graph_fields[] = {FIELD(graph_pair, lane, 0, SIM_LANES - 1),
                                     WORDS(graph_pair, "mode", ht, mode_names, 1),
                                     FIELD(graph_pair, bucket, 1, SIM_TOKENS),
                                     {0}};

static uint32_t *value_of(const field *f, void *base) { return (uint32_t *)((char *)base + f->offset); }

static void clamp(const field *fields, void *base)
{
    for (const field *f = fields; f->name; f++) {
        uint32_t *value = value_of(f, base);
        *value = *value < f->least ? f->least : *value > f->most ? f->most : *value;
    }
}

/* ---- what makes a program whole ---- */

static void clamp_to(uint32_t *value, uint32_t least, uint32_t most)
{
    *value = *value < least ? least : *value > most ? most : *value;
}

static void repair_shape(sim_shape *s)
{
    clamp(shape_fields, s);
    clamp_to(&s->logical, s->topk, s->ranks * s->experts + 8);
    clamp_to(&s->skew, s->topk, s->logical);
    clamp_to(&s->slots, 1, s->tokens);
    s->hidden &= ~7u;
}

static void repair_rank(const sim_shape *s, sim_rank_shape *r)
{
    clamp(rank_fields, r);
    if (r->layout != 1 || (r->align & (r->align - 1)))
        r->align = 1;
    if (r->layout == 2)
        r->expert_rows = 0;
    else
        r->rows_per_expert = 0;
    r->streams &= s->lanes > 1;
}

static int graph_is_whole(const sim_program *p, const sim_graph *g)
{
    for (uint32_t j = 0; j < g->pairs; j++)
        if (g->lane[j] >= p->shape.lanes || g->bucket[j] < 1 || g->bucket[j] > p->shape.tokens || g->ht[j] > 1)
            return 0;
    return g->pairs <= SIM_GRAPH_PAIRS;
}

/* 1 where the parts from `pair` on replay graph `g` from its first pair to its last. */
static int replays_whole(const sim_program *p, const sim_part *parts, const sim_graph *g, uint32_t pair)
{
    if (g->pairs == 0 || pair + g->pairs > p->shape.pairs)
        return 0;
    for (uint32_t j = 0; j < g->pairs; j++) {
        const sim_part *part = &parts[pair + j];
        if (part->how != SIM_REPLAY || part->graph != parts[pair].graph || part->index != j ||
            p->lane[pair + j] != g->lane[j] || part->map != parts[pair].map)
            return 0;
    }
    return 1;
}

/* Pairs of the step that begins here. */
static uint32_t repair_step(sim_program *p, uint32_t rank, uint32_t pair)
{
    sim_part *parts = p->part[rank], *part = &parts[pair];
    if (part->how == SIM_REPLAY) {
        const sim_graph *g = &p->graph[rank][part->graph];
        if (replays_whole(p, parts, g, pair)) {
            for (uint32_t j = 0; j < g->pairs; j++)
                parts[pair + j].ht = g->ht[j], parts[pair + j].bucket = g->bucket[j], parts[pair + j].rehearse = 0;
            return g->pairs;
        }
        part->how = SIM_EAGER;
    }
    part->graph = part->index = 0;
    return 1;
}

static void repair_parts(sim_program *p, uint32_t rank)
{
    uint32_t used = 0;
    for (uint32_t pair = 0; pair < p->shape.pairs; pair++) {
        sim_part *part = &p->part[rank][pair];
        clamp(part_fields, part);
        clamp_to(&part->bucket, 1, p->shape.tokens);
        if (p->rank[rank].streams) /* the lanes share the map, and would read it while another changes it */
            part->map = 0;
    }
    for (uint32_t pair = 0; pair < p->shape.pairs;) {
        uint32_t count = repair_step(p, rank, pair);
        used |= (uint32_t)(p->part[rank][pair].how == SIM_REPLAY) << p->part[rank][pair].graph;
        pair += count;
    }
    memset(&p->part[rank][p->shape.pairs], 0, (SIM_PAIRS - p->shape.pairs) * sizeof(sim_part));
    for (uint32_t g = 0; g < SIM_GRAPHS; g++) {
        sim_graph *graph = &p->graph[rank][g], whole = {0};
        whole.pairs = used >> g & 1 ? graph->pairs : 0;
        for (uint32_t j = 0; j < whole.pairs; j++)
            whole.lane[j] = graph->lane[j], whole.ht[j] = graph->ht[j], whole.bucket[j] = graph->bucket[j];
        *graph = whole;
    }
}

static int fault_is_whole(const sim_program *p, uint32_t index)
{
    const sim_fault *f = &p->fault[index];
    if (f->kind < SIM_FAULT_STOP || f->kind > SIM_FAULT_JOIN || f->rank >= p->shape.ranks || f->pair >= p->shape.pairs)
        return 0;
    if ((f->kind == SIM_FAULT_JOIN) != (f->back != 0) || f->back >= p->shape.pairs || (f->back && f->back <= f->pair))
        return 0;
    uint32_t others = 0;
    for (uint32_t i = 0; i < index; i++) {
        /* Who joins again finds everybody else as it left them: one fault at a time then. */
        if (p->fault[i].kind && (p->fault[i].rank == f->rank || p->fault[i].back || f->back))
            return 0;
        others += p->fault[i].kind != 0;
    }
    return others + 1 < p->shape.ranks; /* somebody is left to look */
}

void sim_repair(sim_program *p)
{
    repair_shape(&p->shape);
    for (uint32_t i = 0; i < SIM_PAIRS; i++)
        p->lane[i] = i < p->shape.pairs && p->lane[i] < p->shape.lanes ? p->lane[i] : 0;
    for (uint32_t r = 0; r < SIM_RANKS; r++) {
        if (r >= p->shape.ranks) {
            memset(&p->rank[r], 0, sizeof p->rank[r]);
            memset(p->graph[r], 0, sizeof p->graph[r]);
            memset(p->part[r], 0, sizeof p->part[r]);
            continue;
        }
        repair_rank(&p->shape, &p->rank[r]);
        for (uint32_t g = 0; g < SIM_GRAPHS; g++)
            if (!graph_is_whole(p, &p->graph[r][g]))
                p->graph[r][g] = (sim_graph){0};
        repair_parts(p, r);
    }
    for (uint32_t i = 0; i < SIM_FAULTS; i++) {
        clamp(fault_fields, &p->fault[i]);
        if (!fault_is_whole(p, i))
            p->fault[i] = (sim_fault){0};
    }
}

uint32_t sim_replay_pairs(const sim_program *p, uint32_t rank, uint32_t pair)
{
    const sim_part *part = &p->part[rank][pair];
    return part->how == SIM_REPLAY && part->index == 0 ? p->graph[rank][part->graph].pairs : 0;
}

int sim_is_suspect(const sim_program *p, uint32_t rank)
{
    uint32_t shortest = UINT32_MAX;
    for (uint32_t r = 0; r < p->shape.ranks; r++)
        shortest = p->rank[r].timeout_ms < shortest ? p->rank[r].timeout_ms : shortest;
    for (uint32_t i = 0; i < SIM_FAULTS; i++) {
        const sim_fault *f = &p->fault[i];
        if (f->kind && f->rank == rank && (f->kind != SIM_FAULT_STOP || f->time > shortest * 500000u))
            return 1;
    }
    return 0;
}

/* ---- as text ---- */

static void print_fields(const field *fields, const void *base, FILE *stream)
{
    for (const field *f = fields; f->name; f++) {
        uint32_t value = *(const uint32_t *)((const char *)base + f->offset);
        if (f->words)
            fprintf(stream, " %s=%s", f->name, f->words[value]);
        else
            fprintf(stream, " %s=%u", f->name, value);
    }
    fputc('\n', stream);
}

static void print_rank(const sim_program *p, uint32_t rank, FILE *stream)
{
    fprintf(stream, "rank %u", rank);
    print_fields(rank_fields, &p->rank[rank], stream);
    for (uint32_t g = 0; g < SIM_GRAPHS; g++)
        for (uint32_t j = 0; j < p->graph[rank][g].pairs; j++) {
            const sim_graph *graph = &p->graph[rank][g];
            graph_pair pair = {graph->lane[j], graph->ht[j], graph->bucket[j]};
            fprintf(stream, "graph %u %u %u", rank, g, j);
            print_fields(graph_fields, &pair, stream);
        }
    for (uint32_t i = 0; i < p->shape.pairs; i++) {
        fprintf(stream, "part %u %u", rank, i);
        print_fields(part_fields, &p->part[rank][i], stream);
    }
}

void sim_print(const sim_program *p, FILE *stream)
{
    fputs("program", stream);
    print_fields(shape_fields, &p->shape, stream);
    fputs("lanes", stream);
    for (uint32_t i = 0; i < p->shape.pairs; i++)
        fprintf(stream, " %u", p->lane[i]);
    fputc('\n', stream);
    for (uint32_t r = 0; r < p->shape.ranks; r++)
        print_rank(p, r, stream);
    for (uint32_t i = 0; i < SIM_FAULTS; i++)
        if (p->fault[i].kind) {
            fprintf(stream, "fault %u", i);
            print_fields(fault_fields, &p->fault[i], stream);
        }
}

/* A line being read; `cause` says what is wrong with it. */
typedef struct line {
    char *rest;
    char cause[200];
} line;

static char *word(line *l) { return strtok_r(NULL, " \t\r\n", &l->rest); }

static int bad(line *l, const char *format, const char *text)
{
    snprintf(l->cause, sizeof l->cause, format, text ? text : "the end of the line");
    return -1;
}

static int read_number(line *l, const char *text, uint32_t least, uint32_t most, uint32_t *number)
{
    uint64_t wide;
    if (!text)
        return bad(l, "a number is missing at %s", text);
    if (cli_number(text, least, most, &wide, l->cause, sizeof l->cause))
        return -1;
    *number = (uint32_t)wide;
    return 0;
}

static int read_value(line *l, const field *f, const char *text, uint32_t *value)
{
    if (!f->words)
        return read_number(l, text, f->least, f->most, value);
    for (uint32_t i = 0; f->words[i] && i <= f->most; i++)
        if (!strcmp(f->words[i], text)) {
            *value = i;
            return 0;
        }
    return bad(l, "there is no \"%s\"", text);
}

/* name=value ..., each field once at most; the others keep their values. */
static int read_fields(line *l, const field *fields, void *base)
{
    char *text;
    while ((text = word(l)) != NULL) {
        char *equals = strchr(text, '=');
        const field *f = fields;
        if (!equals)
            return bad(l, "\"%s\" is not name=value", text);
        *equals = '\0';
        while (f->name && strcmp(f->name, text))
            f++;
        if (!f->name)
            return bad(l, "there is no field \"%s\"", text);
        if (read_value(l, f, equals + 1, value_of(f, base)))
            return -1;
    }
    return 0;
}

static int read_lanes(line *l, sim_program *p)
{
    for (uint32_t i = 0; i < p->shape.pairs; i++)
        if (read_number(l, word(l), 0, SIM_LANES - 1, &p->lane[i]))
            return -1;
    return 0;
}

static int read_graph(line *l, sim_program *p)
{
    uint32_t r, g, j;
    graph_pair pair = {0, 0, 1};
    if (read_number(l, word(l), 0, SIM_RANKS - 1, &r) || read_number(l, word(l), 0, SIM_GRAPHS - 1, &g) ||
        read_number(l, word(l), 0, SIM_GRAPH_PAIRS - 1, &j) || read_fields(l, graph_fields, &pair))
        return -1;
    sim_graph *graph = &p->graph[r][g];
    graph->pairs = j + 1;
    graph->lane[j] = pair.lane, graph->ht[j] = pair.ht, graph->bucket[j] = pair.bucket;
    return 0;
}

static int read_line(line *l, char *text, sim_program *p)
{
    uint32_t i, j;
    const char *kind = strtok_r(text, " \t\r\n", &l->rest);
    if (!kind || kind[0] == '#')
        return 0;
    if (!strcmp(kind, "program"))
        return read_fields(l, shape_fields, &p->shape);
    if (!strcmp(kind, "lanes"))
        return read_lanes(l, p);
    if (!strcmp(kind, "graph"))
        return read_graph(l, p);
    if (!strcmp(kind, "rank"))
        return read_number(l, word(l), 0, SIM_RANKS - 1, &i) || read_fields(l, rank_fields, &p->rank[i]) ? -1 : 0;
    if (!strcmp(kind, "fault"))
        return read_number(l, word(l), 0, SIM_FAULTS - 1, &i) || read_fields(l, fault_fields, &p->fault[i]) ? -1 : 0;
    if (!strcmp(kind, "part"))
        return read_number(l, word(l), 0, SIM_RANKS - 1, &i) || read_number(l, word(l), 0, SIM_PAIRS - 1, &j) ||
                       read_fields(l, part_fields, &p->part[i][j])
                   ? -1
                   : 0;
    return bad(l, "there is no kind of line \"%s\"", kind);
}

int sim_read(FILE *stream, sim_program *p, char *message, size_t bytes)
{
    char text[1024];
    sim_program whole;
    memset(p, 0, sizeof *p);
    for (unsigned number = 1; fgets(text, sizeof text, stream); number++) {
        line l = {NULL, ""};
        if (read_line(&l, text, p)) {
            snprintf(message, bytes, "line %u: %s", number, l.cause);
            return -1;
        }
    }
    whole = *p;
    sim_repair(&whole);
    if (p->shape.ranks == 0 || memcmp(&whole, p, sizeof whole)) {
        snprintf(message, bytes, p->shape.ranks ? "its parts do not fit together" : "it has no line \"program\"");
        return -1;
    }
    return 0;
}
