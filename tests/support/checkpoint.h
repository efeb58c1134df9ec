/* A small checkpoint in a directory of the test's own, written, read back and damaged. For the test's main thread:
 * failures are cmocka's. */
#ifndef TESTS_CHECKPOINT_H
#define TESTS_CHECKPOINT_H

#include "epgraph/epgraph.h"

/* A group's set-up and tear-down: the directory's name; it is made by the writer. */
int checkpoint_set_up(void **state);
int checkpoint_tear_down(void **state);
const char *checkpoint_directory(void);

/* The path of a file in it; lasts until the next call. */
const char *checkpoint_path(const char *name);
int checkpoint_has(const char *name);
void checkpoint_clear(void);

epg_moe_shape checkpoint_small_shape(void);
void checkpoint_write_small(epg_tensor_type type, uint64_t shard_bytes, uint64_t seed);

/* A whole file, with a zero behind it, for free(); and back. */
char *checkpoint_slurp(const char *name, size_t *bytes);
void checkpoint_spill(const char *name, const void *data, size_t bytes);

/* A safetensors file from a header's text and a number of data bytes, all 1. */
void checkpoint_craft(const char *name, const char *header, size_t data_bytes);

/* Rewrites a file with the first `from` replaced by `to`. */
void checkpoint_edit(const char *name, const char *from, const char *to);

/* Opening must fail with this status, and the message must hold both words. */
void checkpoint_refuse(epg_status status, const char *first, const char *second);

#endif
