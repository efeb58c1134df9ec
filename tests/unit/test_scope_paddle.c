/* Paddle in a stream scope, with libraries that stand in for its generations: which object is current in the context
 * and what c10 reads, before, inside and after; and that nothing is destroyed. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include "support/scopes.h"

typedef struct c10_stream {
    int8_t kind, index;
    char *text;
    size_t length;
    char inside[16];
    uint64_t id;
} c10_stream;

typedef struct generation {
    const char *file;
    int named;       /* a Place holds a string */
    int c10;         /* the shim is there */
    int follows;     /* c10 reads the context, while this thread has set nothing in c10 */
    int own;         /* c10 has a state of its own, for each thread */
    int registers;   /* c10's setter registers an object of its own */
} generation;

static const generation generations[] = {
    {"paddle_26/libphi.so", 0, 0, 0, 0, 0},
    {"paddle_33/libphi_core.so", 0, 0, 0, 0, 0},
    {"paddle_named/libphi_core.so", 1, 1, 0, 1, 0},
    {"paddle_tls/libphi_core.so", 0, 1, 0, 1, 0},
    {"paddle_context/libphi_core.so", 0, 1, 1, 0, 1},
    {"paddle_merged/libphi_core.so", 0, 1, 1, 0, 0},
    {"paddle_first/libphi_core.so", 0, 1, 1, 1, 1},
    {"paddle_default/libphi_core.so", 0, 1, 0, 1, 1},
};

typedef struct paddle {
    const generation *g;
    void *handle;
    void *(*instance)(void);
    void *(*context)(void *, const void *);
    void *(*object)(const void *);
    void *(*stream)(const void *);
    void (*set)(void *, void *, _Bool);
    void *(*c10_get)(c10_stream *, int8_t);
    void (*c10_set)(c10_stream *);
    void (*behave)(int), (*count)(int), (*first)(int), (*ready)(int);
    int (*destroyed)(void);
} paddle;

#define FIND(field, type, name) p.field = (type)standin_symbol(p.handle, name)

static paddle load_paddle(const generation *g)
{
    paddle p = {.g = g, .handle = standin_load(g->file)};
    FIND(instance, void *(*)(void), "_ZN6paddle12experimental17DeviceContextPool8InstanceEv");
    FIND(context, void *(*)(void *, const void *),
         "_ZN6paddle12experimental17DeviceContextPool10GetMutableERKN3phi5PlaceE");
    FIND(object, void *(*)(const void *), "_ZNK3phi10GPUContext11cuda_streamEv");
    FIND(stream, void *(*)(const void *), "_ZNK3phi10GPUContext6streamEv");
    FIND(set, void (*)(void *, void *, _Bool), "_ZN3phi10GPUContext13SetCUDAStreamEPNS_10CUDAStreamEb");
    FIND(behave, void (*)(int), "standin_behave");
    FIND(count, void (*)(int), "standin_count");
    FIND(first, void (*)(int), "standin_first");
    FIND(ready, void (*)(int), "standin_ready");
    FIND(destroyed, int (*)(void), "standin_destroyed");
    if (g->c10) {
        FIND(c10_get, void *(*)(c10_stream *, int8_t), "_ZN3c104cuda20getCurrentCUDAStreamEa");
        FIND(c10_set, void (*)(c10_stream *), "_ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE");
    }
    p.behave(STANDIN_OBEY);
    p.count(STANDIN_DEVICES);
    p.first(0);
    p.ready(1);
    return p;
}

/* The test's own making of a phi::Place. */
static void *context_of(const paddle *p, int device)
{
    struct {
        int8_t device, type;
        void *word;
        size_t length;
        char inside[16];
    } place = {(int8_t)device, 2, NULL, 0, {0}};
    if (p->g->named)
        place.word = place.inside;
    return p->context(p->instance(), &place);
}

static uintptr_t handle_of(const paddle *p, int device) { return (uintptr_t)p->stream(context_of(p, device)); }

static uintptr_t c10_of(const paddle *p, int device)
{
    c10_stream stream;
    assert_ptr_equal(p->c10_get(&stream, (int8_t)device), &stream);
    return stream.id;
}

static void set_c10(const paddle *p, int device, uintptr_t id)
{
    c10_stream stream = {1, (int8_t)device, NULL, 0, {0}, id};
    stream.text = stream.inside;
    p->c10_set(&stream);
}

/* Inside a scope on `wanted`, GPU DEVICE's stream is that for everyone on this thread, and GPU 0's is as ever. */
static void assert_inside(const paddle *p, epg_stream wanted)
{
    uintptr_t handle = wanted ? (uintptr_t)wanted : 1;
    assert_int_equal(handle_of(p, DEVICE), handle);
    assert_int_equal(handle_of(p, 0), 0x500);
    if (p->g->c10)
        assert_int_equal(c10_of(p, DEVICE), handle);
}

