// The phases of one decoder layer for one token, and the choice of the next token. Between phases
// blocks wait for one another; the comments give each phase's bytes of fp16 weights and keys.
#pragma once

#include "token_block.cuh"

namespace dw {

template <dw_type kType> class TokenBlock {
  public:
    static constexpr int kColumns = Packed<kType>::kColumns;
    static constexpr int kHeadPieces = kHead / kColumns;

    __device__ TokenBlock(const TokenRun &run, TokenShared &shared, const LayerWeights *layers,
                          char *stage)
        : r(run), s(shared), layers_(layers), stage_(stage) {}

    // All copies ahead of layer 0, for the first token.
    __device__ void stage_first() {
        stage_qkv(0);
        stage_out(r.stage.out, layers_[0].out);
        stage_cross(0);
        stage_out(r.stage.cross_out, layers_[0].cross_out);
        stage_mlp(0);
    }

    __device__ void run_layer(int layer, int position, unsigned long long *sums,
                              const unsigned long long *last_sums) {
        const LayerWeights &w = layers_[layer];
        const int next = layer + 1 == r.num_layers ? 0 : layer + 1;
        unsigned long long *attn_sums = sums + int64_t{layer} * 3 * r.width;
        const PagedKv kv = r.caches.layer(layer);

        normalise<kColumns>(s, r.width, last_sums, w.attn_norm);
        for_items([&](int head, int part) {
            project_qkv(w, kv, position, head, part);
            arrive_head(head);
        });
        stage_qkv(next);
        end_head_phase();
        for_items([&](int head, int part) {
            await_head(head);
            attend_tokens(kv, position, head);
            project_out(w.out, r.stage.out, attn_sums, head, part);
        });
        arrive_all();
        stage_out(r.stage.out, layers_[next].out);
        await_all();

        normalise<kColumns>(s, r.width, attn_sums, w.cross_norm);
        for_items([&](int head, int part) {
            project_cross_query(w, head);
            attend_audio(layer, head, part);
            arrive_head(head);
        });
        stage_cross(next);
        end_head_phase();
        for_items([&](int head, int part) {
            await_head(head);
            merge_parts(head);
            project_out(w.cross_out, r.stage.cross_out, attn_sums + r.width, head, part);
        });
        arrive_all();
        stage_out(r.stage.cross_out, layers_[next].cross_out);
        await_all();

        normalise<kColumns>(s, r.width, attn_sums + r.width, w.mlp_norm);
        run_mlp(w, attn_sums + 2 * r.width);
        arrive_all();
        stage_mlp(next);
        await_all();
    }

    // Wait until every block has come here.
    __device__ void arrive_all() {
        __syncthreads();
        if (threadIdx.x == 0) {
            arrive(r.counters);
        }
    }
    __device__ void await_all() {
        all_target_ += gridDim.x;
        if (threadIdx.x == 0) {
            await(r.counters, all_target_);
        }
        wait_copies<4>();
        __syncthreads();
    }

  private:
    template <class Body> __device__ void for_items(Body body) {
        for (int item = blockIdx.x; item < r.heads * r.parts; item += gridDim.x) {
            body(item % r.heads, item / r.heads);
        }
    }
    __device__ void arrive_head(int head) {
        __syncthreads();
        if (threadIdx.x == 0) {
            arrive(r.counters + 2 + head);
        }
    }
    __device__ void end_head_phase() {
        head_target_ += r.parts;
        wait_copies<4>();
    }
    __device__ void await_head(int head) {
        if (threadIdx.x == 0) {
            await(r.counters + 2 + head, head_target_);
        }
        __syncthreads();
    }
    __device__ int64_t row_bytes() const { return int64_t{r.width} / kColumns * 16; }
    __device__ int own_head() const { return blockIdx.x % r.heads; }
    __device__ int own_part() const { return blockIdx.x / r.heads; }
    __device__ bool has_item() const { return blockIdx.x < r.heads * r.parts; }

    // ---- queries, keys and values of the token: 6 width^2 bytes ----------------------------------

    __device__ const char *qkv_row(const LayerWeights &w, int head, int row) const {
        const int64_t index = int64_t{row / kHead} * r.width + head * kHead + row % kHead;
        return static_cast<const char *>(w.qkv.data) + index * row_bytes();
    }
    __device__ void stage_qkv(int layer) {
        if (r.stage.qkv >= 0 && has_item()) {
            const int first = part_start(3 * kHead, own_part(), r.parts);
            const int end = part_start(3 * kHead, own_part() + 1, r.parts);
            copy_rows(stage_ + r.stage.qkv, end - first, r.width / kColumns, [&](int row) {
                return qkv_row(layers_[layer], own_head(), first + row);
            });
        }
        commit_copies();
    }
    __device__ void project_qkv(const LayerWeights &w, const PagedKv &kv, int position, int head,
                                int part) {
        const int first = part_start(3 * kHead, part, r.parts);
        const int end = part_start(3 * kHead, part + 1, r.parts);
        const int64_t slot =
            int64_t{r.table[position / kv.block_tokens]} * kv.block_tokens + position % kv.block_tokens;
        for (int row = first + threadIdx.x / 32; row < end; row += kTokenWarps) {
            const char *weights = r.stage.qkv >= 0
                                      ? stage_ + r.stage.qkv + (row - first) * row_bytes()
                                      : qkv_row(w, head, row);
            const int64_t index = int64_t{row / kHead} * r.width + head * kHead + row % kHead;
            const float sum = multiply_row<kType>(weights, s.normed, r.width / kColumns, w.qkv,
                                                  index, r.width) +
                              __ldg(w.qkv.bias + index);
            if (threadIdx.x % 32 == 0) {
                const int channel = head * kHead + row % kHead;
                if (row < kHead) {
                    r.query[channel] = sum * 0.125f;
                } else {
                    __half *to = row < 2 * kHead ? kv.keys : kv.values;
                    to[slot * r.width + channel] = __float2half(sum);
                }
            }
        }
    }

    // ---- attention over the tokens so far: 256 bytes a position and head --------------------------

    __device__ void attend_tokens(const PagedKv &kv, int position, int head) {
        const int lane = threadIdx.x % 8;
        float query[8];
#pragma unroll
        for (int c = 0; c < 8; c++) {
            query[c] = __ldcg(r.query + head * kHead + lane * 8 + c);
        }
        const Mixed mixed =
            attend_keys<kTokenWarps>(query, position + 1, [&](int key, uint4 &k, uint4 &v) {
                const int64_t slot =
                    int64_t{r.table[key / kv.block_tokens]} * kv.block_tokens + key % kv.block_tokens;
                const int64_t place = slot * r.width + head * kHead + lane * 8;
                k = __ldcg(reinterpret_cast<const uint4 *>(kv.keys + place));
                v = __ldcg(reinterpret_cast<const uint4 *>(kv.values + place));
            });
        const Mixed all = merge_block<kTokenWarps>(mixed, s.partials);
        if (threadIdx.x < kHead) {
            s.head[threadIdx.x] = all.sums[0] / all.total;
        }
        __syncthreads();
    }

    // ---- output projection, the columns of one head: 2 width^2 bytes -------------------------------

    __device__ void stage_out(int offset, const Matrix &matrix) {
        if (offset >= 0 && has_item()) {
            const int first = part_start(r.width, own_part(), r.parts);
            const int end = part_start(r.width, own_part() + 1, r.parts);
            copy_short_rows<kHeadPieces>(stage_ + offset, end - first,
                                         static_cast<const char *>(matrix.data) +
                                             first * row_bytes() + own_head() * kHeadPieces * 16,
                                         row_bytes());
        }
        commit_copies();
    }
    __device__ void project_out(const Matrix &matrix, int offset, unsigned long long *sums, int head,
                                int part) {
        const int first = part_start(r.width, part, r.parts);
        const int end = part_start(r.width, part + 1, r.parts);
        const int piece = threadIdx.x % kHeadPieces;
        float mixed[kColumns];
#pragma unroll
        for (int c = 0; c < kColumns; c++) {
            mixed[c] = s.head[piece * kColumns + c];
        }
        constexpr int kRows = kTokenThreads / kHeadPieces; // at once
        for (int row0 = first; row0 < end; row0 += kRows) {
            const int row = row0 + threadIdx.x / kHeadPieces;
            const bool is_inside = row < end;
            const int64_t place =
                offset >= 0 ? int64_t{row - first} * kHeadPieces * 16
                            : row * row_bytes() + head * kHeadPieces * 16;
            const char *from =
                offset >= 0 ? stage_ + offset : static_cast<const char *>(matrix.data);
            uint4 weights{};
            if (is_inside) {
                weights = *reinterpret_cast<const uint4 *>(from + place + piece * 16);
            }
            float w[kColumns], sum = 0;
            Packed<kType>::widen(w, weights);
#pragma unroll
            for (int c = 0; c < kColumns; c++) {
                sum += w[c] * mixed[c];
            }
            sum = warp_sum<kHeadPieces>(sum);
            if (piece == 0 && is_inside) {
                sum *= scale_at<kType>(matrix, row, r.width, head * kHead);
                add_fixed(sums + row, sum + (head == 0 ? __ldg(matrix.bias + row) : 0.0f));
            }
        }
        __syncthreads(); // s.head is free again
    }

    // ---- attention over the encoded audio: 2 width^2 bytes of weights for each part, and
    // ---- 256 bytes a position and head -------------------------------------------------------------

    __device__ const __half *audio_keys(int layer, int head) const {
        return r.audio + (2ll * layer * r.heads + head) * r.num_keys * kHead;
    }
    __device__ void stage_cross(int layer) {
        const int first = part_start(r.num_keys, own_part(), r.parts);
        const int end = part_start(r.num_keys, own_part() + 1, r.parts);
        if (r.stage.cross_query >= 0 && has_item()) {
            const char *rows = static_cast<const char *>(layers_[layer].cross_query.data) +
                               own_head() * kHead * row_bytes();
            copy_rows(stage_ + r.stage.cross_query, kHead, r.width / kColumns,
                      [&](int row) { return rows + row * row_bytes(); });
        }
        if (r.stage.cross_keys >= 0 && has_item()) {
            const __half *keys = audio_keys(layer, own_head()) + int64_t{first} * kHead;
            const __half *values = keys + int64_t{r.heads} * r.num_keys * kHead;
            char *to = stage_ + r.stage.cross_keys;
            for (int i = threadIdx.x; i < (end - first) * 8; i += kTokenThreads) {
                copy_async(to + i * 16, keys + i * 8);
                copy_async(to + ((end - first) * 8 + i) * 16, values + i * 8);
            }
        }
        commit_copies();
    }
    __device__ void project_cross_query(const LayerWeights &w, int head) {
        for (int row = threadIdx.x / 32; row < kHead; row += kTokenWarps) {
            const int64_t index = head * kHead + row;
            const char *weights = r.stage.cross_query >= 0
                                      ? stage_ + r.stage.cross_query + row * row_bytes()
                                      : static_cast<const char *>(w.cross_query.data) +
                                            index * row_bytes();
            const float sum = multiply_row<kType>(weights, s.normed, r.width / kColumns,
                                                  w.cross_query, index, r.width) +
                              __ldg(w.cross_query.bias + index);
            if (threadIdx.x % 32 == 0) {
                s.head[row] = sum * 0.125f;
            }
        }
        __syncthreads();
    }
    __device__ void attend_audio(int layer, int head, int part) {
        const int first = part_start(r.num_keys, part, r.parts);
        const int num = part_start(r.num_keys, part + 1, r.parts) - first;
        const int lane = threadIdx.x % 8;
        float query[8];
#pragma unroll
        for (int c = 0; c < 8; c++) {
            query[c] = s.head[lane * 8 + c];
        }
        const bool is_staged = r.stage.cross_keys >= 0;
        const __half *keys = is_staged
                                 ? reinterpret_cast<const __half *>(stage_ + r.stage.cross_keys)
                                 : audio_keys(layer, head) + int64_t{first} * kHead;
        const __half *values =
            keys + (is_staged ? int64_t{num} : int64_t{r.heads} * r.num_keys) * kHead;
        const Mixed mixed = attend_keys<kTokenWarps>(query, num, [&](int key, uint4 &k, uint4 &v) {
            k = *reinterpret_cast<const uint4 *>(keys + key * kHead + lane * 8);
            v = *reinterpret_cast<const uint4 *>(values + key * kHead + lane * 8);
        });
        const Mixed all = merge_block<kTokenWarps>(mixed, s.partials);
        float *out = r.mixed + (int64_t{head} * r.parts + part) * kMixedFloats;
        if (threadIdx.x < kHead) {
            out[2 + threadIdx.x] = all.sums[0];
            if (threadIdx.x == 0) {
                out[0] = all.largest;
                out[1] = all.total;
            }
        }
    }
    // The parts of one head to its result, in s.head.
    __device__ void merge_parts(int head) {
        const float *parts = r.mixed + int64_t{head} * r.parts * kMixedFloats;
        if (threadIdx.x < kHead) {
            float largest = -1e30f, total = 0, sum = 0;
            for (int part0 = 0; part0 < r.parts; part0 += 8) { // eight in flight
                float high[8], amount[8], value[8];
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    const float *part = parts + min(part0 + i, r.parts - 1) * kMixedFloats;
                    high[i] = part0 + i < r.parts ? __ldcg(part) : -1e30f;
                    amount[i] = __ldcg(part + 1);
                    value[i] = __ldcg(part + 2 + threadIdx.x);
                }
                float higher = largest;
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    higher = fmaxf(higher, high[i]);
                }
                const float shrink = __expf(largest - higher);
                largest = higher;
                total *= shrink;
                sum *= shrink;
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    const float weight = __expf(high[i] - higher);
                    total += weight * amount[i];
                    sum += weight * value[i];
                }
            }
            s.head[threadIdx.x] = sum / total;
        }
        __syncthreads();
    }

    // ---- the two layers of the MLP: each block has some hidden channels. 16 width^2 bytes ----------

    __device__ int hidden_start(int block) const {
        return part_start(4 * r.width / kColumns, block, gridDim.x) * kColumns;
    }
    __device__ void stage_mlp(int layer) {
        const LayerWeights &w = layers_[layer];
        const int first = hidden_start(blockIdx.x), num = hidden_start(blockIdx.x + 1) - first;
        if (r.stage.mlp_in >= 0) {
            const char *rows = static_cast<const char *>(w.mlp_in.data) + first * row_bytes();
            copy_rows(stage_ + r.stage.mlp_in, num, r.width / kColumns,
                      [&](int row) { return rows + row * row_bytes(); });
        }
        if (r.stage.mlp_out >= 0) {
            const char *from = static_cast<const char *>(w.mlp_out.data) + first / kColumns * 16;
            const int pieces = num / kColumns;
            for (int row = threadIdx.x; row < r.width; row += kTokenThreads) {
                for (int piece = 0; piece < pieces; piece++) {
                    copy_async(stage_ + r.stage.mlp_out + (row * pieces + piece) * 16,
                               from + row * 4 * row_bytes() + piece * 16);
                }
            }
        }
        commit_copies();
    }
    __device__ void run_mlp(const LayerWeights &w, unsigned long long *sums) {
        const int first = hidden_start(blockIdx.x), num = hidden_start(blockIdx.x + 1) - first;
        const int pieces = num / kColumns;
        for (int row = threadIdx.x / 32; row < num; row += kTokenWarps) {
            const char *weights =
                r.stage.mlp_in >= 0
                    ? stage_ + r.stage.mlp_in + row * row_bytes()
                    : static_cast<const char *>(w.mlp_in.data) + (first + row) * row_bytes();
            const float sum = multiply_row<kType>(weights, s.normed, r.width / kColumns, w.mlp_in,
                                                  first + row, r.width) +
                              __ldg(w.mlp_in.bias + first + row);
            if (threadIdx.x % 32 == 0) {
                s.hidden[plane_at<kColumns>(row, pieces)] = gelu(sum);
            }
        }
        __syncthreads();
        const bool is_staged = r.stage.mlp_out >= 0;
        const char *rows = is_staged ? stage_ + r.stage.mlp_out
                                     : static_cast<const char *>(w.mlp_out.data) +
                                           first / kColumns * 16;
        const int64_t stride = is_staged ? pieces * 16 : 4 * row_bytes();
        if (pieces >= 8) { // long rows: a warp each
            for (int row = threadIdx.x / 32; row < r.width; row += kTokenWarps) {
                const float sum = multiply_row<kType>(rows + row * stride, s.hidden, pieces,
                                                      w.mlp_out, row, 4 * r.width, first);
                if (threadIdx.x % 32 == 0) {
                    add_mlp(w, sums, row, sum);
                }
            }
            return;
        }
        for (int row = threadIdx.x; row < r.width; row += kTokenThreads) {
            float sum = 0;
            for (int piece = 0; piece < pieces; piece++) {
                const uint4 weights =
                    *reinterpret_cast<const uint4 *>(rows + row * stride + piece * 16);
                sum += multiply_piece<kType>(weights, s.hidden, pieces, piece) *
                       scale_at<kType>(w.mlp_out, row, 4 * r.width, first + piece * kColumns);
            }
            add_mlp(w, sums, row, sum);
        }
    }
    __device__ void add_mlp(const LayerWeights &w, unsigned long long *sums, int row, float sum) {
        add_fixed(sums + row, sum + (blockIdx.x == 0 ? __ldg(w.mlp_out.bias + row) : 0.0f));
    }

    const TokenRun &r;
    TokenShared &s;
    const LayerWeights *layers_; // in shared memory
    char *stage_;
    unsigned all_target_ = 0, head_target_ = 0;
};

} // namespace dw
