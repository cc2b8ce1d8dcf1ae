// Mel in, cross-attention keys and values out: the encoder's kernels in their order.
#pragma once

#include "launch.h"
#include "memory.h"
#include "model.h"

namespace dw {

class Encoder {
  public:
    // Takes its buffers from `scratch`, which is allocated afterwards.
    Encoder(const dw_dimensions &dims, const dw_options &options, const Model &model,
            Arena &scratch);
    ~Encoder();

    // Record the launches for one utterance, so that they cost the host one call.
    void capture(__half *audio, int64_t slot_size, cudaStream_t stream);

    // mel() [batch, n_mels, 2 * n_audio_ctx] and slots() [batch] are filled; the keys and values
    // go to audio + slot * slot_size. With features, those of the batch stay in features().
    void run(int batch, __half *audio, int64_t slot_size, bool with_features, cudaStream_t stream);

    float *mel() const { return scratch_.at<float>(mel_); }
    int32_t *slots() const { return scratch_.at<int32_t>(slots_); }
    float *features() const { return scratch_.at<float>(x_); }

  private:
    void launch(int batch, __half *audio, int64_t slot_size, bool with_features,
                cudaStream_t stream);
    void run_layer(const LayerWeights &w, int rows, int batch, cudaStream_t stream);

    const dw_dimensions dims_;
    const bool only_portable_;
    const Model &model_;
    const Arena &scratch_;
    int64_t mel_, slots_, turned_, x_, normed_, wide_; // places in scratch
    cudaGraph_t graph_ = nullptr;
    cudaGraphExec_t graph_exec_ = nullptr;
};

} // namespace dw
