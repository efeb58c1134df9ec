/* How the public structs lie in memory, for bindings that mirror them: a binding compares its own with this table when
 * it loads the library, so that a mistake is an error there and not a wrong answer later.
 *
 * The table holds the structs of devices, teams, groups, experts, runners, scopes, steps and settings. A struct's own
 * row comes before its fields', in the order of its declaration. */
#ifndef EPGRAPH_ABI_H
#define EPGRAPH_ABI_H

#include <stddef.h>
#include "epgraph/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct epg_abi_row {
    const char *type;       /* "epg_group_options" */
    const char *field;      /* "experts"; "" in the row of the struct itself */
    size_t offset;          /* bytes from the struct's start */
    size_t bytes;           /* sizeof */
} epg_abi_row;

EPG_API size_t epg_abi_count(void);

/* Row `index` (0 .. count-1). EPG_ERR_INVALID names an index out of range. May run during capture. */
EPG_API epg_status epg_abi_get(size_t index, epg_abi_row *row);

#ifdef __cplusplus
}
#endif
#endif
