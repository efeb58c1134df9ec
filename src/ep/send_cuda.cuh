/* What the kernels that send the rows of many tokens share, whichever way they move them: where a token's row goes, its
 * meta, and the signals at the end. */
#ifndef EPG_SEND_CUDA_CUH
#define EPG_SEND_CUDA_CUH

#include "ep/rows_cuda.cuh"

/* One warp: the meta of a share. `expert` is the token's choice number lane. */
static __device__ inline void epg__send_meta(const epg__cuda_params &p, uint32_t token, epg__share share,
                                             uint32_t epoch, uint32_t expert, float weight)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t lane = epg__lane_id();
    bool mine = expert != EPG_WIRE_NONE && expert / l.local_experts == share.rank;
    uint32_t votes = __ballot_sync(0xFFFFFFFFu, mine);
    size_t index = epg__slot_index(&l.wire, epoch & 1, l.rank, share.slot);
    epg_wire_meta *meta = epg__meta_at(&l.wire, epg__peer_lane(l, share.rank), index);
    if (mine) {
        epg_wire_route r = {expert % l.local_experts, weight};
        epg__routes_of(meta)[__popc(votes & ((1u << lane) - 1))] = r;
    }
    if (lane == 0) {
        epg_wire_meta head = {token, (uint32_t)__popc(votes)};
        *meta = head;
    }
}

/* One warp: the places of a token's row, in lanes 0 .. count - 1, NULL where one has no slot. `metas`: stores the metas
 * too. */
static __device__ inline char *epg__address_token(const epg__cuda_params &p, uint32_t token, uint32_t epoch,
                                                  uint32_t count, bool metas)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t lane = epg__lane_id(), topk = l.wire.geometry.topk, expert = EPG_WIRE_NONE;
    epg__share share = {0, EPG_WIRE_NONE};
    float weight = 1;
    char *to = NULL;
    if (lane < l.fan)
        share = l.shares[(size_t)token * l.fan + lane];
    if (metas && lane < topk) {
        expert = l.chosen[(size_t)token * topk + lane];
        if (p.user.topk_weights)
            weight = p.user.topk_weights[(size_t)token * topk + lane];
    }
    if (lane < count && share.slot != EPG_WIRE_NONE)
        to = epg__row_at(&l.wire, epg__peer_lane(l, share.rank),
                         epg__slot_index(&l.wire, epoch & 1, l.rank, share.slot));
    for (uint32_t i = 0; metas && i < count; i++) {
        epg__share there = {__shfl_sync(0xFFFFFFFFu, share.rank, i), __shfl_sync(0xFFFFFFFFu, share.slot, i)};
        if (there.slot != EPG_WIRE_NONE)
            epg__send_meta(p, token, there, epoch, expert, weight);
    }
    return to;
}

/* The whole block, once its rows are stored: the last block signals every live rank. */
static __device__ inline void epg__signal_sent(const epg__cuda_lane &l, uint32_t epoch)
{
    if (!epg__block_done(l.done, gridDim.x))
        return;
    for (uint32_t r = threadIdx.x; r < l.ranks; r += blockDim.x)
        if (epg__rank_alive(l, r) || epg__is_invited(l, r, epoch))
            epg__send_signal(l, epoch, EPG_WIRE_DISPATCH, r, l.sent[r], false);
}

#endif
