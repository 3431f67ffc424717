// What a monitor asks of numbers.
#pragma once

#include "kernels/sums.h"

namespace fastact {
namespace {

// Adds n numbers to a summary, or returns false, without adding them, if they are not all finite.
template <class T>
bool summarize_finite(const T* numbers, int64_t n, Summary& summary) {
  using Numbers = RowVectors<T>;
  using Flags = RowVectors<Flag<T>>;
  using Vector = typename Numbers::Vector;
  using FlagVector = typename Flags::Vector;
  constexpr int64_t count = Numbers::count, lanes = Numbers::lanes;
  constexpr T largest = sizeof(T) == 8 ? static_cast<T>(__DBL_MAX__) : static_cast<T>(__FLT_MAX__);

  Flags zeros, finite;
  Numbers least, most;
  FASTACT_FOR_EACH_VECTOR(k) {
    finite.vectors[k] = ~FlagVector{};
    least.vectors[k] = most.vectors[k] = Vector{} + numbers[0];
  }
  const auto add = [&](const T* from, const Flags& present) __attribute__((always_inline)) {
    FASTACT_FOR_EACH_VECTOR(k) {
      Vector x;
      __builtin_memcpy(&x, from + k * lanes, sizeof x);
      finite.vectors[k] &= (x >= -largest) & (x <= largest);
      zeros.vectors[k] -= ((FlagVector(x) << 1) == 0) & present.vectors[k];  // subnormal numbers are none
      least.vectors[k] = x < least.vectors[k] ? x : least.vectors[k];
      most.vectors[k] = x > most.vectors[k] ? x : most.vectors[k];
    }
  };
  Flags all;
  FASTACT_FOR_EACH_VECTOR(k) all.vectors[k] = ~FlagVector{};
  const int64_t whole = n / kRowLanes * kRowLanes;
  for (int64_t i = 0; i < whole; i += kRowLanes) add(numbers + i, all);
  if (whole < n) {
    alignas(64) T last[kRowLanes];
    alignas(64) Flag<T> present[kRowLanes];
    for (int64_t i = 0; i < kRowLanes; ++i) {
      present[i] = whole + i < n ? -1 : 0;
      last[i] = present[i] ? numbers[whole + i] : numbers[0];
    }
    add(last, Flags(present));
  }
  if (!finite.folded([](auto a, auto b) { return a & b; })) return false;

  const double shift = numbers[0];
  double sums[2] = {};
  add_moments<T>(numbers, n, shift, sums);
  Summary found;
  found.count = static_cast<double>(n);
  found.mean = shift + sums[0] / found.count;
  const double squares = sums[1] - sums[0] * (sums[0] / found.count);
  found.squares = squares > 0 ? squares : 0;
  found.least = least.folded([](auto a, auto b) { return a < b ? a : b; });
  found.most = most.folded([](auto a, auto b) { return a > b ? a : b; });
  found.zeros = static_cast<double>(zeros.sum());
  merge(summary, found);
  return true;
}

// Adds n numbers to a summary: blocks that stay in the L1 cache, once for extremes and once for moments.
template <class T>
void summarize(const void* numbers_, int64_t n, Summary& summary) {
  auto* numbers = static_cast<const T*>(numbers_);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t some = n - begin < kBlock ? n - begin : kBlock;
    if (summarize_finite(numbers + begin, some, summary)) continue;
    T finite[kBlock];
    int64_t kept = 0;
    for (int64_t i = begin; i < begin + some; ++i) {
      const bool is_nan = numbers[i] != numbers[i], is_finite = numbers[i] - numbers[i] == 0;
      summary.nan += is_nan;
      summary.infinite += !is_nan && !is_finite;
      finite[kept] = numbers[i];
      kept += is_finite;
    }
    if (kept > 0) summarize_finite(finite, kept, summary);
  }
}

// Returns how many of n numbers, fewer than 2^31, are in one of the closed intervals, of which `bounds` holds both
// ends. Unless `awake` is null, it has a flag for each number, of the number's size, which is set to -1 where the
// number is in none.
template <class T>
int64_t count_flat(const void* numbers_, int64_t n, const double* bounds, int64_t intervals, void* awake_) {
  auto* numbers = static_cast<const T*>(numbers_);
  auto* awake = static_cast<Flag<T>*>(awake_);
  using Vector = typename RowVectors<T>::Vector;
  using Flags = RowVectors<Flag<T>>;
  using FlagVector = typename Flags::Vector;
  constexpr int64_t count = Flags::count, lanes = Flags::lanes;
  T ends[2 * kMostIntervals] = {};
  for (int64_t i = 0; i < 2 * intervals; ++i) ends[i] = static_cast<T>(bounds[i]);

  Flags flat;
  const int64_t whole = n / kRowLanes * kRowLanes;
  for (int64_t i = 0; i < whole; i += kRowLanes) {
    FASTACT_FOR_EACH_VECTOR(k) {
      Vector x;
      __builtin_memcpy(&x, numbers + i + k * lanes, sizeof x);
      FlagVector inside = {};
      for (int64_t j = 0; j < intervals; ++j) inside |= (x >= ends[2 * j]) & (x <= ends[2 * j + 1]);
      flat.vectors[k] -= inside;
      if (!awake) continue;
      FlagVector flags;
      __builtin_memcpy(&flags, awake + i + k * lanes, sizeof flags);
      flags |= ~inside;
      __builtin_memcpy(awake + i + k * lanes, &flags, sizeof flags);
    }
  }
  int64_t total = flat.sum();
  for (int64_t i = whole; i < n; ++i) {
    bool inside = false;
    for (int64_t j = 0; j < intervals; ++j) inside |= numbers[i] >= ends[2 * j] && numbers[i] <= ends[2 * j + 1];
    total += inside;
    if (awake && !inside) awake[i] = -1;
  }
  return total;
}

}  // namespace
}  // namespace fastact
