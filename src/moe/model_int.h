/* The model handle: weights and buffers, all allocated at creation. */
#ifndef EPG_MODEL_INT_H
#define EPG_MODEL_INT_H

#include "device/device_ops.h"
#include "moe/model_ops.h"

/* Device memory, of the model's weight_type but for the norm. */
typedef struct epg__layer_weights {
    float *norm;      /* [hidden] */
    void *router;     /* [experts][hidden] */
    void *gate_up;    /* [local experts][2 * intermediate][hidden]: gate's rows, then up's. NULL, as is the next, */
    void *down;       /* [local experts][hidden][intermediate]         where the caller brings its experts */
} epg__layer_weights;

/* What one lane's work writes between its kernels. Lanes may overlap, so each has its own. */
typedef struct epg__lane_buffers {
    void *stream;       /* [max_tokens][hidden] the residual stream of a step */
    void *normed;       /* [max_tokens][hidden] */
    int32_t *topk_ids;  /* [max_tokens][topk] */
    float *topk_weights;
    void *scratch;      /* of gate and head */
    void *expert_rows;  /* [row_capacity][hidden]; NULL, as is the next, where the caller brings its experts */
    void *workspace;    /* of the experts */
    void *combined;     /* [max_tokens][hidden] */
} epg__lane_buffers;

struct epg_model {
    epg_group *group;
    epg_device *device;
    const epg__model_kernels *kernels; /* of the device's kind */
    void *kernels_state;               /* theirs */
    epg_moe_shape shape;
    epg_group_options limits;       /* the group's */
    uint32_t local_experts, first_expert;
    epg_dtype weight_type;
    epg_experts *experts;           /* NULL where the caller brings its own: */
    epg_experts_fn experts_fn;
    void *experts_ctx;
    epg_model_mark_fn mark;
    void *mark_ctx;
    size_t workspace_bytes;
    epg__layer_weights *layers;
    void *embedding, *head;         /* one and the same where the head is tied */
    float *final_norm;
    epg__lane_buffers *lanes;
    epg_model_buffers buffers;
    void **memory;                  /* every device allocation, for destroy */
    size_t memory_count, memory_room;
};

/* Device memory that lives as long as the model, zeroed. */
epg_status epg__model_alloc(epg_model *model, size_t count, size_t size, void *memory_out);

/* Fills layers, embedding, final_norm and head; shape, limits and weight_type are set. */
epg_status epg__model_load(epg_model *model, const epg_checkpoint *checkpoint);

static inline size_t epg__row_bytes(const epg_model *model)
{
    return (size_t)model->shape.hidden * epg__dtype_bytes(model->limits.row_type);
}

#endif
