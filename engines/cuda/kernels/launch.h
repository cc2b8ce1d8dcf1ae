// Every kernel of the engine as a host function: what it computes, with its shapes. The plain
// reference of each is in ../reference/plain.h; tests/test_kernels.cu compares the two.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../duplex_whisper.h"
#include "weights.cuh"

namespace dw {

// ---- decoder rows: tokens of several sequences in one pass ------------------------------------------

// Block tables, and one entry a row of the others, in GPU memory.
struct Rows {
    int num;
    int table_width;           // blocks in one row of tables
    const int32_t *tokens;     // [num]
    const int32_t *positions;  // [num]
    const int32_t *audio;      // [num]: slot of the encoded utterance
    const int32_t *is_first;   // [num]
    const int32_t *tables;     // [num, table_width]: each row's block table
};

// The pool: keys and values of one layer, half [blocks, block_tokens, width] each.
struct PagedKv {
    __half *keys, *values;
    int block_tokens;
};

// ---- matrix product ---------------------------------------------------------------------------------

enum class Epilogue {
    kHalf,          // out half = product + bias
    kHalfGelu,      // out half = gelu(product + bias)
    kFloat,         // out float = product; n may be any number here, a multiple of 8 elsewhere
    kAddFloat,      // out float += product + bias
    kGeluPosition,  // out float = gelu(product + bias) + positions[row]
    kCrossKv,       // row t, column (part, head, c) -> out half [part, head, t, c] of slot
    kPagedQkv       // columns of queries -> out half; keys and values -> their places in the pool
};

// out [m, n] = a [m, k] times the transpose of weight [n, k]. Row r of a is at a + r * a_stride:
// strides below k make convolutions products. k is a multiple of 8.
struct Product {
    const __half *a = nullptr;
    Matrix weight{};
    void *out = nullptr;
    int m = 0, n = 0, k = 0;
    int64_t a_stride = 0, out_stride = 0;
    int batch = 1; // so many products with the same weight
    int64_t a_batch_stride = 0, out_batch_stride = 0;
    Epilogue epilogue = Epilogue::kHalf;
    const float *positions = nullptr; // [m, n] for kGeluPosition
    const int32_t *slots = nullptr;   // [batch] for kCrossKv
    Rows rows{};                      // for kPagedQkv
    PagedKv kv{};
    bool only_portable = false; // nothing that an Orin does not have, whatever GPU this is
};
void multiply(const Product &product, dw_type type, cudaStream_t stream);

// ---- encoder ------------------------------------------------------------------------------------------
// On compute capability 9.0 these, and products (on newer ones some), may begin before the kernel ahead
// of them in the stream has ended, and read weights by then: no kernel may write those. only_portable: as
// Product's.

// mel float [batch, n_mels, frames] -> half [batch, frames + 2, n_mels], first and last row zero.
void turn_mel(__half *out, const float *mel, int batch, int n_mels, int frames,
              bool only_portable, cudaStream_t stream);

// Sets the first and last row of each [rows, width] to zero: the padding of a convolution.
void clear_padding(__half *x, int batch, int rows, int width, bool only_portable,
                   cudaStream_t stream);

// x float [rows, width] -> out half [rows, width], and float too if out_float is not null.
void layer_norm(__half *out, float *out_float, const float *x, const float *weight,
                const float *bias, int rows, int width, bool only_portable, cudaStream_t stream);

// qkv half [batch, positions, 3, heads, 64] -> out half [batch, positions, heads, 64].
void encoder_attention(__half *out, const __half *qkv, int batch, int positions, int heads,
                       bool only_portable, cudaStream_t stream);

// ---- decoder rows ---------------------------------------------------------------------------------------

// x float [rows, width] = embedding [n_vocab, width] of the token + positional [n_text_ctx, width].
void embed(float *x, const Rows &rows, const Matrix &embedding, dw_type type,
           const float *positional, int width, cudaStream_t stream);

// query half [rows, heads, 64] -> out of the same shape, over keys 0 .. position of its sequence.
void self_attention(__half *out, const __half *query, const Rows &rows, const PagedKv &kv,
                    int heads, cudaStream_t stream);

// The same over the cross-attention keys half [heads, num_keys, 64] and values at keys + slot *
// slot_stride (values: + heads * num_keys * 64).
void cross_attention(__half *out, const __half *query, const Rows &rows, const __half *keys,
                     int64_t slot_stride, int heads, int num_keys, cudaStream_t stream);

// logits float [rows, n_vocab] -> the chosen token, its log-probability, and that of no_speech.
struct DeviceAnswer {
    int32_t token;
    float logprob;
    float no_speech_prob;
    int32_t padding;
};
// mask [n_vocab]: bit 0 never chosen, bit 1 not chosen as the first.
void choose(DeviceAnswer *answers, const float *logits, const Rows &rows, const uint8_t *mask,
            int no_speech, int n_vocab, cudaStream_t stream);

} // namespace dw
