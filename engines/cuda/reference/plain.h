// What every kernel computes, as plain loops in float32: the references of the kernels' tests.
//
// Matrices are row-major; weights have shape (out, in), as in checkpoints.
#pragma once

#include <cstdint>
#include <vector>

namespace dw::plain {

// y [rows, out] = x [rows, in] times the transpose of weight [out, in], plus bias [out] (or null).
// Row r of x starts at x + r * stride: with a stride below `in` rows overlap, which makes a
// convolution of time-major input a product.
void linear(float *y, const float *x, const float *weight, const float *bias, int rows, int out,
            int in, int64_t stride);

// Each row of x [rows, width] to mean 0 and variance 1, times weight [width], plus bias [width].
void layer_norm(float *y, const float *x, const float *weight, const float *bias, int rows,
                int width);

void gelu(float *x, int64_t size); // the exact one, with erf

// One head: queries [num_queries, 64], keys and values [num_keys, 64] -> out [num_queries, 64],
// rows at the given strides. Query i sees keys 0 .. num_keys - num_queries + i if it is causal,
// all otherwise. Scores are scaled by 1/8.
void attend(float *out, const float *query, const float *key, const float *value, int num_queries,
            int num_keys, int64_t stride, int64_t key_stride, bool is_causal);

struct Choice {
    int32_t token;
    float logprob;
    float no_speech_prob;
};

// The largest logit whose token is not suppressed (the first of equals), its log-probability among
// those, and the probability of token no_speech (or -1) among all.
Choice choose(const float *logits, int n_vocab, const std::vector<int32_t> &suppressed,
              int no_speech);

// uint8 [rows, columns] and scale [rows] -> float32 [rows, columns].
void widen_int8(float *out, const uint8_t *bytes, const float *scale, int64_t rows, int columns);

// Packed nibbles [rows, columns / 2] (duplex_whisper.h) and scale [rows, columns / 64].
void widen_int4(float *out, const uint8_t *bytes, const float *scale, int64_t rows, int columns);

} // namespace dw::plain
