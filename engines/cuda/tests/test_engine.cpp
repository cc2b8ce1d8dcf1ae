// Two libraries that implement duplex_whisper.h, call by call on the same random weights; then
// what only one of them can show: blocks, refusals, leaks and time.
//
//   test_engine compare LIBRARY REFERENCE [small|real]
//   test_engine leaks LIBRARY UTTERANCES
//   test_engine time LIBRARY [REPEATS [MODEL]]: MODEL as the lines begin
//   test_engine once LIBRARY: a few calls at base.en's sizes, for a profiler
#include <algorithm>
#include <chrono>

#include "library.h"

namespace {

int failures = 0;

void expect(bool is_right, const char *what) {
    if (!is_right) {
        std::printf("  FAILED: %s\n", what);
        failures++;
    }
}

double relative_error(const std::vector<float> &x, const std::vector<float> &reference) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < x.size(); i++) {
        difference += std::pow(double(x[i]) - reference[i], 2);
        size += std::pow(double(reference[i]), 2);
    }
    return std::sqrt(difference / size); // NaN is never below a limit
}

struct Decoded {
    std::vector<int32_t> tokens;
    std::vector<float> logprobs;
    dw_result result;
};

Decoded decode(const Library &library, dw_engine *engine, dw_audio *audio,
               const std::vector<int32_t> &prompt, int max_new_tokens,
               const std::vector<int32_t> &draft = {}) {
    Decoded d;
    d.tokens.resize(max_new_tokens);
    d.logprobs.resize(max_new_tokens + 1);
    d.result = {};
    d.result.tokens = d.tokens.data(), d.result.logprobs = d.logprobs.data();
    dw_request request{};
    request.prompt = prompt.data(), request.num_prompt = static_cast<int>(prompt.size());
    request.draft = draft.data(), request.num_draft = static_cast<int>(draft.size());
    request.max_new_tokens = max_new_tokens;
    library.check(library.dw_decode(engine, audio, &request, &d.result), "dw_decode");
    d.tokens.resize(d.result.num_tokens);
    d.logprobs.resize(d.result.num_logprobs);
    return d;
}

// How far the reference's two best logits are apart where the tokens part; 0 if they never do.
double margin_at_difference(const Library &reference, dw_engine *engine, dw_audio *audio,
                            const std::vector<int32_t> &prompt, const Decoded &a, const Decoded &b,
                            int n_vocab) {
    size_t same = 0;
    while (same < a.tokens.size() && same < b.tokens.size() && a.tokens[same] == b.tokens[same]) {
        same++;
    }
    if (same == a.tokens.size() && same == b.tokens.size()) {
        return 0;
    }
    std::vector<int32_t> tokens(prompt);
    tokens.insert(tokens.end(), a.tokens.begin(), a.tokens.begin() + same);
    dw_sequence *sequence;
    reference.check(reference.dw_sequence_open(engine, audio, &sequence), "open");
    std::vector<float> logits(tokens.size() * n_vocab);
    reference.check(reference.dw_sequence_advance(sequence, tokens.data(),
                                                  static_cast<int>(tokens.size()), logits.data()),
                    "advance");
    reference.dw_sequence_close(sequence);
    std::vector<float> last(logits.end() - n_vocab, logits.end());
    for (int token : {1, 5, 9}) {
        last[token] = -1e30f;
    }
    std::nth_element(last.begin(), last.begin() + 1, last.end(), std::greater<float>());
    std::printf("  tokens part at %zu of %zu, margin %.4f\n", same, a.tokens.size(), last[0] - last[1]);
    return last[0] - last[1];
}

