/* Runtimes that have a current stream and cannot be set from here. They are looked for all the same, so that a scope
 * never passes one over in silence. */
#include "scope/scope_ops.h"

static epg_status no_interface(epg__scope_found *found)
{
    return epg__fail(EPG_ERR_UNSUPPORTED, "loaded, and this version cannot set it; add a runtime named \"%s\"",
                     found->name);
}

/* Never called: scope.c sets what was found to be settable, and nothing here is. */
static epg_status set(const epg__scope_found *found, int ordinal, epg_stream stream, epg__scope_saved *saved)
{
    (void)ordinal, (void)stream, (void)saved;
    return epg__fail(EPG_ERR_UNSUPPORTED, "%s cannot be set", found->name);
}

static epg_status restore(const epg__scope_found *found, int ordinal, const epg__scope_saved *saved)
{
    (void)ordinal, (void)saved;
    return epg__fail(EPG_ERR_UNSUPPORTED, "%s cannot be set", found->name);
}

const epg__scope_ops epg__scope_warp = {
    .name = "Warp", .file = "warp/bin/warp.so", .find = no_interface, .set = set, .restore = restore};
