/* The timeline of a run: JSON whose spans nest, with every rank, every step, and every phase of every layer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <jansson.h>
#include <cmocka.h>
#include "support/command.h"

enum { RANKS = 2, LAYERS = 2, BUCKETS = 5, HOST = 1, STREAM = 2, MOST_EVENTS = 100000 };

typedef struct span {
    double begin, end;
    const char *name;
    json_t *args;
    size_t place;       /* in the file */
} span;

typedef struct row {
    span *spans;        /* by their begins, outer ones first */
    size_t count;
} row;

/* ---- reading ---- */

static json_t *load(void **state, const char *name)
{
    char text[512];
    json_error_t error;
    json_t *root = json_load_file(path(state, name, text, sizeof(text)), 0, &error);
    if (!root)
        fail_msg("%s: line %d: %s", text, error.line, error.text);
    return root;
}

static double real(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    if (!json_is_number(value))
        fail_msg("an event without a number \"%s\"", key);
    return json_number_value(value);
}

static json_int_t integer(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    if (!json_is_integer(value))
        fail_msg("\"%s\" is not a whole number", key);
    return json_integer_value(value);
}

static const char *string(json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    if (!value)
        fail_msg("\"%s\" is not a text", key);
    return value;
}

static int is_kind(json_t *event, const char *kind) { return !strcmp(string(event, "ph"), kind); }

