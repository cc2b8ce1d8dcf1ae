#include "linear.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "tiles.h"
#include "vectors.h"

namespace duplex {
namespace {

constexpr int64_t kTileBytes = 1024;
constexpr int64_t kSide = 32;  // rows and columns that go through together: two tiles each
// Of the sums of a chunk. A power of two would put all rows at the same few places of the cache.
constexpr int64_t kStride = kColumnChunk + 16;
constexpr float kSteps = 127;

// The error function in it is off by 1.5e-7 at most: Abramowitz and Stegun, 7.1.26.
TARGET_AVX512 inline __m512 gelu(__m512 x) {
    const __m512 one = _mm512_set1_ps(1), two = _mm512_set1_ps(2);
    const __m512 z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678f));
    const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), one));
    __m512 sum = _mm512_set1_ps(1.061405429f);
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-1.453152027f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(1.421413741f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-0.284496736f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.254829592f));
    // e^(-z^2); beyond the limit it would be denormal, which takes long, and is nothing.
    const __m512 power = _mm512_mul_ps(_mm512_mul_ps(z, z), _mm512_set1_ps(-1.44269504f));
    const __m512 small = power_of_two(_mm512_max_ps(power, _mm512_set1_ps(-115)));
    const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(sum, t), small);  // 1 - erf(z)
    // x / 2 * (1 + erf), of which 1 + erf is the tail where x < 0, and 2 less it elsewhere.
    const __mmask16 is_negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    const __m512 share = _mm512_mask_mov_ps(_mm512_sub_ps(two, tail), is_negative, tail);
    return _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.5f)), share);
}

TARGET_AMX void multiply_side(const int8_t* rows, const int8_t* weights, int64_t num_inputs,
                              int32_t* sums) {
    const int64_t side = num_inputs * 16;  // from tiles of 16 rows, or columns, to the next 16
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t at = 0; at < num_inputs; at += 64) {
        const int8_t* row = rows + at * 16;
        const int8_t* column = weights + at * 16;
        _tile_loadd(4, row, 64);
        _tile_loadd(5, row + side, 64);
        _tile_loadd(6, column, 64);
        _tile_loadd(7, column + side, 64);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    constexpr int kStrideBytes = kStride * sizeof(int32_t);
    _tile_stored(0, sums, kStrideBytes);
    _tile_stored(1, sums + 16, kStrideBytes);
    _tile_stored(2, sums + 16 * kStride, kStrideBytes);
    _tile_stored(3, sums + 16 * kStride + 16, kStrideBytes);
}

// From sums to what is given, row by row: that way memory is written as it likes it best.
TARGET_AVX512 void give_rows(const Linear& linear, const int32_t* sums, const float* row_scale,
                             int64_t first_row, int64_t num_rows, int64_t first_column,
                             int64_t num_columns) {
    for (int64_t row = 0; row < num_rows; ++row) {
        const int64_t place = (first_row + row) * linear.num_outputs + first_column;
        const __m512 scale_of_row = _mm512_set1_ps(row_scale[row]);
        for (int64_t at = 0; at < num_columns; at += 16) {
            const int64_t column = first_column + at;
            const int32_t* from = sums + row * kStride + at;
            const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(from));
            const __m512 scale = _mm512_loadu_ps(linear.scale + column);
            __m512 y = _mm512_mul_ps(sum, _mm512_mul_ps(scale, scale_of_row));
            if (linear.bias) y = _mm512_add_ps(y, _mm512_loadu_ps(linear.bias + column));
            if (linear.has_gelu) y = gelu(y);
            if (linear.residual) {
                y = _mm512_add_ps(y, _mm512_loadu_ps(linear.residual + place + at));
            }
            _mm512_storeu_ps(linear.y + place + at, y);
        }
    }
}

}  // namespace

TARGET_AVX512 void quantise_rows(const Linear& linear, int64_t row_chunk, QuantisedRows& rows) {
    const int64_t last = std::min((row_chunk + 1) * kRowChunk, linear.num_rows);
    for (int64_t row = row_chunk * kRowChunk; row < last; ++row) {
        const float* x = linear.x + row * linear.num_inputs;
        // As whole numbers, which floats without a sign are ordered as: a NaN is the largest then,
        // and does not go unnoticed.
        __m512i most = _mm512_setzero_si512();
        for (int64_t at = 0; at < linear.num_inputs; at += 16) {
            const __m512 size = _mm512_abs_ps(_mm512_loadu_ps(x + at));
            most = _mm512_max_epi32(most, _mm512_castps_si512(size));
        }
        const int32_t bits = _mm512_reduce_max_epi32(most);
        float largest;
        std::memcpy(&largest, &bits, sizeof largest);
        const __m512 steps = _mm512_set1_ps(largest == 0 ? 0 : kSteps / largest);
        int8_t* values = rows.values + row / 16 * 16 * linear.num_inputs + row % 16 * 64;
        for (int64_t at = 0; at < linear.num_inputs; at += 16) {
            const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x + at), steps);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(values + at / 64 * kTileBytes + at % 64),
                             _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled)));
        }
        rows.scale[row] = largest / kSteps;
    }
}

void multiply_chunk(const Linear& linear, int64_t row_chunk, int64_t column_chunk,
                    const QuantisedRows& rows) {
    alignas(64) int32_t sums[kSide * kStride];
    const int64_t last_row = std::min((row_chunk + 1) * kRowChunk, linear.num_rows);
    const int64_t first_column = column_chunk * kColumnChunk;
    const int64_t num_columns = std::min(kColumnChunk, linear.num_outputs - first_column);
    const Tiles tiles;
    for (int64_t row = row_chunk * kRowChunk; row < last_row; row += kSide) {
        const int8_t* values = rows.values + row * linear.num_inputs;
        for (int64_t column = 0; column < num_columns; column += kSide) {
            const int8_t* weights = linear.weights + (first_column + column) * linear.num_inputs;
            multiply_side(values, weights, linear.num_inputs, sums + column);
        }
        give_rows(linear, sums, rows.scale + row, row, std::min(kSide, last_row - row),
                  first_column, num_columns);
    }
}

}  // namespace duplex
