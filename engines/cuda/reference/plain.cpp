#include "plain.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dw::plain {
namespace {

constexpr int kHead = 64;

float dot(const float *a, const float *b, int size) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < size; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

} // namespace

void linear(float *y, const float *x, const float *weight, const float *bias, int rows, int out,
            int in, int64_t stride) {
    for (int row = 0; row < rows; row++) {
        for (int column = 0; column < out; column++) {
            const float product = dot(x + row * stride, weight + int64_t{column} * in, in);
            y[int64_t{row} * out + column] = product + (bias ? bias[column] : 0);
        }
    }
}

void layer_norm(float *y, const float *x, const float *weight, const float *bias, int rows,
                int width) {
    for (int row = 0; row < rows; row++, x += width, y += width) {
        double sum = 0, squares = 0;
        for (int i = 0; i < width; i++) {
            sum += x[i];
        }
        const double mean = sum / width;
        for (int i = 0; i < width; i++) {
            squares += (x[i] - mean) * (x[i] - mean);
        }
        const double scale = 1 / std::sqrt(squares / width + 1e-5);
        for (int i = 0; i < width; i++) {
            y[i] = static_cast<float>((x[i] - mean) * scale) * weight[i] + bias[i];
        }
    }
}

void gelu(float *x, int64_t size) {
    for (int64_t i = 0; i < size; i++) {
        x[i] = 0.5f * x[i] * (1 + std::erf(x[i] * 0.70710678f));
    }
}

void attend(float *out, const float *query, const float *key, const float *value, int num_queries,
            int num_keys, int64_t stride, int64_t key_stride, bool is_causal) {
    std::vector<float> weights(num_keys);
    for (int q = 0; q < num_queries; q++) {
        const int seen = is_causal ? num_keys - num_queries + q + 1 : num_keys;
        float largest = -std::numeric_limits<float>::infinity();
        for (int k = 0; k < seen; k++) {
            weights[k] = dot(query + q * stride, key + k * key_stride, kHead) * 0.125f;
            largest = std::max(largest, weights[k]);
        }
        float total = 0;
        float mixed[kHead] = {};
        for (int k = 0; k < seen; k++) {
            const float weight = std::exp(weights[k] - largest);
            total += weight;
            for (int i = 0; i < kHead; i++) {
                mixed[i] += weight * value[k * key_stride + i];
            }
        }
        for (int i = 0; i < kHead; i++) {
            out[q * stride + i] = mixed[i] / total;
        }
    }
}

Choice choose(const float *logits, int n_vocab, const std::vector<int32_t> &suppressed,
              int no_speech) {
    const float infinity = std::numeric_limits<float>::infinity();
    std::vector<float> allowed(logits, logits + n_vocab);
    for (const int32_t token : suppressed) {
        allowed[token] = -infinity;
    }
    const auto best = std::max_element(allowed.begin(), allowed.end());
    const float largest = *std::max_element(logits, logits + n_vocab);
    double allowed_sum = 0, whole_sum = 0;
    for (int i = 0; i < n_vocab; i++) {
        allowed_sum += std::exp(allowed[i] - *best);
        whole_sum += std::exp(logits[i] - largest);
    }
    const float no_speech_prob =
        no_speech < 0 ? 0 : static_cast<float>(std::exp(logits[no_speech] - largest) / whole_sum);
    return {static_cast<int32_t>(best - allowed.begin()),
            static_cast<float>(-std::log(allowed_sum)), no_speech_prob};
}

void widen_int8(float *out, const uint8_t *bytes, const float *scale, int64_t rows, int columns) {
    for (int64_t i = 0; i < rows * columns; i++) {
        out[i] = static_cast<float>(bytes[i] - 128) * scale[i / columns];
    }
}

void widen_int4(float *out, const uint8_t *bytes, const float *scale, int64_t rows, int columns) {
    for (int64_t row = 0; row < rows; row++) {
        for (int column = 0; column < columns; column++) {
            const int place = column % 8; // within the word of 4 bytes
            const int bit = place % 2 * 16 + place / 2 * 4;
            const uint8_t byte = bytes[(row * columns + column) / 8 * 4 + bit / 8];
            const int nibble = bit % 8 == 0 ? byte & 15 : byte >> 4;
            out[row * columns + column] =
                static_cast<float>(nibble - 8) * scale[(row * columns + column) / 64];
        }
    }
}

} // namespace dw::plain
