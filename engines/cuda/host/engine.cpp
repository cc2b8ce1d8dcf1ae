#include "engine.h"

#include <algorithm>

#include "failure.h"

using dw::fail;

namespace {

const dw_options &checked(const dw_dimensions &dims, const dw_options &options) {
    dw::check_dimensions(dims);
    dw::check_options(dims, options);
    return options;
}

} // namespace

dw_engine::dw_engine(const dw_dimensions &dims, const dw_options &options)
    : dims(dims), options(checked(dims, options)),
      suppress(options.suppress, options.suppress + options.num_suppress),
      suppress_first(options.suppress_first, options.suppress_first + options.num_suppress_first),
      tensors(dw::list_tensors(dims, static_cast<dw_type>(options.layer_type),
                               static_cast<dw_type>(options.embedding_type))),
      pool(options.pool_tokens, options.block_tokens) {
    this->options.suppress = suppress.data();
    this->options.suppress_first = suppress_first.data();
    for (size_t index = 0; index < tensors.size(); index++) {
        if (tensors[index].is_wanted) {
            wanted.push_back(tensors[index].name);
            tensor_index[tensors[index].name] = static_cast<int>(index);
        }
    }
    for (int slot = options.max_audios - 1; slot >= 0; slot--) {
        free_audios.push_back(slot);
    }
    backend = dw::make_backend(this->dims, this->options, tensors);
}

void dw_engine::add_tensor(const char *name, dw_type type, const std::vector<int64_t> &shape,
                           const void *data, int64_t num_bytes) {
    const auto found = tensor_index.find(name);
    if (found == tensor_index.end()) {
        const bool is_known = std::find(wanted.begin(), wanted.end(), name) != wanted.end();
        fail(DW_BAD_TENSOR, is_known ? "%s is given twice" : "%s is no tensor of this model", name);
    }
    const int index = found->second;
    backend->set_tensor(
        index, dw::convert_tensor(tensors[index], type, shape, data, num_bytes).data());
    tensor_index.erase(found);
}

void dw_engine::finish() {
    if (!tensor_index.empty()) {
        std::string names;
        int listed = 0;
        for (const std::string &name : wanted) {
            if (tensor_index.count(name) && listed++ < 3) {
                names += (listed > 1 ? ", " : "") + name;
            }
        }
        fail(DW_BAD_TENSOR, "%zu tensors are missing, such as %s: not a whole Whisper",
             tensor_index.size(), names.c_str());
    }
    backend->finish();
    is_ready = true;
}

void dw_engine::encode(const float *mels, int num, dw_audio **audios, float *features) {
    if (num > static_cast<int>(free_audios.size())) {
        fail(DW_OUT_OF_BLOCKS,
             "%d of %d places for audio are taken: release audio, or raise max_audios",
             options.max_audios - static_cast<int>(free_audios.size()), options.max_audios);
    }
    const std::vector<int> slots(free_audios.rbegin(), free_audios.rbegin() + num);
    const int64_t mel_size = 2ll * dims.n_audio_ctx * dims.n_mels;
    for (int done = 0; done < num; done += options.encode_batch) {
        const int group = std::min(options.encode_batch, num - done);
        backend->encode(mels + done * mel_size, &slots[done], group, done ? nullptr : features);
    }
    free_audios.resize(free_audios.size() - num);
    for (int i = 0; i < num; i++) {
        audios[i] = new dw_audio{this, slots[i]};
    }
}

void dw_engine::release(dw_audio *audio) {
    free_audios.push_back(audio->slot);
    delete audio;
}

void dw_engine::reserve(dw_sequence &sequence, int num_tokens) {
    if (!pool.grow(sequence.blocks, num_tokens)) {
        fail(DW_OUT_OF_BLOCKS,
             "%d tokens need more KV blocks than the %d of %d that are free: wait for other "
             "requests, or raise pool_tokens",
             num_tokens, pool.num_free(), pool.num_total());
    }
}

void dw_engine::truncate(dw_sequence &sequence, int num_tokens) {
    pool.shrink(sequence.blocks, num_tokens);
    sequence.num_tokens = num_tokens;
}

void dw_engine::forward(const std::vector<dw::Row> &rows, dw::Answer *answers, float *logits) {
    const int num = static_cast<int>(rows.size());
    for (int done = 0; done < num; done += backend->max_rows()) {
        const int group = std::min(backend->max_rows(), num - done);
        const std::vector<dw::Row> part(rows.begin() + done, rows.begin() + done + group);
        backend->forward(part, answers ? answers + done : nullptr,
                         logits ? logits + static_cast<int64_t>(done) * dims.n_vocab : nullptr);
    }
}
