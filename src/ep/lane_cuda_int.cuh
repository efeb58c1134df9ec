/* What the kernels of dispatch and combine share: addresses, rows in 16-byte pieces, sums with the host's bits,
 * counters and the failure record.
 *
 * Sums: every multiplication and addition is rounded by itself (no fused multiply-add), in the host kernels' order. */
#ifndef EPG_LANE_CUDA_INT_CUH
#define EPG_LANE_CUDA_INT_CUH

#include "device/cuda_order_int.cuh"
#include "ep/lane_cuda_int.h"

/* ---- a launch ---- */

/* Brings a launch's parameters into the constant cache, all at once: they are cold, and each first use would stall. */
static __device__ inline void epg__touch(const epg__cuda_params &p)
{
    const uint32_t *words = (const uint32_t *)&p;
#pragma unroll
    for (uint32_t i = 0; i < sizeof p / 4; i += 16)
        asm volatile("" ::"r"(words[i]));
}

/* ---- a lane ---- */

static __device__ inline epg_wire_header *epg__own_header(const epg__cuda_lane &l) { return (epg_wire_header *)l.own; }
static __device__ inline char *epg__own_lane(const epg__cuda_lane &l) { return epg__lane_at(&l.wire, l.own, l.number); }
static __device__ inline char *epg__peer_lane(const epg__cuda_lane &l, uint32_t peer)
{
    return epg__lane_at(&l.wire, l.peers[peer], l.number);
}
static __device__ inline uint32_t *epg__mask_of(const epg__cuda_lane &l, uint32_t rank)
{
    return (uint32_t *)((char *)l.peers[rank] + l.wire.mask);
}
/* [ranks] the life of each rank with which this lane exchanges. Only its own kernels write it. */
static __device__ inline uint32_t *epg__lives_of(const epg__cuda_lane &l)
{
    return (uint32_t *)(l.own + l.wire.incarnation) + (size_t)l.number * l.ranks;
}
/* What is masked is a life of a rank, and that for ever. */
static __device__ inline bool epg__rank_alive(const epg__cuda_lane &l, uint32_t rank)
{
    return epg__lives_of(l)[rank] >= epg__word_load(&epg__mask_of(l, l.rank)[rank]);
}
static __device__ inline void epg__give_up(const epg__cuda_lane &l, uint32_t rank, uint32_t incarnation)
{
    atomicMax_system(&epg__mask_of(l, l.rank)[rank], incarnation + 1);
}

static __device__ inline void epg__count(const epg__cuda_lane &l, int counter, uint64_t by)
{
    if (by)
        atomicAdd((unsigned long long *)&epg__own_header(l)->counters[counter], (unsigned long long)by);
}

/* Keeps the first failure. Which one is first is settled in device memory (the record's own `taken`); the host reads
 * the mapped copy. */
static __device__ inline void epg__record_failure(const epg__cuda_lane &l, epg_status status, epg_operation operation,
                                                  uint32_t peer, uint64_t expected, uint64_t seen)
{
    if (atomicCAS(&epg__own_header(l)->record.taken, 0u, 1u) != 0u)
        return;
    volatile epg_wire_record *record = l.record;
    record->status = status;
    record->operation = operation;
    record->lane = l.number;
    record->epoch = l.pair->epoch;
    record->peer = peer;
    record->expected = expected;
    record->seen = seen;
    record->time_ns = epg__now_ns();
    epg__word_store(&l.record->taken, 2); /* partner: epg_group_check */
}

/* Stores this rank's signal of the open pair at `peer`. */
static __device__ inline void epg__send_signal(const epg__cuda_lane &l, uint32_t epoch, uint32_t kind, uint32_t peer,
                                               uint32_t count, bool is_void)
{
    epg__signal_store(epg__signal_at(&l.wire, epg__peer_lane(l, peer), kind, epoch & 1, l.rank),
                      epg__signal_make(epoch, l.incarnation, count, is_void));
}

/* Takes in the ranks whose epoch this is. */
static __device__ inline void epg__admit_due(const epg__cuda_lane &l, uint32_t epoch)
{
    for (uint32_t r = 0; r < l.ranks; r++) {
        epg__entry *entry = &l.entries[r];
        if (!entry->incarnation || entry->epoch != epoch)
            continue;
        epg__word_store(&epg__lives_of(l)[r], entry->incarnation);
        entry->incarnation = entry->epoch = 0;
        --*l.entering;
    }
}

/* True where `rank` is taken in with the next pair: it gets this pair's dispatch signal, without rows, as its
 * invitation. */
