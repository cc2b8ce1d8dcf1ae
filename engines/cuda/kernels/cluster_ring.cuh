// Copies ahead, for the cluster kernel: one warp of the block copies what each phase will need into a
// ring in shared memory, as far ahead as there is room. Workers and copying warp walk the same chunks
// in the same order, so that neither has to tell the other where a chunk is.
#pragma once

#include <numeric>

#include "cluster_fold.cuh"
#include "cluster_logits.cuh"

namespace dw {

// Bytes of each chunk. Rows are followed by what is known of the layer norm before them, and else by
// their bias.
template <int kHeads> __host__ __device__ constexpr int chunk_bytes(int chunk, int num_keys) {
    constexpr int kWidth = kHeads * kHead, kSlice = kWidth / kClusterParts;
    constexpr auto normed = [](int kind) {
        return NormedRow<kHeads>::num(kind) * padded_row(kWidth) +
               (kWidth + FoldedNorms<kHeads>::row_floats(kind)) * 4;
    };
    switch (chunk) {
    case kQkvRows: return normed(0);
    case kQueryRows: return normed(1);
    case kMlpInRows: return normed(2);
    case kMlpOutRows: return kSlice * (padded_row(kHiddenPerHead) + 4);
    case kAudioKeys: return (num_keys + kClusterParts - 1) / kClusterParts * kHead * 2 * 2;
    default: return kSlice * (kHead * 2 + 4); // kOutRows, kCrossOutRows
    }
}

// Walks the ring: a chunk never wraps around. `end` counts bytes since the start, `at` within the ring;
// next() moves both behind the next chunk.
struct RingCursor {
    uint32_t end = 0, at = 0;
    __device__ void next(uint32_t bytes, uint32_t room) {
        if (at + bytes > room) {
            end += room - at;
            at = 0;
        }
        end += bytes;
        at += bytes;
    }
};

template <int kHeads> struct ClusterRing {
    static constexpr int kWidth = kHeads * kHead, kSlice = kWidth / kClusterParts;
    static constexpr int kRow = padded_row(kWidth);
    using Shared = ClusterShared<kHeads>;

    const TokenRun &r;
    Shared &s;
    char *base;
    const int head, rank, key_first, key_num;
    RingCursor cursor;
    uint32_t turn = 0; // layers since the start: every mbarrier turns once a layer

    __device__ ClusterRing(const TokenRun &run, Shared &shared, char *base, int head, int rank)
        : r(run), s(shared), base(base), head(head), rank(rank),
          key_first(part_start(run.num_keys, rank, kClusterParts)),
          key_num(part_start(run.num_keys, rank + 1, kClusterParts) - key_first) {}

    // ---- the workers' side -------------------------------------------------------------------------

    // The next chunk in order; what it holds is there after wait().
    __device__ const char *next(Chunk chunk) {
        const uint32_t bytes = chunk_bytes<kHeads>(chunk, r.num_keys);
        cursor.next(bytes, r.ring_bytes);
        return base + cursor.at - bytes;
    }
    __device__ void wait(Chunk chunk) const { await(&s.copied[chunk], turn & 1); }
    __device__ void release(Chunk chunk) const { arrive(&s.used[chunk]); }

    // ---- the copying warp ----------------------------------------------------------------------------

    __device__ void copy_all() {
        RingCursor tail; // of what is known to be free again
        uint32_t tail_number = 0, number = 0;
#pragma unroll 1
        for (;; turn++) {
            const int layer = turn % r.num_layers;
            prefetch_tokens(layer);
#pragma unroll 1
            for (int chunk = 0; chunk < kChunks; chunk++, number++) {
                const uint32_t bytes = chunk_bytes<kHeads>(chunk, r.num_keys);
                cursor.next(bytes, r.ring_bytes);
                // What lies where the chunk goes has to be used first, and all before it; also the same
                // chunk of the layer before, or its mbarriers would be a turn ahead of those who wait.
                while (tail_number < number) {
                    const uint32_t oldest = chunk_bytes<kHeads>(tail_number % kChunks, r.num_keys);
                    RingCursor ahead = tail;
                    ahead.next(oldest, r.ring_bytes);
                    if (ahead.end - oldest + r.ring_bytes >= cursor.end &&
                        number - tail_number < kChunks) {
                        break;
                    }
                    if (!await_use(tail_number)) {
                        asm volatile("cp.async.wait_all;" ::: "memory");
                        return;
                    }
                    tail = ahead;
                    tail_number++;
                }
                copy(chunk, r.layers[layer], layer, base + cursor.at - bytes);
                end_copies(chunk);
            }
        }
    }

    // In a block without a head the ring has rows of the embedding, from the launch on.
    __device__ void copy_kept() const {
        constexpr int kPieces = kWidth / 8;
        const KeptRows kept(r, base);
        const char *from = static_cast<const char *>(r.embedding.data) + int64_t{kept.first} * kWidth * 2;
#pragma unroll 1
        for (int i = lane(); i < kept.num * kPieces; i += 32) {
            copy_passing(base + keeping_place(i / kPieces, i % kPieces, kWidth * 2), from + i * 16);
        }
        end_copies(kQkvRows);
        asm volatile("cp.async.wait_all;" ::: "memory");
    }

  private:
    __device__ void end_copies(int chunk) const {
        asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(
                         shared_address(&s.copied[chunk]))
                     : "memory");
    }
    __device__ static int lane() { return threadIdx.x % 32; }

