// Maxout: groups of neighbours along any dimension of a dense tensor.
#pragma once

#include "runtime/layout.h"

namespace fastact {

// Sizes and strides like those of a dense tensor, with the size along `dim` multiplied or divided, and the distance in
// memory between the pieces of an output.
struct Grouped {
  std::vector<int64_t> sizes, strides;
  int64_t inner = 1;

  Tensor new_tensor(ScalarType type, const Tensor& beside) const {
    return fastact::new_tensor(sizes.data(), strides.data(), static_cast<int64_t>(sizes.size()), type, beside);
  }
};
inline Grouped grouped(const Tensor& dense, int64_t dim, int64_t times, int64_t divided_by) {
  auto sizes = dense.sizes(), strides = dense.strides();
  Grouped result{{sizes.begin(), sizes.end()}, {strides.begin(), strides.end()}};
  result.sizes[dim] = sizes[dim] * times / divided_by;
  if (dense.numel() == 0) return result;
  // The distance is computed from sizes, since the stride of a dimension of one element is arbitrary.
  const auto is_inside = [&](int64_t other) { return strides[other] < strides[dim]; };
  for (int64_t other = 0; other < dense.dim(); ++other) {
    if (other == dim) continue;
    if (is_inside(other))
      result.inner *= sizes[other];
    else
      result.strides[other] = strides[other] * times / divided_by;
  }
  return result;
}

// Maxout over dense tensors of one order of dimensions. The pieces of an output are `inner` apart.
inline void run_maxout(const Tensor& input, int64_t pieces, int64_t inner, const Tensor& output,
                       const Tensor* indices) {
  auto run = instruction_set().maxout_forward[type_index(input.scalar_type())];
  const void* x = input.data_ptr();
  void* y = output.data_ptr();
  auto* winners = indices ? static_cast<uint8_t*>(indices->data_ptr()) : nullptr;
  parallel(output.numel(), std::max<int64_t>(1, kGrain / pieces),
           [&](int64_t begin, int64_t end) { run(x, y, winners, begin, end, pieces, inner); });
}

inline void run_maxout_backward(const Tensor& grad, const Tensor& indices, int64_t pieces, int64_t inner,
                                const Tensor& grad_input) {
  auto run = instruction_set().maxout_backward[type_index(grad.scalar_type())];
  const void* gradients = grad.data_ptr();
  auto* winners = static_cast<const uint8_t*>(indices.data_ptr());
  void* target = grad_input.data_ptr();
  parallel(grad.numel(), std::max<int64_t>(1, kGrain / pieces),
           [&](int64_t begin, int64_t end) { run(gradients, winners, target, begin, end, pieces, inner); });
}

}  // namespace fastact
