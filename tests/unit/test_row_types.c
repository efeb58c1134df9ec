/* What each row type asks for and promises: options and arguments that are refused by name, bytes, and where a view's
 * rows and scales lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "support/ranks.h"

static epg_group_options options_of(epg_dtype type, epg_layout layout)
{
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    o.experts = 8;
    o.hidden = 600; /* five blocks of scales, the last of 88 elements */
    o.topk = 2;
    o.max_tokens = 10;
    o.row_type = type;
    o.layout = layout;
    return o;
}

static void refused(epg_group_options o, const char *words)
{
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    assert_int_equal(epg_group_plan_bytes(&o, 2, &stats), EPG_ERR_INVALID);
    if (!strstr(epg_message(), words))
        fail_msg("\"%s\" does not say \"%s\"", epg_message(), words);
}

static void options_are_refused_by_name(void **state)
{
    (void)state;
    epg_group_options fp8 = options_of(EPG_FLOAT8_E4M3, EPG_LAYOUT_CONTIGUOUS), o = fp8;
    o.row_type = (epg_dtype)4;
    refused(o, "row_type is 4, outside 0..3");
    o = fp8, o.scale_power_of_two = 2;
    refused(o, "scale_power_of_two is 2");
    o = fp8, o.row_type = EPG_BFLOAT16, o.scale_power_of_two = 1;
    refused(o, "scale_power_of_two is 1, but row_type is 1");
    o = fp8, o.scale_layout = (epg_scale_layout)3;
    refused(o, "scale_layout is 3");
    o = fp8, o.scale_layout = EPG_SCALES_PACKED;
    refused(o, "scale_layout is 2, packed");
    o = fp8, o.layout = EPG_LAYOUT_IN_PLACE, o.scale_layout = EPG_SCALES_COLUMN_MAJOR;
    refused(o, "scale_layout is 1, but scales in place are row-major");
    o = fp8, o.row_type = EPG_OPAQUE, o.row_bytes = 64, o.scale_layout = EPG_SCALES_COLUMN_MAJOR;
    refused(o, "scale_layout is 1, but the scales of rows that are not fp8");
    o = fp8, o.row_bytes = 600;
    refused(o, "row_bytes is 600");
    o = fp8, o.scale_bytes = 20;
    refused(o, "scale_bytes 20, but row_type is 2");
    o = options_of(EPG_OPAQUE, EPG_LAYOUT_IN_PLACE);
    refused(o, "row_bytes is 0, outside 1..");
    o.row_bytes = 4, o.scale_bytes = EPG_ROW_BYTES_MAX + 1;
    refused(o, "scale_bytes is 4194305, outside 0..4194304");
}

/* A region holds 2 banks x 2 ranks x 10 slots of rows and of returned rows; parts begin at multiples of 256. */
static void bytes_follow_from_the_type(void **state)
{
    (void)state;
    epg_group_stats wide = EPG_GROUP_STATS_INIT, narrow = EPG_GROUP_STATS_INIT;
    epg_group_options o = options_of(EPG_BFLOAT16, EPG_LAYOUT_CONTIGUOUS);
    assert_int_equal(epg_group_plan_bytes(&o, 2, &wide), EPG_OK);
    o.row_type = EPG_FLOAT8_E4M3;
    assert_int_equal(epg_group_plan_bytes(&o, 2, &narrow), EPG_OK);
    /* 600 bytes padded to 608, and 5 scales to 32; the returned rows are bf16 in both */
    size_t less = 40 * (1200 - 640);
    assert_in_range(wide.region_bytes - narrow.region_bytes, less - 255, less + 255);
    assert_int_equal(wide.expert_input_bytes, 40 * 1200); /* 2 ranks x 10 tokens, top-2 */
    assert_int_equal(narrow.expert_input_bytes, 40 * (608 + 32));
    o.scale_layout = EPG_SCALES_COLUMN_MAJOR;
    assert_int_equal(epg_group_plan_bytes(&o, 2, &narrow), EPG_OK);
    assert_int_equal(narrow.expert_input_bytes, 40 * 608 + 5 * 40 * 4);
    o.scale_power_of_two = 1, o.scale_layout = EPG_SCALES_PACKED;
    assert_int_equal(epg_group_plan_bytes(&o, 2, &narrow), EPG_OK);
    assert_int_equal(narrow.expert_input_bytes, 40 * 608 + 2 * 40 * 4);
}

static int sees_strides(test_rank *self, epg_group_options o, uint64_t row, uint64_t expert, uint64_t scale_row,
                        uint64_t block)
{
    epg_group *group;
    epg_dispatch_view v = EPG_DISPATCH_VIEW_INIT;
    RANK_OK(epg_group_create(self->team, &o, &group));
    RANK_OK(epg_group_view(group, 0, &v));
    RANK_CHECK(v.row_stride == row, "rows are %llu bytes apart", (unsigned long long)v.row_stride);
    RANK_CHECK((uintptr_t)v.rows % 16 == 0 && (uintptr_t)v.scales % 16 == 0, "%p, %p", v.rows, v.scales);
    RANK_CHECK(v.scale_expert_stride == expert && v.scale_row_stride == scale_row && v.scale_block_stride == block,
               "scales: %llu, %llu, %llu", (unsigned long long)v.scale_expert_stride,
               (unsigned long long)v.scale_row_stride, (unsigned long long)v.scale_block_stride);
    RANK_CHECK((v.scales != NULL) == (scale_row > 0), "%p", v.scales);
    epg_group_destroy(group);
    return 0;
}

