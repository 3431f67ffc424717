// The gradient of a sum of |y| joins that of y, before the activation's own block runs (runtime/l1.h).
#pragma once

#include "kernels/elementwise.h"

namespace fastact {
namespace {

// grad + l1 sign(y), where the sign of zero and NaN is 0.
template <class S>
struct AddL1 {
  static constexpr bool prefetches = false;
  using Stored = S;
  using T = Compute<S>;
  using Reads = Operands<ReadTile<S>, ReadTile<S>>;
  using Writes = Operands<WriteTile<S>>;
  T l1;

  void step(int64_t, const T* grad, const T* y, T* sum) const {
    FASTACT_FOR_EACH_IN_STEP(i) sum[i] = grad[i] + (y[i] > 0 ? l1 : y[i] < 0 ? -l1 : T(0));
  }
};

// The same where every y that matters is positive.
template <class S>
struct AddL1OfPositive {
  static constexpr bool prefetches = false;
  using Stored = S;
  using T = Compute<S>;
  using Reads = Operands<ReadTile<S>>;
  using Writes = Operands<WriteTile<S>>;
  T l1;

  void step(int64_t, const T* grad, T* sum) const { FASTACT_FOR_EACH_IN_STEP(i) sum[i] = grad[i] + l1; }
};

template <class S>
FASTACT_FLATTEN void add_l1(const void* const* inputs, void* const* outputs, int64_t n, int64_t, const Call& call) {
  const Arguments arguments{inputs, outputs, n, call};
  const auto l1 = static_cast<Compute<S>>(call.scalars[0]);
  if (inputs[1])
    arguments.run(AddL1<Unordered<S>>{l1});
  else
    arguments.run(AddL1OfPositive<Unordered<S>>{l1});
}

}  // namespace
}  // namespace fastact
