// The kernels between the encoder's products: turning the mel, padding and layer norm.
#include "early.cuh"
#include "launch.h"

namespace dw {
namespace {

constexpr int kTile = 32;

// Grid (frame tiles, bin tiles, batch), block (32, 8). Bytes: 6 a mel value.
__global__ void turn_mel_kernel(__half *out, const float *mel, int n_mels, int frames) {
    __shared__ float tile[kTile][kTile + 1];
    const int64_t batch = blockIdx.z;
    const int frame0 = blockIdx.x * kTile, bin0 = blockIdx.y * kTile;
    mel += batch * n_mels * frames;
    out += batch * (frames + 2) * n_mels;
    await_previous();
    let_next_begin();
    for (int y = threadIdx.y; y < kTile; y += blockDim.y) {
        const int bin = bin0 + y, frame = frame0 + threadIdx.x;
        const bool is_inside = bin < n_mels && frame < frames;
        tile[y][threadIdx.x] = is_inside ? mel[int64_t{bin} * frames + frame] : 0.0f;
    }
    __syncthreads();
    for (int y = threadIdx.y; y < kTile; y += blockDim.y) {
        const int frame = frame0 + y, bin = bin0 + threadIdx.x;
        if (frame < frames && bin < n_mels) {
            out[(frame + 1ll) * n_mels + bin] = __float2half(tile[threadIdx.x][y]);
        }
    }
}

// Grid (batch), any block.
__global__ void clear_padding_kernel(__half *x, int rows, int width) {
    x += int64_t{blockIdx.x} * rows * width;
    await_previous();
    let_next_begin();
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        x[i] = x[(rows - 1ll) * width + i] = __float2half(0.0f);
    }
}

constexpr int kWarps = 4;

// One warp a row, kPairs pairs of channels in the registers of each lane. Bytes: 4 read and 2 written a value.
// Reference: plain::layer_norm.
template <int kPairs>
__global__ void __launch_bounds__(kWarps * 32)
    layer_norm_kernel(__half *out, float *out_float, const float *x, const float *weight,
                      const float *bias, int rows, int width) {
    const int64_t row = blockIdx.x * kWarps + threadIdx.x / 32;
    const int lane = threadIdx.x % 32, pairs = width / 2;
    await_previous();
    let_next_begin();
    if (row >= rows) {
        return;
    }
    float2 values[kPairs];
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kPairs; i++) {
        const int at = lane + i * 32;
        values[i] = at < pairs ? reinterpret_cast<const float2 *>(x + row * width)[at] : float2{};
        sum += values[i].x + values[i].y;
    }
    const float mean = warp_sum(sum) / static_cast<float>(width);
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kPairs; i++) {
        if (lane + i * 32 < pairs) {
            const float a = values[i].x - mean, b = values[i].y - mean;
            squares += a * a + b * b;
        }
    }
    const float scale = rsqrtf(warp_sum(squares) / static_cast<float>(width) + 1e-5f);
#pragma unroll
    for (int i = 0; i < kPairs; i++) {
        const int at = lane + i * 32;
        if (at < pairs) {
            const float2 w = reinterpret_cast<const float2 *>(weight)[at];
            const float2 b = reinterpret_cast<const float2 *>(bias)[at];
            const float2 y = {(values[i].x - mean) * scale * w.x + b.x,
                              (values[i].y - mean) * scale * w.y + b.y};
            reinterpret_cast<__half2 *>(out + row * width)[at] = __floats2half2_rn(y.x, y.y);
            if (out_float != nullptr) {
                reinterpret_cast<float2 *>(out_float + row * width)[at] = y;
            }
        }
    }
}

} // namespace

void turn_mel(__half *out, const float *mel, int batch, int n_mels, int frames,
              bool only_portable, cudaStream_t stream) {
    const dim3 grid((frames + kTile - 1) / kTile, (n_mels + kTile - 1) / kTile, batch);
    launch_kernel("turn_mel_kernel", turn_mel_kernel,
                  {grid, dim3(kTile, 8), 0, begins_early(only_portable)}, stream, out, mel, n_mels,
                  frames);
}

void clear_padding(__half *x, int batch, int rows, int width, bool only_portable,
                   cudaStream_t stream) {
    launch_kernel("clear_padding_kernel", clear_padding_kernel,
                  {dim3(batch), dim3(128), 0, begins_early(only_portable)}, stream, x, rows, width);
}

void layer_norm(__half *out, float *out_float, const float *x, const float *weight,
                const float *bias, int rows, int width, bool only_portable, cudaStream_t stream) {
    auto *kernel = width <= 512   ? layer_norm_kernel<8>
                   : width <= 768 ? layer_norm_kernel<12>
                                  : layer_norm_kernel<20>;
    launch_kernel("layer_norm_kernel", kernel,
                  {dim3((rows + kWarps - 1) / kWarps), dim3(kWarps * 32), 0,
                   begins_early(only_portable)},
                  stream, out, out_float, x, weight, bias, rows, width);
}

} // namespace dw