void compare(const Library &library, const Library &reference, const RandomModel &model) {
    std::printf("%s\n", model.name.c_str());
    dw_engine *engine = model.load(library), *plain = model.load(reference);
    const int n_vocab = model.dims.n_vocab;
    const std::vector<float> mel = model.mel(1);
    std::vector<float> x(int64_t{model.dims.n_audio_ctx} * model.dims.n_audio_state), y(x.size());
    dw_audio *audio, *plain_audio, *second;
    library.check(library.dw_encode_features(engine, mel.data(), &audio, x.data()), "encode");
    reference.check(reference.dw_encode_features(plain, mel.data(), &plain_audio, y.data()), "encode");
    const double features_error = relative_error(x, y);
    expect(features_error < 1e-2, "encoder features within 1e-2");

    const std::vector<int32_t> tokens = {10, 11, 7, 8, 12, 3, 15};
    const int num = static_cast<int>(tokens.size());
    std::vector<float> logits(num * n_vocab), plain_logits(logits.size()), again(logits.size());
    dw_sequence *sequence, *other;
    library.check(library.dw_sequence_open(engine, audio, &sequence), "open");
    library.check(library.dw_sequence_advance(sequence, tokens.data(), num, logits.data()), "advance");
    dw_sequence *plain_sequence;
    reference.check(reference.dw_sequence_open(plain, plain_audio, &plain_sequence), "open");
    reference.check(reference.dw_sequence_advance(plain_sequence, tokens.data(), num,
                                                  plain_logits.data()), "advance");
    reference.dw_sequence_close(plain_sequence);
    const double logits_error = relative_error(logits, plain_logits);
    expect(logits_error < 1e-2, "logits within 1e-2");

    // The same tokens one by one beside another sequence that takes blocks in between, on audio
    // encoded by the recorded graph: the same logits to the last bit.
    library.check(library.dw_encode(engine, mel.data(), &second), "encode");
    library.check(library.dw_sequence_truncate(sequence, 2), "truncate");
    library.check(library.dw_sequence_open(engine, second, &other), "open");
    bool is_same = true;
    for (int i = 0; i < num; i++) {
        library.check(library.dw_sequence_advance(other, &tokens[i], 1, again.data()), "advance");
        is_same &= !std::memcmp(again.data(), &logits[i * n_vocab], n_vocab * 4);
        if (i >= 2) {
            library.check(library.dw_sequence_advance(sequence, &tokens[i], 1, again.data()), "advance");
            is_same &= !std::memcmp(again.data(), &logits[i * n_vocab], n_vocab * 4);
        }
    }
    expect(is_same, "one by one, in other blocks and after truncating: the same logits");
    library.dw_sequence_close(other);
    library.dw_sequence_close(sequence);

    for (const std::vector<int32_t> &prompt :
         {std::vector<int32_t>{10}, {10, 11}, {10, 11, 7, 8}, {10, 11, 7, 8, 12, 13}}) {
        // In the small sizes as many as there is room for; the real ones' reference is slow.
        const int max_new = model.dims.n_text_ctx < 448 ? model.dims.n_text_ctx - 6 : 40;
        const Decoded a = decode(library, engine, audio, prompt, max_new);
        const Decoded b = decode(reference, plain, plain_audio, prompt, max_new);
        const double margin =
            margin_at_difference(reference, plain, plain_audio, prompt, b, a, n_vocab);
        expect(margin < 0.05, "tokens differ only where the reference hardly decides");
        expect(std::abs(a.result.no_speech_prob - b.result.no_speech_prob) <
                   0.02f * b.result.no_speech_prob + 1e-6f, "no_speech_prob");
        if (margin == 0) {
            expect(a.result.end_reason == b.result.end_reason, "end reason");
            for (size_t i = 0; i < a.logprobs.size(); i++) {
                expect(std::abs(a.logprobs[i] - b.logprobs[i]) < 0.05f, "logprobs");
            }
        }
        for (int kept : {1, 5, 30}) { // a draft that is right so far, then wrong
            std::vector<int32_t> draft(a.tokens.begin(),
                                       a.tokens.begin() + std::min<size_t>(kept, a.tokens.size()));
            draft.push_back(14);
            const Decoded c = decode(library, engine, second, prompt, max_new, draft);
            if (c.tokens != a.tokens) {
                expect(margin_at_difference(reference, plain, plain_audio, prompt, a, c, n_vocab) <
                           0.05, "any draft gives the same tokens");
            }
        }
    }
    dw_memory_info memory;
    library.check(library.dw_memory(engine, &memory), "memory");
    expect(memory.blocks_free == memory.blocks_total, "all blocks are back");
    std::printf("  relative error: features %.2e, logits %.2e; blocks %d\n", features_error,
                logits_error, memory.blocks_total);
    library.dw_audio_release(second);
    library.dw_audio_release(audio);
    reference.dw_audio_release(plain_audio);
    library.dw_destroy(engine);
    reference.dw_destroy(plain);
}

