// The encoder's self-attention of encoder_attention.cu by the warpgroup instructions of sm_90a.
//
// A block has kGroups warpgroups of 64 queries of one head, which share tiles of kKeys keys and
// values in shared memory, two buffers of each. A warpgroup asks for the next tile's scores and for
// the sum over this tile's values together, and makes the scores into weights while the sum is on
// its way. Scores and sums are float32, in the registers where wgmma leaves them; weights are halves.
//
// Where the blocks are fewer than multiprocessors, kParts blocks of a cluster share the queries:
// each takes a part of the keys, and each writes a part of the channels, put together from the
// blocks' shared memory.
//
// Bytes: keys and values once for every 64 kGroups queries from L2, 256 a key. Operations: 256 a
// pair of query and key. Reference: plain::attend.
#include <algorithm>

#include "cluster.cuh"
#include "early.cuh"
#include "hopper.h"
#include "wgmma.cuh"

namespace dw {
namespace {

constexpr int kSums = kHead / 2;     // floats of one thread
constexpr int kExchange = kSums + 4; // the same with largest scores and totals of its two rows

template <int kWarpgroups, int kTileKeys, int kKeyParts> struct AttentionShape {
    static constexpr int kGroups = kWarpgroups, kKeys = kTileKeys, kParts = kKeyParts;
    static constexpr int kQueries = kGroups * 64, kThreads = kGroups * kWarpgroup;
    static constexpr int kTile = kKeys * kHead; // halves in one buffer
    static constexpr int kTiles = (kQueries * kHead + 4 * kTile) * 2;
    static constexpr int kShared = std::max(kTiles, kParts > 1 ? kExchange * kThreads * 4 : 0);
    // Registers allow two blocks of two warpgroups only where a tile's scores are few.
    static constexpr int kBlocksAtOnce = kGroups <= 2 && kKeys <= 64 ? 2 : 1;
    static_assert(kShared <= kHopperBlockShared);
};

// Of the two rows of queries that a thread has a part of. totals: of its own columns alone.
struct RunningRows {
    float largest[2] = {-1e30f, -1e30f}, totals[2] = {}, shrink[2];
};

// Scores of a tile of keys, of which `seen` exist, become weights; shrink is by how much what was
// summed before has to.
template <int kNum>
__device__ inline void weigh(float (&scores)[kNum], RunningRows &rows, int seen) {
    if (seen < 2 * kNum) {
#pragma unroll
        for (int i = 0; i < kNum; i++) {
            if (i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2 >= seen) {
                scores[i] = -1e30f;
            }
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) { // rows lane / 4 and lane / 4 + 8
        float high = rows.largest[half], other_high = high;
#pragma unroll
        for (int i = 2 * half; i < kNum; i += 4) {
            high = fmaxf(high, scores[i]);
            other_high = fmaxf(other_high, scores[i + 1]);
        }
        high = fmaxf(high, other_high);
        high = fmaxf(high, __shfl_xor_sync(0xffffffff, high, 1));
        high = fmaxf(high, __shfl_xor_sync(0xffffffff, high, 2));
        rows.shrink[half] = power_of_2((rows.largest[half] - high) * kScoreScale);
        rows.largest[half] = high;
        // Where no key was seen yet, a score less `high` is only the error of rounding, and may be
        // any power of two: with this it is none.
        const float shift = fmaxf(high, -1e29f) * kScoreScale;
        float total = rows.totals[half] * rows.shrink[half], other_total = 0;
#pragma unroll
        for (int i = 2 * half; i < kNum; i += 4) {
            scores[i] = power_of_2(scores[i] * kScoreScale - shift);
            scores[i + 1] = power_of_2(scores[i + 1] * kScoreScale - shift);
            total += scores[i];
            other_total += scores[i + 1];
        }
        rows.totals[half] = total + other_total;
    }
}

// The accumulator's order is that of a left operand, 16 keys for every eight values.
template <int kNum>
__device__ inline void pack(uint32_t (&weights)[kNum / 8][4], const float (&scores)[kNum]) {
#pragma unroll
    for (int i = 0; i < kNum / 2; i++) {
        weights[i / 4][i % 4] = pack_halves(scores[2 * i], scores[2 * i + 1]);
    }
}

// scores [64, kKeys] = queries [64, 64] keys^T, asked for.
template <int kKeys>
__device__ inline void ask_scores(float (&scores)[kKeys / 2], uint64_t queries, uint64_t keys) {
#pragma unroll
    for (int k = 0; k < kHead; k += 16) {
        WarpgroupProduct<kKeys>::add(scores, advance(queries, k), advance(keys, k), k > 0);
    }
    commit_products();
}
// sums [64, 64] += weights [64, kKeys] values, asked for.
template <int kSteps>
__device__ inline void ask_sums(float (&sums)[kSums], const uint32_t (&weights)[kSteps][4],
                                uint64_t values) {
#pragma unroll
    for (int k = 0; k < kSteps; k++) {
        add_product(sums, weights[k], advance(values, k * 16 * kHead));
    }
    commit_products();
}

// What the blocks of a cluster summed, put together; each writes its share of the channels.
// exchange: kExchange floats of this thread, kThreads apart.
template <int kThreads, int kParts>
__device__ inline void write_together(__half *out, const float *exchange, int part, int row0,
                                      int positions, int width) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = row0 + 8 * half;
        if (row >= positions) {
            continue; // and no load on its way that no store waits for: see leave_cluster()
        }
        float largest[kParts], factors[kParts], high = -1e30f, total = 0;
#pragma unroll
        for (int peer = 0; peer < kParts; peer++) {
            largest[peer] = load_peer(address_at(exchange + (kSums + half) * kThreads, peer));
            high = fmaxf(high, largest[peer]);
        }
#pragma unroll
        for (int peer = 0; peer < kParts; peer++) {
            factors[peer] = power_of_2((largest[peer] - high) * kScoreScale);
            total += factors[peer] *
                     load_peer(address_at(exchange + (kSums + 2 + half) * kThreads, peer));
        }
        const float inverse = 1.0f / total;
#pragma unroll
        for (int i = 0; i < (kHead / 8 + kParts - 1) / kParts; i++) {
            const int j = i * kParts + part;
            if (j < kHead / 8) {
                const float *from = exchange + (4 * j + 2 * half) * kThreads;
                float x = 0, y = 0;
#pragma unroll
                for (int peer = 0; peer < kParts; peer++) {
                    x += factors[peer] * load_peer(address_at(from, peer));
                    y += factors[peer] * load_peer(address_at(from + kThreads, peer));
                }
                *reinterpret_cast<__half2 *>(out + int64_t{row} * width + j * 8 +
                                             threadIdx.x % 4 * 2) =
                    __floats2half2_rn(x * inverse, y * inverse);
            }
        }
    }
}

// Grid (query tiles, heads, batch * kParts), clusters of kParts.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksAtOnce)
    hopper_attention_kernel(__half *out, const __half *qkv, int positions, int heads) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    constexpr int kKeys = Shape::kKeys, kParts = Shape::kParts, kThreads = Shape::kThreads;
    constexpr int kTile = Shape::kTile;
    extern __shared__ __align__(1024) __half query_tile[];
    __half *key_tiles = query_tile + Shape::kQueries * kHead, *value_tiles = key_tiles + 2 * kTile;
    if (shared_address(query_tile) % 1024 != 0) {
        __trap(); // the swizzle counts from multiples of 1024 bytes
    }
    const int batch = blockIdx.z / kParts, part = blockIdx.z % kParts;
    const int width = heads * kHead, stride = 3 * width, first_query = blockIdx.x * Shape::kQueries;
    const __half *query = qkv + int64_t{batch} * positions * stride + blockIdx.y * kHead;
    out += int64_t{batch} * positions * width + blockIdx.y * kHead;
    const int all_tiles = (positions + kKeys - 1) / kKeys;
    const int most_tiles = (all_tiles + kParts - 1) / kParts; // of one part: the last may have none
    const int first_tile = min(part * most_tiles, all_tiles);
    const int num_tiles = min(most_tiles, all_tiles - first_tile);

