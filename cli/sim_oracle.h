/* What dispatch and combine must do, computed one token at a time from the documented rules: which slots a sender
 * takes, what a rank's experts are shown, what comes back. Shares no code and no layout with the library.
 *
 * Given for each pair, as masks of ranks: whose rows a rank received, and whose answers it lacks. */
#ifndef CLI_SIM_ORACLE_H
#define CLI_SIM_ORACLE_H

#include "sim_run.h"

enum { ORACLE_ROWS = SIM_RANKS * SIM_TOKENS * SIM_TOPK };
#define ORACLE_NOT_SENT (-1)  /* the token wants no expert there */
#define ORACLE_NO_SLOT (-2)   /* it does, and there was no slot left */

typedef struct oracle_send {
    uint32_t tokens, dropped_tokens, dropped_rows, bad_ids;
    int64_t first_bad;
    int32_t chosen[SIM_TOKENS][SIM_TOPK];  /* physical experts, -1: none */
    int32_t slot[SIM_TOKENS][SIM_RANKS];
    uint32_t sent[SIM_RANKS];              /* rows to each rank */
    uint32_t token_of[SIM_RANKS][SIM_TOKENS]; /* of each slot */
} oracle_send;

typedef struct oracle_view {
    uint32_t total, row_count, dropped;
    uint32_t offsets[SIM_LOCAL_EXPERTS + 1], counts[SIM_LOCAL_EXPERTS];
    sim_row rows[ORACLE_ROWS];
    uint8_t placed[SIM_RANKS][SIM_TOKENS][SIM_TOPK]; /* source, token, choice: 1 where the experts were given it */
} oracle_view;

void oracle_route(const sim_program *program, uint32_t rank, uint32_t pair, oracle_send *send);

/* `sends`: of every rank in this pair. */
void oracle_show(const sim_program *program, uint32_t rank, const oracle_send *sends, uint32_t pair, uint32_t sources,
                 oracle_view *view);

/* Output and flags of one token of `rank`, whose shares from the ranks in `missing` did not come. views[q] must be what
 * rank q's experts were shown, for every other rank to which the token went. */
void oracle_answer(const sim_program *program, uint32_t rank, uint32_t pair, const oracle_send *send,
                   const oracle_view *views, uint32_t token, uint32_t missing, void *row, uint32_t *flag);

#endif
