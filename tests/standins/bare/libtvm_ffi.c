/* Stands in for a libtvm_ffi.so built without the stream interface. */
#include "standins/standins.h"

STANDIN_API int standin_version(void) { return 1; }
