// Whisper on the CPU as plain loops in float32, with contiguous keys and values: what the CUDA
// backend is compared with, and what runs behind the C interface where there is no GPU.
#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "../host/backend.h"
#include "../host/failure.h"
#include "plain.h"

namespace dw {
namespace {

using Vector = std::vector<float>;
constexpr int kHead = 64;
constexpr int kMaxRows = 64;

class ReferenceBackend : public Backend {
  public:
    ReferenceBackend(const dw_dimensions &dims, const dw_options &options,
                     const std::vector<TensorSpec> &tensors)
        : dims_(dims), options_(options), tensors_(tensors), width_(dims.n_text_state),
          cross_kv_(options.max_audios) {
        for (const TensorSpec &spec : tensors) {
            if (!spec.is_wanted) {
                values_[spec.name].assign(spec.num_elements(), 0.0f);
            }
        }
        suppressed_.assign(options.suppress, options.suppress + options.num_suppress);
        suppressed_at_first_ = suppressed_;
        suppressed_at_first_.insert(suppressed_at_first_.end(), options.suppress_first,
                                    options.suppress_first + options.num_suppress_first);
    }

    void set_tensor(int index, const void *data) override {
        const TensorSpec &spec = tensors_[index];
        const auto *bytes = static_cast<const uint8_t *>(data);
        if (spec.stored == Stored::kBytes) {
            packed_[spec.name].assign(bytes, bytes + spec.num_bytes());
            return;
        }
        Vector &value = values_[spec.name];
        value.resize(spec.num_elements());
        if (spec.stored == Stored::kFloat) {
            std::memcpy(value.data(), bytes, spec.num_bytes());
            return;
        }
        for (size_t i = 0; i < value.size(); i++) {
            uint16_t half;
            std::memcpy(&half, bytes + 2 * i, 2);
            value[i] = half_to_float(half);
        }
    }

    void finish() override {
        for (const auto &[name, bytes] : packed_) {
            const bool is_embedding = name == "decoder.token_embedding.weight";
            const int type = is_embedding ? options_.embedding_type : options_.layer_type;
            const Vector &scale = values_.at(name + ".scale");
            Vector &value = values_[name];
            if (type == DW_INT8) {
                value.resize(bytes.size());
                plain::widen_int8(value.data(), bytes.data(), scale.data(), scale.size(),
                                  static_cast<int>(bytes.size() / scale.size()));
            } else {
                value.resize(2 * bytes.size());
                // One scale for 64 columns makes a row of 64 of every group.
                plain::widen_int4(value.data(), bytes.data(), scale.data(), scale.size(), 64);
            }
        }
        packed_.clear();
    }

    void encode(const float *mels, const int *slots, int num, float *features) override {
        const int64_t mel_size = 2ll * dims_.n_audio_ctx * dims_.n_mels;
        for (int i = 0; i < num; i++) {
            const Vector x = audio_features(mels + i * mel_size);
            if (features && i == 0) {
                std::copy(x.begin(), x.end(), features);
            }
            make_cross_kv(cross_kv_[slots[i]], x);
        }
    }

    void forward(const std::vector<Row> &rows, Answer *answers, float *logits) override {
        Vector row_logits(dims_.n_vocab);
        for (size_t i = 0; i < rows.size(); i++) {
            run_token(row_logits.data(), *rows[i].sequence, rows[i].token, rows[i].position);
            if (logits) {
                std::copy(row_logits.begin(), row_logits.end(), logits + i * dims_.n_vocab);
            }
            if (answers) {
                answers[i] = choose(row_logits, rows[i].is_first);
            }
        }
    }

    int max_rows() const override { return kMaxRows; }

    int generate(const Generation &generation, Answer *answers, float *no_speech_prob) override {
        int position = generation.position;
        Vector logits(dims_.n_vocab);
        Answer answer{};
        for (size_t i = 0; i < generation.inputs.size(); i++) {
            run_token(logits.data(), *generation.sequence, generation.inputs[i], position++);
            answer = choose(logits, generation.is_first);
            if (static_cast<int>(i) == generation.sot_index) {
                *no_speech_prob = answer.no_speech_prob;
            }
        }
        answers[0] = answer;
        int num = 1;
        while (num < generation.num_new && answers[num - 1].token != options_.eot) {
            run_token(logits.data(), *generation.sequence, answers[num - 1].token, position++);
            answers[num++] = choose(logits, false);
        }
        return num;
    }

