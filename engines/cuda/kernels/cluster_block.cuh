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
constexpr int kMostPartKeys = 6; // of the audio, for eight lanes of a block
constexpr int kMostAudioKeys = kMostPartKeys * kTokenThreads / 8 * kClusterParts;
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
    alignas(16) __half normed[2 * kWidth]; // the last layer norm: larger parts, then the rest
    float last_weight[kWidth], last_bias[kWidth];
    float qkv[3 * kHead], query[kHead], hidden[kHiddenPerHead];
    alignas(16) __half head[2 * kHead]; // what attention gave: larger parts, then the rest
    // Attention of this block's warps, and over the parts of the audio of the cluster's blocks.
    float mixed[2][kClusterParts][kMixedRow];
    float partials[kTokenWarps][kMostRows];   // rows of a product, of each warp's columns
    float out_partials[kTokenWarps][kSlice];  // the same for the MLP's second matrix
    alignas(16) float2 moments[kTokenWarps];  // of x: sums, and of squares, of each warp's columns
    float slices[kHeads][kSlice];             // what each head adds to this block's slice of x
    uint64_t arrived[kArrivals], copied[kChunks], used[kChunks], done; // mbarriers
    LogitPart logit_parts[kTokenWarps * 4];
    int32_t table[kMaxBlocks];
    int32_t token;
};

// ---- clusters -------------------------------------------------------------------------------------

// How far from this block's shared memory that of block `peer` is.
__device__ inline uint32_t distance_to(const void *shared, int peer) {
    return address_at(shared, peer) - shared_address(shared);
}
// To where the block `distance` away has `shared`; counted at its `arrived`. Sixteen bytes where it can
// be: it is the number of these that takes time.
__device__ inline void give(float *shared, uint64_t *arrived, uint32_t distance, const float2 &v) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 "
                 "[%0], {%1, %2}, [%3];" ::"r"(shared_address(shared) + distance),
                 "r"(__float_as_uint(v.x)), "r"(__float_as_uint(v.y)),
                 "r"(shared_address(arrived) + distance)
                 : "memory");
}
__device__ inline void give(float *shared, uint64_t *arrived, uint32_t distance, const float4 &v) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
                 "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(shared_address(shared) + distance),
                 "r"(__float_as_uint(v.x)), "r"(__float_as_uint(v.y)), "r"(__float_as_uint(v.z)),
                 "r"(__float_as_uint(v.w)), "r"(shared_address(arrived) + distance)
                 : "memory");
}
// By one thread, once a turn: how many bytes will come. They may have begun to.
__device__ inline void expect_bytes(uint64_t *arrived, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(arrived)),
                 "r"(bytes)
                 : "memory");
}
// The same as has_turned_yet(), after a while of waiting for it. Not with
// .acquire.cluster, which invalidates L1 each time: what arrives is in this block's own memory.
__device__ inline uint32_t has_turned(uint64_t *barrier, uint32_t parity) {
    uint32_t is_done;
    asm volatile("{\n\t.reg .pred p;\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                 "selp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(is_done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return is_done;
}
__device__ inline void await_bytes(uint64_t *arrived, uint32_t parity) {
    while (!has_turned(arrived, parity)) {
    }
}

// kNum words of send() (token_sync.cuh), from blocks of other clusters, to shared memory. A thread asks
// for all of its words at once, and a warp for neighbours: words one after the other would each take the
// way to the L2 cache and back, and words far apart took twice as long.
template <int kNum> __device__ inline void receive_words(float *to, const uint64_t *words, uint32_t tag) {
    constexpr int kApart = kTokenThreads * 2, kTimes = (kNum + kApart - 1) / kApart;
    const int first = threadIdx.x * 2;
    uint64_t pairs[kTimes][2];
    bool is_missing;
    do {
        is_missing = false;
#pragma unroll
        for (int i = 0; i < kTimes; i++) {
            if (first + i * kApart < kNum) {
                asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                             : "=l"(pairs[i][0]), "=l"(pairs[i][1])
                             : "l"(words + first + i * kApart)
                             : "memory");
            }
        }
#pragma unroll
        for (int i = 0; i < kTimes; i++) {
            is_missing |= first + i * kApart < kNum &&
                          (static_cast<uint32_t>(pairs[i][0] >> 32) != tag ||
                           static_cast<uint32_t>(pairs[i][1] >> 32) != tag);
        }
    } while (is_missing);
#pragma unroll
    for (int i = 0; i < kTimes; i++) {
        if (first + i * kApart < kNum) {
            *reinterpret_cast<float2 *>(to + first + i * kApart) = {
                __uint_as_float(static_cast<uint32_t>(pairs[i][0])),
                __uint_as_float(static_cast<uint32_t>(pairs[i][1]))};
        }
    }
}

// ---- products -------------------------------------------------------------------------------------

// Rows lie this many bytes apart, so that the words of eight rows that a warp reads at once are in
// different banks.
__host__ __device__ constexpr int padded_row(int columns) { return columns * 2 + 16; }

// Mean and 1 / deviation.
__device__ inline float2 mean_and_scale(float sum, float squares, int num) {
    const float share = 1.0f / static_cast<float>(num), mean = sum * share;
    return {mean, rsqrtf(fmaxf(squares * share - mean * mean, 0.0f) + 1e-5f)};
}
// Mean and 1 / deviation of x, made by each warp for itself: no one waits for another.
template <int kWidth> __device__ inline float2 moments_of(const float *x) {
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = threadIdx.x % 32 * 4; i < kWidth; i += 128) {
        const float4 v = four_at(x, i);
        sum += (v.x + v.y) + (v.z + v.w);
        squares += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(0xffffffff, sum, distance);
        squares += __shfl_xor_sync(0xffffffff, squares, distance);
    }
    return mean_and_scale(sum, squares, kWidth);
}

