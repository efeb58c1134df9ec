/* Rows that do not travel as the caller has them: bf16 that is quantised to fp8 on the way, and rows that come with
 * scales; and where the scales of a received row go.
 *
 * The bits are the host's (quantise_host.c, place_scales in dispatch_host.c). */
#ifndef EPG_ROWS_CUDA_CUH
#define EPG_ROWS_CUDA_CUH

#include "core/number_int.h"
#include "ep/lane_cuda_int.cuh"
#include "ep/quantise_int.h"

/* What dispatch send does to a row; a template's parameter, so that none pays for the others. */
enum {
    EPG__ROWS_PLAIN,     /* copied */
    EPG__ROWS_QUANTISED, /* bf16 in, fp8 and scales out */
    EPG__ROWS_GIVEN      /* payload and scales from two places, each padded */
};

/* Bytes of a row as the caller has it, each part padded. */
static inline size_t epg__row_input_bytes(const epg__cuda_params *params, int form)
{
    const epg_wire_layout *w = &params->lane.wire;
    return form == EPG__ROWS_QUANTISED ? w->geometry.hidden * (size_t)2 : w->payload_bytes + w->scale_bytes;
}

static inline int epg__row_form(const epg__cuda_params *params)
{
    const epg_wire_layout *w = &params->lane.wire;
    if (w->geometry.row_type == EPG_FLOAT8_E4M3 && params->user.input_type == EPG_BFLOAT16)
        return EPG__ROWS_QUANTISED;
    return w->row_bytes == w->geometry.row_bytes ? EPG__ROWS_PLAIN : EPG__ROWS_GIVEN;
}

/* ---- rows that are given ---- */

/* 16 bytes, of which the first `left` are there and the others are 0. */
static __device__ inline epg__piece epg__load_padded(const char *from, size_t left)
{
    uint32_t word[4] = {0, 0, 0, 0};
    if (left >= 16 && (uintptr_t)from % 16 == 0)
        return *(const epg__piece *)from;
    if (left % 4 == 0 && (uintptr_t)from % 4 == 0) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i * 4 < left)
                word[i] = ((const uint32_t *)from)[i];
    } else {
#pragma unroll
        for (int i = 0; i < 16; i++)
            if (i < left)
                word[i / 4] |= (uint32_t)(uint8_t)from[i] << i % 4 * 8;
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
}

/* Piece `i` of a token's row as it travels. */
static __device__ inline epg__piece epg__given_piece(const epg__cuda_params &p, uint32_t token, uint32_t i)
{
    const epg_wire_layout &w = p.lane.wire;
    const char *from = (const char *)p.user.rows;
    size_t at = (size_t)i * 16, bytes = w.geometry.row_bytes;
    if (at >= w.payload_bytes) {
        from = (const char *)p.user.scales;
        at -= w.payload_bytes;
        bytes = w.geometry.scale_bytes;
    }
    return epg__load_padded(from + token * bytes + at, bytes - at);
}

/* One warp: stores a token's row at the places of lanes 0 .. count - 1, NULL ones left out. */
static __device__ inline void epg__send_given(const epg__cuda_params &p, uint32_t token, char *to, uint32_t count,
                                              epg__span span)
{
    for (uint32_t at = span.first + epg__lane_id(); at - epg__lane_id() < span.end; at += 32) {
        epg__piece piece = make_uint4(0, 0, 0, 0);
        if (at < span.end)
            piece = epg__given_piece(p, token, at);
        for (uint32_t i = 0; i < count; i++) {
            epg__piece *row = (epg__piece *)epg__pointer_of(to, i);
            if (row && at < span.end)
                row[at] = piece;
        }
    }
}

/* ---- quantising ---- */

static __device__ inline uint32_t epg__to_e4m3(float low, float high)
{
#if __CUDA_ARCH__ >= 890
    uint16_t pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return (uint32_t)epg__float_to_e4m3(high) << 8 | epg__float_to_e4m3(low);
#endif
}

