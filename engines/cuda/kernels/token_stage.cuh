// Copies ahead: while a block waits for others, the weights that the same phase of the next layer
// needs from it are copied into its shared memory. Every phase has its own place there.
//
// On sm_90 one warp hands most of the work to the copy engine, which then needs no threads and
// counts bytes in an mbarrier for each phase. Elsewhere all threads start copies of 16 bytes; every
// function ends one group of them, also where there is nothing to copy, so that waiting for all but
// the last four groups is always right: a layer has five.
#pragma once

#include "token_block.cuh"

namespace dw {

enum Phase { kQkv, kOut, kCross, kCrossOut, kMlp };

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define DW_COPY_ENGINE 1
#else
#define DW_COPY_ENGINE 0
#endif

template <dw_type kType> struct TokenStage {
    static constexpr int kColumns = Packed<kType>::kColumns;
    static constexpr int kHeadPieces = kHead / kColumns;

    const TokenRun &r;
    TokenShared &s;
    const LayerWeights *layers; // in shared memory
    char *base;
    const int row_bytes;
    const int hidden_first, hidden_num; // this block's channels of the hidden layer
    // A block with several items copies nothing ahead for them.
    const Item &item;
    uint32_t parity = 0; // of the layer that runs: all mbarriers turn over once a layer

    __device__ TokenStage(const TokenRun &run, TokenShared &shared, const LayerWeights *layers,
                          char *base)
        : r(run), s(shared), layers(layers), base(base), row_bytes(run.width / kColumns * 16),
          hidden_first(hidden_start(blockIdx.x)),
          hidden_num(hidden_start(blockIdx.x + 1) - hidden_first), item(shared.items[0]) {
#if DW_COPY_ENGINE
        if (threadIdx.x < 5) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&s.copied[threadIdx.x]))
                         : "memory");
        }
        asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
#endif
    }

    __device__ int hidden_start(int block) const {
        return part_start(4 * r.width / kColumns, block, gridDim.x) * kColumns;
    }
    // Row of the matrix [3 * width, width] that is row `row` of an item.
    __device__ int qkv_index(const Item &item, int row) const {
        row += item.qkv_first;
        return row / kHead * r.width + item.head * kHead + row % kHead;
    }

    // Wait for what this layer's phase needs; other threads' copies are there after a
    // __syncthreads().
    __device__ void await(Phase phase) const {
#if DW_COPY_ENGINE
        const uint32_t barrier = shared_address(&s.copied[phase]);
        uint32_t is_done = 0;
        while (!is_done) {
            asm volatile("{\n\t.reg .pred p;\n\t"
                         "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                         "selp.u32 %0, 1, 0, p;\n\t}"
                         : "=r"(is_done)
                         : "r"(barrier), "r"(parity)
                         : "memory");
        }
        if (phase == kMlp) {
            wait_copies<0>();
        }
#else
        (void)phase;
        wait_copies<4>();
