// The sums before and after an activation in the ops with a bias. Between them the activation's own block runs, on
// numbers in compute type (runtime/bias.h).
#pragma once

#include "kernels/elementwise.h"

namespace fastact {
namespace {

template <class T>
struct Biased : Channelwise {
  T bias;
  T forward(T x) const { return x + bias; }
};

template <class S>
FASTACT_FLATTEN void add_bias(const void* const* inputs, void* const* outputs, int64_t n, int64_t, const Call& call) {
  using T = Compute<S>;
  using F = Biased<T>;
  using Bias = Members<WeightMember<&F::bias>>;
  const Arguments arguments{inputs, outputs, n, call};
  with_each_weight<Bias, F, T>(F{}, arguments, 1, std::make_index_sequence<1>(), [&](const F& formula, auto numbers) {
    arguments.run(ChannelwiseForward<F, S, Bias, decltype(numbers), WriteWide<T>>{formula});
  });
}

template <class S>
struct AddResidual {
  static constexpr bool prefetches = false;
  using Stored = S;
  using T = Compute<S>;
  using Reads = Operands<ReadWide<T>, ReadTile<S>>;
  using Writes = Operands<WriteTile<S>>;

  void step(int64_t, const T* y, const T* residual, T* sum) const {
    FASTACT_FOR_EACH_IN_STEP(i) sum[i] = y[i] + residual[i];
  }
};

template <class S>
FASTACT_FLATTEN void add_residual(const void* const* inputs, void* const* outputs, int64_t n, int64_t,
                                  const Call& call) {
  Arguments{inputs, outputs, n, call}.run(AddResidual<S>());
}

}  // namespace
}  // namespace fastact
