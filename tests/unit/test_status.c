/* Statuses: names, texts, native codes; settings and their messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>
#include "core/core_int.h"

static void names_and_native_codes(void **state)
{
    (void)state;
    assert_string_equal(epg_status_name(EPG_ERR_CAPTURE_IMPLICIT), "EPG_ERR_CAPTURE_IMPLICIT");
    assert_int_equal(epg_status_native(EPG_ERR_CAPTURE_IMPLICIT), 906);
    assert_int_equal(epg_status_native(EPG_ERR_NOT_READY), 600);
    assert_int_equal(epg_status_native(EPG_ERR_TIMEOUT), 0);
    assert_int_equal(epg_status_native((epg_status)(EPG_ERR_NATIVE + 700)), 700);
    assert_string_equal(epg_status_name((epg_status)(EPG_ERR_NATIVE + 700)), "EPG_ERR_NATIVE");
    assert_string_equal(epg_status_text((epg_status)(EPG_ERR_NATIVE + 700)), epg_status_text(EPG_ERR_NATIVE));
    assert_string_equal(epg_status_text(EPG_OK), "success");
    assert_string_equal(epg_status_name((epg_status)12345), "unknown status");
}

static void a_prefix_keeps_the_cause(void **state)
{
    (void)state;
    assert_int_equal(epg__fail(EPG_ERR_INVALID, "hidden is %d", 7), EPG_ERR_INVALID);
    epg__fail_prefix(EPG_ERR_INVALID, "layer %d: ", 3);
    assert_string_equal(epg_message(), "layer 3: hidden is 7");
}

static void a_long_message_is_cut_not_overrun(void **state)
{
    (void)state;
    char text[3000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    epg__fail(EPG_ERR_IO, "%s", text);
    epg__fail_prefix(EPG_ERR_IO, "%s", text);
    assert_int_equal(strlen(epg_message()), 1023);
}

static void a_setting_names_its_bad_value(void **state)
{
    (void)state;
    long long value = -1;
    setenv("EPGRAPH_TIMEOUT_MS", "soon", 1);
    assert_int_equal(epg__setting_integer(EPG__SETTING_TIMEOUT_MS, 1, 1000, &value), EPG_ERR_INVALID);
    assert_non_null(strstr(epg_message(), "\"soon\""));
    setenv("EPGRAPH_TIMEOUT_MS", "1001", 1);
    assert_int_equal(epg__setting_integer(EPG__SETTING_TIMEOUT_MS, 1, 1000, &value), EPG_ERR_INVALID);
    assert_int_equal(value, -1);
    unsetenv("EPGRAPH_TIMEOUT_MS");
    assert_int_equal(epg__setting_integer(EPG__SETTING_TIMEOUT_MS, 1, 100000, &value), EPG_OK);
    assert_int_equal(value, 30000);
}

static void settings_are_listed(void **state)
{
    (void)state;
    epg_setting_info info;
    for (size_t i = 0; i < epg_setting_count(); i++) {
        assert_int_equal(epg_setting_get(i, &info), EPG_OK);
        assert_int_equal(strncmp(info.name, "EPGRAPH_", 8), 0);
    }
    assert_int_equal(epg_setting_get(epg_setting_count(), &info), EPG_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_native_codes),       cmocka_unit_test(a_prefix_keeps_the_cause),
        cmocka_unit_test(a_long_message_is_cut_not_overrun), cmocka_unit_test(a_setting_names_its_bad_value),
        cmocka_unit_test(settings_are_listed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
