/* The table for people and the JSON for programs. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include "report.h"

/* ---- JSON ---- */

static json_t *real_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *times_json(const serve_times *times)
{
    if (!times->count)
        return json_null();
    return json_pack("{s:f, s:f}", "p50", serve_percentile(times, 0.5), "p99", serve_percentile(times, 0.99));
}

static json_t *check_json(const check_result *check)
{
    if (!check->ran)
        return json_pack("{s:n, s:n, s:n}", "replay_equals_eager", "mixed_equals_eager", "oracle_max_rel_err");
    return json_pack("{s:b, s:b, s:o}", "replay_equals_eager", check->replay_equals_eager, "mixed_equals_eager",
                     check->mixed_equals_eager, "oracle_max_rel_err", real_or_null(check->oracle_max_rel_err));
}

static json_t *digest_json(uint64_t digest)
{
    return json_sprintf("%016" PRIx64, digest); /* as text: JSON's numbers do not hold 64 bits */
}

static json_t *counts_json(const serve_counts *counts)
{
    return json_pack("{s:{s:I, s:I, s:I, s:I}, s:{s:I, s:I, s:I, s:I}, s:{s:I, s:I}}",
                     "steps", "total", (json_int_t)counts->total, "decode_only", (json_int_t)counts->decode_only,
                     "prefill_only", (json_int_t)counts->prefill_only, "mixed", (json_int_t)counts->mixed,
                     "graph", "captures", (json_int_t)counts->captures, "replays", (json_int_t)counts->replays,
                     "eager", (json_int_t)counts->eager, "padding", (json_int_t)counts->padding,
                     "switch", "cleans", (json_int_t)counts->cleans, "barriers", (json_int_t)counts->barriers);
}

int report_json(const report *run, FILE *stream)
{
    const workload *load = run->config->load;
    const epg_moe_shape *shape = &run->config->shape;
    json_t *root = json_pack(
        "{s:s, s:s, s:I, s:{s:I, s:I, s:I, s:I}, s:I, s:{s:I, s:I}}", "device", run->device, "team", run->team, "ranks",
        (json_int_t)run->config->ranks, "model", "layers", (json_int_t)shape->layers, "hidden",
        (json_int_t)shape->hidden, "experts", (json_int_t)shape->experts, "topk", (json_int_t)shape->topk, "requests",
        (json_int_t)load->count, "tokens", "prefill", (json_int_t)load->prompt_tokens, "decode",
        (json_int_t)load->generated_tokens);
    json_t *counts = counts_json(&run->result->counts);
    json_t *rest = json_pack("{s:{s:o, s:o}, s:o, s:o, s:o}", "step_us", "replay", times_json(run->replay_times),
                             "eager", times_json(run->eager_times), "tokens_digest",
                             digest_json(serve_tokens_digest(load, run->result)), "states_digest",
                             digest_json(serve_states_digest(load, run->result)), "check", check_json(run->check));
    int failed = !root || !counts || !rest || json_object_update(root, counts) || json_object_update(root, rest) ||
                 json_dumpf(root, stream, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) ||
                 fputc('\n', stream) == EOF || fflush(stream);
    json_decref(root);
    json_decref(counts);
    json_decref(rest);
    return failed ? -1 : 0;
}

/* ---- the table ---- */

static void print_what(const report *run, FILE *stream)
{
    const serve_config *config = run->config;
    const epg_moe_shape *shape = &config->shape;
    const workload *load = config->load;
    fprintf(stream, "What ran\n");
    fprintf(stream, "  model       %s: %u layers, hidden %u, %u experts, top-%u, %s\n", run->model, shape->layers,
            shape->hidden, shape->experts, shape->topk, config->row_type == EPG_FLOAT32 ? "float32" : "bf16");
    fprintf(stream, "  ranks       %u (team \"%s\"), each with %u of the experts, on %s\n", config->ranks, run->team,
            shape->experts / config->ranks, run->device);
    fprintf(stream, "  requests    %u, %s%s\n", load->count, run->trace ? "from " : "synthetic",
            run->trace ? run->trace : "");
    fprintf(stream, "  tokens      %" PRIu64 " of prompts, %" PRIu64 " generated, in %.1f s\n", load->prompt_tokens,
            load->generated_tokens, run->result->seconds);
}

