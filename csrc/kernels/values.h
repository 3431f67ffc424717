// A formula's values for a step of numbers.
#pragma once

#include "math/lut8.h"
#include "simd/step.h"

namespace fastact {
namespace {

// Prefetches the cache lines that a later step will write, `distance` bytes ahead. The hardware prefetches what is
// read, but a store waits for its line from L2, and the few hundred instructions in flight do not cover that: ReLU of
// 65,536 floats with its mask took 10.4 us without this and 8.1 with it, for 1 KiB as for 2. Prefetching the input too
// gained nothing. always_inline: after partial inlining GCC 12 drops the prefetches.
template <class S>
[[gnu::always_inline]] inline void prefetch_to_write(const void* data, int64_t step, int64_t distance) {
  if (__builtin_expect(distance == 0, 1)) return;
  auto* line = static_cast<const char*>(data) + step * sizeof(S) + distance;
  for (unsigned i = 0; i < kStep * sizeof(S); i += 64) __builtin_prefetch(line + i, true);
}

// Whether no number of a step has a minus sign. Four numbers decide for most steps.
template <class T>
inline bool none_negative(const T* x) {
  using Int = typename ExpConstants<T>::Int;
  Int some = bit_cast<Int>(x[0]) | bit_cast<Int>(x[16]) | bit_cast<Int>(x[32]) | bit_cast<Int>(x[48]), any = 0;
  if (__builtin_expect(some < 0, 1)) return false;
  FASTACT_FOR_EACH_IN_STEP(i) any |= bit_cast<Int>(x[i]);
  return any >= 0;
}

// If the formula has one for positive numbers and no number of the step is negative, calls body(i, f(x[i])) with that
// and returns true.
template <class F, class T, class Body>
inline auto run_positive(const F& formula, const T* x, const Body& body, int) -> decltype(formula.positive(*x), true) {
  if (!none_negative(x)) return false;
  FASTACT_FOR_EACH_IN_STEP(i) body(i, formula.positive(x[i]));
  return true;
}
template <class F, class T, class Body>
inline bool run_positive(const F&, const T*, const Body&, long) {
  return false;
}

// Calls body(i, f(x[i])) for each element of a step. Where a formula has a table, numbers outside it are computed by
// its outside_lut8, whatever their neighbours are. If all of a step lie outside, the table is not read; otherwise
// outside_lut8 runs for each sixteen numbers that include one outside.
constexpr int64_t kPart = 16;
template <class F, class T, class Body>
inline void for_each_value(const F& formula, const T* x, const Body& body) {
  if constexpr (has_lut8<F>) {
    using Table = Lut8<F>;
    if constexpr (Table::one_sided) {
      if (__builtin_expect(all_outside<Table>(x), 0)) {
        FASTACT_FOR_EACH_IN_STEP(i) body(i, formula.outside_lut8(x[i]));
        return;
      }
    }
    alignas(64) T high[kStep], low[kStep];
    read_lut8<Table>(x, high, low);
    const auto value = [&](int64_t i) {
      if constexpr (Table::split)
        return formula.from_lut8(x[i], high[i], low[i]);
      else
        return formula.from_lut8(x[i], high[i]);
    };
    if constexpr (Table::one_sided) {
      if (__builtin_expect(any_outside<Table, kStep>(x), 0)) {
        alignas(64) T outside[kStep] = {};
        for (int64_t part = 0; part < kStep; part += kPart) {
          if (any_outside<Table, kPart>(x + part))
            FASTACT_VECTORIZE for (int64_t i = part; i < part + kPart; ++i) outside[i] = formula.outside_lut8(x[i]);
        }
        FASTACT_FOR_EACH_IN_STEP(i)
        body(i, (Table::mirrored ? -x[i] : x[i]) < Table::least ? outside[i] : value(i));
        return;
      }
    }
    FASTACT_FOR_EACH_IN_STEP(i) body(i, value(i));
  } else if (!run_positive(formula, x, body, 0)) {
    FASTACT_FOR_EACH_IN_STEP(i) body(i, formula.forward(x[i]));
  }
}

}  // namespace
}  // namespace fastact
