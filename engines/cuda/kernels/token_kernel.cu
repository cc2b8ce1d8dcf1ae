// The decoder for one sequence: whole tokens in one persistent kernel.
//
// At batch one a token is about reading every weight once, so one launch takes up to 32 tokens
// through all layers, with all multiprocessors in step. Work is split so that blocks exchange
// little: attention heads are shared by `parts` blocks each, and the MLP's two matrices by hidden
// channels. Every block has the residual stream in its shared memory. A layer has five exchanges:
//
//   1  queries, keys and values of a head      to the blocks of the head
//   2  the self-attention's output             counted sums, for all
//   3  attention over a part of the audio      to the blocks of the head
//   4  the cross-attention's output            counted sums, for all
//   5  the MLP's output                        counted sums, for all
//
// None is a barrier: readers wait for the values themselves (token_sync.cuh). Meanwhile weights of
// the next layer are copied into shared memory, as far as there is room (token_stage.cuh).
//
// The code is written so that everything is in the kernel once, in loops that are not unrolled: a
// token runs through all of it, and instructions that are not in the cache cost more than any of
// the arithmetic.
//
// Bytes a token: all weights of the decoder and the embedding once, keys and values once.
// Reference: run_token in ../reference/reference_backend.cpp, one step of the same arithmetic.
#include <algorithm>

#include "check.h"
#include "token_logits.cuh"
#include "token_phases.cuh"

