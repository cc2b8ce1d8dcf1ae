// Kernels for GPUs of compute capability 9.0 alone: launch.h's functions take them where they can.
#pragma once

#include "check.h"
#include "launch.h"

namespace dw {

constexpr int kHopperBlockShared = 227 * 1024; // the most that a block can have on sm_90

// Whether the present device has wgmma: 9.x has, no other.
inline bool has_wgmma() { return compute_major() == 9; }

// What multiply_hopper() takes, with fp16 weights: rows to fill tiles, no epilogue of the decoder.
inline bool fits_hopper(const Product &p) {
    return p.m > 64 && p.epilogue != Epilogue::kFloat && p.epilogue != Epilogue::kPagedQkv;
}
void multiply_hopper(const Product &product, cudaStream_t stream);

void encoder_attention_hopper(__half *out, const __half *qkv, int batch, int positions, int heads,
                              cudaStream_t stream);

} // namespace dw
