/* What a stand-in keeps for each thread. Not __thread: a leak checker still looks there when the library is gone. */
#ifndef TESTS_STANDINS_THREAD_H
#define TESTS_STANDINS_THREAD_H

#include <pthread.h>
#include <stdlib.h>

static pthread_key_t standin_key;

__attribute__((constructor)) static void standin_open(void) { pthread_key_create(&standin_key, free); }

__attribute__((destructor)) static void standin_close(void)
{
    free(pthread_getspecific(standin_key));
    pthread_key_delete(standin_key);
}

/* The calling thread's `bytes` bytes, zero at first. */
static void *standin_thread(size_t bytes)
{
    void *own = pthread_getspecific(standin_key);
    if (!own && (own = calloc(1, bytes)) != NULL)
        pthread_setspecific(standin_key, own);
    return own ? own : (abort(), NULL);
}

#endif
