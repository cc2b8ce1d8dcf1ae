// What one block of the token kernel has in shared memory, and its layer norm and matrix-vector
// products.
#pragma once

#include "attend.cuh"
#include "token_run.h"
#include "token_sync.cuh"
#include "weights.cuh"

namespace dw {

constexpr int kTokenWarps = 8;
constexpr int kTokenThreads = kTokenWarps * 32; // the workers; one more warp copies ahead
constexpr int kLaunchThreads = kTokenThreads + 32;
constexpr int kMaxTokenWidth = 1280;
constexpr int kMaxHidden = 2 * kMaxTokenWidth + 64; // of one block
constexpr int kMaxParts = 32;                       // of one head: a lane each when they merge
static_assert(kMaxParts * 66 <= kMaxHidden);
constexpr int kMaxItems = 32;                       // of one block
constexpr int kPerThread = (kMaxTokenWidth + kTokenThreads - 1) / kTokenThreads;

// How far ahead of the arithmetic to ask for weights, in pieces of a row. An H100 needs 32 KB a
// multiprocessor on the way to be busy, an Orin 8, and sm_87's code has no registers to spare.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kFarAhead = 1;
#else
constexpr int kFarAhead = 2;
#endif

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
    // Or, where the tensor cores multiply, the normalised x as the sum of two halves, which is
    // nearly as exact as a float: [kMaxTokenWidth] of the larger parts, then of the smaller.
    alignas(16) __half split[2 * kMaxTokenWidth];
    float hidden[kMaxHidden]; // this block's part of the hidden layer, in planes
    float partials[kMaxHidden]; // sums on their way together, of attention or of products

    float head[kHead];              // a query, or what attention gave
    float key[kHead], value[kHead]; // of this token, rounded to half as in the pool
    alignas(16) float2 moments[kTokenWarps];
    // copied ahead, as the weights
    alignas(16) float qkv_bias[3 * kHead];
    float query_bias[kHead], hidden_bias[kMaxHidden];
    uint64_t copied[5], used[5]; // mbarriers, see token_stage.cuh
    int32_t is_done;
    LogitPart logit_parts[kTokenWarps * 4];
    Item items[kMaxItems];
    int32_t table[kMaxBlocks];
    int32_t token;
};

// __syncthreads() for the workers alone: the warp that copies ahead has its own pace.
__device__ inline void workers_sync() {
    asm volatile("bar.sync 1, %0;" ::"n"(kTokenThreads) : "memory");
}

// log_columns: of the columns in one piece.
__device__ inline int plane_at(int column, int pieces, int log_columns) {
    const int piece = column >> log_columns, within = column & ((1 << log_columns) - 1);
    return ((within >> 2) * pieces + piece) * 4 + (within & 3);
}

// Of the layers' matrices: 0 says that the tensor cores multiply.
template <dw_type kType> constexpr int kLayerColumns = kType == DW_FP16 ? 0 : kType == DW_INT8 ? 4 : 5;
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


// x += sums + bias (if any) as soon as all additions are there; then the layer norm of x, split in
// halves if log_columns is 0 and else in planes. between() runs before the last workers_sync().
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
                values[i] += await_counted(sums + sum_at(at), num_additions);
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
    workers_sync();
    moments = {0, 0};
#pragma unroll
    for (int w = 0; w < kTokenWarps; w += 2) {
        const float4 two = *reinterpret_cast<const float4 *>(s.moments + w);
        moments.x += two.x + two.z;
        moments.y += two.y + two.w;
    }
    const float inverse = 1.0f / static_cast<float>(width);
    const float mean = moments.x * inverse;
    const float scale = rsqrtf(fmaxf(moments.y * inverse - mean * mean, 0.0f) + 1e-5f);
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
        const int at = threadIdx.x + i * kTokenThreads;
        if (i * kTokenThreads < width && at < width) {
            const float y = (values[i] - mean) * scale * weight[i] + bias[i];
            if (log_columns == 0) {
                const __half large = __float2half(y);
                s.split[at] = large;
                s.split[kMaxTokenWidth + at] = __float2half(y - __half2float(large));
            } else {
                s.normed[plane_at(at, width >> log_columns, log_columns)] = y;
            }
        }
    }
    between();
    workers_sync();
}

