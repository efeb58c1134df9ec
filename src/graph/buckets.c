/* Bucket lists: the default one, and looking up the bucket of a token count. Pure. */
#include "epgraph/runner.h"
#include "graph/buckets_int.h"

/* 1, 2, 4, sixteen to 128, eight to 256, and the rest by 32. */
#define DEFAULT_MOST (256 + 32 * (EPG_BUCKETS_MAX - 3 - 16 - 8))

static uint32_t step_after(uint32_t bucket)
{
    if (bucket < 4)
        return bucket;
    if (bucket == 4)
        return 4;
    return bucket < 128 ? 8 : bucket < 256 ? 16 : 32;
}

epg_status epg_default_buckets(uint32_t most, uint32_t *buckets, uint32_t *count)
{
    if (!buckets || !count)
        return epg__fail(EPG_ERR_INVALID, "epg_default_buckets: %s is NULL", buckets ? "count" : "buckets");
    if (most < 1 || most > DEFAULT_MOST)
        return epg__fail(EPG_ERR_INVALID, "the largest bucket is %u; the default list covers 1 to %u", most,
                         DEFAULT_MOST);
    uint32_t n = 0;
    for (uint32_t bucket = 1; bucket < most; bucket += step_after(bucket))
        buckets[n++] = bucket;
    buckets[n++] = most;
    *count = n;
    return EPG_OK;
}

epg_status epg__buckets_check(const uint32_t *buckets, uint32_t count)
{
    if (!buckets || count == 0)
        return epg__fail(EPG_ERR_INVALID, "the bucket list is empty");
    if (buckets[0] < 1)
        return epg__fail(EPG_ERR_INVALID, "buckets[0] is 0; buckets start at 1");
    for (uint32_t i = 1; i < count; i++)
        if (buckets[i] <= buckets[i - 1])
            return epg__fail(EPG_ERR_INVALID, "buckets must ascend: buckets[%u] is %u, buckets[%u] is %u", i - 1,
                             buckets[i - 1], i, buckets[i]);
    return EPG_OK;
}

epg_status epg__buckets_find(const uint32_t *buckets, uint32_t count, uint32_t tokens, uint32_t *bucket)
{
    if (tokens > buckets[count - 1])
        return epg__fail(EPG_ERR_NOT_FOUND, "%u tokens are above the largest bucket, %u", tokens, buckets[count - 1]);
    uint32_t low = 0, high = count - 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (buckets[middle] >= tokens)
            high = middle;
        else
            low = middle + 1;
    }
    *bucket = buckets[low];
    return EPG_OK;
}
