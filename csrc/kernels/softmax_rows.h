// Softmax of rows of consecutive elements.
#pragma once

#include "activations/lowp.h"
#include "activations/softmax.h"
#include "kernels/row_vectors.h"

namespace fastact {
namespace {

// Calls body(first, skipped) for groups of kRowLanes elements, from `begin` to `end` of a row with at least that many.
// The last group ends at `end`; its first `skipped` elements were in the group before.
template <class Body>
inline void for_each_group(int64_t begin, int64_t end, const Body& body) {
  const int64_t rest = (end - begin) % kRowLanes;
  for (int64_t first = begin; first + kRowLanes <= end; first += kRowLanes) body(first, 0);
  if (rest != 0) body(end - kRowLanes, kRowLanes - rest);
}

// Writes y[i] = result(i) for a row. result(i) may read y[i], so what the last two groups share is computed before
// either is written.
template <class T, class Result>
inline void write_row(int64_t n, T* y, const Result& result) {
  alignas(64) T last[kRowLanes] = {};
  if (n % kRowLanes != 0) FASTACT_FOR_EACH_LANE(i) last[i] = result(n - kRowLanes + i);
  for (int64_t first = 0; first + kRowLanes <= n; first += kRowLanes)
    FASTACT_FOR_EACH_LANE(i) y[first + i] = result(first + i);
  if (n % kRowLanes != 0) FASTACT_FOR_EACH_LANE(i) y[n - kRowLanes + i] = last[i];
}

// Returns the maximum of n numbers or of their negatives. It ignores NaN.
template <class Formula, class T>
inline T row_max_of(const Formula& formula, const T* x, int64_t n) {
  const auto larger = [](auto a, auto b) { return a > b ? a : b; };
  const auto oriented = [&](int64_t first) {
    RowVectors<T> numbers(x + first);
    if (formula.oriented(1) < 0)
      for (auto& each : numbers.vectors) each = -each;
    return numbers;
  };
  auto largest = oriented(0);
  // Starts from the lowest finite number: from -infinity, differences would be NaN.
  for (auto& each : largest.vectors) each = decltype(each + each){} - largest_number<T>;
  for_each_group(0, n, [&](int64_t first, int64_t) {
    const auto numbers = oriented(first);
    for (int64_t k = 0; k < numbers.count; ++k) largest.vectors[k] = larger(numbers.vectors[k], largest.vectors[k]);
  });
  return largest.folded(larger);
}

// Sums elements `begin` to `end` of a row whose maximum is `top`, in each lane as `Sum`. Leaves the exponentials in y,
// unless the output is a logarithm.
template <class Sum, class Formula, class T, class Exp>
inline RowSum sum_part(const Formula& formula, const T* x, int64_t begin, int64_t end, T top, const Exp& exp, T* y) {
  using Int = typename ExpConstants<T>::Int;
  alignas(64) Sum below[kRowLanes];
  alignas(64) Int at_max[kRowLanes];
  FASTACT_FOR_EACH_LANE(i) below[i] = 0, at_max[i] = 0;
  for_each_group(begin, end, [&](int64_t first, int64_t skipped) {
    FASTACT_FOR_EACH_LANE(i) {
      bool counts = static_cast<Int>(i) >= static_cast<Int>(skipped);
      T oriented = formula.oriented(x[first + i]), exponential = exp(oriented);
      if constexpr (Formula::log) {
        below[i] += zero_if((oriented == top) | !counts, exponential);
        at_max[i] += (oriented == top) & counts;
      } else {
        y[first + i] = exponential;
        below[i] += counts ? exponential : T(0);
      }
    }
  });
  return {RowVectors(below).sum(), Formula::log ? kScale * static_cast<double>(RowVectors(at_max).sum()) : 0};
}

// Sums a row in parts: rounding errors grow with the length of a sum, and so do integer counts.
template <class Sum, class Formula, class T, class Exp>
inline RowSum sum_row(const Formula& formula, const T* x, int64_t n, T top, const Exp& exp, T* y) {
  constexpr int64_t part_size = sizeof(Sum) == 4 ? 256 : 1024;
  RowSum sum = sum_part<Sum>(formula, x, 0, n < part_size ? n : part_size, top, exp, y);
  for (int64_t begin = part_size; begin < n; begin += part_size) {
    const auto part = sum_part<Sum>(formula, x, begin, begin + part_size < n ? begin + part_size : n, top, exp, y);
    sum.below += part.below, sum.at_max += part.at_max;
  }
  return sum;
}

// The number of rows that are summed before any of them is written, so that they do not wait for one another: as many
// as stay in L1 with their outputs, at most one for each lane.
inline int64_t rows_together(int64_t n) {
  const int64_t in_cache = kBlock / n;
  return in_cache < 1 ? 1 : in_cache < kRowLanes ? in_cache : kRowLanes;
}

// For tensors of 16 bits, `Sum` is float and chooses the exponentials of lowp.h: results keep 8 or 11 bits, and the sum
// of 256 numbers in float has 19 right.
template <template <class> class Formula, class T, class Sum = double>
FASTACT_FLATTEN void softmax_rows(const void* x_, int64_t rows, int64_t n, void* y_) {
  const Formula<T> formula;
  const int64_t together = rows_together(n);
  for (int64_t begin = 0; begin < rows; begin += together) {
    auto* x = static_cast<const T*>(x_) + begin * n;
    auto* y = static_cast<T*>(y_) + begin * n;
    const int64_t count = rows - begin < together ? rows - begin : together;
    // A row alone takes up to twice as long in all lanes. The number is no constant: GCC 12 unrolls a loop to a
    // constant here, and then drops a rounding (docs/findings/042).
    const int64_t lanes = count == 1 ? 1 : kRowLanes;
    alignas(64) T row_max[kRowLanes], high[kRowLanes], low[kRowLanes];
    RowSum sums[kRowLanes];
    for (int64_t row = count; row < lanes; ++row) row_max[row] = 0, sums[row] = {0, 0};
    for (int64_t row = 0; row < count; ++row) row_max[row] = row_max_of(formula, x + row * n, n);
    const auto sum_rows = [&](const auto& applies, const auto& exp_of) {
      for (int64_t row = 0; row < count; ++row)
        if (applies(row)) sums[row] = sum_row<Sum>(formula, x + row * n, n, row_max[row], exp_of(row), y + row * n);
    };
    // Rows of the two kinds are processed separately, each loop with one kind of exponential and its constants in
    // registers.
    const auto is_moderate = [&](int64_t row) { return Formula<T>::log && abs(row_max[row]) <= RowExp<T>::limit; };
    const auto is_extreme = [&](int64_t row) { return !is_moderate(row); };
    sum_rows(is_extreme, [&](int64_t row) {
      return [top = row_max[row]](T each) {
        if constexpr (sizeof(Sum) == 4)
          return lowp::scaled_exp(each, top);
        else
          return scaled_exp(each, top);
      };
    });
    if constexpr (Formula<T>::log) {
      RowExp<T> exps[kRowLanes];
      FASTACT_VECTORIZE for (int64_t row = 0; row < lanes; ++row) exps[row] = RowExp<T>(row_max[row]);
      sum_rows(is_moderate, [&](int64_t row) { return exps[row]; });
      FASTACT_VECTORIZE for (int64_t row = 0; row < lanes; ++row) {
        double factor = 1 + small_expm1(-exps[row].rest);
        sums[row].below *= is_moderate(row) ? factor : 1;
      }
    }
    FASTACT_VECTORIZE for (int64_t row = 0; row < lanes; ++row)
        formula.finalize(sums[row], row_max[row], high[row], low[row]);
    for (int64_t row = 0; row < count; ++row) {
      const T first = high[row], second = low[row];
      T* to = y + row * n;
      const T* from = Formula<T>::log ? x + row * n : to;
      write_row(n, to, [=](int64_t i) { return formula.forward(from[i], first, second); });
    }
  }
}

// Returns the sum of a row's terms. Eight are added in compute type, then in double.
template <class Formula, class S>
inline double sum_terms(const Formula& formula, const S* grad, const S* y, int64_t n) {
  using T = Compute<S>;
  constexpr int64_t part_size = 8 * kRowLanes;
  RowVectors<double> total;
  for (int64_t begin = 0; begin < n; begin += part_size) {
    RowVectors<T> partial;
    for_each_group(begin, begin + part_size < n ? begin + part_size : n, [&](int64_t first, int64_t skipped) {
      auto terms = RowVectors<T>::read(grad + first);
      terms.combine(RowVectors<T>::read(y + first), [&](auto g, auto y) { return formula.term(g, y); });
      if (skipped > 0) terms.keep_last(kRowLanes - skipped);
      partial += terms;
    });
    total += RowVectors<double>(partial);
  }
  return total.sum();
}

template <template <class> class Formula, class S>
FASTACT_FLATTEN void softmax_rows_backward(const void* grad_, const void* y_, int64_t rows, int64_t n,
                                           void* grad_input_) {
  using T = Compute<S>;
  const Formula<T> formula;
  const int64_t together = Formula<T>::log ? rows_together(n) : 1;
  for (int64_t begin = 0; begin < rows; begin += together) {
    auto *grad = static_cast<const S*>(grad_) + begin * n, *y = static_cast<const S*>(y_) + begin * n;
    auto* grad_input = static_cast<S*>(grad_input_) + begin * n;
    const int64_t count = rows - begin < together ? rows - begin : together;
    T sums[kRowLanes];
    for (int64_t row = 0; row < count; ++row)
      sums[row] = static_cast<T>(sum_terms(formula, grad + row * n, y + row * n, n));
    for (int64_t row = 0; row < count; ++row) {
      const T sum = sums[row];
      const S *from = grad + row * n, *saved = y + row * n;
      S* to = grad_input + row * n;
      for_each_group(0, n, [=](int64_t first, int64_t) {
        auto result = RowVectors<T>::read(from + first);
        const auto outputs = RowVectors<T>::read(saved + first);
        if constexpr (Formula<T>::log) {
          alignas(64) T grads[kRowLanes], logs[kRowLanes];
          result.store(grads);
          outputs.store(logs);
          FASTACT_FOR_EACH_LANE(i) grads[i] = formula.gradient(grads[i], logs[i], sum);
          result = RowVectors<T>(grads);
        } else {
          result.combine(outputs, [=](auto g, auto y) { return formula.gradient(g, y, sum); });
        }
        result.write(to + first);
      });
    }
  }
}

}  // namespace
}  // namespace fastact