// The same from sums of each warp, see ClusterShared::moments.
template <int kWidth> __device__ inline float2 merge_moments(const float2 (&warps)[kTokenWarps]) {
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < kTokenWarps; i += 2) {
        const float4 two = *reinterpret_cast<const float4 *>(warps + i);
        sum += two.x + two.z;
        squares += two.y + two.w;
    }
    return mean_and_scale(sum, squares, kWidth);
}

// A vector is column 0 of the right matrix in halves, the larger parts, and column 1 what those leave
// out; the other six columns repeat them. The results' even and odd columns are added.

// Two neighbouring columns of the vector, of the two parts the one that this lane gives.
__device__ inline uint32_t split_two(float x, float y) {
    const __half2 larger = __floats2half2_rn(x, y);
    const float2 back = __half22float2(larger);
    return has_rest() ? pack_halves(x - back.x, y - back.y) : *reinterpret_cast<const uint32_t *>(&larger);
}

__device__ inline uint32_t word_at(const char *from) { return *reinterpret_cast<const uint32_t *>(from); }

// Up to kTiles * 16 rows of fp16 weights [rows, kIn] times a vector, by the tensor cores: every warp
// takes an eighth of the columns. The weights go to registers while the vector is not there yet.
template <int kIn, int kTiles> struct WarpRows {
    static constexpr int kShare = kIn / kTokenWarps, kSteps = kShare / 16, kStride = padded_row(kIn);
    static_assert(kShare % 16 == 0);
    uint32_t weights[kTiles][kSteps][4];

    // The first column of step 0 that this lane has; it has four: also the next, and both eight further.
    __device__ static int first_column() { return threadIdx.x / 32 * kShare + threadIdx.x % 4 * 2; }

    // rows: a multiple of 8. What there is less than kTiles * 16 is made of other rows and not used.
    __device__ void load(const char *from, int rows) {
        from += threadIdx.x % 32 / 4 * kStride + first_column() * 2;
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++) {
            const char *upper = from + (tile * 16 < rows ? tile * 16 * kStride : 0);
            const int apart = tile * 16 + 8 < rows ? 8 * kStride : 0;
#pragma unroll
            for (int step = 0; step < kSteps; step++) {
#pragma unroll
                for (int k = 0; k < 2; k++) { // in the tensor cores' order, or they would have to be moved
                    weights[tile][step][2 * k] = word_at(upper + step * 32 + k * 16);
                    weights[tile][step][2 * k + 1] = word_at(upper + step * 32 + k * 16 + apart);
                }
            }
        }
    }

    // vector(step): this lane's columns of a step, see pairs_at(). Sums over this warp's columns go to
    // partials, one for each row.
    template <class Vector> __device__ void multiply(float *partials, Vector vector) const {
        const int row = threadIdx.x % 32 / 4;
        float c[kTiles][4] = {};
#pragma unroll
        for (int step = 0; step < kSteps; step++) {
            const float4 v = vector(step);
            const uint32_t b0 = split_two(v.x, v.y), b1 = split_two(v.z, v.w);
#pragma unroll
            for (int tile = 0; tile < kTiles; tile++) {
                multiply_add(c[tile], weights[tile][step], b0, b1);
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

// kRows rows of 64 fp16 weights times a vector: a warp takes eight or sixteen whole rows. Warps beyond
// the rows take the last ones again. Which k an element has is arranged so that lanes read neighbours.
template <int kRows> struct HeadRows {
    static constexpr int kEights = kRows > 8 * kTokenWarps ? 2 : 1; // of rows, in a warp
    static_assert(kRows % (8 * kEights) == 0 && kRows <= 16 * kTokenWarps);
    uint4 weights[kEights][2];

    __device__ static int first_row() {
        return min(static_cast<int>(threadIdx.x) / 32, kRows / (8 * kEights) - 1) * 8 * kEights +
               threadIdx.x % 32 / 4;
    }
    // The row of which this lane has the sum, and whether it is the one lane that has.
    __device__ static int row() { return first_row() + threadIdx.x % 4 % kEights * 8; }
    __device__ static bool has_sum() {
        return threadIdx.x / 32 * 8 * kEights < kRows && threadIdx.x % 4 < kEights;
    }

    __device__ void load(const char *from) {
        from += first_row() * kHead * 2 + threadIdx.x % 4 * 16;
#pragma unroll
        for (int i = 0; i < kEights; i++) {
            weights[i][0] = *reinterpret_cast<const uint4 *>(from + i * 8 * kHead * 2);
            weights[i][1] = *reinterpret_cast<const uint4 *>(from + i * 8 * kHead * 2 + 32 * 2);
        }
    }
    // vector: half [2][64], in shared memory.
    __device__ float multiply(const __half *vector) const {
        const uint4 *v = reinterpret_cast<const uint4 *>(vector + has_rest() * kHead +
                                                         threadIdx.x % 4 * 8);
        float c[4] = {};
#pragma unroll
        for (int i = 0; i < 2; i++) { // columns 32 i + 8 (lane % 4) and the seven after
            const uint4 &upper = weights[0][i], &lower = weights[kEights - 1][i], b = v[i * 4];
            multiply_add(c, {upper.x, lower.x, upper.y, lower.y}, b.x, b.y);
            multiply_add(c, {upper.z, lower.z, upper.w, lower.w}, b.z, b.w);
        }
        return threadIdx.x % 4 % kEights == 0 ? c[0] + c[1] : c[2] + c[3];
    }
};

// Two neighbouring rows of a WarpRows product, of all warps.
template <int kRows>
__device__ inline float2 sum_two_rows(const float (*partials)[kRows], int row) {
    float2 sum{};
#pragma unroll
    for (int warp = 0; warp < kTokenWarps; warp++) {
        const float2 part = two_at(partials[warp], row);
        sum.x += part.x, sum.y += part.y;
    }
    return sum;
}

// ---- small things ---------------------------------------------------------------------------------

// What WarpRows wants of a vector: two neighbours, and two eight further.
__device__ inline float4 pairs_at(const float *from, int index) {
    const float2 low = two_at(from, index), high = two_at(from, index + 8);
    return {low.x, low.y, high.x, high.y};
}
// What each of eight partial sums of attention counts, and the largest score and total of all.
__device__ inline float2 weigh_rows(float (&weights)[8], const float (*rows)[kMixedRow]) {
    float2 parts[8];
    float high = -1e30f, total = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        parts[i] = two_at(rows[i], kHead);
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