// Where the pool has a position: block_tokens is a power of two.
__device__ inline int64_t slot_of(const int32_t *table, int position, int block_tokens) {
    const int log_tokens = __ffs(block_tokens) - 1;
    return (int64_t{table[position >> log_tokens]} << log_tokens) + (position & (block_tokens - 1));
}

// Start of part `part` when `whole` is split into `parts`.
__device__ __host__ inline int part_start(int whole, int part, int parts) {
    return static_cast<int>(static_cast<unsigned>(whole * part) / static_cast<unsigned>(parts));
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

// The sums over a warp's lanes of kNum values; lane i gets that of values[i / (32 / kNum)].
template <int kNum> __device__ inline float sum_some(const float (&values)[kNum]) {
    if constexpr (kNum == 4) {
        return sum_four(values);
    } else {
        static_assert(kNum == 2);
        const bool is_high = threadIdx.x & 16;
        const float own = is_high ? values[1] : values[0];
        return warp_sum<16>(
            own + __shfl_xor_sync(0xffffffff, is_high ? values[0] : values[1], 16));
    }
}

// Rows 0 .. num - 1 of a matrix times the vector in planes, kAtOnce rows a warp at a time. Row
// `row` is index_of(row) of `matrix`, its weights are at row_at(row, index); take(row, index,
// product) is called once for each by one thread. first_column: of the rows' first weights in the
// matrix, for its scales.
template <dw_type kType, int kAtOnce, class IndexOf, class RowAt, class Take>
__device__ inline void multiply_some(int num, const float *planes, int pieces, const Matrix &matrix,
                                     int in, int first_column, IndexOf index_of, RowAt row_at,
                                     Take take) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
    for (int row0 = warp * kAtOnce; row0 < num; row0 += kTokenWarps * kAtOnce) {
        const char *rows[kAtOnce];
        int index[kAtOnce];
        float sums[kAtOnce] = {};
#pragma unroll
        for (int i = 0; i < kAtOnce; i++) {
            const int row = min(row0 + i, num - 1);
            index[i] = index_of(row);
            rows[i] = row_at(row, index[i]);
        }
#pragma unroll(kType == DW_FP16 ? 2 : 1)
        for (int piece = lane; piece < pieces; piece += 32) {
            uint4 weights[kAtOnce];
#pragma unroll
            for (int i = 0; i < kAtOnce; i++) {
                weights[i] = *reinterpret_cast<const uint4 *>(rows[i] + piece * 16);
            }
#pragma unroll
            for (int i = 0; i < kAtOnce; i++) {
                float sum = multiply_piece<kType>(weights[i], planes, pieces, piece);
                if constexpr (kType == DW_INT4) {
                    sum *= scale_at<kType>(matrix, index[i], in,
                                           first_column + piece * Packed<kType>::kColumns);
                }
                sums[i] += sum;
            }
        }
        float sum = sum_some<kAtOnce>(sums);
        const int own = row0 + lane / (32 / kAtOnce);
        if (lane % (32 / kAtOnce) == 0 && own < num) {
            const int own_index = index_of(own);
            if constexpr (kType == DW_INT8) {
                sum *= scale_at<kType>(matrix, own_index, in, 0);
            }
            take(own, own_index, sum);
        }
    }
}

// The same for fp16 weights and the normalised x in s.split, by the tensor cores. A tile is 16 rows;
// warps share its columns if there are fewer tiles than warps. The two parts of x are columns 0 and
// 1 of the right matrix, its other six are zero. Which k an element has does not matter as long as
// both sides agree, so that each lane reads 16 bytes of a row: 8 neighbours, two products.
template <class IndexOf, class RowAt, class Take>
__device__ inline void multiply_tiles(TokenShared &s, int num, int width, IndexOf index_of,
                                      RowAt row_at, Take take) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int tiles = (num + 15) / 16, chunks = width / 32;
    // Powers of two, for nothing here is as slow as a division.
    static_assert(kTokenWarps == 8);
    const int log_shares = tiles <= 1 ? 3 : tiles <= 2 ? 2 : tiles <= 4 ? 1 : 0;
    const int shares = 1 << log_shares, share = warp & (shares - 1);
    const int first = (chunks * share) >> log_shares, end = (chunks * (share + 1)) >> log_shares;
    const __half *x = s.split + (lane / 4 == 1 ? kMaxTokenWidth : 0) + lane % 4 * 8;
