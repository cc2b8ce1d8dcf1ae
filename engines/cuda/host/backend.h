// What the greedy loop needs of a processor: the CUDA kernels and the plain reference are backends.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../duplex_whisper.h"
#include "tensors.h"

struct dw_audio {
    dw_engine *engine;
    int slot; // place of its cross-attention keys and values, < max_audios
};

struct dw_sequence {
    dw_engine *engine;
    dw_audio *audio;
    std::vector<int32_t> blocks; // block table: position p is in blocks[p / block_tokens]
    int num_tokens = 0;
    std::vector<float> contiguous; // keys and values of the reference, which knows no blocks
};

namespace dw {

// One token of one sequence; the rows of a sequence come in order of their positions.
struct Row {
    dw_sequence *sequence;
    int32_t token;
    int32_t position;
    bool is_first; // the answer is the first token after the prompt: suppress_first holds too
};

struct Answer {
    int32_t token;        // the most probable allowed token after the row
    float logprob;        // its log-probability among the allowed ones
    float no_speech_prob; // of options.no_speech among all tokens
};

// A short prompt and the tokens after it, or the tokens after the last one, without the host.
struct Generation {
    dw_sequence *sequence;
    std::vector<int32_t> inputs; // tokens at position .. position + inputs.size() - 1
    int32_t position;
    bool is_first;     // as in Row, for the answer after the last input
    int32_t sot_index; // the input whose no_speech_prob is wanted, or -1
    int32_t num_new;   // at most so many tokens; the end token ends it early
};

constexpr int kMaxInputs = 4; // of a Generation: Whisper's longest prompt without text
constexpr int kMaxChunkTokens = 32;

class Backend {
  public:
    virtual ~Backend() = default;

    // data is as TensorSpec::stored says. Called once for each wanted tensor.
    virtual void set_tensor(int index, const void *data) = 0;
    virtual void finish() = 0;

    // mels: float32 [num, n_mels, 2 * n_audio_ctx], num <= encode_batch. features: of the first
    // utterance, float32 [n_audio_ctx, width], or null.
    virtual void encode(const float *mels, const int *slots, int num, float *features) = 0;

    // Run the decoder over rows, at most max_rows(), whose sequences have their blocks. answers
    // and logits (float32 [rows, n_vocab]) may be null.
    virtual void forward(const std::vector<Row> &rows, Answer *answers, float *logits) = 0;
    virtual int max_rows() const = 0;

    // Returns the number of answers; no_speech_prob is written if sot_index is not -1.
    virtual int generate(const Generation &generation, Answer *answers, float *no_speech_prob) = 0;

    virtual void memory(dw_memory_info &info) const = 0;
};

std::unique_ptr<Backend> make_backend(const dw_dimensions &dims, const dw_options &options,
                                      const std::vector<TensorSpec> &tensors);
const char *build_info();

} // namespace dw
