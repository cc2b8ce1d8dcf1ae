// The cluster kernel's launch: whether a GPU and a model can have it, and how.
#pragma once

#include <cuda_runtime.h>

#include "../duplex_whisper.h"

namespace dw {

struct TokenRun;

struct ClusterPlan {
    const void *kernel = nullptr; // null: token_kernel.cu has to do
    int blocks = 0, shared_bytes = 0, ring_bytes = 0;
};

ClusterPlan plan_clusters(const dw_dimensions &dims, const dw_options &options, int device);

// `run` as token_kernel.cu's launch() fills it in.
void launch_clusters(const ClusterPlan &plan, const TokenRun &run, cudaStream_t stream);

} // namespace dw
