// Matrices as they are stored, and 16 bytes of them as floats.
#pragma once

#include "../duplex_whisper.h"
#include "device.cuh"

namespace dw {

// A weight matrix [out, in] on the GPU. scale: float [out] for int8, half [out, in / 64] for int4.
struct Matrix {
    const void *data;
    const void *scale;
    const float *bias; // [out], or null
};

constexpr int kScaleGroup = 64; // columns with one int4 scale

// kColumns: in 16 bytes. widen() gives (stored - zero), without the scale.
template <dw_type kType> struct Packed;

template <> struct Packed<DW_FP16> {
    static constexpr int kColumns = 8;
    __device__ static void widen(float (&out)[8], const uint4 &v) { unpack_halves(out, v); }
};

// An integer below 2^23 put into the mantissa of 2^23 is 2^23 plus the integer, exactly.
template <> struct Packed<DW_INT8> {
    static constexpr int kColumns = 16;
    __device__ static void widen(float (&out)[16], const uint4 &v) {
        const uint32_t words[] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const uint32_t bits = __byte_perm(words[i / 4], 0x4b000000, 0x7650 + i % 4);
            out[i] = __uint_as_float(bits) - (8388608.0f + 128.0f);
        }
    }
};

template <> struct Packed<DW_INT4> {
    static constexpr int kColumns = 32;
    __device__ static void widen(float (&out)[32], const uint4 &v) {
        const uint32_t words[] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 32; i++) {
            const int column = i % 8;
            const int shift = column % 2 * 16 + column / 2 * 4;
            const uint32_t bits = ((words[i / 8] >> shift) & 0xf) | 0x4b000000;
            out[i] = __uint_as_float(bits) - (8388608.0f + 8.0f);
        }
    }
};

// The scale of `column` and its neighbours in 16 bytes of row `row`.
template <dw_type kType>
__device__ inline float scale_at(const Matrix &matrix, int64_t row, int in, int column) {
    if constexpr (kType == DW_INT8) {
        return static_cast<const float *>(matrix.scale)[row];
    } else if constexpr (kType == DW_INT4) {
        return __half2float(static_cast<const __half *>(
            matrix.scale)[row * (in / kScaleGroup) + column / kScaleGroup]);
    } else {
        return 1.0f;
    }
}

inline int64_t matrix_bytes(dw_type type, int64_t elements) {
    return type == DW_FP16 ? 2 * elements : type == DW_INT8 ? elements : elements / 2;
}

} // namespace dw
