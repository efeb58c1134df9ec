/* Products of bf16 rows and weights on tensor cores, for groups whose row counts only the device knows.
 *
 * Weights are the first operand of every instruction, so that few rows waste little: an instruction takes 8 rows of the
 * input or more, and 16 elements of k. Tiles differ in how many rows they hold, and in nothing else: a sum is the same
 * chain of instructions over k whatever the tile (tensor_cuda.cuh), so a row's bits depend on that row alone.
 *
 * Blocks stay and walk over items (a tile of weights for a tile of rows of one group). A block's items form one
 * sequence of pieces of CHUNK elements of k, which are fetched some stages ahead, across items too: while one item is
 * finished, the next one's weights are on their way. Groups with many rows come first, in large tiles, then those with
 * few, in tiles just as wide as the largest of them needs.
 *
 * GATED: rows of the tile of weights alternate, 8 of gate and 8 of up, so that a thread holds both for one output. */
#include "device/cuda_order_int.cuh"
#include "moe/moe_cuda_int.h"
#include "moe/number_cuda.cuh"
#include "moe/tensor_cuda.cuh"

enum { THREADS = EPG__TILE_THREADS, CHUNK = EPG__TILE_CHUNK };
enum { ROW_BYTES = EPG__TILE_ROW_BYTES, PIPE_BYTES = EPG__TILE_PIPE_BYTES };
enum { PIECES = CHUNK / 8, FEW = 32 }; /* pieces of 16 bytes of a tile's row; rows of a group that are few */
static const uint32_t NONE = 0xFFFFFFFFu;

typedef epg__tile<1, 1, 4> tile_8;
typedef epg__tile<1, 2, 4> tile_16;
typedef epg__tile<1, 4, 4> tile_32;
typedef epg__tile<2, 8, 4> tile_64;
typedef epg__tile<8 / EPG__TILES_WIDE, 4 * EPG__TILES_WIDE, EPG__TILES_WIDE> tile_128;
static_assert(tile_64::m == tile_128::m && tile_8::m == tile_32::m && tile_16::m == tile_32::m,
              "the table knows two tiles");

/* ---- the table of items, in shared memory ---- */

/* many, some: index of each group's first item among those of groups with many rows, or with few; [groups]: how many
 * items there are. */
typedef struct table {
    uint32_t *counts, *offsets, *many, *some;
    uint32_t many_wide, some_wide;  /* rows of a tile */
} table;

static __device__ uint32_t warp_max(uint32_t value) { return __reduce_max_sync(0xFFFFFFFFu, value); }

static __device__ uint32_t warp_prefix(uint32_t value)
{
    for (uint32_t step = 1; step < 32; step *= 2) {
        uint32_t below = __shfl_up_sync(0xFFFFFFFFu, value, step);
        value += threadIdx.x % 32 >= step ? below : 0;
    }
    return value;
}

static __device__ void load_counts(const epg__product &p, table *t)
{
    for (uint32_t g = threadIdx.x; g < p.groups; g += THREADS) {
        uint32_t count = p.counts ? __ldcg(p.counts + g) : p.limit;
        t->counts[g] = count < p.limit ? count : p.limit;
        t->offsets[g] = p.offsets ? __ldcg(p.offsets + g) : 0;
    }
    __syncthreads();
}

/* Every warp finds the widths for itself. */
static __device__ void choose_tiles(const epg__product &p, table *t)
{
    uint32_t many = 0, few = 0;
    for (uint32_t g = threadIdx.x % 32; g < p.groups; g += 32) {
        uint32_t count = t->counts[g];
        if (count > FEW)
            many = count > many ? count : many;
        else
            few = count > few ? count : few;
    }
    many = warp_max(many);
    few = warp_max(few);
    t->many_wide = many > 64 ? 128 : 64;
    t->some_wide = few > 16 ? 32 : few > 8 ? 16 : 8;
}

/* GATED too: a tile covers half as many outputs, of which there are half as many. */
static __device__ uint32_t tiles_of(const epg__product &p, uint32_t m) { return (p.m + m - 1) / m; }

