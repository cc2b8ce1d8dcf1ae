// The encoder's self-attention of encoder_attention.cu by the warpgroup instructions of sm_90a.
//
// A block has kGroups warpgroups of 64 queries of one head, which share tiles of kKeys keys and
// values in shared memory, two buffers of each. A warpgroup asks for the next tile's scores and for
// the sum over this tile's values together, and makes the scores into weights while the sum is on
// its way. Scores and sums are float32, in the registers where wgmma leaves them; weights are halves.
//
// Two blocks of a cluster share the queries: each takes half of the keys, and each writes half of
// the channels, put together from both blocks' shared memory.
//
// Bytes: keys and values once for every 64 kGroups queries from L2, 256 a key. Operations: 256 a
// pair of query and key. Reference: plain::attend.
#include "cluster.cuh"
#include "early.cuh"
#include "hopper.h"
#include "wgmma.cuh"

namespace dw {
namespace {

constexpr int kParts = 2;            // blocks that share queries
constexpr int kSums = kHead / 2;     // floats of one thread
constexpr int kExchange = kSums + 4; // the same with largest scores and totals of its two rows

template <int kWarpgroups, int kTileKeys> struct AttentionShape {
    static constexpr int kGroups = kWarpgroups, kKeys = kTileKeys;
    static constexpr int kQueries = kGroups * 64, kThreads = kGroups * kWarpgroup;
    static constexpr int kTile = kKeys * kHead; // halves in one buffer
    static constexpr int kShared = (kQueries * kHead + 4 * kTile) * 2;
    static_assert(kShared <= kHopperBlockShared);
    static_assert(kExchange * kThreads * 4 <= kShared, "sums take the tiles' place");
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
        const float shift = high * kScoreScale; // every tile has a key
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

// What a block reads: its queries of one head, and its half of the keys and values.
template <class Shape> struct Tiles {
    __half *queries, *keys, *values; // the last two: two buffers of each
    const __half *from;              // queries of the head, from the utterance's first on
    int width, positions;
    int first_key, num; // of the block's tiles of keys

    __device__ Tiles(__half *shared, const __half *queries_of_head, int part, int width,
                     int positions)
        : queries(shared), keys(queries + Shape::kQueries * kHead), values(keys + 2 * Shape::kTile),
          from(queries_of_head), width(width), positions(positions) {
        const int all = (positions + Shape::kKeys - 1) / Shape::kKeys;
        const int most = (all + kParts - 1) / kParts, first = min(part * most, all);
        first_key = first * Shape::kKeys;
        num = min(most, all - first); // the second part of a single tile is none
    }
    // kRows rows from row0 on; channel: 0, width or 2 * width for queries, keys or values.
    template <int kRows> __device__ void fetch(__half *tile, int channel, int row0) const {
        fetch_tile<kRows, Shape::kThreads>(tile, from + channel + int64_t{row0} * 3 * width,
                                           3 * width, positions - row0);
    }
    __device__ void fetch_keys(int tile) const {
        if (tile < num) {
            fetch<Shape::kKeys>(keys + tile % 2 * Shape::kTile, width,
                                first_key + tile * Shape::kKeys);
        }
    }
    // The values of one tile and the keys of the next.
    __device__ void fetch_group(int tile) const {
        if (tile < num) {
            fetch<Shape::kKeys>(values + tile % 2 * Shape::kTile, 2 * width,
                                first_key + tile * Shape::kKeys);
        }
        fetch_keys(tile + 1);
        commit_copies();
    }
};

// A warpgroup's sums of weighted values over all tiles, of which there is at least one. Queries with
// the first keys, then the first values with the second keys, are on their way.
template <class Shape>
__device__ inline void attend(float (&sums)[kSums], RunningRows &rows, const Tiles<Shape> &tiles) {
    constexpr int kKeys = Shape::kKeys, kTile = Shape::kTile;
    const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / kWarpgroup, 0);
    const uint64_t queries = tile_descriptor(tiles.queries + warpgroup * 64 * kHead);
    const uint64_t keys = tile_descriptor(tiles.keys), values = tile_descriptor(tiles.values);
    const int seen = tiles.positions - tiles.first_key;
    float scores[kKeys / 2] = {};
    uint32_t weights[kKeys / 16][4];
    receive_tiles<1>();
    hold(scores);
    begin_products();
    ask_scores<kKeys>(scores, queries, keys);
    wait_products<0>();
    hold(scores);
    weigh(scores, rows, seen);
    pack(weights, scores);
#pragma unroll 1
    for (int tile = 0; tile + 1 < tiles.num; tile++) {
        receive_tiles<0>();
        hold(scores);
        hold(sums);
        hold(weights);
        begin_products();
        ask_scores<kKeys>(scores, queries, advance(keys, (tile + 1) % 2 * kTile));
        ask_sums(sums, weights, advance(values, tile % 2 * kTile));
        tiles.fetch_group(tile + 1); // where the keys of `tile` and the values before them were
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
        hold(weights);
#pragma unroll
        for (int i = 0; i < kSums; i++) {
            sums[i] *= rows.shrink[i / 2 % 2];
        }
        pack(weights, scores);
    }
    receive_tiles<0>();
    hold(sums);
    hold(weights);
    begin_products();
    ask_sums(sums, weights, advance(values, (tiles.num - 1) % 2 * kTile));
    wait_products<0>();
    hold(sums);
}

// exchange: kExchange floats of this thread, kThreads apart.
template <int kThreads>
__device__ inline void put_sums(float *exchange, const float (&sums)[kSums],
                                const RunningRows &rows) {
#pragma unroll
    for (int i = 0; i < kSums; i++) {
        exchange[i * kThreads] = sums[i];
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float total = rows.totals[half];
        total += __shfl_xor_sync(0xffffffff, total, 1);
        total += __shfl_xor_sync(0xffffffff, total, 2);
        exchange[(kSums + half) * kThreads] = rows.largest[half];
        exchange[(kSums + 2 + half) * kThreads] = total;
    }
}

// What the blocks of a cluster summed, put together; each writes every kParts-th eight channels of
// the thread's rows, row0 and row0 + 8.
template <int kThreads>
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
        for (int j = part; j < kHead / 8; j += kParts) {
            const float *from = exchange + (4 * j + 2 * half) * kThreads;
            float x = 0, y = 0;
#pragma unroll
            for (int peer = 0; peer < kParts; peer++) {
                x += factors[peer] * load_peer(address_at(from, peer));
                y += factors[peer] * load_peer(address_at(from + kThreads, peer));
            }
            *reinterpret_cast<__half2 *>(out + int64_t{row} * width + j * 8 + threadIdx.x % 4 * 2) =
                __floats2half2_rn(x * inverse, y * inverse);
        }
    }
}

