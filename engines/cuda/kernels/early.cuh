// Kernels that begin before the one ahead of them in the stream has ended: their blocks are there
// and have done what needs no other kernel's result when it ends ("programmatic dependent launch",
// compute capability 9.0 and newer; elsewhere the same kernels follow one another as usual).
//
// Such a kernel calls await_previous() in every thread before it reads what a kernel wrote, or
// writes anything. As the kernel ahead did so too, all kernels before it have then ended as well.
#pragma once

#include "check.h"

namespace dw {

__device__ inline void await_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Once every block has said so, or has ended, the next kernel's blocks take the room that is left.
__device__ inline void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

struct LaunchShape {
    dim3 grid, block;
    int shared_bytes = 0;
    bool is_early = false; // of a kernel that calls await_previous(), where begins_early() says so
    unsigned cluster = 1;  // blocks along z
};

inline bool begins_early(bool only_portable) { return compute_major() >= 9 && !only_portable; }

template <class T> struct Same {
    using type = T;
};
template <class... Parameters>
void launch_kernel(const char *name, void (*kernel)(Parameters...), const LaunchShape &shape,
                   cudaStream_t stream, typename Same<Parameters>::type... arguments) {
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config{};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    if (shape.cluster > 1) {
        cudaLaunchAttribute &attribute = attributes[config.numAttrs++];
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim = {1, 1, shape.cluster};
    }
    if (shape.is_early) {
        cudaLaunchAttribute &attribute = attributes[config.numAttrs++];
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
    }
    check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), name, __FILE__, __LINE__);
}

} // namespace dw
