// Calls of kernels by pointers, past the dispatcher, where nobody could see the difference.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/record_function.h>

#include "autograd/watch.h"
#include "spec/direct.h"

namespace fastact {

// The function in libfastact.so; none where CPU tensors go to other kernels than those in C++.
inline RunDirect& run_direct() {
  static RunDirect function = nullptr;
  return function;
}

// Whether a dispatch mode or a profiler is to see each op.
inline bool is_watched() {
  return c10::impl::TorchDispatchModeTLS::any_modes_set() ||
         at::getStepCallbacksUnlessEmpty(at::RecordScope::FUNCTION).has_value();
}

// Whether a kernel can run on the tensor by its pointer.
inline bool in_one_piece(const Tensor& tensor) {
  return tensor.is_cpu() && has_kernel_dtype(tensor) && !tensor.key_set().has(DispatchKey::Python) &&
         tensor.is_non_overlapping_and_dense() && tensor.numel() > 0;
}

// Whether it gains by that. From this size on the dispatcher takes less than a thousandth of a call, and there the ops
// ask for huge pages.
constexpr int64_t kMostDirect = int64_t{1} << 20;
inline bool is_direct(const Tensor& tensor) { return in_one_piece(tensor) && tensor.numel() < kMostDirect; }

inline bool same_layout(const Tensor& a, const Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && a.strides() == b.strides();
}

// New tensors, from the allocator.
inline Tensor new_like(const Tensor& tensor) {
  if (tensor.is_contiguous()) return at::detail::empty_cpu(tensor.sizes(), tensor.scalar_type());
  return at::detail::empty_strided_cpu(tensor.sizes(), tensor.strides(), tensor.scalar_type());
}
inline Tensor new_mask(const Tensor& tensor) { return at::detail::empty_cpu({(tensor.numel() + 7) / 8}, at::kByte); }
// Hooks on saved tensors may return anything in its place.
inline bool is_mask_of(const Tensor& mask, const Tensor& tensor) {
  return mask.is_cpu() && mask.scalar_type() == at::kByte && mask.layout() == at::kStrided && mask.is_contiguous() &&
         mask.numel() == (tensor.numel() + 7) / 8 && !mask.key_set().has(DispatchKey::Python);
}

// A call with this tensor as its first input.
inline DirectCall direct_call(int which, bool backward, const Tensor& first) {
  DirectCall call{};
  call.which = which;
  call.backward = backward;
  call.dtype = static_cast<int8_t>(first.scalar_type());
  call.inputs[0] = first.const_data_ptr();
  call.n = first.numel();
  return call;
}

// Fills in the seed; returns false if the op must see to it.
inline bool read_seed(const Tensor& seed, DirectCall& call) {
  if (!seed.is_cpu() || seed.key_set().has(DispatchKey::Python) || seed.scalar_type() != at::kLong || seed.numel() != 1)
    return false;
  call.seed = static_cast<uint64_t>(*seed.const_data_ptr<int64_t>());
  return true;
}

// Fills in the rows of a softmax; returns false if the op must see to them.
inline bool describe_rows(DirectCall& call, const Tensor& tensor, int64_t dim, int64_t dtype) {
  const int64_t dims = tensor.dim();
  if (!tensor.is_contiguous() || dim < -dims || dim >= dims || dtype != static_cast<int64_t>(tensor.scalar_type()))
    return false;
  call.row_size = tensor.size(dim);
  call.inner = tensor.stride(dim);
  return true;
}

}  // namespace fastact
