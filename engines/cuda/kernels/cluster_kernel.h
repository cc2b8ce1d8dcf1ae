// The cluster kernel's launch: whether a GPU and a model can have it, and how.
#pragma once

#include <cuda_runtime.h>

#include "../duplex_whisper.h"

namespace dw {

struct LayerWeights;
struct TokenRun;

// Of the embedding: from row `first_kept` on, kept_rows in the shared memory of each block from
// `first_keeping` on, which has no head; the first l2_rows are to stay in the L2 cache.
struct KeptEmbedding {
    int first_kept, kept_rows, first_keeping, l2_rows;
};

struct ClusterPlan {
    const void *kernel = nullptr; // null: token_kernel.cu has to do
    const void *fold_kernel = nullptr; // once, see cluster_fold.cuh
    int blocks = 0, shared_bytes = 0, ring_bytes = 0;
    int64_t folded_floats = 0;
    KeptEmbedding kept{};
};

ClusterPlan plan_clusters(const dw_dimensions &dims, const dw_options &options, int device);

// Makes what launches need of the weights: float [folded_floats] on the GPU.
void fold_norms(const ClusterPlan &plan, const dw_dimensions &dims, const LayerWeights *layers,
                float *folded, cudaStream_t stream);

// `run` as token_kernel.cu's launch() fills it in.
void launch_clusters(const ClusterPlan &plan, const TokenRun &run, cudaStream_t stream);

} // namespace dw
