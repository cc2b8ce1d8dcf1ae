#include "encoder.h"

#include <algorithm>

namespace dw {

Encoder::Encoder(const dw_dimensions &dims, const dw_options &options, const Model &model,
                 Arena &scratch)
    : dims_(dims), only_portable_(options.only_portable), model_(model), scratch_(scratch) {
    const int64_t frames = 2ll * dims.n_audio_ctx, width = dims.n_audio_state;
    const int64_t batch = options.encode_batch;
    mel_ = scratch.take(batch * dims.n_mels * frames * 4);
    slots_ = scratch.take(batch * 4);
    turned_ = scratch.take(batch * (frames + 2) * dims.n_mels * 2);
    x_ = scratch.take(batch * dims.n_audio_ctx * width * 4);
    normed_ = scratch.take(batch * dims.n_audio_ctx * width * 2);
    // The first convolution's output, then queries, keys and values, then the hidden layer.
    wide_ = scratch.take(batch * std::max<int64_t>(frames + 2, 4ll * dims.n_audio_ctx) * width * 2);
}

Encoder::~Encoder() {
    cudaGraphExecDestroy(graph_exec_);
    cudaGraphDestroy(graph_);
}

void Encoder::capture(__half *audio, int64_t slot_size, cudaStream_t stream) {
    DW_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    launch(1, audio, slot_size, false, stream);
    DW_CUDA(cudaStreamEndCapture(stream, &graph_));
    DW_CUDA(cudaGraphInstantiate(&graph_exec_, graph_, 0));
    DW_CUDA(cudaGraphUpload(graph_exec_, stream));
}

void Encoder::run(int batch, __half *audio, int64_t slot_size, bool with_features,
                  cudaStream_t stream) {
    if (batch == 1 && !with_features) {
        DW_CUDA(cudaGraphLaunch(graph_exec_, stream));
    } else {
        launch(batch, audio, slot_size, with_features, stream);
    }
}

void Encoder::launch(int batch, __half *audio, int64_t slot_size, bool with_features,
                     cudaStream_t stream) {
    const int positions = dims_.n_audio_ctx, frames = 2 * positions, width = dims_.n_audio_state;
    __half *turned = scratch_.at<__half>(turned_), *wide = scratch_.at<__half>(wide_);
    __half *normed = scratch_.at<__half>(normed_);
    float *x = scratch_.at<float>(x_);
    turn_mel(turned, mel(), batch, dims_.n_mels, frames, only_portable_, stream);
    clear_padding(turned, batch, frames + 2, dims_.n_mels, only_portable_, stream);
    clear_padding(wide, batch, frames + 2, width, only_portable_, stream);

    Product conv;
    conv.a = turned;
    conv.weight = model_.conv1;
    conv.out = wide + width; // after the padding
    conv.m = frames, conv.n = width, conv.k = 3 * dims_.n_mels;
    conv.a_stride = dims_.n_mels, conv.out_stride = width;
    conv.batch = batch;
    conv.a_batch_stride = (frames + 2ll) * dims_.n_mels;
    conv.out_batch_stride = (frames + 2ll) * width;
    conv.epilogue = Epilogue::kHalfGelu;
    conv.only_portable = only_portable_;
    multiply(conv, DW_FP16, stream);

    conv.a = wide;
    conv.weight = model_.conv2;
    conv.out = x;
    conv.m = positions, conv.k = 3 * width;
    conv.a_stride = 2ll * width;
    conv.a_batch_stride = (frames + 2ll) * width;
    conv.out_batch_stride = int64_t{positions} * width;
    conv.epilogue = Epilogue::kGeluPosition;
    conv.positions = model_.audio_positional;
    multiply(conv, DW_FP16, stream);

    for (const LayerWeights &layer : model_.encoder) {
        run_layer(layer, batch * positions, batch, stream);
    }
    layer_norm(normed, with_features ? x : nullptr, x, model_.audio_norm.weight,
               model_.audio_norm.bias, batch * positions, width, only_portable_, stream);

    Product cross;
    cross.a = normed;
    cross.weight = model_.cross_kv;
    cross.out = audio;
    cross.m = positions, cross.n = 2 * dims_.n_text_layer * width, cross.k = width;
    cross.a_stride = width;
    cross.batch = batch;
    cross.a_batch_stride = int64_t{positions} * width;
    cross.out_batch_stride = slot_size;
    cross.epilogue = Epilogue::kCrossKv;
    cross.slots = slots();
    cross.only_portable = only_portable_;
    multiply(cross, DW_FP16, stream);
}

void Encoder::run_layer(const LayerWeights &w, int rows, int batch, cudaStream_t stream) {
    const int width = dims_.n_audio_state;
    __half *wide = scratch_.at<__half>(wide_), *normed = scratch_.at<__half>(normed_);
    float *x = scratch_.at<float>(x_);
    auto product = [&](const __half *a, const Matrix &weight, void *out, int n, int k,
                       Epilogue epilogue) {
        Product p;
        p.a = a, p.weight = weight, p.out = out;
        p.m = rows, p.n = n, p.k = k;
        p.a_stride = k, p.out_stride = n;
        p.epilogue = epilogue;
        p.only_portable = only_portable_;
        multiply(p, DW_FP16, stream);
    };
    layer_norm(normed, nullptr, x, w.attn_norm.weight, w.attn_norm.bias, rows, width,
               only_portable_, stream);
    product(normed, w.qkv, wide, 3 * width, width, Epilogue::kHalf);
    encoder_attention(normed, wide, batch, dims_.n_audio_ctx, dims_.n_audio_head, only_portable_,
                      stream);
    product(normed, w.out, x, width, width, Epilogue::kAddFloat);
    layer_norm(normed, nullptr, x, w.mlp_norm.weight, w.mlp_norm.bias, rows, width,
               only_portable_, stream);
    product(normed, w.mlp_in, wide, 4 * width, width, Epilogue::kHalfGelu);
    product(wide, w.mlp_out, x, width, 4 * width, Epilogue::kAddFloat);
}

} // namespace dw
