// Matrix product on the tensor cores: out [m, n] = a [m, k] times the transpose of weight [n, k].
//
// A block computes a tile [kM, kN] in steps of 64 columns of k. Tiles of a and weight come through
// a ring of kStages buffers in shared memory; int8 and int4 weights are widened to halves on the
// way. Rows of a tile are 128 bytes; their eight 16-byte pieces are permuted by the row number, so
// that ldmatrix finds eight rows in different banks. Accumulation is float32.
//
// Bytes: (m k) (n / kN) + (n k) (m / kM) halves from L2, each operand once from memory.
// Reference: plain::linear.
#include "check.h"
#include "gemm_epilogue.cuh"
#include "hopper.h"

namespace dw {
namespace {

constexpr int kK = 64;

// The tile of sums, float [kM, kN + kPad] in shared memory, to where it belongs.
template <int kM, int kN, int kThreads>
__device__ inline void write_tile(const Product &p, const float *tile, int batch, int m0, int n0) {
    if (p.epilogue == Epilogue::kFloat) { // n may be odd
#pragma unroll 1
        for (int i = threadIdx.x; i < kM * kN; i += kThreads) {
            const int row = m0 + i / kN, column = n0 + i % kN;
            if (row < p.m && column < p.n) {
                static_cast<float *>(p.out)[row * p.out_stride + column] =
                    tile[i / kN * (kN + kPad) + i % kN];
            }
        }
        return;
    }
    auto read = [&](int row, int column, float (&v)[8]) {
        load_eight(v, tile + row * (kN + kPad) + column);
    };
    write_rows<kM, kN, kThreads, 1>(p, p.epilogue, batch, m0, n0, 0, read);
}

// One tile [kN, 64] of weights on its way into shared memory as halves.
template <dw_type kType, int kN, int kThreads> struct WeightTile {
    static constexpr int kColumns = Packed<kType>::kColumns;
    static constexpr int kPieces = kN * kK / kColumns; // of 16 bytes
    static constexpr int kPerThread = (kPieces + kThreads - 1) / kThreads;
    uint4 held[kType == DW_FP16 ? 1 : kPerThread];
    float scale[kType == DW_FP16 ? 1 : kPerThread];

    __device__ void fetch(const Product &p, int n0, int k0, __half *shared) {
#pragma unroll
        for (int i = 0; i < kPerThread; i++) {
            const int piece = threadIdx.x + i * kThreads;
            const int row = piece / (kK / kColumns), column = piece % (kK / kColumns) * kColumns;
            const bool is_inside =
                piece < kPieces && n0 + row < p.n && k0 + column < p.k;
            const int64_t at = is_inside ? int64_t{n0 + row} * p.k + k0 + column : 0;
            if constexpr (kType == DW_FP16) {
                copy_async(shared + swizzled(row, column / 8),
                           static_cast<const __half *>(p.weight.data) + at, is_inside);
            } else {
                held[i] = load_weights(static_cast<const char *>(p.weight.data) +
                                       (kType == DW_INT8 ? at : at / 2));
                scale[i] = is_inside ? scale_at<kType>(p.weight, n0 + row, p.k, k0 + column) : 0.0f;
            }
        }
    }

    __device__ void store(__half *shared) {
        if constexpr (kType != DW_FP16) {
#pragma unroll
            for (int i = 0; i < kPerThread; i++) {
                const int piece = threadIdx.x + i * kThreads;
                const int row = piece / (kK / kColumns);
                const int column = piece % (kK / kColumns) * kColumns;
                if (piece >= kPieces) {
                    break;
                }
                float values[kColumns];
                Packed<kType>::widen(values, held[i]);
#pragma unroll
                for (int c = 0; c < kColumns; c += 8) {
                    uint4 halves;
                    halves.x = pack_halves(values[c] * scale[i], values[c + 1] * scale[i]);
                    halves.y = pack_halves(values[c + 2] * scale[i], values[c + 3] * scale[i]);
                    halves.z = pack_halves(values[c + 4] * scale[i], values[c + 5] * scale[i]);
                    halves.w = pack_halves(values[c + 6] * scale[i], values[c + 7] * scale[i]);
                    *reinterpret_cast<uint4 *>(shared + swizzled(row, (column + c) / 8)) = halves;
                }
            }
        }
    }
};

// kM x kN: a block's tile; kWarpM x kWarpN: a warp's part of it.
template <dw_type kType, int kM, int kN, int kWarpM, int kWarpN, int kStages>
__global__ void __launch_bounds__(kM / kWarpM *kN / kWarpN * 32)
    multiply_kernel(const __grid_constant__ Product p) {
    constexpr int kThreads = kM / kWarpM * kN / kWarpN * 32;
    extern __shared__ __align__(128) char dynamic_shared[];
    __half *a_tiles = reinterpret_cast<__half *>(dynamic_shared);
    __half *w_tiles = a_tiles + kStages * kM * kK;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_m = warp / (kN / kWarpN) * kWarpM, warp_n = warp % (kN / kWarpN) * kWarpN;
    const int n0 = blockIdx.x * kN, m0 = blockIdx.y * kM, batch = blockIdx.z;
    const __half *a = p.a + batch * p.a_batch_stride;
    const int num_steps = (p.k + kK - 1) / kK;
    WeightTile<kType, kN, kThreads> weights;

    auto fetch_a = [&](int step) {
        __half *tile = a_tiles + step % kStages * kM * kK;
#pragma unroll
        for (int i = 0; i < kM * kK / 8 / kThreads; i++) {
            const int piece = threadIdx.x + i * kThreads, row = piece / 8;
            const int k = step * kK + piece % 8 * 8;
            const bool is_inside = m0 + row < p.m && k < p.k;
            copy_async(tile + swizzled(row, piece % 8),
                       is_inside ? a + (m0 + row) * p.a_stride + k : p.a, is_inside);
        }
    };
    auto w_tile = [&](int step) { return w_tiles + step % kStages * kN * kK; };

#pragma unroll
    for (int step = 0; step < kStages - 1; step++) {
        if (step < num_steps) {
            fetch_a(step);
            weights.fetch(p, n0, step * kK, w_tile(step));
            weights.store(w_tile(step));
        }
        commit_copies();
    }
    float sums[kWarpM / 16][kWarpN / 8][4] = {};
    for (int step = 0; step < num_steps; step++) {
        wait_copies<kStages - 2>();
        __syncthreads();
        const int next = step + kStages - 1;
        if (next < num_steps) {
            fetch_a(next);
            weights.fetch(p, n0, next * kK, w_tile(next));
        }
        commit_copies();
        const __half *a_tile = a_tiles + step % kStages * kM * kK;
        const __half *tile = w_tile(step);
#pragma unroll
        for (int k = 0; k < kK / 16; k++) {
            uint32_t left[kWarpM / 16][4], right[kWarpN / 16][4];
#pragma unroll
            for (int i = 0; i < kWarpM / 16; i++) {
                load_matrices(left[i],
                              a_tile + swizzled(warp_m + i * 16 + lane % 16, 2 * k + lane / 16));
            }
#pragma unroll
            for (int j = 0; j < kWarpN / 16; j++) {
                const int row = warp_n + j * 16 + lane / 16 * 8 + lane % 8;
                load_matrices(right[j], tile + swizzled(row, 2 * k + lane / 8 % 2));
            }
#pragma unroll
            for (int i = 0; i < kWarpM / 16; i++) {
#pragma unroll
                for (int j = 0; j < kWarpN / 8; j++) {
                    multiply_add(sums[i][j], left[i], right[j / 2][j % 2 * 2],
                                 right[j / 2][j % 2 * 2 + 1]);
                }
            }
        }
        if (next < num_steps) {
            weights.store(w_tile(next));
        }
    }
    wait_copies<0>();
    __syncthreads();
    float *tile = reinterpret_cast<float *>(dynamic_shared); // over the ring
#pragma unroll
    for (int i = 0; i < kWarpM / 16; i++) {
#pragma unroll
        for (int j = 0; j < kWarpN / 8; j++) {
            float *at = tile + (warp_m + i * 16 + lane / 4) * (kN + kPad) + warp_n + j * 8 +
                        lane % 4 * 2;
            *reinterpret_cast<float2 *>(at) = {sums[i][j][0], sums[i][j][1]};
            *reinterpret_cast<float2 *>(at + 8 * (kN + kPad)) = {sums[i][j][2], sums[i][j][3]};
        }
    }
    __syncthreads();
    write_tile<kM, kN, kThreads>(p, tile, batch, m0, n0);
}

template <dw_type kType, int kM, int kN, int kWarpM, int kWarpN, int kStages>
void launch(const Product &p, cudaStream_t stream) {
    constexpr int kShared = kStages * (kM + kN) * kK * 2;
    static_assert(kShared <= kOrinBlockShared);
    static_assert(kM * (kN + kPad) * 4 <= kShared);
    auto *kernel = multiply_kernel<kType, kM, kN, kWarpM, kWarpN, kStages>;
    static const cudaError_t is_set =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
    DW_CUDA(is_set);
    const dim3 grid((p.n + kN - 1) / kN, (p.m + kM - 1) / kM, p.batch);
    kernel<<<grid, kM / kWarpM * kN / kWarpN * 32, kShared, stream>>>(p);
    DW_LAUNCHED("multiply_kernel");
}

} // namespace

void multiply(const Product &p, dw_type type, cudaStream_t stream) {
    if (type == DW_FP16 && !p.only_portable && fits_hopper(p) && has_wgmma()) {
        multiply_hopper(p, stream);
        return;
    }
    // Large tiles read less and need many of them to fill a GPU; few rows want many narrow tiles.
    // The shapes are those that were fastest on an H100 for the matrices of tiny.en to turbo.
    if (type == DW_INT8) {
        launch<DW_INT8, 64, 32, 32, 16, 4>(p, stream);
    } else if (type == DW_INT4) {
        launch<DW_INT4, 64, 32, 32, 16, 4>(p, stream);
    } else if (p.m <= 64) {
        launch<DW_FP16, 64, 32, 32, 16, 4>(p, stream);
    } else if (p.n >= 1800 || p.m > 3000 || p.k > 4096) {
        launch<DW_FP16, 128, 96, 64, 48, 3>(p, stream);
    } else {
        launch<DW_FP16, 96, 64, 48, 32, 4>(p, stream);
    }
}

} // namespace dw
