// Calls of kernels by pointers, past the dispatcher, where nobody could see the difference.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/record_function.h>

#include "autograd/watch.h"
#include "spec/direct.h"

namespace fastact {

// The function in libfastact.so.
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
  return (tensor.is_cpu() || tensor.is_cuda()) && has_kernel_dtype(tensor) &&
         !tensor.key_set().has(DispatchKey::Python) && tensor.is_non_overlapping_and_dense() && tensor.numel() > 0;
}

// Whether it gains by that. On the CPU, from this size on the dispatcher takes less than a thousandth of a call, and
// there the ops ask for huge pages. A GPU's kernel runs while the host goes on.
constexpr int64_t kMostDirect = int64_t{1} << 20;
inline bool is_direct(const Tensor& tensor) {
  return in_one_piece(tensor) && (!tensor.is_cpu() || tensor.numel() < kMostDirect);
}

inline bool same_layout(const Tensor& a, const Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && a.strides() == b.strides();
}
// Whether a tensor can be walked beside another that is direct.
inline bool goes_beside(const Tensor& tensor, const Tensor& direct) {
  return in_one_piece(tensor) && tensor.device() == direct.device() && same_layout(tensor, direct);
}

// New tensors beside another: on the CPU from the allocator.
inline Tensor new_tensor(at::IntArrayRef sizes, at::ScalarType dtype, const Tensor& beside) {
  if (beside.is_cpu()) return at::detail::empty_cpu(sizes, dtype);
  at::AutoDispatchBelowADInplaceOrView below;
  return at::empty(sizes, beside.options().dtype(dtype));
}
inline Tensor new_like(const Tensor& tensor) {
  if (tensor.is_contiguous()) return new_tensor(tensor.sizes(), tensor.scalar_type(), tensor);
  if (tensor.is_cpu()) return at::detail::empty_strided_cpu(tensor.sizes(), tensor.strides(), tensor.scalar_type());
  at::AutoDispatchBelowADInplaceOrView below;
  return at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options());
}
// The sizes of a packed tensor's halves.
inline c10::SmallVector<int64_t, 5> halved_sizes(const Tensor& packed, int64_t dim) {
  c10::SmallVector<int64_t, 5> sizes(packed.sizes().begin(), packed.sizes().end());
  sizes[at::maybe_wrap_dim(dim, packed.dim())] /= 2;
  return sizes;
}
inline Tensor new_mask(const Tensor& tensor) { return new_tensor({(tensor.numel() + 7) / 8}, at::kByte, tensor); }
// Hooks on saved tensors may return anything in its place.
inline bool is_mask_of(const Tensor& mask, const Tensor& tensor) {
  return mask.device() == tensor.device() && mask.scalar_type() == at::kByte && mask.layout() == at::kStrided &&
         mask.is_contiguous() && mask.numel() == (tensor.numel() + 7) / 8 && !mask.key_set().has(DispatchKey::Python);
}

// A call with tensors that are walked beside this one.
inline DirectCall direct_call(int which, bool backward, const Tensor& walked) {
  DirectCall call{};
  call.which = which;
  call.backward = backward;
  call.dtype = static_cast<int8_t>(walked.scalar_type());
  call.device = walked.is_cpu() ? -1 : walked.get_device();
  call.rows = 1;
  call.columns = walked.numel();
  return call;
}

// Fills in tiles; a number of elements from their start on, for a half, and between rows.
inline void set_input(DirectCall& call, int i, const Tensor& tile, int64_t start = 0, int64_t stride = 0) {
  call.inputs[i] = static_cast<const char*>(tile.const_data_ptr()) + start * tile.element_size();
  call.input_strides[i] = stride ? stride : call.columns;
}
inline void set_output(DirectCall& call, int i, const Tensor& tile, int64_t start = 0, int64_t stride = 0) {
  call.outputs[i] = static_cast<char*>(tile.mutable_data_ptr()) + start * tile.element_size();
  call.output_strides[i] = stride ? stride : call.columns;
}

// A contiguous tensor whose halves along a dimension are value and gate, in rows.
struct Halves {
  int64_t rows, columns, value, gate;  // a row of the whole has twice the columns; the halves' starts

  Halves(const Tensor& packed, int64_t dim, bool gate_first) : rows(1) {
    dim = at::maybe_wrap_dim(dim, packed.dim());
    for (int64_t i = 0; i < dim; ++i) rows *= packed.size(i);
    columns = packed.numel() / rows / 2;
    value = gate_first ? columns : 0;
    gate = columns - value;
  }
  void set_rows(DirectCall& call) const { call.rows = rows, call.columns = columns; }
  void set_inputs(DirectCall& call, int first, const Tensor& packed) const {
    set_input(call, first, packed, value, 2 * columns);
    set_input(call, first + 1, packed, gate, 2 * columns);
  }
  void set_outputs(DirectCall& call, const Tensor& packed) const {
    set_output(call, 0, packed, value, 2 * columns);
    set_output(call, 1, packed, gate, 2 * columns);
  }
};
inline bool can_be_halved(const Tensor& tensor, int64_t dim) {
  return -tensor.dim() <= dim && dim < tensor.dim() && tensor.size(dim) % 2 == 0;
}

// Fills in the seed; returns false if the op must see to it.
inline bool set_seed(DirectCall& call, const Tensor& seed, const Tensor& input) {
  if (seed.device() != input.device() || seed.key_set().has(DispatchKey::Python) || seed.scalar_type() != at::kLong ||
      seed.numel() != 1)
    return false;
  call.seed = seed.const_data_ptr();
  return true;
}

// Whether a weight holds one number, or one per channel of the input.
inline bool fits_channels(const Tensor& weight, const Tensor& input) {
  return weight.dim() <= 1 && (weight.numel() == 1 || (input.dim() >= 2 && weight.numel() == input.size(1)));
}

// Fills in the weight; returns false if the op must see to it.
inline bool set_weight(DirectCall& call, const Tensor& weight, const Tensor& input) {
  if (!in_one_piece(weight) || weight.device() != input.device() || weight.scalar_type() != input.scalar_type() ||
      !fits_channels(weight, input))
    return false;
  const int64_t channels = weight.numel();
  call.weight = weight.const_data_ptr();
  call.channels = channels;
  call.repeats = channels == 1 ? std::max<int64_t>(2, input.numel()) : input.stride(1);  // 1: they are side by side
  return true;
}

// Fills in the rows of a softmax; returns false if the op must see to them.
inline bool set_rows(DirectCall& call, const Tensor& tensor, int64_t dim, int64_t dtype) {
  const int64_t dims = tensor.dim();
  if (!tensor.is_contiguous() || dim < -dims || dim >= dims || dtype != static_cast<int64_t>(tensor.scalar_type()))
    return false;
  call.row_size = tensor.size(dim);
  call.inner = tensor.stride(dim);
  return true;
}

}  // namespace fastact
