// One launch of the token kernel: some tokens of one sequence without the host in between.
#pragma once

#include "cluster_kernel.h"
#include "decoder_rows.h"

namespace dw {

constexpr int kMaxBlocks = 56;   // in a block table: 448 positions of 8
constexpr int kMaxChunk = 32;    // tokens of one launch: kMaxChunkTokens of host/backend.h
constexpr int kMaxRunInputs = 4; // kMaxInputs of host/backend.h

struct TokenAnswers { // in memory of the host
    int32_t num;
    float no_speech_prob;
    int32_t tokens[kMaxChunk];
    float logprobs[kMaxChunk];
};

// What a block found among its part of the vocabulary.
struct LogitPart {
    float best, allowed_sum; // largest allowed logit, and sum of exp(logit - best) of the allowed
    float high, whole_sum;   // the same over all tokens
    float no_speech;         // its logit, or kNoLogit
    int32_t token;           // of `best`
};

// Where the next layer's weights wait in shared memory; offsets in bytes, -1 if they do not fit.
struct StagePlan {
    int qkv, out, cross_query, cross_keys, cross_out, mlp_in, mlp_out;
};

struct TokenRun {
    // the model
    const LayerWeights *layers;
    int num_layers, width, heads, n_vocab, num_keys;
    Norm text_norm;
    Matrix embedding;
    const float *positional;
    const uint8_t *mask; // [n_vocab], as in choose()
    int eot, no_speech;
    // the sequence
    const __half *audio; // of its slot
    Caches caches;
    int32_t table[kMaxBlocks];
    int32_t inputs[kMaxRunInputs];
    int num_inputs, position, is_first, sot_index, num_new;
    // how the work is split: items are (head, part), each done by one block
    int parts;
    StagePlan stage;
    // memory that blocks share, see token_sync.cuh
    uint32_t tag;          // of the first exchange; no launch before had this or a later one
    uint32_t launch;       // how many there were before
    uint64_t *qkv;         // [heads, 3, 64]
    uint64_t *mixed;       // [heads, parts, kMixedFloats]
    uint64_t *sums;        // counted: [2, layers, 3, width]; zero before and after
    uint64_t *choices;     // [2, blocks]: best logit and its token, see token_choice.cuh
    uint64_t *logit_parts; // [blocks, 4]
    TokenAnswers *answers;
    // of the cluster kernel alone
    uint64_t *slices;    // [3, 8, heads, width / 8]
    const float *folded; // see cluster_fold.cuh
    int ring_bytes;
    KeptEmbedding kept;
};

// Whole tokens of one sequence in one launch: by token_kernel.cu, or where a GPU has clusters and the
// model's sizes suit them by cluster_kernel.cu.
class TokenKernel {
  public:
    TokenKernel(const dw_dimensions &dims, const dw_options &options, const Model &model,
                int device, Arena &scratch);
    void finish(cudaStream_t stream); // after scratch is allocated
    // Fills in what belongs to the engine and launches.
    void launch(TokenRun run, cudaStream_t stream);

  private:
    void choose_grid(int device);
    void plan_stage(int room);
    const void *kernel() const;

    const dw_dimensions dims_;
    const dw_options options_;
    const dw_type layer_type_, embedding_type_;
    const Model &model_;
    const Arena &scratch_;
    int blocks_ = 0, parts_ = 0, shared_bytes_ = 0;
    StagePlan stage_{};
    uint32_t next_tag_ = 1, num_launches_ = 0;
    const ClusterPlan clusters_;
    int64_t layers_, qkv_, mixed_, sums_, slices_, folded_, choices_, logit_parts_; // places in scratch
};

} // namespace dw
