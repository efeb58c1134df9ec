/* Proof that `epgraph simulate` finds bugs: copies of the library with one mistake each, every one of which must be
 * caught within SEEDS seeds. Prints a table of how many each needed.
 *
 * A mutant is a change of exact text that must occur exactly once in its file (where two lines say the same thing, of
 * both); where the source has moved on, the test fails and says so. Only what the change touches is compiled again,
 * into a copy of the static library. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

enum { SEEDS = 10000, EDITS = 2, PATH_BYTES = 512, COMMAND_BYTES = 4096 };

typedef struct edit {
    const char *file, *before, *after;
} edit;

typedef struct mutant {
    const char *name;
    edit edits[EDITS];
} mutant;

#define WAIT "src/ep/wait_host.c"
#define SEND "src/ep/dispatch_host.c"
#define COMBINE "src/ep/combine_host.c"

static const mutant mutants[] = {
    {"epoch not compared", {{WAIT, "if (epg__signal_epoch(signal) == epoch) {", "if (signal != 0) {"}}},
    {"bank by operation, baked in by the host",
     {{"src/ep/kernels_host.c", "epg__dispatch_send_args args = {&g->lanes[user->lane], *user, is_void};",
       "epg__dispatch_send_args args = {&g->lanes[user->lane], *user, is_void}; "
       "args.user.size = (uint32_t)(g->counts.issued / 4);"},
      {SEND, "lane->pair->epoch = ++own->epoch;",
       "lane->pair->epoch = own->epoch = (own->epoch & ~1u) + 2 + (s->user->size & 1);"}}},
    {"signal before rows",
     {{SEND, "        send_rank(&s, peer);\n        signal_rank(s.lane, peer);",
       "        signal_rank(s.lane, peer);\n        send_rank(&s, peer);"}}},
    {"relaxed instead of release",
     {{"src/device/host_kernel_int.h", "sim->ops->release(sim, \"stores a signal\", 1, word, &value, sizeof value);",
       "sim->ops->store(sim, \"stores a signal\", word, &value, sizeof value, 0);"}}},
    {"one bank: reuse after one epoch",
     {{"src/ep/wire.h", "(kind * 2 + bank) * w->geometry.ranks + rank",
       "(kind * 2 + 0 * bank) * w->geometry.ranks + rank"}}},
    {"count off by one",
     {{SEND, "epg__send_signal(lane, EPG_WIRE_DISPATCH, peer, lane->sent[peer], 0);",
       "epg__send_signal(lane, EPG_WIRE_DISPATCH, peer, lane->sent[peer] - (lane->sent[peer] > 0), 0);"}}},
    {"mask ignored",
     {{"src/ep/lane_int.h",
       "return epg__life_of(lane, rank) >= epg__word_load(lane->sim, &epg__mask_of(lane, lane->rank)[rank]);",
       "return (void)lane, (void)rank, 1;"}}},
    {"timeout ignored",
     {{WAIT, "if (now >= s->deadline && is_to_blame(s, now)) {", "if (0 && is_to_blame(s, now)) {"}}},
    {"blame on the waiter", {{WAIT, "if (beats == s->peer_beats || ", "if (beats + 1 || "}}},
    {"warm-up consumes pairs",
     {{SEND, "    if (lane->pair->rehearsed)\n        return 0;\n    s->tokens",
       "    if (lane->pair->rehearsed)\n        return (int)(own->epoch++ * 0);\n    s->tokens"}}},
    {"warm-up runs pairs",
     {{SEND, "    if (epg__word_load(lane->sim, &header->rehearsal))\n        return 1;",
       "    (void)header->rehearsal;"}}},
    {"beat only when a wait ends", {{WAIT, "        beat(lane);\n        if (now >=", "        if (now >="}}},
    {"epochs compared without wrap",
     {{WAIT, "if ((int32_t)(epg__signal_epoch(signal) - epoch) > 0) {", "if (epg__signal_epoch(signal) > epoch) {"}}},
    {"void taken for an answer",
     {{WAIT, "return epg__signal_is_void(signal) ? -1 : 1;", "return 1;"},
      {COMBINE, " && count == lane->sent[peer];", ";"}}},
    {"abandoned pair sends no signal",
     {{COMBINE, "    epg__send_signal(lane, EPG_WIRE_COMBINE, source,",
       "    if (!args->is_void)\n        epg__send_signal(lane, EPG_WIRE_COMBINE, source,"}}},
    {"rehearsal not read by dispatch recv", {{SEND, "return !lane->pair->rehearsed;", "return 1;"}}},
    {"signal only to ranks with rows",
     {{SEND, "    if (epg__rank_alive(lane, peer) || (",
       "    if ((lane->sent[peer] && epg__rank_alive(lane, peer)) || ("}}},
    {"combine recv does not wait",
     {{COMBINE,
       "lane->sent[peer] > 0 && epg__await_signal(lane, EPG_WIRE_COMBINE, peer, &count) && count == lane->sent[peer];",
       "(count = lane->sent[peer]) > 0;"}}},
    {"masked rank never learns",
     {{WAIT, "if (epg__word_load(lane->sim, &epg__mask_of(lane, s->peer)[lane->rank]) > lane->incarnation) {",
       "if (0) {"}}},
    {"expired rank is not masked",
     {{WAIT, "    epg__give_up(lane, s->peer, epg__life_of(lane, s->peer)); /*", "    /*"}}},
    {"partial sums in another order",
     {{COMBINE, "        if (shares[i].slot == EPG_WIRE_NONE || ",
       "        shares = lane->shares + (size_t)token * lane->fan + lane->share_count[token] - 1 - 2 * (size_t)i;\n"
       "        if (shares[i].slot == EPG_WIRE_NONE || "}}},
    {"mark of a lacking row ignored", {{COMBINE, "missing |= *epg__mark_at(w, own, index);", ""}}},
    {"padding is sent",
     {{SEND, "s->tokens = asked < s->user->bucket ? asked : s->user->bucket;", "s->tokens = s->user->bucket;"}}},
    {"overflow not counted", {{SEND, "s->dropped += alive && !fits;", "s->dropped += 0;"}}},
    {"slots not bounded",
     {{SEND, "lane->sent[ranks[i]] < lane->wire->geometry.slots, alive",
       "lane->sent[ranks[i]] <= lane->wire->geometry.slots, alive"}}},
    {"joined one pair early",
     {{"src/ep/admit_host.c", "if (!entry->incarnation || entry->epoch != lane->pair->epoch)",
       "if (!entry->incarnation || entry->epoch != lane->pair->epoch + 1)"}}},
    {"join epoch ignored",
     {{"src/ep/admit_host.c", "if (!entry->incarnation || entry->epoch != lane->pair->epoch)",
       "if (!entry->incarnation)"}}},
    {"no invitation to the rank that joins",
     {{"src/ep/admit_host.c", "return entry->incarnation && entry->epoch == lane->pair->epoch + 1 &&",
       "return entry->incarnation && 0 &&"}}},
    {"incarnation ignored",
     {{WAIT, "if (signal != 0 && epg__signal_incarnation(signal) == (incarnation & 0xFFu)) {", "if (signal != 0) {"},
      {WAIT, "if (epg__word_load(lane->sim, &epg__header_of(lane, s->peer)->incarnation) > incarnation) {",
       "if (0) {"}}},
    {"doorbell not rung", {{WAIT, "    epg__doorbell_ring(lane->sim, &epg__header_of(lane, peer)->bell);\n", ""}}},
};
enum { MUTANTS = sizeof mutants / sizeof mutants[0] };

/* What became of a mutant; written by a worker process. */
typedef struct outcome {
    long seeds; /* 0: not caught */
    char trouble[512];
} outcome;

