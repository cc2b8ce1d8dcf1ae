// The matrix product of gemm.cu by the warpgroup instructions of sm_90a, which read both operands
// from shared memory: fp16 weights, many rows.
//
// A block has kM / 64 warpgroups; each computes 64 rows of a tile [kM, kN] in steps of 64 columns
// of k, its sums in registers. Tiles of a and weight come through a ring of kStages buffers by
// cp.async: while the products of one step run, the copies of later ones are asked for. A step's
// buffer is free again two barriers later, when every warpgroup has seen its products end.
//
// Where the tiles of [m, n] are fewer than multiprocessors, kSplit blocks of a cluster share one
// tile: each takes a part of k, and each writes a part of the rows, summed over the blocks' shared
// memory in the order of the blocks, so that results do not depend on which was first.
//
// Bytes: (m k) (n / kN) + (n k) (m / kM) halves from L2, each operand once from memory.
// Reference: plain::linear.
#include "cluster.cuh"
#include "early.cuh"
#include "gemm_epilogue.cuh"
#include "hopper.h"
#include "wgmma.cuh"

namespace dw {
namespace {

template <int kRows, int kColumns, int kBuffers, int kParts> struct TileShape {
    static constexpr int kM = kRows, kN = kColumns, kStages = kBuffers, kSplit = kParts;
    static constexpr int kThreads = kM / 64 * kWarpgroup;
    static constexpr int kA = kM * kTileRow, kB = kN * kTileRow; // halves in one buffer
    static constexpr int kShared = kStages * (kA + kB) * 2;
    // Two where shared memory allows it (1 KB a block is the system's) and threads are so few that
    // each may have 128 registers.
    static constexpr bool kHasRoom = 2 * (kShared + 1024) <= 228 * 1024;
    static constexpr int kBlocksAtOnce = kThreads <= 256 && kHasRoom ? 2 : 1;
    static_assert(kM % 64 == 0 && kN % 16 == 0 && kM % kSplit == 0 && kStages >= 3);
    static_assert(kShared <= kHopperBlockShared);
    static_assert(kM * (kN + kPad) * 4 <= kShared, "the sums take the ring's place");
};

template <class Shape, Epilogue kEpilogue>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksAtOnce)
    hopper_multiply_kernel(const __grid_constant__ Product p) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    constexpr int kM = Shape::kM, kN = Shape::kN, kStages = Shape::kStages, kSplit = Shape::kSplit;
    constexpr int kThreads = Shape::kThreads, kAhead = kStages - 2;
    extern __shared__ __align__(1024) char dynamic_shared[];
    __half *a_tiles = reinterpret_cast<__half *>(dynamic_shared);
    __half *w_tiles = a_tiles + kStages * Shape::kA;
    if (shared_address(dynamic_shared) % 1024 != 0) {
        __trap(); // the swizzle counts from multiples of 1024 bytes
    }
    const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / kWarpgroup, 0);
    const int n0 = blockIdx.x * kN, m0 = blockIdx.y * kM;
    const int batch = blockIdx.z / kSplit, part = blockIdx.z % kSplit;
    const __half *a = p.a + batch * p.a_batch_stride + m0 * p.a_stride;
    const __half *weight = static_cast<const __half *>(p.weight.data) + int64_t{n0} * p.k;
    const int all_steps = (p.k + kTileRow - 1) / kTileRow;
    const int most_steps = (all_steps + kSplit - 1) / kSplit; // of one part: the last may have none
    const int first_step = min(part * most_steps, all_steps);
    const int num_steps = min(most_steps, all_steps - first_step);

    auto fetch_a = [&](int step) {
        if (step < num_steps) {
            const int k = (first_step + step) * kTileRow;
            fetch_tile<kM, kThreads>(a_tiles + step % kStages * Shape::kA, a + k,
                                     static_cast<int>(p.a_stride), p.m - m0, p.k - k);
        }
    };
    auto fetch_weight = [&](int step) {
        if (step < num_steps) {
            const int k = (first_step + step) * kTileRow;
            fetch_tile<kN, kThreads>(w_tiles + step % kStages * Shape::kB, weight + k, p.k,
                                     p.n - n0, p.k - k);
        }
    };
#pragma unroll
    for (int step = 0; step < kAhead; step++) {
        fetch_weight(step); // which no kernel writes
    }
    await_previous();
    let_next_begin();
