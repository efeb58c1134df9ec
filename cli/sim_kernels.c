/* The device work of a simulated rank that is not the library's: setting inputs, running experts, keeping what was
 * seen. The experts take their time: others move between two rows, so that a row which is overwritten too early is
 * caught. */
#include <string.h>
#include "sim_rank_int.h"
#include "sim_rows.h"

enum { POISON = 0xA5 };

void sim_load_kernel(const void *raw)
{
    const sim_load_args *args = raw;
    sim_buffers *b = args->buffers;
    const sim_rank *rank = b->rank;
    const sim_program *p = rank->program;
    size_t row = sim_row_bytes(p);
    b->now = args->pair;
    memset(b->out, POISON, p->shape.tokens * row);
    b->tokens = p->shape.tokens;
    if (b->now == SIM_REHEARSED)
        return;
    const sim_part *part = &p->part[rank->number][b->now];
    b->tokens = part->tokens;
    for (uint32_t t = 0; t < sim_tokens_sent(part); t++) {
        int64_t ids[SIM_TOPK];
        sim_ids(p, rank->number, b->now, t, ids);
        for (uint32_t k = 0; k < p->shape.topk; k++) {
            b->ids32[t * p->shape.topk + k] = (int32_t)ids[k];
            b->ids64[t * p->shape.topk + k] = ids[k];
            b->weights[t * p->shape.topk + k] = sim_weight(p, rank->number, b->now, t, k);
        }
        sim_fill_row(p, rank->number, b->now, t, b->rows + t * sim_input_bytes(p),
                     b->scales + t * sim_input_scale_bytes(p));
    }
    rank->run->result->seen[rank->number][b->now].begun = 1;
    if (b->now >= b->rank->begun)
        b->rank->begun = b->now + 1;
}

void sim_map_kernel(const void *raw)
{
    const sim_map_args *args = raw;
    for (uint32_t e = 0; e < args->rank->program->shape.logical; e++)
        args->rank->map[e] = sim_mapped(args->rank->program, args->map, e);
}

static void keep_row(const sim_buffers *b, sim_seen *seen, uint32_t expert, uint32_t position, const char *row)
{
    const epg_dispatch_view *v = &b->view;
    size_t bytes = sim_row_bytes(b->rank->program);
    if (seen->row_count == seen->row_room) {
        sim_trouble(b->rank->run, "rank %u, pair %u: more expert rows than were sent", b->rank->number, b->now);
        return;
    }
    seen->rows[seen->row_count] =
        (sim_row){expert, position, v->row_source[position], v->row_token[position], v->row_weight[position]};
    memcpy(seen->row_bytes + seen->row_count++ * bytes, row, bytes);
}

static void run_row(const sim_buffers *b, uint32_t expert, uint32_t position, const char *row)
{
    const sim_program *p = b->rank->program;
    for (uint32_t i = 0; i < p->shape.hidden; i++)
        sim_put(sim_is_bf16(p), b->expert_out + (size_t)position * sim_row_bytes(p), i,
                sim_expert(b->view.first_expert + expert, sim_get(sim_is_bf16(p), row, i)));
}

static int is_empty(const epg_dispatch_view *v)
{
    uint32_t rows = *v->total;
    for (uint32_t e = 0; e < v->local_experts; e++)
        rows |= v->counts[e];
    return rows == 0;
}

/* Positions outside of the buffer would bring the harness down before it could report them. */
static int fits(const epg_dispatch_view *v)
{
    for (uint32_t e = 0; e < v->local_experts; e++)
        if ((uint64_t)v->offsets[e] + v->counts[e] > v->row_capacity)
            return 0;
    return 1;
}

void sim_experts_kernel(const void *raw)
{
    const sim_buffers *b = ((const sim_buffers_args *)raw)->buffers;
    const epg_dispatch_view *v = &b->view;
    const sim_program *p = b->rank->program;
    if (b->now == SIM_REHEARSED) {
        if (!is_empty(v))
            sim_trouble(b->rank->run, "rank %u: a rehearsed dispatch brought rows", b->rank->number);
        return;
    }
    sim_seen *seen = &b->rank->run->result->seen[b->rank->number][b->now];
    seen->held = 1;
    seen->total = *v->total;
    memcpy(seen->offsets, v->offsets, (v->local_experts + 1) * sizeof(uint32_t));
    memcpy(seen->counts, v->counts, v->local_experts * sizeof(uint32_t));
    if (!fits(v)) {
        sim_trouble(b->rank->run, "rank %u, pair %u: expert rows outside of the view", b->rank->number, b->now);
        return;
    }
    for (uint32_t e = 0; e < v->local_experts; e++)
        for (uint32_t at = v->offsets[e]; at < v->offsets[e] + seen->counts[e]; at++) {
            char row[SIM_HIDDEN * 4];
            epg_simulation_move(b->rank->device, "experts: a row");
            sim_read_row(p, b->rank->number, v, e, at, row);
            run_row(b, e, at, row);
            keep_row(b, seen, e, at, row);
        }
}

void sim_finish_kernel(const void *raw)
{
    const sim_buffers *b = ((const sim_buffers_args *)raw)->buffers;
    const sim_program *p = b->rank->program;
    size_t bytes = (size_t)p->shape.tokens * sim_row_bytes(p);
    if (b->now == SIM_REHEARSED) {
        for (size_t i = 0; i < bytes; i++)
            if ((unsigned char)b->out[i] != POISON) {
                sim_trouble(b->rank->run, "rank %u: a rehearsed combine wrote output", b->rank->number);
                return;
            }
        return;
    }
    sim_seen *seen = &b->rank->run->result->seen[b->rank->number][b->now];
    seen->finished = 1;
    memcpy(seen->out, b->out, bytes);
    memcpy(seen->flags, b->flags, p->shape.tokens * sizeof(uint32_t));
}
