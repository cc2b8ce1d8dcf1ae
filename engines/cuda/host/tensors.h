// The tensors of a model: names and shapes of a checkpoint, in the order they have in memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../duplex_whisper.h"

namespace dw {

// What the engine keeps. Vectors, norms and positions are float32: they are few.
enum class Stored { kHalf, kFloat, kBytes };

struct TensorSpec {
    std::string name;
    std::vector<int64_t> shape;
    Stored stored;
    // False for zeros that the caller does not have: the bias of key projections, which makes
    // query, key and value one product with one bias.
    bool is_wanted = true;

    int64_t num_elements() const;
    int64_t num_bytes() const; // as the engine keeps it
};

// Query, key and value follow one another, weights, scales and biases each, so that a backend that
// keeps this order has them as one matrix; so have all layers' cross keys and values.
std::vector<TensorSpec> list_tensors(const dw_dimensions &dims, dw_type layer_type,
                                     dw_type embedding_type);

// Throws DW_UNSUPPORTED_DIMENSIONS or DW_BAD_ARGUMENT.
void check_dimensions(const dw_dimensions &dims);
void check_options(const dw_dimensions &dims, const dw_options &options);

// A caller's tensor as the engine keeps it; throws DW_BAD_TENSOR.
std::vector<unsigned char> convert_tensor(const TensorSpec &spec, dw_type type,
                                          const std::vector<int64_t> &shape, const void *data,
                                          int64_t num_bytes);

float half_to_float(uint16_t bits);
uint16_t float_to_half(float value); // rounds to nearest even

} // namespace dw
