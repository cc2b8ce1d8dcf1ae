#include "model.h"

#include <cstring>

namespace dw {

Model::Model(const dw_dimensions &dims, const dw_options &, const std::vector<TensorSpec> &tensors)
    : tensors_(tensors) {
    for (const TensorSpec &spec : tensors_) {
        places_[spec.name] = arena_.take(spec.num_bytes());
    }
    arena_.allocate(); // zeros, which the biases of keys stay
    conv1 = matrix("encoder.conv1.weight", "encoder.conv1.bias");
    conv2 = matrix("encoder.conv2.weight", "encoder.conv2.bias");
    audio_positional = at<float>("encoder.positional_embedding");
    text_positional = at<float>("decoder.positional_embedding");
    for (int i = 0; i < dims.n_audio_layer; i++) {
        encoder.push_back(layer("encoder.blocks." + std::to_string(i), false));
    }
    for (int i = 0; i < dims.n_text_layer; i++) {
        decoder.push_back(layer("decoder.blocks." + std::to_string(i), true));
    }
    audio_norm = norm("encoder.ln_post");
    text_norm = norm("decoder.ln");
    cross_kv = matrix("decoder.blocks.0.cross_attn.key.weight",
                      "decoder.blocks.0.cross_attn.key.bias");
    embedding = matrix("decoder.token_embedding.weight", "");
}

template <class T> const T *Model::at(const std::string &name) const {
    return arena_.at<const T>(places_.at(name));
}

Norm Model::norm(const std::string &name) const {
    return {at<float>(name + ".weight"), at<float>(name + ".bias")};
}

Matrix Model::matrix(const std::string &name, const std::string &bias) const {
    const bool has_scale = places_.count(name + ".scale") > 0;
    return {at<char>(name), has_scale ? at<char>(name + ".scale") : nullptr,
            bias.empty() ? nullptr : at<float>(bias)};
}

LayerWeights Model::layer(const std::string &name, bool has_cross) const {
    LayerWeights w{};
    auto linear = [&](const std::string &part) {
        return matrix(name + part + ".weight", name + part + ".bias");
    };
    w.attn_norm = norm(name + ".attn_ln");
    w.qkv = linear(".attn.query"); // keys and values follow
    w.out = linear(".attn.out");
    if (has_cross) {
        w.cross_norm = norm(name + ".cross_attn_ln");
        w.cross_query = linear(".cross_attn.query");
        w.cross_out = linear(".cross_attn.out");
    }
    w.mlp_norm = norm(name + ".mlp_ln");
    w.mlp_in = linear(".mlp.0");
    w.mlp_out = linear(".mlp.2");
    return w;
}

void Model::set_tensor(int index, const void *data) {
    const TensorSpec &spec = tensors_[index];
    std::vector<uint16_t> turned;
    if (spec.shape.size() == 3) { // a convolution: (out, channels, 3) -> (out, 3, channels)
        const int64_t channels = spec.shape[1];
        turned.resize(spec.num_elements());
        const auto *from = static_cast<const uint16_t *>(data);
        for (size_t i = 0; i < turned.size(); i++) {
            const int64_t channel = i % channels, tap = i / channels % 3, out = i / channels / 3;
            turned[i] = from[(out * channels + channel) * 3 + tap];
        }
        data = turned.data();
    }
    DW_CUDA(cudaMemcpy(arena_.at(places_.at(spec.name)), data, spec.num_bytes(),
                       cudaMemcpyHostToDevice));
}

} // namespace dw
