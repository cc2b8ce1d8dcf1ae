// What one block of the cluster kernel has in shared memory, how blocks of a cluster hand one another
// values there, and the matrix products. sm_90 and newer; cluster_kernel.cu tells the whole.
//
// Values go to another block's shared memory with `st.async`, which counts its bytes at an mbarrier
// beside them (PTX ISA 8.x, "st.async"): whoever waits for a number of bytes has all of them.
#pragma once

#include "cluster.cuh"
#include "token_choice.cuh"
#include "token_stage.cuh"

namespace dw {

constexpr int kClusterParts = 8;    // blocks that share one head's work: the largest portable cluster
constexpr int kPartHead = kHead / kClusterParts;
constexpr int kMixedRow = 68; // floats of one partial sum of attention: 64 channels, largest, total
constexpr int kHiddenPerHead = 4 * kHead; // of the MLP's channels, whose number is 4 * 64 * heads
constexpr int kHiddenPart = kHiddenPerHead / kClusterParts;

// What a block waits for once a layer: values of the cluster's other blocks. kGotX: the residual
// stream after self-attention, cross-attention and MLP.
enum Arrival { kGotQkv, kGotQuery, kGotHidden, kGotMixed, kGotX, kArrivals = kGotX + 3 };

// What is copied ahead, in the order of its use. Each has a place in a ring, see cluster_ring.cuh.
enum Chunk {
    kQkvRows,
    kOutRows,
    kQueryRows,
    kAudioKeys,
    kCrossOutRows,
    kMlpInRows,
    kMlpOutRows,
    kChunks
};

template <int kHeads> struct alignas(128) ClusterShared {
    static constexpr int kWidth = kHeads * kHead;
    static constexpr int kSlice = kWidth / kClusterParts; // of the residual stream: a block sums it
    static constexpr int kMostRows = kSlice > kHiddenPart ? kSlice : kHiddenPart;

    float x[2][kWidth];   // the residual stream, and what it is becoming
    float normed[kWidth]; // the last layer norm, in planes (token_block.cuh)
    float last_weight[kWidth], last_bias[kWidth];
    float qkv[3 * kHead], query[kHead], hidden[kHiddenPerHead];
    float mixed[kClusterParts][kMixedRow]; // attention over the parts of the audio
    float sums[kTokenWarps][kMixedRow];    // attention of this block's warps
    float head[kHead];                     // what attention gave
    float partials[kTokenWarps][kMostRows];   // rows of a product, of each warp's columns
    float out_partials[kTokenWarps][kSlice];  // the same for the MLP's second matrix
    float slices[kHeads][kSlice];             // what each head adds to this block's slice of x
    uint64_t arrived[kArrivals], copied[kChunks], used[kChunks];
    LogitPart logit_parts[kTokenWarps * 4];
    int32_t table[kMaxBlocks];
    int32_t token, is_done;
};

// ---- clusters -------------------------------------------------------------------------------------

__device__ inline void give(float *shared, uint64_t *arrived, int peer, const float4 &v) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
                 "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(address_at(shared, peer)),
                 "r"(__float_as_uint(v.x)), "r"(__float_as_uint(v.y)), "r"(__float_as_uint(v.z)),
                 "r"(__float_as_uint(v.w)), "r"(address_at(arrived, peer))
                 : "memory");
}
__device__ inline void give(float *shared, uint64_t *arrived, int peer, const float2 &v) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 "
                 "[%0], {%1, %2}, [%3];" ::"r"(address_at(shared, peer)),
                 "r"(__float_as_uint(v.x)), "r"(__float_as_uint(v.y)),
                 "r"(address_at(arrived, peer))
                 : "memory");
}
// By one thread, once a turn: how many bytes will come. They may have begun to.
__device__ inline void expect_bytes(uint64_t *arrived, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(arrived)),
                 "r"(bytes)
                 : "memory");
}
__device__ inline void await_bytes(uint64_t *arrived, uint32_t parity) {
    uint32_t is_done = 0;
    while (!is_done) {
        asm volatile("{\n\t.reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(is_done)
                     : "r"(shared_address(arrived)), "r"(parity)
                     : "memory");
    }
}

// Two neighbouring words of send() (token_sync.cuh), from blocks of another cluster.
__device__ inline float2 receive_two(const uint64_t *words, uint32_t tag) {
    uint64_t first, second;
    do {
        asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                     : "=l"(first), "=l"(second)
                     : "l"(words)
                     : "memory");
    } while (static_cast<uint32_t>(first >> 32) != tag || static_cast<uint32_t>(second >> 32) != tag);
    return {__uint_as_float(static_cast<uint32_t>(first)),
            __uint_as_float(static_cast<uint32_t>(second))};
}

// ---- products -------------------------------------------------------------------------------------

// Rows lie this many bytes apart, so that the four rows a half-warp reads are in different banks.
__host__ __device__ constexpr int padded_row(int columns) { return columns * 2 + 32; }

