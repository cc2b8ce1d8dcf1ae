// What one block of the token kernel has in shared memory, and its layer norm.
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

// What one block does for one head: its rows of the head's queries, keys and values, of the output
// projections, and its positions of the encoded audio.
struct Item {
    int head, part, qkv_first, qkv_num, row_first, row_num, key_first, key_num;
};

// The part that does not depend on the model; LayerWeights of each layer and the copies ahead
// follow.
struct alignas(16) TokenShared {
    float x[kMaxTokenWidth]; // the residual stream: every block has its own, all the same
    // The normalised x as the sum of two halves, which is nearly as exact as a float: see put_halves().
    alignas(16) __half split[2 * kMaxTokenWidth];
    // This block's part of the hidden layer, and where its rows of the second matrix are long the same as
    // two halves: [kMaxHidden] of each.
    alignas(16) float hidden[kMaxHidden];
    float partials[kMaxHidden]; // sums on their way together, of attention or of products

    float query[kHead];
    alignas(16) __half mixed[2 * kHead]; // what attention gave, as two halves
    float key[kHead], value[kHead]; // of this token, rounded to half as in the pool
    alignas(16) float2 moments[kTokenWarps];
    // copied ahead, as the weights
    alignas(16) float qkv_bias[3 * kHead];
    float query_bias[kHead], hidden_bias[kMaxHidden];
    uint64_t copied[5], used[5]; // mbarriers, see token_stage.cuh
    int32_t is_done;
    LogitPart logit_parts[kTokenWarps * 4];
    Item items[kMaxItems];
    int32_t num_items;
    int32_t table[kMaxBlocks];
    int32_t token;
    int32_t hidden_first, hidden_num; // this block's channels of the hidden layer
};

// __syncthreads() for the workers alone: the warp that copies ahead has its own pace.
__device__ inline void workers_sync() {
    asm volatile("bar.sync 1, %0;" ::"n"(kTokenThreads) : "memory");
}

// The tensor cores' right matrix has the larger parts of a vector in its even columns, and in its odd ones
// what those leave out: which of them this lane gives.
__device__ inline bool has_rest() { return threadIdx.x & 4; }

// One column of a vector as the tensor cores want it: the larger part, which fits a half, and kRest halves
// further what that leaves out.
template <int kRest> __device__ inline void put_halves(__half *vector, int column, float value) {
    const __half larger = __float2half_rn(value);
    vector[column] = larger;
    vector[kRest + column] = __float2half_rn(value - __half2float(larger));
}

// x += sums + bias (if any) as soon as all additions are there; then the layer norm of x to
// s.split. between() runs before the last workers_sync().
template <class Between>
__device__ inline void normalise(TokenShared &s, int width, const uint64_t *sums, int num_additions,
                                 const float *sums_bias, const Norm &norm, Between between) {
    const int thread = thread_again();
    float values[kPerThread], weight[kPerThread], bias[kPerThread], add[kPerThread];
    float2 moments = {0, 0};
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
        const int at = thread + i * kTokenThreads;
        if (i * kTokenThreads < width && at < width) {
            weight[i] = __ldg(norm.weight + at);
            bias[i] = __ldg(norm.bias + at);
            add[i] = sums != nullptr ? __ldg(sums_bias + at) : 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
        const int at = thread + i * kTokenThreads;
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
    if (thread % 32 == 0) {
        s.moments[thread / 32] = moments;
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
        const int at = thread + i * kTokenThreads;
        if (i * kTokenThreads < width && at < width) {
            put_halves<kMaxTokenWidth>(s.split, at, (values[i] - mean) * scale * weight[i] + bias[i]);
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
