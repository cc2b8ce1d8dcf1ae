// The C interface: checks what callers hand in and turns failures into statuses.
#include <new>

#include "engine.h"
#include "failure.h"
#include "greedy.h"

using dw::fail;

namespace {

thread_local std::string last_error;

template <typename Body> dw_status guarded(Body body) {
    try {
        body();
        return DW_OK;
    } catch (const dw::Failure &failure) {
        last_error = failure.what();
        return failure.status;
    } catch (const std::bad_alloc &) {
        last_error = "the host's memory is used up";
        return DW_OUT_OF_MEMORY;
    }
}

void require(bool is_right, const char *what) {
    if (!is_right) {
        fail(DW_BAD_ARGUMENT, "%s", what);
    }
}

void require_ready(const dw_engine *engine) {
    require(engine != nullptr, "engine is null");
    require(engine->is_ready, "dw_finish has not been called on this engine");
}

void require_audio(const dw_engine *engine, const dw_audio *audio) {
    require(audio != nullptr && audio->engine == engine, "audio is null or of another engine");
}

} // namespace

int32_t dw_abi_version(void) { return DW_ABI_VERSION; }

const char *dw_build_info(void) { return dw::build_info(); }

const char *dw_last_error(void) { return last_error.c_str(); }

dw_status dw_create(const dw_dimensions *dimensions, const dw_options *options,
                    dw_engine **engine) {
    return guarded([&] {
        require(dimensions && options && engine, "dw_create was given a null pointer");
        *engine = new dw_engine(*dimensions, *options);
    });
}

dw_status dw_add_tensor(dw_engine *engine, const char *name, dw_type type, int32_t ndim,
                        const int64_t *shape, const void *data, int64_t num_bytes) {
    return guarded([&] {
        require(engine && name && data, "dw_add_tensor was given a null pointer");
        require(!engine->is_ready, "the engine is finished and takes no more tensors");
        require(ndim >= 0 && ndim <= 4 && (shape || ndim == 0), "a tensor has 0 to 4 dimensions");
        engine->add_tensor(name, type, {shape, shape + ndim}, data, num_bytes);
    });
}

int32_t dw_num_tensors(const dw_engine *engine) {
    return engine ? static_cast<int32_t>(engine->wanted.size()) : 0;
}

const char *dw_tensor_name(const dw_engine *engine, int32_t index) {
    return index >= 0 && index < dw_num_tensors(engine) ? engine->wanted[index].c_str() : nullptr;
}

dw_status dw_finish(dw_engine *engine) {
    return guarded([&] {
        require(engine != nullptr, "engine is null");
        require(!engine->is_ready, "the engine is finished already");
        engine->finish();
    });
}

void dw_destroy(dw_engine *engine) { delete engine; }

dw_status dw_memory(const dw_engine *engine, dw_memory_info *info) {
    return guarded([&] {
        require(engine && info, "dw_memory was given a null pointer");
        *info = {};
        engine->backend->memory(*info);
        info->blocks_total = engine->pool.num_total();
        info->blocks_free = engine->pool.num_free();
        info->audios_total = engine->options.max_audios;
        info->audios_free = static_cast<int32_t>(engine->free_audios.size());
    });
}

dw_status dw_encode(dw_engine *engine, const float *mel, dw_audio **audio) {
    return dw_encode_features(engine, mel, audio, nullptr);
}

dw_status dw_encode_batch(dw_engine *engine, const float *mels, int32_t num, dw_audio **audios) {
    return guarded([&] {
        require_ready(engine);
        require(mels && audios && num > 0, "dw_encode_batch was given nothing to encode");
        engine->encode(mels, num, audios, nullptr);
    });
}

dw_status dw_encode_features(dw_engine *engine, const float *mel, dw_audio **audio,
                             float *features) {
    return guarded([&] {
        require_ready(engine);
        require(mel && audio, "dw_encode was given a null pointer");
        engine->encode(mel, 1, audio, features);
    });
}

void dw_audio_release(dw_audio *audio) {
    if (audio) {
        audio->engine->release(audio);
    }
}

dw_status dw_decode(dw_engine *engine, dw_audio *audio, const dw_request *request,
                    dw_result *result) {
    return guarded([&] {
        require_ready(engine);
        require_audio(engine, audio);
        require(request && result, "dw_decode was given a null pointer");
        dw::check_request(*engine, *request, *result);
        dw::greedy_decode(*engine, audio, *request, *result);
    });
}

dw_status dw_decode_batch(dw_engine *engine, int32_t num, dw_audio *const *audios,
                          const dw_request *requests, dw_result *results, dw_status *statuses) {
    return guarded([&] {
        require_ready(engine);
        require(audios && requests && results && statuses, "dw_decode_batch got a null pointer");
        require(num > 0 && num <= engine->options.max_batch, "num is not from 1 to max_batch");
        for (int i = 0; i < num; i++) {
            require_audio(engine, audios[i]);
            require(requests[i].num_draft == 0, "a batch takes no drafts");
            dw::check_request(*engine, requests[i], results[i]);
        }
        dw::greedy_decode_batch(*engine, num, audios, requests, results, statuses);
    });
}

dw_status dw_sequence_open(dw_engine *engine, dw_audio *audio, dw_sequence **sequence) {
    return guarded([&] {
        require_ready(engine);
        require_audio(engine, audio);
        require(sequence != nullptr, "sequence is null");
        *sequence = new dw_sequence{engine, audio, {}, 0, {}};
    });
}

dw_status dw_sequence_advance(dw_sequence *sequence, const int32_t *tokens, int32_t num,
                              float *logits) {
    return guarded([&] {
        require(sequence && tokens && num > 0, "dw_sequence_advance was given nothing to do");
        dw_engine &engine = *sequence->engine;
        require(num <= engine.dims.n_text_ctx - sequence->num_tokens,
                "the sequence would be longer than n_text_ctx");
        std::vector<dw::Row> rows;
        for (int i = 0; i < num; i++) {
            require(tokens[i] >= 0 && tokens[i] < engine.dims.n_vocab,
                    "a token is outside of the vocabulary");
            rows.push_back({sequence, tokens[i], sequence->num_tokens + i, false});
        }
        engine.reserve(*sequence, sequence->num_tokens + num);
        engine.forward(rows, nullptr, logits);
        sequence->num_tokens += num;
    });
}

dw_status dw_sequence_truncate(dw_sequence *sequence, int32_t num) {
    return guarded([&] {
        require(sequence && num >= 0 && num <= sequence->num_tokens,
                "a sequence cannot be cut to more tokens than it has");
        sequence->engine->truncate(*sequence, num);
    });
}

void dw_sequence_close(dw_sequence *sequence) {
    if (sequence) {
        sequence->engine->truncate(*sequence, 0);
        delete sequence;
    }
}
