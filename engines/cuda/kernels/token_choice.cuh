// The last phase of a token: logits of the whole vocabulary, and which token is next.
#pragma once

#include "token_block.cuh"

namespace dw {

__device__ inline LogitPart empty_logits() {
    return {-INFINITY, 0.0f, 0x7fffffff, -INFINITY, 0.0f, -INFINITY};
}

// exp(a - b), 0 if a is -infinity (also if both are).
__device__ inline float relative(float a, float b) { return a == -INFINITY ? 0.0f : __expf(a - b); }

__device__ inline void add_logit(LogitPart &part, int token, float logit, bool is_allowed,
                                 bool is_no_speech) {
    const float high = fmaxf(part.high, logit);
    part.whole_sum = part.whole_sum * relative(part.high, high) + relative(logit, high);
    part.high = high;
    if (is_no_speech) {
        part.no_speech = logit;
    }
    if (is_allowed) {
        const float best = fmaxf(part.best, logit);
        part.allowed_sum = part.allowed_sum * relative(part.best, best) + relative(logit, best);
        if (logit > part.best) { // of equals the first one stays
            part.token = token;
        }
        part.best = best;
    }
}

__device__ inline void merge_logits(LogitPart &a, const LogitPart &b) {
    const float high = fmaxf(a.high, b.high), best = fmaxf(a.best, b.best);
    a.whole_sum = a.whole_sum * relative(a.high, high) + b.whole_sum * relative(b.high, high);
    a.allowed_sum = a.allowed_sum * relative(a.best, best) + b.allowed_sum * relative(b.best, best);
    if (b.best > a.best || (b.best == a.best && b.token < a.token)) {
        a.token = b.token;
    }
    a.high = high;
    a.best = best;
    a.no_speech = fmaxf(a.no_speech, b.no_speech);
}

__device__ inline LogitPart warp_merge_logits(LogitPart part) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        LogitPart other;
        other.best = __shfl_xor_sync(0xffffffff, part.best, distance);
        other.allowed_sum = __shfl_xor_sync(0xffffffff, part.allowed_sum, distance);
        other.token = __shfl_xor_sync(0xffffffff, part.token, distance);
        other.high = __shfl_xor_sync(0xffffffff, part.high, distance);
        other.whole_sum = __shfl_xor_sync(0xffffffff, part.whole_sum, distance);
        other.no_speech = __shfl_xor_sync(0xffffffff, part.no_speech, distance);
        merge_logits(part, other);
    }
    return part;
}

// Four sums over a warp's lanes; lane i gets the sum of values[i / 8].
__device__ inline float sum_four(const float (&values)[4]) {
    const bool is_high = threadIdx.x & 16, is_odd = threadIdx.x & 8;
    float a = is_high ? values[2] : values[0], b = is_high ? values[3] : values[1];
    a += __shfl_xor_sync(0xffffffff, is_high ? values[0] : values[2], 16);
    b += __shfl_xor_sync(0xffffffff, is_high ? values[1] : values[3], 16);
    const float kept = is_odd ? b : a;
    return warp_sum<8>(kept + __shfl_xor_sync(0xffffffff, is_odd ? a : b, 8));
}

// This block's part of the vocabulary: four rows a warp at a time. s.normed holds the last layer
// norm in planes for kType. Bytes: 2 n_vocab width in fp16 for all blocks.
template <dw_type kType>
__device__ inline void make_logits(const TokenRun &r, TokenShared &s, int forbidden) {
    constexpr int kColumns = Packed<kType>::kColumns;
    const int pieces = r.width / kColumns, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const char *data = static_cast<const char *>(r.embedding.data);
    LogitPart part = empty_logits();
    const int step = static_cast<int>(gridDim.x) * kTokenWarps * 4;
    for (int row0 = (static_cast<int>(blockIdx.x) * kTokenWarps + warp) * 4; row0 < r.n_vocab;
         row0 += step) {
        const int own = row0 + lane / 8;
        const int mask = own < r.n_vocab ? r.mask[own] : 3;
        float sums[4] = {};
#pragma unroll(kType == DW_FP16 ? 2 : 1)
        for (int piece = lane; piece < pieces; piece += 32) {
            uint4 weights[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int64_t row = min(row0 + i, r.n_vocab - 1);
                weights[i] = load_weights(data + (row * pieces + piece) * 16);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float sum = multiply_piece<kType>(weights[i], s.normed, pieces, piece);
                if constexpr (kType == DW_INT4) {
                    sums[i] += sum * scale_at<kType>(r.embedding, min(row0 + i, r.n_vocab - 1),
                                                     r.width, piece * kColumns);
                } else {
                    sums[i] += sum;
                }
            }
        }
        float logit = sum_four(sums);
        if (own < r.n_vocab) {
            if constexpr (kType == DW_INT8) {
                logit *= scale_at<kType>(r.embedding, own, r.width, 0);
            }
            add_logit(part, own, logit, !(mask & forbidden), own == r.no_speech);
        }
    }
    if (lane % 8 == 0) {
        s.logit_parts[warp * 4 + lane / 8] = part;
    }
    __syncthreads();
    if (warp == 0) {
        part = s.logit_parts[lane];
        merge_logits(part, s.logit_parts[lane + 32]);
        part = warp_merge_logits(part);
        if (lane == 0) {
            r.logit_parts[blockIdx.x] = part;
        }
    }
}

// After all blocks wrote their parts: the same result in s.choice of every block.
__device__ inline void merge_choice(const TokenRun &r, TokenShared &s) {
    if (threadIdx.x < 32) {
        LogitPart part = empty_logits();
        for (int block = threadIdx.x; block < static_cast<int>(gridDim.x); block += 32) {
            const float *from = reinterpret_cast<const float *>(r.logit_parts + block);
            LogitPart other;
            other.best = __ldcg(from);
            other.allowed_sum = __ldcg(from + 1);
            other.token = __float_as_int(__ldcg(from + 2));
            other.high = __ldcg(from + 3);
            other.whole_sum = __ldcg(from + 4);
            other.no_speech = __ldcg(from + 5);
            merge_logits(part, other);
        }
        part = warp_merge_logits(part);
        if (threadIdx.x == 0) {
            part.token = min(part.token, r.n_vocab - 1); // even if every logit is NaN
            s.choice = part;
        }
    }
    __syncthreads();
}

} // namespace dw
