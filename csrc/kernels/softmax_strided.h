// Softmax of rows that are strided in memory: panels of kLanes columns, each a row or a part of one.
#pragma once

#include "activations/softmax.h"
#include "kernels/block.h"
#include "simd/step.h"

#define FASTACT_FOR_EACH(i, n) \
  for (int64_t step_ = 0; step_ < n; step_ += kStep) FASTACT_VECTORIZE for (int64_t i = step_; i < step_ + kStep; ++i)

namespace fastact {
namespace {

// Where a panel has fewer rows, the number that each needs is computed row by row; else for all lanes, as vectors, of
// which the widest holds as many doubles. The bits are the same.
constexpr int64_t kFewRows = 8;

// Returns one step of a panel.
template <class T>
inline T* step_of(Panel panel, int64_t step) {
  return static_cast<T*>(panel.data) + step * panel.stride;
}

// Combines the lanes of each row into its first one, by halving: sums stay accurate, and chains of dependent operations
// short.
template <class T, class Combine>
inline void fold(T* lanes, Lanes in_use, const Combine& combine) {
  if (in_use.count == in_use.period) return;
  for (int64_t groups = in_use.count / in_use.period; groups > 1; groups = (groups + 1) / 2) {
    int64_t half = (groups + 1) / 2 * in_use.period, others = groups * in_use.period - half;
    for (int64_t i = 0; i < others; ++i) lanes[i] = combine(lanes[i], lanes[half + i]);
  }
}
inline void fold_sums(double* sums, Lanes in_use) {
  fold(sums, in_use, [](double a, double b) { return a + b; });
}

// Copies the first lane of each row to all of its lanes.
template <class T>
inline void repeat(const T* rows, Lanes in_use, T* lanes) {
  if (in_use.period == kLanes) {
    FASTACT_FOR_EACH(i, kLanes) lanes[i] = rows[i];
    return;
  }
  for (int64_t i = 0; i < in_use.period; ++i)
    for (int64_t lane = i; lane < kLanes; lane += in_use.period) lanes[lane] = rows[i];
}

template <template <class> class Formula, class T>
void softmax_row_max(Panel x_, int64_t steps, Lanes in_use, bool first, void* row_max_) {
  const Formula<T> formula;
  auto* row_max = static_cast<T*>(row_max_);
  alignas(64) T largest[kLanes];
  // Starts from the lowest finite number: from -infinity, differences would be NaN.
  FASTACT_FOR_EACH(i, kLanes) largest[i] = first ? -largest_number<T> : row_max[i];
  for (int64_t step = 0; step < steps; ++step) {
    const T* x = step_of<const T>(x_, step);
    FASTACT_FOR_EACH(i, kLanes) largest[i] = at_least(largest[i], formula.oriented(x[i]));
  }
  fold(largest, in_use, [](T a, T b) { return at_least(a, b); });
  repeat(largest, in_use, row_max);
}

template <template <class> class Formula, class T>
void softmax_exponentials(Panel x_, int64_t steps, const void* row_max_, Panel e_, bool first, double* sums) {
  const Formula<T> formula;
  auto* row_max = static_cast<const T*>(row_max_);
  alignas(64) double total[kLanes];
  alignas(64) T at_max[kLanes] = {};  // of at most 2^24 steps: exact
  FASTACT_FOR_EACH(i, kLanes) total[i] = first ? 0 : sums[i];
  for (int64_t step = 0; step < steps; ++step) {
    const T* x = step_of<const T>(x_, step);
    T* e = step_of<T>(e_, step);
    FASTACT_FOR_EACH(i, kLanes) {
      T oriented = formula.oriented(x[i]), exponential = scaled_exp(oriented, row_max[i]);
      if constexpr (Formula<T>::log) {
        const T maximum = oriented == row_max[i] ? T(kScale) : T(0);
        total[i] += maximum > T(0) ? T(0) : exponential;
        at_max[i] += maximum;
      } else {
        e[i] = exponential;
        total[i] += exponential;
      }
    }
  }
  FASTACT_FOR_EACH(i, kLanes) sums[i] = total[i];
  if constexpr (Formula<T>::log)
    FASTACT_FOR_EACH(i, kLanes) sums[kLanes + i] = at_max[i] + (first ? 0 : sums[kLanes + i]);
}

template <template <class> class Formula, class T>
void softmax_finalize(double* sums, const void* row_max_, Lanes in_use, void* high_, void* low_) {
  const Formula<T> formula;
  auto* row_max = static_cast<const T*>(row_max_);
  alignas(64) T high[kLanes], low[kLanes];
  fold_sums(sums, in_use);
  if (Formula<T>::log) fold_sums(sums + kLanes, in_use);
  const auto finalize = [&](int64_t i) {
    formula.finalize({sums[i], Formula<T>::log ? sums[kLanes + i] : 0}, row_max[i], high[i], low[i]);
  };
  if (in_use.period < kFewRows) {
    for (int64_t i = 0; i < in_use.period; ++i) finalize(i);
  } else {
    FASTACT_FOR_EACH(i, kLanes) finalize(i);
  }
  repeat(high, in_use, static_cast<T*>(high_));
  repeat(low, in_use, static_cast<T*>(low_));
}

template <template <class> class Formula, class T>
void softmax_write(Panel source_, int64_t steps, const void* high_, const void* low_, Panel y_) {
  const Formula<T> formula;
  auto *high = static_cast<const T*>(high_), *low = static_cast<const T*>(low_);
  for (int64_t step = 0; step < steps; ++step) {
    const T* source = step_of<const T>(source_, step);
    T* y = step_of<T>(y_, step);
    FASTACT_FOR_EACH(i, kLanes) y[i] = formula.forward(source[i], high[i], low[i]);
  }
}

template <template <class> class Formula, class T>
void softmax_terms(Panel grad_, Panel y_, int64_t steps, bool first, double* sums) {
  const Formula<T> formula;
  constexpr int64_t steps_in_T = 8;  // then their sums are added in double
  alignas(64) double total[kLanes];
  FASTACT_FOR_EACH(i, kLanes) total[i] = first ? 0 : sums[i];
  for (int64_t begin = 0; begin < steps; begin += steps_in_T) {
    alignas(64) T partial[kLanes] = {};
    for (int64_t step = begin; step < steps && step < begin + steps_in_T; ++step) {
      const T *grad = step_of<const T>(grad_, step), *y = step_of<const T>(y_, step);
      FASTACT_FOR_EACH(i, kLanes) partial[i] += formula.term(grad[i], y[i]);
    }
    FASTACT_FOR_EACH(i, kLanes) total[i] += partial[i];
  }
  FASTACT_FOR_EACH(i, kLanes) sums[i] = total[i];
}

template <class T>
void softmax_finalize_terms(double* sums, Lanes in_use, void* rounded_) {
  alignas(64) T rounded[kLanes];
  fold_sums(sums, in_use);
  FASTACT_FOR_EACH(i, kLanes) rounded[i] = static_cast<T>(sums[i]);
  repeat(rounded, in_use, static_cast<T*>(rounded_));
}

template <template <class> class Formula, class T>
void softmax_gradient(Panel grad_, Panel y_, int64_t steps, const void* sums_, Panel grad_input_) {
  const Formula<T> formula;
  auto* sums = static_cast<const T*>(sums_);
  for (int64_t step = 0; step < steps; ++step) {
    const T *grad = step_of<const T>(grad_, step), *y = step_of<const T>(y_, step);
    T* grad_input = step_of<T>(grad_input_, step);
    FASTACT_FOR_EACH(i, kLanes) grad_input[i] = formula.gradient(grad[i], y[i], sums[i]);
  }
}

#undef FASTACT_FOR_EACH

}  // namespace
}  // namespace fastact