    // Whether the workers have used chunk `number`; false if they have stopped.
    __device__ bool await_use(uint32_t number) const {
        uint64_t *used = &s.used[number % kChunks];
        const uint32_t parity = number / kChunks & 1;
        for (;;) {
            if (__all_sync(0xffffffff, has_turned(used, parity))) {
                return true;
            }
            if (__any_sync(0xffffffff, has_turned_yet(&s.done, 0))) {
                return false;
            }
        }
    }

    // kRows rows of kBytes, kFrom bytes apart, to rows kTo bytes apart. With constants, 512 bytes take
    // little more than the one instruction that copies them: one warp has to feed all the others.
    template <int kRows, int kBytes, int kTo, int kFrom>
    __device__ void copy_rows(char *to, const char *from) const {
        // Rows and copies after which every lane is at the same columns again, and such turns at a time.
        constexpr int kPieces = kBytes / 16, kTurnRows = 32 / std::gcd(kPieces, 32);
        constexpr int kTurnCopies = kPieces * kTurnRows / 32;
        constexpr int kTurns = 4;
        static_assert(kRows % (kTurnRows * kTurns) == 0);
        char *to_at[kTurnCopies];
        const char *from_at[kTurnCopies];
#pragma unroll
        for (int i = 0; i < kTurnCopies; i++) {
            // Where a row is as long as whole copies, lanes differ by their piece alone.
            const int index = i * 32 + lane(), row = kTurnRows == 1 ? 0 : index / kPieces;
            to_at[i] = to + row * kTo + (index - row * kPieces) * 16;
            from_at[i] = from + row * kFrom + (index - row * kPieces) * 16;
        }
#pragma unroll 1
        for (int row = 0; row < kRows; row += kTurnRows * kTurns) {
#pragma unroll
            for (int turn = 0; turn < kTurns; turn++) {
#pragma unroll
                for (int i = 0; i < kTurnCopies; i++) {
                    copy_passing(to_at[i] + turn * kTurnRows * kTo, from_at[i] + turn * kTurnRows * kFrom);
                }
            }
#pragma unroll
            for (int i = 0; i < kTurnCopies; i++) {
                to_at[i] += kTurns * kTurnRows * kTo;
                from_at[i] += kTurns * kTurnRows * kFrom;
            }
        }
    }
    // The rows that follow the layer's norm `kKind`, in groups of neighbours; then the norm.
    template <int kKind> __device__ void copy_normed(char *to, const Matrix &matrix, int layer) const {
        using Row = NormedRow<kHeads>;
        using Folded = FoldedNorms<kHeads>;
        constexpr int kNum = Row::num(kKind), kGroup = kKind == 0 ? kPartHead : kNum, kBytes = kWidth * 2;
        const char *data = static_cast<const char *>(matrix.data);
#pragma unroll 1
        for (int row = 0; row < kNum; row += kGroup) {
            const int64_t from = Row::index(kKind, head, rank, row);
            copy_rows<kGroup, kBytes, kRow, kBytes>(to + row * kRow, data + from * kBytes);
        }
        to += kNum * kRow;
        copy_neighbours(to, r.folded + Folded::weights_at(layer, kKind), kWidth * 4);
        copy_neighbours(to + kWidth * 4, r.folded + Folded::rows_at(layer, kKind, head, rank),
                   Folded::row_floats(kKind) * 4);
    }
    // This block's rows of an output projection [width, kIn], kColumns of each, from the head's first.
    template <int kColumns, int kIn, int kTo>
    __device__ void copy_out(char *to, const Matrix &matrix) const {
        const char *data = static_cast<const char *>(matrix.data);
        const int64_t row = rank * kSlice;
        copy_rows<kSlice, kColumns * 2, kTo, kIn * 2>(to, data + (row * kIn + head * kColumns) * 2);
        copy_neighbours(to + kSlice * kTo, matrix.bias + row, kSlice * 4);
    }

    __device__ void copy(int chunk, const LayerWeights &w, int layer, char *to) const {
        switch (chunk) {
        case kQkvRows: copy_normed<0>(to, w.qkv, layer); break;
        case kOutRows: copy_out<kHead, kWidth, kHead * 2>(to, w.out); break;
        case kQueryRows: copy_normed<1>(to, w.cross_query, layer); break;
        case kAudioKeys: {
            const __half *keys =
                r.audio + ((2ll * layer * kHeads + head) * r.num_keys + key_first) * kHead;
            const int bytes = key_num * kHead * 2;
            copy_neighbours(to, keys, bytes);
            copy_neighbours(to + bytes, keys + int64_t{kHeads} * r.num_keys * kHead, bytes);
            break;
        }
        case kCrossOutRows: copy_out<kHead, kWidth, kHead * 2>(to, w.cross_out); break;
        case kMlpInRows: copy_normed<2>(to, w.mlp_in, layer); break;
        default:
            copy_out<kHiddenPerHead, 4 * kWidth, padded_row(kHiddenPerHead)>(to, w.mlp_out);
            break;
        }
    }

    // Keys and values of the tokens so far go only as far as the L2 cache, each by one of the blocks.
    __device__ void prefetch_tokens(int layer) const {
        const PagedKv kv = r.caches.layer(layer);
        const int num = r.position + static_cast<int>(turn) / r.num_layers;
#pragma unroll 1
        for (int token = rank + kClusterParts * lane(); token < num; token += kClusterParts * 32) {
            const int64_t slot = slot_of(s.table, token, kv.block_tokens);
            prefetch_line(kv.keys + slot * kWidth + head * kHead);
            prefetch_line(kv.values + slot * kWidth + head * kHead);
        }
    }
};

} // namespace dw
