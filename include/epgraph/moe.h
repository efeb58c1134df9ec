/* The MoE part of a model: checkpoints, and layers that run on a group.
 *
 * A model here is: embedding, then per layer h += experts(route(norm(h))), then a final norm, the head and an argmax.
 * Attention stays with the engine. Every kernel is batch-invariant: a token's bits depend on its input alone, not on
 * its bucket, its neighbours or its position in the batch. */
#ifndef EPGRAPH_MOE_H
#define EPGRAPH_MOE_H

#include <stddef.h>
#include <stdint.h>
#include "epgraph/experts.h"
#include "epgraph/group.h"
#include "epgraph/runner.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- shapes ---- */

typedef struct epg_moe_shape {
    uint32_t size;
    uint32_t layers;
    uint32_t hidden;
    uint32_t experts;
    uint32_t topk;
    uint32_t intermediate;     /* of one expert */
    uint32_t vocab;
    uint32_t norm_topk_prob;   /* 1: the top-k probabilities are scaled to sum 1 */
    uint32_t tied_head;        /* 1: the head is the embedding */
    float norm_eps;
} epg_moe_shape;
#define EPG_MOE_SHAPE_INIT {sizeof(epg_moe_shape), 0, 0, 0, 0, 0, 0, 1, 0, 1e-6f}

typedef struct epg_preset {
    const char *name;          /* "qwen3-30b-a3b" */
    const char *about;         /* one line */
    epg_moe_shape shape;
    int published;             /* 1: dimensions of a published model; 0: a small one of ours */
} epg_preset;
EPG_API size_t epg_preset_count(void);
EPG_API const epg_preset *epg_preset_at(size_t index);          /* NULL beyond the end */
EPG_API const epg_preset *epg_preset_find(const char *name);    /* NULL if there is none */

/* ---- checkpoints: Hugging Face layout of Qwen3-MoE, config.json plus safetensors (one file, or shards with an
 * index) ---- */

typedef struct epg_checkpoint epg_checkpoint;
typedef enum epg_tensor_type { EPG_TENSOR_F32 = 0, EPG_TENSOR_BF16 = 1, EPG_TENSOR_F16 = 2 } epg_tensor_type;

/* Opens a directory, maps its files and checks every header, without reading tensors. Every error names the file and
 * the key or tensor. Thread-safe once open. */
EPG_API epg_status epg_checkpoint_open(const char *directory, epg_checkpoint **checkpoint);
EPG_API void epg_checkpoint_close(epg_checkpoint *checkpoint);
EPG_API epg_status epg_checkpoint_shape(const epg_checkpoint *checkpoint, epg_moe_shape *shape);
EPG_API epg_tensor_type epg_checkpoint_type(const epg_checkpoint *checkpoint); /* of the experts */

/* Copies rows first_row .. first_row+rows-1 of a two-dimensional tensor (a vector counts as one row) as float32 to
 * out[rows][columns]. EPG_ERR_NOT_FOUND, EPG_ERR_FORMAT (another shape). */
EPG_API epg_status epg_checkpoint_read(const epg_checkpoint *checkpoint, const char *tensor, uint64_t first_row,
                                       uint64_t rows, uint64_t columns, float *out);

typedef struct epg_checkpoint_write_options {
    uint32_t size;
    epg_moe_shape shape;
    epg_tensor_type type;
    uint64_t seed;
    uint64_t shard_bytes;      /* most tensor bytes per file; 0: one file */
    void (*progress)(void *ctx, uint64_t done, uint64_t all);  /* bytes; may be NULL */
    void *progress_ctx;
} epg_checkpoint_write_options;
#define EPG_CHECKPOINT_WRITE_OPTIONS_INIT \
    {sizeof(epg_checkpoint_write_options), EPG_MOE_SHAPE_INIT, EPG_TENSOR_F32, 1, 0, NULL, NULL}

/* Writes a random checkpoint whose activations stay in range (weights scaled by 1/sqrt(fan-in)); the directory is made
 * if its parent exists. The same options give the same bytes. A file that cannot be written whole is removed. */
EPG_API epg_status epg_checkpoint_write(const char *directory, const epg_checkpoint_write_options *options);

/* ---- the model on one rank ---- */

typedef struct epg_model epg_model;

/* What a step's stream works at. The phases of a step follow one another without a gap. */
typedef enum epg_model_phase {
    EPG_MODEL_EMBED = 0,
    EPG_MODEL_NORM = 1,
    EPG_MODEL_GATE = 2,
    EPG_MODEL_DISPATCH = 3,
    EPG_MODEL_EXPERTS = 4,
    EPG_MODEL_COMBINE = 5,
    EPG_MODEL_ADD = 6,         /* the layer's output to its input */
    EPG_MODEL_HEAD = 7,        /* the final norm; head and argmax where they are asked for */
    EPG_MODEL_END = 8          /* all is enqueued */
} epg_model_phase;

