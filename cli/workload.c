/* Requests from a trace or from a seed. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "cli.h"
#include "digest.h"
#include "workload.h"

#define HEADER "TIMESTAMP,ContextTokens,GeneratedTokens"

uint32_t workload_positions(const workload_request *request)
{
    return request->prompt + (request->generate ? request->generate - 1 : 0);
}

int32_t workload_prompt_id(const workload *load, uint32_t request, uint32_t position)
{
    uint64_t place = (uint64_t)request << 32 | position;
    return (int32_t)(digest_mix(digest_mix(load->seed) ^ place) % load->vocab);
}

/* Numbers every request's positions and tokens. */
static void finish(workload *load, uint64_t seed, uint32_t vocab)
{
    load->seed = seed;
    load->vocab = vocab;
    load->positions = load->prompt_tokens = load->generated_tokens = 0;
    for (uint32_t i = 0; i < load->count; i++) {
        workload_request *request = &load->requests[i];
        request->first_position = load->positions;
        request->first_token = load->generated_tokens;
        load->positions += workload_positions(request);
        load->prompt_tokens += request->prompt;
        load->generated_tokens += request->generate;
    }
}

int workload_synthesize(workload *load, uint32_t count, uint64_t seed, uint32_t vocab)
{
    *load = (workload){.requests = calloc(count, sizeof(workload_request)), .count = count};
    if (!load->requests)
        return -1;
    uint64_t state = digest_mix(seed ^ 0x776f726b6c6f6164u); /* apart from the prompts' stream */
    uint64_t arrival = 0;
    for (uint32_t i = 0; i < count; i++) {
        state = digest_mix(state);
        load->requests[i].prompt = 16 + (uint32_t)(state % 241);
        load->requests[i].generate = 4 + (uint32_t)((state >> 20) % 29);
        load->requests[i].arrival_us = arrival;
        arrival += (state >> 40) % 40000; /* 50 requests a second, so that ranks are in different phases */
    }
    finish(load, seed, vocab);
    return 0;
}

void workload_free(workload *load)
{
    free(load->requests);
    *load = (workload){0};
}

/* `count` digits exactly, as a number; -1 if there are fewer. */
static int digits(const char **text, int count)
{
    int value = 0;
    for (int i = 0; i < count; i++, (*text)++) {
        if (**text < '0' || **text > '9')
            return -1;
        value = value * 10 + (**text - '0');
    }
    return value;
}