#endif
    }

    // 1 / parts of the head's queries, keys and values.
    __device__ void copy_qkv(int layer) const {
        const Matrix &matrix = layers[layer].qkv;
        const char *data = static_cast<const char *>(matrix.data);
        const bool is_wanted = r.stage.qkv >= 0;
        begin(kQkv, is_wanted ? item.qkv_num * row_bytes + 3 * kHead * 4 : 0);
        if (is_wanted) {
            for_lines(item.qkv_num, [&](int row) {
                copy_line(kQkv, base + r.stage.qkv + row * row_bytes,
                          data + int64_t{qkv_index(item, row)} * row_bytes, row_bytes);
            });
            for_lines(3, [&](int part) {
                copy_line(kQkv, s.qkv_bias + part * kHead,
                          matrix.bias + part * r.width + item.head * kHead, kHead * 4);
            });
        }
        commit_copies();
    }

    // The head's columns of width / parts rows of an output projection.
    __device__ void copy_out(Phase phase, int offset, const Matrix &matrix) const {
        begin(phase, offset >= 0 ? item.row_num * kHeadPieces * 16 : 0);
        if (offset >= 0) {
            const char *from = static_cast<const char *>(matrix.data) +
                               int64_t{item.row_first} * row_bytes + item.head * kHeadPieces * 16;
            for_lines(item.row_num, [&](int row) {
                copy_line(phase, base + offset + row * kHeadPieces * 16,
                          from + int64_t{row} * row_bytes, kHeadPieces * 16);
            });
        }
        commit_copies();
    }

    // The head's rows of the query projection; its keys and values of num_keys / parts positions.
    __device__ void copy_cross(int layer) const {
        const bool has_query = r.stage.cross_query >= 0, has_keys = r.stage.cross_keys >= 0;
        const int key_bytes = item.key_num * kHead * 2;
        begin(kCross, (has_query ? kHead * row_bytes + kHead * 4 : 0) + (has_keys ? 2 * key_bytes : 0));
        if (has_query) {
            const Matrix &matrix = layers[layer].cross_query;
            copy_block(kCross, base + r.stage.cross_query,
                       static_cast<const char *>(matrix.data) + int64_t{item.head} * kHead * row_bytes,
                       kHead * row_bytes);
            copy_block(kCross, s.query_bias, matrix.bias + item.head * kHead, kHead * 4);
        }
        if (has_keys) {
            const __half *keys =
                r.audio +
                ((2ll * layer * r.heads + item.head) * r.num_keys + item.key_first) * kHead;
            char *to = base + r.stage.cross_keys;
            copy_block(kCross, to, keys, key_bytes);
            copy_block(kCross, to + key_bytes, keys + int64_t{r.heads} * r.num_keys * kHead, key_bytes);
        }
        commit_copies();
    }

    // The block's rows of the MLP's first matrix and columns of its second; the latter are too
    // short for the copy engine.
    __device__ void copy_mlp(int layer) const {
        const Matrix &matrix = layers[layer].mlp_in;
        const bool has_rows = r.stage.mlp_in >= 0;
        begin(kMlp, has_rows ? hidden_num * (row_bytes + 4) : 0);
        if (has_rows) {
            copy_block(kMlp, base + r.stage.mlp_in,
                       static_cast<const char *>(matrix.data) + int64_t{hidden_first} * row_bytes,
                       hidden_num * row_bytes);
            copy_block(kMlp, s.hidden_bias, matrix.bias + hidden_first, hidden_num * 4);
        }
        if (r.stage.mlp_out >= 0) {
            const char *from = static_cast<const char *>(layers[layer].mlp_out.data) +
                               hidden_first / kColumns * 16;
            char *to = base + r.stage.mlp_out;
            const int pieces = hidden_num / kColumns;
#pragma unroll 1
            for (int row = threadIdx.x; row < r.width; row += kTokenThreads) {
#pragma unroll 1
                for (int piece = 0; piece < pieces; piece++) {
                    copy_async(to + (row * pieces + piece) * 16,
                               from + int64_t{row} * 4 * row_bytes + piece * 16);
                }
            }
        }
        commit_copies();
    }

  private:
    __device__ static uint32_t shared_address(const void *shared) {
        return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    }

    // So many bytes will come for this phase of the next layer.
    __device__ void begin(Phase phase, int bytes) const {
#if DW_COPY_ENGINE
        if (threadIdx.x == 0) {
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                             shared_address(&s.copied[phase])),
                         "r"(bytes)
                         : "memory");
        }
        __syncwarp();
#else
        (void)phase, (void)bytes;
#endif
    }
    // body(i) once for each line: by lanes of one warp, or by whole warps.
    template <class Body> __device__ void for_lines(int num, Body body) const {
#if DW_COPY_ENGINE
        if (threadIdx.x < 32) {
#pragma unroll 1
            for (int i = threadIdx.x; i < num; i += 32) {
                body(i);
            }
        }
#else
#pragma unroll 1
        for (int i = threadIdx.x / 32; i < num; i += kTokenWarps) {
            body(i);
        }
#endif
    }
    // One line, by whom for_lines() says.
    __device__ void copy_line(Phase phase, void *to, const void *from, int bytes) const {
#if DW_COPY_ENGINE
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
                     "l"(from), "r"(bytes), "r"(shared_address(&s.copied[phase]))
                     : "memory");
#else
        (void)phase;
#pragma unroll 1
        for (int at = threadIdx.x % 32 * 16; at < bytes; at += 512) {
            copy_async(static_cast<char *>(to) + at, static_cast<const char *>(from) + at);
        }
#endif
    }
    // Any number of bytes in a row, by one thread or by all.
    __device__ void copy_block(Phase phase, void *to, const void *from, int bytes) const {
#if DW_COPY_ENGINE
        if (threadIdx.x == 0 && bytes > 0) {
            copy_line(phase, to, from, bytes);
        }
#else
        (void)phase;
#pragma unroll 1
        for (int at = threadIdx.x * 16; at < bytes; at += kTokenThreads * 16) {
            copy_async(static_cast<char *>(to) + at, static_cast<const char *>(from) + at);
        }
#endif
    }
};

} // namespace dw