/* Called while a step is enqueued, ahead of each phase (which ends the one before) and at the end, so that a caller
 * puts timestamps there, say: what it enqueues on `stream` is part of the step, and captured with it. `layer` counts
 * from 0; it is 0 for EMBED and the number of layers for HEAD and END. A failure ends the step and is returned.
 *
 * A step makes EPG_MODEL_MARKS(layers) of these calls, the same in the same order each time; epg_model_layer those of
 * its layer, and END with its own number. */
typedef epg_status (*epg_model_mark_fn)(void *ctx, uint32_t layer, epg_model_phase phase, epg_stream stream);
#define EPG_MODEL_MARKS(layers) (6 * (layers) + 3)

typedef struct epg_model_options {
    uint32_t size;
    int keep_states;           /* 1: keep every layer's input and the last one's output (states) */
    epg_experts_fn experts;    /* the caller's own experts, called with the layer's index to enqueue them; no expert of
                                  the checkpoint is loaded then. NULL: the checkpoint's */
    void *experts_ctx;
    epg_model_mark_fn mark;    /* NULL: nothing is called, nothing is enqueued for it */
    void *mark_ctx;
} epg_model_options;
#define EPG_MODEL_OPTIONS_INIT {sizeof(epg_model_options), 0, NULL, NULL, NULL, NULL}

/* Loads what this rank needs: its own experts (and no other's bytes), router, norms, embedding and head. The group's
 * experts, hidden and topk must be the checkpoint's (EPG_ERR_MISMATCH). A tensor missing, misshapen, mistyped or all
 * zero is an error by name. The model uses the group's device; destroy it before the group. On the host device weights
 * are kept as float32, and OpenBLAS is set to one thread, process-wide: its threads would change the bits. On the
 * CUDA device they are kept as bf16 where both the checkpoint and the group's rows are bf16, else as float32, for which
 * there are kernels without tensor cores alone. `options` may be NULL. */
EPG_API epg_status epg_model_create(epg_group *group, const epg_checkpoint *checkpoint,
                                    const epg_model_options *options, epg_model **model);
EPG_API void epg_model_destroy(epg_model *model);

/* Device buffers, fixed for the model's lifetime. */
typedef struct epg_model_buffers {
    uint32_t size;
    uint32_t *tokens;          /* [1] in: how many of ids are real */
    int32_t *ids;              /* [max_tokens] in: token ids, 0..vocab-1; another is taken as 0 and counted */
    int32_t *next_ids;         /* [max_tokens] out: argmax of the head, ties to the lower id */
    void *hidden;              /* [max_tokens][hidden] out: final hidden state, after the final norm, row type */
    void *states;              /* keep_states: [layers + 1][max_tokens][hidden], inputs then last output; else NULL */
    uint32_t *bad_ids;         /* [1] token ids out of range so far */
} epg_model_buffers;
#define EPG_MODEL_BUFFERS_INIT {sizeof(epg_model_buffers), NULL, NULL, NULL, NULL, NULL, NULL}
EPG_API epg_status epg_model_get_buffers(epg_model *model, epg_model_buffers *buffers);

/* Enqueues one whole step for up to `bucket` tokens: embedding, layers (one pair each, in `lane`), final norm, head,
 * argmax. May run during capture. head 0 leaves next_ids alone (a prefill chunk that is not the prompt's last needs
 * none). */
typedef struct epg_model_step_args {
    uint32_t size;
    uint32_t bucket;
    uint32_t lane;
    epg_mode mode;
    int head;
    epg_stream stream;
} epg_model_step_args;
#define EPG_MODEL_STEP_ARGS_INIT {sizeof(epg_model_step_args), 0, 0, EPG_MODE_AUTO, 1, NULL}
EPG_API epg_status epg_model_step(epg_model *model, const epg_model_step_args *args);

/* One layer: out = in + combine(experts(dispatch(norm(in)))); in and out are [bucket][hidden], row type, and may be
 * the same; on the CUDA device they are aligned to 16 bytes. May run during capture. */
EPG_API epg_status epg_model_layer(epg_model *model, uint32_t layer, const uint32_t *tokens, const void *in, void *out,
                                   const epg_model_step_args *args);

/* The serial reference of one layer for one token, in double precision, straight from the checkpoint; shares no code
 * with the kernels. in and out are [hidden]. Slow. gap, where not NULL, gets the difference between the last chosen
 * and the first rejected router probability, relative to the former: near 0 the choice itself is a matter of
 * rounding. */
EPG_API epg_status epg_reference_layer(const epg_checkpoint *checkpoint, uint32_t layer, const float *in, float *out,
                                       double *gap);

#ifdef __cplusplus
}
#endif
#endif