// Mean and 1 / deviation of x, made by each warp for itself: no one waits for another.
template <int kWidth> __device__ inline float2 moments_of(const float *x) {
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = threadIdx.x % 32 * 4; i < kWidth; i += 128) {
        const float4 v = *reinterpret_cast<const float4 *>(x + i);
        sum += (v.x + v.y) + (v.z + v.w);
        squares += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(0xffffffff, sum, distance);
        squares += __shfl_xor_sync(0xffffffff, squares, distance);
    }
    const float mean = sum * (1.0f / kWidth);
    const float variance = fmaxf(squares * (1.0f / kWidth) - mean * mean, 0.0f);
    return {mean, rsqrtf(variance + 1e-5f)};
}

__device__ inline float4 normalise_four(const float4 &x, const float2 &moments, const float4 &weight,
                                        const float4 &bias) {
    return {(x.x - moments.x) * moments.y * weight.x + bias.x,
            (x.y - moments.x) * moments.y * weight.y + bias.y,
            (x.z - moments.x) * moments.y * weight.z + bias.z,
            (x.w - moments.x) * moments.y * weight.w + bias.w};
}

// Up to kTiles * 16 rows of fp16 weights [rows, kIn] times a vector, by the tensor cores: every warp
// takes an eighth of the columns. As in multiply_tiles (token_block.cuh), the vector is column 0 of the
// right matrix in halves and column 1 what the halves leave out, and which k an element has is arranged
// so that lanes read neighbours. The weights go to registers while the vector is not there yet.
template <int kIn, int kTiles> struct WarpRows {
    static constexpr int kShare = kIn / kTokenWarps, kSteps = kShare / 16, kStride = padded_row(kIn);
    static_assert(kShare % 16 == 0);
    uint2 weights[kTiles][kSteps][2];

    // The first column of step 0 that this lane has; it has four.
    __device__ static int first_column() { return threadIdx.x / 32 * kShare + threadIdx.x % 4 * 4; }

    // rows: a multiple of 8. What there is less than kTiles * 16 is made of other rows and not used.
    __device__ void load(const char *from, int rows) {
        from += threadIdx.x % 32 / 4 * kStride + first_column() * 2;
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++) {
            const char *upper = from + (tile * 16 < rows ? tile * 16 * kStride : 0);
            const int apart = tile * 16 + 8 < rows ? 8 * kStride : 0;
#pragma unroll
            for (int step = 0; step < kSteps; step++) {
                weights[tile][step][0] = *reinterpret_cast<const uint2 *>(upper + step * 32);
                weights[tile][step][1] = *reinterpret_cast<const uint2 *>(upper + step * 32 + apart);
            }
        }
    }

    // vector(step): columns first_column() + 16 * step and the three after. Sums over this warp's
    // columns go to partials, one for each row.
    template <class Vector> __device__ void multiply(float *partials, Vector vector) const {
        const int row = threadIdx.x % 32 / 4;
        float c[kTiles][4] = {};
#pragma unroll
        for (int step = 0; step < kSteps; step++) {
            const float4 v = vector(step);
            const __half2 low = __floats2half2_rn(v.x, v.y), high = __floats2half2_rn(v.z, v.w);
            const float2 low_back = __half22float2(low), high_back = __half22float2(high);
            const __half2 low_rest = __floats2half2_rn(v.x - low_back.x, v.y - low_back.y);
            const __half2 high_rest = __floats2half2_rn(v.z - high_back.x, v.w - high_back.y);
            const __half2 first = row == 0 ? low : low_rest, second = row == 0 ? high : high_rest;
            const uint32_t b0 = row < 2 ? *reinterpret_cast<const uint32_t *>(&first) : 0;
            const uint32_t b1 = row < 2 ? *reinterpret_cast<const uint32_t *>(&second) : 0;
#pragma unroll
            for (int tile = 0; tile < kTiles; tile++) {
                const uint2 &upper = weights[tile][step][0], &lower = weights[tile][step][1];
                multiply_add(c[tile], {upper.x, lower.x, upper.y, lower.y}, b0, b1);
            }
        }
        if (threadIdx.x % 4 == 0) {
#pragma unroll
            for (int tile = 0; tile < kTiles; tile++) {
                partials[tile * 16 + row] = c[tile][0] + c[tile][1];
                partials[tile * 16 + 8 + row] = c[tile][2] + c[tile][3];
            }
        }
    }
};

// Four neighbouring rows of that product, of all warps, plus their bias.
template <int kRows>
__device__ inline float4 sum_four_rows(const float (*partials)[kRows], int row, float4 sum) {
#pragma unroll
    for (int warp = 0; warp < kTokenWarps; warp++) {
        const float4 part = *reinterpret_cast<const float4 *>(partials[warp] + row);
        sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
    }
    return sum;
}

// ---- small things ---------------------------------------------------------------------------------

__device__ inline float4 four_at(const float *from, int index) {
    return *reinterpret_cast<const float4 *>(from + index);
}
__device__ inline void load_eight(float (&to)[8], const float *from) {
    const float4 low = four_at(from, 0), high = four_at(from, 4);
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}

// What each of eight partial sums of attention counts, and the largest score and total of all.
__device__ inline float2 weigh_rows(float (&weights)[8], const float (*rows)[kMixedRow]) {
    float2 parts[8];
    float high = -1e30f, total = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        parts[i] = *reinterpret_cast<const float2 *>(rows[i] + kHead);
        high = fmaxf(high, parts[i].x);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        weights[i] = __expf(parts[i].x - high);
        total += weights[i] * parts[i].y;
    }
    return {high, total};
}

} // namespace dw
