// What one block of the token kernel has in shared memory, and its layer norm and matrix-vector
// products.
#pragma once

#include "attend.cuh"
#include "token_run.h"
#include "token_sync.cuh"
#include "weights.cuh"

namespace dw {

constexpr int kTokenWarps = 16;
constexpr int kTokenThreads = kTokenWarps * 32;
constexpr int kMaxTokenWidth = 1280;
constexpr int kMaxHidden = 2 * kMaxTokenWidth + 64; // of one block
constexpr int kMaxParts = 32;                       // of one head: a lane each when they merge
constexpr int kMaxItems = 32;                       // of one block
constexpr int kPerThread = (kMaxTokenWidth + kTokenThreads - 1) / kTokenThreads;

// What one block does for one head: its rows of the head's queries, keys and values, of the output
// projections, and its positions of the encoded audio.
struct Item {
    int head, part, qkv_first, qkv_num, row_first, row_num, key_first, key_num;
};

// The part that does not depend on the model; LayerWeights of each layer and the copies ahead
// follow.
struct alignas(16) TokenShared {
    float x[kMaxTokenWidth]; // the residual stream: every block has its own, all the same
    // The normalised x, in planes of 4: the 16-byte piece i of a row of weights meets columns
    // i * kColumns ..; plane p holds columns 4p .. 4p+3 of every piece, so that neighbouring
    // lanes read neighbouring 16 bytes.
    float normed[kMaxTokenWidth];
    float hidden[kMaxHidden]; // this block's part of the hidden layer, in planes
    float partials[kMaxParts * kMixedFloats];
    float head[kHead];              // a query, or what attention gave
    float key[kHead], value[kHead]; // of this token, rounded to half as in the pool
    float2 moments[kTokenWarps];
    // copied ahead, as the weights
    alignas(16) float qkv_bias[3 * kHead];
    float query_bias[kHead], hidden_bias[kMaxHidden];
    uint64_t copied[5]; // mbarriers, see token_stage.cuh
    LogitPart logit_parts[kTokenWarps * 4];
    Item items[kMaxItems];
    int32_t table[kMaxBlocks];
    int32_t token;
};

// log_columns: of the columns in one piece.
__device__ inline int plane_at(int column, int pieces, int log_columns) {
    const int piece = column >> log_columns, within = column & ((1 << log_columns) - 1);
    return ((within >> 2) * pieces + piece) * 4 + (within & 3);
}

template <dw_type kType>
constexpr int kLogColumns = kType == DW_FP16 ? 3 : kType == DW_INT8 ? 4 : 5;

// Four sums over a warp's lanes; lane i gets the sum of values[i / 8].
__device__ inline float sum_four(const float (&values)[4]) {
    const bool is_high = threadIdx.x & 16, is_odd = threadIdx.x & 8;
    float a = is_high ? values[2] : values[0], b = is_high ? values[3] : values[1];
    a += __shfl_xor_sync(0xffffffff, is_high ? values[0] : values[2], 16);
    b += __shfl_xor_sync(0xffffffff, is_high ? values[1] : values[3], 16);
    const float kept = is_odd ? b : a;
    return warp_sum<8>(kept + __shfl_xor_sync(0xffffffff, is_odd ? a : b, 8));
}

// x += sums + bias (if any) as soon as all additions are there, then normed = layer norm of x.
// between() runs before the last __syncthreads().
template <class Between>
__device__ inline void normalise(TokenShared &s, int width, int log_columns, const uint64_t *sums,
                                 int num_additions, const float *sums_bias, const Norm &norm,
                                 Between between) {
    float values[kPerThread], weight[kPerThread], bias[kPerThread], add[kPerThread];
    float2 moments = {0, 0};
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
        const int at = threadIdx.x + i * kTokenThreads;
        if (i * kTokenThreads < width && at < width) {
            weight[i] = __ldg(norm.weight + at);
            bias[i] = __ldg(norm.bias + at);
            add[i] = sums != nullptr ? __ldg(sums_bias + at) : 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
        const int at = threadIdx.x + i * kTokenThreads;
        values[i] = 0;
        if (i * kTokenThreads < width && at < width) {
            values[i] = s.x[at] + add[i];
            if (sums != nullptr) {
                values[i] += await_counted(sums + at, num_additions);
                s.x[at] = values[i];
            }
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
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
        const int at = threadIdx.x + i * kTokenThreads;
        if (i * kTokenThreads < width && at < width) {
            s.normed[plane_at(at, width >> log_columns, log_columns)] =
                (values[i] - mean) * scale * weight[i] + bias[i];
        }
    }
    between();
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

// Four rows of a matrix times the vector in planes, by a warp: lane i gets the product of row
// rows[i / 8]. row_index and first_column say which scales of the matrix belong to it.
template <dw_type kType>
__device__ inline float multiply_four(const char *const (&rows)[4], const float *planes, int pieces,
                                      const Matrix &matrix, const int (&row_index)[4], int in,
                                      int first_column) {
    float sums[4] = {};
#pragma unroll 1
    for (int piece = threadIdx.x % 32; piece < pieces; piece += 32) {
        uint4 weights[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            weights[i] = *reinterpret_cast<const uint4 *>(rows[i] + piece * 16);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float sum = multiply_piece<kType>(weights[i], planes, pieces, piece);
            if constexpr (kType == DW_INT4) {
                sum *= scale_at<kType>(matrix, row_index[i], in,
                                       first_column + piece * Packed<kType>::kColumns);
            }
            sums[i] += sum;
        }
    }
    const float sum = sum_four(sums);
    if constexpr (kType == DW_INT8) {
        const int own = threadIdx.x % 32 / 8; // no indexing: the array stays in registers
        const int index = own == 0 ? row_index[0] : own == 1 ? row_index[1]
                          : own == 2 ? row_index[2] : row_index[3];
        return sum * scale_at<kType>(matrix, index, in, 0);
    }
    return sum;
}

// Rows 0 .. num - 1, as index_of(row) of `matrix` and with their weights at row_at(row): take(row,
// index, product) once for each. A warp has one row at a time when there are few, else four.
template <dw_type kType, class IndexOf, class RowAt, class Take>
__device__ inline void multiply_rows(int num, const float *planes, int pieces, const Matrix &matrix,
                                     int in, int first_column, IndexOf index_of, RowAt row_at,
                                     Take take) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int together = num > 2 * kTokenWarps ? 4 : 1;
#pragma unroll 1
    for (int row0 = warp * together; row0 < num; row0 += kTokenWarps * together) {
        if (together == 1) {
            const int index = index_of(row0);
            const char *row = row_at(row0, index);
            float sum = 0;
#pragma unroll(kType == DW_FP16 ? 2 : 1)
            for (int piece = lane; piece < pieces; piece += 32) {
                const uint4 weights = *reinterpret_cast<const uint4 *>(row + piece * 16);
                float part = multiply_piece<kType>(weights, planes, pieces, piece);
                if constexpr (kType == DW_INT4) {
                    part *= scale_at<kType>(matrix, index, in,
                                            first_column + piece * Packed<kType>::kColumns);
                }
                sum += part;
            }
            sum = warp_sum(sum);
            if (lane == 0) {
                if constexpr (kType == DW_INT8) {
                    sum *= scale_at<kType>(matrix, index, in, 0);
                }
                take(row0, index, sum);
            }
            continue;
        }
        const char *rows[4];
        int index[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = min(row0 + i, num - 1);
            index[i] = index_of(row);
            rows[i] = row_at(row, index[i]);
        }
        const float sum = multiply_four<kType>(rows, planes, pieces, matrix, index, in, first_column);
        const int own = lane / 8;
        if (lane % 8 == 0 && row0 + own < num) {
            take(row0 + own, index_of(row0 + own), sum);
        }
    }
}

// Start of part `part` when `whole` is split into `parts`.
__device__ __host__ inline int part_start(int whole, int part, int parts) {
    return static_cast<int>(static_cast<unsigned>(whole * part) / static_cast<unsigned>(parts));
}

} // namespace dw
