/* Stands in for CuPy's extension module of this name, as something that is loaded: what it does is Python's
 * (tests/python/standin_cupy.py). */
#include "standins/standins.h"

STANDIN_API int standin_version(void) { return 1; }
