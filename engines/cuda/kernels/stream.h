// The engine's stream, and a wait for it that ends even if a kernel does not.
#pragma once

#include <chrono>
#include <thread>

#include "check.h"

namespace dw {

class Stream {
  public:
    explicit Stream(int timeout_ms) : timeout_(timeout_ms) {
        DW_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
        DW_CUDA(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming));
    }
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;
    ~Stream() {
        cudaEventDestroy(done_);
        cudaStreamDestroy(stream_);
    }

    operator cudaStream_t() const { return stream_; }

    // CUDA has no wait with a limit, so that the event is asked again and again: without a pause
    // as long as most calls take, then ten times a millisecond. Throws DW_TIMED_OUT.
    void wait() {
        using Clock = std::chrono::steady_clock;
        constexpr std::chrono::milliseconds kBusy(3);
        DW_CUDA(cudaEventRecord(done_, stream_));
        const Clock::time_point start = Clock::now();
        for (;;) {
            const cudaError_t state = cudaEventQuery(done_);
            if (state != cudaErrorNotReady) {
                DW_CUDA(state);
                return;
            }
            const auto waited = Clock::now() - start;
            if (waited > timeout_) {
                fail(DW_TIMED_OUT, "the GPU did not finish within %lld ms: a kernel hangs",
                     static_cast<long long>(timeout_.count()));
            }
            if (waited > kBusy) {
                std::this_thread::sleep_for(std::chrono::microseconds(100));
            }
        }
    }

  private:
    std::chrono::milliseconds timeout_;
    cudaStream_t stream_ = nullptr;
    cudaEvent_t done_ = nullptr;
};

} // namespace dw
