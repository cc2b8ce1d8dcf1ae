// A product with a matrix of weights in 8 bits, and what follows it: Intel's tiles only.
//
// Activations go through in 8 bits with a scale for each row, weights have one for each column of
// the output; sums are exact, in 32 bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace duplex {

struct Linear {
    int64_t num_rows, num_inputs, num_outputs;  // inputs a multiple of 64, outputs of 32
    const float* x;                             // (rows, inputs)
    // (outputs / 16, inputs / 64, 16 groups of inputs, 16 outputs, 4 inputs)
    const int8_t* weights;
    const float* scale;     // (outputs,)
    const float* bias;      // (outputs,), or null
    const float* residual;  // (rows, outputs) that are added, or null
    bool has_gelu;
    float* y;  // (rows, outputs)
};

constexpr int64_t kRowChunk = 256, kColumnChunk = 256;

// Rows in 8 bits; those that fill up to `padded_rows` are not looked at.
struct QuantisedRows {
    int8_t* values;  // (padded rows / 16, inputs / 64, 16 rows, 64 inputs)
    float* scale;    // (padded rows,)
};

inline int64_t padded_rows(int64_t num_rows) { return (num_rows + 31) / 32 * 32; }
inline int64_t num_row_chunks(int64_t num_rows) { return (num_rows + kRowChunk - 1) / kRowChunk; }
inline int64_t num_column_chunks(int64_t num_outputs) {
    return (num_outputs + kColumnChunk - 1) / kColumnChunk;
}

// First each chunk of rows, in any thread, and then each chunk of rows with each of columns.
void quantise_rows(const Linear& linear, int64_t row_chunk, QuantisedRows& rows);
void multiply_chunk(const Linear& linear, int64_t row_chunk, int64_t column_chunk,
                    const QuantisedRows& rows);

}  // namespace duplex
