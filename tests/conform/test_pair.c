/* Dispatch and combine against an oracle: layouts, row types, modes mixed across ranks, wrapping epochs, eager pairs
 * and captured ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "support/pair_oracle.h"

typedef struct plan {
    pair_case c;
    epg_layout layout;
    uint32_t row_align, pairs, first_epoch, captured; /* captured: pairs per graph, 0: eager */
    unsigned ht_pattern; /* bit (rank + pair) % 8 set: HT */
    uint64_t *digests;   /* [ranks][pairs] of the outputs */
} plan;

static uint64_t digest(const void *data, size_t bytes)
{
    uint64_t h = 1469598103934665603ull;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ ((const unsigned char *)data)[i]) * 1099511628211ull;
    return h;
}

static int enqueue_pair(test_rank *self, epg_group *group, const plan *p, const pair_input *in, uint32_t pair,
                        void *expert_out)
{
    epg_dispatch_args args = EPG_DISPATCH_ARGS_INIT;
    pair_experts_args experts = {EPG_DISPATCH_VIEW_INIT, p->c, expert_out};
    args.mode = p->ht_pattern >> ((self->rank + pair) % 8) & 1 ? EPG_MODE_HT : EPG_MODE_LL;
    args.bucket = p->c.max_tokens;
    args.tokens = &in->tokens;
    args.rows = in->rows;
    args.scales = in->scales;
    if (p->c.input_type)
        args.input_type = p->c.input_type;
    args.topk_ids = in->ids;
    args.topk_weights = in->weights;
    RANK_OK(epg_dispatch(group, &args, &experts.view, self->stream));
    RANK_OK(epg_host_launch(self->device, self->stream, pair_experts_run, &experts, sizeof experts, "experts"));
    RANK_OK(epg_combine(group, 0, expert_out, in->out, self->stream));
    return 0;
}

static int run_graph(test_rank *self, epg_group *group, const plan *p, pair_input *in, uint32_t first, uint32_t count,
                     void *expert_out)
{
    epg_graph graph;
    epg_exec exec;
    RANK_OK(epg_capture_begin(self->device, self->stream, EPG_CAPTURE_THREAD_LOCAL));
    for (uint32_t i = first; i < first + count; i++)
        if (enqueue_pair(self, group, p, &in[i], i, expert_out))
            return 1;
    RANK_OK(epg_capture_end(self->device, self->stream, &graph));
    RANK_OK(epg_graph_instantiate(self->device, graph, &exec));
    RANK_OK(epg_graph_destroy(self->device, graph));
    RANK_OK(epg_exec_launch(self->device, exec, self->stream));
    RANK_OK(epg_exec_destroy(self->device, exec));
    return 0;
}

static int body(test_rank *self)
{
    const plan *p = self->arg;
    epg_group_options o = EPG_GROUP_OPTIONS_INIT;
    epg_group *group;
    epg_dispatch_view view = EPG_DISPATCH_VIEW_INIT;
    epg_group_stats stats = EPG_GROUP_STATS_INIT;
    o.experts = p->c.experts;
    o.hidden = p->c.hidden;
    o.topk = p->c.topk;
    o.max_tokens = p->c.max_tokens;
    o.row_type = p->c.type;
    o.layout = p->layout;
    o.row_align = p->row_align;
    o.first_epoch = p->first_epoch;
    o.scale_power_of_two = p->c.power_of_two;
    o.scale_layout = p->c.scale_layout;
    o.row_bytes = p->c.row_bytes;
    o.scale_bytes = p->c.scale_bytes;
    RANK_OK(epg_group_create(self->team, &o, &group));
    RANK_OK(epg_group_view(group, 0, &view));
    size_t row = p->c.hidden * pair_width(p->c.type);
    void *expert_out = malloc((size_t)view.row_capacity * row + 1);
    pair_input *in = calloc(p->pairs, sizeof *in);
    RANK_CHECK(expert_out && in, "memory");
    for (uint32_t i = 0; i < p->pairs; i++)
        RANK_CHECK(pair_input_make(&p->c, self->rank, i, &in[i]) == 0, "memory");
    for (uint32_t i = 0; i < p->pairs;) {
        /* graphs of varying pair counts, an eager pair between them */
        uint32_t count = p->captured && i + p->captured <= p->pairs ? p->captured : 0;
        if (count && run_graph(self, group, p, in, i, count, expert_out))
            return 1;
        i += count;
        if (i < p->pairs && enqueue_pair(self, group, p, &in[i], i, expert_out))
            return 1;
        i++;
    }
    RANK_OK(epg_stream_synchronize(self->device, self->stream));
    RANK_OK(epg_group_check(group, NULL));
    for (uint32_t i = 0; i < p->pairs; i++) {
        double error = pair_error(&p->c, &in[i]), limit = p->c.type == EPG_FLOAT32 ? 1e-6 : 2e-2;
        uint32_t wrong = pair_wrong_token(&p->c, &in[i], self->size);
        RANK_CHECK(error < limit, "pair %u: error %g", i, error);
        RANK_CHECK(wrong == in[i].tokens, "pair %u: token %u is not what the oracle says", i, wrong);
        p->digests[self->rank * p->pairs + i] = digest(in[i].out, p->c.max_tokens * row);
        pair_input_free(&in[i]);
    }
    RANK_OK(epg_group_get_stats(group, &stats));
    RANK_CHECK(stats.pairs == p->pairs && stats.flagged == 0 && stats.cleans == 1, "pairs %llu",
               (unsigned long long)stats.pairs);
    free(in);
    free(expert_out);
    epg_group_destroy(group);
    return 0;
}

