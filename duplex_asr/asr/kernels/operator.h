// What the operators have in common: their inputs and outputs, threads, and errors.
#pragma once

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "onnxruntime_abi.h"

namespace duplex {

// An error that onnxruntime has told, and takes back.
class Failure : public std::exception {
public:
    explicit Failure(OrtStatus* status) : status_(status) {}
    OrtStatus* status() const { return status_; }
    const char* what() const noexcept override { return "onnxruntime"; }

private:
    OrtStatus* status_;
};

inline void check(OrtStatus* status) {
    if (status) throw Failure(status);
}

inline void expect(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

struct Memory {
    explicit Memory(int64_t bytes)
        : data(std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64))) {
        if (!data) throw std::bad_alloc();
    }
    ~Memory() { std::free(data); }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    void* data;
};

template <typename Value>
struct Tensor {
    const Value* data = nullptr;  // null: an input that was left out
    std::vector<int64_t> shape;

    bool has_shape(std::initializer_list<int64_t> expected) const {
        return shape == std::vector<int64_t>(expected);
    }
};

// One call of an operator.
class Call {
public:
    Call(const OrtApi* api, OrtKernelContext* context) : api_(api), context_(context) {}

    template <typename Value>
    Tensor<Value> input(size_t index) const {
        const OrtValue* value = nullptr;
        check(ort::GetInput::call(api_, context_, index, &value));
        if (!value) return {};
        void* data = nullptr;
        check(ort::GetData::call(api_, value, &data));
        return {static_cast<const Value*>(data), shape_of(value)};
    }

    template <typename Value>
    Value* output(const std::vector<int64_t>& shape) const {
        OrtValue* value = nullptr;
        check(ort::GetOutput::call(api_, context_, 0, shape.data(), shape.size(), &value));
        void* data = nullptr;
        check(ort::GetData::call(api_, value, &data));
        return static_cast<Value*>(data);
    }

    // work(0..total-1) in the session's threads; of exceptions only bad_alloc may leave it.
    template <typename Work>
    void in_parallel(int64_t total, const Work& work) const {
        struct Shared {
            const Work& work;
            std::atomic<bool> has_failed{false};
        } shared{work};
        const auto one = [](void* data, size_t index) {
            auto& all = *static_cast<Shared*>(data);
            try {
                all.work(static_cast<int64_t>(index));
            } catch (const std::bad_alloc&) {  // may not leave a thread of onnxruntime's
                all.has_failed = true;
            }
        };
        check(ort::InParallel::call(api_, context_, one, static_cast<size_t>(total), 0, &shared));
        if (shared.has_failed) throw std::bad_alloc();
    }

private:
    std::vector<int64_t> shape_of(const OrtValue* value) const {
        OrtTensorTypeAndShapeInfo* info = nullptr;
        check(ort::GetShape::call(api_, value, &info));
        const auto release = [this](OrtTensorTypeAndShapeInfo* it) {
            ort::ReleaseShape::call(api_, it);
        };
        const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(release)> owned(info, release);
        size_t count = 0;
        check(ort::CountDimensions::call(api_, info, &count));
        std::vector<int64_t> shape(count);
        check(ort::GetDimensions::call(api_, info, shape.data(), count));
        return shape;
    }

    const OrtApi* api_;
    OrtKernelContext* context_;
};

inline OrtStatus* failed(const OrtApi* api, const char* name, const std::exception& error) {
    if (dynamic_cast<const std::bad_alloc*>(&error)) {  // then there is none for a text either
        return ort::CreateStatus::call(api, ort::kFail, "out of memory");
    }
    const std::string message = std::string(name) + ": " + error.what();
    return ort::CreateStatus::call(api, ort::kFail, message.c_str());
}

// An operator is a class with these, made once for each node with its one attribute:
//     static constexpr const char *kName, *kAttribute; static constexpr int kInputs[], kOutput;
//     static constexpr size_t kNumRequired; explicit Kernel(int64_t); void run(const Call&) const;
template <typename Kernel>
ort::Operator make_operator() {
    struct Node {
        const OrtApi* api;
        Kernel kernel;
    };
    ort::Operator op;
    op.name = [](const ort::Operator*) { return Kernel::kName; };
    op.provider = [](const ort::Operator*) -> const char* { return nullptr; };
    op.num_inputs = [](const ort::Operator*) { return std::size(Kernel::kInputs); };
    op.input_type = [](const ort::Operator*, size_t index) { return Kernel::kInputs[index]; };
    op.input_kind = [](const ort::Operator*, size_t index) {
        return index < Kernel::kNumRequired ? ort::kRequired : ort::kOptional;
    };
    op.input_memory = [](const ort::Operator*, size_t) { return ort::kDefaultMemory; };
    op.num_outputs = [](const ort::Operator*) -> size_t { return 1; };
    op.output_type = [](const ort::Operator*, size_t) { return Kernel::kOutput; };
    op.output_kind = [](const ort::Operator*, size_t) { return ort::kRequired; };
    op.create = [](const ort::Operator*, const OrtApi* api, const OrtKernelInfo* info,
                   void** node) -> OrtStatus* {
        int64_t attribute = 0;
        if (auto* status = ort::GetInteger::call(api, info, Kernel::kAttribute, &attribute)) {
            return status;
        }
        try {
            *node = new Node{api, Kernel(attribute)};
        } catch (const std::exception& error) {
            return failed(api, Kernel::kName, error);
        }
        return nullptr;
    };
    op.compute = [](void* data, OrtKernelContext* context) -> OrtStatus* {
        const auto& node = *static_cast<const Node*>(data);
        try {
            node.kernel.run(Call(node.api, context));
        } catch (const Failure& failure) {
            return failure.status();
        } catch (const std::exception& error) {
            return failed(node.api, Kernel::kName, error);
        }
        return nullptr;
    };
    op.destroy = [](void* node) { delete static_cast<Node*>(node); };
    return op;
}

}  // namespace duplex