static __device__ inline bool epg__is_invited(const epg__cuda_lane &l, uint32_t rank, uint32_t epoch)
{
    const epg__entry *entry = &l.entries[rank];
    return *l.entering && entry->incarnation && entry->epoch == epoch + 1 &&
           entry->incarnation >= epg__word_load(&epg__mask_of(l, l.rank)[rank]);
}

/* A choice as the caller gave it. */
static __device__ inline int64_t epg__id_at(const epg_dispatch_args &user, size_t index)
{
    if (user.topk_type == EPG_INT64)
        return ((const int64_t *)user.topk_ids)[index];
    return ((const int32_t *)user.topk_ids)[index];
}

/* ---- rows ---- */

typedef uint4 epg__piece; /* 16 bytes of a row */

/* Of a row to an expert, without what pads it; of one that comes back. */
static __device__ inline uint32_t epg__pieces_of(const epg__cuda_lane &l)
{
    return (uint32_t)((l.wire.payload_bytes + l.wire.scale_bytes) / 16);
}
static __device__ inline uint32_t epg__return_pieces(const epg__cuda_lane &l)
{
    return (uint32_t)(l.wire.return_bytes / 16);
}

/* Work on rows is done by warps, each with an item (a row, or a part of one) at a time and none of them waiting for
 * another, so that the journeys to memory before a row's own overlap. */
static __device__ inline uint32_t epg__first_item(void) { return (blockIdx.x * blockDim.x + threadIdx.x) / 32; }
static __device__ inline uint32_t epg__item_stride(void) { return gridDim.x * blockDim.x / 32; }
static __device__ inline uint32_t epg__lane_id(void) { return threadIdx.x & 31; }

/* The whole warp: the sum of `value` in lanes 0 to this one. */
static __device__ inline uint32_t epg__sum_lanes(uint32_t value)
{
    for (uint32_t step = 1; step < 32; step *= 2) {
        uint32_t other = __shfl_up_sync(0xFFFFFFFFu, value, step);
        value += epg__lane_id() >= step ? other : 0;
    }
    return value;
}

/* Brings a line nearer that is read soon. It may still be written by an earlier kernel: what is nearer is kept as it is
 * in memory. */
static __device__ inline void epg__prefetch(const void *line)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
}

/* Lane `from`'s pointer, in every lane of the warp. */
static __device__ inline char *epg__pointer_of(char *pointer, uint32_t from)
{
    return (char *)__shfl_sync(0xFFFFFFFFu, (unsigned long long)pointer, from);
}

/* The pieces [first, end) of a row that part `part` of `parts` works on. */
typedef struct epg__span {
    uint32_t first, end;
} epg__span;
static __device__ inline epg__span epg__part_of(uint32_t pieces, uint32_t part, uint32_t parts)
{
    uint32_t each = (pieces + parts - 1) / parts, first = part * each;
    epg__span span = {first < pieces ? first : pieces, first + each < pieces ? first + each : pieces};
    return span;
}

/* One warp: copies a row to the places of lanes 0 .. count - 1, NULL ones left out. */
enum { EPG__COPY_BATCH = 7 };
static __device__ inline void epg__copy_row(const epg__piece *from, char *to, uint32_t count, epg__span span)
{
    enum { BATCH = EPG__COPY_BATCH };
    for (uint32_t at = span.first + epg__lane_id(); at - epg__lane_id() < span.end; at += BATCH * 32) {
        epg__piece piece[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; u++)
            if (at + u * 32 < span.end)
                piece[u] = from[at + u * 32];
        for (uint32_t i = 0; i < count; i++) {
            epg__piece *row = (epg__piece *)epg__pointer_of(to, i);
            if (!row)
                continue;
#pragma unroll
            for (int u = 0; u < BATCH; u++)
                if (at + u * 32 < span.end)
                    row[at + u * 32] = piece[u];
        }
    }
}

/* Turns each warp's count per column into its start, and gives the totals to `total`. */
static __device__ inline void epg__scan_warps(uint32_t *table, uint32_t columns, uint32_t *total)
{
    for (uint32_t c = threadIdx.x; c < columns; c += blockDim.x) {
        uint32_t sum = 0;
        for (uint32_t w = 0; w < blockDim.x / 32; w++) {
            uint32_t count = table[w * columns + c];
            table[w * columns + c] = sum;
            sum += count;
        }
        total[c] = sum;
    }
}

