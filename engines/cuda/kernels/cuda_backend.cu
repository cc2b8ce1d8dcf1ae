// The backend on a GPU: weights, caches and scratch in four allocations, and one stream.
#include <algorithm>
#include <cstring>
#include <string>

#include "../host/backend.h"
#include "encoder.h"
#include "stream.h"
#include "token_run.h"

namespace dw {
namespace {

static_assert(kMaxInputs == kMaxRunInputs && kMaxChunkTokens == kMaxChunk);

// "sm_80 sm_87" -> whether this GPU runs code for one of them: the same major version, and a
// minor version that is not newer than the GPU's.
void check_architecture(int device) {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || device < 0 || device >= count) {
        cudaGetLastError();
        fail(DW_WRONG_ARCHITECTURE, "there is no CUDA device %d: check the driver with nvidia-smi",
             device);
    }
    cudaDeviceProp properties;
    DW_CUDA(cudaGetDeviceProperties(&properties, device));
    const std::string built = DW_ARCHITECTURES;
    for (size_t at = built.find("sm_"); at != std::string::npos; at = built.find("sm_", at + 1)) {
        const int version = std::stoi(built.substr(at + 3));
        if (version / 10 == properties.major && version % 10 <= properties.minor) {
            return;
        }
    }
    fail(DW_WRONG_ARCHITECTURE,
         "this library is built for %s and %s is sm_%d%d: build it again with "
         "build_scripts/build_cuda_engine.sh --arch sm_%d%d",
         built.c_str(), properties.name, properties.major, properties.minor, properties.major,
         properties.minor);
}

const dw_options &on_device(const dw_options &options) {
    check_architecture(options.device);
    DW_CUDA(cudaSetDevice(options.device));
    return options;
}

class CudaBackend : public Backend {
  public:
    CudaBackend(const dw_dimensions &dims, const dw_options &options,
                const std::vector<TensorSpec> &tensors)
        : dims_(dims), options_(on_device(options)), stream_(options.timeout_ms),
          model_(dims, options, tensors), max_rows_(std::max(64, options.max_batch)),
          table_width_((dims.n_text_ctx + options.block_tokens - 1) / options.block_tokens),
          encoder_(dims, options, model_, scratch_),
          rows_(dims, options, model_, max_rows_, table_width_, scratch_),
          tokens_(dims, options, model_, options.device, scratch_),
          mel_bytes_(2ll * dims.n_audio_ctx * dims.n_mels * 4),
          host_mel_(options.encode_batch * mel_bytes_), host_slots_(options.encode_batch * 4ll),
          host_rows_(rows_.input_ints(max_rows_) * 4ll),
          host_answers_(max_rows_ * static_cast<int64_t>(sizeof(DeviceAnswer))),
          host_tokens_(sizeof(TokenAnswers)) {
        const int64_t width = dims.n_text_state, layers = dims.n_text_layer;
        caches_.slot_size = 2 * layers * dims.n_audio_ctx * width;
        caches_.block_tokens = options.block_tokens;
        caches_.layer_size = options.pool_tokens / options.block_tokens * options.block_tokens * width;
        audio_place_ = audio_.take(options.max_audios * caches_.slot_size * 2);
        pool_place_ = pool_.take(2 * layers * caches_.layer_size * 2);
        mask_ = scratch_.take(dims.n_vocab);
        audio_.allocate();
        pool_.allocate();
        scratch_.allocate();
        caches_.audio = audio_.at<__half>(audio_place_);
        caches_.pool = pool_.at<__half>(pool_place_);
    }

    ~CudaBackend() override { cudaStreamSynchronize(stream_); }

    void set_tensor(int index, const void *data) override { model_.set_tensor(index, data); }

    void finish() override {
        std::vector<uint8_t> mask(dims_.n_vocab);
        for (int i = 0; i < options_.num_suppress; i++) {
            mask[options_.suppress[i]] |= 1;
        }
        for (int i = 0; i < options_.num_suppress_first; i++) {
            mask[options_.suppress_first[i]] |= 2;
        }
        DW_CUDA(cudaMemcpyAsync(scratch_.at(mask_), mask.data(), mask.size(),
                                cudaMemcpyHostToDevice, stream_));
        DW_CUDA(cudaDeviceSynchronize()); // tensors were copied beside this stream
        tokens_.finish(stream_);
        encoder_.capture(caches_.audio, caches_.slot_size, stream_);
        stream_.wait();
    }

    void encode(const float *mels, const int *slots, int num, float *features) override {
        std::memcpy(host_slots_.as(), slots, num * 4);
        copy_mels(mels, num * mel_bytes_);
        DW_CUDA(cudaMemcpyAsync(encoder_.slots(), host_slots_.as(), num * 4,
                                cudaMemcpyHostToDevice, stream_));
        encoder_.run(num, caches_.audio, caches_.slot_size, features != nullptr, stream_);
        stream_.wait();
        if (features != nullptr) {
            const int64_t bytes = int64_t{dims_.n_audio_ctx} * dims_.n_audio_state * 4;
            DW_CUDA(cudaMemcpy(features, encoder_.features(), bytes, cudaMemcpyDeviceToHost));
        }
    }

