// Logits in the cluster kernel, by the tensor cores: of all a token has to read the embedding is the
// most, 2 n_vocab width bytes. Less of it comes from memory than that: the first rows of every warp are
// to stay in the L2 cache from token to token, and blocks without a head keep rows in shared memory.
// Reference: plain::linear.
#pragma once

#include "cluster_block.cuh"

namespace dw {

// Rows first .. first + num - 1 of the embedding, in shared memory; columns permuted as keeping_place().
struct KeptRows {
    const char *data;
    int first, num;

    // data: what is behind everything else in the block's shared memory.
    __device__ KeptRows(const TokenRun &r, const char *data) : data(data) {
        const int index = static_cast<int>(blockIdx.x) - r.kept.first_keeping;
        num = index >= 0 ? r.kept.kept_rows : 0;
        first = r.kept.first_kept + index * num;
    }
};
// Of 16-byte piece `piece` in a row: odd rows have neighbouring 64 bytes exchanged, so that the four
// pieces of two rows which are read at once are in different banks.
__device__ inline int keeping_place(int row, int piece, int row_bytes) {
    return row * row_bytes + ((piece ^ ((row & 1) << 2)) << 4);
}

// Sixteen rows at a time times s.normed, half [2][width]: larger parts, then the rest. A lane reads 16
// bytes of rows lane / 4 and lane / 4 + 8, and asks for kAhead times 32 columns before it multiplies: the
// other warps' requests keep the memory busy meanwhile.
template <int kHeads> class ClusterLogits {
    static constexpr int kWidth = kHeads * kHead, kAhead = kHeads == 8 ? 8 : 6;
    static_assert(kWidth % (32 * kAhead) == 0);

  public:
    __device__ ClusterLogits(const TokenRun &run, const __half *normed, int forbidden)
        : r(run), normed_(normed + has_rest() * kWidth + threadIdx.x % 4 * 8), forbidden_(forbidden) {}

    // This block's part of the vocabulary, in each group of eight lanes a part.
    __device__ LogitPart run(const char *behind) {
        const int warp = threadIdx.x / 32, num_warps = static_cast<int>(gridDim.x) * kTokenWarps;
        const int index = static_cast<int>(blockIdx.x) * kTokenWarps + warp;
        // First what needs no memory: it is for the others meanwhile.
        const KeptRows kept(r, behind);
        add_rows(kept.first + part_start(kept.num, warp, kTokenWarps),
                 kept.first + part_start(kept.num, warp + 1, kTokenWarps), [&](int row, int piece) {
                     return *reinterpret_cast<const uint4 *>(
                         kept.data + keeping_place(row - kept.first, piece, kWidth * 2));
                 });
        const L2Policy policy;
        // Half of the warps begin with what the L2 cache has, so that it and the memory are busy at once.
#pragma unroll 1
        for (int turn = 0; turn < 2; turn++) {
            const bool is_passing = (turn ^ index) & 1;
            const uint64_t hint = is_passing ? policy.passing : policy.kept;
            const int l2_rows = r.kept.l2_rows;
            const int first = is_passing ? first_passing(index) : part_start(l2_rows, index, num_warps);
            const int end =
                is_passing ? first_passing(index + 1) : part_start(l2_rows, index + 1, num_warps);
            add_rows(first, end, [&](int row, int piece) {
                return load_weights(static_cast<const char *>(r.embedding.data) +
                                        (int64_t{row} * (kWidth / 8) + piece) * 16,
                                    hint);
            });
        }
        merge_lanes(part_, 1); // the row eight further
        merge_lanes(part_, 4); // the next row
        return part_;
    }

  private:
    // The first of the rows that no one keeps, of warp `index` of all. Warps that have rows in shared
    // memory take fewer of these: four of those take as long as one.
    __device__ int first_passing(int index) const {
        const KeptEmbedding &kept = r.kept;
        const int num = kept.first_kept - kept.l2_rows;
        const int num_warps = static_cast<int>(gridDim.x) * kTokenWarps;
        const int first_keeping = kept.first_keeping * kTokenWarps;
        const int fewer = min(kept.kept_rows / (4 * kTokenWarps), num / num_warps);
        return kept.l2_rows +
               part_start(num + (num_warps - first_keeping) * fewer, index, num_warps) -
               max(0, index - first_keeping) * fewer;
    }

    template <class Load> __device__ void add_rows(int first, int end, Load load) {
        const int lane = threadIdx.x % 32;
#pragma unroll 1
        for (int row0 = first; row0 < end; row0 += 16) {
            const int own = row0 + lane % 2 * 8 + lane / 4; // the row whose sum this lane takes
            const int mask = lane % 4 < 2 && own < end ? r.mask[own] : 3;
            const int upper = min(row0 + lane / 4, end - 1), lower = min(row0 + 8 + lane / 4, end - 1);
            float c[4] = {};
#pragma unroll 1
            for (int column = 0; column < kWidth; column += 32 * kAhead) {
                uint4 a[kAhead], b[kAhead];
#pragma unroll
                for (int i = 0; i < kAhead; i++) {
                    a[i] = load(upper, (column / 8) + i * 4 + lane % 4);
                    b[i] = load(lower, (column / 8) + i * 4 + lane % 4);
                }
#pragma unroll
                for (int i = 0; i < kAhead; i++) {
                    const uint4 v = *reinterpret_cast<const uint4 *>(normed_ + column + i * 32);
                    multiply_add(c, {a[i].x, b[i].x, a[i].y, b[i].y}, v.x, v.y);
                    multiply_add(c, {a[i].z, b[i].z, a[i].w, b[i].w}, v.z, v.w);
                }
            }
            const float logit = lane % 2 ? c[2] + c[3] : c[0] + c[1];
            if (lane % 4 < 2 && own < end) {
                merge_logits(part_, part_of_one(own, logit, !(mask & forbidden_), r.no_speech));
            }
        }
    }

    const TokenRun &r;
    const __half *normed_;
    const int forbidden_;
    LogitPart part_ = empty_logits();
};

} // namespace dw