typedef struct before {
    void *object;
    uintptr_t handle, c10;
    int destroyed;
} before;

static before look(const paddle *p)
{
    void *context = context_of(p, DEVICE);
    return (before){p->object(context), (uintptr_t)p->stream(context), p->g->c10 ? c10_of(p, DEVICE) : 0,
                    p->destroyed()};
}

static void assert_as_before(const paddle *p, const before *b)
{
    before now = look(p);
    assert_ptr_equal(now.object, b->object);
    assert_int_equal(now.handle, b->handle);
    assert_int_equal(now.c10, b->c10);
    assert_int_equal(now.destroyed, b->destroyed);
}

static void nested_scopes(const paddle *p)
{
    epg_scope_report report = EPG_SCOPE_REPORT_INIT;
    epg_scope *outer = NULL, *inner = NULL, *legacy = NULL;
    epg_scope_table *table = table_of(0, NULL, 0);
    before b = look(p);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &outer), EPG_OK);
        assert_int_equal(entry_of(&report, "Paddle")->state, EPG_SCOPE_SET);
        assert_inside(p, STREAM(1));
        assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(2), NULL, &inner), EPG_OK);
        assert_inside(p, STREAM(2));
        assert_int_equal(epg_scope_enter(table, DEVICE, EPG_STREAM_LEGACY, NULL, &legacy), EPG_OK);
        assert_inside(p, NULL);
        assert_int_equal(epg_scope_leave(legacy), EPG_OK);
        assert_inside(p, STREAM(2));
        assert_int_equal(epg_scope_leave(inner), EPG_OK);
        assert_inside(p, STREAM(1));
        assert_int_equal(epg_scope_leave(outer), EPG_OK);
        assert_as_before(p, &b);
    }
    epg_scope_table_destroy(table);
}

/* Loaded anew each time, so that nothing is set in c10. */
static void for_each_generation(void (*test)(const paddle *p))
{
    for (size_t i = 0; i < sizeof generations / sizeof *generations; i++) {
        paddle p = load_paddle(&generations[i]);
        test(&p);
        dlclose(p.handle);
    }
}

static void every_generation_is_set_and_put_back(void **state)
{
    (void)state;
    for_each_generation(nested_scopes);
}

/* c10 and the context may have had different streams before: each gets back its own. */
static void with_c10_set_before(const paddle *p)
{
    if (!p->g->own)
        return;
    void *context = context_of(p, DEVICE), *mine = p->object(context);
    set_c10(p, DEVICE, 0x7000);
    p->set(context, mine, 0);
    assert_int_equal(c10_of(p, DEVICE), 0x7000);
    assert_int_equal(handle_of(p, DEVICE), 0x510);
    nested_scopes(p);
}

static void a_stream_that_c10_had_comes_back(void **state)
{
    (void)state;
    for_each_generation(with_c10_set_before);
}

/* Whatever is set inside is undone, and a stream that is the context's own outlives it. */
static void set_inside(const paddle *p)
{
    epg_scope *scope = NULL;
    epg_scope_table *table = table_of(0, NULL, 0);
    void *context = context_of(p, DEVICE);
    before b = look(p);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_OK);
    if (p->g->c10)
        set_c10(p, DEVICE, 0x9000);
    else
        p->set(context, p->object(context_of(p, 0)), 0);
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    assert_as_before(p, &b);
    epg_scope_table_destroy(table);
}

static void what_is_set_inside_does_not_outlive_the_scope(void **state)
{
    (void)state;
    for_each_generation(set_inside);
}

/* What a second thread gets, for GPU DEVICE and for another; it leaves what it has entered. */
typedef struct visit {
    epg_status status, other_status, left;
    char message[256];
    epg_scope_report report;
} visit;

static void *run_visit(void *arg)
{
    visit *v = arg;
    epg_scope *scope = NULL, *other = NULL;
    epg_scope_table *table = NULL;
    if (epg_scope_table_create(NULL, &table) != EPG_OK)
        return NULL;
    v->status = epg_scope_enter(table, DEVICE, STREAM(3), &v->report, &scope);
    strncpy(v->message, epg_message(), sizeof v->message - 1);
    v->other_status = epg_scope_enter(table, DEVICE + 1, STREAM(3), NULL, &other);
    v->left = epg_scope_leave(other);
    if (v->status == EPG_OK && v->left == EPG_OK)
        v->left = epg_scope_leave(scope);
    epg_scope_table_destroy(table);
    return NULL;
}

