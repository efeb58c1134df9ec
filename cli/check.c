/* The checks: replay against eager, mixed against one phase at a time, and the serial oracle. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"
#include "digest.h"

/* Where the router's last choice is closer than this to its first rejection, rows rounded to the type and the oracle's
 * doubles may choose other experts and both be right. bf16 keeps 8 bits of the router's input. */
static double least_gap(epg_dtype row_type) { return row_type == EPG_FLOAT32 ? 1e-5 : 2e-2; }

static int compare_positions(const void *a, const void *b)
{
    uint64_t x = ((const serve_sample *)a)->position, y = ((const serve_sample *)b)->position;
    return (x > y) - (x < y);
}

void check_free_samples(epg_device *device, serve_sample *samples, uint32_t count)
{
    for (uint32_t i = 0; samples && i < count; i++)
        if (samples[i].states)
            epg_memory_free(device, EPG_MEMORY_PINNED, samples[i].states);
    free(samples);
}

int check_choose_samples(const serve_config *config, uint32_t most, serve_sample **samples, uint32_t *count)
{
    const workload *load = config->load;
    size_t bytes = (size_t)(config->shape.layers + 1) * config->shape.hidden * sizeof(float);
    serve_sample *chosen = calloc(most, sizeof(*chosen));
    if (!chosen)
        return -1;
    for (uint32_t i = 0; i < most; i++)
        chosen[i].position = digest_mix(digest_mix(load->seed ^ 0x6f7261636c65u) + i) % load->positions;
    qsort(chosen, most, sizeof(*chosen), compare_positions);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < most; i++)
        if (!kept || chosen[kept - 1].position != chosen[i].position)
            chosen[kept++].position = chosen[i].position;
    for (uint32_t i = 0; i < kept; i++)
        if (epg_memory_alloc(config->device, EPG_MEMORY_PINNED, bytes, &chosen[i].states)) {
            check_free_samples(config->device, chosen, kept);
            return -1;
        }
    *samples = chosen;
    *count = kept;
    return 0;
}

/* ---- bits ---- */

