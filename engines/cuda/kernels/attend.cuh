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

// Lanes 8i .. 8i+7 of a warp read the 128 bytes of one key: a warp looks at four keys at once.
// key_at(i) and value_at(i) give the address of key i [64]; warps share the keys 0 .. num_keys - 1.
// query: 8 channels of this lane, times 1/8. Four keys are in flight at once per lane group.
template <int kWarps, class At>
__device__ inline Mixed attend_keys(const float (&query)[8], int num_keys, At at) {
    constexpr int kStep = kWarps * 4;
    Mixed mixed{-1e30f, 0.0f, {}};
    const int first = threadIdx.x / 8; // which group of lanes this is in the block
    for (int key0 = first; key0 - first < num_keys; key0 += 2 * kStep) {
        uint4 keys[2], values[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int key = min(key0 + i * kStep, num_keys - 1);
            at(key, keys[i], values[i]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float k[8];
            unpack_halves(k, keys[i]);
            float score = 0;
#pragma unroll
            for (int c = 0; c < 8; c++) {
                score += query[c] * k[c];
            }
            score = warp_sum<8>(score);
            if (key0 + i * kStep < num_keys) {
                const float high = fmaxf(mixed.largest, score);
                const float shrink = __expf(mixed.largest - high), weight = __expf(score - high);
                float v[8];
                unpack_halves(v, values[i]);
                mixed.largest = high;
                mixed.total = mixed.total * shrink + weight;
#pragma unroll
                for (int c = 0; c < 8; c++) {
                    mixed.sums[c] = mixed.sums[c] * shrink + weight * v[c];
                }
            }
        }
    }
    return mixed;
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

// Partial sums of the block's warps to one: in `partials` [kWarps][kMixedFloats] of shared memory.
// Threads 0 .. 63 get (sum of channel threadIdx.x, and the largest and total of all).
template <int kWarps>
__device__ inline Mixed merge_block(Mixed mixed, float *partials) {
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
    __syncthreads();
    Mixed all{-1e30f, 0.0f, {}};
    if (threadIdx.x < kHead) {
#pragma unroll
        for (int w = 0; w < kWarps; w++) {
            all.largest = fmaxf(all.largest, partials[w * kMixedFloats]);
        }
#pragma unroll
        for (int w = 0; w < kWarps; w++) {
            const float weight = __expf(partials[w * kMixedFloats] - all.largest);
            all.total += weight * partials[w * kMixedFloats + 1];
            all.sums[0] += weight * partials[w * kMixedFloats + 2 + threadIdx.x];
        }
    }
    return all;
}

} // namespace dw
