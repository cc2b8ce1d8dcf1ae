#include "decoder_rows.h"

namespace dw {

DecoderRows::DecoderRows(const dw_dimensions &dims, const dw_options &options, const Model &model,
                         int max_rows, int table_width, Arena &scratch)
    : dims_(dims), layer_type_(static_cast<dw_type>(options.layer_type)),
      embedding_type_(static_cast<dw_type>(options.embedding_type)),
      no_speech_(options.no_speech), only_portable_(options.only_portable), model_(model),
      scratch_(scratch), table_width_(table_width) {
    const int64_t rows = max_rows, width = dims.n_text_state;
    ints_ = scratch.take(input_ints(max_rows) * 4ll);
    x_ = scratch.take(rows * width * 4);
    normed_ = scratch.take(rows * width * 2);
    query_ = scratch.take(rows * width * 2);
    hidden_ = scratch.take(rows * width * 8);
    logits_ = scratch.take(rows * dims.n_vocab * 4);
    answers_ = scratch.take(rows * static_cast<int64_t>(sizeof(DeviceAnswer)));
}

void DecoderRows::run(const int32_t *host_rows, int num, const Caches &caches, const uint8_t *mask,
                      cudaStream_t stream) {
    const int width = dims_.n_text_state, heads = dims_.n_text_head;
    int32_t *ints = scratch_.at<int32_t>(ints_);
    DW_CUDA(cudaMemcpyAsync(ints, host_rows, input_ints(num) * 4ll, cudaMemcpyHostToDevice, stream));
    const Rows rows{num,           table_width_,  ints, ints + num, ints + 2 * num,
                    ints + 3 * num, ints + 4 * num};
    float *x = scratch_.at<float>(x_);
    __half *normed = scratch_.at<__half>(normed_), *query = scratch_.at<__half>(query_);
    __half *hidden = scratch_.at<__half>(hidden_);
    auto normalise = [&](const Norm &norm) {
        layer_norm(normed, nullptr, x, norm.weight, norm.bias, num, width, only_portable_,
                   stream);
    };
    auto product = [&](const __half *a, const Matrix &weight, dw_type type, void *out, int n, int k,
                       Epilogue epilogue, PagedKv kv = {}) {
        Product p;
        p.a = a, p.weight = weight, p.out = out;
        p.m = num, p.n = n, p.k = k;
        p.a_stride = k, p.out_stride = n;
        p.epilogue = epilogue;
        p.rows = rows, p.kv = kv;
        p.only_portable = only_portable_;
        multiply(p, type, stream);
    };
    embed(x, rows, model_.embedding, embedding_type_, model_.text_positional, width, stream);
    for (int i = 0; i < dims_.n_text_layer; i++) {
        const LayerWeights &w = model_.decoder[i];
        const PagedKv kv = caches.layer(i);
        normalise(w.attn_norm);
        product(normed, w.qkv, layer_type_, query, 3 * width, width, Epilogue::kPagedQkv, kv);
        self_attention(normed, query, rows, kv, heads, stream);
        product(normed, w.out, layer_type_, x, width, width, Epilogue::kAddFloat);
        normalise(w.cross_norm);
        product(normed, w.cross_query, layer_type_, query, width, width, Epilogue::kHalf);
        const int64_t audio_layer = 2ll * i * dims_.n_audio_ctx * width;
        cross_attention(normed, query, rows, caches.audio + audio_layer, caches.slot_size, heads,
                        dims_.n_audio_ctx, stream);
        product(normed, w.cross_out, layer_type_, x, width, width, Epilogue::kAddFloat);
        normalise(w.mlp_norm);
        product(normed, w.mlp_in, layer_type_, hidden, 4 * width, width, Epilogue::kHalfGelu);
        product(hidden, w.mlp_out, layer_type_, x, width, 4 * width, Epilogue::kAddFloat);
    }
    normalise(model_.text_norm);
    product(normed, model_.embedding, embedding_type_, scratch_.at<float>(logits_), dims_.n_vocab,
            width, Epilogue::kFloat);
    choose(scratch_.at<DeviceAnswer>(answers_), logits(), rows, mask, no_speech_, dims_.n_vocab,
           stream);
}

} // namespace dw
