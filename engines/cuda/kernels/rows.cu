// The decoder's kernels for rows, tokens of several sequences in one pass: embedding, attention
// over the paged cache and over the encoded audio, and the choice of the next token.
#include "attend.cuh"
#include "check.h"
#include "launch.h"

namespace dw {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;

// Grid (rows). Bytes: one row of the embedding and 4 a channel written.
template <dw_type kType>
__global__ void embed_kernel(float *x, Rows rows, Matrix embedding, const float *positional,
                             int width) {
    constexpr int kColumns = Packed<kType>::kColumns;
    const int row = blockIdx.x;
    const int64_t token = rows.tokens[row], position = rows.positions[row];
    const char *data = static_cast<const char *>(embedding.data);
    for (int piece = threadIdx.x; piece < width / kColumns; piece += blockDim.x) {
        float values[kColumns];
        Packed<kType>::widen(values, load_weights(data + (token * (width / kColumns) + piece) * 16));
        const float scale = scale_at<kType>(embedding, token, width, piece * kColumns);
        for (int i = 0; i < kColumns; i++) {
            const int column = piece * kColumns + i;
            x[int64_t{row} * width + column] =
                values[i] * scale + positional[position * width + column];
        }
    }
}

__device__ inline void load_query(float (&query)[8], const __half *from) {
    unpack_halves(query, *reinterpret_cast<const uint4 *>(from + threadIdx.x % 8 * 8));
#pragma unroll
    for (int c = 0; c < 8; c++) {
        query[c] *= 0.125f;
    }
}

__device__ inline void write_mixed(__half *out, const Mixed &mixed, float *partials) {
    store_partials(mixed, partials);
    __syncthreads();
    if (threadIdx.x < kHead) {
        const Merged all = merge_partials(partials, kWarps);
        out[threadIdx.x] = __float2half(all.sum / all.total);
    }
}

// Grid (rows, heads). Bytes: 256 a key. Reference: plain::attend over contiguous keys.
__global__ void __launch_bounds__(kThreads)
    self_attention_kernel(__half *out, const __half *query, Rows rows, PagedKv kv, int heads) {
    __shared__ float partials[kWarps * kMixedFloats];
    const int row = blockIdx.x, head = blockIdx.y, width = heads * kHead;
    const int32_t *table = rows.tables + row * rows.table_width;
    const int64_t at = (int64_t{row} * heads + head) * kHead;
    const int lane = threadIdx.x % 8;
    float q[8];
    load_query(q, query + at);
    const Mixed mixed = attend_keys<kWarps>(
        q, rows.positions[row] + 1, [&](int key, uint4 &k, uint4 &v) {
            const int64_t slot =
                int64_t{table[key / kv.block_tokens]} * kv.block_tokens + key % kv.block_tokens;
            const int64_t place = slot * width + head * kHead + lane * 8;
            k = *reinterpret_cast<const uint4 *>(kv.keys + place);
            v = *reinterpret_cast<const uint4 *>(kv.values + place);
        });
    write_mixed(out + at, mixed, partials);
}

// Grid (rows, heads). Bytes: 256 a key. Reference: plain::attend.
__global__ void __launch_bounds__(kThreads)
    cross_attention_kernel(__half *out, const __half *query, Rows rows, const __half *keys,
                           int64_t slot_stride, int heads, int num_keys) {
    __shared__ float partials[kWarps * kMixedFloats];
    const int row = blockIdx.x, head = blockIdx.y, lane = threadIdx.x % 8;
    const int64_t at = (int64_t{row} * heads + head) * kHead;
    keys += rows.audio[row] * slot_stride + int64_t{head} * num_keys * kHead + lane * 8;
    const int64_t values = int64_t{heads} * num_keys * kHead;
    float q[8];
    load_query(q, query + at);
    const Mixed mixed = attend_keys<kWarps>(q, num_keys, [&](int key, uint4 &k, uint4 &v) {
        k = *reinterpret_cast<const uint4 *>(keys + int64_t{key} * kHead);
        v = *reinterpret_cast<const uint4 *>(keys + int64_t{key} * kHead + values);
    });
    write_mixed(out + at, mixed, partials);
}

constexpr int kChoiceThreads = 512;

// Grid (rows): three passes over the row, which the L2 cache holds. Reference: plain::choose.
__global__ void __launch_bounds__(kChoiceThreads)
    choose_kernel(DeviceAnswer *answers, const float *logits, Rows rows, const uint8_t *mask,
                  int no_speech, int n_vocab) {
    constexpr int kChoiceWarps = kChoiceThreads / 32;
    __shared__ float best_value[kChoiceWarps], high_value[kChoiceWarps];
    __shared__ int best_token[kChoiceWarps];
    __shared__ float allowed_sum[kChoiceWarps], whole_sum[kChoiceWarps];
    const int row = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    logits += int64_t{row} * n_vocab;
    const int forbidden = rows.is_first[row] ? 3 : 1;
    float best = -INFINITY, high = -INFINITY;
    int token = 0;
    for (int i = threadIdx.x; i < n_vocab; i += kChoiceThreads) {
        high = fmaxf(high, logits[i]);
        if (logits[i] > best && !(mask[i] & forbidden)) {
            best = logits[i];
            token = i;
        }
    }
    warp_best(best, token);
    high = warp_max(high);
    if (lane == 0) {
        best_value[warp] = best;
        best_token[warp] = token;
        high_value[warp] = high;
    }
    __syncthreads();
    for (int w = 0; w < kChoiceWarps; w++) {
        high = fmaxf(high, high_value[w]);
        take_better(best, token, best_value[w], best_token[w]);
    }
    float allowed = 0, whole = 0;
    for (int i = threadIdx.x; i < n_vocab; i += kChoiceThreads) {
        whole += __expf(logits[i] - high);
        allowed += mask[i] & forbidden ? 0.0f : __expf(logits[i] - best);
    }
    allowed = warp_sum(allowed);
    whole = warp_sum(whole);
    if (lane == 0) {
        allowed_sum[warp] = allowed;
        whole_sum[warp] = whole;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        allowed = whole = 0;
        for (int w = 0; w < kChoiceWarps; w++) {
            allowed += allowed_sum[w];
            whole += whole_sum[w];
        }
        const float speechless = no_speech < 0 ? 0 : __expf(logits[no_speech] - high) / whole;
        answers[row] = {token, -logf(allowed), speechless, 0};
    }
}

} // namespace