/* One warp's work. `tiles`: along the weights of one group. */
static __device__ void index_items(const epg__product &p, const table &t, bool many, uint32_t tiles)
{
    uint32_t *first = many ? t.many : t.some, wide = many ? t.many_wide : t.some_wide, before = 0;
    for (uint32_t base = 0; base < p.groups; base += 32) {
        uint32_t g = base + threadIdx.x % 32, count = g < p.groups ? t.counts[g] : 0;
        uint32_t items = (count > FEW) == many ? (count + wide - 1) / wide * tiles : 0;
        uint32_t end = before + warp_prefix(items);
        if (g < p.groups)
            first[g] = end - items;
        before = __shfl_sync(0xFFFFFFFFu, end, 31);
    }
    if (threadIdx.x % 32 == 0)
        first[p.groups] = before;
}

static __device__ table make_table(const epg__product &p, uint32_t *memory)
{
    table t = {memory, memory + p.groups, memory + 2 * p.groups, memory + 3 * p.groups + 1, 0, 0};
    load_counts(p, &t);
    choose_tiles(p, &t);
    if (threadIdx.x / 32 == 0)
        index_items(p, t, true, tiles_of(p, tile_128::m));
    if (threadIdx.x / 32 == 1)
        index_items(p, t, false, tiles_of(p, tile_32::m));
    __syncthreads();
    return t;
}

/* An item: rows of the output from `column` on, positions from `position` on, `count` of them real. */
typedef struct item {
    uint32_t group, column, position, count;
} item;

template <typename Tile>
static __device__ item find_item(const table &t, const uint32_t *first, uint32_t groups, uint32_t index,
                                 uint32_t outputs)
{
    uint32_t low = 0, high = groups; /* first[low] <= index < first[high] */
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (first[middle] <= index)
            low = middle;
        else
            high = middle;
    }
    uint32_t at = index - first[low], across = (t.counts[low] + Tile::n - 1) / Tile::n, row = at % across * Tile::n;
    uint32_t left = t.counts[low] - row;
    return item{low, at / across * outputs, t.offsets[low] + row, left < Tile::n ? left : Tile::n};
}

/* ---- fetching ---- */

static __device__ inline void fetch(uint32_t to, const void *from, bool real)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(real ? 16 : 0) : "memory");
}
static __device__ inline void fetch_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> static __device__ inline void fetch_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* Where a thread's pieces of the next chunk come from: a column of pieces, every sixteenth row of a tile. */
template <int KIND, typename Tile> struct source {
    static constexpr int step = THREADS / PIECES;                              /* 16 rows */
    static constexpr int n_rows = (Tile::n + step - 1) / step;
    static constexpr uint32_t outputs = KIND == EPG__PRODUCT_GATED ? Tile::m / 2 : Tile::m;
    const epg__bf16 *weights;      /* of the thread's first row */
    uint32_t left;                 /* rows of weights that are real, counted in steps */
    uint32_t row[n_rows];          /* of the input */
    uint32_t index, chunk;         /* of the item; of k */

    __device__ void open(const epg__product &p, const table &t, const uint32_t *first)
    {
        item it = find_item<Tile>(t, first, p.groups, index, outputs);
        const uint32_t r = threadIdx.x / PIECES, half = p.m / 2;
        const uint32_t end = KIND == EPG__PRODUCT_GATED ? half : p.m, stride = KIND == EPG__PRODUCT_GATED ? 8 : 16;
        uint32_t at = it.column + (KIND == EPG__PRODUCT_GATED ? r % 8 : r);
        left = at < end ? (end - at + stride - 1) / stride : 0;
        if (KIND == EPG__PRODUCT_GATED && r >= 8)
            at += half;
        weights = (const epg__bf16 *)p.weights + ((size_t)it.group * p.m + at) * p.k;
        for (int i = 0; i < n_rows; i++) {
            uint32_t n = r + i * step, position = it.position + n;
            row[i] = n < it.count ? (p.row_index ? __ldcg(p.row_index + position) : position) : NONE;
        }
    }

    /* Fetches the next chunk into a stage. */
    __device__ void next(const epg__product &p, const table &t, const uint32_t *first, uint32_t stage)
    {
        if (index >= first[p.groups])
            return;
        const uint32_t r = threadIdx.x / PIECES, piece = threadIdx.x % PIECES, k = chunk * CHUNK + piece * 8;
        const size_t stride = (size_t)(KIND == EPG__PRODUCT_GATED ? 8 : 16) * p.k;
        const uint32_t to = stage + r * ROW_BYTES + (piece ^ r % 8) * 16;
        const bool inside = k < p.k;
        for (int i = 0; i < Tile::m / step; i++) {
            const bool real = inside && i < (int)left;
            fetch(to + i * step * ROW_BYTES, real ? weights + i * stride + k : (const epg__bf16 *)p.weights, real);
        }
        for (int i = 0; i < n_rows; i++) {
            const bool real = inside && row[i] != NONE;
            if (Tile::n % step == 0 || (int)r + i * step < Tile::n)
                fetch(to + (Tile::m + i * step) * ROW_BYTES,
                      real ? (const epg__bf16 *)p.rows + (size_t)row[i] * p.k + k : (const epg__bf16 *)p.rows, real);
        }
        if (++chunk * CHUNK >= p.k) {
            chunk = 0;
            index += gridDim.x;
            if (index < first[p.groups])
                open(p, t, first);
        }
    }
};

