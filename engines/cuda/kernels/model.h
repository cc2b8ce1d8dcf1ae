// The weights of a model on the GPU, by their place in the network.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "../host/tensors.h"
#include "memory.h"
#include "weights.cuh"

namespace dw {

struct Norm {
    const float *weight, *bias;
};

struct LayerWeights {
    Norm attn_norm, cross_norm, mlp_norm; // cross_*: of the decoder's layers only
    Matrix qkv, out;                      // query, key and value: [3 * width, width]
    Matrix cross_query, cross_out;
    Matrix mlp_in, mlp_out;
};

class Model {
  public:
    Model(const dw_dimensions &dims, const dw_options &options,
          const std::vector<TensorSpec> &tensors);

    void set_tensor(int index, const void *data);
    int64_t num_bytes() const { return arena_.size(); }

    Matrix conv1, conv2; // [width, 3, channels]
    const float *audio_positional, *text_positional;
    std::vector<LayerWeights> encoder, decoder;
    Norm audio_norm, text_norm;
    Matrix cross_kv; // keys and values of all layers: [2 * layers * width, width]
    Matrix embedding;

  private:
    template <class T> const T *at(const std::string &name) const;
    Norm norm(const std::string &name) const;
    Matrix matrix(const std::string &name, const std::string &bias) const;
    LayerWeights layer(const std::string &name, bool has_cross) const;

    std::vector<TensorSpec> tensors_;
    std::unordered_map<std::string, int64_t> places_;
    Arena arena_;
};

} // namespace dw