static int strides(test_rank *self)
{
    epg_group_options o = options_of(EPG_BFLOAT16, EPG_LAYOUT_IN_PLACE);
    int bad = sees_strides(self, o, 1200, 0, 0, 0);
    o.row_type = EPG_FLOAT8_E4M3;
    bad |= sees_strides(self, o, 640, 0, 640, 4);
    o.layout = EPG_LAYOUT_CONTIGUOUS, o.max_expert_rows = 17;
    bad |= sees_strides(self, o, 608, 0, 32, 4);
    o.scale_layout = EPG_SCALES_COLUMN_MAJOR;
    bad |= sees_strides(self, o, 608, 0, 4, 80); /* 17 rows, aligned to 20 */
    o.layout = EPG_LAYOUT_MASKED, o.max_expert_rows = 0, o.rows_per_expert = 6;
    bad |= sees_strides(self, o, 608, 5 * 32, 4, 32);
    o.scale_power_of_two = 1, o.scale_layout = EPG_SCALES_PACKED;
    bad |= sees_strides(self, o, 608, 2 * 32, 4, 32);
    o.scale_layout = EPG_SCALES_ROW_MAJOR;
    bad |= sees_strides(self, o, 608, 6 * 32, 32, 4);
    o = options_of(EPG_OPAQUE, EPG_LAYOUT_CONTIGUOUS);
    o.row_bytes = 33;
    bad |= sees_strides(self, o, 48, 0, 0, 0);
    o.scale_bytes = 3;
    bad |= sees_strides(self, o, 48, 0, 16, 1);
    o.layout = EPG_LAYOUT_IN_PLACE;
    return bad | sees_strides(self, o, 128, 0, 128, 1); /* 48 and 16, padded to 128 */
}

static void views_say_where_scales_lie(void **state)
{
    (void)state;
    assert_int_equal(run_ranks(1, 20000, strides, NULL), 0);
}

#define REFUSED(words)                                                                                       \
    do {                                                                                                     \
        RANK_CHECK(epg_dispatch_send(group, &args, self->stream) == EPG_ERR_INVALID, "not refused");         \
        RANK_CHECK(strstr(epg_message(), words), "does not say \"%s\"", words);                              \
    } while (0)

static int gives_wrong_arguments(test_rank *self)
{
    static const float scales[8];
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    epg_group_options o = options_of(EPG_FLOAT8_E4M3, EPG_LAYOUT_IN_PLACE);
    epg_group *group;
    RANK_OK(epg_group_create(self->team, &o, &group));
    args.bucket = 1;
    args.rows = args.topk_ids = scales;
    args.input_type = EPG_FLOAT32;
    REFUSED("input_type is 0");
    args.input_type = EPG_FLOAT8_E4M3;
    REFUSED("scales is NULL with a bucket of 1");
    args.input_type = EPG_BFLOAT16;
    args.scales = scales;
    REFUSED("come without scales");
    epg_group_destroy(group);
    o.row_type = EPG_OPAQUE, o.row_bytes = 16;
    RANK_OK(epg_group_create(self->team, &o, &group));
    REFUSED("come without scales");
    epg_group_destroy(group);
    o.scale_bytes = 4;
    args.scales = NULL;
    RANK_OK(epg_group_create(self->team, &o, &group));
    REFUSED("scales is NULL with a bucket of 1");
    epg_group_destroy(group);
    return 0;
}

static void arguments_are_refused_by_name(void **state)
{
    (void)state;
    assert_int_equal(run_ranks(1, 20000, gives_wrong_arguments, NULL), 0);
}

static int differs(test_rank *self)
{
    epg_group_options o = options_of(EPG_FLOAT8_E4M3, EPG_LAYOUT_IN_PLACE);
    epg_group *group = NULL;
    o.scale_power_of_two = self->rank;
    RANK_CHECK(epg_group_create(self->team, &o, &group) == EPG_ERR_MISMATCH && !group, "created");
    RANK_CHECK(strstr(epg_message(), "scale_power_of_two is"), "names the field");
    o = options_of(EPG_OPAQUE, EPG_LAYOUT_IN_PLACE);
    o.row_bytes = 64;
    o.scale_bytes = self->rank;
    RANK_CHECK(epg_group_create(self->team, &o, &group) == EPG_ERR_MISMATCH && !group, "created");
    RANK_CHECK(strstr(epg_message(), "scale_bytes is"), "names the field");
    return 0;
}

static void ranks_agree_on_what_a_row_is(void **state)
{
    (void)state;
    assert_int_equal(run_ranks(2, 20000, differs, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_refused_by_name),   cmocka_unit_test(bytes_follow_from_the_type),
        cmocka_unit_test(views_say_where_scales_lie),    cmocka_unit_test(arguments_are_refused_by_name),
        cmocka_unit_test(ranks_agree_on_what_a_row_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