// Several at once give what each gives alone; who finds no block is refused, the others are not.
void compare_batch(const Library &library, RandomModel model) {
    std::printf("%s: batch\n", model.name.c_str());
    model.max_batch = 6, model.max_audios = 6, model.pool_tokens = 5 * 32;
    dw_engine *engine = model.load(library);
    const int n = 6, max_new = 24;
    std::vector<float> mels;
    for (int i = 0; i < n; i++) {
        const std::vector<float> mel = model.mel(i);
        mels.insert(mels.end(), mel.begin(), mel.end());
    }
    dw_audio *audios[n];
    library.check(library.dw_encode_batch(engine, mels.data(), n, audios), "encode_batch");
    dw_audio *extra;
    expect(library.dw_encode(engine, mels.data(), &extra) == DW_OUT_OF_BLOCKS, "no place for audio");
    const std::vector<int32_t> prompt = {10, 11};
    std::vector<int32_t> tokens(n * max_new);
    std::vector<float> logprobs(n * (max_new + 1));
    dw_request requests[n];
    dw_result results[n];
    dw_status statuses[n];
    for (int i = 0; i < n; i++) {
        requests[i] = {};
        requests[i].prompt = prompt.data(), requests[i].num_prompt = 2;
        requests[i].max_new_tokens = max_new;
        results[i] = {&tokens[i * max_new], &logprobs[i * (max_new + 1)], 0, 0, 0, 0, 0};
    }
    library.check(library.dw_decode_batch(engine, n, audios, requests, results, statuses), "batch");
    int refused = 0, different = 0;
    for (int i = 0; i < n; i++) {
        refused += statuses[i] == DW_OUT_OF_BLOCKS;
        const Decoded alone = decode(library, engine, audios[i], prompt, max_new);
        const size_t made = results[i].num_tokens;
        different += statuses[i] == DW_OK && made != alone.tokens.size();
        for (size_t t = 0; t < std::min(made, alone.tokens.size()); t++) {
            if (alone.tokens[t] != results[i].tokens[t]) {
                different++;
                break;
            }
        }
        library.dw_audio_release(audios[i]);
    }
    dw_memory_info memory;
    library.check(library.dw_memory(engine, &memory), "memory");
    expect(memory.blocks_free == memory.blocks_total, "all blocks are back");
    std::printf("  %d refused, %d of the rest differ from one alone\n", refused, different);
    expect(different <= 1, "a batch gives what each gives alone");
    library.dw_destroy(engine);
}

int calls_left;
int32_t stop_by_and_by(void *) { return calls_left-- <= 0; }

