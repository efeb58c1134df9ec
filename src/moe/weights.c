/* Which tensors a model has, what they are called and how large they are. Written once for writer and loader. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "core/core_int.h"
#include "moe/checkpoint_int.h"

static void describe(epg__weight_info *info, uint64_t rows, uint64_t columns)
{
    info->rows = rows;
    info->columns = columns;
    info->vector = 0;
}

void epg__weight_describe(const epg_moe_shape *shape, epg__weight weight, uint32_t layer, uint32_t expert,
                          epg__weight_info *info)
{
    static const char *const parts[] = {[EPG__WEIGHT_GATE] = "gate", [EPG__WEIGHT_UP] = "up",
                                        [EPG__WEIGHT_DOWN] = "down"};
    size_t room = sizeof info->name;
    switch (weight) {
    case EPG__WEIGHT_EMBEDDING:
        snprintf(info->name, room, "model.embed_tokens.weight");
        describe(info, shape->vocab, shape->hidden);
        break;
    case EPG__WEIGHT_LAYER_NORM:
        snprintf(info->name, room, "model.layers.%u.post_attention_layernorm.weight", layer);
        describe(info, 1, shape->hidden);
        info->vector = 1;
        break;
    case EPG__WEIGHT_ROUTER:
        snprintf(info->name, room, "model.layers.%u.mlp.gate.weight", layer);
        describe(info, shape->experts, shape->hidden);
        break;
    case EPG__WEIGHT_GATE:
    case EPG__WEIGHT_UP:
    case EPG__WEIGHT_DOWN:
        snprintf(info->name, room, "model.layers.%u.mlp.experts.%u.%s_proj.weight", layer, expert, parts[weight]);
        if (weight == EPG__WEIGHT_DOWN)
            describe(info, shape->hidden, shape->intermediate);
        else
            describe(info, shape->intermediate, shape->hidden);
        break;
    case EPG__WEIGHT_FINAL_NORM:
        snprintf(info->name, room, "model.norm.weight");
        describe(info, 1, shape->hidden);
        info->vector = 1;
        break;
    case EPG__WEIGHT_HEAD:
        snprintf(info->name, room, "lm_head.weight");
        describe(info, shape->vocab, shape->hidden);
        break;
    }
}
