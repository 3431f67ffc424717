// What a monitor asks of numbers.
#pragma once

#include "kernels/sums.h"

namespace fastact {
namespace {

// The sums of some numbers less a shift, and of their squares, and what else is told in the same pass.
template <class T>
struct Pass {
  double first = 0, second = 0, zeros;
  T least, most;
};

// Prefetches the kRowLanes numbers that lie a page further on, which the hardware does not: it stops at a page's end.
// Summarizing 2^21 floats that no cache held took 1.02 ms with this, as it did 1 or 16 KiB ahead, and 1.46 without
// (AMD EPYC, Zen 3).
template <class T>
[[gnu::always_inline]] inline void prefetch_to_read(const T* numbers) {
  constexpr int64_t kPage = 4096, kLine = 64;
  auto* ahead = reinterpret_cast<const char*>(numbers) + kPage;
  for (int64_t at = 0; at < kRowLanes * int64_t{sizeof(T)}; at += kLine) __builtin_prefetch(ahead + at);
}

// Of n numbers, fewer than 2^31. Sums are of compute type over `kTerms` terms and of double over those: the 2,048 of
// float32 are 2^-24 kTerms off at most, of the sum of the terms' sizes.
template <class T>
inline Pass<T> pass_over(const T* numbers, int64_t n, T shift) {
  using Numbers = RowVectors<T>;
  using Flags = RowVectors<Flag<T>>;
  using Vector = typename Numbers::Vector;
  using FlagVector = typename Flags::Vector;
  constexpr int64_t count = Numbers::count, lanes = Numbers::lanes, kTerms = 32;

  Pass<T> found;
  Flags zeros;
  Numbers least, most;
  FASTACT_FOR_EACH_VECTOR(k) least.vectors[k] = most.vectors[k] = Vector{} + shift;
  Sums first, second;
  const int64_t whole = n / kRowLanes * kRowLanes;
  for (int64_t begin = 0; begin < whole; begin += kTerms * kRowLanes) {
    const int64_t end = begin + kTerms * kRowLanes < whole ? begin + kTerms * kRowLanes : whole;
    Numbers some, squares;
    for (int64_t i = begin; i < end; i += kRowLanes) {
      prefetch_to_read(numbers + i);
      FASTACT_FOR_EACH_VECTOR(k) {
        Vector x;
        __builtin_memcpy(&x, numbers + i + k * lanes, sizeof x);
        const Vector less = x - shift;
        some.vectors[k] += less;
        squares.vectors[k] += less * less;
        zeros.vectors[k] -= (FlagVector(x) << 1) == 0;  // subnormal numbers are none
        least.vectors[k] = x < least.vectors[k] ? x : least.vectors[k];
        most.vectors[k] = x > most.vectors[k] ? x : most.vectors[k];
      }
    }
    first += Sums(some);
    second += Sums(squares);
  }
  found.first = in_order(first);
  found.second = in_order(second);
  found.zeros = static_cast<double>(zeros.sum());
  found.least = least.folded([](auto a, auto b) { return a < b ? a : b; });
  found.most = most.folded([](auto a, auto b) { return a > b ? a : b; });
  for (int64_t i = whole; i < n; ++i) {
    const double less = static_cast<double>(numbers[i]) - static_cast<double>(shift);
    found.first += less;
    found.second += less * less;
    Flag<T> bits;
    __builtin_memcpy(&bits, numbers + i, sizeof bits);
    found.zeros += static_cast<Flag<T>>(static_cast<std::make_unsigned_t<Flag<T>>>(bits) << 1) == 0;
    found.least = numbers[i] < found.least ? numbers[i] : found.least;
    found.most = numbers[i] > found.most ? numbers[i] : found.most;
  }
  return found;
}

template <class T>
inline T median(T a, T b, T c) {
  const T low = a < b ? a : b, high = a < b ? b : a;
  return c < low ? low : (c > high ? high : c);
}

// Adds n numbers to a summary or, without `known_finite`, returns false and adds none if they are not all finite.
template <class T>
bool summarize_finite(const T* numbers, int64_t n, bool known_finite, Summary& summary) {
  // Near the mean, so that the squares' sum loses little when the mean's is taken off: no outlier.
  const T shift = median(numbers[0], numbers[n / 2], numbers[n - 1]);
  Pass<T> pass = pass_over(numbers, n, shift);
  // One that is not finite shows in the sum, as do differences that the type cannot hold.
  if (!known_finite && !(pass.first - pass.first == 0)) {
    for (int64_t i = 0; i < n; ++i)
      if (!(numbers[i] - numbers[i] == 0)) return false;
  }
  if constexpr (sizeof(T) < sizeof(double)) {
    const double range = static_cast<double>(pass.most) - static_cast<double>(pass.least);
    if (range != 0 && !(range > 1e-12 && range < 1e15)) {  // squares that float32 cannot hold, or not to 2^-24
      pass.first = pass.second = 0;
      for (int64_t i = 0; i < n; ++i) {
        const double less = static_cast<double>(numbers[i]) - static_cast<double>(shift);
        pass.first += less;
        pass.second += less * less;
      }
    }
  }
  Summary found;
  found.zeros = pass.zeros;
  found.count = static_cast<double>(n);
  found.mean = static_cast<double>(shift) + pass.first / found.count;
  const double squares = pass.second - pass.first * (pass.first / found.count);
  found.squares = squares > 0 ? squares : 0;
  found.least = pass.least;
  found.most = pass.most;
  merge(summary, found);
  return true;
}

// Adds n numbers to a summary, block by block.
template <class T>
void summarize(const void* numbers_, int64_t n, Summary& summary) {
  auto* numbers = static_cast<const T*>(numbers_);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t some = n - begin < kBlock ? n - begin : kBlock;
    if (summarize_finite(numbers + begin, some, false, summary)) continue;
    T finite[kBlock];
    int64_t kept = 0;
    for (int64_t i = begin; i < begin + some; ++i) {
      const bool is_nan = numbers[i] != numbers[i], is_finite = numbers[i] - numbers[i] == 0;
      summary.nan += is_nan;
      summary.infinite += !is_nan && !is_finite;
      finite[kept] = numbers[i];
      kept += is_finite;
    }
    if (kept > 0) summarize_finite(finite, kept, true, summary);
  }
}

// Returns how many of n numbers, fewer than 2^31, are in one of the closed intervals, of which `bounds` holds both
// ends. `intervals` is a number or, for a loop of its own, a constant. With `flags`, `awake` has a flag for each
// number, of the number's size, which is set to -1 where the number is in none.
template <bool flags, class T, class Intervals>
inline int64_t count_flat(const T* numbers, int64_t n, const T* ends, Intervals intervals, Flag<T>* awake) {
  using Vector = typename RowVectors<T>::Vector;
  using Flags = RowVectors<Flag<T>>;
  using FlagVector = typename Flags::Vector;
  constexpr int64_t count = Flags::count, lanes = Flags::lanes;
  Vector lows[kMostIntervals], highs[kMostIntervals];
  for (int64_t j = 0; j < intervals; ++j) {
    lows[j] = Vector{} + ends[2 * j];
    highs[j] = Vector{} + ends[2 * j + 1];
  }
  Flags flat;
  const int64_t whole = n / kRowLanes * kRowLanes;
  for (int64_t i = 0; i < whole; i += kRowLanes) {
    prefetch_to_read(numbers + i);
    FASTACT_FOR_EACH_VECTOR(k) {
      Vector x;
      __builtin_memcpy(&x, numbers + i + k * lanes, sizeof x);
      FlagVector inside = {};
      for (int64_t j = 0; j < intervals; ++j) inside |= (x >= lows[j]) & (x <= highs[j]);
      flat.vectors[k] -= inside;
      if constexpr (flags) {
        FlagVector each;
        __builtin_memcpy(&each, awake + i + k * lanes, sizeof each);
        each |= ~inside;
        __builtin_memcpy(awake + i + k * lanes, &each, sizeof each);
      }
    }
  }
  int64_t total = flat.sum();
  for (int64_t i = whole; i < n; ++i) {
    bool inside = false;
    for (int64_t j = 0; j < intervals; ++j) inside |= numbers[i] >= ends[2 * j] && numbers[i] <= ends[2 * j + 1];
    total += inside;
    if constexpr (flags) awake[i] |= inside ? 0 : -1;
  }
  return total;
}

template <class T>
int64_t count_flat(const void* numbers_, int64_t n, const double* bounds, int64_t intervals, void* awake_) {
  auto* numbers = static_cast<const T*>(numbers_);
  auto* awake = static_cast<Flag<T>*>(awake_);
  T ends[2 * kMostIntervals] = {};
  for (int64_t i = 0; i < 2 * intervals; ++i) ends[i] = static_cast<T>(bounds[i]);
  const auto run = [&](auto intervals) {
    return awake ? count_flat<true>(numbers, n, ends, intervals, awake)
                 : count_flat<false>(numbers, n, ends, intervals, awake);
  };
  return intervals == 1 ? run(std::integral_constant<int64_t, 1>()) : run(intervals);  // as of rectifiers
}

}  // namespace
}  // namespace fastact
