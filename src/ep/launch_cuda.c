/* How the general kernels of dispatch and combine are launched. */
#include "ep/lane_cuda_int.h"

epg_status epg__cuda_launch_table(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                  const void *kernel, const char *name, uint32_t blocks, uint32_t threads,
                                  epg__cuda_table table, epg__cuda_params *params)
{
    size_t bytes = (size_t)table.rows * table.columns * sizeof(uint32_t);
    uint32_t shared = bytes <= EPG_CUDA_TABLE_BYTES ? (uint32_t)bytes : 0;
    epg__cuda_launch launch = {kernel, name, {blocks, 1, 1}, threads, shared, shape->dependent};
    params->shared_words = launch.shared_bytes / 4;
    return epg__cuda_launch_kernel(device, stream, &launch, params);
}

uint32_t epg__cuda_block_for(uint64_t threads, uint32_t least)
{
    threads = (threads + 31) / 32 * 32;
    return threads < least ? least : threads > EPG_CUDA_BLOCK ? EPG_CUDA_BLOCK : (uint32_t)threads;
}

/* Few rows are worked on in as many parts as make an item for each of 32 warps on every multiprocessor, many in as many
 * as a kernel asks for. Where `rows` is what may come, often far more than what does, there are no more blocks than a
 * device holds at once; ranks that share it together have twice that many. */
epg_status epg__cuda_launch_rows(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                 const epg__cuda_rows *rows, epg__cuda_params *params)
{
    enum { BLOCK = 256, PIECES = 64 }; /* threads; pieces that a warp should have at least */
    uint32_t pieces = (uint32_t)(rows->bytes / 16), parts = 1;
    uint64_t most = shape->units * rows->per_unit;
    if (shape->sharing > 2)
        most = (most * 2 + shape->sharing - 1) / shape->sharing;
    while (parts < rows->parts && rows->rows * parts * 2 <= (uint64_t)shape->units * 32 &&
           pieces / (parts * 2) >= PIECES)
        parts *= 2;
    if (rows->at_once && parts * rows->at_once < pieces)
        parts = (pieces + rows->at_once - 1) / rows->at_once;
    params->parts = parts;
    uint64_t blocks = (rows->rows * parts + BLOCK / 32 - 1) / (BLOCK / 32);
    if (rows->per_unit && blocks > most)
        blocks = most;
    epg__cuda_launch launch = {rows->kernel, rows->name, {(uint32_t)blocks, 1, 1}, BLOCK, 0, shape->dependent};
    return epg__cuda_launch_kernel(device, stream, &launch, params);
}

/* Few tokens are worked on in more parts, until each multiprocessor has one; blocks of less than 112 threads cost more
 * to begin than what they save. */
epg_status epg__cuda_launch_tokens(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                   const epg__cuda_tokens *tokens, epg__cuda_params *params)
{
    enum { LEAST = 112 };
    uint32_t units = (tokens->pieces + tokens->unit - 1) / tokens->unit, bucket = params->user.bucket;
    uint32_t parts = shape->units / (bucket ? bucket : 1), most = tokens->pieces / LEAST, least = 1;
    if (tokens->per_thread)
        least = (tokens->pieces + EPG_CUDA_BLOCK * tokens->per_thread - 1) / (EPG_CUDA_BLOCK * tokens->per_thread);
    parts = parts < most ? parts : most;
    params->parts = parts > least ? parts : least;
    uint32_t each = (units + params->parts - 1) / params->parts * tokens->unit;
    uint32_t rounds = (each + EPG_CUDA_BLOCK - 1) / EPG_CUDA_BLOCK;
    uint32_t block = ((each + rounds - 1) / rounds + 31) / 32 * 32;
    uint32_t blocks = (bucket ? bucket : 1) * params->parts + tokens->more;
    epg__cuda_launch launch = {tokens->kernel, tokens->name, {blocks, 1, 1}, block, 0, shape->dependent};
    return epg__cuda_launch_kernel(device, stream, &launch, params);
}
