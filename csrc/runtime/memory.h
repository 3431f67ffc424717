// New tensors.
#pragma once

#include <torch/csrc/stable/ops.h>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "runtime/dtype.h"

namespace fastact {

inline bool is_dense(const Tensor& tensor) {
  if (tensor.is_contiguous()) return true;
  auto sizes = tensor.sizes(), strides = tensor.strides();
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (size_t i = 0; i < sizes.size(); ++i)
    if (sizes[i] != 1) dims.emplace_back(strides[i], sizes[i]);
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (auto [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

inline bool same_sizes(const Tensor& a, const Tensor& b) {
  auto a_sizes = a.sizes(), b_sizes = b.sizes();
  return a_sizes.size() == b_sizes.size() && std::equal(a_sizes.begin(), a_sizes.end(), b_sizes.begin());
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  if (a.is_cpu() || b.is_cpu()) return a.is_cpu() && b.is_cpu();
  return a.get_device_index() == b.get_device_index();
}

inline bool same_layout(const Tensor& a, const Tensor& b) {
  if (a.get() == b.get() || (a.is_contiguous() && b.is_contiguous())) return true;
  auto sizes = a.sizes(), a_strides = a.strides(), b_strides = b.strides();
  for (size_t i = 0; i < sizes.size(); ++i)
    if (sizes[i] != 1 && a_strides[i] != b_strides[i]) return false;
  return true;
}

// Asks for huge pages for a tensor of 32 MiB or more, for which glibc maps new memory at each allocation (mallopt(3),
// M_MMAP_THRESHOLD). The kernel clears new memory page by page as it is written, several times faster by 2 MiB than by
// 4 KiB (bench/page_faults.py). FASTACT_HUGE_PAGES=0 turns this off, as does `never` in
// /sys/kernel/mm/transparent_hugepage/enabled.
inline void prefer_huge_pages(const Tensor& written) {
#if defined(__linux__)
  static const bool wanted = [] {
    const char* variable = std::getenv("FASTACT_HUGE_PAGES");
    return !variable || std::string_view(variable) != "0";
  }();
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  if (!wanted || written.numel() == 0 || !written.is_cpu()) return;
  int64_t last = 0;
  for (int64_t i = 0; i < written.dim(); ++i) last += (written.size(i) - 1) * written.stride(i);
  auto size = static_cast<uintptr_t>(last + 1) * written.element_size();
  if (size < uintptr_t{32} << 20) return;
  auto begin = reinterpret_cast<uintptr_t>(written.data_ptr());
  uintptr_t first = (begin + page - 1) / page * page;
  madvise(reinterpret_cast<void*>(first), (begin + size) / page * page - first, MADV_HUGEPAGE);
#else
  (void)written;
#endif
}

// A new tensor on the device of another. Calls the allocator directly: empty_like through the dispatcher takes 0.6 us
// longer, a fifth of a small call.
inline Tensor new_tensor(const int64_t* sizes, const int64_t* strides, int64_t dim, ScalarType type,
                         const Tensor& beside) {
  int32_t dtype = to<int32_t>(from(type)), device;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(beside.get(), &device));
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, sizes, strides, dtype, device, beside.get_device_index(), &handle));
  Tensor tensor(handle);
  prefer_huge_pages(tensor);
  return tensor;
}

// Returns a new dense tensor of the same sizes, dtype and order of dimensions.
inline Tensor new_dense(const Tensor& tensor) {
  if (is_dense(tensor))
    return new_tensor(tensor.sizes().data(), tensor.strides().data(), tensor.dim(), tensor.scalar_type(), tensor);
  Tensor result = torch::stable::empty_like(tensor);
  prefer_huge_pages(result);
  return result;
}

// Returns a new mask: one bit for each element of `tensor`.
inline Tensor new_mask(const Tensor& tensor) {
  int64_t bytes = (tensor.numel() + 7) / 8, stride = 1;
  return new_tensor(&bytes, &stride, 1, ScalarType::Byte, tensor);
}

inline Tensor dense_copy(const Tensor& tensor, const Tensor& layout) {
  Tensor copy = new_dense(layout);
  torch::stable::copy_(copy, tensor);
  return copy;
}

// Returns a copy on the CPU, in the same order of dimensions if the tensor is dense.
inline Tensor copy_to_cpu(const Tensor& tensor) {
  std::vector<int64_t> strides(tensor.dim(), 1);
  for (int64_t i = tensor.dim() - 2; i >= 0; --i)
    strides[i] = strides[i + 1] * std::max<int64_t>(1, tensor.size(i + 1));
  const bool dense = is_dense(tensor);
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(tensor.dim(), tensor.sizes().data(), dense ? tensor.strides().data() : strides.data(),
                               to<int32_t>(from(tensor.scalar_type())), aoti_torch_device_type_cpu(), 0, &handle));
  Tensor copy(handle);
  torch::stable::copy_(copy, tensor);
  return copy;
}

inline Tensor copy_in_layout(const Tensor& tensor, const Tensor& dense) {
  Tensor copy = new_tensor(dense.sizes().data(), dense.strides().data(), dense.dim(), tensor.scalar_type(), tensor);
  torch::stable::copy_(copy, tensor);
  return copy;
}

// Returns one half of a tensor along a dimension of even size, as a view.
inline Tensor half(const Tensor& tensor, int64_t dim, bool second) {
  auto tensor_sizes = tensor.sizes(), strides = tensor.strides();
  std::vector<int64_t> sizes(tensor_sizes.begin(), tensor_sizes.end());
  sizes[dim] /= 2;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(tensor.get(), tensor.dim(), sizes.data(), strides.data(),
                                                        second ? sizes[dim] * strides[dim] : 0, &handle));
  return Tensor(handle);
}

}  // namespace fastact
