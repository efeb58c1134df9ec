/* The loop that bench/scope_cost.py times: scopes entered and left from C, as a runner does. */
#include <stdint.h>
#include <time.h>
#include "epgraph/scope.h"

typedef epg_status (*enter_fn)(epg_scope_table *, int, epg_stream, epg_scope_report *, epg_scope **);
typedef epg_status (*leave_fn)(epg_scope *);

EPG_API int64_t scope_cost(enter_fn enter, leave_fn leave, epg_scope_table *table, epg_stream stream, int count);

/* Nanoseconds for `count` scopes on GPU 0, one after the other; negative: the status of a call that failed. */
int64_t scope_cost(enter_fn enter, leave_fn leave, epg_scope_table *table, epg_stream stream, int count)
{
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < count; i++) {
        epg_scope *scope = NULL;
        epg_status status = enter(table, 0, stream, NULL, &scope);
        if (status == EPG_OK)
            status = leave(scope);
        if (status != EPG_OK)
            return -(int64_t)status;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (end.tv_sec - start.tv_sec) * INT64_C(1000000000) + end.tv_nsec - start.tv_nsec;
}
