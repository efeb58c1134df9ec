/* The engine of worker threads: each operation is the one of the operating system. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "device/engine_int.h"

typedef struct threads_engine {
    epg__engine base;
    pthread_key_t key; /* of what the device keeps per thread */
} threads_engine;

static threads_engine *threads_of(epg__engine *engine) { return (threads_engine *)engine; }

static uint64_t now_ns(epg__engine *engine)
{
    struct timespec now;
    (void)engine;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void lock_init(epg__lock *lock) { pthread_mutex_init(&lock->native, NULL); }
static void lock_destroy(epg__lock *lock) { pthread_mutex_destroy(&lock->native); }

static void lock_take(epg__engine *engine, epg__lock *lock)
{
    (void)engine;
    pthread_mutex_lock(&lock->native);
}

static void lock_drop(epg__engine *engine, epg__lock *lock)
{
    (void)engine;
    pthread_mutex_unlock(&lock->native);
}

static void cond_init(epg__cond *cond)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&cond->native, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

static void cond_destroy(epg__cond *cond) { pthread_cond_destroy(&cond->native); }

static epg_status cond_wait(epg__engine *engine, epg__cond *cond, epg__lock *lock, uint64_t deadline_ns,
                            const char *what)
{
    struct timespec at = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};
    (void)engine;
    (void)what;
    if (deadline_ns)
        return pthread_cond_timedwait(&cond->native, &lock->native, &at) == ETIMEDOUT ? EPG_ERR_TIMEOUT : EPG_OK;
    pthread_cond_wait(&cond->native, &lock->native);
    return EPG_OK;
}

static void cond_signal(epg__engine *engine, epg__cond *cond)
{
    (void)engine;
    pthread_cond_signal(&cond->native);
}

static void cond_broadcast(epg__engine *engine, epg__cond *cond)
{
    (void)engine;
    pthread_cond_broadcast(&cond->native);
}

static int spawn(epg__engine *engine, epg__worker *worker, uint32_t home, const char *kind, void *(*main)(void *arg),
                 void *arg)
{
    (void)engine;
    (void)home;
    (void)kind;
    return pthread_create(&worker->native, NULL, main, arg);
}

static void join(epg__engine *engine, epg__worker *worker)
{
    (void)engine;
    pthread_join(worker->native, NULL);
}

static void work_begin(epg__engine *engine, const char *name)
{
    (void)engine;
    (void)name;
}

static void work_end(epg__engine *engine) { (void)engine; }

static uint32_t home(epg__engine *engine)
{
    (void)engine;
    return EPG__NO_HOME;
}

static void *local_get(epg__engine *engine) { return pthread_getspecific(threads_of(engine)->key); }
static int local_set(epg__engine *engine, void *local) { return pthread_setspecific(threads_of(engine)->key, local); }

static void destroy(epg__engine *engine)
{
    pthread_key_delete(threads_of(engine)->key);
    free(engine);
}

static const epg__engine_ops threads_engine_ops = {
    .destroy = destroy,
    .now_ns = now_ns,
    .lock_init = lock_init,
    .lock_destroy = lock_destroy,
    .lock = lock_take,
    .unlock = lock_drop,
    .cond_init = cond_init,
    .cond_destroy = cond_destroy,
    .wait = cond_wait,
    .signal = cond_signal,
    .broadcast = cond_broadcast,
    .spawn = spawn,
    .join = join,
    .work_begin = work_begin,
    .work_end = work_end,
    .home = home,
    .local_get = local_get,
    .local_set = local_set,
};

epg_status epg__engine_threads_create(epg__engine **engine)
{
    threads_engine *made = epg__zalloc(1, sizeof *made, "a device's engine");
    if (!made)
        return EPG_ERR_NO_MEMORY;
    int error = pthread_key_create(&made->key, NULL);
    if (error) {
        free(made);
        return epg__fail(EPG_ERR_SYSTEM, "no thread key for a device: %s", strerror(error));
    }
    made->base.ops = &threads_engine_ops;
    *engine = &made->base;
    return EPG_OK;
}
