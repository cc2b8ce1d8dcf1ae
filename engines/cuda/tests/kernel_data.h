// For test_kernels.cu: random input here and in GPU memory, and how far a kernel's output is off.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../host/tensors.h"
#include "../kernels/check.h"
#include "../kernels/launch.h"
#include "../reference/plain.h"

namespace dw {

using Vector = std::vector<float>;
inline int failures = 0;

inline uint64_t noise_state = 1;
inline uint32_t noise() {
    noise_state = noise_state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>(noise_state >> 33);
}
// Uniform in +-scale, exact in half precision.
inline Vector random(int64_t size, float scale = 1) {
    Vector v(size);
    for (float &x : v) {
        x = half_to_float(float_to_half(scale * (static_cast<float>(noise()) / 1073741824.0f - 1)));
    }
    return v;
}

template <class T> struct Device {
    T *data = nullptr;
    int64_t size;
    explicit Device(int64_t size) : size(size) {
        DW_CUDA(cudaMalloc(&data, size * sizeof(T)));
        DW_CUDA(cudaMemset(data, 0xff, size * sizeof(T))); // NaN: what is not written shows
    }
    explicit Device(const std::vector<T> &v) : Device(static_cast<int64_t>(v.size())) {
        DW_CUDA(cudaMemcpy(data, v.data(), size * sizeof(T), cudaMemcpyHostToDevice));
    }
    Device(const Device &) = delete;
    ~Device() { cudaFree(data); }
    std::vector<T> get() const {
        std::vector<T> v(size);
        DW_CUDA(cudaDeviceSynchronize());
        DW_CUDA(cudaMemcpy(v.data(), data, size * sizeof(T), cudaMemcpyDeviceToHost));
        return v;
    }
};

inline std::vector<uint16_t> halves(const Vector &v) {
    std::vector<uint16_t> h(v.size());
    for (size_t i = 0; i < v.size(); i++) {
        h[i] = float_to_half(v[i]);
    }
    return h;
}
inline Vector floats(const std::vector<uint16_t> &h) {
    Vector v(h.size());
    for (size_t i = 0; i < h.size(); i++) {
        v[i] = half_to_float(h[i]);
    }
    return v;
}
inline __half *half_of(Device<uint16_t> &d) { return reinterpret_cast<__half *>(d.data); }

inline void report(const char *kernel, const Vector &x, const Vector &reference, double limit) {
    double squares = 0, worst = 0;
    bool is_sound = x.size() == reference.size();
    for (size_t i = 0; is_sound && i < x.size(); i++) {
        squares += double(reference[i]) * reference[i];
        worst = std::max(worst, std::abs(double(x[i]) - reference[i]));
        is_sound = std::isfinite(x[i]);
    }
    worst /= std::sqrt(squares / x.size());
    const bool is_right = is_sound && worst < limit;
    std::printf("%-58s %.2e%s\n", kernel, worst, is_right ? "" : "  FAILED");
    failures += !is_right;
}

// A weight of a type: as the GPU has it, and as floats.
struct TestMatrix {
    Vector values;
    std::vector<uint8_t> bytes, scale;
    Device<uint8_t> *data = nullptr, *scale_data = nullptr;

    TestMatrix(dw_type type, int out, int in) : values(int64_t{out} * in) {
        if (type == DW_FP16) {
            values = random(values.size(), 0.5f);
            const std::vector<uint16_t> h = halves(values);
            bytes.resize(2 * h.size());
            std::memcpy(bytes.data(), h.data(), bytes.size());
            scale.resize(16);
        } else {
            bytes.resize(matrix_bytes(type, values.size()));
            for (uint8_t &byte : bytes) {
                byte = static_cast<uint8_t>(noise());
            }
            const int num = type == DW_INT8 ? out : out * in / 64;
            Vector scales = random(num, 0.002f);
            if (type == DW_INT8) {
                plain::widen_int8(values.data(), bytes.data(), scales.data(), out, in);
                scale.resize(num * 4);
                std::memcpy(scale.data(), scales.data(), scale.size());
            } else {
                for (float &each : scales) {
                    each = half_to_float(float_to_half(each * 30));
                }
                plain::widen_int4(values.data(), bytes.data(), scales.data(), out, in);
                const std::vector<uint16_t> h = halves(scales);
                scale.resize(num * 2);
                std::memcpy(scale.data(), h.data(), scale.size());
            }
        }
        data = new Device<uint8_t>(bytes);
        scale_data = new Device<uint8_t>(scale);
    }
    ~TestMatrix() {
        delete data;
        delete scale_data;
    }
    Matrix on_gpu(const float *bias) const { return {data->data, scale_data->data, bias}; }
};

} // namespace dw
