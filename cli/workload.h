/* Requests to serve: read from a trace, or made from a seed. Pure apart from reading the trace's file.
 *
 * A request has `prompt` tokens and generates `generate`. The first generated token comes out of the prompt's last
 * position; each further one out of the position at which the one before it was fed back. So a request has
 * prompt + generate - 1 positions (prompt, where it generates none). */
#ifndef CLI_WORKLOAD_H
#define CLI_WORKLOAD_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define WORKLOAD_MOST_TOKENS 1000000u   /* of one prompt or one answer: a larger number in a trace is a mistake */

typedef struct workload_request {
    uint64_t arrival_us;        /* since the first request */
    uint32_t prompt;            /* at least 1 */
    uint32_t generate;
    uint64_t first_position;    /* its position 0, counted over all requests */
    uint64_t first_token;       /* its generated token 0, counted over all requests */
} workload_request;

typedef struct workload {
    workload_request *requests; /* by arrival */
    uint32_t count;
    uint32_t vocab;
    uint64_t seed;
    uint64_t positions;         /* over all requests, as are the next two */
    uint64_t prompt_tokens;
    uint64_t generated_tokens;
} workload;

/* `count` requests from a seed. 0, or -1 without memory. */
int workload_synthesize(workload *load, uint32_t count, uint64_t seed, uint32_t vocab);

/* The first `count` requests (0: all) of a CSV with the columns TIMESTAMP,ContextTokens,GeneratedTokens. `name` stands
 * in messages. 0, or -1 with the file, the line and the text at fault in message. */
int workload_read(workload *load, FILE *file, const char *name, uint32_t count, uint64_t seed, uint32_t vocab,
                  char *message, size_t bytes);
void workload_free(workload *load);

/* "2023-11-16 18:17:03.9799600" as microseconds since 1970; -1 if the text is no such thing. */
int workload_timestamp(const char *text, uint64_t *us);

/* Positions of a request. */
uint32_t workload_positions(const workload_request *request);

/* The prompt's token at `position`, by (seed, request, position) alone. */
int32_t workload_prompt_id(const workload *load, uint32_t request, uint32_t position);

#endif
