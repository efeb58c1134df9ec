/* A team of one rank: combine as one kernel (local_cuda.cu tells of both). Each block finds the rows of one token and
 * adds its part of them, in top-k order, and rounds as combine send and combine recv would. */
#include "ep/few_cuda.cuh"

enum {
    LOCAL_THREADS = 1024,
    LOCAL_FEW = 32 /* tokens, up to which a thread has 8 bytes of a row, else 16: less to do, on more of the device */
};

typedef struct local_sum {
    alignas(16) const char *row[EPG_TOPK_MAX];
    alignas(16) float weight[EPG_TOPK_MAX];
    uint32_t count, sent, received;
    epg__pair_state pair;
} local_sum;

/* Warp 0: the rows of a token's partial sum. Its slot is most often its own number, so that its meta is read from
 * there, in both banks, along with what would tell; else it is read again. */
static __device__ void find_rows(const epg__cuda_params &p, local_sum *s, uint32_t token, bool write)
{
    const epg__cuda_lane &l = p.lane;
    uint32_t topk = l.wire.geometry.topk, slots = l.wire.geometry.slots, lane = threadIdx.x & 31;
    uint32_t guess = token < slots ? token : 0;
    epg_wire_meta *even = epg__meta_at(&l.wire, epg__own_lane(l), epg__slot_index(&l.wire, 0, 0, guess));
    epg_wire_meta *odd = epg__meta_at(&l.wire, epg__own_lane(l), epg__slot_index(&l.wire, 1, 0, guess));
    epg__pair_state pair = *l.pair;
    uint32_t shares = l.share_count[token], slot = l.shares[token].slot, sent = l.sent[0], received = l.received[0];
    uint32_t counts[2] = {even->count, odd->count}, at = lane < topk ? l.place[(size_t)guess * topk + lane] : 0;
    float weights[2] = {0, 0};
    if (lane < topk) {
        weights[0] = epg__routes_of(even)[lane].weight;
        weights[1] = epg__routes_of(odd)[lane].weight;
    }
    uint32_t bank = pair.epoch & 1, count = bank ? counts[1] : counts[0];
    float weight = bank ? weights[1] : weights[0];
    bool live = token < pair.tokens && !pair.rehearsed, has = live && shares && slot != EPG_WIRE_NONE;
    if (has && slot != guess) {
        epg_wire_meta *meta = epg__meta_at(&l.wire, epg__own_lane(l), epg__slot_index(&l.wire, bank, 0, slot));
        count = meta->count;
        if (lane < count) {
            at = l.place[(size_t)slot * topk + lane];
            weight = epg__routes_of(meta)[lane].weight;
        }
    }
    count = has ? count : 0;
    bool there = lane < count && at != EPG_WIRE_NONE;
    s->row[lane] = there ? (const char *)p.expert_rows + (size_t)at * l.wire.return_bytes : NULL;
    s->weight[lane] = there ? weight : 0;
    bool missing = __any_sync(0xFFFFFFFFu, lane < count && at == EPG_WIRE_NONE);
    if (lane == 0) {
        s->count = count;
        s->pair = pair;
        s->sent = sent;
        s->received = received;
        if (write && live) {
            missing = missing || (shares && slot == EPG_WIRE_NONE); /* of the separate halves: no slot was left */
            l.flags[token] = missing;
            epg__count(l, EPG_COUNT_FLAGGED, missing);
        }
    }
}

/* Of a row that is not there: zeros, which change no sum that began at zero. In PTX, since the compiler would make a
 * branch around each load, and the loads of several rows are to be under way at once. */
static __device__ inline epg__words<2> load_words(const epg__words<2> *from)
{
    epg__words<2> w = {};
    asm volatile("{\n.reg .pred there;\nsetp.ne.u64 there, %2, 0;\n@there ld.global.v2.u32 {%0, %1}, [%2];\n}"
                 : "+r"(w.word[0]), "+r"(w.word[1])
                 : "l"(from));
    return w;
}
static __device__ inline epg__words<4> load_words(const epg__words<4> *from)
{
    epg__words<4> w = {};
    asm volatile("{\n.reg .pred there;\nsetp.ne.u64 there, %4, 0;\n@there ld.global.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
                 : "+r"(w.word[0]), "+r"(w.word[1]), "+r"(w.word[2]), "+r"(w.word[3])
                 : "l"(from));
    return w;
}