#pragma unroll 1
    for (int tile = warp >> log_shares; tile < tiles; tile += kTokenWarps >> log_shares) {
        const int row = min(tile * 16 + lane / 4, num - 1), other = min(row + 8, num - 1);
        const char *upper = row_at(row, index_of(row)) + lane % 4 * 16;
        const char *lower = row_at(other, index_of(other)) + lane % 4 * 16;
        float even[4] = {}, odd[4] = {};
#pragma unroll(kFarAhead)
        for (int chunk = first; chunk < end; chunk++) {
            const uint4 a = *reinterpret_cast<const uint4 *>(upper + chunk * 64);
            const uint4 b = *reinterpret_cast<const uint4 *>(lower + chunk * 64);
            uint4 right{};
            if (lane < 8) {
                right = *reinterpret_cast<const uint4 *>(x + chunk * 32);
            }
            multiply_add(even, {a.x, b.x, a.y, b.y}, right.x, right.y);
            multiply_add(odd, {a.z, b.z, a.w, b.w}, right.z, right.w);
        }
        if (lane % 4 == 0) { // columns 0 and 1 of rows lane / 4 and lane / 4 + 8
            float *to = s.partials + (share * tiles + tile) * 16 + lane / 4;
            to[0] = even[0] + even[1] + odd[0] + odd[1];
            to[8] = even[2] + even[3] + odd[2] + odd[3];
        }
    }
    workers_sync();
#pragma unroll 1
    for (int row = threadIdx.x; row < num; row += kTokenThreads) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kTokenWarps; i++) {
            sum += i < shares ? s.partials[i * tiles * 16 + row] : 0.0f;
        }
        take(row, index_of(row), sum);
    }
}

// One of the three, by the type and the number of rows.
template <dw_type kType, class IndexOf, class RowAt, class Take>
__device__ inline void multiply_normed(TokenShared &s, int num, int width, const Matrix &matrix,
                                       IndexOf index_of, RowAt row_at, Take take) {
    if constexpr (kType == DW_FP16) {
        multiply_tiles(s, num, width, index_of, row_at, take);
    } else {
        constexpr int kColumns = Packed<kType>::kColumns;
        if (num <= 2 * kTokenWarps) {
            multiply_some<kType, 2>(num, s.normed, width / kColumns, matrix, width, 0, index_of,
                                    row_at, take);
        } else {
            multiply_some<kType, 4>(num, s.normed, width / kColumns, matrix, width, 0, index_of,
                                    row_at, take);
        }
    }
}

// x = embedding of the token + positional embedding.
template <dw_type kType>
__device__ inline void load_embedding(const TokenRun &r, float *x, int64_t token, int64_t position) {
    constexpr int kColumns = Packed<kType>::kColumns;
    const char *data = static_cast<const char *>(r.embedding.data);
    const int piece = threadIdx.x;
    if (piece < r.width / kColumns) {
        float values[kColumns];
        Packed<kType>::widen(values,
                             load_weights(data + (token * (r.width / kColumns) + piece) * 16));
        const float scale = scale_at<kType>(r.embedding, token, r.width, piece * kColumns);
        const float *positional = r.positional + position * r.width + piece * kColumns;
#pragma unroll
        for (int i = 0; i < kColumns; i += 4) {
            const float4 add = __ldg(reinterpret_cast<const float4 *>(positional + i));
            *reinterpret_cast<float4 *>(x + piece * kColumns + i) = {
                values[i] * scale + add.x, values[i + 1] * scale + add.y,
                values[i + 2] * scale + add.z, values[i + 3] * scale + add.w};
        }
    }
    workers_sync();
}

} // namespace dw
