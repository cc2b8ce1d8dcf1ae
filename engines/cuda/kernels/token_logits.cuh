// This block's part of the vocabulary: the logits of one token in the token kernel.
#pragma once

#include "token_choice.cuh"
#include "token_products.cuh"

namespace dw {

// For s.split; in each group of eight lanes a part. Bytes: 2 n_vocab width in fp16. Reference:
// plain::linear.
template <dw_type kType>
__device__ inline LogitPart make_logits(const TokenRun &r, const TokenShared &s, int forbidden) {
    constexpr int kColumns = Packed<kType>::kColumns;
    const int lane = thread_again() % 32;
    const int warp = static_cast<int>(blockIdx.x) * kTokenWarps + thread_again() / 32;
    const int64_t row_bytes = r.width / kColumns * 16;
    const auto rows = rows_of<kType>(
        r.embedding, r.n_vocab, r.width / kColumns, r.width, 0, [](int row) { return row; },
        [&](int row) { return static_cast<const char *>(r.embedding.data) + row * row_bytes; }, false);
    LogitPart part = empty_logits();
    multiply_tiles(rows, s.split, kMaxTokenWidth, warp, static_cast<int>(gridDim.x) * kTokenWarps,
                   [&](int tile, float upper, float lower) {
                       const int own = tile * 16 + lane % 2 * 8 + lane / 4; // the row that this lane takes
                       if (lane % 4 < 2 && own < r.n_vocab) {
                           const bool is_allowed = !(r.mask[own] & forbidden);
                           merge_logits(part, part_of_one(own, lane % 2 ? lower : upper, is_allowed,
                                                          r.no_speech));
                       }
                   });
    merge_lanes(part, 1); // the row eight further
    merge_lanes(part, 4); // the next row
    return part;
}

} // namespace dw
