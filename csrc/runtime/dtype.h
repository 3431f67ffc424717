// The dtypes that kernels take.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

namespace fastact {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::detail::from;
using torch::stable::detail::to;

inline bool is_16_bit(ScalarType type) { return type == ScalarType::Half || type == ScalarType::BFloat16; }
inline int half_index(ScalarType type) { return type == ScalarType::BFloat16 ? 1 : 0; }
inline int type_index(ScalarType type) {
  return is_16_bit(type) ? 2 + half_index(type) : type == ScalarType::Double ? 1 : 0;
}

inline bool is_16_bit_index(int index) { return index >= 2; }

inline void check_dtype(const Tensor& tensor, const char* op) {
  auto type = tensor.scalar_type();
  STD_TORCH_CHECK(is_16_bit(type) || type == ScalarType::Float || type == ScalarType::Double, "fastact::", op,
                  ": expected float16, bfloat16, float32 or float64");
}

// Calls body with a number of the type that this dtype is computed in.
template <class Body>
void with_compute_type(ScalarType type, const Body& body) {
  if (type == ScalarType::Double) {
    body(double());
  } else {
    body(float());
  }
}

}  // namespace fastact
