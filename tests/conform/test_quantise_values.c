/* Every bf16 value, among others of up to 12 sizes, is quantised by dispatch as the oracle says, bit for bit, on the
 * device under test: in halves and whole, with scales of any size and with powers of two. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "support/device_under_test.h"
#include "support/fp8_oracle.h"
#include "support/ranks.h"

enum { VALUES = 1 << 16, ROWS_OF_VALUES = 8 };

/* Each value among others of up to 12 sizes, more of them from row to row. */
static void make_values(uint16_t *values)
{
    for (uint32_t t = 0; t < ROWS_OF_VALUES; t++)
        for (uint32_t i = 0; i < VALUES; i++)
            values[t * VALUES + i] = (uint16_t)(i - (i * t % 12 << 7));
}

/* A pair of rows of all values, in halves or whole: the kernels of many ranks or of one. What arrived is in `row`. */
static int quantise_values(test_rank *self, epg_group *group, epg_dispatch_args *args, int whole, char *rows,
                           size_t bytes)
{
    epg_dispatch_view v = EPG_DISPATCH_VIEW_INIT;
    if (whole) {
        RANK_OK(epg_dispatch(group, args, &v, self->stream));
    } else {
        RANK_OK(epg_dispatch_send(group, args, self->stream));
        RANK_OK(epg_dispatch_recv(group, 0, &v, self->stream));
    }
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    uint32_t first;
    RANK_OK(epg_memcpy(self->device, &first, v.row_index, sizeof first));
    RANK_OK(epg_memcpy(self->device, rows, (const char *)v.rows + first * v.row_stride, bytes));
    return epg_pair_abandon(group, 0, self->stream) != EPG_OK;
}

static int check_values(test_rank *self, uint32_t power_of_two, const uint16_t *values, char *rows)
{
    enum { ROW = VALUES + VALUES / 128 * 4, BYTES = ROWS_OF_VALUES * ROW };
    static uint8_t codes[VALUES];
    static float scales[VALUES / 128];
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    epg_group *group;
    void *in, *ids;
    o.experts = o.topk = 1, o.hidden = VALUES, o.max_tokens = ROWS_OF_VALUES;
    o.row_type = EPG_FLOAT8_E4M3, o.scale_power_of_two = power_of_two;
    RANK_OK(epg_group_create(self->team, &o, &group));
    RANK_OK(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, ROWS_OF_VALUES * VALUES * sizeof *values, &in));
    RANK_OK(epg_memory_alloc(self->device, EPG_MEMORY_DEVICE, ROWS_OF_VALUES * sizeof(int32_t), &ids)); /* zeros */
    RANK_OK(epg_memcpy(self->device, in, values, ROWS_OF_VALUES * VALUES * sizeof *values));
    args.mode = EPG_MODE_LL, args.bucket = ROWS_OF_VALUES, args.rows = in, args.topk_ids = ids;
    for (int whole = 0; whole < 2; whole++) {
        if (quantise_values(self, group, &args, whole, rows, BYTES))
            return 1;
        for (uint32_t t = 0; t < ROWS_OF_VALUES; t++) {
            fp8_row(values + t * VALUES, VALUES, (int)power_of_two, codes, scales);
            for (uint32_t i = 0; i < VALUES; i++)
                RANK_CHECK((uint8_t)rows[t * ROW + i] == codes[i], "row %u, 0x%04X: 0x%02X, not 0x%02X", t,
                           values[t * VALUES + i], (uint8_t)rows[t * ROW + i], codes[i]);
            RANK_CHECK(memcmp(rows + t * ROW + VALUES, scales, sizeof scales) == 0, "the scales of row %u", t);
        }
    }
    epg_group_destroy(group);
    RANK_OK(epg_memory_free(self->device, EPG_MEMORY_DEVICE, in));
    RANK_OK(epg_memory_free(self->device, EPG_MEMORY_DEVICE, ids));
    return 0;
}

static int quantise_all(test_rank *self)
{
    uint16_t *values = malloc(ROWS_OF_VALUES * VALUES * sizeof *values);
    char *rows = malloc(ROWS_OF_VALUES * 2 * VALUES);
    RANK_CHECK(values && rows, "memory");
    make_values(values);
    for (uint32_t power_of_two = 0; power_of_two < 2; power_of_two++)
        if (check_values(self, power_of_two, values, rows))
            return 1;
    free(values);
    free(rows);
    return 0;
}

static void every_value_is_quantised_as_the_oracle_says(void **state)
{
    (void)state;
    assert_int_equal(run_ranks(1, 0, quantise_all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_value_is_quantised_as_the_oracle_says)};
    if (test_device_missing())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