/* ---- what becomes of the sums ---- */

/* Eight by eight: lane l held column pair l % 4 of row l / 4, and holds row pair l % 4 of column l / 4. */
static __device__ inline uint32_t transpose(uint32_t pair)
{
    uint32_t out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
    return out;
}

/* Eight outputs of eight positions, at `column` of row `position` of out; each thread writes two. */
static __device__ inline void store_8x8(const epg__product &p, uint32_t pair, uint32_t width, uint32_t column,
                                        uint32_t position, bool real)
{
    pair = transpose(pair);
    if (real && column < width)
        *(uint32_t *)((epg__bf16 *)p.out + (size_t)position * width + column + threadIdx.x % 4 * 2) = pair;
}

static __device__ inline float gated(float gate, float up) { return gate / (1 + __expf(-gate)) * up; }

template <int KIND, typename Tile>
static __device__ void store_sums(const epg__product &p, const item &it, float sums[Tile::mw][Tile::nw][4])
{
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < Tile::nw; j++) {
        const uint32_t n = epg__tile_column<Tile>(j) / 8 * 8 + lane / 4, position = it.position + n;
        const bool real = n < it.count;
#pragma unroll
        for (int i = 0; i < Tile::mw; i++) {
            const uint32_t row = epg__tile_row<Tile>(i) / 16 * 16;
            const float *s = sums[i][j];
            if (KIND == EPG__PRODUCT_GATED) {
                store_8x8(p, epg__pack(gated(s[0], s[2]), gated(s[1], s[3])), p.m / 2, it.column + row / 2, position,
                          real);
            } else {
                store_8x8(p, epg__pack(s[0], s[1]), p.m, it.column + row, position, real);
                store_8x8(p, epg__pack(s[2], s[3]), p.m, it.column + row + 8, position, real);
            }
        }
    }
}

static __device__ inline uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Column n of the tile is held by the eight lanes of equal lane % 4. Most blocks come too late to raise anything. */
static __device__ inline void raise(const epg__product &p, uint64_t best, uint32_t position, bool real)
{
    for (uint32_t step = 4; step < 32; step *= 2)
        best = larger(best, __shfl_xor_sync(0xFFFFFFFFu, best, step));
    if (real && threadIdx.x % 32 < 4 && best > __ldcg((const unsigned long long *)p.best + position))
        atomicMax((unsigned long long *)p.best + position, best);
}

template <typename Tile>
static __device__ void raise_best(const epg__product &p, const item &it, float sums[Tile::mw][Tile::nw][4])
{
#pragma unroll
    for (int j = 0; j < Tile::nw; j++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const uint32_t n = epg__tile_column<Tile>(j) + c;
            uint64_t best = 0;
#pragma unroll
            for (int i = 0; i < Tile::mw; i++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const uint32_t id = it.column + epg__tile_row<Tile>(i) + h * 8;
                    if (id < p.m)
                        best = larger(best, epg__best_key(sums[i][j][h * 2 + c], id));
                }
            raise(p, best, it.position + n, n < it.count);
        }
}

/* ---- the walk ---- */

