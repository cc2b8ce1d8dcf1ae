// The last phase of a token: logits of the whole vocabulary, and which token is next.
#pragma once

#include "token_block.cuh"

namespace dw {

constexpr float kNoLogit = -1e30f;
constexpr int kNoToken = 0x3ffff; // above all others: as many bits as a choice has for it

__device__ inline LogitPart empty_logits() {
    return {kNoLogit, 0.0f, kNoLogit, 0.0f, kNoLogit, kNoToken};
}

__device__ inline LogitPart part_of_one(int token, float logit, bool is_allowed, int no_speech) {
    return {is_allowed ? logit : kNoLogit, is_allowed ? 1.0f : 0.0f, logit, 1.0f,
            token == no_speech ? logit : kNoLogit, is_allowed ? token : kNoToken};
}

__device__ inline void merge_logits(LogitPart &a, const LogitPart &b) {
    const float high = fmaxf(a.high, b.high), best = fmaxf(a.best, b.best);
    a.whole_sum = a.whole_sum * __expf(a.high - high) + b.whole_sum * __expf(b.high - high);
    a.allowed_sum = a.allowed_sum * __expf(a.best - best) + b.allowed_sum * __expf(b.best - best);
    if (b.best > a.best || (b.best == a.best && b.token < a.token)) {
        a.token = b.token;
    }
    a.high = high;
    a.best = best;
    a.no_speech = fmaxf(a.no_speech, b.no_speech);
}

// With that of the lane `distance` (exclusive or) away.
__device__ inline void merge_lanes(LogitPart &part, int distance) {
    LogitPart other;
    other.best = __shfl_xor_sync(0xffffffff, part.best, distance);
    other.allowed_sum = __shfl_xor_sync(0xffffffff, part.allowed_sum, distance);
    other.high = __shfl_xor_sync(0xffffffff, part.high, distance);
    other.whole_sum = __shfl_xor_sync(0xffffffff, part.whole_sum, distance);
    other.no_speech = __shfl_xor_sync(0xffffffff, part.no_speech, distance);
    other.token = __shfl_xor_sync(0xffffffff, part.token, distance);
    merge_logits(part, other);
}
__device__ inline LogitPart warp_merge_logits(LogitPart part) {
#pragma unroll 1
    for (int distance = 16; distance > 0; distance /= 2) {
        merge_lanes(part, distance);
    }
    return part;
}

// By one thread: a block's best logit in one word: its bits, 14 bits of the step's tag and 18 of the
// token. That is all that the next token waits for. Steps take turns with two sets of words: a block
// without a head sends nothing within a step, so that a word may be written again only after its next
// choice. Launches take turns, too: 14 bits tell apart what is a few launches old, and no more.
__device__ inline uint64_t *choice_of(const TokenRun &r, int step, int block) {
    return r.choices + ((r.launch + step) & 1) * static_cast<int>(gridDim.x) + block;
}
__device__ inline void send_choice(const TokenRun &r, int step, float best, int token, uint32_t tag) {
    const uint64_t choice = uint64_t{__float_as_uint(best)} << 32 | (tag & 0x3fff) << 18 |
                            static_cast<uint32_t>(token);
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(choice_of(r, step, blockIdx.x)), "l"(choice)
                 : "memory");
}
__device__ inline bool is_choice_of(uint64_t word, uint32_t tag) {
    return (static_cast<uint32_t>(word) >> 18) == (tag & 0x3fff);
}
__device__ inline float logit_in(uint64_t word) {
    return __uint_as_float(static_cast<uint32_t>(word >> 32));
}
__device__ inline int token_in(uint64_t word) { return static_cast<int>(word & kNoToken); }

// The sums, in words of their own.
__device__ inline void send_sums(const TokenRun &r, const LogitPart &part, uint32_t tag) {
    uint64_t *words = r.logit_parts + blockIdx.x * 4;
    send(words, part.allowed_sum, tag);
    send(words + 1, part.high, tag);
    send(words + 2, part.whole_sum, tag);
    send(words + 3, part.no_speech, tag);
}

__device__ inline void receive_choice(const TokenRun &r, int step, int block, uint32_t tag,
                                      float &best, int &token) {
    uint64_t word;
    do {
        word = load_shared_word(choice_of(r, step, block));
    } while (!is_choice_of(word, tag));
    best = logit_in(word);
    token = token_in(word);
}

