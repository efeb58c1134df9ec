/* Random pairs and what must come back, computed without any of the library's code or layouts. */
#ifndef TESTS_PAIR_ORACLE_H
#define TESTS_PAIR_ORACLE_H

#include "support/ranks.h"

typedef struct pair_case {
    uint32_t experts, hidden, topk, max_tokens;
    epg_dtype type;
    uint64_t seed;
    uint32_t power_of_two;            /* fp8 */
    epg_dtype input_type;             /* fp8: EPG_FLOAT8_E4M3: the caller quantises; else it is left to the library */
    epg_scale_layout scale_layout;    /* fp8 */
    uint32_t row_bytes, scale_bytes;  /* opaque */
} pair_case;

typedef struct pair_input {
    uint32_t tokens;
    void *rows;      /* [max_tokens] rows of pair_input_bytes */
    void *scales;    /* of fp8 input and of opaque rows; else NULL */
    int32_t *ids;    /* [max_tokens][topk] */
    float *weights;  /* [max_tokens][topk] */
    void *out;       /* [max_tokens][hidden] of the combine type, filled with 0xAB */
} pair_input;

uint64_t pair_random(uint64_t *state);

/* An element of combine's rows, and of rows that are sent as they are: its bytes, and element i. */
uint32_t pair_width(epg_dtype type);
double pair_get(epg_dtype type, const void *rows, size_t i);
void pair_put(epg_dtype type, void *rows, size_t i, float value);

/* What rank `rank` sends in pair number `pair`: some tokens, some choices -1, sometimes none at all. */
int pair_input_make(const pair_case *c, uint32_t rank, uint64_t pair, pair_input *in);
void pair_input_free(pair_input *in);

/* Expert e maps a row x to x * (1 + e / 8) + e / 16; one expert's output for the rows of a view, as a host kernel. x is
 * the row itself; of fp8, element times scale rounded to bf16; of opaque rows, a bf16 number per column that depends on
 * every byte of row and scales. */
typedef struct pair_experts_args {
    epg_dispatch_view view;
    pair_case c;
    void *out;
} pair_experts_args;
void pair_experts_run(const void *args);

/* Largest |out - expected| / max|expected| over the tokens, in double precision; 1e30 if a byte beyond the tokens
 * changed. */
double pair_error(const pair_case *c, const pair_input *in);

/* The first token whose output is not to the bit what `ranks` ranks must make of it, every expert in its place;
 * `tokens` if there is none. */
uint32_t pair_wrong_token(const pair_case *c, const pair_input *in, uint32_t ranks);

#endif
