/* The model handle: weights and buffers, all allocated at creation. */
#ifndef EPG_MODEL_INT_H
#define EPG_MODEL_INT_H

#include "epgraph/moe.h"
#include "moe/kernels_int.h"

typedef struct epg__layer_weights {
    float *norm;      /* [hidden] */
    float *router;    /* [experts][hidden] */
    float *gate_up;   /* [local experts][2 * intermediate][hidden]: gate's rows, then up's */
    float *down;      /* [local experts][hidden][intermediate] */
} epg__layer_weights;

/* What one lane's work writes between its kernels. Lanes may overlap, so each has its own. */
typedef struct epg__lane_buffers {
    void *stream;       /* [max_tokens][hidden] the residual stream of a step */
    void *normed;       /* [max_tokens][hidden] */
    int32_t *topk_ids;  /* [max_tokens][topk] */
    float *topk_weights;
    void *expert_rows;  /* [row_capacity][hidden] */
    void *combined;     /* [max_tokens][hidden] */
    epg__blocks blocks;
} epg__lane_buffers;

struct epg_model {
    epg_group *group;
    epg_device *device;
    epg_moe_shape shape;
    epg_group_options limits;       /* the group's */
    uint32_t local_experts, first_expert;
    epg__layer_weights *layers;
    float *embedding, *final_norm, *head;
    epg__gemm gemm_router, gemm_up, gemm_down, gemm_head;
    epg__lane_buffers *lanes;
    epg_model_buffers buffers;
    void **memory;                  /* every device allocation, for destroy */
    size_t memory_count, memory_room;
};

/* Device memory that lives as long as the model, zeroed. */
epg_status epg__model_alloc(epg_model *model, size_t count, size_t size, void *memory_out);

/* Fills layers, embedding, final_norm and head; shape and limits are set. */
epg_status epg__model_load(epg_model *model, const epg_checkpoint *checkpoint);

static inline size_t epg__row_bytes(const epg_model *model)
{
    return (size_t)model->shape.hidden * (model->limits.row_type == EPG_FLOAT32 ? 4 : 2);
}

#endif