/* Of two pairs of bf16 without sign, each side by side in a word, the larger ones. A NaN counts against NaN alone. */
static __device__ inline uint32_t epg__larger(uint32_t a, uint32_t b)
{
    uint32_t larger;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
    return larger;
}

/* The largest elements of two pieces, without their signs: the first's in the lower half. */
static __device__ inline uint32_t epg__largest_of(const epg__piece &first, const epg__piece &second)
{
    const uint32_t size = 0x7FFF7FFFu;
    uint32_t a = epg__larger(epg__larger(first.x & size, first.y & size), epg__larger(first.z & size, first.w & size));
    uint32_t b = epg__larger(epg__larger(second.x & size, second.y & size),
                             epg__larger(second.z & size, second.w & size));
    return epg__larger(__byte_perm(a, b, 0x5410), __byte_perm(a, b, 0x7632));
}

/* The same over 16 lanes that are neighbours. */
static __device__ inline uint32_t epg__largest_of_blocks(uint32_t value)
{
#pragma unroll
    for (int step = 8; step > 0; step /= 2)
        value = epg__larger(value, __shfl_xor_sync(0xFFFFFFFFu, value, step));
    return value;
}

/* Has a bit where one of two sizes is not finite. */
static __device__ inline uint32_t epg__not_finite(uint32_t sizes) { return (sizes + 0x00800080u) & 0x80008000u; }

