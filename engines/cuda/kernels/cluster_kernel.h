// The cluster kernel's launch: whether a GPU and a model can have it, and how.
#pragma once

#include <cuda_runtime.h>

#include "../duplex_whisper.h"

namespace dw {

struct LayerWeights;
struct TokenRun;

struct ClusterPlan {
    const void *kernel = nullptr; // null: token_kernel.cu has to do
    const void *fold_kernel = nullptr; // once, see cluster_fold.cuh
    int blocks = 0, shared_bytes = 0, ring_bytes = 0;
    int64_t folded_floats = 0;
    int kept_blocks = 0, kept_rows = 0; // blocks without a head, and rows of the embedding that each keeps
    int l2_rows = 0; // that the L2 cache is to keep
};

ClusterPlan plan_clusters(const dw_dimensions &dims, const dw_options &options, int device);

// Makes what launches need of the weights: float [folded_floats] on the GPU.
void fold_norms(const ClusterPlan &plan, const dw_dimensions &dims, const LayerWeights *layers,
                float *folded, cudaStream_t stream);

// `run` as token_kernel.cu's launch() fills it in.
void launch_clusters(const ClusterPlan &plan, const TokenRun &run, cudaStream_t stream);

} // namespace dw
