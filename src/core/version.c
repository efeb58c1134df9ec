/* The library's version. */
#include "epgraph/epgraph.h"

const char *epg_version(void) { return EPG_VERSION_STRING; }
