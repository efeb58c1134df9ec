/* The step coordinator's own: not for other parts. */
#ifndef EPG_STEP_INT_H
#define EPG_STEP_INT_H

#include "core/core_int.h"
#include "epgraph/step.h"

/* EPG_OK, or EPG_ERR_INVALID naming the field of the config that is out of range. */
epg_status epg__step_config_check(const epg_step_config *config);

#endif