    auto fetch = [&](__half *tiles, int channel, int tile) {
        if (tile < num_tiles) {
            const int row0 = (first_tile + tile) * kKeys;
            fetch_tile<kKeys, kThreads>(tiles + tile % 2 * kTile,
                                        query + channel + int64_t{row0} * stride, stride,
                                        positions - row0);
        }
    };
    // Each group of copies has the values of one tile and the keys of the next.
    auto fetch_group = [&](int tile) {
        fetch(value_tiles, 2 * width, tile);
        fetch(key_tiles, width, tile + 1);
        commit_copies();
    };
    await_previous();
    let_next_begin();
    fetch_tile<Shape::kQueries, kThreads>(query_tile, query + int64_t{first_query} * stride, stride,
                                          positions - first_query);
    fetch(key_tiles, width, 0);
    commit_copies();
    fetch_group(0);

    const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / kWarpgroup, 0);
    const uint64_t queries = tile_descriptor(query_tile + warpgroup * 64 * kHead);
    const uint64_t keys = tile_descriptor(key_tiles), values = tile_descriptor(value_tiles);
    float scores[kKeys / 2] = {}, sums[kSums] = {};
    uint32_t weights[kKeys / 16][4];
    RunningRows rows;
    if (num_tiles > 0) {
        const int seen = positions - first_tile * kKeys;
        wait_copies<1>();
        publish_to_wgmma();
        __syncthreads();
        hold(scores);
        begin_products();
        ask_scores<kKeys>(scores, queries, keys);
        wait_products<0>();
        hold(scores);
        weigh(scores, rows, seen);
        pack(weights, scores);
#pragma unroll 1
        for (int tile = 0; tile + 1 < num_tiles; tile++) {
            wait_copies<0>();
            publish_to_wgmma();
            __syncthreads();
            hold(scores);
            hold(sums);
            begin_products();
            ask_scores<kKeys>(scores, queries, advance(keys, (tile + 1) % 2 * kTile));
            ask_sums(sums, weights, advance(values, tile % 2 * kTile));
            fetch_group(tile + 1); // where the keys of `tile` and the values before them were
            wait_products<1>();
            hold(scores);
            weigh(scores, rows, seen - (tile + 1) * kKeys);
            // ptxas would wait first and make the weights afterwards, with the tensor cores idle. What
            // never happens here, as totals are positive, needs all weights and stays before the wait.
            if (rows.totals[0] + rows.totals[1] < 0) {
                __nanosleep(1);
            }
            wait_products<0>();
            hold(sums);
#pragma unroll
            for (int i = 0; i < kKeys / 16; i++) {
                hold(weights[i]);
            }
#pragma unroll
            for (int i = 0; i < kSums; i++) {
                sums[i] *= rows.shrink[i / 2 % 2];
            }
            pack(weights, scores);
        }
        wait_copies<0>();
        publish_to_wgmma();
        __syncthreads();
        hold(sums);
        begin_products();
        ask_sums(sums, weights, advance(values, (num_tiles - 1) % 2 * kTile));
        wait_products<0>();
        hold(sums);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        rows.totals[half] += __shfl_xor_sync(0xffffffff, rows.totals[half], 1);
        rows.totals[half] += __shfl_xor_sync(0xffffffff, rows.totals[half], 2);
    }
    const int row0 = first_query + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    if constexpr (kParts == 1) {
#pragma unroll
        for (int i = 0; i < kSums; i += 2) {
            const int half = i / 2 % 2, row = row0 + 8 * half;
            const float inverse = 1.0f / rows.totals[half];
            if (row < positions) {
                *reinterpret_cast<__half2 *>(out + int64_t{row} * width + i / 4 * 8 +
                                             threadIdx.x % 4 * 2) =
                    __floats2half2_rn(sums[i] * inverse, sums[i + 1] * inverse);
            }
        }
    } else {
        wait_copies<0>();
        __syncthreads();
        float *exchange = reinterpret_cast<float *>(query_tile) + threadIdx.x; // over the tiles
#pragma unroll
        for (int i = 0; i < kSums; i++) {
            exchange[i * kThreads] = sums[i];
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            exchange[(kSums + half) * kThreads] = rows.largest[half];
            exchange[(kSums + 2 + half) * kThreads] = rows.totals[half];
        }
        meet_cluster();
        write_together<kThreads, kParts>(out, exchange, part, row0, positions, width);
        leave_cluster();
    }
