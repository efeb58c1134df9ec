/* The table of settings. Whoever creates a handle reads the ones it needs, once. */
#include <errno.h>
#include <stdlib.h>
#include "core/core_int.h"

static const struct {
    const char *name, *default_value, *help;
} table[EPG__SETTING_COUNT] = {
    [EPG__SETTING_TIMEOUT_MS] = {"EPGRAPH_TIMEOUT_MS", "30000",
                                 "deadline of every wait on another rank, in milliseconds"},
    [EPG__SETTING_LL_MAX_TOKENS] = {"EPGRAPH_LL_MAX_TOKENS", "128",
                                    "largest bucket for which the automatic mode takes low-latency kernels"},
    [EPG__SETTING_WARMUPS] = {"EPGRAPH_WARMUPS", "2", "rehearsals of a step before its capture"},
    [EPG__SETTING_SPIN] = {"EPGRAPH_SPIN", "64", "polls of a signal on the host device before the waiter sleeps"},
};

static const char *value_of(size_t index)
{
    const char *value = getenv(table[index].name);
    return value && *value ? value : table[index].default_value;
}

size_t epg_setting_count(void) { return EPG__SETTING_COUNT; }

epg_status epg_setting_get(size_t index, epg_setting_info *info)
{
    if (!info)
        return epg__fail(EPG_ERR_INVALID, "info is NULL");
    if (index >= EPG__SETTING_COUNT)
        return epg__fail(EPG_ERR_INVALID, "setting index %zu is not below %d", index, (int)EPG__SETTING_COUNT);
    *info = (epg_setting_info){table[index].name, table[index].default_value, table[index].help, value_of(index)};
    return EPG_OK;
}

epg_status epg__setting_integer(epg__setting setting, long long least, long long most, long long *value)
{
    const char *text = value_of(setting);
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (errno || end == text || *end)
        return epg__fail(EPG_ERR_INVALID, "%s is \"%s\", which is not a whole number", table[setting].name, text);
    if (number < least || number > most)
        return epg__fail(EPG_ERR_INVALID, "%s is %lld, outside %lld..%lld", table[setting].name, number, least, most);
    *value = number;
    return EPG_OK;
}
