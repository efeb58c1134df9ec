/* Holds what the ranks of a simulated program saw against the oracle, and their records and statistics against what the
 * program did and what befell it. */
#ifndef CLI_SIM_CHECK_H
#define CLI_SIM_CHECK_H

#include "sim_run.h"

typedef enum sim_verdict {
    SIM_RIGHT, SIM_TROUBLE, SIM_WRONG_VIEW, SIM_WRONG_OUTPUT, SIM_WRONG_FLAG, SIM_NOT_FINISHED, SIM_WRONG_RECORD,
    SIM_WRONG_MASK, SIM_WRONG_STATS, SIM_TOO_LONG, SIM_NOT_THE_SAME
} sim_verdict;

/* SIM_RIGHT, or what is wrong first, with a sentence that says what was expected and what was found. */
sim_verdict sim_check(const sim_program *program, const sim_result *result, char *text, size_t bytes);

/* Of all that the ranks saw: equal for two runs of a program in which nobody is lost, whatever the schedule. */
uint64_t sim_seen_digest(const sim_program *program, const sim_result *result);

#endif