static const char *build(void)
{
    const char *path = getenv("EPGRAPH_BUILD");
    return path ? path : "build";
}

static char *read_whole(const char *path)
{
    FILE *file = fopen(path, "r");
    long bytes;
    char *text = NULL;
    if (!file)
        return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && (bytes = ftell(file)) >= 0 && (text = calloc((size_t)bytes + 1, 1)) != NULL) {
        rewind(file);
        if (fread(text, 1, (size_t)bytes, file) != (size_t)bytes)
            text[0] = '\0';
    }
    fclose(file);
    return text;
}

static void make_folders(const char *path)
{
    char part[2 * PATH_BYTES];
    for (const char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
        snprintf(part, sizeof part, "%.*s", (int)(at - path), path);
        mkdir(part, 0777);
    }
}

/* Writes the changed file under `folder`; 0, or -1 with the trouble told. */
static int change(const edit *e, const char *folder, outcome *out)
{
    char path[2 * PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", folder, e->file);
    make_folders(path);
    char *text = read_whole(access(path, F_OK) ? e->file : path), *at = text ? strstr(text, e->before) : NULL;
    int bad = !at || strstr(at + 1, e->before);
    FILE *file = bad ? NULL : fopen(path, "w");
    if (!file) {
        snprintf(out->trouble, sizeof out->trouble, "%s: \"%s\" is there %s", e->file, e->before,
                 at ? "more than once" : "no more");
    } else {
        fprintf(file, "%.*s%s%s", (int)(at - text), text, e->after, at + strlen(e->before));
        bad = fclose(file) != 0;
    }
    free(text);
    return bad ? -1 : 0;
}

static int ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && !strcmp(text + a - b, end);
}

