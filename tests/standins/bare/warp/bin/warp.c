/* Stands in for Warp's warp.so, as something that is loaded. */
#include "standins/standins.h"

STANDIN_API int standin_version(void) { return 1; }
