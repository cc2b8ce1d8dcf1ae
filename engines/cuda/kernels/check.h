// CUDA's error codes as failures that name the call and the place; what the device is.
#pragma once

#include <cuda_runtime.h>

#include "../host/failure.h"

namespace dw {

inline void check_cuda(cudaError_t error, const char *call, const char *file, int line) {
    if (error == cudaSuccess) {
        return;
    }
    const char *slash = __builtin_strrchr(file, '/');
    const bool is_memory = error == cudaErrorMemoryAllocation;
    cudaGetLastError(); // a failed allocation must not show up in the next launch's check
    fail(is_memory ? DW_OUT_OF_MEMORY : DW_CUDA_ERROR, "%s at %s:%d: %s (%s)", call,
         slash ? slash + 1 : file, line, cudaGetErrorString(error), cudaGetErrorName(error));
}

} // namespace dw

#define DW_CUDA(call) ::dw::check_cuda((call), #call, __FILE__, __LINE__)
#define DW_LAUNCHED(kernel) ::dw::check_cuda(cudaGetLastError(), kernel, __FILE__, __LINE__)

namespace dw {

// The first number of the present device's compute capability.
inline int compute_major() {
    int device, major;
    DW_CUDA(cudaGetDevice(&device));
    DW_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    return major;
}

} // namespace dw
