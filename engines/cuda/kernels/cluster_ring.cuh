// Copies ahead, for the cluster kernel: one warp of the block copies what each phase will need into a
// ring in shared memory, as far ahead as there is room. Workers and copying warp walk the same chunks
// in the same order, so that neither has to tell the other where a chunk is.
#pragma once

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
            copy_passing(base + keeping_place(i / kPieces, i % kPieces, kWidth * 2), from + i * 16,
                         policy_.passing);
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
    const L2Policy policy_;

    // Whether the workers have used chunk `number`; false if they have stopped.
    __device__ bool await_use(uint32_t number) const {
        uint64_t *used = &s.used[number % kChunks];
        const uint32_t parity = number / kChunks & 1;
        for (;;) {
            if (__all_sync(0xffffffff, has_turned(used, parity))) {
                return true;
            }
            if (__any_sync(0xffffffff, *static_cast<volatile int32_t *>(&s.is_done))) {
                return false;
            }
        }
    }

    __device__ void copy_bytes(char *to, const void *from, int bytes) const {
#pragma unroll 1
        for (int at0 = 0; at0 < bytes; at0 += 2048) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int at = at0 + i * 512 + lane() * 16;
                if (at < bytes) {
                    copy_passing(to + at, static_cast<const char *>(from) + at, policy_.passing);
                }
            }
        }
    }
    // `num` rows of kColumns halves, `stride` bytes apart, to rows `padded` bytes apart.
    template <int kColumns>
    __device__ void copy_rows(char *to, int padded, const void *from, int64_t stride, int num) const {
        constexpr int kPieces = kColumns * 2 / 16;
#pragma unroll 1
        for (int first = lane(); first < num * kPieces; first += 128) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int i = first + j * 32, row = i / kPieces, piece = i % kPieces;
                if (row < num) {
                    copy_passing(to + row * padded + piece * 16,
                                 static_cast<const char *>(from) + row * stride + piece * 16,
                                 policy_.passing);
                }
            }
        }
    }
    // The rows that follow the layer's norm `kind`, in groups of neighbours; then the norm.
    __device__ void copy_normed(char *to, const Matrix &matrix, int layer, int kind) const {
        using Row = NormedRow<kHeads>;
        using Folded = FoldedNorms<kHeads>;
        const int num = Row::num(kind), group = kind == 0 ? kPartHead : num;
        const char *data = static_cast<const char *>(matrix.data);
#pragma unroll 1
        for (int row = 0; row < num; row += group) {
            const int64_t from = Row::index(kind, head, rank, row);
            copy_rows<kWidth>(to + row * kRow, kRow, data + from * kWidth * 2, kWidth * 2, group);
        }
        to += num * kRow;
        copy_bytes(to, r.folded + Folded::weights_at(layer, kind), kWidth * 4);
        copy_bytes(to + kWidth * 4, r.folded + Folded::rows_at(layer, kind, head, rank),
                   Folded::row_floats(kind) * 4);
    }
    // This block's rows of an output projection [width, in], kColumns of each, from the head's first.
    template <int kColumns>
    __device__ void copy_out(char *to, int padded, const Matrix &matrix, int in) const {
        const char *data = static_cast<const char *>(matrix.data);
        const int64_t row = rank * kSlice;
        copy_rows<kColumns>(to, padded, data + (row * in + head * kColumns) * 2, in * 2, kSlice);
        copy_bytes(to + kSlice * padded, matrix.bias + row, kSlice * 4);
    }

    __device__ void copy(int chunk, const LayerWeights &w, int layer, char *to) const {
        switch (chunk) {
        case kQkvRows: copy_normed(to, w.qkv, layer, 0); break;
        case kOutRows: copy_out<kHead>(to, kHead * 2, w.out, kWidth); break;
        case kQueryRows: copy_normed(to, w.cross_query, layer, 1); break;
        case kAudioKeys: {
            const __half *keys =
                r.audio + ((2ll * layer * kHeads + head) * r.num_keys + key_first) * kHead;
            const int bytes = key_num * kHead * 2;
            copy_bytes(to, keys, bytes);
            copy_bytes(to + bytes, keys + int64_t{kHeads} * r.num_keys * kHead, bytes);
            break;
        }
        case kCrossOutRows: copy_out<kHead>(to, kHead * 2, w.cross_out, kWidth); break;
        case kMlpInRows: copy_normed(to, w.mlp_in, layer, 2); break;
        default:
            copy_out<kHiddenPerHead>(to, padded_row(kHiddenPerHead), w.mlp_out, 4 * kWidth);
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
