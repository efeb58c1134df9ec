/* 64-bit digests. Words at a time: a run hashes every hidden state it computes. */
#include <string.h>
#include "digest.h"

uint64_t digest_mix(uint64_t value)
{
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

uint64_t digest_word(uint64_t digest, uint64_t word)
{
    digest = (digest ^ word) * 0x9fb21c651e98df25u;
    return digest ^ (digest >> 29);
}

uint64_t digest_bytes(uint64_t digest, const void *bytes, size_t count)
{
    const unsigned char *at = bytes;
    size_t left = count;
    for (; left >= 8; at += 8, left -= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        digest = digest_word(digest, word);
    }
    uint64_t tail = 0;
    memcpy(&tail, at, left);
    return digest_mix(digest_word(digest_word(digest, tail), count));
}