// Grid (query tiles, heads, batch * kParts), clusters of kParts.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    hopper_attention_kernel(__half *out, const __half *qkv, int positions, int heads) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(1024) __half dynamic_shared[];
    require_tiles_at(dynamic_shared);
    const int batch = blockIdx.z / kParts, part = blockIdx.z % kParts;
    const int width = heads * kHead, first_query = blockIdx.x * Shape::kQueries;
    const int64_t first_row = int64_t{batch} * positions, channel = blockIdx.y * kHead;
    const Tiles<Shape> tiles(dynamic_shared, qkv + first_row * 3 * width + channel, part, width,
                             positions);
    await_previous();
    let_next_begin();
    tiles.template fetch<Shape::kQueries>(tiles.queries, 0, first_query);
    tiles.fetch_keys(0);
    commit_copies();
    tiles.fetch_group(0);

    float sums[kSums] = {};
    RunningRows rows;
    if (tiles.num > 0) {
        attend(sums, rows, tiles);
    }
    wait_copies<0>();
    __syncthreads();
    float *exchange = reinterpret_cast<float *>(dynamic_shared) + threadIdx.x; // over the tiles
    put_sums<Shape::kThreads>(exchange, sums, rows);
    meet_cluster();
    const int row0 = first_query + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    write_together<Shape::kThreads>(out + first_row * width + channel, exchange, part, row0,
                                    positions, width);
    leave_cluster();
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
                      batch * kParts);
    shape.block = dim3(Shape::kThreads);
    shape.shared_bytes = Shape::kShared;
    shape.is_early = true;
    shape.cluster = kParts;
    launch_kernel("hopper_attention_kernel", kernel, shape, stream, out, qkv, positions, heads);
}

} // namespace

void encoder_attention_hopper(__half *out, const __half *qkv, int batch, int positions, int heads,
                              cudaStream_t stream) {
    int device, processors;
    DW_CUDA(cudaGetDevice(&device));
    DW_CUDA(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    // For one utterance with 8, 12 or 16 heads one of the two was the fastest of eighteen shapes on an
    // H100. With 6 heads <2, 64> in three parts took 16 us instead of 19, and four utterances with 8
    // heads 4 % less in one part.
    if (kParts * heads * batch * ((positions + 191) / 192) <= processors) {
        launch<AttentionShape<3, 128>>(out, qkv, batch, positions, heads, stream);
    } else {
        launch<AttentionShape<1, 64>>(out, qkv, batch, positions, heads, stream);
    }
}

} // namespace dw