/* Runs the plan in several mixes, on threads and in a few interleavings: all must agree with the oracle and, to the
 * bit, with each other. */
static void check(uint32_t ranks, plan p)
{
    static const unsigned mixes[] = {0x00, 0xFF, 0x55, 0x36};
    uint64_t *first = calloc((size_t)ranks * p.pairs, sizeof *first);
    uint64_t *other = calloc((size_t)ranks * p.pairs, sizeof *other);
    assert_non_null(first);
    assert_non_null(other);
    for (size_t m = 0; m < sizeof mixes / sizeof *mixes; m++) {
        p.ht_pattern = mixes[m];
        p.captured = (uint32_t)m;
        p.digests = m == 0 ? first : other;
        assert_int_equal(run_ranks(ranks, 20000, body, &p), 0);
        if (m > 0)
            assert_memory_equal(first, other, (size_t)ranks * p.pairs * sizeof *first);
        for (uint64_t seed = 0; seed < simulated_seeds(3); seed++) {
            p.digests = other;
            assert_int_equal(run_ranks_simulated(ranks, 20000, body, &p, seed * 4 + m), 0);
            assert_memory_equal(first, other, (size_t)ranks * p.pairs * sizeof *first);
        }
    }
    free(first);
    free(other);
}

static plan base(uint64_t seed)
{
    return (plan){.c = {.experts = 8, .hidden = 24, .topk = 3, .max_tokens = 11, .seed = seed}, .pairs = 9};
}

static void in_place(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= 8; ranks *= 2)
        check(ranks, base(ranks));
}

static void contiguous_aligned(void **state)
{
    (void)state;
    plan p = base(21);
    p.layout = EPG_LAYOUT_CONTIGUOUS;
    p.row_align = 4;
    check(1, p);
    check(4, p);
}

static void masked(void **state)
{
    (void)state;
    plan p = base(22);
    p.layout = EPG_LAYOUT_MASKED;
    check(2, p);
    check(4, p);
}

static void bfloat16(void **state)
{
    (void)state;
    plan p = base(23);
    p.c.type = EPG_BFLOAT16;
    check(1, p);
    check(4, p);
}

/* In every layout of rows and scales that there is, quantised by the library or by its caller; hidden sizes whose last
 * block is short, and whose rows do not fill 16 bytes. */
static void fp8(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {24, 128, 584, 200};
    plan p = base(26);
    p.c.type = EPG_FLOAT8_E4M3;
    for (uint32_t i = 0; i < 24; i++) {
        p.layout = (epg_layout)(i % 3);
        p.row_align = p.layout == EPG_LAYOUT_CONTIGUOUS ? 4 : 0;
        p.c.scale_layout = p.layout == EPG_LAYOUT_IN_PLACE ? EPG_SCALES_ROW_MAJOR : (epg_scale_layout)(i / 3 % 3);
        p.c.power_of_two = p.c.scale_layout == EPG_SCALES_PACKED || i / 9 % 2;
        p.c.input_type = i / 6 % 2 ? EPG_FLOAT8_E4M3 : EPG_BFLOAT16;
        p.c.hidden = sizes[i % 4];
        p.c.seed = 26 + i;
        p.pairs = 4;
        check(i % 2 ? 4 : 1, p);
    }
}

static void opaque(void **state)
{
    (void)state;
    static const uint32_t rows[] = {1, 16, 77, 160}, scales[] = {0, 6, 16, 33};
    plan p = base(27);
    p.c.type = EPG_OPAQUE;
    for (uint32_t i = 0; i < 12; i++) {
        p.layout = (epg_layout)(i % 3);
        p.c.row_bytes = rows[i % 4];
        p.c.scale_bytes = scales[i / 3];
        p.c.seed = 27 + i;
        p.pairs = 4;
        check(i % 2 ? 4 : 1, p);
    }
}

static void the_epoch_wraps(void **state)
{
    (void)state;
    plan p = base(24);
    p.first_epoch = 0xFFFFFFF0u;
    p.pairs = 40;
    check(2, p);
}

static void odd_shapes(void **state)
{
    (void)state;
    plan p = base(25);
    p.c = (pair_case){.experts = 33, .hidden = 8, .topk = 32, .max_tokens = 5, .seed = 3};
    check(3, p);
    p.c = (pair_case){.experts = 3, .hidden = 1000, .topk = 1, .max_tokens = 70, .seed = 4};
    check(3, p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_place), cmocka_unit_test(contiguous_aligned), cmocka_unit_test(masked),
        cmocka_unit_test(bfloat16), cmocka_unit_test(fp8),                cmocka_unit_test(opaque),
        cmocka_unit_test(the_epoch_wraps), cmocka_unit_test(odd_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
