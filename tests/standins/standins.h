/* Libraries that stand in for other runtimes, each built as a shared library of the same name: the symbols and layouts
 * of the real one, and behaviours that a test asks for. A folder is a generation of them. */
#ifndef TESTS_STANDINS_H
#define TESTS_STANDINS_H

#include <stdint.h>

#define STANDIN_API __attribute__((visibility("default")))

enum { STANDIN_DEVICES = 4 };

/* Of the calling thread: as the real one; every set fails; sets succeed and do nothing. */
enum { STANDIN_OBEY, STANDIN_REFUSE, STANDIN_IGNORE };
void standin_behave(int how);

/* PyTorch's, on a thread that has this many GPUs, 0 at first. */
void standin_count(int devices);

typedef struct standin_stream {
    uint64_t device; /* kind and index in the low 16 bits */
    uint64_t id;
} standin_stream;

#endif
