// Blocks of one cluster and one another's shared memory: sm_90 and newer.
#pragma once

#include "device.cuh"

namespace dw {

__device__ inline int rank_in_cluster() {
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return static_cast<int>(rank);
}
// All threads of all blocks; mbarriers that were made before are there for everyone afterwards.
__device__ inline void cluster_sync() {
    asm volatile("fence.mbarrier_init.release.cluster;\n\t"
                 "barrier.cluster.arrive.aligned;\n\t"
                 "barrier.cluster.wait.aligned;" ::
                     : "memory");
}
// The same where no mbarriers were made: what the blocks wrote to their shared memory is there.
__device__ inline void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\t"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}
// At a kernel's end: no block goes while another reads from it. It waits for no memory, so that what
// was read has to have been used, in something that was written.
__device__ inline void leave_cluster() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n\t"
                 "barrier.cluster.wait.aligned;" ::
                     : "memory");
}
// Where block `peer` has what this block has at `shared`.
__device__ inline uint32_t address_at(const void *shared, int peer) {
    uint32_t address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(address)
        : "r"(shared_address(shared)), "r"(peer));
    return address;
}
// What is at such an address.
__device__ inline float load_peer(uint32_t address) {
    float v;
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
    return v;
}
__device__ inline float4 load_peer4(uint32_t address) {
    float4 v;
    asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

} // namespace dw
