// The instructions that CUDA C++ has no words for, and reductions over a warp. All are sm_80.
#pragma once

#include <cstdint>
#include <cuda_fp16.h>

namespace dw {

constexpr int kHead = 64; // channels of one attention head
constexpr float kScoreScale = 0.125f * 1.44269504f; // 1/8, and powers of 2 instead of e
constexpr int kOrinBlockShared = 163 * 1024; // the most that a block can have on sm_87

__device__ inline uint32_t shared_address(const void *shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// ---- copies from global to shared memory that run beside the arithmetic --------------------------

// 16 bytes; zeros instead if !is_inside.
__device__ inline void copy_async(void *shared, const void *global, bool is_inside = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(is_inside ? 16 : 0)
                 : "memory");
}
// The same for what is read once a token: the L2 cache shall rather keep other things.
__device__ inline void copy_passing(void *shared, const void *global) {
    asm volatile("{\n\t.reg .b64 passing;\n\t"
                 "createpolicy.fractional.L2::evict_first.b64 passing, 1.0;\n\t"
                 "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, passing;\n\t}" ::"r"(
                     shared_address(shared)),
                 "l"(global)
                 : "memory");
}
// Neighbouring bytes by one warp, which has to feed all the others: eight copies at a time, whose
// addresses are constants apart, so that 512 bytes take little more than the one instruction.
__device__ inline void copy_neighbours(void *shared, const void *global, int bytes) {
    constexpr int kAtOnce = 8 * 512;
    const int own = threadIdx.x % 32 * 16;
    char *to = static_cast<char *>(shared) + own;
    const char *from = static_cast<const char *>(global) + own;
#pragma unroll 1
    for (; bytes >= kAtOnce; bytes -= kAtOnce, to += kAtOnce, from += kAtOnce) {
#pragma unroll
        for (int at = 0; at < kAtOnce; at += 512) {
            copy_passing(to + at, from + at);
        }
    }
#pragma unroll
    for (int at = 0; at < kAtOnce; at += 512) {
        if (at + own < bytes) {
            copy_passing(to + at, from + at);
        }
    }
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending> __device__ inline void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- tensor cores ---------------------------------------------------------------------------------

// Four 8 x 8 matrices of halves; lane i gives the address of row i % 8 of matrix i / 8.
__device__ inline void load_matrices(uint32_t (&r)[4], const void *shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared))
                 : "memory");
}
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], const void *shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared))
                 : "memory");
}
// c [16, 8] += a [16, 16] b [16, 8]; lane holds c rows lane / 4 (+ 8), columns lane % 4 * 2 (+ 1).
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline uint32_t pack_halves(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&pair);
}

// Where piece `piece` of row `row` lies in a tile of rows of 64 halves, in halves: the eight 16-byte
// pieces of a row are permuted by the row number, so that eight rows are in different banks.
__device__ inline int swizzled(int row, int piece) { return row * 64 + ((piece ^ (row & 7)) << 3); }

// threadIdx.x, asked for again: what follows from it is not kept in registers for as long as a kernel runs.
__device__ inline int thread_again() {
    int number;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(number));
    return number;
}

// ---- loads ------------------------------------------------------------------------------------------

// 16 bytes of weights, which no one writes while kernels run: not kept in L1.
__device__ inline uint4 load_weights(const void *global) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(global));
    return v;
}

// The same, with a word of how long the L2 cache shall hold it: L2Policy::kept or ::passing.
__device__ inline uint4 load_weights(const void *global, uint64_t policy) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], %5;"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(global), "l"(policy));
    return v;
}
struct L2Policy {
    uint64_t kept, passing;
    __device__ L2Policy() {
        asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(kept));
        asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(passing));
    }
};

// The line of 128 bytes into the L2 cache.
__device__ inline void prefetch_line(const void *global) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

__device__ inline float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }

__device__ inline float power_of_2(float x) { // 0 below 2^-126
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <int kLanes = 32> __device__ inline float warp_sum(float value) {
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffff, value, distance);
    }
    return value;
}
__device__ inline float warp_max(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, distance));
    }
    return value;
}

// The larger value and its index, the lower one of equals; and of all lanes of the warp.
__device__ inline void take_better(float &best, int &index, float other, int other_index) {
    if (other > best || (other == best && other_index < index)) {
        best = other;
        index = other_index;
    }
}
__device__ inline void warp_best(float &best, int &index) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(0xffffffff, best, distance);
        const int other_index = __shfl_xor_sync(0xffffffff, index, distance);
        take_better(best, index, other, other_index);
    }
}

__device__ inline float4 four_at(const float *from, int index) {
    return *reinterpret_cast<const float4 *>(from + index);
}
__device__ inline float2 two_at(const float *from, int index) {
    return *reinterpret_cast<const float2 *>(from + index);
}
__device__ inline void load_eight(float (&to)[8], const float *from) {
    const float4 low = four_at(from, 0), high = four_at(from, 4);
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}

__device__ inline void unpack_halves(float (&out)[8], const uint4 &v) {
    const uint32_t words[] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 pair = __half22float2(*reinterpret_cast<const __half2 *>(&words[i]));
        out[2 * i] = pair.x;
        out[2 * i + 1] = pair.y;
    }
}

} // namespace dw
