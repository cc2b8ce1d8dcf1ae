// The decoder over rows, tokens of any sequences in one pass: prompts, drafts and batches.
#pragma once

#include "launch.h"
#include "memory.h"
#include "model.h"

namespace dw {

// Where keys and values are, of the encoded audio and of the tokens so far.
struct Caches {
    __half *audio;       // half [slots, layers, 2, heads, n_audio_ctx, 64]
    int64_t slot_size;   // halves of one utterance
    __half *pool;        // half [layers, 2, blocks, block_tokens, width]
    int64_t layer_size;  // halves of one layer's keys
    int block_tokens;

    __host__ __device__ PagedKv layer(int index) const {
        __half *keys = pool + 2 * index * layer_size;
        return {keys, keys + layer_size, block_tokens};
    }
};

class DecoderRows {
  public:
    DecoderRows(const dw_dimensions &dims, const dw_options &options, const Model &model,
                int max_rows, int table_width, Arena &scratch);

    // Rows as Rows describes them, in one piece of host memory: see input_ints().
    void run(const int32_t *host_rows, int num, const Caches &caches, const uint8_t *mask,
             cudaStream_t stream);

    // Ints of `num` rows: tokens, positions, audio, is_first [num] each, then tables
    // [num, table_width].
    int input_ints(int num) const { return num * (4 + table_width_); }
    const DeviceAnswer *answers() const { return scratch_.at<DeviceAnswer>(answers_); }
    const float *logits() const { return scratch_.at<float>(logits_); }

  private:
    const dw_dimensions dims_;
    const dw_type layer_type_, embedding_type_;
    const int no_speech_;
    const bool only_portable_;
    const Model &model_;
    const Arena &scratch_;
    const int table_width_;
    int64_t ints_, x_, normed_, query_, hidden_, logits_, answers_; // places in scratch
};

} // namespace dw
