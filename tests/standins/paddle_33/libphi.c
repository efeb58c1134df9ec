/* Stands in for the libphi.so of Paddle 3, which has nothing of its own. */
#include "standins/standins.h"

STANDIN_API int standin_version(void) { return 3; }
