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
    static constexpr int kAhead = kStages - 2; // steps of which copies are on their way
    static constexpr int kA = kM * kTileRow, kB = kN * kTileRow; // halves in one buffer
    static constexpr int kShared = kStages * (kA + kB) * 2;
    static_assert(kM % 64 == 0 && kN % 16 == 0 && kM % kSplit == 0 && kStages >= 3);
    static_assert(kShared <= kHopperBlockShared);
    static_assert(kM * (kN + kPad) * 4 <= kShared, "the sums take the ring's place");
};

// The buffers of a block, and its part of k: where the tiles come from.
template <class Shape> struct Ring {
    __half *a_tiles, *w_tiles;
    const __half *a, *weight; // the tile's first row and the part's first column
    int a_stride, w_stride;
    int rows, columns, k; // that are left from there on
    int num_steps;        // of the part

    __device__ Ring(char *shared, const Product &p, int batch, int part, int m0, int n0) {
        const int all_steps = (p.k + kTileRow - 1) / kTileRow;
        const int most_steps = (all_steps + Shape::kSplit - 1) / Shape::kSplit;
        const int first_step = min(part * most_steps, all_steps); // the last part may have none
        num_steps = min(most_steps, all_steps - first_step);
        a_tiles = reinterpret_cast<__half *>(shared);
        w_tiles = a_tiles + Shape::kStages * Shape::kA;
        const int k0 = first_step * kTileRow;
        a = p.a + batch * p.a_batch_stride + m0 * p.a_stride + k0;
        weight = static_cast<const __half *>(p.weight.data) + int64_t{n0} * p.k + k0;
        a_stride = static_cast<int>(p.a_stride), w_stride = p.k;
        rows = p.m - m0, columns = p.n - n0, k = p.k - k0;
    }
    __device__ void fetch_a(int step) const {
        if (step < num_steps) {
            fetch_tile<Shape::kM, Shape::kThreads>(a_tiles + step % Shape::kStages * Shape::kA,
                                                   a + step * kTileRow, a_stride, rows,
                                                   k - step * kTileRow);
        }
    }
    __device__ void fetch_weight(int step) const {
        if (step < num_steps) {
            fetch_tile<Shape::kN, Shape::kThreads>(w_tiles + step % Shape::kStages * Shape::kB,
                                                   weight + step * kTileRow, w_stride, columns,
                                                   k - step * kTileRow);
        }
    }
};

// Each warpgroup's sums [64, kN] over the block's part of k. The first kAhead tiles of weights, in no
// group of copies yet, are on their way. All products and copies have ended afterwards.
template <class Shape>
__device__ inline void multiply_steps(float (&sums)[Shape::kN / 2], const Ring<Shape> &ring) {
    constexpr int kAhead = Shape::kAhead;
#pragma unroll
    for (int step = 0; step < kAhead; step++) {
        ring.fetch_a(step);
        commit_copies();
    }
    const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / kWarpgroup, 0);
    const uint64_t a_descriptor = tile_descriptor(ring.a_tiles + warpgroup * 64 * kTileRow);
    const uint64_t w_descriptor = tile_descriptor(ring.w_tiles);
    hold(sums);
#pragma unroll 1
    for (int step = 0; step < ring.num_steps; step++) {
        receive_tiles<kAhead - 1>();
        const int stage = step % Shape::kStages;
        begin_products();
#pragma unroll
        for (int k = 0; k < kTileRow; k += 16) {
            WarpgroupProduct<Shape::kN>::add(sums, advance(a_descriptor, stage * Shape::kA + k),
                                             advance(w_descriptor, stage * Shape::kB + k));
        }
        commit_products();
        ring.fetch_a(step + kAhead); // into the buffer of two steps ago
        ring.fetch_weight(step + kAhead);
        commit_copies();
        wait_products<1>();
    }
    wait_products<0>();
    hold(sums);
    wait_copies<0>();
    __syncthreads();
}

// The sums of all warpgroups into the tile, float [kM, kN + kPad].
template <int kN> __device__ inline void put_sums(float *tile, const float (&sums)[kN / 2]) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < kN / 8; j++) {
        float *at = tile + row * (kN + kPad) + j * 8 + lane % 4 * 2;
        *reinterpret_cast<float2 *>(at) = {sums[4 * j], sums[4 * j + 1]};
        *reinterpret_cast<float2 *>(at + 8 * (kN + kPad)) = {sums[4 * j + 2], sums[4 * j + 3]};
    }
}

// Eight sums of the tile at `from`, those of all parts of k together.
template <int kSplit> __device__ inline void take_sums(float (&v)[8], const float *from) {
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
}

// Grid (column tiles, row tiles, batch * kSplit), clusters of kSplit.
template <class Shape, Epilogue kEpilogue>
__global__ void __launch_bounds__(Shape::kThreads)
    hopper_multiply_kernel(const __grid_constant__ Product p) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    constexpr int kN = Shape::kN, kSplit = Shape::kSplit, kOwnRows = Shape::kM / kSplit;
    extern __shared__ __align__(1024) char dynamic_shared[];
    require_tiles_at(dynamic_shared);
    const int n0 = blockIdx.x * kN, m0 = blockIdx.y * Shape::kM;
    const int batch = blockIdx.z / kSplit, part = blockIdx.z % kSplit;
    const Ring<Shape> ring(dynamic_shared, p, batch, part, m0, n0);
#pragma unroll
    for (int step = 0; step < Shape::kAhead; step++) {
        ring.fetch_weight(step); // which no kernel writes
    }
    await_previous();
    let_next_begin();
    float sums[kN / 2] = {};
    multiply_steps<Shape>(sums, ring);

    float *tile = reinterpret_cast<float *>(dynamic_shared); // over the ring
    put_sums<kN>(tile, sums);
    if constexpr (kSplit == 1) {
        __syncthreads();
    } else {
        meet_cluster();
    }
    auto read = [&](int row, int column, float (&v)[8]) {
        take_sums<kSplit>(v, tile + row * (kN + kPad) + column);
    };
    write_rows<kOwnRows, kN, Shape::kThreads, kSplit == 1 ? 4 : 2>(p, kEpilogue, batch, m0, n0,
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
    shape.is_early = true;
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

// The fastest of 17 shapes, and below 1024 columns of 32, for the products of base.en and small.en on
// an H100: one utterance, 1500 rows, 3000 in the first convolution. Other models' products take those
// of the nearest; what more than 3000 rows take was not measured.
void multiply_hopper(const Product &p, cudaStream_t stream) {
    const int rows = p.m * p.batch;
    if (rows > 3000 && p.n < 1024) {
        launch_shape<TileShape<192, 128, 4, 1>>(p, stream);
    } else if (rows > 3000 || p.n >= 3072) {
        launch_shape<TileShape<192, 192, 4, 1>>(p, stream);
    } else if (p.n >= 2304) {
        launch_shape<TileShape<192, 144, 4, 1>>(p, stream);
    } else if (p.n >= 2048) {
        launch_shape<TileShape<192, 128, 4, 1>>(p, stream);
    } else if (p.n >= 1024 || (p.n >= 640 && rows > 1500)) {
        launch_shape<TileShape<192, 96, 5, 1>>(p, stream);
    } else if (p.n >= 640) {
        launch_shape<TileShape<192, 96, 4, 2>>(p, stream);
    } else if (p.k >= 1024) {
        launch_shape<TileShape<128, 128, 5, 2>>(p, stream);
    } else {
        launch_shape<TileShape<64, 64, 4, 1>>(p, stream);
    }
}

} // namespace dw
