#include "attention.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>

#include "tiles.h"
#include "vectors.h"

namespace duplex {
namespace {

constexpr int64_t kKeyBlock = 16;    // keys whose columns lie together
constexpr int64_t kValueBlock = 32;  // positions of a tile of shares
constexpr int64_t kTile = 512;        // values of bfloat16 in a tile: 16 rows of 64 bytes
constexpr float kLog2E = 1.44269504f;

// Scores in powers of two: the root of 64 and the base's logarithm go into the queries.
const float kQueryScale = kLog2E / std::sqrt(static_cast<float>(kHeadSize));

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

// What one thread needs for kRows queries; it is kept, since the next task wants as much.
struct Scratch {
    Bf16* query;    // (32, 64)
    float* scores;  // (32, padded)
    Bf16* shares;   // (32, padded)
    float* inverse;  // 1 / sum of each row's shares: (32,)
    float* mixed;    // (32, 64)
};

Scratch scratch_for(int64_t num_padded) {
    thread_local std::unique_ptr<void, Free> memory;
    thread_local int64_t size = 0;
    const int64_t scores = kRows * num_padded * 4, shares = kRows * num_padded * 2;
    const int64_t query = kRows * kHeadSize * 2, mixed = kRows * kHeadSize * 4;
    const int64_t needed = scores + shares + query + mixed + kRows * 4;
    if (size < needed) {
        size = 0;
        memory.reset(std::aligned_alloc(64, static_cast<size_t>((needed + 63) / 64 * 64)));
        if (!memory) throw std::bad_alloc();
        size = needed;
    }
    char* at = static_cast<char*>(memory.get());
    Scratch scratch;
    scratch.scores = reinterpret_cast<float*>(at);
    scratch.shares = reinterpret_cast<Bf16*>(at += scores);
    scratch.query = reinterpret_cast<Bf16*>(at += shares);
    scratch.mixed = reinterpret_cast<float*>(at += query);
    scratch.inverse = reinterpret_cast<float*>(at += mixed);
    return scratch;
}

TARGET_AVX512 inline __m256i to_bf16(__m512 values) {
    return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values));
}

// Queries first to last - 1 of a head, and zeros up to num_rows.
TARGET_AVX512 void take_queries(const Rows& queries, int64_t head, int64_t first, int64_t last,
                                int64_t num_rows, Bf16* query) {
    const __m512 scale = _mm512_set1_ps(kQueryScale);
    for (int64_t row = 0; row < num_rows; ++row) {
        const bool is_there = first + row < last;
        const float* from = queries.at(first + row, head);
        for (int64_t column = 0; column < kHeadSize; column += 16) {
            const __m512 values = is_there ? _mm512_loadu_ps(from + column) : _mm512_setzero_ps();
            _mm256_store_si256(reinterpret_cast<__m256i*>(query + row * kHeadSize + column),
                               to_bf16(_mm512_mul_ps(values, scale)));
        }
    }
}

// Each row's scores become shares of its sum, which is told as its inverse.
TARGET_AVX512 void make_shares(const Scratch& scratch, int64_t num_rows, const Packed& packed) {
    const int64_t num_positions = packed.num_positions, num_padded = packed.padded();
    const int64_t last = (num_positions - 1) / 16 * 16;  // where the last vector begins
    const auto mask = static_cast<__mmask16>((1u << (num_positions - last)) - 1);
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    for (int64_t row = 0; row < num_rows; ++row) {
        const float* scores = scratch.scores + row * num_padded;
        Bf16* shares = scratch.shares + row * num_padded;
        __m512 most = _mm512_mask_loadu_ps(lowest, mask, scores + last);
        for (int64_t at = 0; at < last; at += 16) {
            most = _mm512_max_ps(most, _mm512_load_ps(scores + at));
        }
        most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
        __m512 sum = _mm512_setzero_ps();
        for (int64_t at = 0; at <= last; at += 16) {
            __m512 share = power_of_two(_mm512_sub_ps(_mm512_load_ps(scores + at), most));
            if (at == last) share = _mm512_maskz_mov_ps(mask, share);
            sum = _mm512_add_ps(sum, share);
            _mm256_store_si256(reinterpret_cast<__m256i*>(shares + at), to_bf16(share));
        }
        for (int64_t at = last + 16; at < num_padded; at += 16) {
            _mm256_store_si256(reinterpret_cast<__m256i*>(shares + at), _mm256_setzero_si256());
        }
        scratch.inverse[row] = 1 / _mm512_reduce_add_ps(sum);
    }
}

