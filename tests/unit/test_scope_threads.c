/* Scopes one in the other, and on several threads. */
#include <dlfcn.h>
#include <pthread.h>
#include "support/scopes.h"

static void *leave_elsewhere(void *scope)
{
    return (void *)(intptr_t)epg_scope_leave(scope);
}

static void scopes_are_left_in_order_on_their_thread(void **state)
{
    (void)state;
    fake a = {.now = STREAM(5)};
    epg_scope_runtime runtime = runtime_of("mine", &a);
    epg_scope_table *table = table_of(0, &runtime, 1);
    epg_scope *outer = NULL, *inner = NULL;
    pthread_t thread;
    void *result = NULL;
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(1), NULL, &outer), EPG_OK);
    assert_int_equal(epg_scope_enter(table, DEVICE, STREAM(2), NULL, &inner), EPG_OK);
    assert_int_equal(epg_scope_leave(outer), EPG_ERR_STATE);
    assert_message("entered inside it");
    assert_int_equal(pthread_create(&thread, NULL, leave_elsewhere, inner), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_int_equal((intptr_t)result, EPG_ERR_STATE);
    assert_ptr_equal(a.now, STREAM(2));
    epg_scope_table_destroy(table); /* open scopes are left all the same */
    assert_int_equal(epg_scope_leave(inner), EPG_OK);
    assert_ptr_equal(a.now, STREAM(1));
    assert_int_equal(epg_scope_leave(outer), EPG_OK);
    assert_ptr_equal(a.now, STREAM(5));
    assert_int_equal(epg_scope_leave(NULL), EPG_OK);
}

typedef struct visitor {
    epg_scope_table *table;
    tvm t;
    unsigned number, wrong;
} visitor;

/* Two scopes, one in the other, again and again; counts what it finds wrong. */
static void *visit(void *arg)
{
    visitor *v = arg;
    epg_stream own = STREAM(10 * v->number), stream = STREAM(10 * v->number + 1), other = STREAM(10 * v->number + 2);
    v->t.set(2, DEVICE, own, NULL);
    for (unsigned i = 0; i < 200; i++) {
        epg_scope *outer = NULL, *inner = NULL;
        v->wrong += epg_scope_enter(v->table, DEVICE, stream, NULL, &outer) != EPG_OK;
        v->wrong += epg_scope_enter(v->table, DEVICE, other, NULL, &inner) != EPG_OK;
        v->wrong += v->t.get(2, DEVICE) != other;
        v->wrong += epg_scope_leave(outer) != EPG_ERR_STATE;
        v->wrong += epg_scope_leave(inner) != EPG_OK;
        v->wrong += v->t.get(2, DEVICE) != stream;
        v->wrong += epg_scope_leave(outer) != EPG_OK;
        v->wrong += v->t.get(2, DEVICE) != own;
    }
    return NULL;
}

static void threads_have_scopes_of_their_own(void **state)
{
    (void)state;
    enum { THREADS = 4 };
    tvm t = load_tvm("now", "TVMFFIEnvGetStream");
    epg_scope_table *table = table_of(0, NULL, 0);
    visitor visitors[THREADS];
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        visitors[i] = (visitor){table, t, i + 1, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, visit, &visitors[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(visitors[i].wrong, 0);
    }
    assert_null(t.get(2, DEVICE));
    epg_scope_table_destroy(table);
    dlclose(t.handle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scopes_are_left_in_order_on_their_thread),
        cmocka_unit_test(threads_have_scopes_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