static void print_steps(const report *run, FILE *stream)
{
    const serve_counts *counts = &run->result->counts;
    fprintf(stream, "Steps (all ranks take each step together)\n");
    fprintf(stream, "  total       %" PRIu64 "\n", counts->total);
    fprintf(stream, "  prefill     %" PRIu64 " in which ranks only prefilled\n", counts->prefill_only);
    fprintf(stream, "  decode      %" PRIu64 " in which ranks only decoded\n", counts->decode_only);
    fprintf(stream, "  mixed       %" PRIu64 " in which one rank prefilled while another %s\n", counts->mixed,
            run->config->eager ? "decoded" : "replayed its decode graph");
    fprintf(stream, "  switching   %" PRIu64 " buffer cleans and %" PRIu64 " barriers between phases\n", counts->cleans,
            counts->barriers);
}

static void print_time(const char *name, const serve_times *times, FILE *stream)
{
    if (times->count)
        fprintf(stream, "  %-11s half of the decode steps within %.0f us, 99%% within %.0f us\n", name,
                serve_percentile(times, 0.5), serve_percentile(times, 0.99));
}

static void print_graphs(const report *run, FILE *stream)
{
    const serve_counts *counts = &run->result->counts;
    fprintf(stream, "Graphs (summed over ranks)\n");
    fprintf(stream, "  captured    %" PRIu64 " graphs, for the buckets", counts->captures);
    for (uint32_t i = 0; i < run->config->bucket_count; i++)
        fprintf(stream, " %u", run->config->buckets[i]);
    fprintf(stream, "\n  decode      %" PRIu64 " steps replayed, %" PRIu64 " run eagerly", counts->replays,
            counts->eager);
    fprintf(stream, " (an idle rank replays an empty step)\n");
    fprintf(stream, "  padding     %" PRIu64 " places of buckets left empty\n", counts->padding);
    /* One of the two comes from the run that --check adds. */
    print_time("replayed", run->replay_times, stream);
    print_time("eager", run->eager_times, stream);
}

static void print_checks(const report *run, FILE *stream)
{
    const check_result *check = run->check;
    fprintf(stream, "Checks\n");
    if (!check->ran) {
        fprintf(stream, "  not asked for (--check)\n");
        return;
    }
    fprintf(stream, "  %-4s  replay gives the same bits as eager, on all %" PRIu64 " positions\n",
            check->replay_equals_eager ? "ok" : "FAIL", run->config->load->positions);
    fprintf(stream, "  %-4s  mixed gives the same bits as all-eager, one phase at a time, in the other mode\n",
            check->mixed_equals_eager ? "ok" : "FAIL");
    fprintf(stream, "  %-4s  serial oracle: %u layer outputs sampled, largest relative error %.2g (limit %.0e",
            check_oracle_held(check) ? "ok" : "FAIL", check->oracle_compared, check->oracle_max_rel_err,
            check->oracle_limit);
    fprintf(stream, check->oracle_skipped ? "; %u left out, where experts tie)\n" : ")\n", check->oracle_skipped);
}

static void print_timeline(const report *run, FILE *stream)
{
    if (!run->timeline_file)
        return;
    fprintf(stream, "Timeline\n  written     %" PRIu64 " events of the first %" PRIu64 " steps to %s\n",
            run->timeline->events, run->timeline->steps, run->timeline_file);
    if (run->timeline->steps_over)
        fprintf(stream, "  left out    %" PRIu64 " later steps (--timeline-steps)\n", run->timeline->steps_over);
    if (run->timeline->lost)
        fprintf(stream, "  lost        %" PRIu64 " spans, for want of room or of times\n", run->timeline->lost);
}

void report_print(const report *run, FILE *stream)
{
    print_what(run, stream);
    print_steps(run, stream);
    print_graphs(run, stream);
    fprintf(stream, "Digests (the same for every mode, bucket list and policy)\n");
    fprintf(stream, "  tokens      %016" PRIx64 "\n", serve_tokens_digest(run->config->load, run->result));
    fprintf(stream, "  states      %016" PRIx64 "\n", serve_states_digest(run->config->load, run->result));
    print_checks(run, stream);
    print_timeline(run, stream);
}