    void memory(dw_memory_info &info) const override {
        for (const auto &[name, value] : values_) {
            info.weight_bytes += static_cast<int64_t>(value.size()) * 4;
        }
        for (const Vector &kv : cross_kv_) {
            info.audio_bytes += static_cast<int64_t>(kv.size()) * 4;
        }
    }

  private:
    const float *at(const std::string &name) const { return values_.at(name).data(); }

    Answer choose(const Vector &logits, bool is_first) const {
        const plain::Choice choice =
            plain::choose(logits.data(), dims_.n_vocab,
                          is_first ? suppressed_at_first_ : suppressed_, options_.no_speech);
        return {choice.token, choice.logprob, choice.no_speech_prob};
    }

    Vector linear(const Vector &x, const std::string &name, int rows, int out, int in) const {
        Vector y(int64_t{rows} * out);
        const auto bias = values_.find(name + ".bias");
        plain::linear(y.data(), x.data(), at(name + ".weight"),
                      bias == values_.end() ? nullptr : bias->second.data(), rows, out, in, in);
        return y;
    }

    Vector norm(const Vector &x, const std::string &name) const {
        Vector y(x.size());
        plain::layer_norm(y.data(), x.data(), at(name + ".weight"), at(name + ".bias"),
                          static_cast<int>(x.size()) / width_, width_);
        return y;
    }

    void add_mlp(Vector &x, const std::string &layer) const {
        const int rows = static_cast<int>(x.size()) / width_;
        Vector hidden = linear(norm(x, layer + ".mlp_ln"), layer + ".mlp.0", rows, 4 * width_, width_);
        plain::gelu(hidden.data(), static_cast<int64_t>(hidden.size()));
        add(x, linear(hidden, layer + ".mlp.2", rows, width_, 4 * width_));
    }

    static void add(Vector &x, const Vector &y) {
        for (size_t i = 0; i < x.size(); i++) {
            x[i] += y[i];
        }
    }

    // A convolution of kernel 3 and padding 1 over time-major input [frames, channels].
    Vector convolve(const Vector &x, const std::string &name, int channels, int stride) const {
        const int frames = static_cast<int>(x.size()) / channels;
        Vector padded((frames + 2ll) * channels, 0.0f);
        std::copy(x.begin(), x.end(), padded.begin() + channels);
        const float *weight = at(name + ".weight"); // (out, channels, 3)
        Vector turned(3ll * width_ * channels);     // (out, 3, channels)
        for (int64_t out = 0; out < width_; out++) {
            for (int channel = 0; channel < channels; channel++) {
                for (int tap = 0; tap < 3; tap++) {
                    turned[(out * 3 + tap) * channels + channel] =
                        weight[(out * channels + channel) * 3 + tap];
                }
            }
        }
        const int rows = frames / stride;
        Vector y(int64_t{rows} * width_);
        plain::linear(y.data(), padded.data(), turned.data(), at(name + ".bias"), rows, width_,
                      3 * channels, int64_t{stride} * channels);
        plain::gelu(y.data(), static_cast<int64_t>(y.size()));
        return y;
    }

    Vector audio_features(const float *mel) const {
        const int positions = dims_.n_audio_ctx, frames = 2 * positions;
        Vector x(int64_t{frames} * dims_.n_mels);
        for (int bin = 0; bin < dims_.n_mels; bin++) {
            for (int frame = 0; frame < frames; frame++) {
                x[int64_t{frame} * dims_.n_mels + bin] = mel[int64_t{bin} * frames + frame];
            }
        }
        x = convolve(x, "encoder.conv1", dims_.n_mels, 1);
        x = convolve(x, "encoder.conv2", width_, 2);
        add(x, values_.at("encoder.positional_embedding"));
        for (int layer = 0; layer < dims_.n_audio_layer; layer++) {
            const std::string name = "encoder.blocks." + std::to_string(layer);
            const Vector normed = norm(x, name + ".attn_ln");
            const Vector query = linear(normed, name + ".attn.query", positions, width_, width_);
            const Vector key = linear(normed, name + ".attn.key", positions, width_, width_);
            const Vector value = linear(normed, name + ".attn.value", positions, width_, width_);
            Vector mixed(x.size());
            for (int head = 0; head < width_; head += kHead) {
                plain::attend(&mixed[head], &query[head], &key[head], &value[head], positions,
                              positions, width_, width_, false);
            }
            add(x, linear(mixed, name + ".attn.out", positions, width_, width_));
            add_mlp(x, name);
        }
        return norm(x, "encoder.ln_post");
    }