/* The request that a position or a token belongs to. */
static uint32_t request_of(const workload *load, uint64_t place, int is_token)
{
    uint32_t low = 0, high = load->count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        uint64_t first = is_token ? load->requests[middle].first_token : load->requests[middle].first_position;
        if (first <= place)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* 1 if all hidden states and tokens are the same; else the first difference is named. */
static int same_bits(const workload *load, const serve_result *a, const serve_result *b, const char *what,
                     char *message, size_t bytes)
{
    for (uint64_t i = 0; i < load->positions; i++)
        if (a->hashes[i] != b->hashes[i]) {
            uint32_t request = request_of(load, i, 0);
            snprintf(message, bytes, "%s: hidden states differ, first in request %u at position %llu", what, request,
                     (unsigned long long)(i - load->requests[request].first_position));
            return 0;
        }
    for (uint64_t i = 0; i < load->generated_tokens; i++)
        if (a->tokens[i] != b->tokens[i]) {
            uint32_t request = request_of(load, i, 1);
            snprintf(message, bytes, "%s: generated tokens differ, first in request %u, token %llu (%d and %d)", what,
                     request, (unsigned long long)(i - load->requests[request].first_token), a->tokens[i],
                     b->tokens[i]);
            return 0;
        }
    return 1;
}

/* ---- the oracle ---- */

static void widen(const serve_config *config, const void *states, uint32_t row, float *out)
{
    uint32_t hidden = config->shape.hidden;
    if (config->row_type == EPG_FLOAT32) {
        memcpy(out, (const float *)states + (size_t)row * hidden, hidden * sizeof(float));
        return;
    }
    const uint16_t *from = (const uint16_t *)states + (size_t)row * hidden;
    for (uint32_t i = 0; i < hidden; i++) {
        uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(&out[i], &bits, sizeof(bits));
    }
}

/* max|out - reference| / max|reference|; infinite where either holds a NAN or the reference is zero. */
static double relative_error(const float *out, const float *reference, uint32_t count)
{
    double worst = 0.0, scale = 0.0;
    for (uint32_t i = 0; i < count; i++) {
        double error = fabs((double)out[i] - (double)reference[i]);
        if (isnan(error))
            return INFINITY;
        worst = error > worst ? error : worst;
        if (fabs((double)reference[i]) > scale)
            scale = fabs((double)reference[i]);
    }
    return scale > 0.0 ? worst / scale : INFINITY;
}

/* One position in every layer, each fed the input that the run had there. rows is [3][hidden]. */
static epg_status check_position(const serve_config *config, const serve_sample *sample, float *rows,
                                 check_result *check)
{
    uint32_t hidden = config->shape.hidden, request = request_of(config->load, sample->position, 0);
    float *in = rows, *out = rows + hidden, *reference = rows + 2 * (size_t)hidden;
    for (uint32_t layer = 0; layer < config->shape.layers; layer++) {
        double gap = 1.0;
        widen(config, sample->states, layer, in);
        widen(config, sample->states, layer + 1, out);
        epg_status status = epg_reference_layer(config->checkpoint, layer, in, reference, &gap);
        if (status)
            return status;
        if (gap < least_gap(config->row_type)) {
            check->oracle_skipped++;
            continue;
        }
        double error = relative_error(out, reference, hidden);
        check->oracle_compared++;
        if (error > check->oracle_max_rel_err)
            check->oracle_max_rel_err = error;
        if (error >= check->oracle_limit && !*check->message)
            snprintf(check->message, sizeof(check->message),
                     "oracle: request %u, position %llu, layer %u: relative error %.3g is not below %.0e", request,
                     (unsigned long long)(sample->position - config->load->requests[request].first_position), layer,
                     error, check->oracle_limit);
    }
    return EPG_OK;
}

static epg_status run_oracle(const serve_config *config, check_result *check)
{
    float *rows = calloc((size_t)config->shape.hidden * 3, sizeof(float));
    if (!rows) {
        snprintf(check->message, sizeof(check->message), "no memory for the oracle");
        return EPG_ERR_NO_MEMORY;
    }
    epg_status status = EPG_OK;
    progress_start(config->bar, "serial oracle", config->sample_count);
    for (uint32_t i = 0; i < config->sample_count && !status; i++) {
        status = check_position(config, &config->samples[i], rows, check);
        progress_add(config->bar, 1);
        progress_draw(config->bar);
    }
    progress_finish(config->bar);
    if (status)
        snprintf(check->message, sizeof(check->message), "oracle: %s", epg_message());
    else if (!check->oracle_compared)
        snprintf(check->message, sizeof(check->message),
                 "oracle: experts tie at every sampled position; none was compared");
    free(rows);
    return status;
}

/* ---- all of it ---- */

static epg_status serve_again(serve_config config, const char *label, serve_result *result, check_result *check)
{
    config.samples = NULL;
    config.sample_count = 0;
    config.timeline = NULL;
    progress_start(config.bar, label, config.load->positions);
    epg_status status = serve_run(&config, result);
    progress_finish(config.bar);
    if (status)
        snprintf(check->message, sizeof(check->message), "%.40s: %.580s", label, result->message);
    return status;
}

/* Compares, and adds the first difference to what other checks found. */
static int compare_and_note(const serve_config *config, const serve_result *first, const serve_result *other,
                            const char *what, check_result *check)
{
    size_t used = strlen(check->message);
    if (used)
        used += (size_t)snprintf(check->message + used, sizeof(check->message) - used, "; ");
    int same = same_bits(config->load, first, other, what, check->message + used, sizeof(check->message) - used);
    if (same && used) /* take the "; " back */
        check->message[used - 2] = '\0';
    return same;
}

epg_status check_run(const serve_config *config, const serve_result *first, serve_times *other_times,
                     check_result *check)
{
    *check = (check_result){.ran = 1, .oracle_limit = config->row_type == EPG_FLOAT32 ? 1e-5 : 2e-2};
    epg_status status = run_oracle(config, check);
    if (status)
        return status;
    serve_result result;
    serve_config other = *config;
    other.eager = !config->eager;
    status = serve_again(other, "check: replay and eager", &result, check);
    if (!status) {
        check->replay_equals_eager = compare_and_note(config, first, &result, "replay and eager", check);
        *other_times = result.times;
        result.times = (serve_times){0};
    }
    serve_result_free(&result);
    if (status)
        return status;
    other.eager = 1;
    other.policy = EPG_POLICY_ONE_PHASE;
    other.mode = config->mode == EPG_MODE_HT ? EPG_MODE_LL : EPG_MODE_HT;
    status = serve_again(other, "check: mixed and one phase", &result, check);
    if (!status)
        check->mixed_equals_eager = compare_and_note(config, first, &result, "mixed and all-eager", check);
    serve_result_free(&result);
    return status;
}

int check_oracle_held(const check_result *check)
{
    return check->oracle_compared && check->oracle_max_rel_err < check->oracle_limit;
}

int check_held(const check_result *check)
{
    return !check->ran || (check->replay_equals_eager && check->mixed_equals_eager && check_oracle_held(check));
}
