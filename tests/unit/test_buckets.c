/* Bucket lists: the default one, the check of a given one, and the lookup against a linear search. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>
#include "epgraph/runner.h"
#include "graph/buckets_int.h"

static void the_default_list_is_the_documented_one(void **state)
{
    (void)state;
    static const uint32_t to_300[] = {1,  2,  4,  8,  16,  24,  32,  40,  48,  56,  64,  72,  80,  88, 96,
                                      104, 112, 120, 128, 144, 160, 176, 192, 208, 224, 240, 256, 288, 300};
    uint32_t buckets[EPG_BUCKETS_MAX], count = 0;
    assert_int_equal(epg_default_buckets(300, buckets, &count), EPG_OK);
    assert_int_equal(count, EPG__COUNT_OF(to_300));
    assert_memory_equal(buckets, to_300, sizeof to_300);
    assert_int_equal(epg_default_buckets(1, buckets, &count), EPG_OK);
    assert_int_equal(count, 1);
    assert_int_equal(buckets[0], 1);
}

static void every_default_list_is_valid_and_ends_at_most(void **state)
{
    (void)state;
    uint32_t buckets[EPG_BUCKETS_MAX + 1], count, most = 1;
    buckets[EPG_BUCKETS_MAX] = 0xdead;
    for (; epg_default_buckets(most, buckets, &count) == EPG_OK; most++) {
        assert_in_range(count, 1, EPG_BUCKETS_MAX);
        assert_int_equal(epg__buckets_check(buckets, count), EPG_OK);
        assert_int_equal(buckets[count - 1], most);
    }
    assert_int_equal(buckets[EPG_BUCKETS_MAX], 0xdead);
    assert_int_equal(count, EPG_BUCKETS_MAX); /* the last list accepted fills the room given */
    assert_int_equal(epg_default_buckets(0, buckets, &count), EPG_ERR_INVALID);
    assert_int_equal(epg_default_buckets(UINT32_MAX, buckets, &count), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "4294967295"));
}

static void a_list_out_of_order_is_refused_by_name(void **state)
{
    (void)state;
    const uint32_t equal[] = {1, 2, 2}, falling[] = {4, 8, 6}, zero[] = {0, 1};
    assert_int_equal(epg__buckets_check(equal, 3), EPG_ERR_INVALID);
    assert_string_equal(epg_message(), "buckets must ascend: buckets[1] is 2, buckets[2] is 2");
    assert_int_equal(epg__buckets_check(falling, 3), EPG_ERR_INVALID);
    assert_string_equal(epg_message(), "buckets must ascend: buckets[1] is 8, buckets[2] is 6");
    assert_int_equal(epg__buckets_check(zero, 2), EPG_ERR_INVALID);
    assert_int_equal(epg__buckets_check(zero, 0), EPG_ERR_INVALID);
}

static void lookup_finds_the_smallest_that_holds(void **state)
{
    (void)state;
    uint32_t buckets[EPG_BUCKETS_MAX], count, found;
    assert_int_equal(epg_default_buckets(500, buckets, &count), EPG_OK);
    for (uint32_t n = 1; n <= count; n++) /* every prefix, so that every length of list is searched */
        for (uint32_t tokens = 0; tokens <= buckets[n - 1]; tokens++) {
            uint32_t expected = 0;
            while (buckets[expected] < tokens)
                expected++;
            assert_int_equal(epg__buckets_find(buckets, n, tokens, &found), EPG_OK);
            assert_int_equal(found, buckets[expected]);
        }
    assert_int_equal(epg__buckets_find(buckets, count, 501, &found), EPG_ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_default_list_is_the_documented_one),
        cmocka_unit_test(every_default_list_is_valid_and_ends_at_most),
        cmocka_unit_test(a_list_out_of_order_is_refused_by_name),
        cmocka_unit_test(lookup_finds_the_smallest_that_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
