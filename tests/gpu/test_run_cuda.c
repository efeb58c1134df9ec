/* `epgraph run --device cuda`: virtual ranks that share the GPU serve a workload, and every check of --check holds: in
 * both row types, in every mode and policy, captured and eager. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "support/command.h"
#include "support/device_under_test.h"

static void checks_hold(void **state, const char *arguments)
{
    char command[256];
    snprintf(command, sizeof command, "run --device cuda --model @/model --requests 16 --check %s", arguments);
    outcome o = run(state, command);
    if (o.code != 0 || !strstr(o.text, "ok    replay gives the same bits") ||
        !strstr(o.text, "ok    mixed gives the same bits") || !strstr(o.text, "ok    serial oracle") ||
        !strstr(o.text, "on cuda 0: "))
        fail_msg("epgraph %s: exit code %d\n%s", command, o.code, o.text);
}

static void bf16_on_eight_ranks(void **state)
{
    expect(state, "model @/model --preset small --type bf16", 0, NULL);
    checks_hold(state, "--ranks 8");
    checks_hold(state, "--ranks 8 --mode ht --policy one-phase --chunk 32");
    checks_hold(state, "--ranks 2 --eager --mode ll --buckets 1,3,40 --timeline @/timeline.json");
    checks_hold(state, "--ranks 1");
}

static void float32_on_four_ranks(void **state)
{
    expect(state, "model @/model --preset tiny", 0, NULL);
    checks_hold(state, "--ranks 4");
    checks_hold(state, "--ranks 1 --mode ht");
}

/* Rows are bf16, weights float32 on the device; no width suits a tile. */
static void f16_and_odd_widths(void **state)
{
    expect(state, "model @/model --layers 3 --hidden 72 --intermediate 20 --experts 12 --topk 3 --vocab 99 --type f16",
           0, NULL);
    checks_hold(state, "--ranks 3");
}

static void odd_widths_on_tensor_cores(void **state)
{
    expect(state,
           "model @/model --layers 2 --hidden 328 --intermediate 136 --experts 6 --topk 2 --vocab 1001 --type bf16", 0,
           NULL);
    checks_hold(state, "--ranks 2");
}

#define T(name) cmocka_unit_test_setup_teardown(name, make_directory, remove_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(bf16_on_eight_ranks), T(float32_on_four_ranks), T(f16_and_odd_widths), T(odd_widths_on_tensor_cores),
    };
    if (test_gpu_missing())
        return 77;
    if (test_device_serial()) {
        puts("ranks wait for one another: their streams must run at once");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