void leaks(const Library &library, RandomModel model, int utterances) {
    model.pool_tokens = 96;
    dw_engine *engine = model.load(library);
    const std::vector<float> mel = model.mel(3);
    Noise noise(5);
    dw_memory_info before{}, after{};
    std::vector<int32_t> tokens(64), draft(8);
    std::vector<float> logprobs(65);
    std::vector<dw_audio *> held;
    std::vector<dw_sequence *> open;
    int refused = 0, stopped = 0;
    for (int i = 0; i < utterances; i++) {
        if (i == std::min(20, utterances / 2)) { // after whatever CUDA sets up at first use
            library.check(library.dw_memory(engine, &before), "memory");
        }
        dw_audio *audio;
        library.check(library.dw_encode(engine, mel.data(), &audio), "encode");
        dw_sequence *sequence;
        library.check(library.dw_sequence_open(engine, audio, &sequence), "open");
        const dw_status status =
            library.dw_sequence_advance(sequence, draft.data(), 1 + noise.below(8), nullptr);
        refused += status == DW_OUT_OF_BLOCKS;
        held.push_back(audio);
        open.push_back(sequence);
        std::vector<int32_t> prompt(1 + noise.below(6), 10);
        dw_request request{};
        request.prompt = prompt.data(), request.num_prompt = static_cast<int>(prompt.size());
        request.draft = draft.data(), request.num_draft = noise.below(3) ? 0 : noise.below(8);
        request.max_new_tokens = noise.below(50);
        request.stop_on_repetition = noise.below(2);
        calls_left = noise.below(6);
        request.should_stop = stop_by_and_by;
        dw_result result{tokens.data(), logprobs.data(), 0, 0, 0, 0, 0};
        const dw_status decoded = library.dw_decode(engine, audio, &request, &result);
        if (decoded != DW_OUT_OF_BLOCKS) {
            library.check(decoded, "dw_decode");
        }
        refused += decoded == DW_OUT_OF_BLOCKS;
        stopped += decoded == DW_OK && result.end_reason == DW_STOPPED;
        while (held.size() > static_cast<size_t>(noise.below(3))) {
            library.dw_sequence_close(open.back());
            library.dw_audio_release(held.back());
            open.pop_back();
            held.pop_back();
        }
    }
    while (!held.empty()) {
        library.dw_sequence_close(open.back());
        library.dw_audio_release(held.back());
        open.pop_back();
        held.pop_back();
    }
    library.check(library.dw_memory(engine, &after), "memory");
    std::printf("%d utterances: %d stopped, %d refused; blocks free %d of %d, audios %d of %d; "
                "free memory changed by %lld bytes\n", utterances, stopped, refused,
                after.blocks_free, after.blocks_total, after.audios_free, after.audios_total,
                static_cast<long long>(after.device_free_bytes - before.device_free_bytes));
    expect(after.blocks_free == after.blocks_total && after.audios_free == after.audios_total,
           "all blocks and places are back");
    expect(after.device_free_bytes == before.device_free_bytes, "GPU memory is flat");
    library.dw_destroy(engine);
}

double now_ms() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration<double, std::milli>(now).count();
}

