// The phases of one decoder layer for one token, a head a cluster. Each gives its bytes of weights or
// of keys and values, over all blocks, and what its block sends.
#pragma once

#include "cluster_ring.cuh"

namespace dw {

template <int kHeads> class ClusterPhases {
  public:
    using Shared = ClusterShared<kHeads>;
    static constexpr int kWidth = Shared::kWidth, kSlice = Shared::kSlice;

    __device__ ClusterPhases(const TokenRun &run, Shared &shared, ClusterRing<kHeads> &ring, int head,
                             int rank)
        : r(run), s(shared), ring_(ring), head_(head), rank_(rank) {}

    // All layers for one token: x() to x(). tag: of the first layer's exchanges.
    //
    // The three parts of a layer have their steps in common, and the code of a step is in the kernel
    // once or twice: a layer runs through all of it, and instructions that have to be fetched cost more
    // than the arithmetic. For the same reason weights go to registers before there is anything to
    // multiply them with.
    __device__ void run_layers(int position, uint32_t tag) {
#pragma unroll 1
        for (int layer = 0; layer < r.num_layers; layer++, tag++) {
            const PagedKv kv = r.caches.layer(layer);
#pragma unroll 1
            for (int kind = 0; kind < 3; kind++) {
                KeyPair first;
                if (kind == 0) {
                    first = first_keys<kTokenWarps>(position, token_at(kv));
                }
                const NormedRows rows = load_normed(kind);
                if (layer + kind > 0) {
                    receive_x((kind + 2) % 3, kind == 0 ? tag - 1 : tag, ring_.turn - (kind == 0));
                }
                if (kind == 0) {
                    expect_all();
                }
                project_normed(kind, rows, kv, position);
                if (kind < 2) {
                    attend(kind, kv, position, first, tag);
                } else {
                    project_hidden(tag);
                }
            }
            ring_.turn++;
        }
        receive_x(2, tag - 1, ring_.turn - 1);
    }

    // The last layer's x, for a cluster that has no head. turn: how many times before.
    __device__ void listen(uint32_t tag, uint32_t turn) {
        if (threadIdx.x == 0) {
            expect_bytes(&s.arrived[kGotX + 2], kWidth * 4);
        }
        receive_x(2, tag, turn);
    }

    __device__ float *x() const { return s.x[now_]; }

  private:
    struct NormedRows {
        WarpRows<kWidth, 2> rows;
        const float *vectors; // in shared memory: weight and bias of the norm, bias of the rows
    };

    // All that a turn waits for; threads of different warps, so that it takes no time.
    __device__ void expect_all() const {
        if (threadIdx.x % 32 == 0 && threadIdx.x / 32 < kArrivals) {
            const int arrival = threadIdx.x / 32;
            const int floats = arrival == kGotQkv      ? 3 * kHead
                               : arrival == kGotQuery  ? kHead
                               : arrival == kGotHidden ? kHiddenPerHead
                               : arrival == kGotMixed  ? kClusterParts * (kHead + 2)
                                                       : kWidth;
            expect_bytes(&s.arrived[arrival], floats * 4);
        }
    }

    // The sums of all heads for this block's slice of x, and what the cluster's other blocks made of
    // theirs. kind: the layer's exchange, 0 .. 2. Bytes: 8 * width * heads through the L2 cache. A warp
    // polls neighbouring words of one head: words of eight heads at once took twice as long.
    __device__ void receive_x(int kind, uint32_t tag, uint32_t turn) {
        constexpr int kPairs = kSlice / 2;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
        for (int head = warp; head < kHeads; head += kTokenWarps) {
#pragma unroll
            for (int pair = lane; pair < kPairs; pair += 32) {
                *reinterpret_cast<float2 *>(s.slices[head] + pair * 2) =
                    receive_two(words_of(kind, head) + pair * 2, tag);
            }
        }
        workers_sync();
        const int group = threadIdx.x / kClusterParts, peer = threadIdx.x % kClusterParts;
        if (group < kSlice / 4) {
            float4 sum{};
#pragma unroll 4
            for (int head = 0; head < kHeads; head++) {
                const float4 part = *reinterpret_cast<const float4 *>(s.slices[head] + group * 4);
                sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
            }
            give(s.x[now_ ^ 1] + rank_ * kSlice + group * 4, &s.arrived[kGotX + kind], peer, sum);
        }
        await_bytes(&s.arrived[kGotX + kind], turn & 1);
        now_ ^= 1;
    }
    __device__ uint64_t *words_of(int kind, int head) const {
        return r.slices + ((kind * kClusterParts + rank_) * kHeads + head) * kSlice;
    }
    // By the block's head: its sum for row `row` of the slice. The first head adds what was in x.
    __device__ void send_slice(int kind, int row, float sum, float bias, uint32_t tag) const {
        if (head_ == 0) {
            sum += s.x[now_][rank_ * kSlice + row] + bias;
        }
        send(words_of(kind, head_) + row, sum, tag);
    }

    // What follows a layer norm: 24 rows of queries, keys and values, 8 rows of the query for the
    // audio, or 32 rows of the MLP's first matrix; 6, 2 and 8 width^2 bytes.
    __device__ NormedRows load_normed(int kind) {
        const Chunk which = normed_chunk(kind);
        const int rows = num_rows(kind);
        const char *chunk = ring_.next(which);
        ring_.wait(which);
        NormedRows loaded;
        loaded.rows.load(chunk, rows);
        loaded.vectors = reinterpret_cast<const float *>(chunk + rows * padded_row(kWidth));
        return loaded;
    }
    __device__ static Chunk normed_chunk(int kind) {
        return kind == 0 ? kQkvRows : kind == 1 ? kQueryRows : kMlpInRows;
    }
    __device__ static int num_rows(int kind) {
        return kind == 0 ? 3 * kPartHead : kind == 1 ? kPartHead : kHiddenPart;
    }
    // To the cluster.
    __device__ void project_normed(int kind, const NormedRows &loaded, const PagedKv &kv, int position) {
        const float *x = s.x[now_];
        const float2 moments = moments_of<kWidth>(x);
        loaded.rows.multiply(s.partials[threadIdx.x / 32], [&](int step) {
            const int column = loaded.rows.first_column() + step * 16;
            return normalise_four(four_at(x, column), moments, four_at(loaded.vectors, column),
                                  four_at(loaded.vectors, kWidth + column));
        });
        workers_sync();
        const int row = threadIdx.x / kClusterParts * 4, peer = threadIdx.x % kClusterParts;
        if (row < num_rows(kind)) {
            float4 four = sum_four_rows(s.partials, row, four_at(loaded.vectors, 2 * kWidth + row));
            float *to;
            if (kind == 0) {
                const int which = row / kPartHead, channel = rank_ * kPartHead + row % kPartHead;
                to = s.qkv + which * kHead + channel;
                if (peer == 0 && which > 0) {
                    __half *pool = which == 1 ? kv.keys : kv.values;
                    pool += slot_of(s.table, position, kv.block_tokens) * kWidth + head_ * kHead + channel;
                    *reinterpret_cast<uint2 *>(pool) = {pack_halves(four.x, four.y),
                                                        pack_halves(four.z, four.w)};
                }
            } else if (kind == 1) {
                to = s.query + rank_ * kPartHead + row;
            } else {
                to = s.hidden + rank_ * kHiddenPart + row;
                four = {gelu(four.x), gelu(four.y), gelu(four.z), gelu(four.w)};
            }
            give(to, &s.arrived[kGotQkv + kind], peer, four);
        }
        ring_.release(normed_chunk(kind));
    }

    // Self-attention (kind 0) or attention to the audio, and its output projection: the head's columns
    // of this block's slice of rows, 2 width^2 bytes. To the blocks of that slice.
    __device__ void attend(int kind, const PagedKv &kv, int position, const KeyPair &first,
                           uint32_t tag) {
        constexpr int kRows = kTokenThreads / 8, kTurns = (kSlice + kRows - 1) / kRows; // rows at once
        const int piece = threadIdx.x % 8, row0 = threadIdx.x / 8;
        if (kind == 1) {
            store_warp(attend_audio());
            give_mixed();
        }
        const Chunk which = kind == 0 ? kOutRows : kCrossOutRows;
        const char *chunk = ring_.next(which);
        ring_.wait(which);
        uint4 weights[kTurns];
        float bias[kTurns];
#pragma unroll
        for (int i = 0; i < kTurns; i++) {
            const int row = min(row0 + i * kRows, kSlice - 1);
            weights[i] = *reinterpret_cast<const uint4 *>(chunk + row * kHead * 2 + piece * 16);
            bias[i] = reinterpret_cast<const float *>(chunk + kSlice * kHead * 2)[row];
        }
        ring_.release(which);
        await_bytes(&s.arrived[kind == 0 ? kGotQkv : kGotMixed], ring_.turn & 1);
        if (kind == 0) {
            store_warp(attend_tokens(kv, position, first));
        }
        merge_into_head(kind == 0 ? s.sums : s.mixed);
        float mixed[8];
        load_eight(mixed, s.head + piece * 8);
#pragma unroll
        for (int i = 0; i < kTurns; i++) {
            float w[8], sum = 0;
            unpack_halves(w, weights[i]);
#pragma unroll
            for (int c = 0; c < 8; c++) {
                sum += w[c] * mixed[c];
            }
            sum = warp_sum<8>(sum);
            if (piece == 0 && row0 + i * kRows < kSlice) {
                send_slice(kind, row0 + i * kRows, sum, bias[i], tag);
            }
        }
    }

    __device__ auto token_at(const PagedKv &kv) const {
        const int lane = threadIdx.x % 8;
        return [this, &kv, lane](int key, uint4 &k, uint4 &v) {
            const int64_t place =
                slot_of(s.table, key, kv.block_tokens) * kWidth + head_ * kHead + lane * 8;
            k = __ldcg(reinterpret_cast<const uint4 *>(kv.keys + place));
            v = __ldcg(reinterpret_cast<const uint4 *>(kv.values + place));
        };
    }

    // Attention over the tokens so far, by every block for itself: 256 bytes a position and head. The
    // token's own key and value, rounded as in the pool, came with the query.
    __device__ Mixed attend_tokens(const PagedKv &kv, int position, const KeyPair &pair) {
        const int lane = threadIdx.x % 8;
        float query[8], key[8], score = 0;
        Mixed own = nothing_mixed();
        load_eight(query, s.qkv + lane * 8);
        load_eight(key, s.qkv + kHead + lane * 8);
        load_eight(own.sums, s.qkv + 2 * kHead + lane * 8);
        const bool is_first = threadIdx.x < 8;
#pragma unroll
        for (int c = 0; c < 8; c++) {
            query[c] *= 0.125f;
            score += query[c] * __half2float(__float2half(key[c]));
            own.sums[c] = is_first ? __half2float(__float2half(own.sums[c])) : 0.0f;
        }
        score = warp_sum<8>(score);
        if (is_first) {
            own.largest = score, own.total = 1.0f;
        }
        return attend_keys<kTokenWarps>(query, position, pair, token_at(kv), own);
    }

    // Attention over this block's part of the audio: 256 bytes a position and head.
    __device__ Mixed attend_audio() {
        constexpr int kMost = 6, kGroups = kTokenThreads / 8; // keys of a group of lanes, at most
        const char *chunk = ring_.next(kAudioKeys);
        ring_.wait(kAudioKeys);
        const int lane = threadIdx.x % 8, first = threadIdx.x / 8, num = ring_.key_num;
        auto piece = [&](int i, int of) {
            const int key = min(first + i * kGroups, num - 1) + of * num;
            return *reinterpret_cast<const uint4 *>(chunk + (key * 8 + lane) * 16);
        };
        uint4 keys[kMost];
#pragma unroll
        for (int i = 0; i < kMost; i++) {
            keys[i] = piece(i, 0);
        }
        await_bytes(&s.arrived[kGotQuery], ring_.turn & 1);
        float query[8], scores[kMost];
        load_eight(query, s.query + lane * 8);
#pragma unroll
        for (int i = 0; i < kMost; i++) {
            float k[8];
            unpack_halves(k, keys[i]);
            scores[i] = 0;
#pragma unroll
            for (int c = 0; c < 8; c++) {
                scores[i] += query[c] * k[c];
            }
        }
        Mixed mixed = nothing_mixed();
#pragma unroll
        for (int i = 0; i < kMost; i++) {
            scores[i] = warp_sum<8>(scores[i]) * 0.125f;
            scores[i] = first + i * kGroups < num ? scores[i] : -1e30f;
            mixed.largest = fmaxf(mixed.largest, scores[i]);
        }
#pragma unroll
        for (int i = 0; i < kMost; i++) {
            const float weight = scores[i] > -1e29f ? __expf(scores[i] - mixed.largest) : 0.0f;
            float v[8];
            unpack_halves(v, piece(i, 1));
            mixed.total += weight;
#pragma unroll
            for (int c = 0; c < 8; c++) {
                mixed.sums[c] += weight * v[c];
            }
        }
        ring_.release(kAudioKeys);
        return mixed;
    }

    // This block's warps' sums to one row of s.mixed in every block of the cluster.
    __device__ void give_mixed() const {
        if (threadIdx.x < 16 * kClusterParts) {
            const int group = threadIdx.x / kClusterParts, peer = threadIdx.x % kClusterParts;
            float weights[kTokenWarps];
            const float2 whole = weigh_rows(weights, s.sums);
            float4 four{};
#pragma unroll
            for (int i = 0; i < kTokenWarps; i++) {
                const float4 part = *reinterpret_cast<const float4 *>(s.sums[i] + group * 4);
                four.x += weights[i] * part.x, four.y += weights[i] * part.y;
                four.z += weights[i] * part.z, four.w += weights[i] * part.w;
            }
            give(s.mixed[rank_] + group * 4, &s.arrived[kGotMixed], peer, four);
            if (group == 0) {
                give(s.mixed[rank_] + kHead, &s.arrived[kGotMixed], peer, whole);
            }
        }
    }

    // The MLP's second matrix, the cluster's 256 columns of this block's slice of rows: 8 width^2
    // bytes. To the blocks of that slice.
    __device__ void project_hidden(uint32_t tag) {
        const char *chunk = ring_.next(kMlpOutRows);
        ring_.wait(kMlpOutRows);
        WarpRows<kHiddenPerHead, kSlice / 16> rows;
        rows.load(chunk, kSlice);
        const int row = min(static_cast<int>(threadIdx.x), kSlice - 1);
        const float bias =
            reinterpret_cast<const float *>(chunk + kSlice * padded_row(kHiddenPerHead))[row];
        ring_.release(kMlpOutRows);
        await_bytes(&s.arrived[kGotHidden], ring_.turn & 1);
        rows.multiply(s.out_partials[threadIdx.x / 32], [&](int step) {
            return *reinterpret_cast<const float4 *>(s.hidden + rows.first_column() + step * 16);
        });
        workers_sync();
        if (threadIdx.x < kSlice) {
            float sum = 0;
#pragma unroll
            for (int warp = 0; warp < kTokenWarps; warp++) {
                sum += s.out_partials[warp][threadIdx.x];
            }
            send_slice(2, threadIdx.x, sum, bias, tag);
        }
    }

    // A warp's lanes to one row of s.sums: 64 channels, the largest score, the total.
    __device__ void store_warp(const Mixed &mixed) const {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        float high = fmaxf(mixed.largest, __shfl_xor_sync(0xffffffff, mixed.largest, 8));
        high = fmaxf(high, __shfl_xor_sync(0xffffffff, high, 16));
        const float scale = __expf(mixed.largest - high);
        float total = mixed.total * scale, four[4], two[2];
        total += __shfl_xor_sync(0xffffffff, total, 8);
        total += __shfl_xor_sync(0xffffffff, total, 16);
        const bool is_high = lane & 16, is_odd = lane & 8; // which half of the channels a lane keeps
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const float other = (is_high ? mixed.sums[c] : mixed.sums[c + 4]) * scale;
            four[c] = (is_high ? mixed.sums[c + 4] : mixed.sums[c]) * scale +
                      __shfl_xor_sync(0xffffffff, other, 16);
        }
#pragma unroll
        for (int c = 0; c < 2; c++) {
            two[c] = (is_odd ? four[c + 2] : four[c]) +
                     __shfl_xor_sync(0xffffffff, is_odd ? four[c] : four[c + 2], 8);
        }
        float *row = s.sums[warp];
        *reinterpret_cast<float2 *>(row + lane % 8 * 8 + (is_high ? 4 : 0) + (is_odd ? 2 : 0)) = {
            two[0], two[1]};
        if (lane == 0) {
            *reinterpret_cast<float2 *>(row + kHead) = {high, total};
        }
        workers_sync();
    }
    __device__ void merge_into_head(const float (*rows)[kMixedRow]) const {
        static_assert(kTokenWarps == 8 && kClusterParts == 8);
        if (threadIdx.x < kHead) {
            float weights[8], sum = 0;
            const float2 whole = weigh_rows(weights, rows);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                sum += weights[i] * rows[i][threadIdx.x];
            }
            s.head[threadIdx.x] = __fdividef(sum, whole.y);
        }
        workers_sync();
    }

    const TokenRun &r;
    Shared &s;
    ClusterRing<kHeads> &ring_;
    const int head_, rank_;
    int now_ = 0; // which of s.x has the residual stream
};

} // namespace dw