/* Makes elements that are not finite NaN; `finite`: or 0. */
static __device__ inline epg__piece epg__without_infinities(const epg__piece &piece, bool finite)
{
    uint32_t word[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t bad = epg__not_finite(word[i] & 0x7FFF7FFFu) >> 15;
        bad *= 0x7FFFu; /* in both halves */
        word[i] = finite ? word[i] & ~bad : word[i] | bad;
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
}

/* Scale and inverse of a block whose largest element has these bits, as a float32. */
static __device__ inline float epg__scale_of(uint32_t largest, uint32_t power_of_two, float *inverse)
{
    float amax = fmaxf(__uint_as_float(largest), EPG__AMAX_MIN), scale = __fdiv_rn(amax, 448.0f);
    if (power_of_two) {
        uint32_t exponent = (__float_as_uint(scale) + 0x7FFFFFu) & 0x7F800000u;
        *inverse = __uint_as_float((254u << 23) - exponent);
        return __uint_as_float(exponent);
    }
    *inverse = __fdiv_rn(448.0f, amax);
    return scale;
}

/* The codes of 8 elements. */
static __device__ inline uint2 epg__codes_of(const epg__piece &piece, float inverse)
{
    const uint32_t word[4] = {piece.x, piece.y, piece.z, piece.w};
    uint32_t code[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        code[i] = epg__to_e4m3(__fmul_rn(__uint_as_float(word[i] << 16), inverse),
                               __fmul_rn(__uint_as_float(word[i] & 0xFFFF0000u), inverse));
    return make_uint2(code[0] | code[1] << 16, code[2] | code[3] << 16);
}

/* The whole warp, a piece in a lane and so a block in 16 lanes: the codes, and in each lane its block's scale. */
static __device__ inline uint2 epg__quantise_piece(epg__piece piece, uint32_t power_of_two, float *scale)
{
    uint32_t largest = epg__largest_of_blocks(epg__largest_of(piece, piece));
    float inverse;
    if (__any_sync(0xFFFFFFFFu, epg__not_finite(largest))) {
        epg__piece finite = epg__without_infinities(piece, true);
        largest = epg__largest_of_blocks(epg__largest_of(finite, finite));
        piece = epg__without_infinities(piece, false);
    }
    *scale = epg__scale_of(largest << 16, power_of_two, &inverse);
    return epg__codes_of(piece, inverse);
}

/* A warp quantises steps of 64 pieces: in two rounds, a piece in each lane; so many steps at once. */
enum { EPG__STEP_PIECES = 64, EPG__STEP_BLOCKS = 4, EPG__STEP_BATCH = 4 };
static __device__ inline uint32_t epg__steps_of(const epg__cuda_lane &l)
{
    return (l.wire.geometry.hidden / 8 + EPG__STEP_PIECES - 1) / EPG__STEP_PIECES;
}

/* One warp: quantises the steps of a row and stores them at the places of lanes 0 .. count - 1, NULL ones left out.
 * Neighbours exchange halves, so that each lane stores 16 bytes: an even one of a step's first round, an odd one of its
 * second. */
static __device__ inline void epg__send_quantised(const epg__cuda_lane &l, const epg__piece *from, char *to,
                                                  uint32_t count, epg__span steps)
{
    enum { BATCH = EPG__STEP_BATCH };
    const epg_wire_geometry &g = l.wire.geometry;
    uint32_t lane = epg__lane_id(), pieces = g.hidden / 8, blocks = epg__scale_blocks(g.hidden);
    bool odd = lane & 1;
    for (uint32_t step = steps.first; step < steps.end; step += BATCH) {
        epg__piece wide[2 * BATCH], narrow[BATCH];
        uint32_t end = min(pieces, steps.end * EPG__STEP_PIECES), first = step * EPG__STEP_PIECES + lane;
        float kept = 0;
#pragma unroll
        for (int u = 0; u < 2 * BATCH; u++) {
            wide[u] = make_uint4(0, 0, 0, 0);
            if (first + u * 32 < end)
                wide[u] = from[first + u * 32];
        }
#pragma unroll
        for (int u = 0; u < BATCH; u++) {
            float scale[2];
            uint2 own[2] = {epg__quantise_piece(wide[2 * u], g.power_of_two, &scale[0]),
                            epg__quantise_piece(wide[2 * u + 1], g.power_of_two, &scale[1])};
            uint2 given = odd ? own[0] : own[1];
            uint2 taken = {__shfl_xor_sync(0xFFFFFFFFu, given.x, 1), __shfl_xor_sync(0xFFFFFFFFu, given.y, 1)};
            narrow[u] = odd ? make_uint4(taken.x, taken.y, own[1].x, own[1].y)
                            : make_uint4(own[0].x, own[0].y, taken.x, taken.y);
            if ((lane & 15) / 2 == u)
                kept = odd ? scale[1] : scale[0];
        }
        uint32_t at = step * 32 + odd * 16 + lane / 2, end_at = (end + 1) / 2;
        uint32_t block = step * EPG__STEP_BLOCKS + (lane & 15) * 2 + lane / 16;
        bool has_scale = (lane & 15) < 2 * BATCH && block < min(blocks, steps.end * EPG__STEP_BLOCKS);
        for (uint32_t i = 0; i < count; i++) {
            char *row = epg__pointer_of(to, i);
            if (!row)
                continue;
#pragma unroll
            for (int u = 0; u < BATCH; u++)
                if (at + u * 32 < end_at)
                    ((epg__piece *)row)[at + u * 32] = narrow[u];
            if (has_scale)
                ((float *)(row + l.wire.payload_bytes))[block] = kept;
        }
    }
}

/* One warp: a part of a token's row, to the places of lanes 0 .. count - 1, NULL ones left out. */
template <int FORM>
static __device__ inline void epg__send_row(const epg__cuda_params &p, uint32_t token, uint32_t part, char *to,
                                            uint32_t count)
{
    const epg__cuda_lane &l = p.lane;
    const char *rows = (const char *)p.user.rows;
    if constexpr (FORM == EPG__ROWS_PLAIN)
        epg__copy_row((const epg__piece *)(rows + (size_t)token * l.wire.row_bytes), to, count,
                      epg__part_of(epg__pieces_of(l), part, p.parts));
    else if constexpr (FORM == EPG__ROWS_QUANTISED)
        epg__send_quantised(l, (const epg__piece *)rows + (size_t)token * (l.wire.geometry.hidden / 8), to, count,
                            epg__part_of(epg__steps_of(l), part, p.parts));
    else
        epg__send_given(p, token, to, count, epg__part_of(epg__pieces_of(l), part, p.parts));
}

/* Pieces of a row, as the caller has it, that a warp should have where there are many rows: those that it loads before
 * it stores any; of rows that are given a few such rounds. */
static inline uint32_t epg__row_at_once(int form)
{
    return form == EPG__ROWS_PLAIN       ? EPG__COPY_BATCH * 32
           : form == EPG__ROWS_QUANTISED ? EPG__STEP_BATCH * EPG__STEP_PIECES
                                         : 4 * 32;
}

/* One warp: brings a part of a token's row nearer. */
template <int FORM>
static __device__ inline void epg__prefetch_row(const epg__cuda_params &p, uint32_t token, uint32_t part)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t bytes = FORM == EPG__ROWS_QUANTISED ? l.wire.geometry.hidden * 2 : l.wire.geometry.row_bytes;
    epg__span lines = epg__part_of((bytes + 127) / 128, part, p.parts);
    const char *row = (const char *)p.user.rows + (size_t)token * bytes;
    for (uint32_t line = lines.first + epg__lane_id(); line < lines.end; line += 32)
        epg__prefetch(row + line * 128);
}

/* ---- scales of rows that are copied for the experts ---- */

static __device__ inline char *epg__scales_at(const epg__cuda_lane &l, uint32_t position)
{
    const epg__scale_place &s = l.scale_place;
    return l.expert_scales + position / s.group * s.expert + position % s.group * s.row;
}

/* The scale of one block. */
static __device__ inline void epg__store_scale(const epg__cuda_lane &l, uint32_t position, uint32_t block, float scale)
{
    const epg__scale_place &s = l.scale_place;
    char *to = epg__scales_at(l, position);
    if (s.layout == EPG_SCALES_PACKED)
        to[block / 4 * s.block + block % 4] = (char)(__float_as_uint(scale) >> 23);
    else
        *(float *)(to + block * s.block) = scale;
}

/* Piece `i` of a row's scales, as it travelled: four of them, which make a packed word; what pads it is 0. */
static __device__ inline void epg__store_scales(const epg__cuda_lane &l, uint32_t position, uint32_t i,
                                                const epg__piece &piece)
{
    const uint32_t word[4] = {piece.x, piece.y, piece.z, piece.w};
    const epg__scale_place &s = l.scale_place;
    char *to = epg__scales_at(l, position);
    if (s.layout == EPG_SCALES_ROW_MAJOR) {
        ((epg__piece *)to)[i] = piece;
    } else if (s.layout == EPG_SCALES_PACKED) {
        *(uint32_t *)(to + i * s.block) =
            word[0] >> 23 | word[1] >> 23 << 8 | word[2] >> 23 << 16 | word[3] >> 23 << 24;
    } else {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            if (i * 4 + j < s.blocks)
                *(uint32_t *)(to + (i * 4 + j) * s.block) = word[j];
    }
}

/* One warp: the scales of a received row, to the positions of lanes 0 .. count - 1. */
static __device__ inline void epg__spread_scales(const epg__cuda_lane &l, const epg__piece *scales, uint32_t position,
                                                 uint32_t count)
{
    uint32_t pieces = (uint32_t)(l.wire.scale_bytes / 16);
    for (uint32_t at = epg__lane_id(); at - epg__lane_id() < pieces; at += 32) {
        epg__piece piece = make_uint4(0, 0, 0, 0);
        if (at < pieces)
            piece = scales[at];
        for (uint32_t i = 0; i < count; i++) {
            uint32_t to = __shfl_sync(0xFFFFFFFFu, position, i);
            if (to != EPG_WIRE_NONE && at < pieces)
                epg__store_scales(l, to, at, piece);
        }
    }
}

#endif
