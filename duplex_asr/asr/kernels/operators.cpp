// The operators as onnxruntime finds them in this library.

#include <mutex>

#include "attention.h"
#include "linear.h"
#include "operator.h"
#include "tiles.h"

namespace duplex {
namespace {

constexpr char kDomain[] = "duplex_asr";

// query_key_value (n, 3 * heads * 64) -> (n, heads * 64): each position attends to all.
class SelfAttention {
public:
    static constexpr const char *kName = "SelfAttention", *kAttribute = "num_heads";
    static constexpr int kInputs[] = {ort::kFloat}, kOutput = ort::kFloat;
    static constexpr size_t kNumRequired = 1;

    explicit SelfAttention(int64_t num_heads) : num_heads_(num_heads) {}

    void run(const Call& call) const {
        const auto joined = call.input<float>(0);
        const int64_t width = num_heads_ * kHeadSize;
        expect(joined.shape.size() == 2 && joined.shape[0] > 0 && joined.shape[1] == 3 * width,
               "takes (n, 3 * heads * 64)");
        const int64_t n = joined.shape[0], stride = 3 * width;
        const Rows queries{joined.data, stride}, keys{joined.data + width, stride};
        const Rows values{joined.data + 2 * width, stride};
        auto* output = call.output<float>({n, width});
        Packed packed{n, nullptr};
        const Memory memory(num_heads_ * packed.head_values() * int64_t{sizeof(Bf16)});
        packed.first = static_cast<Bf16*>(memory.data);
        call.in_parallel(num_heads_,
                         [&](int64_t head) { pack_head(keys, values, head, packed); });
        call.in_parallel(num_heads_ * num_chunks(n), [&](int64_t task) {
            attend_chunk(queries, n, task / num_chunks(n), task % num_chunks(n), packed, output,
                         width);
        });
    }

private:
    int64_t num_heads_;
};

// key_value (n, 2 * heads * 64) -> (heads, 2 * padded n * 64), bfloat16 as CrossAttention reads it.
class PackKeyValue {
public:
    static constexpr const char *kName = "PackKeyValue", *kAttribute = "num_heads";
    static constexpr int kInputs[] = {ort::kFloat}, kOutput = ort::kUint16;
    static constexpr size_t kNumRequired = 1;

    explicit PackKeyValue(int64_t num_heads) : num_heads_(num_heads) {}

    void run(const Call& call) const {
        const auto joined = call.input<float>(0);
        const int64_t width = num_heads_ * kHeadSize;
        expect(joined.shape.size() == 2 && joined.shape[0] > 0 && joined.shape[1] == 2 * width,
               "takes (n, 2 * heads * 64)");
        const Rows keys{joined.data, 2 * width}, values{joined.data + width, 2 * width};
        Packed packed{joined.shape[0], nullptr};
        packed.first = call.output<Bf16>({num_heads_, packed.head_values()});
        call.in_parallel(num_heads_,
                         [&](int64_t head) { pack_head(keys, values, head, packed); });
    }

private:
    int64_t num_heads_;
};

// query (n, heads * 64), what PackKeyValue gave -> (n, heads * 64): each query attends to all
// of Whisper's 1500 positions, and what it gives does not depend on the other queries.
class CrossAttention {
public:
    static constexpr const char *kName = "CrossAttention", *kAttribute = "num_heads";
    static constexpr int kInputs[] = {ort::kFloat, ort::kUint16}, kOutput = ort::kFloat;
    static constexpr size_t kNumRequired = 2;
    static constexpr int64_t kPositions = 1500;

    explicit CrossAttention(int64_t num_heads) : num_heads_(num_heads) {}

