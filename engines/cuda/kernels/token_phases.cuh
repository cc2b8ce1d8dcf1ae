// The phases of one decoder layer for one token; the comments give each one's bytes of fp16
// weights and of keys and values, over all blocks.
#pragma once

#include "token_products.cuh"
#include "token_stage.cuh"

namespace dw {

template <dw_type kType> class TokenPhases {
  public:
    static constexpr int kColumns = Packed<kType>::kColumns;
    static constexpr int kHeadPieces = kHead / kColumns;

    __device__ TokenPhases(const TokenRun &run, TokenShared &shared, const TokenStage<kType> &stage)
        : r(run), s(shared), stage_(stage) {}

    // Queries, keys and values of the token, 1 / parts of one head: 6 width^2 bytes.
    __device__ void project_qkv(const Matrix &matrix, const PagedKv &kv, int position,
                                const Item &item, uint32_t tag) {
        const bool is_staged = r.stage.qkv >= 0;
        uint64_t *words = r.qkv + item.head * 3 * kHead + item.qkv_first;
        multiply_normed(
            matrix, r.stage.qkv, item.qkv_num, [&](int row) { return stage_.qkv_index(item, row); },
            [&](int row, int index, float product) {
                product += is_staged ? s.qkv_bias[item.qkv_first + row] : __ldg(matrix.bias + index);
                send(words + row, product, tag);
                const int place = item.qkv_first + row;
                if (place >= kHead) {
                    __half *to = place < 2 * kHead ? kv.keys : kv.values;
                    to[slot_of(s.table, position, kv.block_tokens) * r.width + item.head * kHead +
                       place % kHead] = __float2half(product);
                }
            });
    }

    // Attention over the tokens so far, of one head, into s.mixed: 256 bytes a position and head.
    // The token's own key and value come with the query, the others are read meanwhile.
    __device__ void attend_tokens(const PagedKv &kv, int position, int head, uint32_t tag) {
        const int lane = thread_again() % 8;
        auto at = [&](int key, uint4 &k, uint4 &v) {
            const int64_t place =
                slot_of(s.table, key, kv.block_tokens) * r.width + head * kHead + lane * 8;
            k = __ldcg(reinterpret_cast<const uint4 *>(kv.keys + place));
            v = __ldcg(reinterpret_cast<const uint4 *>(kv.values + place));
        };
        const KeyPair pair = first_keys<kTokenWarps>(position, at);
        if (threadIdx.x < 3 * kHead) {
            const float value = receive(r.qkv + head * 3 * kHead + threadIdx.x, tag);
            const int channel = threadIdx.x % kHead;
            if (threadIdx.x < kHead) {
                s.query[channel] = value * 0.125f;
            } else if (threadIdx.x < 2 * kHead) {
                s.key[channel] = __half2float(__float2half(value));
            } else {
                s.value[channel] = __half2float(__float2half(value));
            }
        }
        stage_.await_copies(kOut);
        workers_sync();
        float query[8];
        load_query(query);
        Mixed mixed = attend_keys<kTokenWarps>(query, position, pair, at);
        if (threadIdx.x < 32) { // the first group of lanes takes the token itself
            float score = 0, own[8];
#pragma unroll
            for (int c = 0; c < 8; c++) {
                score += query[c] * s.key[lane * 8 + c];
                own[c] = s.value[lane * 8 + c];
            }
            score = warp_sum<8>(score);
            if (threadIdx.x < 8) {
                merge(mixed, score, 1.0f, own);
            }
        }
        store_partials(mixed, s.partials);
        workers_sync();
        merge_head(kTokenWarps);
    }

    // The columns of one head, 1 / parts of the rows, of an output projection: 2 width^2 bytes.
    __device__ void project_out(const Matrix &matrix, int offset, uint64_t *sums,
                                const Item &item) {
        const int lane = thread_again() % 32;
        const char *from = offset >= 0 ? stage_.base + offset
                                       : static_cast<const char *>(matrix.data) +
                                             int64_t{item.row_first} * stage_.row_bytes() +
                                             item.head * kHeadPieces * 16;
        const int64_t stride = offset >= 0 ? kHeadPieces * 16 : stage_.row_bytes();
        const auto rows = rows_of<kType>(
            matrix, item.row_num, kHeadPieces, r.width, item.head * kHead,
            [&](int row) { return item.row_first + row; },
            [&](int row) { return from + row * stride; }, offset >= 0);
        multiply_tiles(rows, s.mixed, kHead, thread_again() / 32, kTokenWarps,
                       [&](int tile, float upper, float lower) {
                           const int row = tile * 16 + lane % 2 * 8 + lane / 4;
                           if (lane % 4 < 2 && row < item.row_num) {
                               add_counted(sums + sum_at(item.row_first + row), lane % 2 ? lower : upper);
                           }
                       });
    }

    // Attention over 1 / parts of the encoded audio, of one head; every part makes the head's query
    // for itself: 2 width^2 bytes a part, and 256 a position and head.
    __device__ void attend_audio(const Matrix &query_matrix, int layer, const Item &item,
                                 uint32_t tag) {
        const bool has_query = r.stage.cross_query >= 0;
        multiply_normed(
            query_matrix, r.stage.cross_query, kHead,
            [&](int row) { return item.head * kHead + row; },
            [&](int row, int index, float product) {
                const float bias =
                    has_query ? s.query_bias[row] : __ldg(query_matrix.bias + index);
                s.query[row] = (product + bias) * 0.125f;
            });
        workers_sync();
        const int lane = thread_again() % 8;
        float query[8];
        load_query(query);
        const bool is_staged = r.stage.cross_keys >= 0;
        const __half *keys =
            is_staged
                ? reinterpret_cast<const __half *>(stage_.base + r.stage.cross_keys)
                : r.audio +
                      ((2ll * layer * r.heads + item.head) * r.num_keys + item.key_first) * kHead;
        const __half *values = keys + (is_staged ? item.key_num : r.heads * r.num_keys) * kHead;
        const Mixed mixed =
            attend_keys<kTokenWarps, 4>(query, item.key_num, [&](int key, uint4 &k, uint4 &v) {
                k = *reinterpret_cast<const uint4 *>(keys + key * kHead + lane * 8);
                v = *reinterpret_cast<const uint4 *>(values + key * kHead + lane * 8);
            });
        store_partials(mixed, s.partials);
        workers_sync();
        if (threadIdx.x < kHead) {
            const Merged all = merge_partials(s.partials, kTokenWarps);
            uint64_t *out = mixed_of(item.head) + item.part * kMixedFloats;
            send(out + 2 + threadIdx.x, all.sum, tag);
            if (threadIdx.x < 2) {
                send(out + threadIdx.x, threadIdx.x == 0 ? all.largest : all.total, tag);
            }
        }
    }

    // The parts of one head to its result, in s.mixed. Before, all warps are done with s.partials.
    __device__ void merge_parts(int head, uint32_t tag) {
        constexpr int kAtOnce = 5;
        const uint64_t *words = mixed_of(head);
        const int num = r.parts * kMixedFloats;
#pragma unroll 1
        for (int first = threadIdx.x; first < num; first += kAtOnce * kTokenThreads) {
            uint64_t both[kAtOnce];
#pragma unroll
            for (int i = 0; i < kAtOnce; i++) {
                both[i] = load_shared_word(words + min(first + i * kTokenThreads, num - 1));
            }
#pragma unroll
            for (int i = 0; i < kAtOnce; i++) {
                const int at = first + i * kTokenThreads;
                if (at < num) {
                    s.partials[at] = receive(words + at, tag, both[i]);
                }
            }
        }
        stage_.await_copies(kCrossOut);
        workers_sync();
        merge_head(r.parts);
    }

    // Both layers of the MLP for this block's hidden channels: 16 width^2 bytes.
    __device__ void run_mlp(const LayerWeights &w, uint64_t *sums) {
        const int first = s.hidden_first, num = s.hidden_num, pieces = num / kColumns;
        const bool has_rows = r.stage.mlp_in >= 0, has_columns = r.stage.mlp_out >= 0;
        const bool is_long = pieces >= 8; // rows of the second matrix, as few blocks have them
        auto *halves = reinterpret_cast<__half *>(s.hidden);
        multiply_normed(
            w.mlp_in, r.stage.mlp_in, num, [&](int row) { return first + row; },
            [&](int row, int index, float product) {
                const float value =
                    gelu(product + (has_rows ? s.hidden_bias[row] : __ldg(w.mlp_in.bias + index)));
                if (is_long) {
                    put_halves<kMaxHidden>(halves, row, value);
                } else {
                    s.hidden[row] = value;
                }
            });
        workers_sync();
        const char *from = has_columns ? stage_.base + r.stage.mlp_out
                                       : static_cast<const char *>(w.mlp_out.data) +
                                             first / kColumns * 16;
        const int64_t stride = has_columns ? pieces * 16 : 4 * stage_.row_bytes();
        if (is_long) {
            const auto rows = rows_of<kType>(
                w.mlp_out, r.width, pieces, 4 * r.width, first, [](int row) { return row; },
                [&](int row) { return from + row * stride; }, has_columns);
            multiply_rows(s, rows, halves, kMaxHidden,
                          [&](int row, int, float sum) { add_counted(sums + sum_at(row), sum); });
            return;
        }
#pragma unroll 1
        for (int row = thread_again(); row < r.width; row += kTokenThreads) {
            float sum = 0;
#pragma unroll 1
            for (int piece = 0; piece < pieces; piece++) {
                float weights[kColumns], part = 0;
                Packed<kType>::widen(weights,
                                     *reinterpret_cast<const uint4 *>(from + row * stride + piece * 16));
#pragma unroll
                for (int c = 0; c < kColumns; c += 4) {
                    const float4 x = four_at(s.hidden, piece * kColumns + c);
                    part += weights[c] * x.x + weights[c + 1] * x.y + weights[c + 2] * x.z +
                            weights[c + 3] * x.w;
                }
                sum += part * scale_at<kType>(w.mlp_out, row, 4 * r.width, first + piece * kColumns);
            }
            add_counted(sums + sum_at(row), sum);
        }
    }

  private:
    __device__ uint64_t *mixed_of(int head) const {
        return r.mixed + head * r.parts * kMixedFloats;
    }
    __device__ void load_query(float (&query)[8]) const {
        const float *from = s.query + thread_again() % 8 * 8;
#pragma unroll
        for (int c = 0; c < 8; c++) {
            query[c] = from[c];
        }
    }
    // `num` partial sums to one in s.mixed, for all threads.
    __device__ void merge_head(int num) {
        if (threadIdx.x < kHead) {
            const Merged all = merge_partials(s.partials, num);
            put_halves<kHead>(s.mixed, threadIdx.x, all.sum / all.total);
        }
        workers_sync();
    }
    // Rows of a matrix, of which row `row` is index_of(row), times the normalised x: those copied ahead at
    // `offset`, or the matrix's own if that is negative.
    template <class IndexOf, class Take>
    __device__ void multiply_normed(const Matrix &matrix, int offset, int num, IndexOf index_of, Take take) {
        const char *from = offset >= 0 ? stage_.base + offset : static_cast<const char *>(matrix.data);
        const auto rows = rows_of<kType>(
            matrix, num, r.width / kColumns, r.width, 0, index_of, [&](int row) {
                return from + int64_t{offset >= 0 ? row : index_of(row)} * stage_.row_bytes();
            }, offset >= 0);
        multiply_rows(s, rows, s.split, kMaxTokenWidth, take);
    }

    const TokenRun &r;
    TokenShared &s;
    const TokenStage<kType> &stage_;
};

} // namespace dw