    // kv: for each layer keys [n_audio_ctx, width], then values.
    void make_cross_kv(Vector &kv, const Vector &features) const {
        kv.clear();
        for (int layer = 0; layer < dims_.n_text_layer; layer++) {
            const std::string name = "decoder.blocks." + std::to_string(layer) + ".cross_attn.";
            for (const char *part : {"key", "value"}) {
                const Vector y = linear(features, name + part, dims_.n_audio_ctx, width_, width_);
                kv.insert(kv.end(), y.begin(), y.end());
            }
        }
    }

    void run_token(float *logits, dw_sequence &sequence, int token, int position) const {
        const int64_t cache_size = int64_t{dims_.n_text_ctx} * width_; // of one layer's keys
        sequence.contiguous.resize(2 * dims_.n_text_layer * cache_size);
        const Vector &cross = cross_kv_[sequence.audio->slot];
        const int64_t cross_size = int64_t{dims_.n_audio_ctx} * width_;
        const float *embedding = at("decoder.token_embedding.weight") + int64_t{token} * width_;
        Vector x(embedding, embedding + width_);
        const float *positional = at("decoder.positional_embedding") + int64_t{position} * width_;
        add(x, Vector(positional, positional + width_));
        for (int layer = 0; layer < dims_.n_text_layer; layer++) {
            const std::string name = "decoder.blocks." + std::to_string(layer);
            float *keys = &sequence.contiguous[2 * layer * cache_size];
            float *values = keys + cache_size;
            Vector normed = norm(x, name + ".attn_ln");
            Vector query = linear(normed, name + ".attn.query", 1, width_, width_);
            const Vector key = linear(normed, name + ".attn.key", 1, width_, width_);
            const Vector value = linear(normed, name + ".attn.value", 1, width_, width_);
            std::copy(key.begin(), key.end(), keys + int64_t{position} * width_);
            std::copy(value.begin(), value.end(), values + int64_t{position} * width_);
            Vector mixed(width_);
            for (int head = 0; head < width_; head += kHead) {
                plain::attend(&mixed[head], &query[head], keys + head, values + head, 1,
                              position + 1, width_, width_, true);
            }
            add(x, linear(mixed, name + ".attn.out", 1, width_, width_));
            normed = norm(x, name + ".cross_attn_ln");
            query = linear(normed, name + ".cross_attn.query", 1, width_, width_);
            const float *cross_keys = &cross[2 * layer * cross_size];
            for (int head = 0; head < width_; head += kHead) {
                plain::attend(&mixed[head], &query[head], cross_keys + head,
                              cross_keys + cross_size + head, 1, dims_.n_audio_ctx, width_, width_,
                              false);
            }
            add(x, linear(mixed, name + ".cross_attn.out", 1, width_, width_));
            add_mlp(x, name);
        }
        x = norm(x, "decoder.ln");
        plain::linear(logits, x.data(), at("decoder.token_embedding.weight"), nullptr, 1,
                      dims_.n_vocab, width_, width_);
    }

    const dw_dimensions dims_;
    const dw_options options_;
    const std::vector<TensorSpec> tensors_;
    const int width_;
    std::unordered_map<std::string, Vector> values_;
    std::unordered_map<std::string, std::vector<uint8_t>> packed_;
    std::vector<Vector> cross_kv_; // by slot
    std::vector<int32_t> suppressed_, suppressed_at_first_;
};

} // namespace

std::unique_ptr<Backend> make_backend(const dw_dimensions &dims, const dw_options &options,
                                      const std::vector<TensorSpec> &tensors) {
    return std::make_unique<ReferenceBackend>(dims, options, tensors);
}

const char *build_info() {
    return "{\"abi\": 1, \"kind\": \"reference\", \"architectures\": [], \"cuda\": \"\"}";
}

} // namespace dw
