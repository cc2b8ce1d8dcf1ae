#include "greedy.h"

#include <algorithm>
#include <chrono>
#include <list>

#include "failure.h"

namespace dw {
namespace {

constexpr int kMaxPatternTokens = 16;
constexpr int kMinRepeatedTokens = 24;
constexpr int kMinRepeats = 4;
// Tokens without the host in between are fast, but whoever wants to stop waits for them.
constexpr double kLookMs = 8;

using Clock = std::chrono::steady_clock;
double ms_since(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

bool should_stop(const dw_request &request) {
    return request.should_stop != nullptr && request.should_stop(request.user) != 0;
}

void begin(dw_result &result) {
    result.num_tokens = result.num_logprobs = result.num_drafted = 0;
    result.end_reason = DW_MAX_TOKENS;
    result.no_speech_prob = 0;
}

// Takes one answer over; returns whether the decoding goes on.
bool take(const dw_engine &engine, const dw_request &request, dw_result &result,
          const Answer &answer) {
    result.logprobs[result.num_logprobs++] = answer.logprob;
    if (answer.token == engine.options.eot) {
        result.end_reason = DW_END_TOKEN;
        return false;
    }
    result.tokens[result.num_tokens++] = answer.token;
    if (request.stop_on_repetition && repeats_itself(result.tokens, result.num_tokens)) {
        result.end_reason = DW_REPETITION;
        return false;
    }
    return result.num_tokens < request.max_new_tokens;
}

std::vector<Row> prompt_rows(dw_sequence &sequence, const dw_request &request, int num_draft) {
    std::vector<Row> rows;
    for (int i = 0; i < request.num_prompt + num_draft; i++) {
        const bool is_prompt = i < request.num_prompt;
        const int32_t token = is_prompt ? request.prompt[i] : request.draft[i - request.num_prompt];
        rows.push_back({&sequence, token, i, i == request.num_prompt - 1});
    }
    return rows;
}

// The prompt and the draft in one pass. Returns whether the decoding goes on after the tokens
// that draft and greedy decoding have in common, and the one after.
bool decode_prompt(dw_engine &engine, dw_sequence &sequence, const dw_request &request,
                   dw_result &result) {
    const int num_draft = std::min(request.num_draft, request.max_new_tokens);
    const std::vector<Row> rows = prompt_rows(sequence, request, num_draft);
    engine.reserve(sequence, static_cast<int>(rows.size()));
    std::vector<Answer> answers(rows.size());
    engine.forward(rows, answers.data(), nullptr);
    if (engine.options.no_speech >= 0) {
        result.no_speech_prob = answers[request.sot_index].no_speech_prob;
    }
    if (request.max_new_tokens == 0) {
        return false;
    }
    for (int i = 0; take(engine, request, result, answers[request.num_prompt - 1 + i]); i++) {
        if (i == num_draft || request.draft[i] != result.tokens[i]) {
            engine.truncate(sequence, request.num_prompt + i);
            return true;
        }
        result.num_drafted = i + 1;
    }
    return false;
}

// One chunk of tokens; returns whether the decoding goes on.
bool decode_chunk(dw_engine &engine, Generation &generation, const dw_request &request,
                  dw_result &result) {
    const int num_inputs = static_cast<int>(generation.inputs.size());
    const int soon = std::max(1, static_cast<int>(kLookMs / engine.token_ms));
    generation.num_new =
        std::min({engine.options.chunk_tokens, soon, request.max_new_tokens - result.num_tokens});
    // A chunk is what may come: tokens that will hardly be made are no reason to refuse the others.
    const int taken = generation.position + num_inputs - 1;
    const int room = engine.pool.room(generation.sequence->blocks) - taken;
    generation.num_new = std::min(generation.num_new, std::max(room, 1));
    engine.reserve(*generation.sequence, taken + generation.num_new);
    Answer answers[kMaxChunkTokens];
    const Clock::time_point start = Clock::now();
    const int num = engine.backend->generate(generation, answers, &result.no_speech_prob);
    engine.token_ms = std::max(ms_since(start) / (num_inputs - 1 + num), 1e-3);
    for (int i = 0; i < num; i++) {
        if (!take(engine, request, result, answers[i])) {
            return false;
        }
    }
    generation.position += num_inputs - 1 + num;
    generation.inputs = {answers[num - 1].token};
    generation.sot_index = -1;
    generation.is_first = false;
    return true;
}

} // namespace

void check_request(const dw_engine &engine, const dw_request &request, const dw_result &result) {
    if (request.num_prompt < 1 || request.max_new_tokens < 0 || request.num_draft < 0 ||
        request.num_prompt > engine.dims.n_text_ctx - request.max_new_tokens) {
        fail(DW_BAD_ARGUMENT,
             "a prompt of %d tokens with %d new ones does not fit into n_text_ctx %d",
             request.num_prompt, request.max_new_tokens, engine.dims.n_text_ctx);
    }
    if (request.sot_index < 0 || request.sot_index >= request.num_prompt) {
        fail(DW_BAD_ARGUMENT, "sot_index is %d in a prompt of %d tokens", request.sot_index,
             request.num_prompt);
    }
    if (!request.prompt || !result.logprobs || (!result.tokens && request.max_new_tokens) ||
        (!request.draft && request.num_draft)) {
        fail(DW_BAD_ARGUMENT, "request or result has a null pointer");
    }
    const int num_draft = std::min(request.num_draft, request.max_new_tokens);
    for (int i = 0; i < request.num_prompt + num_draft; i++) {
        const int32_t token =
            i < request.num_prompt ? request.prompt[i] : request.draft[i - request.num_prompt];
        if (token < 0 || token >= engine.dims.n_vocab) {
            fail(DW_BAD_ARGUMENT, "token %d is outside of the vocabulary of %d", token,
                 engine.dims.n_vocab);
        }
    }
}

void greedy_decode(dw_engine &engine, dw_audio *audio, const dw_request &request,
                   dw_result &result) {
    begin(result);
    if (should_stop(request)) {
        result.end_reason = DW_STOPPED;
        return;
    }
    OpenSequence sequence(engine, audio);
    Generation generation{&*sequence, {}, 0, false, -1, 0};
    if (request.num_draft == 0 && request.num_prompt <= kMaxInputs && request.max_new_tokens > 0) {
        generation.inputs.assign(request.prompt, request.prompt + request.num_prompt);
        generation.is_first = true;
        generation.sot_index = engine.options.no_speech >= 0 ? request.sot_index : -1;
    } else {
        if (!decode_prompt(engine, *sequence, request, result)) {
            return;
        }
        generation.inputs = {result.tokens[result.num_tokens - 1]};
        generation.position = request.num_prompt + result.num_tokens - 1;
        if (should_stop(request)) {
            result.end_reason = DW_STOPPED;
            return;
        }
    }
    while (decode_chunk(engine, generation, request, result)) {
        if (should_stop(request)) {
            result.end_reason = DW_STOPPED;
            return;
        }
    }
}

void greedy_decode_batch(dw_engine &engine, int num, dw_audio *const *audios,
                         const dw_request *requests, dw_result *results, dw_status *statuses) {
    std::list<OpenSequence> sequences; // in a list they stay where they are
    std::vector<Row> rows;
    std::vector<int> owners; // of each row's answer: which request
    for (int i = 0; i < num; i++) {
        begin(results[i]);
        statuses[i] = DW_OK;
        if (should_stop(requests[i])) {
            results[i].end_reason = DW_STOPPED;
            continue;
        }
        sequences.emplace_back(engine, audios[i]);
        dw_sequence &sequence = *sequences.back();
        if (!engine.pool.grow(sequence.blocks, requests[i].num_prompt)) {
            statuses[i] = DW_OUT_OF_BLOCKS;
            sequences.pop_back();
            continue;
        }
        for (const Row &row : prompt_rows(sequence, requests[i], 0)) {
            rows.push_back(row);
            owners.push_back(i);
        }
    }
    std::vector<Answer> answers;
    Clock::time_point looked = Clock::now();
    for (int step = 0; !rows.empty(); step++) {
        answers.resize(rows.size());
        engine.forward(rows, answers.data(), nullptr);
        const bool is_look = step % engine.options.chunk_tokens == 0 || ms_since(looked) >= kLookMs;
        looked = is_look ? Clock::now() : looked;
        std::vector<Row> next_rows;
        std::vector<int> next_owners;
        for (size_t r = 0; r < rows.size(); r++) {
            const int i = owners[r];
            const dw_request &request = requests[i];
            dw_sequence &sequence = *rows[r].sequence;
            if (rows[r].position == request.sot_index && engine.options.no_speech >= 0) {
                results[i].no_speech_prob = answers[r].no_speech_prob;
            }
            if (rows[r].position < request.num_prompt - 1) {
                continue;
            }
            bool goes_on = request.max_new_tokens > 0 &&
                           take(engine, request, results[i], answers[r]);
            if (goes_on && is_look && should_stop(request)) {
                results[i].end_reason = DW_STOPPED;
                goes_on = false;
            }
            const int position = rows[r].position + 1;
            if (goes_on && !engine.pool.grow(sequence.blocks, position + 1)) {
                statuses[i] = DW_OUT_OF_BLOCKS;
                goes_on = false;
            }
            if (!goes_on) {
                engine.truncate(sequence, 0);
                continue;
            }
            next_rows.push_back({&sequence, answers[r].token, position, false});
            next_owners.push_back(i);
        }
        rows = std::move(next_rows);
        owners = std::move(next_owners);
    }
}

bool repeats_itself(const int32_t *tokens, int num) {
    for (int length = 1; length <= kMaxPatternTokens; length++) {
        const int span = std::max(kMinRepeatedTokens, kMinRepeats * length);
        if (num < span) {
            return false; // longer patterns need at least as many tokens
        }
        const int32_t *tail = tokens + num - span;
        if (std::equal(tail + length, tail + span, tail)) {
            return true;
        }
    }
    return false;
}

} // namespace dw
