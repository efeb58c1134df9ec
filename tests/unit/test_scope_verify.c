/* epg_scope_verify: whether a library follows its current stream, on the host device. */
#include <string.h>
#include "epgraph/device.h"
#include "support/scopes.h"

typedef struct launcher {
    epg_device *device;
    fake *runtime; /* whose current stream it takes; NULL: the legacy stream */
    epg_status gives;
    int says_why;
} launcher;

static void nothing(void *ctx)
{
    (void)ctx;
}

static epg_status launch(void *ctx)
{
    launcher *l = ctx;
    assert_int_equal(epg_host_func(l->device, l->runtime ? l->runtime->now : NULL, nothing, NULL, NULL), EPG_OK);
    if (l->says_why)
        epg_scope_table_create(NULL, NULL); /* a call that fails */
    return l->gives;
}

static void an_operation_on_another_stream_is_found(void **state)
{
    (void)state;
    fake a = {.now = STREAM(5)};
    epg_scope_runtime runtime = runtime_of("mine", &a);
    epg_scope_table *table = table_of(0, &runtime, 1);
    epg_device *device = NULL;
    assert_int_equal(epg_device_create(NULL, &device), EPG_OK);
    launcher l = {device, &a, EPG_OK, 0};
    assert_int_equal(epg_scope_verify(table, device, DEVICE, launch, &l), EPG_OK);
    l.runtime = NULL;
    assert_int_equal(epg_scope_verify(table, device, DEVICE, launch, &l), EPG_ERR_ESCAPED);
    l.gives = EPG_ERR_IO;
    assert_int_equal(epg_scope_verify(table, device, DEVICE, launch, &l), EPG_ERR_IO);
    assert_message("the operation gave EPG_ERR_IO");
    assert_null(strstr(epg_message(), "EPG_ERR_IO:")); /* it said no more */
    l.says_why = 1;
    assert_int_equal(epg_scope_verify(table, device, DEVICE, launch, &l), EPG_ERR_IO);
    assert_message("the operation gave EPG_ERR_IO: table is NULL");
    a.set_gives = EPG_ERR_STATE;
    assert_int_equal(epg_scope_verify(table, device, DEVICE, launch, &l), EPG_ERR_UNSUPPORTED);
    assert_int_equal(epg_scope_verify(table, NULL, DEVICE, launch, &l), EPG_ERR_INVALID);
    assert_ptr_equal(a.now, STREAM(5));
    epg_scope_table_destroy(table);
    epg_device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_operation_on_another_stream_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
