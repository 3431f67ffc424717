// Launches of the softmax kernels. Their names and parameters stand in fastact/triton/sources.py.
#pragma once

#include "gpu/elementwise.h"

namespace fastact::gpu {

struct SoftmaxKernel {
  int which;
  bool backward;
  ScalarType read, written;
  bool strided;
  int64_t lanes, columns;  // of a tile, powers of two
  bool two_passes;
  int64_t divisor;  // 8, 4, 2 or 1: divides the length of what lies in one piece
  bool wide;

  static int log2_of(int64_t power) { return __builtin_ctzll(static_cast<uint64_t>(power)); }
  Key key() const {
    return Key(Family::kSoftmax)
        .add(which, 3)
        .add(backward, 1)
        .add(type_index(read), 2)
        .add(type_index(written), 2)
        .add(strided, 1)
        .add(log2_of(lanes), 5)
        .add(log2_of(columns), 5)
        .add(two_passes, 1)
        .add(log2_of(divisor), 2)
        .add(wide, 1);
  }
  std::string name() const {
    return std::string(kSoftmaxOps[which].name) + (backward ? " backward " : " forward ") + name_of(read) + " " +
           name_of(written) + (strided ? " strided " : " rows ") + std::to_string(lanes) + "x" +
           std::to_string(columns) + (two_passes ? " two" : " one") +
           (divisor > 1 ? " divisor=" + std::to_string(divisor) : "") + (wide ? " wide" : "");
  }
};

// Rows of `columns` elements, `inner` apart, in so many batches of `lanes` rows side by side (one batch where a row
// lies in one piece).
struct SoftmaxRows {
  int64_t batches, lanes, columns, inner;

  // Of n elements, and of a dense tensor along a dimension.
  static SoftmaxRows of(int64_t n, int64_t columns, int64_t inner) {
    return inner == 1 || columns == 1 ? SoftmaxRows{1, n / columns, columns, 1}
                                      : SoftmaxRows{n / (columns * inner), inner, columns, inner};
  }
  static SoftmaxRows of(const Tensor& dense, int64_t dim) {
    const bool is_single = dense.numel() == 0 || dense.dim() == 0;
    return of(dense.numel(), is_single ? 1 : dense.size(dim), is_single ? 1 : dense.stride(dim));
  }
};

inline int64_t power_of_two_from(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

// Chooses the tile of a program: whole rows, up to as many elements as its registers hold, or a part of longer ones,
// which it walks twice.
inline void choose_tile(SoftmaxKernel& kernel, const SoftmaxRows& rows) {
  constexpr int64_t kShort = 2048;     // elements in a tile of short rows
  constexpr int64_t kSideBySide = 32;  // rows at least where they lie side by side: 64 bytes of 16-bit types
  const int64_t largest = kernel.read == ScalarType::Double ? 8192 : 16384;
  kernel.columns = power_of_two_from(rows.columns);
  const int64_t widest = std::max<int64_t>(kernel.strided ? kSideBySide : 1, kShort / kernel.columns);
  // By the length of rows alone, so that a kernel serves every number of them; side by side, by both.
  kernel.lanes = kernel.strided ? std::min(widest, power_of_two_from(rows.lanes)) : std::max<int64_t>(1, widest);
  kernel.two_passes = kernel.lanes * kernel.columns > largest;
  if (kernel.two_passes) kernel.columns = largest / 2 / kernel.lanes;
  kernel.wide = needs_wide(rows.columns);
}

// A kernel's tensors, in its order.
using Operands = std::initializer_list<Strided>;

// The largest of 8, 4, 2 and 1 that divides what lies in one piece, in elements, and as accesses all tensors'
// addresses.
inline int64_t divisor_of(int64_t piece, Operands tensors) {
  int64_t divisor = 8;
  const auto divides = [&](const Strided& tensor) {
    return is_aligned(tensor.data, std::min<int64_t>(16, divisor * tensor.element_size()));
  };
  while (divisor > 1 && (piece % divisor != 0 || !std::all_of(tensors.begin(), tensors.end(), divides))) divisor /= 2;
  return divisor;
}

inline SoftmaxKernel softmax_kernel(int which, bool backward, const SoftmaxRows& rows, Operands tensors) {
  const ScalarType read = tensors.begin()->type, written = (tensors.end() - 1)->type;
  SoftmaxKernel kernel{which, backward, read, written, rows.inner != 1, 1, 1, false, 1, false};
  kernel.divisor = divisor_of(kernel.strided ? rows.inner : rows.columns, tensors);
  choose_tile(kernel, rows);
  return kernel;
}

inline void start(const Launcher& launcher, const SoftmaxKernel& kernel, const Kernel& found, const SoftmaxRows& rows,
                  Operands tensors) {
  Parameters parameters;
  for (const Strided& tensor : tensors) parameters.add(static_cast<const void*>(tensor.data));
  for (int64_t number : {rows.lanes, rows.columns, rows.inner}) parameters.add(number);
  launcher.start(found, rows.batches * divide_up(rows.lanes, kernel.lanes), parameters);
}

inline void run_softmax(const Launcher& launcher, int which, bool backward, const SoftmaxRows& rows, Operands tensors) {
  if (rows.batches * rows.lanes == 0) return;
  const SoftmaxKernel kernel = softmax_kernel(which, backward, rows, tensors);
  start(launcher, kernel, launcher.find(kernel), rows, tensors);
}

// The same if the kernel is loaded; else returns false.
inline bool run_softmax_if_loaded(int device, int which, bool backward, const SoftmaxRows& rows, Operands tensors) {
  const SoftmaxKernel kernel = softmax_kernel(which, backward, rows, tensors);
  const Kernel* found = Launcher::loaded(kernel, device);
  if (found) start(Launcher(device), kernel, *found, rows, tensors);
  return found;
}

}  // namespace fastact::gpu