template <class Body> double median_ms(int repeats, Body body) {
    std::vector<double> times;
    for (int i = 0; i < repeats + 5; i++) {
        const double start = now_ms();
        body();
        if (i >= 5) {
            times.push_back(now_ms() - start);
        }
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

// Medians; a token's time is the slope between 2 and 26 tokens.
void time_model(const Library &library, RandomModel model, int repeats) {
    model.never_ends = true;
    dw_engine *engine = model.load(library);
    const std::vector<float> mel = model.mel(1);
    const std::vector<int32_t> prompt = {10, 11};
    dw_audio *audio;
    const double encode = median_ms(repeats, [&] {
        library.check(library.dw_encode(engine, mel.data(), &audio), "encode");
        library.dw_audio_release(audio);
    });
    library.check(library.dw_encode(engine, mel.data(), &audio), "encode");
    const double two = median_ms(repeats, [&] { decode(library, engine, audio, prompt, 2); });
    const double all = median_ms(repeats, [&] { decode(library, engine, audio, prompt, 26); });
    const std::vector<int32_t> draft = decode(library, engine, audio, prompt, 20).tokens;
    const double drafted =
        median_ms(repeats, [&] { decode(library, engine, audio, prompt, 20, draft); });
    const double whole = median_ms(repeats, [&] {
        dw_audio *own;
        library.check(library.dw_encode(engine, mel.data(), &own), "encode");
        decode(library, engine, own, prompt, 26);
        library.dw_audio_release(own);
    });
    dw_memory_info m;
    library.check(library.dw_memory(engine, &m), "memory");
    std::printf("%-24s encode %.3f ms, token %.1f us, 26 tokens %.3f ms, 20 drafted %.3f ms, in all "
                "%.3f ms; weights %.1f MB, rest %.1f MB\n", model.name.c_str(), encode,
                (all - two) / 24 * 1000, all, drafted, whole, m.weight_bytes / 1e6,
                (m.audio_bytes + m.pool_bytes + m.scratch_bytes) / 1e6);
    library.dw_audio_release(audio);
    library.dw_destroy(engine);
}

} // namespace

int main(int count, char **arguments) {
    const std::string what = count > 2 ? arguments[1] : "";
    const Library library(count > 2 ? arguments[2] : "");
    const RandomModel small = whisper("small sizes", 128, 2, 2, 301, 80, 70, 64);
    // Heads for which there is a cluster kernel; layers enough for its ring to come round. 60
    // positions: some warps of the attentions have no key at all.
    const RandomModel in_clusters[] = {whisper("6 heads", 384, 1, 3, 300, 80, 60, 64),
                                       whisper("8 heads", 512, 1, 3, 3001, 80, 301, 150),
                                       whisper("12 heads", 768, 1, 3, 301, 80, 700, 64)};
    // A row of 192 columns in int4 is no whole number of 64 bytes.
    const RandomModel odd = whisper("3 heads", 192, 1, 2, 301, 80, 60, 64);
    const RandomModel demo = whisper("demo", 192, 3, 2, 1784, 80, 1500, 64);
    const RandomModel tiny = whisper("tiny.en", 384, 4, 4, 51864);
    const RandomModel base = whisper("base.en", 512, 6, 6, 51864);
    const RandomModel small_en = whisper("small.en", 768, 12, 12, 51864);
    const RandomModel turbo = whisper("large-v3-turbo", 1280, 32, 4, 51866, 128);
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    if (what == "compare" && count > 3) {
        const Library reference(arguments[3]);
        const std::string size = count > 4 ? arguments[4] : "small";
        compare(library, reference, small);
        for (const RandomModel &model : {small, odd}) {
            for (dw_type embedding : {DW_INT8, DW_INT4}) {
                const RandomModel packed = in_type(model, DW_INT4, embedding);
                compare(library, reference, packed);
                compare(library, reference, on_eight(packed));
            }
            compare(library, reference, in_type(model, DW_INT8, DW_INT8));
            compare(library, reference, on_eight(in_type(model, DW_INT8, DW_INT8)));
        }
        compare_batch(library, small);
        for (const RandomModel &model : in_clusters) {
            compare(library, reference, model);
            compare(library, reference, portable(model));
            compare(library, reference, on_eight(model));
        }
        if (size == "real") {
            compare(library, reference, demo);
            compare(library, reference, tiny);
            compare(library, reference, base);
            compare(library, reference, in_type(base, DW_INT8, DW_INT8));
            compare(library, reference, in_type(base, DW_INT4, DW_INT8));
            compare(library, reference, small_en);
        }
    } else if (what == "leaks" && count > 3) {
        leaks(library, whisper("leaks", 64, 1, 2, 300, 80, 60, 64), std::atoi(arguments[3]));
        leaks(library, in_clusters[0], (std::atoi(arguments[3]) + 3) / 4);
    } else if (what == "time") {
        const int repeats = count > 3 ? std::atoi(arguments[3]) : 50;
        const RandomModel base_int8 = in_type(base, DW_INT8, DW_INT8),
                          base_int4 = in_type(base, DW_INT4, DW_INT8);
        for (RandomModel model :
             {base, portable(base), base_int8, base_int4, small_en, portable(small_en), tiny, turbo,
              on_eight(base), on_eight(base_int8), on_eight(base_int4), on_eight(small_en)}) {
            if (count > 4 && model.name != arguments[4]) {
                continue;
            }
            model.max_audios = 2, model.encode_batch = 1;
            time_model(library, model, repeats);
        }
    } else if (what == "once") {
        RandomModel model = base;
        model.never_ends = true;
        dw_engine *engine = model.load(library);
        dw_audio *audio;
        std::vector<float> features(int64_t{model.dims.n_audio_ctx} * model.dims.n_audio_state);
        library.check(library.dw_encode_features(engine, model.mel(1).data(), &audio,
                                                 features.data()), "encode");
        decode(library, engine, audio, {10, 11}, 26);
        library.dw_audio_release(audio);
        library.dw_destroy(engine);
    } else {
        std::printf("usage: see the top of test_engine.cpp\n");
        return 2;
    }
    std::printf(failures ? "%d FAILURES\n" : "all good\n", failures);
    return failures != 0;
}