static visit visit_from_elsewhere(void)
{
    visit v = {EPG_ERR_STATE, EPG_ERR_STATE, EPG_ERR_STATE, "", EPG_SCOPE_REPORT_INIT};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run_visit, &v), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(v.other_status, EPG_OK);
    assert_int_equal(v.left, EPG_OK);
    return v;
}

/* The context has one stream for all threads, so a second thread's scope is refused and changes nothing. */
static void two_threads(const paddle *p)
{
    epg_scope *scope = NULL;
    epg_scope_table *table = table_of(0, NULL, 0);
    before b = look(p);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_OK);
    visit v = visit_from_elsewhere();
    assert_int_equal(v.status, EPG_ERR_UNSUPPORTED);
    assert_string_equal(v.message, "Paddle: a scope of another thread is open, and it keeps one stream for all");
    assert_int_equal(entry_of(&v.report, "Paddle")->state, EPG_SCOPE_UNSUPPORTED);
    assert_inside(p, STREAM(1));
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    assert_as_before(p, &b);
    assert_int_equal(visit_from_elsewhere().status, EPG_OK);
    assert_as_before(p, &b);
    epg_scope_table_destroy(table);
}

static void threads_take_turns(void **state)
{
    (void)state;
    for_each_generation(two_threads);
}

static void enter_fails(const paddle *p, int device, const char *why)
{
    epg_scope *scope = NULL;
    epg_scope_table *table = table_of(0, NULL, 0);
    (void)p;
    assert_int_equal(epg_scope_enter(table, device, STREAM(1), NULL, &scope), EPG_ERR_UNSUPPORTED);
    assert_message(why);
    epg_scope_table_destroy(table);
}

static void sets_that_fail(const paddle *p)
{
    before b = look(p);
    p->behave(STANDIN_IGNORE);
    enter_fails(p, DEVICE, "Paddle: reads back 0x510 after stream 0x1000 was set");
    p->behave(STANDIN_OBEY);
    assert_as_before(p, &b);
    p->count(DEVICE);
    enter_fails(p, DEVICE, "Paddle: it has no device context of GPU 1");
    p->count(0);
    enter_fails(p, DEVICE, "Paddle: it sees no GPU");
    p->count(STANDIN_DEVICES);
}

static void a_set_that_cannot_be_is_named(void **state)
{
    (void)state;
    for_each_generation(sets_that_fail);
}

static void leaves_that_fail(const paddle *p)
{
    epg_scope *scope = NULL;
    epg_scope_table *table = table_of(0, NULL, 0);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_OK);
    void *context = context_of(p, DEVICE), *inside = p->object(context);
    p->behave(STANDIN_IGNORE);
    assert_int_equal(epg_scope_leave(scope), EPG_ERR_UNSUPPORTED);
    assert_message("Paddle: reads back stream object ");
    assert_ptr_equal(p->object(context), inside);
    p->behave(STANDIN_OBEY);
    p->set(context, p->object(context_of(p, 0)), 0); /* what was ours is gone with the scope */
    epg_scope_table_destroy(table);
}

static void a_leave_that_cannot_be_is_named(void **state)
{
    (void)state;
    for_each_generation(leaves_that_fail);
}

/* An object that is not laid out as the Place promised is not touched. */
static void odd_objects(const paddle *p)
{
    struct {
        int8_t device, type;
        uint64_t words[6];
    } odd = {DEVICE, 2, {1, 0, 0x510, 0, 0x510, 0}}, real = {DEVICE + 1, 2, {0, 0x510, 0, 0, 0x510, 0}};
    void *context = context_of(p, DEVICE), *object = p->object(context);
    if (p->g->c10)
        return; /* c10 would read it */
    p->set(context, &odd, 0);
    enter_fails(p, DEVICE, "Paddle: its phi::CUDAStream does not begin with the place of GPU 1");
    assert_ptr_equal(p->object(context), &odd);
    p->set(context, &real, 0);
    enter_fails(p, DEVICE, "Paddle: its phi::CUDAStream does not begin with the place of GPU 1");
    p->set(context, object, 0);
}

static void an_object_of_another_layout_is_left_alone(void **state)
{
    (void)state;
    for_each_generation(odd_objects);
}

static void without_contexts(const paddle *p)
{
    epg_scope_report report = EPG_SCOPE_REPORT_INIT;
    epg_scope *scope = NULL;
    epg_scope_table *table = table_of(0, NULL, 0);
    p->ready(0);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &scope), EPG_OK);
    assert_int_equal(entry_of(&report, "Paddle")->state, EPG_SCOPE_ABSENT);
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    p->ready(1);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &scope), EPG_OK);
    assert_int_equal(entry_of(&report, "Paddle")->state, EPG_SCOPE_SET);
    assert_inside(p, STREAM(1));
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    epg_scope_table_destroy(table);
}