static void remove_folder(const char *folder)
{
    char command[COMMAND_BYTES];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command) != 0)
        fprintf(stderr, "%s failed\n", command);
}

/* Runs a command; its output goes to `folder`/log. */
static int shell(const char *folder, outcome *out, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int shell(const char *folder, outcome *out, const char *format, ...)
{
    char command[COMMAND_BYTES] = "{ ";
    va_list arguments;
    va_start(arguments, format);
    int length = 2 + vsnprintf(command + 2, sizeof command - 2, format, arguments);
    va_end(arguments);
    snprintf(command + length, sizeof command - (size_t)length, "; } >>%s/log 2>&1", folder);
    if (system(command) == 0)
        return 0;
    snprintf(out->trouble, sizeof out->trouble, "failed, see %s/log: %.300s", folder, command);
    return -1;
}

static int compile(const char *source, const char *folder, outcome *out)
{
    const char *name = strrchr(source, '/') + 1;
    return shell(folder, out,
                 ". %s/link && $CC -O1 -std=c11 -D_GNU_SOURCE -I%s/src -Iinclude -Isrc -fPIC -ffp-contract=off "
                 "-pthread -w -c -o %s/%.*so %s && ar r %s/libepgraph.a %s/%.*so",
                 build(), folder, folder, (int)strlen(name) - 1, name, source, folder, folder, (int)strlen(name) - 1,
                 name);
}

/* A changed header: all of ep sees it, but for the files of other devices. */
static int compile_ep(const char *folder, outcome *out)
{
    FILE *list = popen("ls src/ep/*.c", "r");
    char source[PATH_BYTES];
    int bad = !list;
    while (!bad && fgets(source, sizeof source, list)) {
        source[strcspn(source, "\n")] = '\0';
        if (!ends_with(source, "cuda.c"))
            bad = compile(source, folder, out);
    }
    if (list)
        pclose(list);
    return bad;
}

static int make_mutant(const mutant *m, const char *folder, outcome *out)
{
    if (shell(folder, out, "cp %s/libepgraph.a %s/libepgraph.a", build(), folder))
        return -1;
    for (int i = 0; i < EDITS && m->edits[i].file; i++)
        if (change(&m->edits[i], folder, out))
            return -1;
    for (int i = 0; i < EDITS && m->edits[i].file; i++) {
        char source[2 * PATH_BYTES];
        snprintf(source, sizeof source, "%s/%s", folder, m->edits[i].file);
        if (ends_with(source, ".h") ? compile_ep(folder, out) : compile(source, folder, out))
            return -1;
    }
    return shell(folder, out, ". %s/link && $CC -pthread -o %s/epgraph %s/cli/*.o %s/libepgraph.a $LIBS", build(),
                 folder, build(), folder);
}

/* Looks for the seed that catches it. */
static void hunt(const char *folder, outcome *out)
{
    char command[COMMAND_BYTES], line[1024];
    snprintf(command, sizeof command, "%s/epgraph simulate --ranks=4 --pairs=6 --seeds=1..%d --no-shrink 2>>%s/log",
             folder, SEEDS, folder);
    FILE *output = popen(command, "r");
    while (output && fgets(line, sizeof line, output)) {
        char *failed = strstr(line, ") failed: ");
        if (sscanf(line, "seed %ld ", &out->seeds) == 1 && failed)
            snprintf(out->trouble, sizeof out->trouble, "%.*s", (int)strcspn(failed + 10, "\n"), failed + 10);
    }
    int status = output ? pclose(output) : -1;
    if (out->seeds == 0)
        snprintf(out->trouble, sizeof out->trouble, "not caught by %d seeds (status %d)", SEEDS, status);
}

static void work(uint32_t first, uint32_t step, outcome *outcomes)
{
    for (uint32_t i = first; i < MUTANTS; i += step) {
        char folder[PATH_BYTES];
        snprintf(folder, sizeof folder, "%s/mutants/%u", build(), i);
        remove_folder(folder);
        snprintf(folder, sizeof folder, "%s/mutants/%u/x", build(), i);
        make_folders(folder);
        *strrchr(folder, '/') = '\0';
        if (make_mutant(&mutants[i], folder, &outcomes[i]) == 0)
            hunt(folder, &outcomes[i]);
    }
}

/* A failure shrinks, says how, and what it prints can be run again and fails the same way. */
static void a_failure_can_be_run_again(void **state)
{
    char command[COMMAND_BYTES];
    (void)state;
    snprintf(
        command, sizeof command,
        "cd %s/mutants/0 && ./epgraph simulate --trace=trace >failure; test $? -eq 1 && grep -q '^seed .* failed: ' "
        "failure && "
        "grep -q '^The last [0-9]* of [0-9]* moves' failure && grep -q '^The shrunk program fails so: ' failure && "
        "test $(wc -l <trace) -ge 60 && sed -n '/^program /,$p' failure >program && test $(grep -c ^part program) -le "
        "12 && "
        "./epgraph simulate --no-shrink --program=program >again; test $? -eq 1 && "
        "test \"$(sed -n 's/^The shrunk program fails so: //p' failure)\" = \"$(sed -n 's/^program failed: //p' "
        "again)\"",
        build());
    assert_int_equal(system(command), 0);
}

static void every_mutant_is_caught(void **state)
{
    (void)state;
    long cores = sysconf(_SC_NPROCESSORS_ONLN), missed = 0;
    uint32_t workers = cores < 1 ? 1 : cores > 8 ? 8 : (uint32_t)cores;
    outcome *outcomes =
        mmap(NULL, sizeof *outcomes * MUTANTS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(outcomes != MAP_FAILED);
    for (uint32_t w = 0; w < workers; w++) {
        pid_t worker = fork();
        assert_true(worker >= 0);
        if (worker == 0) {
            work(w, workers, outcomes);
            _exit(0);
        }
    }
    while (wait(NULL) > 0)
        continue;
    printf("| mutant | seeds | caught by |\n|---|---|---|\n");
    for (uint32_t i = 0; i < MUTANTS; i++) {
        if (outcomes[i].seeds)
            printf("| %s | %ld | %s |\n", mutants[i].name, outcomes[i].seeds, outcomes[i].trouble);
        else
            printf("| %s | NOT CAUGHT | %s |\n", mutants[i].name, outcomes[i].trouble);
        missed += outcomes[i].seeds == 0;
    }
    munmap(outcomes, sizeof *outcomes * MUTANTS);
    assert_int_equal(missed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_mutant_is_caught),
                                       cmocka_unit_test(a_failure_can_be_run_again)};
    if (ends_with(build(), "san")) {
        puts("mutants are made of the plain build alone");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
