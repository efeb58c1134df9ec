/* How a warp stores the metas of a token: all of them at once, in pieces of 16 bytes by lanes that are neighbours, so
 * that what goes to memory is whole sectors of 32 bytes, padding included. Sectors of which a part is stored must be
 * read first. */
#ifndef EPG_META_CUDA_CUH
#define EPG_META_CUDA_CUH

#include "ep/lane_cuda_int.cuh"

/* A warp's own shared memory: the routes of a token, by destination. */
typedef struct epg__sorted_routes {
    epg_wire_route route[EPG_TOPK_MAX];
} epg__sorted_routes;

/* Piece `i` of the meta whose routes are these. */
static __device__ inline epg__piece epg__meta_piece(uint32_t token, const epg_wire_route *routes, uint32_t count,
                                                    uint32_t i)
{
    epg__piece piece = make_uint4(token, count, 0, 0);
    if (i > 0) {
        epg_wire_route before = {0, 0};
        if (2 * i - 1 < count)
            before = routes[2 * i - 1];
        piece.x = before.expert;
        piece.y = __float_as_uint(before.weight);
    }
    if (2 * i < count) {
        piece.z = routes[2 * i].expert;
        piece.w = __float_as_uint(routes[2 * i].weight);
    }
    return piece;
}

/* One warp: the metas of a token at the ranks of the lanes in `members`, each at its lane's `to`; NULL ones are left
 * out. `expert` and `weight`: of the token's choice number lane, EPG_WIRE_NONE for none. */
static __device__ inline void epg__send_metas(const epg__cuda_lane &l, uint32_t token, uint32_t members, uint32_t rank,
                                              char *to, uint32_t expert, float weight, epg__sorted_routes *sorted)
{
    uint32_t lane = epg__lane_id(), pieces = (uint32_t)(l.wire.meta_bytes / 16), count = 0, end = 0;
    uint32_t owner = expert == EPG_WIRE_NONE ? EPG_WIRE_NONE : expert / l.local_experts;
    uint32_t who = 0, begin = 0, routes = 0; /* of the member whose number is the lane's */
    epg_wire_route route = {expert % l.local_experts, weight};
    __syncwarp();
    for (uint32_t left = members; left; left &= left - 1, count++) {
        uint32_t member = __ffs(left) - 1;
        bool mine = owner == __shfl_sync(0xFFFFFFFFu, rank, member);
        uint32_t votes = __ballot_sync(0xFFFFFFFFu, mine);
        if (mine)
            sorted->route[end + __popc(votes & ((1u << lane) - 1))] = route;
        if (lane == count) {
            who = member;
            begin = end;
            routes = __popc(votes);
        }
        end += __popc(votes);
    }
    __syncwarp();
    uint32_t shift = 32 - __clz(pieces - 1), piece = lane & ((1u << shift) - 1); /* lanes of a meta: 2^shift */
    for (uint32_t i = lane >> shift; i - (lane >> shift) < count; i += 32 >> shift) {
        uint32_t first = __shfl_sync(0xFFFFFFFFu, begin, i & 31), n = __shfl_sync(0xFFFFFFFFu, routes, i & 31);
        epg__piece *meta = (epg__piece *)epg__pointer_of(to, __shfl_sync(0xFFFFFFFFu, who, i & 31));
        if (i < count && meta && piece < pieces)
            meta[piece] = epg__meta_piece(token, sorted->route + first, n, piece);
    }
}

#endif
