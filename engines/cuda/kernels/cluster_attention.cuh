// Attention in the cluster kernel: of one query over the tokens so far, and over the encoded audio, of
// which every block of the cluster has a part. Reference: plain::attend.
#pragma once

#include "cluster_ring.cuh"

namespace dw {

template <int kHeads> class ClusterAttention {
  public:
    using Shared = ClusterShared<kHeads>;
    static constexpr int kWidth = Shared::kWidth;

    __device__ ClusterAttention(Shared &shared, ClusterRing<kHeads> &ring, int head, int rank)
        : s(shared), ring_(ring), head_(head), rank_(rank) {}

    // The tokens that this thread looks at first, before there is a query.
    __device__ KeyPair first_tokens(const PagedKv &kv, int position) const {
        return first_keys<kTokenWarps>(position, token_at(kv));
    }
    // The tokens' sums of each warp to s.mixed[0].
    __device__ void store_tokens(const PagedKv &kv, int position, const KeyPair &first) const {
        store_warp(attend_tokens(kv, position, first));
    }
    // This block's part of the audio: its sums to one row of s.mixed[1] in every block of the cluster.
    // distance: of the block to which this thread gives.
    __device__ void give_audio(uint32_t distance) {
        store_warp(attend_audio());
        give_mixed(distance);
    }
    // Rows of s.mixed[0] or [1] to s.head.
    __device__ void merge_into_head(const float (*rows)[kMixedRow]) const {
        static_assert(kTokenWarps == 8 && kClusterParts == 8);
        if (threadIdx.x < kHead) {
            float weights[8], sum = 0;
            const float2 whole = weigh_rows(weights, rows);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                sum += weights[i] * rows[i][threadIdx.x];
            }
            put_halves<kHead>(s.head, threadIdx.x, __fdividef(sum, whole.y));
        }
        workers_sync();
    }

  private:
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
    __device__ Mixed attend_tokens(const PagedKv &kv, int position, const KeyPair &pair) const {
        constexpr int kGroups = kTokenThreads / 8; // of lanes; each has two tokens at first
        const int lane = threadIdx.x % 8, group = threadIdx.x / 8;
        float query[8], keys[3][8], values[3][8], scores[3] = {};
        load_eight(query, s.qkv + lane * 8);
        load_eight(keys[0], s.qkv + kHead + lane * 8);
        load_eight(values[0], s.qkv + 2 * kHead + lane * 8);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            unpack_halves(keys[i + 1], pair.keys[i]);
            unpack_halves(values[i + 1], pair.values[i]);
        }
#pragma unroll
        for (int c = 0; c < 8; c++) {
            query[c] *= 0.125f;
            keys[0][c] = __half2float(__float2half(keys[0][c]));
            values[0][c] = __half2float(__float2half(values[0][c]));
#pragma unroll
            for (int i = 0; i < 3; i++) {
                scores[i] += query[c] * keys[i][c];
            }
        }
        sum_eight_lanes(scores);
        scores[0] = group == 0 ? scores[0] : -1e30f;
        scores[1] = group < position ? scores[1] : -1e30f;
        scores[2] = group + kGroups < position ? scores[2] : -1e30f;
        Mixed mixed = nothing_mixed();
        mixed.largest = weigh_scores(scores);
        mixed.total = scores[0] + scores[1] + scores[2];
#pragma unroll
        for (int c = 0; c < 8; c++) {
            mixed.sums[c] =
                scores[0] * values[0][c] + scores[1] * values[1][c] + scores[2] * values[2][c];
        }
        if (position <= 2 * kGroups) {
            return mixed;
        }
        const auto at = token_at(kv);
        return attend_keys<kTokenWarps>(query, position - 2 * kGroups,
                                        [&](int key, uint4 &k, uint4 &v) { at(key + 2 * kGroups, k, v); },
                                        mixed);
    }

    // Attention over this block's part of the audio: 256 bytes a position and head.
    __device__ Mixed attend_audio() {
        constexpr int kMost = kMostPartKeys, kGroups = kTokenThreads / 8;
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
        sum_eight_lanes(scores);
#pragma unroll
        for (int i = 0; i < kMost; i++) {
            scores[i] = first + i * kGroups < num ? scores[i] * 0.125f : -1e30f;
        }
        Mixed mixed = nothing_mixed();
        mixed.largest = weigh_scores(scores);
#pragma unroll
        for (int i = 0; i < kMost; i++) {
            float v[8];
            unpack_halves(v, piece(i, 1));
            mixed.total += scores[i];
#pragma unroll
            for (int c = 0; c < 8; c++) {
                mixed.sums[c] += scores[i] * v[c];
            }
        }
        ring_.release(kAudioKeys);
        return mixed;
    }

    // This block's warps' sums to one row of s.mixed[1] in every block of the cluster.
    __device__ void give_mixed(uint32_t distance) const {
        if (threadIdx.x < 16 * kClusterParts) {
            const int group = threadIdx.x / kClusterParts;
            float weights[kTokenWarps];
            const float2 whole = weigh_rows(weights, s.mixed[0]);
            float4 four{};
#pragma unroll
            for (int i = 0; i < kTokenWarps; i++) {
                const float4 part = four_at(s.mixed[0][i], group * 4);
                four.x += weights[i] * part.x, four.y += weights[i] * part.y;
                four.z += weights[i] * part.z, four.w += weights[i] * part.w;
            }
            give(s.mixed[1][rank_] + group * 4, &s.arrived[kGotMixed], distance, four);
            if (group == 0) {
                give(s.mixed[1][rank_] + kHead, &s.arrived[kGotMixed], distance, whole);
            }
        }
    }

    // A warp's lanes to one row of s.mixed[0]: 64 channels, the largest score, the total.
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
        float *row = s.mixed[0][warp];
        *reinterpret_cast<float2 *>(row + lane % 8 * 8 + (is_high ? 4 : 0) + (is_odd ? 2 : 0)) = {
            two[0], two[1]};
        if (lane == 0) {
            *reinterpret_cast<float2 *>(row + kHead) = {high, total};
        }
        workers_sync();
    }

    Shared &s;
    ClusterRing<kHeads> &ring_;
    const int head_, rank_;
};

} // namespace dw
