// The phases of one decoder layer for one token, a head a cluster. Each gives its bytes of weights or
// of keys and values, over all blocks, and what its block sends.
#pragma once

#include "cluster_attention.cuh"

namespace dw {

template <int kHeads> class ClusterPhases {
  public:
    using Shared = ClusterShared<kHeads>;
    static constexpr int kWidth = Shared::kWidth, kSlice = Shared::kSlice;

    __device__ ClusterPhases(const TokenRun &run, Shared &shared, ClusterRing<kHeads> &ring, int head,
                             int rank)
        : r(run), s(shared), ring_(ring), attention_(shared, ring, head, rank), head_(head), rank_(rank),
          distance_(distance_to(&shared, threadIdx.x % kClusterParts)) {}

    // All layers for one token: x() to x(). tag: of the first layer's exchanges.
    //
    // The three parts of a layer have their steps in common, and the code of a step is in the kernel
    // once or twice: a layer runs through all of it, and instructions that have to be fetched cost more
    // than the arithmetic. For the same reason weights go to registers before there is anything to
    // multiply them with.
    __device__ void run_layers(int position, uint32_t tag) {
        const int64_t slot = slot_of(s.table, position, r.caches.block_tokens);
#pragma unroll 1
        for (int layer = 0; layer < r.num_layers; layer++, tag++) {
            const PagedKv kv = r.caches.layer(layer);
#pragma unroll 1
            for (int kind = 0; kind < 3; kind++) {
                KeyPair first;
                if (kind == 0) {
                    first = attention_.first_tokens(kv, position);
                }
                const NormedRows rows = load_normed(kind);
                if (layer + kind > 0) {
                    receive_x((kind + 2) % 3, kind == 0 ? tag - 1 : tag, ring_.turn - (kind == 0));
                }
                if (kind == 0) {
                    expect_all();
                }
                project_normed(kind, rows, kv, slot);
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
            // One thread asks now and then, until the last layer's sums begin to come: all the others'
            // questions would stand in the way of those who have something to say.
            const uint64_t *word = words_of(2, 0);
            while (static_cast<uint32_t>(load_shared_word(word) >> 32) != tag) {
                __nanosleep(200);
            }
        }
        workers_sync();
        receive_x(2, tag, turn);
    }

    __device__ float *x() const { return s.x[now_]; }

  private:
    struct NormedRows {
        WarpRows<kWidth, 2> rows;
        const float *vectors; // in shared memory: the norm's weights, then what its rows add
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
    // theirs. kind: the layer's exchange, 0 .. 2. Bytes: 8 * width * heads through the L2 cache.
    __device__ void receive_x(int kind, uint32_t tag, uint32_t turn) {
        receive_words<kHeads * kSlice>(s.slices[0], words_of(kind, 0), tag);
        workers_sync();
        const int group = threadIdx.x / kClusterParts;
        if (group < kSlice / 4) {
            float4 sum{};
#pragma unroll 4
            for (int head = 0; head < kHeads; head++) {
                const float4 part = four_at(s.slices[head], group * 4);
                sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
            }
            give(s.x[now_ ^ 1] + rank_ * kSlice + group * 4, &s.arrived[kGotX + kind], distance_, sum);
        }
        await_bytes(&s.arrived[kGotX + kind], turn & 1);
        now_ ^= 1;
    }
    __device__ uint64_t *words_of(int kind, int head) const {
        return r.slices + ((kind * kClusterParts + rank_) * kHeads + head) * kSlice;
    }
    // What the first head adds to row `row` of the slice besides its sum; the others nothing.
    __device__ float extra(int row, const float *bias) const {
        return head_ == 0 ? s.x[now_][rank_ * kSlice + row] + bias[row] : 0.0f;
    }

    // What follows a layer norm: 24 rows of queries, keys and values, 8 rows of the query for the
    // audio, or 32 rows of the MLP's first matrix; 6, 2 and 8 width^2 bytes.
    __device__ NormedRows load_normed(int kind) {
        const Chunk which = normed_chunk(kind);
        const int rows = NormedRow<kHeads>::num(kind);
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
    // To the cluster.
    __device__ void project_normed(int kind, const NormedRows &loaded, const PagedKv &kv, int64_t slot) {
        const float *x = s.x[now_];
        const int num = NormedRow<kHeads>::num(kind);
        float2 moments{}; // of this lane's columns, which eight lanes have
        loaded.rows.multiply(s.partials[threadIdx.x / 32], [&](int step) {
            const int column = loaded.rows.first_column() + step * 16;
            const float4 v = pairs_at(x, column), w = pairs_at(loaded.vectors, column);
            moments.x += (v.x + v.y) + (v.z + v.w);
            moments.y += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
            return float4{v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w};
        });
        moments.x = warp_sum<4>(moments.x);
        moments.y = warp_sum<4>(moments.y);
        if (threadIdx.x % 32 == 0) {
            s.moments[threadIdx.x / 32] = moments;
        }
        workers_sync();
        // Two rows a thread, of a whole warp or none; one of two threads then has four to give.
        const int row = threadIdx.x / kClusterParts * 2;
        if (row < num) {
            const float *adds = loaded.vectors + kWidth; // see cluster_fold.cuh
            const float2 whole = merge_moments<kWidth>(s.moments);
            const float scale = whole.y * adds[2 * num];
            const float2 sums = two_at(adds, row), constants = two_at(adds, num + row);
            float2 two = sum_two_rows(s.partials, row);
            two = {(two.x - whole.x * sums.x) * scale + constants.x,
                   (two.y - whole.x * sums.y) * scale + constants.y};
            if (kind == 2) {
                two = {gelu(two.x), gelu(two.y)};
            }
            const float4 four = {two.x, two.y, __shfl_xor_sync(0xffffffff, two.x, kClusterParts),
                                 __shfl_xor_sync(0xffffffff, two.y, kClusterParts)};
            if (row % 4 == 0) {
                give_normed(kind, row, four, kv, slot);
            }
        }
        ring_.release(normed_chunk(kind));
    }
    // Four rows of the block, from `row` on, to one other block; keys and values to the pool, too.
    __device__ void give_normed(int kind, int row, const float4 &four, const PagedKv &kv,
                                int64_t slot) const {
        float *to;
        if (kind == 0) {
            const int which = row / kPartHead, channel = rank_ * kPartHead + row % kPartHead;
            to = s.qkv + which * kHead + channel;
            if (threadIdx.x % kClusterParts == 0 && which > 0) {
                __half *pool = which == 1 ? kv.keys : kv.values;
                pool += slot * kWidth + head_ * kHead + channel;
                *reinterpret_cast<uint2 *>(pool) = {pack_halves(four.x, four.y),
                                                    pack_halves(four.z, four.w)};
            }
        } else if (kind == 1) {
            to = s.query + rank_ * kPartHead + row;
        } else {
            to = s.hidden + rank_ * kHiddenPart + row;
        }
        give(to, &s.arrived[kGotQkv + kind], distance_, four);
    }

    // Self-attention (kind 0) or attention to the audio, and its output projection: the head's columns
    // of this block's slice of rows, 2 width^2 bytes. To the blocks of that slice.
    __device__ void attend(int kind, const PagedKv &kv, int position, const KeyPair &first,
                           uint32_t tag) {
        if (kind == 1) {
            attention_.give_audio(distance_);
        }
        const Chunk which = kind == 0 ? kOutRows : kCrossOutRows;
        const char *chunk = ring_.next(which);
        ring_.wait(which);
        HeadRows<kSlice> rows;
        rows.load(chunk);
        const float add =
            extra(rows.row(), reinterpret_cast<const float *>(chunk + kSlice * kHead * 2));
        ring_.release(which);
        await_bytes(&s.arrived[kind == 0 ? kGotQkv : kGotMixed], ring_.turn & 1);
        if (kind == 0) {
            attention_.store_tokens(kv, position, first);
        }
        attention_.merge_into_head(s.mixed[kind]);
        const float sum = rows.multiply(s.head);
        if (rows.has_sum()) {
            send(words_of(kind, head_) + rows.row(), sum + add, tag);
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
        const float add = extra(
            row, reinterpret_cast<const float *>(chunk + kSlice * padded_row(kHiddenPerHead)));
        ring_.release(kMlpOutRows);
        await_bytes(&s.arrived[kGotHidden], ring_.turn & 1);
        rows.multiply(s.out_partials[threadIdx.x / 32], [&](int step) {
            return pairs_at(s.hidden, rows.first_column() + step * 16);
        });
        workers_sync();
        if (threadIdx.x < kSlice) {
            float sum = add;
#pragma unroll
            for (int warp = 0; warp < kTokenWarps; warp++) {
                sum += s.out_partials[warp][threadIdx.x];
            }
            send(words_of(2, head_) + threadIdx.x, sum, tag);
        }
    }

    const TokenRun &r;
    Shared &s;
    ClusterRing<kHeads> &ring_;
    ClusterAttention<kHeads> attention_;
    const int head_, rank_;
    const uint32_t distance_; // of the block of the cluster to which this thread gives
    int now_ = 0; // which of s.x has the residual stream
};

} // namespace dw