void embed(float *x, const Rows &rows, const Matrix &embedding, dw_type type,
           const float *positional, int width, cudaStream_t stream) {
    auto *kernel = type == DW_FP16   ? embed_kernel<DW_FP16>
                   : type == DW_INT8 ? embed_kernel<DW_INT8>
                                     : embed_kernel<DW_INT4>;
    kernel<<<rows.num, 64, 0, stream>>>(x, rows, embedding, positional, width);
    DW_LAUNCHED("embed_kernel");
}

void self_attention(__half *out, const __half *query, const Rows &rows, const PagedKv &kv,
                    int heads, cudaStream_t stream) {
    self_attention_kernel<<<dim3(rows.num, heads), kThreads, 0, stream>>>(out, query, rows, kv,
                                                                         heads);
    DW_LAUNCHED("self_attention_kernel");
}

void cross_attention(__half *out, const __half *query, const Rows &rows, const __half *keys,
                     int64_t slot_stride, int heads, int num_keys, cudaStream_t stream) {
    cross_attention_kernel<<<dim3(rows.num, heads), kThreads, 0, stream>>>(
        out, query, rows, keys, slot_stride, heads, num_keys);
    DW_LAUNCHED("cross_attention_kernel");
}

void choose(DeviceAnswer *answers, const float *logits, const Rows &rows, const uint8_t *mask,
            int no_speech, int n_vocab, cudaStream_t stream) {
    choose_kernel<<<rows.num, kChoiceThreads, 0, stream>>>(answers, logits, rows, mask, no_speech,
                                                           n_vocab);
    DW_LAUNCHED("choose_kernel");
}

} // namespace dw
