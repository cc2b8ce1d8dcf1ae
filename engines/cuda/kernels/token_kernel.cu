// The decoder for one sequence: whole tokens in one persistent kernel.
//
// At batch one a token is about reading every weight once, so one launch takes up to eight tokens
// through all layers, with all multiprocessors in step. A layer has five phases; work is split so
// that a phase needs little of what other blocks made: attention heads are shared by `parts`
// blocks each, which wait for their head only, and whatever adds to the residual stream does so
// with atomic additions in fixed point (token_sync.cuh). The residual stream itself is kept in
// every block's shared memory. While blocks wait, the weights of the same phase of the next layer
// are already being copied into shared memory, as far as there is room.
//
// Bytes a token: all weights of the decoder and the embedding once, keys and values once.
// Reference: run_token in ../reference/reference_backend.cpp, one step of the same arithmetic.
#include <algorithm>

#include "check.h"
#include "token_choice.cuh"
#include "token_phases.cuh"

namespace dw {
namespace {

template <dw_type kType>
__device__ inline void load_embedding(const TokenRun &r, TokenShared &s, int64_t token,
                                      int64_t position) {
    constexpr int kColumns = Packed<kType>::kColumns;
    const char *data = static_cast<const char *>(r.embedding.data);
    for (int piece = threadIdx.x; piece < r.width / kColumns; piece += kTokenThreads) {
        float values[kColumns];
        Packed<kType>::widen(values,
                             load_weights(data + (token * (r.width / kColumns) + piece) * 16));
        const float scale = scale_at<kType>(r.embedding, token, r.width, piece * kColumns);
        for (int i = 0; i < kColumns; i++) {
            const int column = piece * kColumns + i;
            s.x[column] = values[i] * scale + __ldg(r.positional + position * r.width + column);
        }
    }
    __syncthreads();
}

__device__ inline void clear_sums(unsigned long long *sums, int num) {
    for (int i = blockIdx.x * kTokenThreads + threadIdx.x; i < num; i += gridDim.x * kTokenThreads) {
        sums[i] = 0;
    }
}

// kType: of the layers' matrices; kEmbedding: of embedding and output projection.
template <dw_type kType, dw_type kEmbedding>
__global__ void __launch_bounds__(kTokenThreads, 1) token_kernel(const __grid_constant__ TokenRun r) {
    extern __shared__ __align__(128) char dynamic_shared[];
    TokenShared &s = *reinterpret_cast<TokenShared *>(dynamic_shared);
    LayerWeights *layers = reinterpret_cast<LayerWeights *>(dynamic_shared + sizeof(TokenShared));
    const int layer_words = r.num_layers * static_cast<int>(sizeof(LayerWeights) / 8);
    for (int i = threadIdx.x; i < layer_words; i += kTokenThreads) {
        reinterpret_cast<uint64_t *>(layers)[i] = reinterpret_cast<const uint64_t *>(r.layers)[i];
    }
    __syncthreads();
    TokenBlock<kType> block(r, s, layers,
                            dynamic_shared + sizeof(TokenShared) +
                                r.num_layers * sizeof(LayerWeights));
    block.stage_first();

    const int num_sums = r.num_layers * 3 * r.width;
    int token = r.inputs[0], num_new = 0;
    for (int step = 0;; step++) {
        unsigned long long *sums = r.sums + (step % 2) * num_sums;
        load_embedding<kEmbedding>(r, s, token, r.position + step);
        clear_sums(r.sums + (step + 1) % 2 * num_sums, num_sums);
        for (int layer = 0; layer < r.num_layers; layer++) {
            const unsigned long long *last =
                layer ? sums + (layer * 3ll - 1) * r.width : nullptr;
            if (layer == 0) {
                wait_copies<4>();
                __syncthreads();
            }
            block.run_layer(layer, r.position + step, sums, last);
        }
        const bool is_answer = step >= r.num_inputs - 1;
        if (is_answer || step == r.sot_index) {
            normalise<Packed<kEmbedding>::kColumns>(s, r.width, sums + num_sums - r.width,
                                                    r.text_norm);
            const bool is_first = r.is_first && step == r.num_inputs - 1;
            make_logits<kEmbedding>(r, s, is_first ? 3 : 1);
        }
        block.arrive_all();
        block.await_all();
        if (is_answer || step == r.sot_index) {
            merge_choice(r, s);
            if (step == r.sot_index && blockIdx.x == 0 && threadIdx.x == 0) {
                r.answers->no_speech_prob =
                    relative(s.choice.no_speech, s.choice.high) / s.choice.whole_sum;
            }
        }
        if (!is_answer) {
            token = r.inputs[step + 1];
            continue;
        }
        token = s.choice.token;
        if (blockIdx.x == 0 && threadIdx.x == 0) {
            r.answers->tokens[num_new] = token;
            r.answers->logprobs[num_new] = -logf(s.choice.allowed_sum);
            r.answers->num = num_new + 1;
        }
        num_new++;
        if (num_new == r.num_new || token == r.eot) {
            clear_sums(sums, num_sums);
            break;
        }
    }
    wait_copies<0>();
    __syncthreads();
    if (threadIdx.x == 0 && atomicAdd(r.counters + 1, 1u) == gridDim.x - 1) {
        for (int i = 0; i < 2 + r.heads; i++) { // no block waits any more
            r.counters[i] = 0;
        }
    }
}

} // namespace

TokenKernel::TokenKernel(const dw_dimensions &dims, const dw_options &options, const Model &model,
                         int device, Arena &scratch)
    : dims_(dims), options_(options), layer_type_(static_cast<dw_type>(options.layer_type)),
      embedding_type_(static_cast<dw_type>(options.embedding_type)), model_(model),
      scratch_(scratch) {
    choose_grid(device);
    layers_ = scratch.take(dims.n_text_layer * static_cast<int64_t>(sizeof(LayerWeights)));
    query_ = scratch.take(int64_t{dims.n_text_state} * 4);
    mixed_ = scratch.take(int64_t{dims.n_text_head} * parts_ * kMixedFloats * 4);
    sums_ = scratch.take(2ll * dims.n_text_layer * 3 * dims.n_text_state * 8);
    logit_parts_ = scratch.take(blocks_ * static_cast<int64_t>(sizeof(LogitPart)));
    counters_ = scratch.take((2 + dims.n_text_head) * 4ll);
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
    const int heads = dims_.n_text_head;
    if (processors >= heads) {
        parts_ = processors / heads;
        blocks_ = parts_ * heads;
    } else {
        // Fewer blocks than heads: as many parts as make the rounds come out evenly.
        double best = 1e9;
        blocks_ = processors;
        for (int parts = 1; parts <= 8; parts++) {
            const int rounds = (heads * parts + blocks_ - 1) / blocks_;
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
    DW_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&at_once, kernel(), kTokenThreads,
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
    run.query = scratch_.at<float>(query_);
    run.mixed = scratch_.at<float>(mixed_);
    run.sums = scratch_.at<unsigned long long>(sums_);
    run.logit_parts = scratch_.at<LogitPart>(logit_parts_);
    run.counters = scratch_.at<unsigned>(counters_);
    void *arguments[] = {&run};
    DW_CUDA(cudaLaunchCooperativeKernel(kernel(), dim3(blocks_), dim3(kTokenThreads), arguments,
                                        shared_bytes_, stream));
}

} // namespace dw
