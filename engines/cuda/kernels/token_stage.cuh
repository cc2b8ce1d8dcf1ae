// Copies ahead: while a block waits for others, the weights that the same phase of the next layer
// needs from it are copied into its shared memory. Every phase has its own place there.
//
// Each function ends one group of copies, also where there is nothing to copy, so that waiting for
// all but the last four groups is always right: a layer has five.
#pragma once

#include "token_block.cuh"

namespace dw {

template <dw_type kType> struct TokenStage {
    static constexpr int kColumns = Packed<kType>::kColumns;
    static constexpr int kHeadPieces = kHead / kColumns;

    const TokenRun &r;
    const LayerWeights *layers; // in shared memory
    char *base;
    int head, part; // of this block's item

    __device__ TokenStage(const TokenRun &run, const LayerWeights *layers, char *base)
        : r(run), layers(layers), base(base), head(blockIdx.x % run.heads),
          part(blockIdx.x / run.heads) {}

    __device__ int row_bytes() const { return r.width / kColumns * 16; }
    __device__ int hidden_start(int block) const {
        return part_start(4 * r.width / kColumns, block, gridDim.x) * kColumns;
    }

    // 64 / parts rows each of the head's queries, keys and values.
    __device__ void copy_qkv(int layer) const {
        if (r.stage.qkv >= 0) {
            const int first = part_start(3 * kHead, part, r.parts);
            const int num = part_start(3 * kHead, part + 1, r.parts) - first;
            const char *data = static_cast<const char *>(layers[layer].qkv.data);
            copy_rows(r.stage.qkv, num, [&](int row) {
                const int index = (first + row) / kHead * r.width + head * kHead + (first + row) % kHead;
                return data + int64_t{index} * row_bytes();
            });
        }
        commit_copies();
    }

    // The head's columns of width / parts rows of an output projection.
    __device__ void copy_out(int offset, const Matrix &matrix) const {
        if (offset >= 0) {
            const int first = part_start(r.width, part, r.parts);
            const int num = part_start(r.width, part + 1, r.parts) - first;
            const char *from = static_cast<const char *>(matrix.data) +
                               int64_t{first} * row_bytes() + head * kHeadPieces * 16;
#pragma unroll 1
            for (int i = threadIdx.x; i < num * kHeadPieces; i += kTokenThreads) {
                copy_async(base + offset + i * 16,
                           from + i / kHeadPieces * row_bytes() + i % kHeadPieces * 16);
            }
        }
        commit_copies();
    }

    // The head's rows of the query projection; its keys and values of num_keys / parts positions.
    __device__ void copy_cross(int layer) const {
        if (r.stage.cross_query >= 0) {
            const char *data = static_cast<const char *>(layers[layer].cross_query.data) +
                               int64_t{head} * kHead * row_bytes();
            copy_rows(r.stage.cross_query, kHead,
                      [&](int row) { return data + int64_t{row} * row_bytes(); });
        }
        if (r.stage.cross_keys >= 0) {
            const int first = part_start(r.num_keys, part, r.parts);
            const int num = part_start(r.num_keys, part + 1, r.parts) - first;
            const __half *keys =
                r.audio + ((2ll * layer * r.heads + head) * r.num_keys + first) * kHead;
            const __half *values = keys + int64_t{r.heads} * r.num_keys * kHead;
            char *to = base + r.stage.cross_keys;
#pragma unroll 1
            for (int i = threadIdx.x; i < num * 8; i += kTokenThreads) {
                copy_async(to + i * 16, keys + i * 8);
                copy_async(to + (num * 8 + i) * 16, values + i * 8);
            }
        }
        commit_copies();
    }

    // The block's rows of the MLP's first matrix and columns of its second.
    __device__ void copy_mlp(int layer) const {
        const int first = hidden_start(blockIdx.x), num = hidden_start(blockIdx.x + 1) - first;
        if (r.stage.mlp_in >= 0) {
            const char *data = static_cast<const char *>(layers[layer].mlp_in.data) +
                               int64_t{first} * row_bytes();
            copy_rows(r.stage.mlp_in, num,
                      [&](int row) { return data + int64_t{row} * row_bytes(); });
        }
        if (r.stage.mlp_out >= 0) {
            const char *from =
                static_cast<const char *>(layers[layer].mlp_out.data) + first / kColumns * 16;
            char *to = base + r.stage.mlp_out;
            const int pieces = num / kColumns;
#pragma unroll 1
            for (int row = threadIdx.x; row < r.width; row += kTokenThreads) {
#pragma unroll 1
                for (int piece = 0; piece < pieces; piece++) {
                    copy_async(to + (row * pieces + piece) * 16,
                               from + int64_t{row} * 4 * row_bytes() + piece * 16);
                }
            }
        }
        commit_copies();
    }

  private:
    template <class RowAt> __device__ void copy_rows(int offset, int num, RowAt row_at) const {
        const int bytes = row_bytes();
#pragma unroll 1
        for (int row = threadIdx.x / 32; row < num; row += kTokenWarps) {
            const char *from = row_at(row);
            char *to = base + offset + row * bytes;
#pragma unroll 1
            for (int at = threadIdx.x % 32 * 16; at < bytes; at += 512) {
                copy_async(to + at, from + at);
            }
        }
    }
};

} // namespace dw
