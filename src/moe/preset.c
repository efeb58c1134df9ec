/* Named model shapes: dimensions of published models, and small ones of ours for tests and demonstrations.
 *
 * Not here: weights. A published preset fixes the dimensions of the model's MoE part only. */
#include <string.h>
#include "core/core_int.h"
#include "epgraph/moe.h"

#define SHAPE(layers, hidden, experts, topk, intermediate, vocab, norm) \
    {sizeof(epg_moe_shape), layers, hidden, experts, topk, intermediate, vocab, norm, 0, 1e-6f}

/* Sources: each model's config.json on Hugging Face. DeepSeek-V3 has 61 layers, of which the first three are dense. */
static const epg_preset presets[] = {
    {"tiny", "2 layers, 16 experts, top-4: tests", SHAPE(2, 64, 16, 4, 32, 256, 1), 0},
    {"small", "4 layers, 64 experts, top-8: demonstrations", SHAPE(4, 128, 64, 8, 64, 1024, 1), 0},
    {"wide", "2 layers, 256 small experts, top-8: routing at scale", SHAPE(2, 64, 256, 8, 16, 256, 1), 0},
    {"qwen3-30b-a3b", "Qwen3-30B-A3B", SHAPE(48, 2048, 128, 8, 768, 151936, 1), 1},
    {"qwen3-235b-a22b", "Qwen3-235B-A22B", SHAPE(94, 4096, 128, 8, 1536, 151936, 1), 1},
    {"deepseek-v3", "DeepSeek-V3, its MoE layers", SHAPE(58, 7168, 256, 8, 2048, 129280, 1), 1},
    {"mixtral-8x7b", "Mixtral-8x7B", {sizeof(epg_moe_shape), 32, 4096, 8, 2, 14336, 32000, 1, 0, 1e-5f}, 1},
};

size_t epg_preset_count(void) { return EPG__COUNT_OF(presets); }

const epg_preset *epg_preset_at(size_t index) { return index < EPG__COUNT_OF(presets) ? &presets[index] : NULL; }

const epg_preset *epg_preset_find(const char *name)
{
    for (size_t i = 0; name && i < EPG__COUNT_OF(presets); i++)
        if (strcmp(presets[i].name, name) == 0)
            return &presets[i];
    return NULL;
}