static __device__ inline void store_words(epg__words<2> *to, const epg__words<2> &w)
{
    *(uint2 *)to = make_uint2(w.word[0], w.word[1]);
}
static __device__ inline void store_words(epg__words<4> *to, const epg__words<4> &w)
{
    *(epg__piece *)to = epg__piece_of(w);
}

/* Grid: bucket x parts blocks. */
template <bool FLOAT32, int WORDS>
static __global__ void __launch_bounds__(LOCAL_THREADS, 1) local_combine(const __grid_constant__ epg__cuda_params p)
{
    enum { GATHER = 8 };
    __shared__ local_sum s;
    const epg__cuda_lane &l = p.lane;
    uint32_t token = blockIdx.x / p.parts, part = blockIdx.x % p.parts;
    epg__span span = epg__part_of((uint32_t)(l.wire.return_bytes / (4 * WORDS)), part, p.parts);

    epg__touch(p);
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    if (threadIdx.x < 32)
        find_rows(p, &s, token, part == 0);
    __syncthreads();
    if (blockIdx.x == 0 && threadIdx.x == blockDim.x - 1 && !s.pair.rehearsed) {
        l.returned[0] = s.sent > 0;
        ((epg_wire_lane *)epg__own_lane(l))->epoch = s.pair.epoch; /* no dispatch reads it now */
        epg__leave_signal(l, s.pair.epoch, EPG_WIRE_COMBINE, s.received);
    }
    if (token >= s.pair.tokens || s.pair.rehearsed)
        return;
    epg__words<WORDS> *out = (epg__words<WORDS> *)((char *)p.out + (size_t)token * l.wire.return_bytes);
    for (uint32_t at = span.first + threadIdx.x; at < span.end; at += blockDim.x) {
        epg__sums<FLOAT32, WORDS> partial, sums;
        partial.clear();
        for (uint32_t k = 0; k < s.count; k += GATHER) {
            epg__words<WORDS> piece[GATHER];
            float weight[GATHER];
#pragma unroll
            for (uint32_t j = 0; j < GATHER; j++) {
                const epg__words<WORDS> *row = (const epg__words<WORDS> *)s.row[k + j];
                piece[j] = load_words(row ? row + at : NULL);
                weight[j] = s.weight[k + j];
            }
#pragma unroll
            for (uint32_t j = 0; j < GATHER; j++)
                partial.add(piece[j], weight[j]);
        }
        sums.clear();
        if (s.count)
            sums.add(partial.rounded(), 1.0f);
        store_words(out + at, sums.rounded());
    }
}

/* ---- launcher ---- */

static const void *const combine_kernels[] = {
    (const void *)local_combine<false, 4>,
    (const void *)local_combine<true, 4>,
    (const void *)local_combine<false, 2>,
    (const void *)local_combine<true, 2>,
};

epg_status epg__cuda_local_combine(epg_device *device, epg_stream stream, const epg__cuda_shape *shape,
                                   epg__cuda_params *params)
{
    int is_float32 = params->lane.wire.geometry.row_type == EPG_FLOAT32, few = params->user.bucket <= LOCAL_FEW;
    uint32_t pieces = (uint32_t)(params->lane.wire.return_bytes / (few ? 8 : 16));
    epg__cuda_tokens tokens = {combine_kernels[2 * few + is_float32], "combine", pieces, 1, 0, 0};
    return epg__cuda_launch_tokens(device, stream, shape, &tokens, params);
}

epg_status epg__cuda_local_combine_prepare(epg_device *device)
{
    epg_status status = EPG_OK;
    for (int i = 0; i < 4 && status == EPG_OK; i++)
        status = epg__cuda_kernel_prepare(device, combine_kernels[i], 0);
    return status;
}
