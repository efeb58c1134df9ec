/* What the ranks of a simulated program send, and the arithmetic of its experts: used by the ranks and by the oracle,
 * and by nothing of the library. */
#include <string.h>
#include "digest.h"
#include "sim_program.h"

uint64_t sim_hash(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    return digest_mix(digest_word(digest_word(digest_word(digest_mix(a), b), c), d));
}

static uint64_t draw(const sim_program *p, uint32_t what, uint32_t rank, uint32_t pair, uint32_t token, uint32_t index)
{
    return sim_hash(p->shape.data, (uint64_t)what << 32 | rank, (uint64_t)pair << 32 | token, index);
}

static int taken(const int64_t *ids, uint32_t k)
{
    for (uint32_t before = 0; before < k; before++)
        if (ids[before] == ids[k])
            return 1;
    return 0;
}

void sim_ids(const sim_program *p, uint32_t rank, uint32_t pair, uint32_t token, int64_t *ids)
{
    for (uint32_t k = 0; k < p->shape.topk; k++) {
        uint64_t h = draw(p, 1, rank, pair, token, k);
        ids[k] = (int64_t)(h % p->shape.skew);
        while (taken(ids, k))
            ids[k] = (ids[k] + 1) % p->shape.skew;
        if ((h >> 32) % 8 == 0)
            ids[k] = -1;
        else if ((h >> 40) % 100 < p->shape.bad)
            ids[k] = k > 0 && (h >> 60) % 2 ? ids[k - 1] : (h >> 61) % 2 ? -2 : (int64_t)p->shape.logical;
    }
}

float sim_weight(const sim_program *p, uint32_t rank, uint32_t pair, uint32_t token, uint32_t k)
{
    return p->rank[rank].weights ? (float)(draw(p, 2, rank, pair, token, k) >> 40) / 16777216.0f : 1.0f;
}

float sim_element(const sim_program *p, uint32_t rank, uint32_t pair, uint32_t token, uint32_t column)
{
    return (float)(draw(p, 3, rank, pair, token, column) >> 40) / 16777216.0f - 0.5f;
}

int32_t sim_mapped(const sim_program *p, uint32_t map, uint32_t logical)
{
    uint32_t experts = p->shape.ranks * p->shape.experts;
    if (map == 0)
        return logical < experts ? (int32_t)logical : -1;
    if (sim_hash(p->shape.data, 4, map, logical) % 9 == 0)
        return -1;
    return (int32_t)((logical + map) % experts);
}

float sim_get(uint32_t bf16, const void *row, uint32_t column)
{
    float value;
    if (!bf16) {
        memcpy(&value, (const char *)row + column * 4u, 4);
        return value;
    }
    uint16_t half;
    memcpy(&half, (const char *)row + column * 2u, 2);
    uint32_t wide = (uint32_t)half << 16;
    memcpy(&value, &wide, 4);
    return value;
}

/* To the nearest, ties to even. The values here are finite. */
void sim_put(uint32_t bf16, void *row, uint32_t column, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (!bf16) {
        memcpy((char *)row + column * 4u, &bits, 4);
        return;
    }
    uint16_t half = (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    memcpy((char *)row + column * 2u, &half, 2);
}