/* As one of several processes, each with a GPU of its own: the others, the first too, must not be asked for. */
static void with_one_gpu(const paddle *p)
{
    epg_scope *scope = NULL;
    p->first(DEVICE);
    enter_fails(p, 0, "Paddle: it has no device context of GPU 0");
    epg_scope_table *table = table_of(0, NULL, 0);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &scope), EPG_OK);
    assert_int_equal(handle_of(p, DEVICE), (uintptr_t)STREAM(1));
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    epg_scope_table_destroy(table);
}

static void a_gpu_that_it_leaves_out_is_not_asked_for(void **state)
{
    (void)state;
    for_each_generation(with_one_gpu);
}

static void before_it_has_contexts_it_is_absent(void **state)
{
    (void)state;
    for_each_generation(without_contexts);
}

static void absent(const char *file)
{
    epg_scope_report report = EPG_SCOPE_REPORT_INIT;
    epg_scope *scope = NULL;
    void *library = standin_load(file);
    epg_scope_table *table = table_of(0, NULL, 0);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &scope), EPG_OK);
    assert_int_equal(entry_of(&report, "Paddle")->state, EPG_SCOPE_ABSENT);
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    epg_scope_table_destroy(table);
    dlclose(library);
}

static void without_gpus_it_is_absent(void **state)
{
    (void)state;
    absent("bare/libphi_core.so");
    absent("paddle_33/libphi.so");
}

/* Two libraries of Paddle 3, one of which has nothing. */
static void the_library_that_owns_the_symbols_is_taken(void **state)
{
    (void)state;
    void *empty = standin_load("paddle_33/libphi.so");
    paddle p = load_paddle(&generations[1]);
    nested_scopes(&p);
    dlclose(p.handle);
    dlclose(empty);
}

/* c10's names are in both, with another calling convention each; Paddle's are even in the scope of the process. */
static void beside_pytorch_each_is_called_as_its_own(void **state)
{
    (void)state;
    char path[512];
    const char *build = getenv("EPGRAPH_BUILD");
    snprintf(path, sizeof path, "%s/tests/standins/paddle_tls/libphi_core.so", build ? build : "build");
    void *everywhere = dlopen(path, RTLD_NOW | RTLD_GLOBAL), *torch = standin_load("now/libc10_cuda.so");
    standin_stream (*get)(int8_t) =
        (standin_stream(*)(int8_t))standin_symbol(torch, "_ZN3c104cuda20getCurrentCUDAStreamEa");
    ((void (*)(int))standin_symbol(torch, "standin_count"))(STANDIN_DEVICES);
    paddle p = load_paddle(&generations[3]);
    epg_scope_report report = EPG_SCOPE_REPORT_INIT;
    epg_scope *scope = NULL;
    epg_scope_table *table = table_of(0, NULL, 0);
    before b = look(&p);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), &report, &scope), EPG_OK);
    assert_int_equal(entry_of(&report, "PyTorch")->state, EPG_SCOPE_SET);
    assert_int_equal(entry_of(&report, "Paddle")->state, EPG_SCOPE_SET);
    assert_inside(&p, STREAM(1));
    assert_int_equal(get(DEVICE).id, (uintptr_t)STREAM(1));
    assert_int_equal(epg_scope_leave(scope), EPG_OK);
    assert_as_before(&p, &b);
    assert_int_equal(get(DEVICE).id, 0);
    epg_scope_table_destroy(table);
    dlclose(p.handle);
    dlclose(torch);
    dlclose(everywhere);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_generation_is_set_and_put_back),
        cmocka_unit_test(a_stream_that_c10_had_comes_back),
        cmocka_unit_test(what_is_set_inside_does_not_outlive_the_scope),
        cmocka_unit_test(threads_take_turns),
        cmocka_unit_test(a_set_that_cannot_be_is_named),
        cmocka_unit_test(a_leave_that_cannot_be_is_named),
        cmocka_unit_test(an_object_of_another_layout_is_left_alone),
        cmocka_unit_test(a_gpu_that_it_leaves_out_is_not_asked_for),
        cmocka_unit_test(before_it_has_contexts_it_is_absent),
        cmocka_unit_test(without_gpus_it_is_absent),
        cmocka_unit_test(the_library_that_owns_the_symbols_is_taken),
        cmocka_unit_test(beside_pytorch_each_is_called_as_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