static int outer_first(const void *a, const void *b)
{
    const span *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static row row_of(json_t *root, int rank, int number)
{
    json_t *events = json_object_get(root, "traceEvents"), *event;
    size_t index;
    row r = {calloc(MOST_EVENTS, sizeof(span)), 0};
    assert_non_null(r.spans);
    json_array_foreach(events, index, event) {
        if (!is_kind(event, "X") || integer(event, "pid") != rank || integer(event, "tid") != number)
            continue;
        assert_true(r.count < MOST_EVENTS);
        assert_true(real(event, "ts") >= 0 && real(event, "dur") >= 0);
        r.spans[r.count++] = (span){real(event, "ts"), real(event, "ts") + real(event, "dur"), string(event, "name"),
                                    json_object_get(event, "args"), index};
    }
    qsort(r.spans, r.count, sizeof(span), outer_first);
    return r;
}

static size_t count_named(const row *r, const char *name)
{
    size_t count = 0;
    for (size_t i = 0; i < r->count; i++)
        count += !strcmp(r->spans[i].name, name);
    return count;
}

/* ---- what must hold ---- */

/* Each span lies inside of the one that is open when it begins. */
static void expect_nested(const row *r)
{
    const span *open[16];
    size_t depth = 0;
    const double slack = 0.0015; /* us: begin and length are rounded to ns each, and sums of them are doubles */
    for (size_t i = 0; i < r->count; i++) {
        const span *s = &r->spans[i];
        while (depth && s->begin >= open[depth - 1]->end - slack && s->end > open[depth - 1]->end + slack)
            depth--;
        while (depth && s->begin >= open[depth - 1]->end)
            depth--;
        if (depth && s->end > open[depth - 1]->end + slack)
            fail_msg("%s at %.3f ends at %.3f, after %s at %.3f", s->name, s->begin, s->end, open[depth - 1]->name,
                     open[depth - 1]->end);
        assert_true(depth < 16);
        open[depth++] = s;
    }
}

/* The phases of one step, between two places of the row: each layer's in order, one after the other. */
static void expect_phases(const row *r, size_t first, size_t end)
{
    static const char *const phases[] = {"norm", "gate", "dispatch", "experts", "combine", "add"};
    size_t at = first;
    assert_string_equal(r->spans[at++].name, "embedding");
    for (int layer = 0; layer < LAYERS; layer++)
        for (size_t p = 0; p < sizeof(phases) / sizeof(*phases); p++, at++) {
            assert_true(at < end);
            assert_string_equal(r->spans[at].name, phases[p]);
            assert_int_equal(integer(r->spans[at].args, "layer"), layer);
            assert_true(r->spans[at].begin >= r->spans[at - 1].begin);
        }
    assert_string_equal(r->spans[at++].name, "head");
    assert_int_equal(at, end);
}

typedef struct seen {
    size_t steps, replays, eager, prefills, decodes, tokens;
} seen;

static seen expect_stream(const row *r)
{
    seen all = {0};
    const size_t per_step = 2 + 1 + 6 * LAYERS + 1; /* the step, its phase, embedding, the layers, head */
    json_int_t epoch = 1;
    expect_nested(r);
    assert_int_equal(r->count % per_step, 0);
    for (size_t i = 0; i < r->count; i += per_step, all.steps++) {
        const span *step = &r->spans[i], *model = step + 1;
        assert_string_equal(step->name, "step");
        assert_int_equal(integer(step->args, "step"), all.steps);
        assert_int_equal(integer(step->args, "epoch"), epoch);
        assert_true(integer(step->args, "tokens") <= integer(step->args, "bucket"));
        assert_string_equal(model->name, string(step->args, "phase"));
        assert_string_equal(string(model->args, "run"), string(step->args, "run"));
        assert_true(model->begin >= step->begin && model->end <= step->end + 0.0015);
        epoch += integer(step->args, "pairs");
        all.replays += !strcmp(string(step->args, "run"), "replay");
        all.eager += !strcmp(string(step->args, "run"), "eager");
        all.prefills += !strcmp(model->name, "prefill");
        all.decodes += !strcmp(model->name, "decode");
        all.tokens += (size_t)integer(step->args, "tokens");
        expect_phases(r, i + 2, i + per_step);
    }
    return all;
}

static void expect_descriptions(json_t *root)
{
    json_t *events = json_object_get(root, "traceEvents"), *event;
    size_t index, ranks = 0, rows = 0;
    char name[32];
    json_array_foreach(events, index, event) {
        if (!is_kind(event, "M"))
            continue;
        json_t *args = json_object_get(event, "args");
        snprintf(name, sizeof(name), "rank %d", (int)integer(event, "pid"));
        if (!strcmp(string(event, "name"), "process_name"))
            ranks += !strcmp(string(args, "name"), name);
        if (!strcmp(string(event, "name"), "thread_name"))
            rows += !strcmp(string(args, "name"), integer(event, "tid") == HOST ? "host" : "stream");
    }
    assert_int_equal(ranks, RANKS);
    assert_int_equal(rows, 2 * RANKS);
}

/* Every arrow goes from a row "host" to the row "stream" of the same rank. */
static size_t count_arrows(json_t *root)
{
    json_t *events = json_object_get(root, "traceEvents"), *event, *begin = NULL;
    size_t index, arrows = 0;
    json_array_foreach(events, index, event) {
        if (is_kind(event, "s")) {
            assert_null(begin);
            begin = event;
        } else if (is_kind(event, "f")) {
            assert_non_null(begin);
            assert_int_equal(integer(begin, "id"), integer(event, "id"));
            assert_int_equal(integer(begin, "pid"), integer(event, "pid"));
            assert_int_equal(integer(begin, "tid"), HOST);
            assert_int_equal(integer(event, "tid"), STREAM);
            begin = NULL;
            arrows++;
        }
    }
    assert_null(begin);
    return arrows;
}

/* ---- runs ---- */

static json_int_t figure(json_t *report, const char *object, const char *key)
{
    return integer(json_object_get(report, object), key);
}

static void test_mixed_run(void **state)
{
    expect(state, "run --model @/good --ranks 2 --requests 12 --timeline @/t.json --json @/out.json --check", 0,
           "Timeline");
    json_t *root = load(state, "t.json"), *report = load(state, "out.json");
    json_t *other = json_object_get(root, "otherData");
    size_t steps = (size_t)figure(report, "steps", "total"), replays = 0, tokens = 0;
    seen part[RANKS];
    expect_descriptions(root);
    for (int rank = 0; rank < RANKS; rank++) {
        row host = row_of(root, rank, HOST), stream = row_of(root, rank, STREAM);
        part[rank] = expect_stream(&stream);
        assert_int_equal(part[rank].steps, steps);
        assert_int_equal(part[rank].eager, part[rank].prefills);
        assert_true(part[rank].prefills > 0 && part[rank].decodes > 0);
        replays += part[rank].replays;
        tokens += part[rank].tokens;
        expect_nested(&host);
        assert_int_equal(count_named(&host, "first use"), BUCKETS);
        assert_int_equal(count_named(&host, "warm-up"), BUCKETS);
        assert_int_equal(count_named(&host, "probe"), 1);
        assert_int_equal(count_named(&host, "capture"), BUCKETS);
        assert_int_equal(count_named(&host, "instantiate"), BUCKETS);
        assert_int_equal(count_named(&host, "replay"), part[rank].replays);
        assert_int_equal(count_named(&host, "eager"), part[rank].eager);
        assert_int_equal(count_named(&host, "wait"), steps);
        assert_true(count_named(&host, "exchange") >= steps);
        free(host.spans);
        free(stream.spans);
    }
    assert_int_equal(replays, figure(report, "graph", "replays"));
    assert_int_equal(tokens, figure(report, "tokens", "prefill") + figure(report, "tokens", "decode") -
                                 integer(report, "requests")); /* a last token is generated and not run */
    assert_int_equal(count_arrows(root), RANKS * steps);
    assert_int_equal(integer(other, "ranks"), RANKS);
    assert_int_equal(integer(other, "steps"), steps);
    assert_int_equal(integer(other, "steps_left_out"), 0);
    assert_int_equal(integer(other, "spans_lost"), 0);
    json_decref(root);
    json_decref(report);
}

/* Two ranks take a step together: their spans of it overlap. */
static void test_ranks_overlap(void **state)
{
    expect(state, "run --model @/good --ranks 2 --requests 6 --timeline @/t.json", 0, NULL);
    json_t *root = load(state, "t.json");
    row rows[2] = {row_of(root, 0, STREAM), row_of(root, 1, STREAM)};
    size_t steps = 0, a = 0, b = 0;
    assert_int_equal(rows[0].count, rows[1].count);
    for (; a < rows[0].count; a++, b++) {
        if (strcmp(rows[0].spans[a].name, "step"))
            continue;
        assert_string_equal(rows[1].spans[b].name, "step");
        assert_true(rows[0].spans[a].begin < rows[1].spans[b].end);
        assert_true(rows[1].spans[b].begin < rows[0].spans[a].end);
        steps++;
    }
    assert_true(steps > 0);
    free(rows[0].spans);
    free(rows[1].spans);
    json_decref(root);
}

static void test_first_steps(void **state)
{
    expect(state, "run --model @/good --ranks 2 --requests 12 --timeline @/t.json --timeline-steps 3 --json @/out.json",
           0, "later steps");
    json_t *root = load(state, "t.json"), *report = load(state, "out.json");
    json_t *other = json_object_get(root, "otherData");
    for (int rank = 0; rank < RANKS; rank++) {
        row host = row_of(root, rank, HOST), stream = row_of(root, rank, STREAM);
        assert_int_equal(expect_stream(&stream).steps, 3);
        expect_nested(&host);
        assert_int_equal(count_named(&host, "wait"), 3);
        free(host.spans);
        free(stream.spans);
    }
    assert_int_equal(integer(other, "steps"), 3);
    assert_int_equal(integer(other, "steps_left_out"), figure(report, "steps", "total") - 3);
    assert_int_equal(integer(other, "spans_lost"), 0);
    json_decref(root);
    json_decref(report);
}

static void test_eager_run(void **state)
{
    expect(state, "run --model @/good --ranks 2 --requests 4 --eager --timeline @/t.json", 0, NULL);
    json_t *root = load(state, "t.json");
    for (int rank = 0; rank < RANKS; rank++) {
        row host = row_of(root, rank, HOST), stream = row_of(root, rank, STREAM);
        seen all = expect_stream(&stream);
        assert_true(all.steps > 0 && all.eager == all.steps);
        assert_int_equal(count_named(&host, "capture") + count_named(&host, "replay"), 0);
        free(host.spans);
        free(stream.spans);
    }
    json_decref(root);
}

static void test_a_timeline_changes_no_bit(void **state)
{
    expect(state, "run --model @/good --ranks 2 --requests 8 --json @/without.json", 0, NULL);
    expect(state, "run --model @/good --ranks 2 --requests 8 --json @/with.json --timeline @/t.json", 0, NULL);
    json_t *without = load(state, "without.json"), *with = load(state, "with.json");
    assert_string_equal(string(without, "states_digest"), string(with, "states_digest"));
    assert_string_equal(string(without, "tokens_digest"), string(with, "tokens_digest"));
    json_decref(without);
    json_decref(with);
}

static void test_bad_use(void **state)
{
    char text[512];
    expect(state, "run --model @/good --timeline @/no/such/t.json", 2, "--timeline ");
    expect(state, "run --model @/good --timeline @/t.json --timeline-steps 0", 2, "--timeline-steps: \"0\"");
    expect(state, "run --model @/good --timeline-steps 5", 2, "--timeline, which is not given");
    expect(state, "run --model @/good --requests 2 --timeline /dev/full", 1, "--timeline /dev/full");
    setenv("EPGRAPH_TIMEOUT_MS", "soon", 1);
    expect(state, "run --model @/good --timeline @/none.json", 2, "EPGRAPH_TIMEOUT_MS");
    unsetenv("EPGRAPH_TIMEOUT_MS");
    assert_int_equal(access(path(state, "none.json", text, sizeof(text)), F_OK), -1);
}

static int set_up(void **state)
{
    if (make_directory(state))
        return -1;
    outcome out = run(state, "model --preset tiny @/good");
    if (out.code)
        print_error("%s\n", out.text);
    return out.code;
}

int main(void)
{
    setenv("CUDA_VISIBLE_DEVICES", "", 1); /* the same answers where there is a GPU */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixed_run), cmocka_unit_test(test_ranks_overlap), cmocka_unit_test(test_first_steps),
        cmocka_unit_test(test_eager_run), cmocka_unit_test(test_a_timeline_changes_no_bit),
        cmocka_unit_test(test_bad_use),
    };
    return cmocka_run_group_tests(tests, set_up, remove_directory);
}
