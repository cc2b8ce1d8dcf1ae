// Attention in bfloat16: what goes in and comes out is float32.
//
// Products take bfloat16 and add in float32, as AVX512_BF16 and AMX do (Intel 64 and IA-32
// Architectures Optimization Reference Manual, chapter 20); shares are those of a whole row of
// scores, as in Vaswani et al., "Attention Is All You Need", 2017, with no position left out.
#pragma once

#include <cstddef>
#include <cstdint>

namespace duplex {

constexpr int64_t kHeadSize = 64;  // of every Whisper model
constexpr int64_t kRows = 32;      // queries that go through together
constexpr int64_t kChunk = 3 * kRows;

using Bf16 = uint16_t;

// Rows of which each has, among others, the columns of all heads.
struct Rows {
    const float* first;
    int64_t stride;

    const float* at(int64_t row, int64_t head) const {
        return first + row * stride + head * kHeadSize;
    }
};

// The keys and values of a head as products take them; positions are rounded up to 32 with zeros.
struct PackedHead {
    Bf16* keys;    // (padded / 16, 32 pairs of columns, 16 keys, 2)
    Bf16* values;  // (padded / 32, 4 groups of columns, 16 pairs of keys, 16 columns, 2)
};

// Keys and values of all heads, one head after the other.
struct Packed {
    int64_t num_positions;
    Bf16* first;

    int64_t padded() const { return (num_positions + 31) / 32 * 32; }
    int64_t head_values() const { return 2 * padded() * kHeadSize; }
    PackedHead head(int64_t index) const {
        Bf16* keys = first + index * head_values();
        return {keys, keys + padded() * kHeadSize};
    }
};

void pack_head(const Rows& keys, const Rows& values, int64_t head, const Packed& packed);

inline int64_t num_chunks(int64_t num_queries) { return (num_queries + kChunk - 1) / kChunk; }

// A chunk of queries of one head, fast; output: (queries, width).
void attend_chunk(const Rows& queries, int64_t num_queries, int64_t head, int64_t chunk,
                  const Packed& packed, float* output, int64_t width);

// All queries of one head, each alone: what one gives does not depend on the others.
void attend_singly(const Rows& queries, int64_t num_queries, int64_t head, const Packed& packed,
                   float* output, int64_t width);

}  // namespace duplex
