// Attention of one query over many keys, by all warps of a block: the decoder's case.
#pragma once

#include "device.cuh"

namespace dw {

// What was summed over some keys: softmax weights relative to their largest score.
struct Mixed {
    float largest;
    float total;
    float sums[8]; // channels 8 * (lane % 8) and the seven after
};

// Keys and values that a group of eight lanes looks at next.
template <int kKeys> struct KeySet {
    uint4 keys[kKeys], values[kKeys];
};
using KeyPair = KeySet<2>;

// Lanes 8i .. 8i+7 of a warp read the 128 bytes of one key: a warp looks at four keys at once, and
// the warps share keys 0 .. num_keys - 1. at(key, k, v) reads 16 bytes of a key and of its value.
// kKeys a group are in flight; first_keys() starts with those, before the query is known.
template <int kWarps, int kKeys, class At>
__device__ inline KeySet<kKeys> load_keys(int key0, int num_keys, At at) {
    KeySet<kKeys> set;
#pragma unroll
    for (int i = 0; i < kKeys; i++) {
        at(min(key0 + i * kWarps * 4, num_keys - 1), set.keys[i], set.values[i]);
    }
    return set;
}
template <int kWarps, int kKeys = 2, class At>
__device__ inline KeySet<kKeys> first_keys(int num_keys, At at) {
    return num_keys > 0 ? load_keys<kWarps, kKeys>(threadIdx.x / 8, num_keys, at) : KeySet<kKeys>{};
}

// Sums over eight lanes of several values at once: one after the other, each of them would wait for three
// shuffles.
template <int kNum> __device__ inline void sum_eight_lanes(float (&values)[kNum]) {
#pragma unroll
    for (int distance = 4; distance > 0; distance /= 2) {
        float others[kNum];
#pragma unroll
        for (int i = 0; i < kNum; i++) {
            others[i] = __shfl_xor_sync(0xffffffff, values[i], distance);
        }
#pragma unroll
        for (int i = 0; i < kNum; i++) {
            values[i] += others[i];
        }
    }
}

// Scores to weights, relative to the largest; -1e30 is no key. Returns the largest.
template <int kNum> __device__ inline float weigh_scores(float (&scores)[kNum]) {
    float largest = -1e30f;
#pragma unroll
    for (int i = 0; i < kNum; i++) {
        largest = fmaxf(largest, scores[i]);
    }
#pragma unroll
    for (int i = 0; i < kNum; i++) {
        scores[i] = __expf(scores[i] - fmaxf(largest, -1e29f)); // 0 for no key, even if there is none
    }
    return largest;
}

__device__ inline Mixed nothing_mixed() { return {-1e30f, 0.0f, {}}; }

// query: 8 channels of this lane, times 1/8. mixed: what was summed before.
template <int kWarps, int kKeys, class At>
__device__ inline Mixed attend_keys(const float (&query)[8], int num_keys, KeySet<kKeys> set, At at,
                                    Mixed mixed = nothing_mixed()) {
    const int first = threadIdx.x / 8; // which group of lanes this is in the block
#pragma unroll 1
    for (int key0 = first; key0 - first < num_keys; key0 += kWarps * 4 * kKeys) {
        float scores[kKeys] = {};
#pragma unroll
        for (int i = 0; i < kKeys; i++) {
            float k[8];
            unpack_halves(k, set.keys[i]);
#pragma unroll
            for (int c = 0; c < 8; c++) {
                scores[i] += query[c] * k[c];
            }
        }
        sum_eight_lanes(scores);
        float high = mixed.largest;
#pragma unroll
        for (int i = 0; i < kKeys; i++) {
            scores[i] = key0 + i * kWarps * 4 < num_keys ? scores[i] : -1e30f;
            high = fmaxf(high, scores[i]);
        }
        const float shrink = __expf(mixed.largest - high);
        mixed.largest = high;
        mixed.total *= shrink;
#pragma unroll
        for (int c = 0; c < 8; c++) {
            mixed.sums[c] *= shrink;
        }
#pragma unroll
        for (int i = 0; i < kKeys; i++) {
            // Where no key is left yet, `high` is still the start value: such weights are 0 as well.
            const float weight = scores[i] > -1e29f ? __expf(scores[i] - high) : 0.0f;
            float v[8];
            unpack_halves(v, set.values[i]);
            mixed.total += weight;
#pragma unroll
            for (int c = 0; c < 8; c++) {
                mixed.sums[c] += weight * v[c];
            }
        }
        if (key0 - first + kWarps * 4 * kKeys < num_keys) {
            set = load_keys<kWarps, kKeys>(key0 + kWarps * 4 * kKeys, num_keys, at);
        }
    }
    return mixed;
}
template <int kWarps, int kKeys = 2, class At>
__device__ inline Mixed attend_keys(const float (&query)[8], int num_keys, At at,
                                    Mixed mixed = nothing_mixed()) {
    return attend_keys<kWarps>(query, num_keys, first_keys<kWarps, kKeys>(num_keys, at), at, mixed);
}

__device__ inline void merge(Mixed &a, float largest, float total, const float (&sums)[8]) {
    const float high = fmaxf(a.largest, largest);
    const float mine = __expf(a.largest - high), other = __expf(largest - high);
    a.largest = high;
    a.total = a.total * mine + total * other;
#pragma unroll
    for (int c = 0; c < 8; c++) {
        a.sums[c] = a.sums[c] * mine + sums[c] * other;
    }
}

// All lanes of the warp have the sum over the warp's keys afterwards.
__device__ inline void merge_warp(Mixed &mixed) {
#pragma unroll
    for (int distance = 8; distance < 32; distance *= 2) {
        float sums[8];
        const float largest = __shfl_xor_sync(0xffffffff, mixed.largest, distance);
        const float total = __shfl_xor_sync(0xffffffff, mixed.total, distance);
#pragma unroll
        for (int c = 0; c < 8; c++) {
            sums[c] = __shfl_xor_sync(0xffffffff, mixed.sums[c], distance);
        }
        merge(mixed, largest, total, sums);
    }
}

constexpr int kMixedFloats = 66; // of one partial sum in memory: largest, total, 64 channels

// Partial sums of several blocks or warps to one: partials [num][kMixedFloats] in shared memory,
// num <= 32. Lane i of warp w < 2 gets the sum of channel 32 w + i.
struct Merged {
    float sum, total, largest;
};
__device__ inline Merged merge_partials(const float *partials, int num) {
    const int lane = threadIdx.x % 32;
    const float own = lane < num ? partials[lane * kMixedFloats] : -1e30f;
    const float own_total = lane < num ? partials[lane * kMixedFloats + 1] : 0.0f;
    float largest = own;
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, distance));
    }
    const float weight = __expf(own - largest);
    const float total = warp_sum(weight * own_total);
    float sum = 0;
#pragma unroll 4
    for (int i = 0; i < num; i++) {
        sum += __shfl_sync(0xffffffff, weight, i) * partials[i * kMixedFloats + 2 + threadIdx.x];
    }
    return {sum, total, largest};
}

// Every warp's sum into partials[warp]; the block has to wait for all of them.
__device__ inline void store_partials(Mixed mixed, float *partials) {
    merge_warp(mixed);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float *own = partials + warp * kMixedFloats;
    if (lane < 8) {
#pragma unroll
        for (int c = 0; c < 8; c++) {
            own[2 + lane * 8 + c] = mixed.sums[c];
        }
        if (lane == 0) {
            own[0] = mixed.largest;
            own[1] = mixed.total;
        }
    }
}

} // namespace dw
