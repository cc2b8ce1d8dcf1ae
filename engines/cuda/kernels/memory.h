// GPU memory of an engine: a few large allocations, made once.
#pragma once

#include <cstdint>

#include "check.h"

namespace dw {

// Parts of one allocation. First all sizes are asked for, then the memory is there.
class Arena {
  public:
    Arena() = default;
    Arena(const Arena &) = delete;
    Arena &operator=(const Arena &) = delete;
    ~Arena() { cudaFree(base_); }

    // Place of `bytes` bytes from the start of the arena, aligned for any load.
    int64_t take(int64_t bytes) {
        const int64_t place = size_;
        size_ = (size_ + bytes + kAlign - 1) / kAlign * kAlign;
        return place;
    }
    void allocate() {
        DW_CUDA(cudaMalloc(&base_, size_));
        DW_CUDA(cudaMemset(base_, 0, size_));
    }
    template <class T = char> T *at(int64_t place) const {
        return reinterpret_cast<T *>(static_cast<char *>(base_) + place);
    }
    int64_t size() const { return size_; }

  private:
    static constexpr int64_t kAlign = 128; // tensors whose sizes are multiples of it stay adjacent
    void *base_ = nullptr;
    int64_t size_ = 0;
};

// Memory of the host that the GPU reads and writes by itself.
class PinnedMemory {
  public:
    explicit PinnedMemory(int64_t bytes) { DW_CUDA(cudaMallocHost(&data_, bytes)); }
    PinnedMemory(const PinnedMemory &) = delete;
    PinnedMemory &operator=(const PinnedMemory &) = delete;
    ~PinnedMemory() { cudaFreeHost(data_); }
    template <class T = char> T *as() const { return static_cast<T *>(data_); }

  private:
    void *data_ = nullptr;
};

} // namespace dw
