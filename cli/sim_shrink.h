/* Cuts a program that fails down to a small one that fails in the same way. */
#ifndef CLI_SIM_SHRINK_H
#define CLI_SIM_SHRINK_H

#include "sim_check.h"

/* Runs and checks a program; where nobody is lost and `twice` is set, under a second schedule too, which must give the
 * same bits. `result`, which may be NULL, is the first run's; free it. Returns -1 without memory. */
int sim_try(const sim_program *program, int twice, sim_result *result, sim_verdict *verdict, char *text, size_t bytes);

/* Makes `program`, whose verdict was `verdict`, smaller as long as the verdict stays. Bounded by a number of runs, so
 * that the same program shrinks to the same one. */
void sim_shrink(sim_program *program, sim_verdict verdict, char *text, size_t bytes);

#endif
