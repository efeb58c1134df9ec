/* Random pairs and what must come back, computed without any of the library's code or layouts. */
#ifndef TESTS_PAIR_ORACLE_H
#define TESTS_PAIR_ORACLE_H

#include "support/ranks.h"

typedef struct pair_case {
    uint32_t experts, hidden, topk, max_tokens;
    epg_dtype type;
    uint64_t seed;
} pair_case;

typedef struct pair_input {
    uint32_t tokens;
    void *rows;      /* [max_tokens][hidden] */
    int32_t *ids;    /* [max_tokens][topk] */
    float *weights;  /* [max_tokens][topk] */
    void *out;       /* [max_tokens][hidden], filled with 0xAB */
} pair_input;

/* What rank `rank` sends in pair number `pair`: some tokens, some choices -1, sometimes none at all. */
int pair_input_make(const pair_case *c, uint32_t rank, uint64_t pair, pair_input *in);
void pair_input_free(pair_input *in);

/* Expert e maps a row x to x * (1 + e / 8) + e / 16; one expert's output for the rows of a view, as a host kernel. */
typedef struct pair_experts_args {
    epg_dispatch_view view;
    uint32_t hidden;
    epg_dtype type;
    void *out;
} pair_experts_args;
void pair_experts_run(const void *args);

/* Largest |out - expected| / max|expected| over the tokens, in double precision; 1e30 if a byte beyond the tokens
 * changed. */
double pair_error(const pair_case *c, const pair_input *in);

#endif
