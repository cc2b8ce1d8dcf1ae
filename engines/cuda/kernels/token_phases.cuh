// The phases of one decoder layer for one token; the comments give each one's bytes of fp16
// weights and of keys and values, over all blocks.
#pragma once

#include "token_stage.cuh"

namespace dw {

template <dw_type kType> class TokenPhases {
  public:
    static constexpr int kColumns = Packed<kType>::kColumns;
    static constexpr int kHeadPieces = kHead / kColumns;

    __device__ TokenPhases(const TokenRun &run, TokenShared &shared, const TokenStage<kType> &stage)
        : r(run), s(shared), stage_(stage) {}

    // Queries, keys and values of the token, 1 / parts of one head: 6 width^2 bytes.
    __device__ void project_qkv(const Matrix &matrix, const PagedKv &kv, int position, int head,
                                int part, uint32_t tag) {
        const int first = part_start(3 * kHead, part, r.parts);
        const int num = part_start(3 * kHead, part + 1, r.parts) - first;
        multiply_rows<kType>(
            num, s.normed, r.width / kColumns, matrix, r.width, 0,
            [&](int row) {
                return (first + row) / kHead * r.width + head * kHead + (first + row) % kHead;
            },
            [&](int row, int index) {
                return row_at(matrix, r.stage.qkv, row, index);
            },
            [&](int row, int index, float product) {
                product += __ldg(matrix.bias + index);
                send(r.qkv + head * 3 * kHead + first + row, product, tag);
                if (first + row >= kHead) {
                    __half *to = first + row < 2 * kHead ? kv.keys : kv.values;
                    to[slot_of(position, kv.block_tokens) * r.width + index % r.width] =
                        __float2half(product);
                }
            });
    }

    // Attention over the tokens so far, of one head, into s.head: 256 bytes a position and head.
    // The token's own key and value come with the query, the others are read meanwhile.
    template <class Between>
    __device__ void attend_tokens(const PagedKv &kv, int position, int head, uint32_t tag,
                                  Between between) {
        const int lane = threadIdx.x % 8;
        if (threadIdx.x < 3 * kHead) {
            const float value = receive(r.qkv + head * 3 * kHead + threadIdx.x, tag);
            const int channel = threadIdx.x % kHead;
            if (threadIdx.x < kHead) {
                s.head[channel] = value * 0.125f;
            } else if (threadIdx.x < 2 * kHead) {
                s.key[channel] = __half2float(__float2half(value));
            } else {
                s.value[channel] = __half2float(__float2half(value));
            }
        }
        __syncthreads();
        between();
        float query[8];
#pragma unroll
        for (int c = 0; c < 8; c++) {
            query[c] = s.head[lane * 8 + c];
        }
        Mixed mixed = attend_keys<kTokenWarps>(query, position, [&](int key, uint4 &k, uint4 &v) {
            const int64_t place =
                slot_of(key, kv.block_tokens) * r.width + head * kHead + lane * 8;
            k = __ldcg(reinterpret_cast<const uint4 *>(kv.keys + place));
            v = __ldcg(reinterpret_cast<const uint4 *>(kv.values + place));
        });
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
        const Mixed all = merge_block<kTokenWarps>(mixed, s.partials);
        if (threadIdx.x < kHead) {
            s.head[threadIdx.x] = all.sums[0] / all.total;
        }
        __syncthreads();
    }

    // The columns of one head, 1 / parts of the rows, of an output projection: 2 width^2 bytes.
    __device__ void project_out(const Matrix &matrix, int offset, uint64_t *sums, int head,
                                int part) {
        const int first = part_start(r.width, part, r.parts);
        const int end = part_start(r.width, part + 1, r.parts);
        const int piece = threadIdx.x % kHeadPieces;
        constexpr int kRows = kTokenThreads / kHeadPieces; // at once
        float mixed[kColumns];
#pragma unroll
        for (int c = 0; c < kColumns; c++) {
            mixed[c] = s.head[piece * kColumns + c];
        }
        const char *from = offset >= 0 ? stage_.base + offset
                                       : static_cast<const char *>(matrix.data) +
                                             int64_t{first} * stage_.row_bytes() +
                                             head * kHeadPieces * 16;
        const int stride = offset >= 0 ? kHeadPieces * 16 : stage_.row_bytes();
#pragma unroll 1
        for (int row0 = first; row0 < end; row0 += kRows) {
            const int row = row0 + threadIdx.x / kHeadPieces;
            const bool is_inside = row < end;
            uint4 weights{};
            if (is_inside) {
                weights = *reinterpret_cast<const uint4 *>(from + int64_t{row - first} * stride +
                                                           piece * 16);
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
                add_counted(sums + row, sum + (head == 0 ? __ldg(matrix.bias + row) : 0.0f));
            }
        }
    }

    // Attention over 1 / parts of the encoded audio, of one head; every part makes the head's query
    // for itself: 2 width^2 bytes a part, and 256 a position and head.
    __device__ void attend_audio(const Matrix &query_matrix, int layer, int head, int part,
                                 uint32_t tag) {
        multiply_rows<kType>(
            kHead, s.normed, r.width / kColumns, query_matrix, r.width, 0,
            [&](int row) { return head * kHead + row; },
            [&](int row, int index) {
                return row_at(query_matrix, r.stage.cross_query, row, index);
            },
            [&](int row, int index, float product) {
                s.head[row] = (product + __ldg(query_matrix.bias + index)) * 0.125f;
            });
        __syncthreads();
        const int first = part_start(r.num_keys, part, r.parts);
        const int num = part_start(r.num_keys, part + 1, r.parts) - first;
        const int lane = threadIdx.x % 8;
        float query[8];
#pragma unroll
        for (int c = 0; c < 8; c++) {
            query[c] = s.head[lane * 8 + c];
        }
        const bool is_staged = r.stage.cross_keys >= 0;
        const __half *keys =
            is_staged ? reinterpret_cast<const __half *>(stage_.base + r.stage.cross_keys)
                      : r.audio + ((2ll * layer * r.heads + head) * r.num_keys + first) * kHead;
        const __half *values = keys + (is_staged ? num : r.heads * r.num_keys) * kHead;
        const Mixed mixed = attend_keys<kTokenWarps>(query, num, [&](int key, uint4 &k, uint4 &v) {
            k = *reinterpret_cast<const uint4 *>(keys + key * kHead + lane * 8);
            v = *reinterpret_cast<const uint4 *>(values + key * kHead + lane * 8);
        });
        const Mixed all = merge_block<kTokenWarps>(mixed, s.partials);
        uint64_t *out = r.mixed + (head * r.parts + part) * kMixedFloats;
        if (threadIdx.x < kHead) {
            send(out + 2 + threadIdx.x, all.sums[0], tag);
            if (threadIdx.x < 2) {
                send(out + threadIdx.x, threadIdx.x == 0 ? all.largest : all.total, tag);
            }
        }
    }

    // The parts of one head to its result, in s.head.
    template <class Between>
    __device__ void merge_parts(int head, uint32_t tag, Between between) {
        __syncthreads(); // s.partials is free
        const uint64_t *words = r.mixed + head * r.parts * kMixedFloats;
#pragma unroll 1
        for (int i = threadIdx.x; i < r.parts * kMixedFloats; i += kTokenThreads) {
            s.partials[i] = receive(words + i, tag);
        }
        __syncthreads();
        between();
        if (threadIdx.x < kHead) {
            float largest = -1e30f, total = 0, sum = 0;
            for (int i = 0; i < r.parts; i++) {
                largest = fmaxf(largest, s.partials[i * kMixedFloats]);
            }
#pragma unroll 4
            for (int i = 0; i < r.parts; i++) {
                const float *part = s.partials + i * kMixedFloats;
                const float weight = __expf(part[0] - largest);
                total += weight * part[1];
                sum += weight * part[2 + threadIdx.x];
            }
            s.head[threadIdx.x] = sum / total;
        }
        __syncthreads();
    }

    // Both layers of the MLP for this block's hidden channels: 16 width^2 bytes.
    __device__ void run_mlp(const LayerWeights &w, uint64_t *sums) {
        const int first = stage_.hidden_start(blockIdx.x);
        const int num = stage_.hidden_start(blockIdx.x + 1) - first, pieces = num / kColumns;
        multiply_rows<kType>(
            num, s.normed, r.width / kColumns, w.mlp_in, r.width, 0,
            [&](int row) { return first + row; },
            [&](int row, int index) { return row_at(w.mlp_in, r.stage.mlp_in, row, index); },
            [&](int row, int index, float product) {
                s.hidden[plane_at(row, pieces, kLogColumns<kType>)] =
                    gelu(product + __ldg(w.mlp_in.bias + index));
            });
        __syncthreads();
        const bool is_staged = r.stage.mlp_out >= 0;
        const char *rows = is_staged ? stage_.base + r.stage.mlp_out
                                     : static_cast<const char *>(w.mlp_out.data) +
                                           first / kColumns * 16;
        const int stride = is_staged ? pieces * 16 : 4 * stage_.row_bytes();
        auto add = [&](int row, float sum) {
            add_counted(sums + row, sum + (blockIdx.x == 0 ? __ldg(w.mlp_out.bias + row) : 0.0f));
        };
        if (pieces >= 8) { // long rows, as few blocks have them: warps share a row
            multiply_rows<kType>(
                r.width, s.hidden, pieces, w.mlp_out, 4 * r.width, first, [](int row) { return row; },
                [&](int row, int) { return rows + int64_t{row} * stride; },
                [&](int row, int, float product) { add(row, product); });
            return;
        }
#pragma unroll 1
        for (int row = threadIdx.x; row < r.width; row += kTokenThreads) {
            float sum = 0;
#pragma unroll 1
            for (int piece = 0; piece < pieces; piece++) {
                const uint4 weights = *reinterpret_cast<const uint4 *>(
                    rows + int64_t{row} * stride + piece * 16);
                sum += multiply_piece<kType>(weights, s.hidden, pieces, piece) *
                       scale_at<kType>(w.mlp_out, row, 4 * r.width, first + piece * kColumns);
            }
            add(row, sum);
        }
    }

  private:
    // Row `row` of what is copied ahead at `offset`, or row `index` of the matrix itself.
    __device__ const char *row_at(const Matrix &matrix, int offset, int row, int index) const {
        return offset >= 0 ? stage_.base + offset + row * stage_.row_bytes()
                           : static_cast<const char *>(matrix.data) +
                                 int64_t{index} * stage_.row_bytes();
    }
    // block_tokens is a power of two.
    __device__ int64_t slot_of(int position, int block_tokens) const {
        const int log_tokens = __ffs(block_tokens) - 1;
        return (int64_t{s.table[position >> log_tokens]} << log_tokens) +
               (position & (block_tokens - 1));
    }

    const TokenRun &r;
    TokenShared &s;
    const TokenStage<kType> &stage_;
};

} // namespace dw