    int max_rows() const override { return max_rows_; }

    void forward(const std::vector<Row> &rows, Answer *answers, float *logits) override {
        const int num = static_cast<int>(rows.size());
        int32_t *ints = host_rows_.as<int32_t>();
        for (int i = 0; i < num; i++) {
            const dw_sequence &sequence = *rows[i].sequence;
            ints[i] = rows[i].token;
            ints[num + i] = rows[i].position;
            ints[2 * num + i] = sequence.audio->slot;
            ints[3 * num + i] = rows[i].is_first;
            std::copy(sequence.blocks.begin(), sequence.blocks.end(),
                      ints + 4 * num + i * table_width_);
        }
        rows_.run(ints, num, caches_, scratch_.at<uint8_t>(mask_), stream_);
        DW_CUDA(cudaMemcpyAsync(host_answers_.as(), rows_.answers(), num * sizeof(DeviceAnswer),
                                cudaMemcpyDeviceToHost, stream_));
        stream_.wait();
        for (int i = 0; answers != nullptr && i < num; i++) {
            const DeviceAnswer &answer = host_answers_.as<DeviceAnswer>()[i];
            answers[i] = {answer.token, answer.logprob, answer.no_speech_prob};
        }
        if (logits != nullptr) {
            DW_CUDA(cudaMemcpy(logits, rows_.logits(), int64_t{num} * dims_.n_vocab * 4,
                               cudaMemcpyDeviceToHost));
        }
    }

    int generate(const Generation &generation, Answer *answers, float *no_speech_prob) override {
        const dw_sequence &sequence = *generation.sequence;
        TokenRun run{};
        run.mask = scratch_.at<uint8_t>(mask_);
        run.audio = caches_.audio + sequence.audio->slot * caches_.slot_size;
        run.caches = caches_;
        std::copy(sequence.blocks.begin(), sequence.blocks.end(), run.table);
        std::copy(generation.inputs.begin(), generation.inputs.end(), run.inputs);
        run.num_inputs = static_cast<int>(generation.inputs.size());
        run.position = generation.position;
        run.is_first = generation.is_first;
        run.sot_index = generation.sot_index;
        run.num_new = generation.num_new;
        run.answers = host_tokens_.as<TokenAnswers>();
        run.answers->num = 0;
        tokens_.launch(run, stream_);
        stream_.wait();
        if (generation.sot_index >= 0) {
            *no_speech_prob = run.answers->no_speech_prob;
        }
        for (int i = 0; i < run.answers->num; i++) {
            answers[i] = {run.answers->tokens[i], run.answers->logprobs[i], 0};
        }
        return run.answers->num;
    }

    void memory(dw_memory_info &info) const override {
        size_t free_bytes, total_bytes;
        DW_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
        info.weight_bytes = model_.num_bytes();
        info.audio_bytes = audio_.size();
        info.pool_bytes = pool_.size();
        info.scratch_bytes = scratch_.size();
        info.device_free_bytes = static_cast<int64_t>(free_bytes);
        info.device_total_bytes = static_cast<int64_t>(total_bytes);
    }

  private:
    // By way of pinned memory in pieces: one is on the way to the GPU while the next is copied.
    void copy_mels(const float *mels, int64_t num_bytes) {
        constexpr int64_t kPiece = 256 * 1024;
        for (int64_t done = 0; done < num_bytes; done += kPiece) {
            const int64_t bytes = std::min(kPiece, num_bytes - done);
            std::memcpy(host_mel_.as() + done, reinterpret_cast<const char *>(mels) + done, bytes);
            DW_CUDA(cudaMemcpyAsync(reinterpret_cast<char *>(encoder_.mel()) + done,
                                    host_mel_.as() + done, bytes, cudaMemcpyHostToDevice, stream_));
        }
    }

    const dw_dimensions dims_;
    const dw_options options_;
    Stream stream_;
    Model model_;
    Arena audio_, pool_, scratch_;
    const int max_rows_, table_width_;
    Encoder encoder_;
    DecoderRows rows_;
    TokenKernel tokens_;
    int64_t mel_bytes_;
    PinnedMemory host_mel_, host_slots_, host_rows_, host_answers_, host_tokens_;
    Caches caches_{};
    int64_t audio_place_ = 0, pool_place_ = 0, mask_ = 0;
};

} // namespace

std::unique_ptr<Backend> make_backend(const dw_dimensions &dims, const dw_options &options,
                                      const std::vector<TensorSpec> &tensors) {
    return std::make_unique<CudaBackend>(dims, options, tensors);
}

const char *build_info() {
    static const std::string info = [] {
        std::string names, built = DW_ARCHITECTURES;
        for (size_t at = 0; at < built.size();) {
            const size_t end = std::min(built.find(' ', at), built.size());
            names += (at ? ", \"" : "\"") + built.substr(at, end - at) + "\"";
            at = end + 1;
        }
        return "{\"abi\": " + std::to_string(DW_ABI_VERSION) +
               ", \"kind\": \"cuda\", \"architectures\": [" + names +
               "], \"cuda\": \"" DW_CUDA_VERSION "\"}";
    }();
    return info.c_str();
}

} // namespace dw