/* One warp: turns the cells of a column of a table into what is above each; returns the sum of all. */
static __device__ inline uint32_t epg__sum_column(uint32_t *column, uint32_t columns, uint32_t rows)
{
    enum { BATCH = 4 };
    uint32_t lane = epg__lane_id(), before = 0;
    for (uint32_t first = 0; first < rows; first += BATCH * 32) {
        uint32_t count[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; u++) {
            uint32_t row = first + u * 32 + lane;
            count[u] = row < rows ? column[(size_t)row * columns] : 0;
        }
#pragma unroll
        for (int u = 0; u < BATCH; u++) {
            uint32_t row = first + u * 32 + lane, sum = epg__sum_lanes(count[u]);
            if (row < rows)
                column[(size_t)row * columns] = before + sum - count[u];
            before += __shfl_sync(0xFFFFFFFFu, sum, 31);
        }
    }
    return before;
}

/* Source rank and slot of the i-th received row, in (source, slot) order. */
static __device__ inline void epg__find_row(const epg__cuda_lane &l, uint32_t i, uint32_t *source, uint32_t *slot)
{
    uint32_t s = 0, count;
    while (i >= (count = l.received[s])) {
        i -= count;
        s++;
    }
    *source = s;
    *slot = i;
}
static __device__ inline uint32_t epg__received_rows(const epg__cuda_lane &l)
{
    uint32_t rows = 0;
    for (uint32_t s = 0; s < l.ranks; s++)
        rows += l.received[s];
    return rows;
}

/* Where each source's rows end, kept in the lanes of a warp; for more ranks than that they are counted anew. */
typedef struct epg__ends {
    uint32_t count, end;
} epg__ends;

/* *rows: of all sources. */
static __device__ inline epg__ends epg__read_ends(const epg__cuda_lane &l, uint32_t *rows)
{
    uint32_t lane = epg__lane_id();
    epg__ends e = {0, 0};
    if (l.ranks > 32) {
        *rows = epg__received_rows(l);
        return e;
    }
    e.count = lane < l.ranks ? l.received[lane] : 0;
    e.end = epg__sum_lanes(e.count);
    *rows = __shfl_sync(0xFFFFFFFFu, e.end, 31);
    return e;
}

/* The whole warp: epg__find_row, without a journey to memory. */
static __device__ inline void epg__find_received(const epg__cuda_lane &l, const epg__ends &ends, uint32_t row,
                                                 uint32_t *source, uint32_t *slot)
{
    if (l.ranks > 32) {
        epg__find_row(l, row, source, slot);
        return;
    }
    *source = __popc(__ballot_sync(0xFFFFFFFFu, epg__lane_id() < l.ranks && row >= ends.end));
    *slot = row - __shfl_sync(0xFFFFFFFFu, ends.end - ends.count, *source);
}

/* ---- sums ---- */

/* Two bf16 in a word, rounded to nearest even. A NaN stays one; its payload is the device's. */
static __device__ inline uint32_t epg__to_bf16(float low, float high)
{
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

/* Some words of a row, as a thread has them. */
template <int WORDS> struct epg__words {
    uint32_t word[WORDS];
};
static __device__ inline epg__words<4> epg__words_of(const epg__piece &piece)
{
    epg__words<4> w = {{piece.x, piece.y, piece.z, piece.w}};
    return w;
}
static __device__ inline epg__piece epg__piece_of(const epg__words<4> &w)
{
    return make_uint4(w.word[0], w.word[1], w.word[2], w.word[3]);
}

/* The sums behind them: of two bf16 or of one float32 in each. */
template <bool FLOAT32, int WORDS> struct epg__sums {
    float value[FLOAT32 ? WORDS : 2 * WORDS];

    __device__ void clear(void)
    {
#pragma unroll
        for (int i = 0; i < (FLOAT32 ? WORDS : 2 * WORDS); i++)
            value[i] = 0;
    }
    __device__ void add_one(int i, float x, float weight) { value[i] = __fadd_rn(value[i], __fmul_rn(weight, x)); }
    __device__ void add(const epg__words<WORDS> &w, float weight)
    {
#pragma unroll
        for (int i = 0; i < WORDS; i++) {
            if constexpr (FLOAT32) {
                add_one(i, __uint_as_float(w.word[i]), weight);
            } else {
                add_one(2 * i, __uint_as_float(w.word[i] << 16), weight);
                add_one(2 * i + 1, __uint_as_float(w.word[i] & 0xFFFF0000u), weight);
            }
        }
    }
    __device__ epg__words<WORDS> rounded(void) const
    {
        epg__words<WORDS> w;
#pragma unroll
        for (int i = 0; i < WORDS; i++) {
            if constexpr (FLOAT32)
                w.word[i] = __float_as_uint(value[i]);
            else
                w.word[i] = epg__to_bf16(value[2 * i], value[2 * i + 1]);
        }
        return w;
    }
};

#endif
