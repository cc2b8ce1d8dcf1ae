// The decoder for one sequence on GPUs with thread block clusters (sm_90 and newer), fp16: the same
// function, within rounding, and the same launches as token_kernel.cu, with a cheaper way between blocks.
//
// A cluster of eight blocks is one attention head, and takes the head's share of everything else
// too: its columns of the output projections and 256 channels of the MLP. So a head's queries, keys,
// values, partial attentions and hidden channels never leave the cluster: blocks put them into one
// another's shared memory. Only the residual stream crosses clusters, three times a layer:
//
//   each block sums an eighth of the columns over its head    -> words in the L2 cache, with a tag
//   the block of that eighth in every cluster adds the heads  -> to the eight blocks of its cluster
//
// in the same order everywhere, so that all clusters have the same stream to the bit. Clusters beyond
// the heads wait for the last layer's stream and help with the logits (cluster_logits.cuh), for which
// they keep rows of the embedding in shared memory.
//
// What that saves: an exchange of counted sums (token_sync.cuh) takes 3000 to 5600 cycles on an H100,
// this 1700 when nothing else is done, and one within a cluster 500.
//
// Bytes a token: as token_kernel.cu, less the rows kept. Reference: run_token in
// ../reference/reference_backend.cpp.
#include <algorithm>

#include "check.h"
#include "cluster_logits.cuh"
#include "cluster_phases.cuh"

namespace dw {
namespace {

// The last layer norm, in halves for the logits.
template <int kHeads>
__device__ inline void normalise_last(ClusterShared<kHeads> &s, const float *x) {
    constexpr int kWidth = kHeads * kHead;
    const float2 moments = moments_of<kWidth>(x);
#pragma unroll
    for (int column = threadIdx.x; column < kWidth; column += kTokenThreads) {
        put_halves<kWidth>(s.normed, column,
                           (x[column] - moments.x) * moments.y * s.last_weight[column] +
                               s.last_bias[column]);
    }
    workers_sync();
}

template <int kHeads>
__device__ inline void run_steps(const TokenRun &r, ClusterShared<kHeads> &s,
                                 ClusterRing<kHeads> &ring, int head, int rank) {
    ClusterPhases<kHeads> phases(r, s, ring, head, rank);
    int token = r.inputs[0];
    if (head >= kHeads) {
        ring.wait(kQkvRows); // the only thing that is copied here: see copy_kept()
    }
#pragma unroll 1
    for (int step = 0;; step++) {
        const uint32_t tag = r.tag + step * r.num_layers;
        if (head < kHeads) {
            load_embedding<DW_FP16>(r, phases.x(), token, r.position + step);
            phases.run_layers(r.position + step, tag);
        } else {
            phases.listen(tag + r.num_layers - 1, step);
        }
        normalise_last(s, phases.x());
        const bool is_answer = end_step(r, s, step, tag, [&](int forbidden) {
            return ClusterLogits<kHeads>(r, s.normed, forbidden).run(ring.base);
        });
        token = is_answer ? s.token : r.inputs[step + 1];
        if (is_answer && (answers_after(r, step) == r.num_new || token == r.eot)) {
            break;
        }
    }
}

template <int kHeads>
__global__ void __launch_bounds__(kLaunchThreads, 1)
    cluster_kernel(const __grid_constant__ TokenRun r) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    extern __shared__ __align__(128) char dynamic_shared[];
    auto &s = *reinterpret_cast<ClusterShared<kHeads> *>(dynamic_shared);
    const int rank = rank_in_cluster(), head = blockIdx.x / kClusterParts;
    if (threadIdx.x < kMaxBlocks) {
        s.table[threadIdx.x] = r.table[threadIdx.x];
    }
    for (int i = threadIdx.x; i < kHeads * kHead; i += kLaunchThreads) {
        s.last_weight[i] = r.text_norm.weight[i];
        s.last_bias[i] = r.text_norm.bias[i];
    }
    if (threadIdx.x == 0) {
        make_barrier(&s.done, 1);
        for (int i = 0; i < kArrivals; i++) {
            make_barrier(&s.arrived[i], 1);
        }
        for (int i = 0; i < kChunks; i++) {
            make_barrier(&s.copied[i], 32);
            make_barrier(&s.used[i], kTokenThreads);
        }
    }
    __syncthreads();
    cluster_sync();
    ClusterRing<kHeads> ring(r, s, dynamic_shared + sizeof(ClusterShared<kHeads>), head, rank);
    if (threadIdx.x < kTokenThreads) {
        run_steps(r, s, ring, head, rank);
        if (threadIdx.x == 0) {
            arrive(&s.done);
        }
    } else if (head < kHeads) {
        ring.copy_all();
    } else {
        ring.copy_kept();
    }
    __syncwarp();
    cluster_sync(); // the others may still write into this block's memory
#endif
}

// All blocks at once, as clusters. attributes: room for two, which has to live as long as the result.
cudaLaunchConfig_t launch_config(int blocks, int shared_bytes, cudaStream_t stream,
                                 cudaLaunchAttribute *attributes) {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {kClusterParts, 1, 1};
    attributes[1].id = cudaLaunchAttributeCooperative;
    attributes[1].val.cooperative = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(kLaunchThreads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = 2;
    return config;
}

// Of the L2 cache for the embedding, beside all that passes through it: more is worse on an H100.
constexpr double kL2Share = 0.6;

template <int kHeads>
KeptEmbedding plan_embedding(const ClusterPlan &plan, int n_vocab, int device) {
    constexpr int kRowBytes = kHeads * kHead * 2;
    int l2_bytes;
    DW_CUDA(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, device));
    KeptEmbedding kept;
    kept.first_keeping = kHeads * kClusterParts;
    const int num_blocks = plan.blocks - kept.first_keeping;
    kept.kept_rows = std::min(plan.ring_bytes / kRowBytes, n_vocab / std::max(num_blocks, 1));
    kept.first_kept = n_vocab - num_blocks * kept.kept_rows;
    kept.l2_rows = std::min(static_cast<int>(l2_bytes * kL2Share / kRowBytes), kept.first_kept);
    return kept;
}

template <int kHeads> ClusterPlan plan_heads(const dw_dimensions &dims, int device) {
    const auto kernel = reinterpret_cast<const void *>(cluster_kernel<kHeads>);
    ClusterPlan plan;
    const int num_keys = dims.n_audio_ctx, num_layers = dims.n_text_layer;
    int room, processors, clusters = 0, largest = 0;
    DW_CUDA(cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    DW_CUDA(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    for (int chunk = 0; chunk < kChunks; chunk++) {
        largest = std::max(largest, chunk_bytes<kHeads>(chunk, num_keys));
    }
    plan.ring_bytes = (room - static_cast<int>(sizeof(ClusterShared<kHeads>))) / 16 * 16;
    if (plan.ring_bytes < largest || num_keys < kClusterParts || num_keys > kMostAudioKeys) {
        return plan;
    }
    plan.shared_bytes = static_cast<int>(sizeof(ClusterShared<kHeads>)) + plan.ring_bytes;
    DW_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 plan.shared_bytes));
    cudaLaunchAttribute attributes[2];
    const cudaLaunchConfig_t config = launch_config(
        processors / kClusterParts * kClusterParts, plan.shared_bytes, nullptr, attributes);
    if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess) {
        cudaGetLastError(); // a part of a GPU may refuse clusters of this size: then without
        return plan;
    }
    if (clusters >= kHeads) {
        plan.kernel = kernel;
        plan.fold_kernel = reinterpret_cast<const void *>(fold_norms_kernel<kHeads>);
        plan.folded_floats = int64_t{num_layers} * FoldedNorms<kHeads>::kLayerFloats;
        plan.blocks = clusters * kClusterParts;
        plan.kept = plan_embedding<kHeads>(plan, dims.n_vocab, device);
    }
    return plan;
}

} // namespace