// What was mixed for some rows, as shares of their sums, to where the head's columns of them begin.
TARGET_AVX512 void give_rows(const Scratch& scratch, int64_t num_rows, float* output,
                             int64_t width) {
    for (int64_t row = 0; row < num_rows; ++row) {
        const __m512 inverse = _mm512_set1_ps(scratch.inverse[row]);
        for (int64_t column = 0; column < kHeadSize; column += 16) {
            const __m512 sum = _mm512_load_ps(scratch.mixed + row * kHeadSize + column);
            _mm512_storeu_ps(output + row * width + column, _mm512_mul_ps(sum, inverse));
        }
    }
}

// ---- Tiles: AMX

TARGET_AMX void scores_by_tiles(const Scratch& scratch, const Bf16* keys, int64_t num_padded) {
    constexpr int kStride = kHeadSize * 2;
    const int row_bytes = static_cast<int>(num_padded * 4);
    _tile_loadd(4, scratch.query, kStride);
    _tile_loadd(5, scratch.query + 32, kStride);
    _tile_loadd(6, scratch.query + 16 * kHeadSize, kStride);
    _tile_loadd(7, scratch.query + 16 * kHeadSize + 32, kStride);
    for (int64_t at = 0; at < num_padded; at += kKeyBlock, keys += 2 * kTile) {
        _tile_loadd(2, keys, 64);
        _tile_loadd(3, keys + kTile, 64);
        _tile_zero(0);
        _tile_zero(1);
        _tile_dpbf16ps(0, 4, 2);
        _tile_dpbf16ps(1, 6, 2);
        _tile_dpbf16ps(0, 5, 3);
        _tile_dpbf16ps(1, 7, 3);
        _tile_stored(0, scratch.scores + at, row_bytes);
        _tile_stored(1, scratch.scores + 16 * num_padded + at, row_bytes);
    }
}

