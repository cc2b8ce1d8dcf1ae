// What one block of the token kernel does with its shared memory: layer norm, rows of a
// matrix-vector product, and the copies of weights that run ahead.
#pragma once

#include "attend.cuh"
#include "token_run.h"
#include "token_sync.cuh"
#include "weights.cuh"

namespace dw {

constexpr int kTokenWarps = 16;
constexpr int kTokenThreads = kTokenWarps * 32;
constexpr int kMaxTokenWidth = 1280;
constexpr int kPerThread = (kMaxTokenWidth + kTokenThreads - 1) / kTokenThreads;

// The part of shared memory that does not depend on the model; LayerWeights of each layer and the
// copies ahead follow.
struct alignas(16) TokenShared {
    float x[kMaxTokenWidth]; // the residual stream: every block has its own, all the same
    // The normalised x, in planes of 4: the 16-byte piece i of a row of weights meets columns
    // i * kColumns ..; plane p holds columns 4p .. 4p+3 of every piece, so that neighbouring
    // lanes read neighbouring 16 bytes.
    float normed[kMaxTokenWidth];
    float partials[kTokenWarps * kMixedFloats];
    float head[kHead];          // a query, or what attention gave
    float hidden[2 * kMaxTokenWidth + 64]; // this block's part of the hidden layer
    float2 moments[kTokenWarps];
    LogitPart logit_parts[kTokenWarps * 4];
    LogitPart choice;
};

template <int kColumns> __device__ inline int plane_at(int column, int pieces) {
    const int piece = column / kColumns, within = column % kColumns;
    return (within / 4 * pieces + piece) * 4 + within % 4;
}

// x += sums (if any), then normed = layer norm of x, in planes for pieces of kColumns.
template <int kColumns>
__device__ inline void normalise(TokenShared &s, int width, const unsigned long long *sums,
                                 const Norm &norm) {
    float values[kPerThread], weight[kPerThread], bias[kPerThread];
    float2 moments = {0, 0};
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
        const int at = threadIdx.x + i * kTokenThreads;
        values[i] = 0;
        if (at < width) {
            weight[i] = __ldg(norm.weight + at);
            bias[i] = __ldg(norm.bias + at);
            values[i] = s.x[at] + (sums != nullptr ? read_fixed(sums + at) : 0.0f);
            s.x[at] = values[i];
        }
        moments.x += values[i];
        moments.y += values[i] * values[i];
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        moments.x += __shfl_xor_sync(0xffffffff, moments.x, distance);
        moments.y += __shfl_xor_sync(0xffffffff, moments.y, distance);
    }
    if (threadIdx.x % 32 == 0) {
        s.moments[threadIdx.x / 32] = moments;
    }
    __syncthreads();
    moments = {0, 0};
#pragma unroll
    for (int w = 0; w < kTokenWarps; w++) {
        moments.x += s.moments[w].x;
        moments.y += s.moments[w].y;
    }
    const float inverse = 1.0f / static_cast<float>(width);
    const float mean = moments.x * inverse;
    const float scale = rsqrtf(fmaxf(moments.y * inverse - mean * mean, 0.0f) + 1e-5f);
    const int pieces = width / kColumns;
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
        const int at = threadIdx.x + i * kTokenThreads;
        if (at < width) {
            s.normed[plane_at<kColumns>(at, pieces)] = (values[i] - mean) * scale * weight[i] + bias[i];
        }
    }
    __syncthreads();
}

// Sum of one 16-byte piece of weights times the vector in planes.
template <dw_type kType>
__device__ inline float multiply_piece(const uint4 &weights, const float *planes, int pieces,
                                       int piece) {
    constexpr int kColumns = Packed<kType>::kColumns;
    float w[kColumns];
    Packed<kType>::widen(w, weights);
    float sum = 0;
#pragma unroll
    for (int p = 0; p < kColumns / 4; p++) {
        const float4 x = *reinterpret_cast<const float4 *>(planes + (p * pieces + piece) * 4);
        sum += w[4 * p] * x.x + w[4 * p + 1] * x.y + w[4 * p + 2] * x.z + w[4 * p + 3] * x.w;
    }
    return sum;
}

// One row of a matrix times the vector in planes, by a warp. `row` is the address of the row's
// first piece, in shared or global memory; scale and its columns as in Matrix.
template <dw_type kType>
__device__ inline float multiply_row(const char *row, const float *planes, int pieces,
                                     const Matrix &matrix, int64_t row_index, int in,
                                     int first_column = 0) {
    float sum = 0;
    for (int piece = threadIdx.x % 32; piece < pieces; piece += 32) {
        const uint4 weights = *reinterpret_cast<const uint4 *>(row + piece * 16);
        const float part = multiply_piece<kType>(weights, planes, pieces, piece);
        if constexpr (kType == DW_INT4) {
            const int column = first_column + piece * Packed<kType>::kColumns;
            sum += part * scale_at<kType>(matrix, row_index, in, column);
        } else {
            sum += part;
        }
    }
    sum = warp_sum(sum);
    return kType == DW_INT8 ? sum * scale_at<kType>(matrix, row_index, in, 0) : sum;
}

// ---- copies ahead -----------------------------------------------------------------------------------

// Rows of `pieces` pieces, a warp each: row_at(i) is the address of row i.
template <class RowAt> __device__ inline void copy_rows(char *to, int rows, int pieces, RowAt row_at) {
    for (int row = threadIdx.x / 32; row < rows; row += kTokenWarps) {
        const char *from = row_at(row);
        for (int piece = threadIdx.x % 32; piece < pieces; piece += 32) {
            copy_async(to + (row * pieces + piece) * 16, from + piece * 16);
        }
    }
}

// Short rows of kPieces pieces at a stride, neighbouring threads in a row.
template <int kPieces>
__device__ inline void copy_short_rows(char *to, int rows, const char *from, int64_t stride) {
    for (int i = threadIdx.x; i < rows * kPieces; i += kTokenThreads) {
        copy_async(to + i * 16, from + i / kPieces * stride + i % kPieces * 16);
    }
}

// Start of part `part` when `whole` is split into `parts`.
__device__ __host__ inline int part_start(int whole, int part, int parts) {
    return static_cast<int>(int64_t{whole} * part / parts);
}

} // namespace dw
