/* The table of presets: published dimensions, and shapes that a group can run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "epgraph/epgraph.h"
#include "moe/checkpoint_int.h"

static void test_table(void **state)
{
    (void)state;
    assert_true(epg_preset_count() >= 7);
    assert_null(epg_preset_at(epg_preset_count()));
    assert_null(epg_preset_at((size_t)-1));
    for (size_t i = 0; i < epg_preset_count(); i++) {
        const epg_preset *p = epg_preset_at(i);
        assert_ptr_equal(epg_preset_find(p->name), p);
        assert_non_null(p->about);
        assert_int_equal(p->shape.size, sizeof p->shape);
        assert_int_equal(epg__shape_check(&p->shape), EPG_OK);
        assert_int_equal(p->shape.hidden % 8, 0);
        assert_true(p->shape.topk <= EPG_TOPK_MAX);
    }
}

static void test_find(void **state)
{
    (void)state;
    assert_null(epg_preset_find(NULL));
    assert_null(epg_preset_find(""));
    assert_null(epg_preset_find("qwen3"));
}

static void test_published(void **state)
{
    (void)state;
    const epg_preset *p = epg_preset_find("qwen3-30b-a3b");
    assert_true(p->published);
    assert_int_equal(p->shape.hidden, 2048);
    assert_int_equal(p->shape.layers, 48);
    assert_int_equal(p->shape.experts, 128);
    assert_int_equal(p->shape.topk, 8);
    assert_int_equal(p->shape.intermediate, 768);
    assert_int_equal(p->shape.vocab, 151936);
    assert_int_equal(p->shape.norm_topk_prob, 1);
    assert_int_equal(p->shape.tied_head, 0);
    assert_false(epg_preset_find("tiny")->published);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_find),
                                       cmocka_unit_test(test_published)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
