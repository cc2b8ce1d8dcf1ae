#include "tensors.h"

#include <cstring>

#include "backend.h"
#include "failure.h"

namespace dw {
namespace {

constexpr int64_t kGroup = 64; // columns with one int4 scale

class Lister {
  public:
    Lister(const dw_dimensions &dims, dw_type layer_type, dw_type embedding_type)
        : dims_(dims), width_(dims.n_text_state), layer_type_(layer_type),
          embedding_type_(embedding_type) {}

    std::vector<TensorSpec> list() {
        half("encoder.conv1.weight", {width_, dims_.n_mels, 3});
        real("encoder.conv1.bias", width_);
        half("encoder.conv2.weight", {width_, width_, 3});
        real("encoder.conv2.bias", width_);
        specs_.push_back({"encoder.positional_embedding", {dims_.n_audio_ctx, width_},
                          Stored::kFloat});
        for (int layer = 0; layer < dims_.n_audio_layer; layer++) {
            const std::string name = "encoder.blocks." + std::to_string(layer);
            self_attention(name, DW_FP16);
            mlp(name, DW_FP16);
        }
        norm("encoder.ln_post");
        all_cross_keys_and_values();
        matrix("decoder.token_embedding.weight", dims_.n_vocab, width_, embedding_type_);
        specs_.push_back({"decoder.positional_embedding", {dims_.n_text_ctx, width_},
                          Stored::kFloat});
        for (int layer = 0; layer < dims_.n_text_layer; layer++) {
            const std::string name = "decoder.blocks." + std::to_string(layer);
            self_attention(name, layer_type_);
            norm(name + ".cross_attn_ln");
            matrix(name + ".cross_attn.query.weight", width_, width_, layer_type_);
            real(name + ".cross_attn.query.bias", width_);
            matrix(name + ".cross_attn.out.weight", width_, width_, layer_type_);
            real(name + ".cross_attn.out.bias", width_);
            mlp(name, layer_type_);
        }
        norm("decoder.ln");
        return std::move(specs_);
    }

  private:
    void half(const std::string &name, std::vector<int64_t> shape) {
        specs_.push_back({name, std::move(shape), Stored::kHalf});
    }
    void real(const std::string &name, int64_t size, bool is_wanted = true) {
        specs_.push_back({name, {size}, Stored::kFloat, is_wanted});
    }
    void norm(const std::string &name) {
        real(name + ".weight", width_);
        real(name + ".bias", width_);
    }
    void matrix_body(const std::string &name, int64_t rows, int64_t columns, dw_type type) {
        if (type == DW_FP16) {
            half(name, {rows, columns});
        } else {
            const int64_t bytes = type == DW_INT8 ? columns : columns / 2;
            specs_.push_back({name, {rows, bytes}, Stored::kBytes});
        }
    }
    void matrix_scale(const std::string &name, int64_t rows, int64_t columns, dw_type type) {
        if (type == DW_INT8) {
            real(name + ".scale", rows);
        } else if (type == DW_INT4) {
            half(name + ".scale", {rows, columns / kGroup});
        }
    }
    void matrix(const std::string &name, int64_t rows, int64_t columns, dw_type type) {
        matrix_body(name, rows, columns, type);
        matrix_scale(name, rows, columns, type);
    }
    void self_attention(const std::string &layer, dw_type type) {
        norm(layer + ".attn_ln");
        const char *parts[] = {"query", "key", "value"};
        for (const char *part : parts) {
            matrix_body(layer + ".attn." + part + ".weight", width_, width_, type);
        }
        for (const char *part : parts) {
            matrix_scale(layer + ".attn." + part + ".weight", width_, width_, type);
        }
        for (const char *part : parts) {
            real(layer + ".attn." + part + ".bias", width_, std::strcmp(part, "key") != 0);
        }
        matrix(layer + ".attn.out.weight", width_, width_, type);
        real(layer + ".attn.out.bias", width_);
    }
    void mlp(const std::string &layer, dw_type type) {
        norm(layer + ".mlp_ln");
        matrix(layer + ".mlp.0.weight", 4 * width_, width_, type);
        real(layer + ".mlp.0.bias", 4 * width_);
        matrix(layer + ".mlp.2.weight", width_, 4 * width_, type);
        real(layer + ".mlp.2.bias", width_);
    }
    void all_cross_keys_and_values() {
        for (int layer = 0; layer < dims_.n_text_layer; layer++) {
            const std::string name = "decoder.blocks." + std::to_string(layer) + ".cross_attn.";
            half(name + "key.weight", {width_, width_});
            half(name + "value.weight", {width_, width_});
        }
        for (int layer = 0; layer < dims_.n_text_layer; layer++) {
            const std::string name = "decoder.blocks." + std::to_string(layer) + ".cross_attn.";
            real(name + "key.bias", width_, false);
            real(name + "value.bias", width_);
        }
    }

