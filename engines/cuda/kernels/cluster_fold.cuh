// A layer norm taken into the matrix after it, for the cluster kernel:
//
//   W (weight (x - mean) / deviation + bias) + b  =  (W' x - mean sums) / deviation + constant
//
// with W' x = W (weight x), sums = W weight and constant = W bias + b, both known when the model is
// loaded. So a product need not wait for mean and deviation, which are only known when all of x is.
#pragma once

#include "cluster_block.cuh"

namespace dw {

// The three matrices of a layer that follow a norm: which rows a block has, and how many.
template <int kHeads> struct NormedRow {
    static constexpr int kWidth = kHeads * kHead;

    __host__ __device__ static constexpr int num(int kind) {
        return kind == 0 ? 3 * kPartHead : kind == 1 ? kPartHead : kHiddenPart;
    }
    // Of the matrix: row `row` of the block. Eight rows of queries, of keys and of values; or all
    // neighbours.
    __device__ static int index(int kind, int head, int rank, int row) {
        return kind == 0   ? row / kPartHead * kWidth + head * kHead + rank * kPartHead + row % kPartHead
               : kind == 1 ? head * kHead + rank * kPartHead + row
                           : head * kHiddenPerHead + rank * kHiddenPart + row;
    }
};

// Where all of it is, in floats. A layer has the norms' weights [3, width], then for each block what
// its rows add: sums [num], constants [num], and what the weights have been divided by (and padding).
// Weights are divided by a power of two so that none is above one: x itself is known to fit a half.
template <int kHeads> struct FoldedNorms {
    using Row = NormedRow<kHeads>;
    static constexpr int kWidth = Row::kWidth;
    __host__ __device__ static constexpr int row_floats(int kind) { return 2 * Row::num(kind) + 4; }
    static constexpr int kBlockFloats = row_floats(0) + row_floats(1) + row_floats(2);
    static constexpr int kLayerFloats = 3 * kWidth + kHeads * kClusterParts * kBlockFloats;

    __host__ __device__ static constexpr int64_t weights_at(int layer, int kind) {
        return int64_t{layer} * kLayerFloats + kind * kWidth;
    }
    __host__ __device__ static constexpr int64_t rows_at(int layer, int kind, int head, int rank) {
        return weights_at(layer, 3) + (head * kClusterParts + rank) * kBlockFloats +
               (kind > 0 ? row_floats(0) : 0) + (kind > 1 ? row_floats(1) : 0);
    }
};

// Grid (layers, blocks of the clusters, 3 kinds), once when the model is loaded. A warp makes a row.
template <int kHeads>
__global__ void fold_norms_kernel(float *folded, const LayerWeights *layers) {
    using Folded = FoldedNorms<kHeads>;
    constexpr int kWidth = Folded::kWidth;
    const int kind = blockIdx.z, head = blockIdx.y / kClusterParts, rank = blockIdx.y % kClusterParts;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, num = Folded::Row::num(kind);
    const LayerWeights &w = layers[blockIdx.x];
    const Norm &norm = kind == 0 ? w.attn_norm : kind == 1 ? w.cross_norm : w.mlp_norm;
    const Matrix &matrix = kind == 0 ? w.qkv : kind == 1 ? w.cross_query : w.mlp_in;
    float *rows = folded + Folded::rows_at(blockIdx.x, kind, head, rank);
    float largest = 0;
    for (int column = lane; column < kWidth; column += 32) {
        largest = fmaxf(largest, fabsf(norm.weight[column]));
    }
    largest = warp_max(largest);
    const float scale = largest > 0 ? exp2f(ceilf(log2f(largest))) : 1.0f;
    for (int row = warp; row < num; row += kTokenWarps) {
        const int64_t index = Folded::Row::index(kind, head, rank, row);
        const __half *weights = static_cast<const __half *>(matrix.data) + index * kWidth;
        float sum = 0, constant = 0;
        for (int column = lane; column < kWidth; column += 32) {
            const float value = __half2float(weights[column]);
            sum += value * (norm.weight[column] / scale);
            constant += value * norm.bias[column];
        }
        sum = warp_sum(sum);
        constant = warp_sum(constant);
        if (lane == 0) {
            rows[row] = sum;
            rows[num + row] = constant + matrix.bias[index];
        }
    }
    if (threadIdx.x == 0) {
        rows[2 * num] = scale;
    }
    if (blockIdx.y == 0) {
        for (int column = threadIdx.x; column < kWidth; column += blockDim.x) {
            folded[Folded::weights_at(blockIdx.x, kind) + column] = norm.weight[column] / scale;
        }
    }
}

} // namespace dw
