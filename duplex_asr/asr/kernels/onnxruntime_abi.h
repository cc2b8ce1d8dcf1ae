// What of onnxruntime's C interface an operator of one's own needs.
//
// onnxruntime's packages for Python come without its headers. The interface is a table of functions
// whose order never changes; these places are those of "onnxruntime_c_api.h", version 17, which
// every onnxruntime from 1.17 on answers to.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtStatus;
struct OrtValue;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtTensorTypeAndShapeInfo;
using OrtApi = const void*;  // the first function of the table

struct OrtApiBase {
    const OrtApi* (*get_api)(uint32_t version);  // null if this onnxruntime is older
    const char* (*get_version)();
};

namespace ort {

constexpr uint32_t kVersion = 17;
constexpr int kFail = 1;  // an OrtErrorCode
constexpr int kFloat = 1, kInt8 = 3, kUint16 = 4;  // of ONNXTensorElementDataType
constexpr int kRequired = 0, kOptional = 1;  // of OrtCustomOpInputOutputCharacteristic
constexpr int kDefaultMemory = 0;            // an OrtMemType

template <size_t place, typename Result, typename... Arguments>
struct Function {
    static Result call(const OrtApi* api, Arguments... arguments) {
        return reinterpret_cast<Result (*)(Arguments...)>(const_cast<void*>(api[place]))(
            arguments...);
    }
};

using CreateStatus = Function<0, OrtStatus*, int, const char*>;
using CreateDomain = Function<26, OrtStatus*, const char*, OrtCustomOpDomain**>;
using AddOperator = Function<27, OrtStatus*, OrtCustomOpDomain*, const struct Operator*>;
using AddDomain = Function<28, OrtStatus*, OrtSessionOptions*, OrtCustomOpDomain*>;
using GetData = Function<51, OrtStatus*, const OrtValue*, void**>;
using CountDimensions = Function<61, OrtStatus*, const OrtTensorTypeAndShapeInfo*, size_t*>;
using GetDimensions =
    Function<62, OrtStatus*, const OrtTensorTypeAndShapeInfo*, int64_t*, size_t>;
using GetShape = Function<65, OrtStatus*, const OrtValue*, OrtTensorTypeAndShapeInfo**>;
using GetInteger = Function<86, OrtStatus*, const OrtKernelInfo*, const char*, int64_t*>;
using GetInput = Function<90, OrtStatus*, const OrtKernelContext*, size_t, const OrtValue**>;
using GetOutput =
    Function<91, OrtStatus*, OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**>;
using ReleaseShape = Function<99, void, OrtTensorTypeAndShapeInfo*>;
// Calls work(data, 0..total-1) in the session's threads, in at most num_batches batches; 0: any.
using InParallel = Function<274, OrtStatus*, const OrtKernelContext*, void (*)(void*, size_t),
                            size_t, size_t, void*>;

// An OrtCustomOp as of version 17. Later fields are not looked at.
struct Operator {
    uint32_t version = kVersion;
    void* (*create_old)(const Operator*, const OrtApi*, const OrtKernelInfo*) = nullptr;
    const char* (*name)(const Operator*);
    const char* (*provider)(const Operator*);
    int (*input_type)(const Operator*, size_t);
    size_t (*num_inputs)(const Operator*);
    int (*output_type)(const Operator*, size_t);
    size_t (*num_outputs)(const Operator*);
    void (*compute_old)(void*, OrtKernelContext*) = nullptr;
    void (*destroy)(void*);
    int (*input_kind)(const Operator*, size_t);
    int (*output_kind)(const Operator*, size_t);
    int (*input_memory)(const Operator*, size_t);
    int (*least_variadic_inputs)(const Operator*) = nullptr;
    int (*variadic_inputs_alike)(const Operator*) = nullptr;
    int (*least_variadic_outputs)(const Operator*) = nullptr;
    int (*variadic_outputs_alike)(const Operator*) = nullptr;
    OrtStatus* (*create)(const Operator*, const OrtApi*, const OrtKernelInfo*, void**);
    OrtStatus* (*compute)(void*, OrtKernelContext*);
    OrtStatus* (*infer_shape)(const Operator*, void*) = nullptr;
    int (*first_version)(const Operator*) = nullptr;
    int (*last_version)(const Operator*) = nullptr;
};

}  // namespace ort
