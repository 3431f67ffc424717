// What a monitor asks of numbers, in one pass.
#pragma once

#include "kernels/sums.h"

namespace fastact {
namespace {

// Adds n numbers to a summary. Flat are those in one of the closed intervals, of which `bounds` holds both ends. Unless
// `awake` is null, it has a flag for each number and kRowLanes - 1 more, of the number's size, which is set to -1 where
// the number is not flat. Sums are of the numbers less the first finite one, in double, as those of `add_moments`.
template <class T>
void summarize(const void* numbers_, int64_t n, const double* bounds, int64_t intervals, void* awake_,
               Summary& summary) {
  using Numbers = RowVectors<T>;
  using Flags = RowVectors<Flag<T>>;
  using Vector = typename Numbers::Vector;
  using FlagVector = typename Flags::Vector;
  constexpr int64_t count = Numbers::count, lanes = Numbers::lanes;
  constexpr T largest = sizeof(T) == 8 ? static_cast<T>(__DBL_MAX__) : static_cast<T>(__FLT_MAX__);
  auto* numbers = static_cast<const T*>(numbers_);
  auto* awake = static_cast<Flag<T>*>(awake_);

  T shift = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (numbers[i] >= -largest && numbers[i] <= largest) {
      shift = numbers[i];
      break;
    }
  }
  T ends[2 * kMostIntervals] = {};
  for (int64_t i = 0; i < 2 * intervals; ++i) ends[i] = static_cast<T>(bounds[i]);

  Flags zeros, flat, nan, infinite;
  Numbers least, most;
  Sums first, second;
  FASTACT_FOR_EACH_VECTOR(k) least.vectors[k] = most.vectors[k] = Vector{} + shift;

  // Of the numbers at `from` those whose lane in `present` is set; all others must be `shift`.
  const auto add = [&](const T* from, const Flags& present, Flag<T>* flags) __attribute__((always_inline)) {
    alignas(64) T finite[kRowLanes];
    FASTACT_FOR_EACH_VECTOR(k) {
      Vector x;
      __builtin_memcpy(&x, from + k * lanes, sizeof x);
      const FlagVector is_finite = (x >= -largest) & (x <= largest), is_nan = x != x, here = present.vectors[k];
      FlagVector is_flat = {};
      for (int64_t j = 0; j < intervals; ++j) is_flat |= (x >= ends[2 * j]) & (x <= ends[2 * j + 1]);
      zeros.vectors[k] -= ((FlagVector(x) << 1) == 0) & here;  // subnormal numbers are none
      flat.vectors[k] -= is_flat & here;
      nan.vectors[k] -= is_nan & here;
      infinite.vectors[k] -= ~is_finite & ~is_nan & here;
      if (flags) {
        FlagVector before;
        __builtin_memcpy(&before, flags + k * lanes, sizeof before);
        before |= ~is_flat & here;
        __builtin_memcpy(flags + k * lanes, &before, sizeof before);
      }
      const Vector kept = is_finite ? x : Vector{} + shift;
      least.vectors[k] = kept < least.vectors[k] ? kept : least.vectors[k];
      most.vectors[k] = kept > most.vectors[k] ? kept : most.vectors[k];
      __builtin_memcpy(finite + k * lanes, &kept, sizeof kept);
    }
    constexpr int64_t count = Sums::count;
    FASTACT_FOR_EACH_VECTOR(k) {
      const Sums::Vector less = load_double(finite + k * Sums::lanes) - static_cast<double>(shift);
      first.vectors[k] += less;
      second.vectors[k] += less * less;
    }
  };

  Flags all;
  FASTACT_FOR_EACH_VECTOR(k) all.vectors[k] = ~FlagVector{};
  const int64_t whole = n / kRowLanes * kRowLanes, rest = n - whole;
  for (int64_t i = 0; i < whole; i += kRowLanes) add(numbers + i, all, awake ? awake + i : nullptr);
  if (rest > 0) {
    alignas(64) T last[kRowLanes];
    alignas(64) Flag<T> present[kRowLanes];
    for (int64_t i = 0; i < kRowLanes; ++i) {
      last[i] = i < rest ? numbers[whole + i] : shift;
      present[i] = i < rest ? -1 : 0;
    }
    add(last, Flags(present), awake ? awake + whole : nullptr);
  }

  Summary found;
  found.zeros = static_cast<double>(zeros.sum());
  found.flat = static_cast<double>(flat.sum());
  found.nan = static_cast<double>(nan.sum());
  found.infinite = static_cast<double>(infinite.sum());
  found.count = static_cast<double>(n) - found.nan - found.infinite;
  if (found.count > 0) {
    const double sum = in_order(first), mean = sum / found.count;
    found.mean = shift + mean;
    found.squares = in_order(second) - sum * mean;
    if (found.squares < 0) found.squares = 0;
    found.least = least.folded([](auto a, auto b) { return a < b ? a : b; });
    found.most = most.folded([](auto a, auto b) { return a > b ? a : b; });
  }
  merge(summary, found);
}

}  // namespace
}  // namespace fastact
