// How the blocks of the token kernel wait for one another and add to the same vector.
//
// All blocks are on the GPU at once (a cooperative launch), so that they may wait. Counters only
// grow during a launch; the block that ends last sets them back to zero.
#pragma once

#include <cstdint>

namespace dw {

// Thread 0, after a __syncthreads(): what the block wrote is seen by whoever sees the count.
__device__ inline void arrive(unsigned *counter) {
    asm volatile("fence.acq_rel.gpu;\n\tred.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(counter)
                 : "memory");
}

// Thread 0, before a __syncthreads().
__device__ inline void await(const unsigned *counter, unsigned target) {
    unsigned count;
    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
    } while (count < target);
}

// Sums of floats from many blocks in 64-bit fixed point: integer addition gives the same result
// in any order, so that a token never depends on which block was faster. 32 bits after the point
// reach from 2e-10 to 2e9.
__device__ inline void add_fixed(unsigned long long *sum, float value) {
    atomicAdd(sum, static_cast<unsigned long long>(__float2ll_rn(value * 4294967296.0f)));
}
__device__ inline float read_fixed(const unsigned long long *sum) {
    return __ll2float_rn(static_cast<long long>(__ldcg(sum))) * 2.3283064365386963e-10f;
}

} // namespace dw
