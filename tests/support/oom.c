#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include "support/oom.h"

static atomic_long countdown = -1;
static atomic_int delivered;
static atomic_long live;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
int __real_posix_memalign(void **out, size_t align, size_t size);
void __real_free(void *memory);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
int __wrap_posix_memalign(void **out, size_t align, size_t size);
void __wrap_free(void *memory);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);

static int must_fail(void)
{
    if (atomic_load(&countdown) < 0 || atomic_fetch_sub(&countdown, 1) != 0)
        return 0;
    atomic_store(&delivered, 1);
    return 1;
}

static void *counted(void *memory)
{
    if (memory)
        atomic_fetch_add(&live, 1);
    return memory;
}

void oom_fail_at(long nth)
{
    atomic_store(&delivered, 0);
    atomic_store(&countdown, nth);
}

int oom_stop(void)
{
    atomic_store(&countdown, -1);
    return atomic_load(&delivered);
}

void oom_track_start(void) { atomic_store(&live, 0); }
long oom_tracked(void) { return atomic_load(&live); }

void *__wrap_malloc(size_t size) { return must_fail() ? NULL : counted(__real_malloc(size)); }
void *__wrap_calloc(size_t count, size_t size) { return must_fail() ? NULL : counted(__real_calloc(count, size)); }

void *__wrap_realloc(void *old, size_t size)
{
    if (must_fail())
        return NULL;
    void *memory = __real_realloc(old, size);
    if (!old)
        counted(memory);
    return memory;
}

int __wrap_posix_memalign(void **out, size_t align, size_t size)
{
    if (must_fail())
        return ENOMEM;
    int error = __real_posix_memalign(out, align, size);
    if (!error)
        counted(*out);
    return error;
}

void __wrap_free(void *memory)
{
    if (memory)
        atomic_fetch_sub(&live, 1);
    __real_free(memory);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
    return must_fail() ? EAGAIN : __real_pthread_create(thread, attr, fn, arg);
}
