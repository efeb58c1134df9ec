/* Settings: the environment variables that epgraph reads, in one table, read once when a handle is created. */
#ifndef EPGRAPH_SETTINGS_H
#define EPGRAPH_SETTINGS_H

#include <stddef.h>
#include "epgraph/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct epg_setting_info {
    const char *name;          /* the environment variable */
    const char *default_value; /* as text */
    const char *help;          /* one line */
    const char *value;         /* the text in force: the environment's, else default_value */
} epg_setting_info;

EPG_API size_t epg_setting_count(void);

/* Describes setting `index` (0 .. count-1). EPG_ERR_INVALID names an index out of range. */
EPG_API epg_status epg_setting_get(size_t index, epg_setting_info *info);

#ifdef __cplusplus
}
#endif
#endif
