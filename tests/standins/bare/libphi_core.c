/* Stands in for Paddle's libphi_core.so, built without GPUs. */
#include "standins/standins.h"

STANDIN_API int standin_version(void) { return 1; }
