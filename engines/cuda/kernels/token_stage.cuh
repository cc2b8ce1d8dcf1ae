// Copies ahead: one warp of the block does nothing but copy the weights and keys that each phase of
// the next layer needs from this block into shared memory. Every phase has its own place there, and
// two mbarriers: `copied`, where each lane of the copying warp arrives when its copies have, and
// `used`, where each worker arrives when it is done with what was there.
#pragma once

#include "token_block.cuh"

namespace dw {

enum Phase { kQkv, kOut, kCross, kCrossOut, kMlp };
constexpr int kPhases = 5;

__device__ inline void make_barrier(uint64_t *barrier, int num_arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(num_arrivals)
                 : "memory");
}
__device__ inline void arrive(uint64_t *barrier) {
    asm volatile("{\n\t.reg .b64 state;\n\tmbarrier.arrive.shared.b64 state, [%0];\n\t}" ::"r"(
                     shared_address(barrier))
                 : "memory");
}
// Whether the barrier has turned over an even (parity 1) or odd (parity 0) number of times.
__device__ inline uint32_t has_turned_yet(uint64_t *barrier, uint32_t parity) {
    uint32_t is_done;
    asm volatile("{\n\t.reg .pred p;\n\t"
                 "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n\t"
                 "selp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(is_done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return is_done;
}
__device__ inline void await(uint64_t *barrier, uint32_t parity) {
    while (!has_turned_yet(barrier, parity)) {
    }
}

template <dw_type kType> struct TokenStage {
    static constexpr int kColumns = Packed<kType>::kColumns;
    static constexpr int kHeadPieces = kHead / kColumns;

    const TokenRun &r;
    TokenShared &s;
    const LayerWeights *layers; // in shared memory
    char *base;
    uint32_t parity = 0; // of the layer that runs: every mbarrier turns once a layer

    __device__ TokenStage(const TokenRun &run, TokenShared &shared, const LayerWeights *layers,
                          char *base)
        : r(run), s(shared), layers(layers), base(base) {}

    __device__ int row_bytes() const { return r.width / kColumns * 16; }
    // Where the hidden layer's channels of a block begin.
    __device__ static int hidden_start(const TokenRun &r, int block) {
        return part_start(4 * r.width / kColumns, block, gridDim.x) * kColumns;
    }
    // Row of the matrix [3 * width, width] that is row `row` of an item.
    __device__ int qkv_index(const Item &item, int row) const {
        row += item.qkv_first;
        return row / kHead * r.width + item.head * kHead + row % kHead;
    }

    // ---- the workers' side -------------------------------------------------------------------------

    // Wait for what this layer's phase needs.
    __device__ void await_copies(Phase phase) const { await(&s.copied[phase], parity); }
    __device__ void release(Phase phase) const { arrive(&s.used[phase]); }
    __device__ void end() const {
        if (threadIdx.x == 0) {
            s.is_done = 1;
        }
        arrive(&s.used[kQkv]);
    }

    // ---- the copying warp ----------------------------------------------------------------------------

    __device__ void copy_all() const {
#pragma unroll 1
        for (uint32_t turn = 0;; turn++) { // layers of all tokens
            const int layer = turn % r.num_layers;
            const LayerWeights &w = layers[layer];
#pragma unroll 1
            for (int phase = 0; phase < kPhases; phase++) {
                if (turn > 0) {
                    await(&s.used[phase], (turn - 1) & 1);
                    if (phase == kQkv && *static_cast<volatile int32_t *>(&s.is_done)) {
                        asm volatile("cp.async.wait_all;" ::: "memory");
                        return;
                    }
                }
                if (phase == kQkv) {
                    prefetch(w, layer, r.position + static_cast<int>(turn) / r.num_layers);
                    copy_qkv(w.qkv);
                } else if (phase == kOut || phase == kCrossOut) {
                    copy_out(phase == kOut ? r.stage.out : r.stage.cross_out,
                             phase == kOut ? w.out : w.cross_out);
                } else if (phase == kCross) {
                    copy_cross(w.cross_query, layer);
                } else {
                    copy_mlp(w);
                }
                asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(
                                 shared_address(&s.copied[phase]))
                             : "memory");
            }
        }
    }

  private:
    // A block with several items copies nothing ahead for them.
    __device__ const Item &item() const { return s.items[0]; }
    __device__ static int lane() { return threadIdx.x % 32; }

    // What all blocks need of a layer goes only as far as the L2 cache, each line by some of them:
    // the norms, the biases of what is added to the residual stream, and the tokens so far.
    __device__ void prefetch(const LayerWeights &w, int layer, int num_tokens) const {
        const float *vector = nullptr; // one for each of the first lanes
        switch (lane()) {
        case 0: vector = w.attn_norm.weight; break;
        case 1: vector = w.attn_norm.bias; break;
        case 2: vector = w.cross_norm.weight; break;
        case 3: vector = w.cross_norm.bias; break;
        case 4: vector = w.mlp_norm.weight; break;
        case 5: vector = w.mlp_norm.bias; break;
        case 6: vector = w.out.bias; break;
        case 7: vector = w.cross_out.bias; break;
        case 8: vector = w.mlp_out.bias; break;
        case 9: vector = r.text_norm.weight; break;
        case 10: vector = r.text_norm.bias; break;
        default: break;
        }
        const int lines = r.width / 32;
#pragma unroll 1
        for (int line = blockIdx.x % lines; vector != nullptr && line < lines; line += gridDim.x) {
            prefetch_line(vector + line * 32);
        }
        const PagedKv kv = r.caches.layer(layer);
#pragma unroll 1
        for (int token = item().part + r.parts * lane(); token < num_tokens; token += r.parts * 32) {
            const int64_t place =
                (int64_t{s.table[token / kv.block_tokens]} * kv.block_tokens +
                 token % kv.block_tokens) * r.width + item().head * kHead;
            prefetch_line(kv.keys + place);
            prefetch_line(kv.values + place);
        }
    }

    // 1 / parts of the head's queries, keys and values.
    __device__ void copy_qkv(const Matrix &matrix) const {
        if (r.stage.qkv >= 0) {
            const char *data = static_cast<const char *>(matrix.data);
#pragma unroll 1
            for (int row = 0, num; row < item().qkv_num; row += num) { // neighbours in the matrix
                num = min(item().qkv_num - row, kHead - (item().qkv_first + row) % kHead);
                copy_neighbours(base + r.stage.qkv + row * row_bytes(),
                                data + int64_t{qkv_index(item(), row)} * row_bytes(),
                                num * row_bytes());
            }
#pragma unroll 1
            for (int part = 0; part < 3; part++) {
                copy_neighbours(s.qkv_bias + part * kHead,
                                matrix.bias + part * r.width + item().head * kHead, kHead * 4);
            }
        }
    }

    // The head's columns of width / parts rows of an output projection.
    __device__ void copy_out(int offset, const Matrix &matrix) const {
        if (offset >= 0) {
            // A copy of the warp takes so many rows; the next ones are a constant further.
            constexpr int kRows = 32 / kHeadPieces;
            const int own = lane() / kHeadPieces, num = item().row_num - own;
            const int64_t apart = int64_t{kRows} * row_bytes();
            const char *from = static_cast<const char *>(matrix.data) +
                               int64_t{item().row_first + own} * row_bytes() +
                               (item().head * kHeadPieces + lane() % kHeadPieces) * 16;
            char *to = base + offset + lane() * 16;
#pragma unroll 4
            for (int row = 0; row < num; row += kRows, from += apart, to += 512) {
                copy_passing(to, from);
            }
        }
    }

    // The head's rows of the query projection; its keys and values of num_keys / parts positions.
    __device__ void copy_cross(const Matrix &query, int layer) const {
        if (r.stage.cross_query >= 0) {
            copy_neighbours(base + r.stage.cross_query,
                            static_cast<const char *>(query.data) +
                                int64_t{item().head} * kHead * row_bytes(),
                            kHead * row_bytes());
            copy_neighbours(s.query_bias, query.bias + item().head * kHead, kHead * 4);
        }
        if (r.stage.cross_keys >= 0) {
            const __half *keys =
                r.audio +
                ((2ll * layer * r.heads + item().head) * r.num_keys + item().key_first) * kHead;
            const int bytes = item().key_num * kHead * 2;
            char *to = base + r.stage.cross_keys;
            copy_neighbours(to, keys, bytes);
            copy_neighbours(to + bytes, keys + int64_t{r.heads} * r.num_keys * kHead, bytes);
        }
    }

    // The block's rows of the MLP's first matrix and columns of its second.
    __device__ void copy_mlp(const LayerWeights &w) const {
        if (r.stage.mlp_in >= 0) {
            copy_neighbours(base + r.stage.mlp_in,
                            static_cast<const char *>(w.mlp_in.data) +
                                int64_t{s.hidden_first} * row_bytes(),
                            s.hidden_num * row_bytes());
            copy_neighbours(s.hidden_bias, w.mlp_in.bias + s.hidden_first, s.hidden_num * 4);
        }
        if (r.stage.mlp_out >= 0) {
            const char *from =
                static_cast<const char *>(w.mlp_out.data) + s.hidden_first / kColumns * 16;
            char *to = base + r.stage.mlp_out;
            const int pieces = s.hidden_num / kColumns;
            if (pieces == 1) { // as most often where a GPU has many blocks
#pragma unroll 4
                for (int row = lane(); row < r.width; row += 32) {
                    copy_passing(to + row * 16, from + row * (int64_t{4} * row_bytes()));
                }
                return;
            }
#pragma unroll 2
            for (int row = lane(); row < r.width; row += 32) {
#pragma unroll 1
                for (int piece = 0; piece < pieces; piece++) {
                    copy_passing(to + (row * pieces + piece) * 16,
                                 from + row * (int64_t{4} * row_bytes()) + piece * 16);
                }
            }
        }
    }
};

} // namespace dw
