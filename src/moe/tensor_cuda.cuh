/* Tiles on tensor cores: how a block multiplies what lies in one stage of its shared memory.
 *
 * A stage holds m rows of weights, then n rows of the input, CHUNK elements of k each: 128 bytes, whose 16-byte pieces
 * are swapped by row so that no eight rows collide (piece p of row r is at p ^ r % 8, which is what Hopper calls a
 * 128-byte swizzle). Two variants, chosen when the file is compiled, and one within a build: on sm_90a the warps of a
 * block multiply together, with operands straight from shared memory (wgmma); elsewhere each warp for itself (mma). In
 * either a sum is a chain of one instruction over k in steps of 16, whatever the tile.
 *
 * Sums: a thread's sums[i][j][0..3] are those of tile row R, R, R + 8, R + 8 and input row C, C + 1, C, C + 1, with
 * R = epg__tile_row(i) and C = epg__tile_column(j). */
#ifndef EPG_TENSOR_CUDA_CUH
#define EPG_TENSOR_CUDA_CUH

#include <stdint.h>

enum {
    EPG__TILE_THREADS = 128,
    EPG__TILE_CHUNK = 64,
    EPG__TILE_ROW_BYTES = EPG__TILE_CHUNK * 2,
    EPG__TILE_PIPE_BYTES = 96 * 1024
};

/* MW x NW instructions of 16 x 8 per warp, and of the four warps MWARPS along the weights. */
template <int MW, int NW, int MWARPS> struct epg__tile {
    static constexpr int mw = MW, nw = NW, mwarps = MWARPS;
    static constexpr int m = MWARPS * MW * 16, n = 4 / MWARPS * NW * 8;
    static constexpr int stage_bytes = (m + n) * EPG__TILE_ROW_BYTES;
    static constexpr int stages = EPG__TILE_PIPE_BYTES / stage_bytes < 8 ? EPG__TILE_PIPE_BYTES / stage_bytes : 8;
    static_assert(stage_bytes % 1024 == 0 && m % 64 == 0, "the swizzle's period");
};

template <typename Tile> static __device__ inline uint32_t epg__tile_row(int i)
{
    return (i * Tile::mwarps + threadIdx.x / 32 % Tile::mwarps) * 16 + threadIdx.x % 32 / 4;
}
template <typename Tile> static __device__ inline uint32_t epg__tile_column(int j)
{
    return (threadIdx.x / 32 / Tile::mwarps * Tile::nw + j) * 8 + threadIdx.x % 4 * 2;
}

/* epg__tile_begin adds a stage's products to the sums; the stage and the sums are the tensor cores' until the next
 * epg__tile_end. Between the two every thread of the block may do something else. */

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

#define EPG__TILES_WIDE 4 /* warps along the weights, in the widest tile */
#define EPG__TILES_RUN_ON 1 /* between begin and end the threads are free */

static __device__ inline uint64_t epg__operand(uint32_t address)
{
    /* K-major, 128-byte swizzle, eight rows of 128 bytes after one another. */
    return (uint64_t)1 << 62 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 16 | (address >> 4 & 0x3FFF);
}

#define EPG__SUMS1(s, j) "+f"(s[j][0]), "+f"(s[j][1]), "+f"(s[j][2]), "+f"(s[j][3])
#define EPG__SUMS2(s, j) EPG__SUMS1(s, j), EPG__SUMS1(s, j + 1)
#define EPG__SUMS4(s, j) EPG__SUMS2(s, j), EPG__SUMS2(s, j + 2)
#define EPG__SUMS8(s, j) EPG__SUMS4(s, j), EPG__SUMS4(s, j + 4)
#define EPG__SUMS16(s, j) EPG__SUMS8(s, j), EPG__SUMS8(s, j + 8)

#define EPG__REGS4 "%0, %1, %2, %3"
#define EPG__REGS8 EPG__REGS4 ", %4, %5, %6, %7"
#define EPG__REGS16 EPG__REGS8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define EPG__REGS32 EPG__REGS16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define EPG__REGS64 \
    EPG__REGS32 \
        ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
        "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/* sums += weights * rows: 64 rows of weights, 16 of k. */
#define EPG__WGMMA(n, regs, sums_list, a, b) \
    asm volatile("{ .reg .pred add; setp.eq.b32 add, 0, 0;\n" \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" regs "}, " a ", " b \
                 ", add, 1, 1, 0, 0; }" \
                 : sums_list \
                 : "l"(weights), "l"(rows))

