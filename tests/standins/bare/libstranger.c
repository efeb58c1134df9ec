/* A thread that Python did not make: enters two scopes, one in the other, leaves them, and calls Python in between. */
#include <stddef.h>
#include "standins/standins.h"

typedef struct stranger_plan {
    int (*enter)(void *table, int ordinal, void *stream, void *report, void **scope);
    int (*leave)(void *scope);
    void *table;
    void *(*visit)(void *arg);
    void *streams[2];
    int results[4];
} stranger_plan;

STANDIN_API void *standin_stranger(void *arg)
{
    stranger_plan *plan = arg;
    void *outer = NULL, *inner = NULL;
    plan->visit(NULL);
    plan->results[0] = plan->enter(plan->table, 0, plan->streams[0], NULL, &outer);
    plan->visit(NULL);
    plan->results[1] = plan->enter(plan->table, 0, plan->streams[1], NULL, &inner);
    plan->visit(NULL);
    plan->results[2] = plan->leave(inner);
    plan->visit(NULL);
    plan->results[3] = plan->leave(outer);
    plan->visit(NULL);
    return NULL;
}