/* This block's items of those that `first` counts, from `start` on. */
template <int KIND, typename Tile>
static __device__ void walk(const epg__product &p, const table &t, const uint32_t *first, uint32_t start, uint32_t pipe)
{
    const uint32_t end = first[p.groups], chunks = (p.k + CHUNK - 1) / CHUNK;
    source<KIND, Tile> from;
    uint32_t stage = 0;
    if (start >= end)
        return;
    from.index = start;
    from.chunk = 0;
    from.open(p, t, first);
    for (int s = 0; s < Tile::stages - 1; s++) {
        from.next(p, t, first, pipe + s * Tile::stage_bytes);
        fetch_commit();
    }
    for (uint32_t index = start; index < end; index += gridDim.x) {
        float sums[Tile::mw][Tile::nw][4] = {};
        for (uint32_t c = 0; c < chunks; c++) {
            const uint32_t into = stage ? stage - 1 : Tile::stages - 1;
            fetch_wait<Tile::stages - 2>();
            epg__tile_end<Tile>(sums);
            epg__tile_publish();
            __syncthreads(); /* everyone's pieces are there, and everyone is done with the stage before */
            if (EPG__TILES_RUN_ON)
                epg__tile_begin<Tile>(pipe + stage * Tile::stage_bytes, sums);
            from.next(p, t, first, pipe + into * Tile::stage_bytes);
            fetch_commit();
            if (!EPG__TILES_RUN_ON)
                epg__tile_begin<Tile>(pipe + stage * Tile::stage_bytes, sums);
            stage = stage + 1 == Tile::stages ? 0 : stage + 1;
        }
        epg__tile_end<Tile>(sums);
        item it = find_item<Tile>(t, first, p.groups, index, source<KIND, Tile>::outputs);
        if constexpr (KIND == EPG__PRODUCT_BEST)
            raise_best<Tile>(p, it, sums);
        else
            store_sums<KIND, Tile>(p, it, sums);
    }
    fetch_wait<0>();
    __syncthreads();
}

template <int KIND> static __global__ void __launch_bounds__(THREADS, 2) mma(const __grid_constant__ epg__product p)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    const uint32_t pipe = (uint32_t)__cvta_generic_to_shared(memory);
    epg__await_earlier_kernels();
    epg__admit_next_kernel();
    const table t = make_table(p, (uint32_t *)(memory + PIPE_BYTES));
    if (t.many_wide == 128)
        walk<KIND, tile_128>(p, t, t.many, blockIdx.x, pipe);
    else
        walk<KIND, tile_64>(p, t, t.many, blockIdx.x, pipe);
    /* The blocks that had one item less go first. */
    const uint32_t taken = t.many[p.groups] % gridDim.x, start = (blockIdx.x + gridDim.x - taken) % gridDim.x;
    if (t.some_wide == 32)
        walk<KIND, tile_32>(p, t, t.some, start, pipe);
    else if (t.some_wide == 16)
        walk<KIND, tile_16>(p, t, t.some, start, pipe);
    else
        walk<KIND, tile_8>(p, t, t.some, start, pipe);
}
static uint32_t shared_bytes(uint32_t groups) { return PIPE_BYTES + (4 * groups + 2) * (uint32_t)sizeof(uint32_t); }

static epg_status launch(epg_device *device, epg_stream stream, const epg__product_kernels *self,
                         epg__product_kind kind, const epg__product *product)
{
    epg__cuda_launch launch = {self->kernel[kind], self->name[kind], {self->blocks[kind], 1, 1}, THREADS, 0,
                               self->dependent};
    launch.shared_bytes = shared_bytes(product->groups);
    return epg__cuda_launch_kernel(device, stream, &launch, product);
}

extern "C" epg_status epg__product_mma(epg_device *device, uint32_t groups, epg__product_kernels *kernels)
{
    static const char *const names[EPG__PRODUCT_KINDS] = {"down", "gate and up", "head"};
    static const void *const all[EPG__PRODUCT_KINDS] = {(const void *)mma<EPG__PRODUCT_ROWS>,
                                                        (const void *)mma<EPG__PRODUCT_GATED>,
                                                        (const void *)mma<EPG__PRODUCT_BEST>};
    epg__cuda_limits limits;
    uint32_t per_unit = 0, bytes = shared_bytes(groups);
    epg_status status = epg__cuda_get_limits(device, &limits);
    *kernels = epg__product_kernels{launch, {}, {}, {}, limits.compute >= 90};
    for (int kind = 0; kind < EPG__PRODUCT_KINDS && status == EPG_OK; kind++) {
        kernels->kernel[kind] = all[kind];
        kernels->name[kind] = names[kind];
        status = epg__cuda_kernel_prepare(device, all[kind], bytes);
        if (status == EPG_OK)
            status = epg__cuda_kernel_blocks(device, all[kind], THREADS, bytes, &per_unit);
        kernels->blocks[kind] = limits.units * per_unit;
    }
    return status;
}