template <int NW> static __device__ inline void epg__multiply(float sums[NW][4], uint64_t weights, uint64_t rows)
{
    if constexpr (NW == 1)
        EPG__WGMMA(8, EPG__REGS4, EPG__SUMS1(sums, 0), "%4", "%5");
    else if constexpr (NW == 2)
        EPG__WGMMA(16, EPG__REGS8, EPG__SUMS2(sums, 0), "%8", "%9");
    else if constexpr (NW == 4)
        EPG__WGMMA(32, EPG__REGS16, EPG__SUMS4(sums, 0), "%16", "%17");
    else if constexpr (NW == 8)
        EPG__WGMMA(64, EPG__REGS32, EPG__SUMS8(sums, 0), "%32", "%33");
    else
        EPG__WGMMA(128, EPG__REGS64, EPG__SUMS16(sums, 0), "%64", "%65");
}

/* Keeps the compiler from moving what touches the sums past here. */
template <typename Tile> static __device__ inline void epg__hold(float sums[Tile::mw][Tile::nw][4])
{
#pragma unroll
    for (int i = 0; i < Tile::mw; i++)
#pragma unroll
        for (int j = 0; j < Tile::nw; j++)
#pragma unroll
            for (int c = 0; c < 4; c++)
                asm volatile("" : "+f"(sums[i][j][c])::"memory");
}

/* What other threads' copies have put into shared memory, the tensor cores see once each has passed this and the block
 * a barrier. */
static __device__ inline void epg__tile_publish(void) { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <typename Tile>
static __device__ inline void epg__tile_begin(uint32_t stage, float sums[Tile::mw][Tile::nw][4])
{
    static_assert(Tile::mwarps == 4, "the four warps share 64 rows of weights");
    epg__hold<Tile>(sums);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (uint32_t step = 0; step < EPG__TILE_CHUNK / 16; step++)
#pragma unroll
        for (int i = 0; i < Tile::mw; i++)
            epg__multiply<Tile::nw>(sums[i], epg__operand(stage + i * 64 * EPG__TILE_ROW_BYTES + step * 32),
                                    epg__operand(stage + Tile::m * EPG__TILE_ROW_BYTES + step * 32));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    epg__hold<Tile>(sums);
}

template <typename Tile> static __device__ inline void epg__tile_end(float sums[Tile::mw][Tile::nw][4])
{
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    epg__hold<Tile>(sums);
}

#else

#define EPG__TILES_WIDE 2
#define EPG__TILES_RUN_ON 0

static __device__ inline void epg__load_4(uint32_t from, uint32_t out[4])
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(from)
                 : "memory");
}
static __device__ inline void epg__load_2(uint32_t from, uint32_t out[2])
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(out[0]), "=r"(out[1])
                 : "r"(from)
                 : "memory");
}

static __device__ inline void epg__multiply(float sum[4], const uint32_t weights[4], const uint32_t rows[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(weights[0]), "r"(weights[1]), "r"(weights[2]), "r"(weights[3]), "r"(rows[0]), "r"(rows[1]));
}

static __device__ inline uint32_t epg__place(uint32_t stage, uint32_t row, uint32_t piece)
{
    return stage + row * EPG__TILE_ROW_BYTES + (piece ^ row % 8) * 16;
}

template <typename Tile>
static __device__ inline void epg__load_rows(uint32_t stage, uint32_t step, uint32_t rows[Tile::nw * 2])
{
    const uint32_t lane = threadIdx.x % 32, first = Tile::m + threadIdx.x / 32 / Tile::mwarps * Tile::nw * 8;
    if constexpr (Tile::nw == 1) {
        epg__load_2(epg__place(stage, first + lane % 8, step * 2 + lane / 8 % 2), rows);
    } else {
#pragma unroll
        for (int i = 0; i < Tile::nw / 2; i++)
            epg__load_4(epg__place(stage, first + i * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2),
                        rows + 4 * i);
    }
}

static __device__ inline void epg__tile_publish(void) {}

template <typename Tile>
static __device__ inline void epg__tile_begin(uint32_t stage, float sums[Tile::mw][Tile::nw][4])
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 % Tile::mwarps;
#pragma unroll
    for (uint32_t step = 0; step < EPG__TILE_CHUNK / 16; step++) {
        uint32_t weights[Tile::mw][4], rows[Tile::nw * 2];
#pragma unroll
        for (int i = 0; i < Tile::mw; i++)
            epg__load_4(epg__place(stage, (i * Tile::mwarps + warp) * 16 + lane % 16, step * 2 + lane / 16),
                        weights[i]);
        epg__load_rows<Tile>(stage, step, rows);
#pragma unroll
        for (int i = 0; i < Tile::mw; i++)
#pragma unroll
            for (int j = 0; j < Tile::nw; j++)
                epg__multiply(sums[i][j], weights[i], rows + 2 * j);
    }
}

template <typename Tile> static __device__ inline void epg__tile_end(float[Tile::mw][Tile::nw][4]) {}

#endif
#endif