    const dw_dimensions &dims_;
    int64_t width_;
    dw_type layer_type_, embedding_type_;
    std::vector<TensorSpec> specs_;
};

void check_range(const char *name, int64_t value, int64_t lowest, int64_t highest,
                 dw_status status) {
    if (value < lowest || value > highest) {
        fail(status, "%s is %lld: this engine takes %lld to %lld", name,
             static_cast<long long>(value), static_cast<long long>(lowest),
             static_cast<long long>(highest));
    }
}

std::string describe(const std::vector<int64_t> &shape) {
    std::string text = "(";
    for (size_t i = 0; i < shape.size(); i++) {
        text += (i ? ", " : "") + std::to_string(shape[i]);
    }
    return text + ")";
}

} // namespace

int64_t TensorSpec::num_elements() const {
    int64_t product = 1;
    for (int64_t size : shape) {
        product *= size;
    }
    return product;
}

int64_t TensorSpec::num_bytes() const {
    const int64_t sizes[] = {2, 4, 1};
    return num_elements() * sizes[static_cast<int>(stored)];
}

std::vector<TensorSpec> list_tensors(const dw_dimensions &dims, dw_type layer_type,
                                     dw_type embedding_type) {
    return Lister(dims, layer_type, embedding_type).list();
}

void check_dimensions(const dw_dimensions &dims) {
    const dw_status status = DW_UNSUPPORTED_DIMENSIONS;
    check_range("n_audio_ctx", dims.n_audio_ctx, 16, 1500, status);
    check_range("n_audio_state", dims.n_audio_state, 64, 1280, status);
    check_range("n_audio_layer", dims.n_audio_layer, 1, 64, status);
    check_range("n_vocab", dims.n_vocab, 16, 200000, status);
    check_range("n_text_ctx", dims.n_text_ctx, 8, 448, status);
    check_range("n_text_layer", dims.n_text_layer, 1, 64, status);
    if (dims.n_mels != 80 && dims.n_mels != 128) {
        fail(status, "n_mels is %d: this engine takes 80 or 128", dims.n_mels);
    }
    if (dims.n_audio_state % 64 != 0 || dims.n_audio_head * 64 != dims.n_audio_state) {
        fail(status, "n_audio_state is %d with n_audio_head %d: this engine takes heads of 64",
             dims.n_audio_state, dims.n_audio_head);
    }
    if (dims.n_text_state != dims.n_audio_state || dims.n_text_head != dims.n_audio_head) {
        fail(status, "n_text_state is %d with n_text_head %d: this engine takes those of the encoder",
             dims.n_text_state, dims.n_text_head);
    }
}

void check_options(const dw_dimensions &dims, const dw_options &options) {
    const dw_status status = DW_BAD_ARGUMENT;
    if (options.struct_bytes != static_cast<int32_t>(sizeof(dw_options))) {
        fail(status, "dw_options has %d bytes and not %zu: the caller was made for another version",
             options.struct_bytes, sizeof(dw_options));
    }
    for (int type : {options.layer_type, options.embedding_type}) {
        if (type != DW_FP16 && type != DW_INT8 && type != DW_INT4) {
            fail(status, "type %d of the decoder is none of DW_FP16, DW_INT8 and DW_INT4", type);
        }
    }
    if (options.layer_type == DW_INT4 ? options.embedding_type == DW_FP16
                                      : options.embedding_type != options.layer_type) {
        fail(status, "embedding_type %d does not go with layer_type %d: both are the same, or int8 "
                     "with int4", options.embedding_type, options.layer_type);
    }
    const int block = options.block_tokens;
    if (block != 8 && block != 16 && block != 32 && block != 64) {
        fail(status, "block_tokens is %d: this engine takes 8, 16, 32 or 64", block);
    }
    check_range("pool_tokens", options.pool_tokens, block, 1 << 20, status);
    check_range("multiprocessors", options.multiprocessors, 0, 1024, status);
    if (options.multiprocessors > 0 && !options.only_portable) {
        fail(status, "multiprocessors is %d without only_portable: set both", options.multiprocessors);
    }
    check_range("max_audios", options.max_audios, 1, 1024, status);
    check_range("max_batch", options.max_batch, 1, 256, status);
    check_range("encode_batch", options.encode_batch, 1, 32, status);
    check_range("chunk_tokens", options.chunk_tokens, 1, dw::kMaxChunkTokens, status);
    check_range("timeout_ms", options.timeout_ms, 1, 3600000, status);
    check_range("eot", options.eot, 0, dims.n_vocab - 1, status);
    check_range("no_speech", options.no_speech, -1, dims.n_vocab - 1, status);
    check_range("num_suppress", options.num_suppress, 0, dims.n_vocab - 1, status);
    check_range("num_suppress_first", options.num_suppress_first, 0, dims.n_vocab - 1, status);
    for (int i = 0; i < options.num_suppress; i++) {
        check_range("suppress", options.suppress[i], 0, dims.n_vocab - 1, status);
    }
    for (int i = 0; i < options.num_suppress_first; i++) {
        check_range("suppress_first", options.suppress_first[i], 0, dims.n_vocab - 1, status);
    }
}

std::vector<unsigned char> convert_tensor(const TensorSpec &spec, dw_type type,
                                          const std::vector<int64_t> &shape, const void *data,
                                          int64_t num_bytes) {
    if (shape != spec.shape) {
        fail(DW_BAD_TENSOR, "%s has shape %s and not %s: its dimensions are those of another model",
             spec.name.c_str(), describe(shape).c_str(), describe(spec.shape).c_str());
    }
    const bool is_bytes = spec.stored == Stored::kBytes;
    if (is_bytes ? type != DW_INT8 : (type != DW_FP16 && type != DW_FP32)) {
        fail(DW_BAD_TENSOR, "%s is of type %d: the engine was made for another precision",
             spec.name.c_str(), static_cast<int>(type));
    }
    const int64_t size = is_bytes ? 1 : type == DW_FP16 ? 2 : 4;
    const int64_t count = spec.num_elements();
    if (num_bytes != count * size) {
        fail(DW_BAD_TENSOR, "%s has %lld bytes and not %lld: the file is cut off or damaged",
             spec.name.c_str(), static_cast<long long>(num_bytes),
             static_cast<long long>(count * size));
    }
    std::vector<unsigned char> kept(static_cast<size_t>(spec.num_bytes()));
    const auto *bytes = static_cast<const unsigned char *>(data);
    if (static_cast<int64_t>(kept.size()) == num_bytes) {
        std::memcpy(kept.data(), bytes, kept.size());
        return kept;
    }
    for (int64_t i = 0; i < count; i++) {
        if (type == DW_FP16) {
            uint16_t half;
            std::memcpy(&half, bytes + 2 * i, 2);
            const float value = half_to_float(half);
            std::memcpy(&kept[4 * i], &value, 4);
        } else {
            float value;
            std::memcpy(&value, bytes + 4 * i, 4);
            const uint16_t half = float_to_half(value);
            std::memcpy(&kept[2 * i], &half, 2);
        }
    }
    return kept;
}

float half_to_float(uint16_t bits) {
    // Shift exponent and mantissa to their float places, then correct the exponent's bias; the
    // product also makes subnormals right.
    const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fff) << 13;
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    uint32_t word;
    if ((bits & 0x7c00) == 0x7c00) {
        word = magnitude | 0x7f800000u;
    } else {
        float value;
        std::memcpy(&value, &magnitude, 4);
        value *= 5.192296858534828e33f; // 2^112
        std::memcpy(&word, &value, 4);
    }
    word |= sign;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

uint16_t float_to_half(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    const uint16_t sign = static_cast<uint16_t>((word >> 16) & 0x8000);
    word &= 0x7fffffff;
    if (word >= 0x7f800000) { // infinity or NaN
        return static_cast<uint16_t>(sign | 0x7c00 | (word > 0x7f800000 ? 0x200 : 0));
    }
    if (word >= 0x477ff000) { // rounds beyond the largest half
        return static_cast<uint16_t>(sign | 0x7c00);
    }
    if (word < 0x38800000) { // subnormal: adding 0.5 leaves the wanted bits at the end
        float magnitude;
        std::memcpy(&magnitude, &word, 4);
        magnitude += 0.5f;
        std::memcpy(&word, &magnitude, 4);
        return static_cast<uint16_t>(sign | (word - 0x3f000000));
    }
    word += 0xc8000fff + ((word >> 13) & 1); // new bias, round to nearest even
    return static_cast<uint16_t>(sign | (word >> 13));
}

} // namespace dw
