// An engine: a backend with its tensors, its pool of blocks and its places for audio.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "backend.h"
#include "block_pool.h"

struct dw_engine {
    dw_engine(const dw_dimensions &dims, const dw_options &options);

    void add_tensor(const char *name, dw_type type, const std::vector<int64_t> &shape,
                    const void *data, int64_t num_bytes);
    void finish();
    void encode(const float *mels, int num, dw_audio **audios, float *features);
    void release(dw_audio *audio);

    // The sequence keeps what it has when there are not enough blocks: DW_OUT_OF_BLOCKS.
    void reserve(dw_sequence &sequence, int num_tokens);
    void truncate(dw_sequence &sequence, int num_tokens);
    // Any number of rows, in groups that the backend takes.
    void forward(const std::vector<dw::Row> &rows, dw::Answer *answers, float *logits);

    dw_dimensions dims;
    dw_options options; // its lists point to the two vectors below
    std::vector<int32_t> suppress, suppress_first;
    std::vector<dw::TensorSpec> tensors;
    std::vector<std::string> wanted;
    std::unordered_map<std::string, int> tensor_index; // of wanted tensors not given yet
    bool is_ready = false;
    dw::BlockPool pool;
    std::vector<int> free_audios;
    std::unique_ptr<dw::Backend> backend;
    double token_ms = 2; // what a token took last; before the first a guess
};

namespace dw {

// An open sequence that gives its blocks back when it goes, however that happens.
class OpenSequence {
  public:
    OpenSequence(dw_engine &engine, dw_audio *audio) : sequence_{&engine, audio, {}, 0, {}} {}
    ~OpenSequence() { sequence_.engine->truncate(sequence_, 0); }
    OpenSequence(const OpenSequence &) = delete;
    OpenSequence &operator=(const OpenSequence &) = delete;
    dw_sequence &operator*() { return sequence_; }
    dw_sequence *operator->() { return &sequence_; }

  private:
    dw_sequence sequence_;
};

} // namespace dw
