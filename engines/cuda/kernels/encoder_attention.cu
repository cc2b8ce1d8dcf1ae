// The encoder's self-attention without its matrix of scores: softmax as the keys come by.
//
// A block takes 64 queries of one head. A warp takes 16 of them and every other tile of 64 keys, so
// that two warps share the same queries and their sums are put together at the end. Tiles come
// through two buffers in shared memory. Each thread keeps running maxima and sums of two query
// rows; when a maximum rises, what was summed so far shrinks accordingly. Scores and sums are
// float32.
//
// Bytes: keys and values once a block from L2, 256 a key. Operations: 256 a pair of query and key.
// Reference: plain::attend.
#include "check.h"
#include "hopper.h"
#include "launch.h"

namespace dw {
namespace {

constexpr int kQueryWarps = 4, kHalves = 2; // warps: one for each 16 queries and half of the keys
constexpr int kThreads = kQueryWarps * kHalves * 32;
constexpr int kQueries = kQueryWarps * 16;
constexpr int kKeys = 64; // that a warp takes at once
constexpr int kTile = kHalves * kKeys * kHead; // halves in one buffer
constexpr int kShared = (kQueries * kHead + 4 * kTile) * 2;
// The second half's sums, maxima and totals on their way to the first.
constexpr int kExchange = kHead / 8 * 4 + 4; // floats of one thread
static_assert(kExchange * kQueryWarps * 32 * 4 <= kShared && kShared <= kOrinBlockShared);

// Two blocks share a multiprocessor of an H100. sm_87's code would need a few more registers for
// that, and one block is enough to fill an Orin.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define DW_BLOCKS_AT_ONCE 2
#else
#define DW_BLOCKS_AT_ONCE 1
#endif

// Grid (query tiles, heads, batch).
__global__ void __launch_bounds__(kThreads, DW_BLOCKS_AT_ONCE)
    encoder_attention_kernel(__half *out, const __half *qkv, int positions, int heads) {
    extern __shared__ __align__(128) __half query_tile[];
    __half *key_tiles = query_tile + kQueries * kHead, *value_tiles = key_tiles + 2 * kTile;
    const int warp = threadIdx.x / 32 % kQueryWarps, lane = threadIdx.x % 32;
    const int half_index = threadIdx.x / 32 / kQueryWarps; // which keys
    const int width = heads * kHead, first_query = blockIdx.x * kQueries;
    const int64_t stride = 3ll * width;
    const __half *query = qkv + int64_t{blockIdx.z} * positions * stride + blockIdx.y * kHead;
    out += int64_t{blockIdx.z} * positions * width + blockIdx.y * kHead;

    // Thread t copies piece t % 8 of every 32nd row: its place in a row stays the same.
    const int own_row = threadIdx.x / 8, own_place = swizzled(own_row, threadIdx.x % 8);
    auto fetch = [&](__half *tile, const __half *from, int row0, int rows) {
        from += threadIdx.x % 8 * 8;
#pragma unroll
        for (int i = 0; i < rows * 8 / kThreads; i++) {
            const int row = row0 + own_row + i * (kThreads / 8);
            copy_async(tile + own_place + i * (kThreads / 8) * kHead,
                       from + min(row, positions - 1) * stride, row < positions);
        }
    };
    auto fetch_keys = [&](int step) {
        const int row0 = step * kHalves * kKeys;
        fetch(key_tiles + step % 2 * kTile, query + width, row0, kHalves * kKeys);
        fetch(value_tiles + step % 2 * kTile, query + 2 * width, row0, kHalves * kKeys);
        commit_copies();
    };
    fetch(query_tile, query, first_query, kQueries);
    fetch_keys(0);

    uint32_t q[kHead / 16][4];
    float sums[kHead / 8][4] = {};
    float largest[2] = {-1e30f, -1e30f}, totals[2] = {};
    const float scale = kScoreScale;
    const int num_steps = (positions + kHalves * kKeys - 1) / (kHalves * kKeys);
    for (int step = 0; step < num_steps; step++) {
        wait_copies<0>();
        __syncthreads();
        if (step + 1 < num_steps) {
            fetch_keys(step + 1);
        }
        if (step == 0) {
#pragma unroll
            for (int k = 0; k < kHead / 16; k++) {
                load_matrices(q[k], query_tile + swizzled(warp * 16 + lane % 16, 2 * k + lane / 16));
            }
        }
        const __half *keys_now = key_tiles + step % 2 * kTile + half_index * kKeys * kHead;
        const __half *values_now = value_tiles + step % 2 * kTile + half_index * kKeys * kHead;
        float scores[kKeys / 8][4] = {};
#pragma unroll
        for (int k = 0; k < kHead / 16; k++) {
#pragma unroll
            for (int j = 0; j < kKeys / 16; j++) {
                uint32_t keys[4];
                const int row = j * 16 + lane / 16 * 8 + lane % 8;
                load_matrices(keys, keys_now + swizzled(row, 2 * k + lane / 8 % 2));
                multiply_add(scores[2 * j], q[k], keys[0], keys[1]);
                multiply_add(scores[2 * j + 1], q[k], keys[2], keys[3]);
            }
        }
        // Keys of this tile that exist, if below kKeys.
        const int seen = positions - (step * kHalves + half_index) * kKeys;
        if (seen < kKeys) {
#pragma unroll
            for (int j = 0; j < kKeys / 8; j++) {
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    if (j * 8 + lane % 4 * 2 + c % 2 >= seen) {
                        scores[j][c] = -1e30f;
                    }
                }
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) { // rows lane / 4 and lane / 4 + 8
            float high = largest[half];
#pragma unroll
            for (int j = 0; j < kKeys / 8; j++) {
                high = fmaxf(high, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
            }
            high = fmaxf(high, __shfl_xor_sync(0xffffffff, high, 1));
            high = fmaxf(high, __shfl_xor_sync(0xffffffff, high, 2));
            const float shrink = exp2f((largest[half] - high) * scale);
            largest[half] = high;
            totals[half] *= shrink;
#pragma unroll
            for (int j = 0; j < kHead / 8; j++) {
                sums[j][2 * half] *= shrink;
                sums[j][2 * half + 1] *= shrink;
            }
            // Where a warp has seen no key yet, a score less `high` is only the error of rounding, and
            // may be any power of two: with this it is none.
            const float shift = fmaxf(high, -1e29f) * scale;
#pragma unroll
            for (int j = 0; j < kKeys / 8; j++) {
#pragma unroll
                for (int c = 2 * half; c < 2 * half + 2; c++) {
                    scores[j][c] = exp2f(scores[j][c] * scale - shift);
                    totals[half] += scores[j][c];
                }
            }
        }
#pragma unroll
        for (int k = 0; k < kKeys / 16; k++) {
            const uint32_t weights[4] = {pack_halves(scores[2 * k][0], scores[2 * k][1]),
                                         pack_halves(scores[2 * k][2], scores[2 * k][3]),
                                         pack_halves(scores[2 * k + 1][0], scores[2 * k + 1][1]),
                                         pack_halves(scores[2 * k + 1][2], scores[2 * k + 1][3])};
#pragma unroll
            for (int j = 0; j < kHead / 16; j++) {
                uint32_t values[4];
                const int row = k * 16 + lane % 16;
                load_matrices_transposed(values, values_now + swizzled(row, 2 * j + lane / 16));
                multiply_add(sums[2 * j], weights, values[0], values[1]);
                multiply_add(sums[2 * j + 1], weights, values[2], values[3]);
            }
        }
    }
    __syncthreads();
    float *exchange = reinterpret_cast<float *>(query_tile) + (warp * 32 + lane);
    constexpr int kStride = kQueryWarps * 32;
    if (half_index == 1) {
#pragma unroll
        for (int j = 0; j < kHead / 8 * 4; j++) {
            exchange[j * kStride] = sums[j / 4][j % 4];
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            exchange[(kHead / 2 + half) * kStride] = largest[half];
            exchange[(kHead / 2 + 2 + half) * kStride] = totals[half];
        }
    }
    __syncthreads();
    if (half_index == 1) {
        return;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float other = exchange[(kHead / 2 + half) * kStride];
        const float high = fmaxf(largest[half], other);
        const float mine = exp2f((largest[half] - high) * scale);
        const float theirs = exp2f((other - high) * scale);
        float total = totals[half] * mine + exchange[(kHead / 2 + 2 + half) * kStride] * theirs;
        total += __shfl_xor_sync(0xffffffff, total, 1);
        total += __shfl_xor_sync(0xffffffff, total, 2);
        const int row = first_query + warp * 16 + lane / 4 + 8 * half;
        if (row < positions) {
            const float inverse = 1.0f / total;
#pragma unroll
            for (int j = 0; j < kHead / 8; j++) {
                const float *from = exchange + (j * 4 + 2 * half) * kStride;
                *reinterpret_cast<__half2 *>(out + int64_t{row} * width + j * 8 + lane % 4 * 2) =
                    __floats2half2_rn((sums[j][2 * half] * mine + from[0] * theirs) * inverse,
                                      (sums[j][2 * half + 1] * mine + from[kStride] * theirs) *
                                          inverse);
            }
        }
    }
}

} // namespace

void encoder_attention(__half *out, const __half *qkv, int batch, int positions, int heads,
                       bool only_portable, cudaStream_t stream) {
    if (!only_portable && has_wgmma()) {
        encoder_attention_hopper(out, qkv, batch, positions, heads, stream);
        return;
    }
    const dim3 grid((positions + kQueries - 1) / kQueries, heads, batch);
    static const cudaError_t is_set = cudaFuncSetAttribute(
        encoder_attention_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
    DW_CUDA(is_set);
    encoder_attention_kernel<<<grid, kThreads, kShared, stream>>>(out, qkv, positions, heads);
    DW_LAUNCHED("encoder_attention_kernel");
}

} // namespace dw
