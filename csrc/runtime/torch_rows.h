// Rows of which torch's softmax does the arithmetic, where it was measured to be faster: all that is chosen by size.
// The op, what is saved and the node are ours either way.
#pragma once

#include <array>
#include <atomic>

#include "runtime/layout.h"
#include "spec/ops.h"

namespace fastact {

// One bit for each activation, dtype and kind of rows, in the order of fastact/thresholds.py, which sets them.
inline std::atomic<int64_t>& rows_of_torch() {
  static std::atomic<int64_t> cells{0};
  return cells;
}

// Below, the way to torch's op decides, 1.6 us through the dispatcher and the stable ABI: on an Intel Xeon log_softmax
// of rows of 16 took 1.66 of our time by torch's at 256 elements, 0.99 at 4096 and 0.88 at 8192.
constexpr int64_t kFewestOfTorch = 8192;
// From here on huge pages decide, which torch's outputs do not ask for (memory.h).
constexpr int64_t kAlwaysOurs = int64_t{1} << 24;

// Whether torch computes this softmax of rows of `size` elements, `inner` apart, of a contiguous tensor.
inline bool torch_is_faster(int which, ScalarType dtype, int64_t numel, int64_t size, int64_t inner) {
  const int64_t cells = rows_of_torch().load(std::memory_order_relaxed);
  if (cells == 0 || which == kSoftmin || numel < kFewestOfTorch || numel >= kAlwaysOurs) return false;
  if (size == 1 || (inner > 1 && inner <= 8)) return false;  // rows are brought side by side, faster than torch's
  const int apart = size < 16 ? 4 : 5, together = size < 16 ? 0 : size < 32 ? 1 : size < 64 ? 2 : 3;
  const int of_dtype = is_16_bit(dtype) ? 2 : dtype == ScalarType::Double ? 1 : 0;
  return cells >> (((which == kLogSoftmax ? 3 : 0) + of_dtype) * 6 + (inner > 8 ? apart : together)) & 1;
}
// The same of any tensor, along `dim`, in the dtype of the result.
inline bool torch_is_faster(int which, const Tensor& tensor, int64_t dim, ScalarType result) {
  return tensor.scalar_type() == result && tensor.dim() > 0 && tensor.is_contiguous() &&
         torch_is_faster(which, result, tensor.numel(), tensor.size(dim), tensor.stride(dim));
}

inline Tensor torchs_softmax(int which, const Tensor& input, int64_t dim) {
  std::array<StableIValue, 3> stack{from(input), from(dim), from(false)};
  const char* name = which == kLogSoftmax ? "aten::_log_softmax" : "aten::_softmax";
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

inline Tensor torchs_softmax_backward(int which, const Tensor& grad, const Tensor& output, int64_t dim) {
  std::array<StableIValue, 4> stack{from(grad), from(output), from(dim), from(output.scalar_type())};
  const char* name = which == kLogSoftmax ? "aten::_log_softmax_backward_data" : "aten::_softmax_backward_data";
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

}  // namespace fastact