    void run(const Call& call) const {
        const auto query = call.input<float>(0);
        const auto key_value = call.input<Bf16>(1);
        const int64_t width = num_heads_ * kHeadSize;
        // onnxruntime gives what is only read as const; nothing here writes to it.
        const Packed packed{kPositions, const_cast<Bf16*>(key_value.data)};
        expect(query.shape.size() == 2 && query.shape[1] == width, "takes (n, heads * 64)");
        expect(key_value.has_shape({num_heads_, packed.head_values()}),
               "takes keys and values of 1500 positions");
        const Rows queries{query.data, width};
        auto* output = call.output<float>({query.shape[0], width});
        call.in_parallel(num_heads_, [&](int64_t head) {
            attend_singly(queries, query.shape[0], head, packed, output, width);
        });
    }

private:
    int64_t num_heads_;
};

// x (n, in), weights, scale (out,)[, bias (out,)[, residual (n, out)]] -> (n, out); see linear.h.
class LinearByTiles {
public:
    static constexpr const char *kName = "Linear", *kAttribute = "has_gelu";
    static constexpr int kInputs[] = {ort::kFloat, ort::kInt8, ort::kFloat, ort::kFloat,
                                      ort::kFloat};
    static constexpr int kOutput = ort::kFloat;
    static constexpr size_t kNumRequired = 3;

    explicit LinearByTiles(int64_t has_gelu) : has_gelu_(has_gelu != 0) {
        expect(has_tiles(), "the system does not let this process use the processor's tiles (AMX)");
    }

    void run(const Call& call) const {
        const auto x = call.input<float>(0);
        const auto weights = call.input<int8_t>(1);
        const auto scale = call.input<float>(2), bias = call.input<float>(3);
        const auto residual = call.input<float>(4);
        expect(x.shape.size() == 2 && scale.shape.size() == 1, "takes (n, in) and (out,)");
        const int64_t n = x.shape[0], num_inputs = x.shape[1], num_outputs = scale.shape[0];
        expect(num_inputs % 64 == 0 && num_outputs % 32 == 0, "in is not 64, or out 32, times any");
        expect(weights.has_shape({num_outputs / 16, num_inputs / 64, 16, 16, 4}),
               "takes weights (out / 16, in / 64, 16, 16, 4)");
        expect(!bias.data || bias.shape == scale.shape, "takes a bias (out,)");
        expect(!residual.data || residual.has_shape({n, num_outputs}), "takes a residual (n, out)");
        auto* y = call.output<float>({n, num_outputs});
        const Linear linear{n, num_inputs, num_outputs, x.data, weights.data, scale.data, bias.data,
                            residual.data, has_gelu_, y};
        const Memory values(padded_rows(n) * num_inputs);
        const Memory scales(padded_rows(n) * int64_t{sizeof(float)});
        QuantisedRows rows{static_cast<int8_t*>(values.data), static_cast<float*>(scales.data)};
        const int64_t row_chunks = num_row_chunks(n);
        call.in_parallel(row_chunks, [&](int64_t chunk) { quantise_rows(linear, chunk, rows); });
        call.in_parallel(row_chunks * num_column_chunks(num_outputs), [&](int64_t task) {
            multiply_chunk(linear, task % row_chunks, task / row_chunks, rows);
        });
    }

private:
    bool has_gelu_;
};

OrtStatus* make_domain(const OrtApi* api, OrtCustomOpDomain** domain) {
    static const ort::Operator operators[] = {
        make_operator<SelfAttention>(), make_operator<PackKeyValue>(),
        make_operator<CrossAttention>(), make_operator<LinearByTiles>()};
    OrtCustomOpDomain* made = nullptr;
    if (OrtStatus* status = ort::CreateDomain::call(api, kDomain, &made)) return status;
    for (const ort::Operator& each : operators) {
        if (OrtStatus* status = ort::AddOperator::call(api, made, &each)) return status;
    }
    *domain = made;
    return nullptr;
}

}  // namespace
}  // namespace duplex

#define EXPORTED extern "C" __attribute__((visibility("default")))

// For who writes a graph: whether it may have Linear.
EXPORTED int duplex_asr_has_tiles() { return duplex::has_tiles(); }

// Called by onnxruntime for each session; the operators outlive all of them.
EXPORTED OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
    static std::mutex mutex;
    static OrtCustomOpDomain* domain = nullptr;
    const OrtApi* api = base->get_api(ort::kVersion);
    if (!api) return nullptr;  // the graph is refused then: its operators are not known
    const std::lock_guard<std::mutex> guard(mutex);
    if (!domain) {
        if (OrtStatus* status = duplex::make_domain(api, &domain)) return status;
    }
    return ort::AddDomain::call(api, options, domain);
}