namespace dw {
namespace {

__device__ inline void clear_sums(uint64_t *sums, int num) {
#pragma unroll 1
    for (int i = blockIdx.x * kTokenThreads + thread_again(); i < num; i += gridDim.x * kTokenThreads) {
        sums[sum_at(i)] = 0;
    }
}

// The block's items: (head, part) number blockIdx.x, and every gridDim.x after.
__device__ inline void list_items(const TokenRun &r, TokenShared &s) {
    const int num = (r.heads * r.parts - static_cast<int>(blockIdx.x) + gridDim.x - 1) / gridDim.x;
    if (threadIdx.x < num) {
        const int number = blockIdx.x + threadIdx.x * gridDim.x, part = number / r.heads;
        auto range = [&](int whole, int &first, int &count) {
            first = part_start(whole, part, r.parts);
            count = part_start(whole, part + 1, r.parts) - first;
        };
        Item item;
        item.head = number % r.heads;
        item.part = part;
        range(3 * kHead, item.qkv_first, item.qkv_num);
        range(r.width, item.row_first, item.row_num);
        range(r.num_keys, item.key_first, item.key_num);
        s.items[threadIdx.x] = item;
    }
    if (threadIdx.x == 0) {
        s.num_items = num;
    }
}

// All layers for one token in s.x; the last layer norm is in s.split afterwards. sums: [layers, 3, width],
// zero before. Uses a tag a layer.
template <dw_type kType>
__device__ inline void run_layers(const TokenRun &r, TokenShared &s, TokenStage<kType> &stage,
                                  int position, uint64_t *sums, uint32_t tag) {
    TokenPhases<kType> phases(r, s, stage);
    normalise(s, r.width, nullptr, 0, nullptr, stage.layers[0].attn_norm,
              [&] { stage.await_copies(kQkv); });
#pragma unroll 1
    for (int layer = 0; layer < r.num_layers; layer++, tag++) {
        const LayerWeights &w = stage.layers[layer];
        const bool is_last = layer + 1 == r.num_layers;
        const int next = is_last ? 0 : layer + 1;
        const PagedKv kv = r.caches.layer(layer);
#pragma unroll 1
        for (int kind = 0; kind < 3; kind++, sums += sum_at(r.width)) {
            if (kind == 0) {
#pragma unroll 1
                for (int i = 0; i < s.num_items; i++) {
                    phases.project_qkv(w.qkv, kv, position, s.items[i], tag);
                    workers_sync(); // all are done with the weights and s.partials
                }
                stage.release(kQkv);
            } else if (kind == 1) {
#pragma unroll 1
                for (int i = 0; i < s.num_items; i++) {
                    phases.attend_audio(w.cross_query, layer, s.items[i], tag);
                    workers_sync();
                }
                stage.release(kCross);
            } else {
                phases.run_mlp(w, sums);
                workers_sync();
                stage.release(kMlp);
            }
#pragma unroll 1
            for (int i = 0; kind < 2 && i < s.num_items; i++) {
                const Item &item = s.items[i];
                if (kind == 0) {
                    phases.attend_tokens(kv, position, item.head, tag);
                } else {
                    phases.merge_parts(item.head, tag);
                }
                phases.project_out(kind == 0 ? w.out : w.cross_out,
                                   kind == 0 ? r.stage.out : r.stage.cross_out, sums, item);
                workers_sync();
            }
            if (kind == 0) {
                stage.release(kOut);
            } else if (kind == 1) {
                stage.release(kCrossOut);
            } else {
                stage.parity ^= 1;
            }
            const bool is_end = is_last && kind == 2;
            const Norm norm = kind == 0   ? w.cross_norm
                              : kind == 1 ? w.mlp_norm
                              : is_end    ? r.text_norm
                                          : stage.layers[next].attn_norm;
            const float *bias = kind == 0 ? w.out.bias : kind == 1 ? w.cross_out.bias : w.mlp_out.bias;
            normalise(s, r.width, sums,
                      kind == 2 ? static_cast<int>(gridDim.x) : r.heads, bias, norm,
                      [&] { stage.await_copies(kind == 0 ? kCross : kind == 1 ? kMlp : kQkv); });
        }
    }
}

// kType: of the layers' matrices; kEmbedding: of embedding and output projection.
template <dw_type kType, dw_type kEmbedding>
__global__ void __launch_bounds__(kLaunchThreads, 1)
    token_kernel(const __grid_constant__ TokenRun r) {
    extern __shared__ __align__(128) char dynamic_shared[];
    TokenShared &s = *reinterpret_cast<TokenShared *>(dynamic_shared);
    LayerWeights *layers = reinterpret_cast<LayerWeights *>(dynamic_shared + sizeof(TokenShared));
    const int layer_words = r.num_layers * static_cast<int>(sizeof(LayerWeights) / 8);
#pragma unroll 1
    for (int i = threadIdx.x; i < layer_words; i += kLaunchThreads) {
        reinterpret_cast<uint64_t *>(layers)[i] = reinterpret_cast<const uint64_t *>(r.layers)[i];
    }
    if (threadIdx.x < kMaxBlocks) {
        s.table[threadIdx.x] = r.table[threadIdx.x];
    }
    list_items(r, s);
    if (threadIdx.x == 0) {
        s.is_done = 0;
        s.hidden_first = TokenStage<kType>::hidden_start(r, blockIdx.x);
        s.hidden_num = TokenStage<kType>::hidden_start(r, blockIdx.x + 1) - s.hidden_first;
        for (int phase = 0; phase < kPhases; phase++) {
            make_barrier(&s.copied[phase], 32);
            make_barrier(&s.used[phase], kTokenThreads);
        }
    }
    __syncthreads();
    TokenStage<kType> stage(r, s, layers,
                            dynamic_shared + sizeof(TokenShared) +
                                r.num_layers * sizeof(LayerWeights));
    if (threadIdx.x >= kTokenThreads) {
        stage.copy_all();
        return;
    }

    const int num_sums = r.num_layers * 3 * r.width;
#pragma unroll 1
    for (int step = 0;; step++) {
        const uint32_t tag = r.tag + step * r.num_layers;
        load_embedding<kEmbedding>(r, s.x, step < r.num_inputs ? r.inputs[step] : s.token,
                                   r.position + step);
        clear_sums(r.sums + sum_at((step + 1) % 2 * num_sums), num_sums); // the step before used them
        run_layers<kType>(r, s, stage, r.position + step, r.sums + sum_at(step % 2 * num_sums), tag);
        const bool is_answer = end_step(r, s, step, tag, [&](int forbidden) {
            return make_logits<kEmbedding>(r, s, forbidden);
        });
        if (is_answer && (answers_after(r, step) == r.num_new || s.token == r.eot)) {
            break;
        }
    }
    clear_sums(r.sums, 2 * num_sums);
    stage.end();
}

} // namespace

TokenKernel::TokenKernel(const dw_dimensions &dims, const dw_options &options, const Model &model,
                         int device, Arena &scratch)
    : dims_(dims), options_(options), layer_type_(static_cast<dw_type>(options.layer_type)),
      embedding_type_(static_cast<dw_type>(options.embedding_type)), model_(model),
      scratch_(scratch), clusters_(plan_clusters(dims, options, device)) {
    if (clusters_.kernel != nullptr) {
        blocks_ = clusters_.blocks;
    } else {
        choose_grid(device);
    }
    layers_ = scratch.take(dims.n_text_layer * static_cast<int64_t>(sizeof(LayerWeights)));
    const bool is_portable = clusters_.kernel == nullptr; // what only token_kernel() uses
    qkv_ = scratch.take(is_portable ? 3ll * dims.n_text_state * 8 : 0);
    mixed_ = scratch.take(int64_t{dims.n_text_head} * parts_ * kMixedFloats * 8);
    sums_ = scratch.take(
        is_portable ? 2ll * dims.n_text_layer * 3 * dims.n_text_state * kSumStride * 8 : 0);
    slices_ = scratch.take(3ll * dims.n_text_head * dims.n_text_state * 8);
    folded_ = scratch.take(clusters_.folded_floats * 4);
    choices_ = scratch.take(2 * blocks_ * 8ll);
    logit_parts_ = scratch.take(blocks_ * 4 * 8ll);
}

const void *TokenKernel::kernel() const {
    if (layer_type_ == DW_FP16) {
        return reinterpret_cast<const void *>(token_kernel<DW_FP16, DW_FP16>);
    }
    if (layer_type_ == DW_INT8) {
        return reinterpret_cast<const void *>(token_kernel<DW_INT8, DW_INT8>);
    }
    return embedding_type_ == DW_INT8
               ? reinterpret_cast<const void *>(token_kernel<DW_INT4, DW_INT8>)
               : reinterpret_cast<const void *>(token_kernel<DW_INT4, DW_INT4>);
}

// One block a multiprocessor. A head's work is cut into parts so that all blocks have the same.
void TokenKernel::choose_grid(int device) {
    int processors, room;
    DW_CUDA(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    DW_CUDA(cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    if (options_.multiprocessors > 0) {
        processors = std::min(processors, options_.multiprocessors);
        room = std::min(room, kOrinBlockShared);
    }
    const int heads = dims_.n_text_head;
    processors = std::min(processors, kMaxAdditions); // each adds once to the MLP's sums
    if (processors >= heads) {
        parts_ = std::min(processors / heads, kMaxParts);
        blocks_ = parts_ * heads;
    } else {
        // Fewer blocks than heads: as many parts as make the rounds come out evenly.
        double best = 1e9;
        blocks_ = processors;
        for (int parts = 1; parts <= 8; parts++) {
            const int rounds = (heads * parts + blocks_ - 1) / blocks_;
            if (rounds > kMaxItems) {
                break;
            }
            const double cost = static_cast<double>(rounds) / parts + 0.02 * parts;
            if (cost < best) {
                best = cost;
                parts_ = parts;
            }
        }
    }
    plan_stage(room);
    DW_CUDA(cudaFuncSetAttribute(kernel(), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 shared_bytes_));
    int at_once = 0;
    DW_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&at_once, kernel(), kLaunchThreads,
                                                          shared_bytes_));
    if (at_once < 1) {
        fail(DW_UNSUPPORTED_DIMENSIONS,
             "n_text_layer %d and n_text_state %d need %d bytes of shared memory: this GPU has less",
             dims_.n_text_layer, dims_.n_text_state, shared_bytes_);
    }
}

// Room in shared memory goes first to what is used in every phase, then to the larger parts.
void TokenKernel::plan_stage(int room) {
    const int width = dims_.n_text_state, heads = dims_.n_text_head;
    const int fixed = static_cast<int>(sizeof(TokenShared)) +
                      dims_.n_text_layer * static_cast<int>(sizeof(LayerWeights));
    shared_bytes_ = fixed;
    stage_ = {-1, -1, -1, -1, -1, -1, -1};
    if (heads * parts_ > blocks_) {
        return; // a block has several items: its next weights are not known by phase alone
    }
    auto largest = [](int whole, int parts) { return (whole + parts - 1) / parts; };
    const int row = static_cast<int>(matrix_bytes(layer_type_, width));
    const int head_row = static_cast<int>(matrix_bytes(layer_type_, kHead));
    const int columns = 16 * kHead / head_row;
    const int hidden = largest(4 * width / columns, blocks_) * columns;
    const std::pair<int *, int> wanted[] = {
        {&stage_.qkv, largest(3 * kHead, parts_) * row},
        {&stage_.out, largest(width, parts_) * head_row},
        {&stage_.cross_out, largest(width, parts_) * head_row},
        {&stage_.mlp_in, hidden * row},
        {&stage_.mlp_out, hidden / columns * 16 * width},
        {&stage_.cross_keys, largest(dims_.n_audio_ctx, parts_) * 2 * kHead * 2},
        {&stage_.cross_query, kHead * row},
    };
    for (const auto &[offset, bytes] : wanted) {
        if (shared_bytes_ + bytes <= room) {
            *offset = shared_bytes_ - fixed;
            shared_bytes_ += bytes;
        }
    }
}

void TokenKernel::finish(cudaStream_t stream) {
    DW_CUDA(cudaMemcpyAsync(scratch_.at(layers_), model_.decoder.data(),
                            model_.decoder.size() * sizeof(LayerWeights), cudaMemcpyHostToDevice,
                            stream));
    if (clusters_.kernel != nullptr) {
        fold_norms(clusters_, dims_, scratch_.at<LayerWeights>(layers_), scratch_.at<float>(folded_),
                   stream);
    }
}

void TokenKernel::launch(TokenRun run, cudaStream_t stream) {
    run.layers = scratch_.at<LayerWeights>(layers_);
    run.num_layers = dims_.n_text_layer;
    run.width = dims_.n_text_state;
    run.heads = dims_.n_text_head;
    run.n_vocab = dims_.n_vocab;
    run.num_keys = dims_.n_audio_ctx;
    run.text_norm = model_.text_norm;
    run.embedding = model_.embedding;
    run.positional = model_.text_positional;
    run.eot = options_.eot;
    run.no_speech = options_.no_speech;
    run.parts = parts_;
    run.stage = stage_;
    run.qkv = scratch_.at<uint64_t>(qkv_);
    run.mixed = scratch_.at<uint64_t>(mixed_);
    run.sums = scratch_.at<uint64_t>(sums_);
    run.choices = scratch_.at<uint64_t>(choices_);
    run.logit_parts = scratch_.at<uint64_t>(logit_parts_);
    run.launch = num_launches_++;
    run.tag = next_tag_;
    next_tag_ += (kMaxRunInputs + kMaxChunk) * dims_.n_text_layer;
    if (clusters_.kernel != nullptr) {
        run.slices = scratch_.at<uint64_t>(slices_);
        run.folded = scratch_.at<float>(folded_);
        run.kept = clusters_.kept;
        run.ring_bytes = clusters_.ring_bytes;
        launch_clusters(clusters_, run, stream);
        return;
    }
    void *arguments[] = {&run};
    DW_CUDA(cudaLaunchCooperativeKernel(kernel(), dim3(blocks_), dim3(kLaunchThreads), arguments,
                                        shared_bytes_, stream));
}

} // namespace dw