// Wait for all blocks: the token of the largest logit, in every lane of the warp. A lane asks for four
// blocks' words at once: one after the other would take four times as long.
__device__ inline int await_token(const TokenRun &r, int step, uint32_t tag) {
    const int num = static_cast<int>(gridDim.x);
    float best = -INFINITY;
    int token = kNoToken;
#pragma unroll 1
    for (int first = threadIdx.x % 32; first < num; first += 128) {
        uint64_t words[4];
        bool is_missing;
        do {
            is_missing = false;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                words[i] = load_shared_word(choice_of(r, step, min(first + i * 32, num - 1)));
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                is_missing |= !is_choice_of(words[i], tag);
            }
        } while (is_missing);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            take_better(best, token, logit_in(words[i]), token_in(words[i]));
        }
    }
    warp_best(best, token);
    return min(token, r.n_vocab - 1); // even if every logit is NaN
}

// The same with the sums, for the probabilities: one warp of one block does it.
__device__ inline LogitPart await_choice(const TokenRun &r, int step, uint32_t tag) {
    LogitPart part = empty_logits();
#pragma unroll 1
    for (int block = threadIdx.x % 32; block < static_cast<int>(gridDim.x); block += 32) {
        LogitPart other;
        receive_choice(r, step, block, tag, other.best, other.token);
        const uint64_t *words = r.logit_parts + block * 4;
        other.allowed_sum = receive(words, tag);
        other.high = receive(words + 1, tag);
        other.whole_sum = receive(words + 2, tag);
        other.no_speech = receive(words + 3, tag);
        merge_logits(part, other);
    }
    return warp_merge_logits(part);
}

// How many answers there are after step `step`: the last input gives the first.
__device__ inline int answers_after(const TokenRun &r, int step) { return step - r.num_inputs + 2; }

// By a warp of one block: what the host wants to know of the step.
__device__ inline void report(const TokenRun &r, int step, const LogitPart &all) {
    if (threadIdx.x % 32 == 0 && step == r.sot_index) {
        r.answers->no_speech_prob = __expf(all.no_speech - all.high) / all.whole_sum;
    }
    const int num = answers_after(r, step);
    if (threadIdx.x % 32 == 0 && num > 0) {
        r.answers->tokens[num - 1] = min(all.token, r.n_vocab - 1);
        r.answers->logprobs[num - 1] = -logf(all.allowed_sum);
        r.answers->num = num;
    }
}

// The end of a step: logits if they are wanted, make(forbidden) for a part in each group of eight lanes,
// and the token that all blocks agree on. What they wrote before is there for all of them after the next
// workers_sync(). Returns whether the step's token is an answer; then it is s.token.
//
// One warp sends the choice, the next the sums, on which no token depends; the last one awaits.
template <class Shared, class Make>
__device__ inline bool end_step(const TokenRun &r, Shared &s, int step, uint32_t tag, Make make) {
    static_assert(kTokenWarps == 8); // four parts of each are one of each lane
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bool is_answer = answers_after(r, step) > 0, is_wanted = is_answer || step == r.sot_index;
    if (threadIdx.x == 0) {
        fence(); // keys, values and the like go before this block's choice
    }
    if (is_wanted) {
        const LogitPart part = make(r.is_first && step == r.num_inputs - 1 ? 3 : 1);
        if (lane % 8 == 0) {
            s.logit_parts[warp * 4 + lane / 8] = part;
        }
        workers_sync();
    }
    if (warp == 0) {
        float best = is_wanted ? s.logit_parts[lane].best : kNoLogit;
        int token = is_wanted ? s.logit_parts[lane].token : kNoToken;
        warp_best(best, token);
        if (lane == 0) {
            send_choice(r, step, best, token, tag);
        }
    } else if (warp == 1 && is_wanted) {
        const LogitPart part = warp_merge_logits(s.logit_parts[lane]);
        if (lane == 0) {
            send_sums(r, part, tag);
        }
        if (blockIdx.x == 0) {
            report(r, step, await_choice(r, step, tag));
        }
    } else if (warp == kTokenWarps - 1) {
        const int chosen = await_token(r, step, tag);
        if (lane == 0) {
            s.token = chosen;
        }
    }
    workers_sync();
    if (warp == kTokenWarps - 1) {
        fence(); // by the lanes that know that all have come so far
    }
    return is_answer;
}

} // namespace dw
