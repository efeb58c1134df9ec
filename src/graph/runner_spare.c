/* Executables that outlive a reset, so that a capture which only moved parameters need not instantiate.
 *
 * Invariant: a spare executable is never launched before an update made it the new graph's. */
#include <stdlib.h>
#include "graph/runner_int.h"

void epg__runner_drop_spares(epg_runner *runner)
{
    for (uint32_t i = 0; i < runner->spare_count; i++) {
        for (uint32_t s = 0; s < runner->span_count; s++)
            if (runner->spares[i].execs[s])
                epg_exec_destroy(runner->device, runner->spares[i].execs[s]);
        free(runner->spares[i].execs);
    }
    free(runner->spares);
    runner->spares = NULL;
    runner->spare_count = 0;
}

void epg__runner_keep_spares(epg_runner *runner)
{
    epg__runner_drop_spares(runner); /* buckets that were not used since the last reset */
    runner->spares = calloc(runner->entry_count ? runner->entry_count : 1, sizeof *runner->spares);
    for (uint32_t i = 0; runner->spares && i < runner->entry_count; i++) {
        epg__entry *entry = runner->entries[i];
        runner->spares[runner->spare_count++] = (epg__spare){entry->variant, entry->bucket, entry->execs};
        entry->execs = NULL;
    }
}

static epg_exec take_spare(epg_runner *runner, const epg__entry *entry, uint32_t span)
{
    for (uint32_t i = 0; i < runner->spare_count; i++) {
        epg__spare *spare = &runner->spares[i];
        if (spare->variant != entry->variant || spare->bucket != entry->bucket)
            continue;
        epg_exec exec = spare->execs[span];
        spare->execs[span] = NULL;
        return exec;
    }
    return NULL;
}

epg_status epg__runner_make_exec(epg_runner *runner, const epg__entry *entry, uint32_t span, epg_graph graph,
                                 epg_exec *exec)
{
    epg_exec spare = take_spare(runner, entry, span);
    epg__message kept;
    epg__message_keep(&kept);
    if (spare && epg_exec_update(runner->device, spare, graph) == EPG_OK) {
        runner->stats.updates++;
        *exec = spare;
    } else {
        epg_exec_destroy(runner->device, spare);
        epg__message_restore(&kept, EPG_OK); /* that it could not be updated is no failure */
        EPG_TRY(epg_graph_instantiate(runner->device, graph, exec));
    }
    return EPG_OK;
}
