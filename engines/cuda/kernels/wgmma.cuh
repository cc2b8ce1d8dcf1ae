// Products by warpgroups, four warps together, with operands in shared memory: `wgmma` of sm_90a,
// which no other architecture has (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions").
//
// A tile in shared memory has rows of 64 halves, 128 bytes, whose eight 16-byte pieces are permuted
// by the row number: the "128-byte swizzle", as long as the tile begins at a multiple of 1024 bytes.
// Eight rows, 1024 bytes, are what a descriptor counts as one.
//
//   a, or b as [n, k]:  rows are m or n, k is along the row; 16 columns on is 32 bytes on
//   b as [k, n = 64]:   rows are k, n is along the row ("transposed"); 16 rows on is 2048 bytes on
//
// Accumulators are float32: lane of warp w (of 4) has rows 16 w + lane / 4 (+ 8) and in each eight
// columns lane % 4 * 2 (+ 1), four values for every eight columns, in the order of multiply_add().
#pragma once

#include "device.cuh"

namespace dw {

constexpr int kTileRow = 64; // halves
constexpr int kWarpgroup = 128;

// Tiles count their swizzle from multiples of 1024 bytes: a kernel that uses them begins with this.
__device__ inline void require_tiles_at(const void *dynamic_shared) {
    if (shared_address(dynamic_shared) % 1024 != 0) {
        __trap();
    }
}

// From the lowest bit: address / 16; a stride that these tiles do not use; 1024 bytes / 16 from eight
// rows to the next; the 128-byte swizzle.
__device__ inline uint64_t tile_descriptor(const __half *tile) {
    return static_cast<uint64_t>(shared_address(tile) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
// `halves` further on; a multiple of 8.
__device__ inline uint64_t advance(uint64_t descriptor, int halves) {
    return descriptor + static_cast<uint64_t>(halves / 8);
}

// What all threads copied, but for each one's last kPending groups, is there for products afterwards,
// which do not read shared memory the way threads write it.
template <int kPending> __device__ inline void receive_tiles() {
    wait_copies<kPending>();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
}

// Around products: registers that were written before are there for them; what was asked for since
// becomes one group; all groups but the last kPending are done.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending> __device__ inline void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// The compiler does not know that products use registers after their instruction: neither reads
// nor writes of these may move across this.
template <int kNum> __device__ inline void hold(float (&registers)[kNum]) {
#pragma unroll
    for (int i = 0; i < kNum; i++) {
        asm volatile("" : "+f"(registers[i])::"memory");
    }
}
template <int kNum> __device__ inline void hold(uint32_t (&registers)[kNum][4]) {
#pragma unroll
    for (int i = 0; i < 4 * kNum; i++) {
        asm volatile("" : "+r"(registers[i / 4][i % 4])::"memory");
    }
}

// Thread t of the block copies piece t % 8 of rows t / 8, t / 8 + kThreads / 8, ...; rows from
// `rows` and columns from `columns` on become zeros.
template <int kRows, int kThreads>
__device__ inline void fetch_tile(__half *tile, const __half *from, int stride, int rows,
                                  int columns = kTileRow) {
    constexpr int kStep = kThreads / 8;
    static_assert(kStep % 8 == 0); // a piece's place in the row stays the same
    const int own_row = threadIdx.x / 8, piece = threadIdx.x % 8;
    tile += swizzled(own_row, piece);
#pragma unroll
    for (int i = 0; i < (kRows + kStep - 1) / kStep; i++) {
        const int row = own_row + i * kStep;
        if (kRows % kStep == 0 || row < kRows) {
            const bool is_inside = row < rows && piece * 8 < columns;
            copy_async(tile + i * kStep * kTileRow, from + (is_inside ? row * stride + piece * 8 : 0),
                       is_inside);
        }
    }
}

// d [64, kN] += a [64, 16] b [kN, 16], both by descriptor; without what was in d if !keep.
template <int kN> struct WarpgroupProduct;

// Operands of one instruction in eights: asm takes no arrays.
#define DW_NAMES_0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define DW_NAMES_1 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define DW_NAMES_2 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define DW_NAMES_3 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define DW_NAMES_4 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define DW_NAMES_5 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define DW_NAMES_6 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define DW_NAMES_7 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define DW_NAMES_8 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define DW_NAMES_9 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define DW_NAMES_10 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define DW_NAMES_11 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define DW_EIGHT(i)                                                                                \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define DW_WARPGROUP_PRODUCT(N, NAMES, A, B, KEEP, ...)                                            \
    template <> struct WarpgroupProduct<N> {                                                       \
        __device__ static void add(float (&d)[N / 2], uint64_t a, uint64_t b, int keep = 1) {      \
            asm volatile("{\n\t.reg .pred keep;\n\tsetp.ne.b32 keep, " KEEP ", 0;\n\t"               \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" NAMES "}, " A  \
                         ", " B ", keep, 1, 1, 0, 0;\n\t}"                                         \
                         : __VA_ARGS__                                                             \
                         : "l"(a), "l"(b), "r"(keep));                                             \
        }                                                                                          \
    };
DW_WARPGROUP_PRODUCT(64,
                     DW_NAMES_0 DW_NAMES_1 DW_NAMES_2 DW_NAMES_3,
                     "%32", "%33", "%34",
                     DW_EIGHT(0), DW_EIGHT(8), DW_EIGHT(16), DW_EIGHT(24))
DW_WARPGROUP_PRODUCT(96,
                     DW_NAMES_0 DW_NAMES_1 DW_NAMES_2 DW_NAMES_3 DW_NAMES_4 DW_NAMES_5,
                     "%48", "%49", "%50",
                     DW_EIGHT(0), DW_EIGHT(8), DW_EIGHT(16), DW_EIGHT(24), DW_EIGHT(32),
                     DW_EIGHT(40))
DW_WARPGROUP_PRODUCT(128,
                     DW_NAMES_0 DW_NAMES_1 DW_NAMES_2 DW_NAMES_3 DW_NAMES_4 DW_NAMES_5 DW_NAMES_6
                     DW_NAMES_7,
                     "%64", "%65", "%66",
                     DW_EIGHT(0), DW_EIGHT(8), DW_EIGHT(16), DW_EIGHT(24), DW_EIGHT(32),
                     DW_EIGHT(40), DW_EIGHT(48), DW_EIGHT(56))
DW_WARPGROUP_PRODUCT(144,
                     DW_NAMES_0 DW_NAMES_1 DW_NAMES_2 DW_NAMES_3 DW_NAMES_4 DW_NAMES_5 DW_NAMES_6
                     DW_NAMES_7 DW_NAMES_8,
                     "%72", "%73", "%74",
                     DW_EIGHT(0), DW_EIGHT(8), DW_EIGHT(16), DW_EIGHT(24), DW_EIGHT(32),
                     DW_EIGHT(40), DW_EIGHT(48), DW_EIGHT(56), DW_EIGHT(64))
DW_WARPGROUP_PRODUCT(192,
                     DW_NAMES_0 DW_NAMES_1 DW_NAMES_2 DW_NAMES_3 DW_NAMES_4 DW_NAMES_5 DW_NAMES_6
                     DW_NAMES_7 DW_NAMES_8 DW_NAMES_9 DW_NAMES_10 DW_NAMES_11,
                     "%96", "%97", "%98",
                     DW_EIGHT(0), DW_EIGHT(8), DW_EIGHT(16), DW_EIGHT(24), DW_EIGHT(32),
                     DW_EIGHT(40), DW_EIGHT(48), DW_EIGHT(56), DW_EIGHT(64), DW_EIGHT(72),
                     DW_EIGHT(80), DW_EIGHT(88))
#undef DW_WARPGROUP_PRODUCT

// d [64, 64] += a [64, 16] b [16, 64]: a in registers, in the order of multiply_add(), b by rows of k.
__device__ inline void add_product(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
    asm volatile("{\n\t.reg .pred keep;\n\tsetp.ne.b32 keep, 1, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" DW_NAMES_0 DW_NAMES_1
                     DW_NAMES_2 DW_NAMES_3 "}, {%32,%33,%34,%35}, %36, keep, 1, 1, 1;\n\t}"
                 : DW_EIGHT(0), DW_EIGHT(8), DW_EIGHT(16), DW_EIGHT(24)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#undef DW_EIGHT

} // namespace dw
