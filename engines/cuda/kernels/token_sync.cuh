// How the blocks of the token kernel hand one another values without a barrier: whoever waits
// reads the value itself until it is there, one way to the L2 cache and back.
//
// All blocks are on the GPU at once (a cooperative launch), so that they may wait. A word is written
// again only after every reader of the old value has sent something that the writer waited for.
#pragma once

#include <cstdint>

namespace dw {

__device__ inline uint64_t load_shared_word(const uint64_t *word) {
    uint64_t value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
    return value;
}

// A value from one block, with a tag in the same word that tells it from an older one. Tags count
// exchanges since the engine was made.
__device__ inline void send(uint64_t *word, float value, uint32_t tag) {
    const uint64_t both = uint64_t{tag} << 32 | __float_as_uint(value);
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(word), "l"(both) : "memory");
}
// `both` is what was read before.
__device__ inline float receive(const uint64_t *word, uint32_t tag, uint64_t both) {
    while (static_cast<uint32_t>(both >> 32) != tag) {
        both = load_shared_word(word);
    }
    return __uint_as_float(static_cast<uint32_t>(both));
}
__device__ inline float receive(const uint64_t *word, uint32_t tag) {
    return receive(word, tag, load_shared_word(word));
}

// A sum of values from many blocks: 56 bits of fixed point and, in the lowest 8, how many have been
// added. Integer addition gives the same sum in any order, so that a token never depends on which
// block was faster. 28 bits after the point reach from 4e-9 to 1e8.
//
// Four words to a line of the L2 cache, so that a hundred blocks that add and read keep as many
// slices of the cache busy as there are.
constexpr int kSumStride = 4; // words of memory for one sum
__device__ inline int sum_at(int index) {
    return (index >> 2) * (4 * kSumStride) + (index & 3);
}
constexpr float kFixedOne = 268435456.0f;
constexpr int kMaxAdditions = 255;

__device__ inline void add_counted(uint64_t *sum, float value) {
    const auto fixed = static_cast<uint64_t>(__float2ll_rn(value * kFixedOne));
    asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(sum), "l"((fixed << 8) + 1)
                 : "memory");
}
__device__ inline float await_counted(const uint64_t *sum, uint32_t num_additions) {
    uint64_t word;
    do {
        word = load_shared_word(sum);
    } while ((word & 255) != num_additions);
    return __ll2float_rn(static_cast<int64_t>(word) >> 8) * (1.0f / kFixedOne);
}

// Once a token the blocks also have to see what others wrote in plain words: between this call by
// one thread of the writer, after a __syncthreads(), and the same by the reader, something is sent.
__device__ inline void fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

} // namespace dw
