/* What kernels for few tokens share. Choices are looked at by every block for itself: a warp at a time, a token in as
 * many lanes as topk, rounded up to a power of two. That is faster for some hundred choices than to have one block look
 * and tell the others. */
#ifndef EPG_FEW_CUDA_CUH
#define EPG_FEW_CUDA_CUH

#include "ep/lane_cuda_int.cuh"

/* This thread's place in a step of its warp. */
typedef struct epg__step {
    uint32_t width, tokens; /* lanes of a token; tokens of a step */
    uint32_t token, k;      /* within the step; the choice */
} epg__step;

static __device__ inline epg__step epg__step_of(uint32_t topk)
{
    uint32_t shift = topk > 1 ? 32 - __clz(topk - 1) : 0, lane = epg__lane_id();
    epg__step step = {1u << shift, 32u >> shift, lane >> shift, lane & ((1u << shift) - 1)};
    return step;
}

/* Choice i of all steps, as the caller gave it: -1 where there is none, -2 where it is out of range. */
static __device__ inline int32_t epg__choice_at(const epg__cuda_params &p, const epg__step &at, uint32_t i)
{
    uint32_t token = (i >> 5) * at.tokens + at.token, topk = p.lane.wire.geometry.topk;
    if (token >= p.user.bucket || at.k >= topk)
        return -1;
    int64_t id = epg__id_at(p.user, token * topk + at.k);
    return id < -1 || id >= p.lane.wire.geometry.logical_experts ? -2 : (int32_t)id;
}

/* The whole warp: a choice's physical expert; -1: none; -2: out of range, or chosen by this token before. */
static __device__ inline int32_t epg__expert_of(const epg_wire_geometry &g, const epg__step &at, const int32_t *map,
                                                int32_t choice)
{
    int32_t expert = choice >= 0 ? map[choice] : choice;
    if (expert < -1 || expert >= (int32_t)g.experts)
        expert = -2;
    bool again = false;
    for (uint32_t back = 1; back < at.width; back++) /* a match over the warp takes longer */
        again |= __shfl_up_sync(0xFFFFFFFFu, expert, back) == expert && at.k >= back;
    return expert >= 0 && again ? -2 : expert;
}

/* What the view says of all experts. */
typedef struct epg__few_sums {
    uint32_t end, kept, wanted; /* the last offset; rows placed; rows that came */
} epg__few_sums;

#define EPG_FEW_ALIGN (1u << 16) /* row_align at most: the sum of all aligned counts is then far below 2^32 */

/* One warp: where each expert's rows begin, cut to what fits. In all[e] the low half is a count and becomes what is
 * kept; the high half is the caller's. With `sums`, they are what all lanes get. As place_experts in
 * dispatch_recv_cuda.cu. */
static __device__ inline epg__few_sums epg__place_few(const epg__cuda_lane &l, bool sums, uint32_t *all,
                                                      uint32_t *offsets)
{
    uint32_t lane = epg__lane_id(), base = 0;
    epg__few_sums s = {0, 0, 0};
    for (uint32_t first = 0; first < l.local_experts; first += 32) {
        uint32_t e = first + lane, both = e < l.local_experts ? all[e] : 0, count = both & 0xFFFFu;
        uint32_t at = e * l.rows_per_expert, room = l.rows_per_expert;
        if (l.layout != EPG_LAYOUT_MASKED) {
            uint32_t rounded = (count + l.row_align - 1) & ~(l.row_align - 1), sum = epg__sum_lanes(rounded);
            at = base + sum - rounded < l.row_capacity ? base + sum - rounded : l.row_capacity;
            base += __shfl_sync(0xFFFFFFFFu, sum, 31);
            room = l.row_capacity - at;
        }
        uint32_t kept = count < room ? count : room;
        if (e < l.local_experts) {
            offsets[e] = at;
            all[e] = (both & 0xFFFF0000u) | kept;
        }
        if (!sums)
            continue;
        s.end = __shfl_sync(0xFFFFFFFFu, at + kept, (l.local_experts - 1 - first) & 31);
        s.kept += __reduce_add_sync(0xFFFFFFFFu, kept);
        s.wanted += __reduce_add_sync(0xFFFFFFFFu, count);
    }
    if (l.layout == EPG_LAYOUT_MASKED)
        s.end = l.row_capacity;
    return s;
}

/* A signal to this rank itself, whose reader is behind it in the stream. */
static __device__ inline void epg__leave_signal(const epg__cuda_lane &l, uint32_t epoch, uint32_t kind, uint32_t count)
{
    epg__signal_leave(epg__signal_at(&l.wire, epg__own_lane(l), kind, epoch & 1, 0),
                      epg__signal_make(epoch, l.incarnation, count, 0));
}

#endif