#pragma unroll
    for (int step = 0; step < kAhead; step++) {
        fetch_a(step);
        commit_copies();
    }
    const uint64_t a_descriptor = tile_descriptor(a_tiles + warpgroup * 64 * kTileRow);
    const uint64_t w_descriptor = tile_descriptor(w_tiles);
    float sums[kN / 2] = {};
    hold(sums);
#pragma unroll 1
    for (int step = 0; step < num_steps; step++) {
        wait_copies<kAhead - 1>();
        publish_to_wgmma();
        __syncthreads();
        const int stage = step % kStages;
        begin_products();
#pragma unroll
        for (int k = 0; k < kTileRow; k += 16) {
            WarpgroupProduct<kN>::add(sums, advance(a_descriptor, stage * Shape::kA + k),
                                      advance(w_descriptor, stage * Shape::kB + k));
        }
        commit_products();
        fetch_a(step + kAhead); // into the buffer of two steps ago
        fetch_weight(step + kAhead);
        commit_copies();
        wait_products<1>();
    }
    wait_products<0>();
    hold(sums);
    wait_copies<0>();
    __syncthreads();

    float *tile = reinterpret_cast<float *>(dynamic_shared); // over the ring
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < kN / 8; j++) {
        float *at = tile + row * (kN + kPad) + j * 8 + lane % 4 * 2;
        *reinterpret_cast<float2 *>(at) = {sums[4 * j], sums[4 * j + 1]};
        *reinterpret_cast<float2 *>(at + 8 * (kN + kPad)) = {sums[4 * j + 2], sums[4 * j + 3]};
    }
    if constexpr (kSplit == 1) {
        __syncthreads();
    } else {
        meet_cluster();
    }
    auto read = [&](int row, int column, float (&v)[8]) {
        const float *from = tile + row * (kN + kPad) + column;
        if constexpr (kSplit == 1) {
            load_eight(v, from);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                v[i] = 0;
            }
#pragma unroll
            for (int peer = 0; peer < kSplit; peer++) {
                const uint32_t address = address_at(from, peer);
                add_eight(v, load_peer4(address), load_peer4(address + 16));
            }
        }
    };
    constexpr int kOwnRows = kM / kSplit;
    write_rows<kOwnRows, kN, kThreads, kSplit == 1 ? 4 : 2>(p, kEpilogue, batch, m0, n0,
                                                           part * kOwnRows, read);
    if constexpr (kSplit > 1) {
        leave_cluster();
    }
#endif
}

template <class Shape, Epilogue kEpilogue> void launch(const Product &p, cudaStream_t stream) {
    auto *kernel = hopper_multiply_kernel<Shape, kEpilogue>;
    static const cudaError_t is_set = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kShared);
    DW_CUDA(is_set);
    LaunchShape shape;
    shape.grid = dim3((p.n + Shape::kN - 1) / Shape::kN, (p.m + Shape::kM - 1) / Shape::kM,
                      p.batch * Shape::kSplit);
    shape.block = dim3(Shape::kThreads);
    shape.shared_bytes = Shape::kShared;
    shape.is_early = begins_early(p.only_portable);
    shape.cluster = Shape::kSplit;
    launch_kernel("hopper_multiply_kernel", kernel, shape, stream, p);
}

template <class Shape> void launch_shape(const Product &p, cudaStream_t stream) {
    switch (p.epilogue) {
    case Epilogue::kHalf: return launch<Shape, Epilogue::kHalf>(p, stream);
    case Epilogue::kHalfGelu: return launch<Shape, Epilogue::kHalfGelu>(p, stream);
    case Epilogue::kAddFloat: return launch<Shape, Epilogue::kAddFloat>(p, stream);
    case Epilogue::kGeluPosition: return launch<Shape, Epilogue::kGeluPosition>(p, stream);
    case Epilogue::kCrossKv: return launch<Shape, Epilogue::kCrossKv>(p, stream);
    default: fail(DW_CUDA_ERROR, "multiply_hopper takes no such epilogue");
    }
}

} // namespace

void multiply_hopper(const Product &p, cudaStream_t stream) {
    // 1500 rows are 8 tiles of 192 with little waste, and 132 multiprocessors take 128 blocks at once.
    if (p.n >= 3072) {
        launch_shape<TileShape<192, 192, 4, 1>>(p, stream);
    } else if (p.n >= 2048) {
        launch_shape<TileShape<192, 144, 4, 1>>(p, stream);
    } else if (p.n >= 1024 || p.m > 1500) {
        launch_shape<TileShape<192, 96, 4, 1>>(p, stream);
    } else {
        launch_shape<TileShape<128, 128, 3, 2>>(p, stream);
    }
}

} // namespace dw