#endif
}

template <class Shape>
void launch(__half *out, const __half *qkv, int batch, int positions, int heads,
            cudaStream_t stream) {
    auto *kernel = hopper_attention_kernel<Shape>;
    static const cudaError_t is_set = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kShared);
    DW_CUDA(is_set);
    LaunchShape shape;
    shape.grid = dim3((positions + Shape::kQueries - 1) / Shape::kQueries, heads,
                      batch * Shape::kParts);
    shape.block = dim3(Shape::kThreads);
    shape.shared_bytes = Shape::kShared;
    shape.is_early = begins_early(false);
    shape.cluster = Shape::kParts;
    launch_kernel("hopper_attention_kernel", kernel, shape, stream, out, qkv, positions, heads);
}

} // namespace

void encoder_attention_hopper(__half *out, const __half *qkv, int batch, int positions, int heads,
                              cudaStream_t stream) {
    // With 8 heads of 1500 positions: 128 blocks for 132 multiprocessors, each with half of the keys.
    int device, processors;
    DW_CUDA(cudaGetDevice(&device));
    DW_CUDA(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    const int tiles = (positions + 191) / 192 * heads * batch;
    if (2 * tiles <= processors) {
        launch<AttentionShape<3, 128, 2>>(out, qkv, batch, positions, heads, stream);
    } else {
        launch<AttentionShape<3, 128, 1>>(out, qkv, batch, positions, heads, stream);
    }
}

} // namespace dw
