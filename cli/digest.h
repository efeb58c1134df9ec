/* 64-bit digests: of rows of hidden state, of lists of those, and as a seeded source of numbers. Not cryptographic. */
#ifndef CLI_DIGEST_H
#define CLI_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#define DIGEST_START 0xcbf29ce484222325u

uint64_t digest_mix(uint64_t value);                        /* a bijection that spreads every bit (splitmix64) */
uint64_t digest_word(uint64_t digest, uint64_t word);       /* appends one word */
uint64_t digest_bytes(uint64_t digest, const void *bytes, size_t count);

#endif
