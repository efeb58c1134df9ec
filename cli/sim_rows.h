/* Rows of a simulated program, by row type. */
#ifndef CLI_SIM_ROWS_H
#define CLI_SIM_ROWS_H

#include "epgraph/group.h"
#include "sim_program.h"

/* The row type of a program, and with it the options of a rank's group: scales are powers of two in half of the
 * programs, and laid out in another way from rank to rank. */
epg_dtype sim_row_type(const sim_program *program);
void sim_row_options(const sim_program *program, uint32_t rank, epg_group_options *options);
static inline uint32_t sim_power_of_two(const sim_program *p)
{
    return sim_row_type(p) == EPG_FLOAT8_E4M3 ? p->shape.data & 1 : 0;
}

/* What a rank sends for a token: bytes of a row and of its scales, and they themselves. */
uint32_t sim_input_bytes(const sim_program *program);
uint32_t sim_input_scale_bytes(const sim_program *program);
void sim_fill_row(const sim_program *program, uint32_t rank, uint32_t pair, uint32_t token, char *row, char *scales);

/* That row as an expert must read it, and as it does read position `position` of `rank`'s view: a row of the combine
 * type. */
void sim_arrived_row(const sim_program *program, uint32_t rank, uint32_t pair, uint32_t token, char *row);
void sim_read_row(const sim_program *program, uint32_t rank, const epg_dispatch_view *view, uint32_t expert,
                  uint32_t position, char *row);

#endif
