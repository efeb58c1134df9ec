/* Stands in for an early libtvm_ffi.so, whose getter had another name. */
#define TVMFFIEnvGetStream TVMFFIEnvGetCurrentStream
#include "standins/now/libtvm_ffi.c" /* the same, but for the name */