/* Days from 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms"). Years from 1970 on. */
static uint64_t days_from_civil(int year, int month, int day)
{
    year -= month <= 2;
    unsigned era = (unsigned)year / 400, year_of_era = (unsigned)year % 400;
    unsigned day_of_year = (153u * (unsigned)(month + (month > 2 ? -3 : 9)) + 2) / 5 + (unsigned)day - 1;
    return (uint64_t)era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

static int days_in(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return month == 2 && year % 4 == 0 && (year % 100 || year % 400 == 0) ? 29 : days[month - 1];
}

int workload_timestamp(const char *text, uint64_t *us)
{
    static const char separators[] = "-- ::";
    static const int widths[] = {4, 2, 2, 2, 2, 2};
    int part[6];
    for (int i = 0; i < 6; i++) {
        if (i && *text++ != separators[i - 1])
            return -1;
        if ((part[i] = digits(&text, widths[i])) < 0)
            return -1;
    }
    uint64_t fraction = 0;
    if (*text == '.') {
        const char *start = ++text;
        for (uint64_t unit = 100000; *text >= '0' && *text <= '9'; text++, unit /= 10)
            fraction += unit * (uint64_t)(*text - '0');
        if (text == start)
            return -1;
    }
    if (*text || part[0] < 1970 || part[1] < 1 || part[1] > 12 || part[2] < 1 || part[2] > days_in(part[0], part[1]) ||
        part[3] > 23 || part[4] > 59 || part[5] > 60)
        return -1;
    uint64_t hours = days_from_civil(part[0], part[1], part[2]) * 24 + (uint64_t)part[3];
    *us = ((hours * 60 + (uint64_t)part[4]) * 60 + (uint64_t)part[5]) * 1000000 + fraction;
    return 0;
}

/* One line, its newline already gone, into *request; arrival_us is absolute. */
static int parse_line(char *line, workload_request *request, char *message, size_t bytes)
{
    char *prompt = strchr(line, ','), *generate = prompt ? strchr(prompt + 1, ',') : NULL;
    if (!generate || strchr(generate + 1, ',')) {
        snprintf(message, bytes, "\"%s\" does not have the three columns " HEADER, line);
        return -1;
    }
    *prompt++ = *generate++ = '\0';
    char cause[200];
    uint64_t number;
    if (workload_timestamp(line, &request->arrival_us)) {
        snprintf(message, bytes, "TIMESTAMP \"%s\" is not like 2023-11-16 18:17:03.9799600", line);
        return -1;
    }
    if (cli_number(prompt, 1, WORKLOAD_MOST_TOKENS, &number, cause, sizeof(cause))) {
        snprintf(message, bytes, "ContextTokens %s", cause);
        return -1;
    }
    request->prompt = (uint32_t)number;
    if (cli_number(generate, 0, WORKLOAD_MOST_TOKENS, &number, cause, sizeof(cause))) {
        snprintf(message, bytes, "GeneratedTokens %s", cause);
        return -1;
    }
    request->generate = (uint32_t)number;
    return 0;
}

static int append(workload *load, size_t *room, const workload_request *request)
{
    if (load->count == *room) {
        size_t more = *room ? *room * 2 : 256;
        workload_request *grown = realloc(load->requests, more * sizeof(*grown));
        if (!grown)
            return -1;
        load->requests = grown;
        *room = more;
    }
    load->requests[load->count++] = *request;
    return 0;
}

/* One line of the file at `number` (the first is 1). Empty lines are passed over. */
static int read_line(workload *load, size_t *room, char *line, uint64_t number, char *message, size_t bytes)
{
    line[strcspn(line, "\r\n")] = '\0';
    if (number == 1) {
        if (!strcmp(line, HEADER))
            return 0;
        snprintf(message, bytes, "\"%s\" is not the header " HEADER, line);
        return -1;
    }
    workload_request request = {0};
    if (!*line)
        return 0;
    if (parse_line(line, &request, message, bytes))
        return -1;
    /* Arrivals are kept absolute until the whole trace is read; the first one is then taken off. */
    if (load->count && request.arrival_us < load->requests[load->count - 1].arrival_us) {
        snprintf(message, bytes, "TIMESTAMP \"%s\" is earlier than the line before", line);
        return -1;
    }
    if (append(load, room, &request)) {
        snprintf(message, bytes, "out of memory");
        return -1;
    }
    return 0;
}

/* Makes arrivals relative, or says that there are too few requests. */
static int close_trace(workload *load, const char *name, uint32_t count, char *message, size_t bytes)
{
    if (!load->count) {
        snprintf(message, bytes, "%s: holds no request", name);
        return -1;
    }
    if (load->count < count) {
        snprintf(message, bytes, "%s: holds %" PRIu32 " requests, fewer than the %" PRIu32 " asked for", name,
                 load->count, count);
        return -1;
    }
    uint64_t start = load->requests[0].arrival_us;
    for (uint32_t i = 0; i < load->count; i++)
        load->requests[i].arrival_us -= start;
    return 0;
}

int workload_read(workload *load, FILE *file, const char *name, uint32_t count, uint64_t seed, uint32_t vocab,
                  char *message, size_t bytes)
{
    char *line = NULL, cause[400];
    size_t room = 0, line_room = 0;
    int status = 0;
    *load = (workload){0};
    errno = 0;
    for (uint64_t number = 1;
         !status && (!count || load->count < count) && getline(&line, &line_room, file) >= 0; number++)
        if ((status = read_line(load, &room, line, number, cause, sizeof(cause))))
            snprintf(message, bytes, "%s:%" PRIu64 ": %s", name, number, cause);
    if (!status && ferror(file)) {
        snprintf(message, bytes, "%s: %s", name, strerror(errno));
        status = -1;
    }
    free(line);
    if (!status)
        status = close_trace(load, name, count, message, bytes);
    if (status)
        workload_free(load);
    else
        finish(load, seed, vocab);
    return status;
}
