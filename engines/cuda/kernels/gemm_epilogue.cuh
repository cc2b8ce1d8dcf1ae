// From the tile of float sums in shared memory to where a product's values belong: what both
// matrix products, gemm.cu and gemm_hopper.cu, do at their end.
#pragma once

#include "launch.h"

namespace dw {

constexpr int kPad = 8; // floats between rows of sums: a fragment's rows are in different banks

__device__ inline uint4 to_halves(const float (&v)[8]) {
    return {pack_halves(v[0], v[1]), pack_halves(v[2], v[3]), pack_halves(v[4], v[5]),
            pack_halves(v[6], v[7])};
}

__device__ inline void add_eight(float (&v)[8], const float4 &first, const float4 &second) {
    const float other[8] = {first.x,  first.y,  first.z,  first.w,
                            second.x, second.y, second.z, second.w};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i] += other[i];
    }
}

// What is in global memory already and is added to eight values, asked for ahead of them.
struct Addend {
    float4 first, second;

    __device__ void load(const Product &p, Epilogue epilogue, int batch, int row, int column) {
        if (epilogue == Epilogue::kAddFloat || epilogue == Epilogue::kGeluPosition) {
            const float *from = epilogue == Epilogue::kGeluPosition
                                    ? p.positions + int64_t{row} * p.n
                                    : static_cast<const float *>(p.out) +
                                          batch * p.out_batch_stride + row * p.out_stride;
            first = *reinterpret_cast<const float4 *>(from + column);
            second = *reinterpret_cast<const float4 *>(from + column + 4);
        }
    }
};

// Where eight neighbouring columns of halves go.
__device__ inline __half *half_place(const Product &p, Epilogue epilogue, int batch, int row,
                                     int column) {
    if (epilogue == Epilogue::kCrossKv) {
        return static_cast<__half *>(p.out) + p.slots[batch] * p.out_batch_stride +
               (int64_t{column / kHead} * p.m + row) * kHead + column % kHead;
    }
    if (epilogue != Epilogue::kPagedQkv) {
        return static_cast<__half *>(p.out) + batch * p.out_batch_stride + row * p.out_stride +
               column;
    }
    const int width = p.n / 3, part = column / width;
    __half *place = static_cast<__half *>(p.out) + int64_t{row} * width;
    if (part > 0) {
        const int position = p.rows.positions[row];
        const int block = p.rows.tables[row * p.rows.table_width + position / p.kv.block_tokens];
        place = (part == 1 ? p.kv.keys : p.kv.values) +
                (int64_t{block} * p.kv.block_tokens + position % p.kv.block_tokens) * width;
    }
    return place + column - part * width;
}

// Eight neighbouring columns of one row: n is a multiple of 8 wherever this is used.
__device__ inline void write_eight(const Product &p, Epilogue epilogue, int batch, int row,
                                   int column, float (&v)[8], const Addend &addend) {
    if (p.weight.bias != nullptr) {
        const float4 *bias = reinterpret_cast<const float4 *>(p.weight.bias + column);
        add_eight(v, __ldg(bias), __ldg(bias + 1));
    }
    if (epilogue == Epilogue::kHalfGelu || epilogue == Epilogue::kGeluPosition) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] = gelu(v[i]);
        }
    }
    if (epilogue == Epilogue::kAddFloat || epilogue == Epilogue::kGeluPosition) {
        add_eight(v, addend.first, addend.second);
        float4 *out = reinterpret_cast<float4 *>(static_cast<float *>(p.out) +
                                                 batch * p.out_batch_stride + row * p.out_stride +
                                                 column);
        out[0] = {v[0], v[1], v[2], v[3]};
        out[1] = {v[4], v[5], v[6], v[7]};
        return;
    }
    *reinterpret_cast<uint4 *>(half_place(p, epilogue, batch, row, column)) = to_halves(v);
}

// Rows row0 .. row0 + kRows of a tile of kN columns at (m0, n0), by all threads of the block.
// read(row, column, v) gives eight sums of the tile. A thread has kAtOnce addends on their way
// together. The outer loop is not unrolled: the code for all the places would not fit into the
// instruction cache many times.
template <int kRows, int kN, int kThreads, int kAtOnce, class Read>
__device__ inline void write_rows(const Product &p, Epilogue epilogue, int batch, int m0, int n0,
                                  int row0, Read read) {
#pragma unroll 1
    for (int i = threadIdx.x; i < kRows * kN / 8; i += kThreads * kAtOnce) {
        Addend addends[kAtOnce] = {};
        int rows[kAtOnce], columns[kAtOnce];
        bool is_inside[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; j++) {
            const int piece = i + j * kThreads;
            rows[j] = row0 + piece / (kN / 8), columns[j] = piece % (kN / 8) * 8;
            is_inside[j] = piece < kRows * kN / 8 && m0 + rows[j] < p.m && n0 + columns[j] < p.n;
            if (is_inside[j]) {
                addends[j].load(p, epilogue, batch, m0 + rows[j], n0 + columns[j]);
            }
        }
#pragma unroll
        for (int j = 0; j < kAtOnce; j++) {
            if (is_inside[j]) {
                float v[8];
                read(rows[j], columns[j], v);
                write_eight(p, epilogue, batch, m0 + rows[j], n0 + columns[j], v, addends[j]);
            }
        }
    }
}

} // namespace dw