ClusterPlan plan_clusters(const dw_dimensions &dims, const dw_options &options, int device) {
    if (compute_major() < 9 || options.only_portable || options.layer_type != DW_FP16 ||
        options.embedding_type != DW_FP16) {
        return {};
    }
    switch (dims.n_text_head) {
    case 6: return plan_heads<6>(dims, device);   // tiny
    case 8: return plan_heads<8>(dims, device);   // base
    case 12: return plan_heads<12>(dims, device); // small
    default: return {};
    }
}

void fold_norms(const ClusterPlan &plan, const dw_dimensions &dims, const LayerWeights *layers,
                float *folded, cudaStream_t stream) {
    void *arguments[] = {&folded, &layers};
    DW_CUDA(cudaLaunchKernel(plan.fold_kernel,
                             dim3(dims.n_text_layer, dims.n_text_head * kClusterParts, 3),
                             dim3(kTokenThreads), arguments, 0, stream));
}

void launch_clusters(const ClusterPlan &plan, const TokenRun &run, cudaStream_t stream) {
    cudaLaunchAttribute attributes[2];
    const cudaLaunchConfig_t config =
        launch_config(plan.blocks, plan.shared_bytes, stream, attributes);
    void *arguments[] = {const_cast<TokenRun *>(&run)};
    DW_CUDA(cudaLaunchKernelExC(&config, plan.kernel, arguments));
}

} // namespace dw
