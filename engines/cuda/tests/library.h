// A library that implements duplex_whisper.h, and models of random weights for it.
#pragma once

#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../duplex_whisper.h"
#include "../host/tensors.h"

#define DW_FUNCTIONS(F)                                                                           \
    F(dw_build_info) F(dw_last_error) F(dw_create) F(dw_add_tensor) F(dw_finish) F(dw_destroy)     \
    F(dw_memory) F(dw_encode) F(dw_encode_batch) F(dw_encode_features) F(dw_audio_release)         \
    F(dw_decode) F(dw_decode_batch) F(dw_sequence_open) F(dw_sequence_advance)                     \
    F(dw_sequence_truncate) F(dw_sequence_close)

struct Library {
#define F(name) decltype(&::name) name = nullptr;
    DW_FUNCTIONS(F)
#undef F
    explicit Library(const char *path) {
        void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (handle == nullptr) {
            std::printf("cannot load %s: %s\n", path, dlerror());
            std::exit(2);
        }
#define F(function) function = reinterpret_cast<decltype(function)>(dlsym(handle, #function));
        DW_FUNCTIONS(F)
#undef F
    }
    void check(dw_status status, const char *what) const {
        if (status != DW_OK) {
            std::printf("FAILED %s: status %d, %s\n", what, status, dw_last_error());
            std::exit(1);
        }
    }
};

// The same numbers everywhere, unlike those of <random>'s distributions.
class Noise {
  public:
    explicit Noise(uint64_t seed) : state_(seed * 2654435761u + 1) {}
    uint32_t bits() {
        state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
        return static_cast<uint32_t>(state_ >> 33);
    }
    float uniform() { return static_cast<float>(bits()) * (2.0f / 2147483648.0f) - 1.0f; }
    int below(int limit) { return static_cast<int>(bits() % static_cast<uint32_t>(limit)); }

  private:
    uint64_t state_;
};

struct RandomModel {
    std::string name;
    dw_dimensions dims;
    dw_type layer_type = DW_FP16, embedding_type = DW_FP16;
    int max_audios = 4, max_batch = 8, encode_batch = 2, pool_tokens = 1024, block_tokens = 16;
    bool never_ends = false; // the end token is suppressed, so that all tokens are made
    bool only_portable = false;
    int multiprocessors = 0; // 0: all

    dw_options options() const {
        static int32_t suppress[4] = {1, 5, 9, 0};
        static int32_t first[2] = {2, 3};
        dw_options o{};
        o.struct_bytes = sizeof o;
        o.layer_type = layer_type, o.embedding_type = embedding_type;
        o.block_tokens = block_tokens, o.pool_tokens = pool_tokens;
        o.max_audios = max_audios, o.max_batch = max_batch, o.encode_batch = encode_batch;
        o.chunk_tokens = 32, o.timeout_ms = 600000; // compute-sanitizer takes its time
        o.eot = 4, o.no_speech = 6;
        suppress[3] = never_ends ? 4 : 1;
        o.suppress = suppress, o.num_suppress = 4;
        o.suppress_first = first, o.num_suppress_first = 2;
        o.only_portable = only_portable, o.multiprocessors = multiprocessors;
        return o;
    }

    dw_engine *load(const Library &library) const {
        dw_engine *engine = nullptr;
        const dw_options o = options();
        library.check(library.dw_create(&dims, &o, &engine), "dw_create");
        Noise noise(7);
        for (const dw::TensorSpec &spec : dw::list_tensors(dims, layer_type, embedding_type)) {
            if (spec.is_wanted) {
                add(library, engine, spec, noise);
            }
        }
        library.check(library.dw_finish(engine), "dw_finish");
        return engine;
    }

    void add(const Library &library, dw_engine *engine, const dw::TensorSpec &spec,
             Noise &noise) const {
        const bool is_norm = spec.name.find("_ln.weight") != std::string::npos ||
                             spec.name.find("ln_post.weight") != std::string::npos ||
                             spec.name == "decoder.ln.weight";
        const bool is_scale = spec.name.find(".scale") != std::string::npos;
        const int64_t count = spec.num_elements();
        const double columns = spec.shape.size() == 1 ? 400.0 : double(count) / spec.shape[0];
        const bool is_embedding = spec.name.find("embedding") != std::string::npos;
        // Uniform in +-scale; products of norms and weights stay near 1.
        float scale = is_embedding ? 0.15f : static_cast<float>(1.7 / std::sqrt(columns));
        std::vector<unsigned char> bytes(spec.num_bytes());
        for (int64_t i = 0; i < count; i++) {
            float value = scale * noise.uniform() + (is_norm ? 1.0f : 0.0f);
            if (is_scale) { // stored integers are up to 127 or 8
                const int64_t width = dims.n_text_state;
                const double in = spec.name.find("mlp.2") != std::string::npos ? 4 * width : width;
                const double top = spec.shape.size() == 1 ? 127.0 : 8.0;
                const double of = is_embedding ? 0.15 : 1.7 / std::sqrt(in);
                value = static_cast<float>(of / top) * (1.0f + 0.2f * noise.uniform());
            }
            if (spec.stored == dw::Stored::kBytes) {
                bytes[i] = static_cast<unsigned char>(noise.bits());
            } else if (spec.stored == dw::Stored::kHalf) {
                const uint16_t half = dw::float_to_half(value);
                std::memcpy(&bytes[2 * i], &half, 2);
            } else {
                std::memcpy(&bytes[4 * i], &value, 4);
            }
        }
        const dw_type types[] = {DW_FP16, DW_FP32, DW_INT8};
        library.check(library.dw_add_tensor(engine, spec.name.c_str(),
                                            types[static_cast<int>(spec.stored)],
                                            static_cast<int>(spec.shape.size()), spec.shape.data(),
                                            bytes.data(), spec.num_bytes()),
                      spec.name.c_str());
    }

    std::vector<float> mel(int seed) const {
        Noise noise(1000 + seed);
        std::vector<float> mel(2ll * dims.n_audio_ctx * dims.n_mels);
        for (float &value : mel) {
            value = noise.uniform();
        }
        return mel;
    }
};

inline RandomModel whisper(const char *name, int width, int audio_layers, int text_layers,
                           int n_vocab, int n_mels = 80, int n_audio_ctx = 1500,
                           int n_text_ctx = 448) {
    RandomModel model;
    model.name = name;
    model.dims = {n_mels,  n_audio_ctx, width, width / 64, audio_layers,
                  n_vocab, n_text_ctx,  width, width / 64, text_layers};
    return model;
}

inline RandomModel portable(RandomModel model) {
    model.only_portable = true;
    model.name += " portable";
    return model;
}

// As many multiprocessors as an Orin Nano has, each with as much shared memory.
inline RandomModel on_eight(RandomModel model) {
    model = portable(model);
    model.multiprocessors = 8;
    model.name += " on 8";
    return model;
}

inline RandomModel in_type(RandomModel model, dw_type layers, dw_type embedding) {
    const char *names[] = {"fp16", "fp32", "int8", "int4"};
    model.layer_type = layers, model.embedding_type = embedding;
    model.name += std::string(" ") + names[layers] + "/" + names[embedding];
    return model;
}
