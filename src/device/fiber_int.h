/* Fibers: stacks of their own on the calling thread, and switching between them. Who runs when is simulator.c's job.
 *
 * The sanitizers are told of every switch, so that they keep a stack's and a "thread's" history apart. */
#ifndef EPG_FIBER_INT_H
#define EPG_FIBER_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <ucontext.h>

typedef struct epg__context {
    ucontext_t machine;
    struct epg__context *from; /* who switched here last */
    void *stack;               /* NULL: it has none, or (the caller's) is not ours */
    const void *bottom;        /* what AddressSanitizer is told: the stack's lowest address ... */
    size_t bytes;              /* ... and size */
    void *fake;                /* AddressSanitizer's */
    void *thread;              /* ThreadSanitizer's */
} epg__context;

/* Stacks that are not in use, linked through their first words. */
typedef struct epg__stack_pool {
    void *free;
} epg__stack_pool;

/* A context that will run enter(arg), which must never return. False: no memory. */
bool epg__context_create(epg__context *context, epg__stack_pool *pool, void (*enter)(void *arg), void *arg);

/* Gives the stack back. Not of the running context. Twice does nothing. */
void epg__context_destroy(epg__context *context, epg__stack_pool *pool);
void epg__stack_pool_destroy(epg__stack_pool *pool);

/* `ends`: `from` will never run again. */
void epg__context_switch(epg__context *from, epg__context *to, bool ends);

#endif
