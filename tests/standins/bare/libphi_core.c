/* Stands in for Paddle's libphi_core.so, as something that is loaded and cannot be set. */
#include "standins/standins.h"

STANDIN_API int standin_version(void) { return 1; }