TARGET_AMX void mix_by_tiles(const Scratch& scratch, const Bf16* values, int64_t num_padded) {
    const int row_bytes = static_cast<int>(num_padded * 2);
    for (int64_t half = 0; half < 2; ++half) {  // of the columns
        const Bf16* tile = values + half * 2 * kTile;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t at = 0; at < num_padded; at += kValueBlock, tile += 4 * kTile) {
            _tile_loadd(4, scratch.shares + at, row_bytes);
            _tile_loadd(5, scratch.shares + 16 * num_padded + at, row_bytes);
            _tile_loadd(6, tile, 64);
            _tile_loadd(7, tile + kTile, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        float* mixed = scratch.mixed + half * 32;
        constexpr int kStride = kHeadSize * 4;
        _tile_stored(0, mixed, kStride);
        _tile_stored(1, mixed + 16, kStride);
        _tile_stored(2, mixed + 16 * kHeadSize, kStride);
        _tile_stored(3, mixed + 16 * kHeadSize + 16, kStride);
    }
}

// ---- Vectors: AVX512_BF16

// Two neighbours of a row, in every place.
TARGET_AVX512 inline __m512bh pair(const Bf16* row) {
    // clang 16 crashes on _mm512_set1_epi32.
    const __m128i both = _mm_cvtsi32_si128(*reinterpret_cast<const int32_t*>(row));
    return reinterpret_cast<__m512bh>(_mm512_broadcastd_epi32(both));
}

TARGET_AVX512 inline __m512bh vector(const Bf16* at) {
    return reinterpret_cast<__m512bh>(_mm512_loadu_si512(at));
}

TARGET_AVX512 void scores_by_vectors(const Scratch& scratch, const Bf16* keys,
                                     int64_t num_padded) {
    constexpr int64_t kQueries = 8;  // with two blocks of keys: 16 sums, as many as hide their wait
    constexpr int64_t kBlock = kKeyBlock * kHeadSize;
    for (int64_t at = 0; at < num_padded; at += 2 * kKeyBlock, keys += 2 * kBlock) {
        for (int64_t first = 0; first < kRows; first += kQueries) {
            __m512 sums[kQueries][2] = {};
            const Bf16* query = scratch.query + first * kHeadSize;
            for (int64_t column = 0; column < kHeadSize; column += 2) {
                const __m512bh left = vector(keys + column * kKeyBlock);
                const __m512bh right = vector(keys + kBlock + column * kKeyBlock);
#pragma GCC unroll 8
                for (int64_t row = 0; row < kQueries; ++row) {
                    const __m512bh both = pair(query + row * kHeadSize + column);
                    sums[row][0] = _mm512_dpbf16_ps(sums[row][0], both, left);
                    sums[row][1] = _mm512_dpbf16_ps(sums[row][1], both, right);
                }
            }
#pragma GCC unroll 8
            for (int64_t row = 0; row < kQueries; ++row) {
                float* scores = scratch.scores + (first + row) * num_padded + at;
                _mm512_store_ps(scores, sums[row][0]);
                _mm512_store_ps(scores + kKeyBlock, sums[row][1]);
            }
        }
    }
}

TARGET_AVX512 void mix_by_vectors(const Scratch& scratch, const Bf16* values, int64_t num_padded) {
    constexpr int64_t kQueries = 4;
    for (int64_t first = 0; first < kRows; first += kQueries) {
        __m512 sums[kQueries][4] = {};
        const Bf16* block = values;
        const Bf16* shares = scratch.shares + first * num_padded;
        for (int64_t at = 0; at < num_padded; at += kValueBlock, block += 4 * kTile) {
            for (int64_t key = 0; key < kValueBlock; key += 2) {
                __m512bh columns[4];
#pragma GCC unroll 4
                for (int64_t group = 0; group < 4; ++group) {
                    columns[group] = vector(block + group * kTile + key * 16);
                }
#pragma GCC unroll 4
                for (int64_t row = 0; row < kQueries; ++row) {
                    const __m512bh both = pair(shares + row * num_padded + at + key);
#pragma GCC unroll 4
                    for (int64_t group = 0; group < 4; ++group) {
                        sums[row][group] = _mm512_dpbf16_ps(sums[row][group], both, columns[group]);
                    }
                }
            }
        }
#pragma GCC unroll 4
        for (int64_t row = 0; row < kQueries; ++row) {
#pragma GCC unroll 4
            for (int64_t group = 0; group < 4; ++group) {
                _mm512_store_ps(scratch.mixed + (first + row) * kHeadSize + group * 16,
                                sums[row][group]);
            }
        }
    }
}

// ---- Packing

// 16 rows of 16 pairs each: afterwards the first row holds the first pair of each, and so on.
TARGET_AVX512 inline void transpose(__m512i (&rows)[16]) {
    __m512i part[16];
    for (int i = 0; i < 8; ++i) {
        part[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        part[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i) {  // now columns 0, 1, 2, 3 of four rows, in each of four lanes
        rows[4 * i] = _mm512_unpacklo_epi64(part[4 * i], part[4 * i + 2]);
        rows[4 * i + 1] = _mm512_unpackhi_epi64(part[4 * i], part[4 * i + 2]);
        rows[4 * i + 2] = _mm512_unpacklo_epi64(part[4 * i + 1], part[4 * i + 3]);
        rows[4 * i + 3] = _mm512_unpackhi_epi64(part[4 * i + 1], part[4 * i + 3]);
    }
    for (int i = 0; i < 4; ++i) {  // lanes 0 and 2 of a column's first eight rows, lanes 1 and 3
        part[i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x88);
        part[4 + i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xdd);
        part[8 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0x88);
        part[12 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0xdd);
    }
    for (int i = 0; i < 4; ++i) {
        rows[i] = _mm512_shuffle_i32x4(part[i], part[8 + i], 0x88);
        rows[8 + i] = _mm512_shuffle_i32x4(part[i], part[8 + i], 0xdd);
        rows[4 + i] = _mm512_shuffle_i32x4(part[4 + i], part[12 + i], 0x88);
        rows[12 + i] = _mm512_shuffle_i32x4(part[4 + i], part[12 + i], 0xdd);
    }
}

TARGET_AVX512 void pack_keys(const Rows& keys, int64_t num_positions, int64_t head, int64_t first,
                             Bf16* to) {
    for (int64_t column = 0; column < kHeadSize; column += 32, to += kTile) {
        __m512i rows[16];
        for (int64_t row = 0; row < kKeyBlock; ++row) {
            const float* from = keys.at(first + row, head) + column;
            rows[row] = first + row < num_positions
                            ? reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(
                                  _mm512_loadu_ps(from + 16), _mm512_loadu_ps(from)))
                            : _mm512_setzero_si512();
        }
        transpose(rows);
        for (int64_t row = 0; row < 16; ++row) _mm512_storeu_si512(to + row * 32, rows[row]);
    }
}

TARGET_AVX512 void pack_values(const Rows& values, int64_t num_positions, int64_t head,
                               int64_t first, Bf16* to) {
    for (int64_t column = 0; column < kHeadSize; column += 16, to += kTile) {
        for (int64_t place = 0; place < kValueBlock; place += 2) {
            __m512i both[2];
            for (int64_t next = 0; next < 2; ++next) {
                const int64_t position = first + place + next;
                const float* from = values.at(position, head) + column;
                both[next] = position < num_positions
                                 ? _mm512_cvtepu16_epi32(to_bf16(_mm512_loadu_ps(from)))
                                 : _mm512_setzero_si512();
            }
            _mm512_storeu_si512(to + place * 16,
                                _mm512_or_si512(both[0], _mm512_slli_epi32(both[1], 16)));
        }
    }
}

// ---- One query

// Its scores, two blocks of keys at a time; each in two sums that need not wait for each other.
TARGET_AVX512 void scores_of_one(const Scratch& scratch, const Bf16* keys, int64_t num_padded) {
    constexpr int64_t kBlock = kKeyBlock * kHeadSize;
    for (int64_t at = 0; at < num_padded; at += 2 * kKeyBlock, keys += 2 * kBlock) {
        __m512 sums[2][2] = {};
#pragma GCC unroll 16
        for (int64_t column = 0; column < kHeadSize; column += 4) {
#pragma GCC unroll 2
            for (int64_t part = 0; part < 2; ++part) {
                const int64_t place = column + 2 * part;
                const __m512bh both = pair(scratch.query + place);
                const Bf16* from = keys + place * kKeyBlock;
                sums[0][part] = _mm512_dpbf16_ps(sums[0][part], both, vector(from));
                sums[1][part] = _mm512_dpbf16_ps(sums[1][part], both, vector(from + kBlock));
            }
        }
        _mm512_store_ps(scratch.scores + at, _mm512_add_ps(sums[0][0], sums[0][1]));
        _mm512_store_ps(scratch.scores + at + kKeyBlock, _mm512_add_ps(sums[1][0], sums[1][1]));
    }
}

TARGET_AVX512 void mix_of_one(const Scratch& scratch, const Bf16* values, int64_t num_padded) {
    __m512 sums[4][2] = {};
    for (int64_t at = 0; at < num_padded; at += kValueBlock, values += 4 * kTile) {
#pragma GCC unroll 8
        for (int64_t key = 0; key < kValueBlock; key += 4) {
#pragma GCC unroll 2
            for (int64_t part = 0; part < 2; ++part) {
                const int64_t place = key + 2 * part;
                const __m512bh both = pair(scratch.shares + at + place);
#pragma GCC unroll 4
                for (int64_t group = 0; group < 4; ++group) {
                    const __m512bh columns = vector(values + group * kTile + place * 16);
                    sums[group][part] = _mm512_dpbf16_ps(sums[group][part], both, columns);
                }
            }
        }
    }
    for (int64_t group = 0; group < 4; ++group) {
        _mm512_store_ps(scratch.mixed + group * 16, _mm512_add_ps(sums[group][0], sums[group][1]));
    }
}

}  // namespace

void pack_head(const Rows& keys, const Rows& values, int64_t head, const Packed& packed) {
    const PackedHead to = packed.head(head);
    for (int64_t first = 0; first < packed.padded(); first += kKeyBlock) {
        pack_keys(keys, packed.num_positions, head, first, to.keys + first * kHeadSize);
    }
    for (int64_t first = 0; first < packed.padded(); first += kValueBlock) {
        pack_values(values, packed.num_positions, head, first, to.values + first * kHeadSize);
    }
}

void attend_chunk(const Rows& queries, int64_t num_queries, int64_t head, int64_t chunk,
                  const Packed& packed, float* output, int64_t width) {
    const int64_t num_padded = packed.padded();
    const Scratch scratch = scratch_for(num_padded);
    const PackedHead from = packed.head(head);
    const int64_t end = std::min((chunk + 1) * kChunk, num_queries);
    const bool by_tiles = has_tiles();
    std::optional<Tiles> tiles;
    if (by_tiles) tiles.emplace();
    for (int64_t first = chunk * kChunk; first < end; first += kRows) {
        take_queries(queries, head, first, end, kRows, scratch.query);
        (by_tiles ? scores_by_tiles : scores_by_vectors)(scratch, from.keys, num_padded);
        make_shares(scratch, kRows, packed);
        (by_tiles ? mix_by_tiles : mix_by_vectors)(scratch, from.values, num_padded);
        give_rows(scratch, std::min(kRows, end - first), output + first * width + head * kHeadSize,
                  width);
    }
}

void attend_singly(const Rows& queries, int64_t num_queries, int64_t head, const Packed& packed,
                   float* output, int64_t width) {
    const Scratch scratch = scratch_for(packed.padded());
    const PackedHead from = packed.head(head);
    for (int64_t row = 0; row < num_queries; ++row) {
        take_queries(queries, head, row, row + 1, 1, scratch.query);
        scores_of_one(scratch, from.keys, packed.padded());
        make_shares(scratch, 1, packed);
        mix_of_one(scratch, from.values, packed.padded());
        give_rows(scratch, 1, output + row * width + head * kHeadSize, width);
    }
}

}  // namespace duplex
