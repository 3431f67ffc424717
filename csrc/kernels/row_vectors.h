// kRowLanes numbers in vectors of the processor's width.
#pragma once

#include "kernels/block.h"
#include "kernels/tiles.h"
#include "simd/step.h"

#define FASTACT_FOR_EACH_LANE(i) FASTACT_VECTORIZE for (int64_t i = 0; i < kRowLanes; ++i)
#define FASTACT_FOR_EACH_VECTOR(k) _Pragma("GCC unroll 8") for (int64_t k = 0; k < count; ++k)

namespace fastact {
namespace {

template <class T, int64_t n>
struct VectorOf {
  typedef T type __attribute__((vector_size(n * sizeof(T))));
};
template <class T>
struct VectorOf<T, 1> {
  using type = T;
};

// Combines n numbers into one, by halving.
template <class T, int64_t n, class Combine>
inline T folded(typename VectorOf<T, n>::type numbers, const Combine& combine) {
  if constexpr (n == 1) {
    return numbers;
  } else {
    typename VectorOf<T, n / 2>::type halves[2];
    __builtin_memcpy(halves, &numbers, sizeof numbers);
    return folded<T, n / 2>(combine(halves[0], halves[1]), combine);
  }
}

template <class T>
struct RowVectors {
  static constexpr int64_t lanes = kVector / sizeof(T) < kRowLanes ? kVector / sizeof(T) : kRowLanes;
  static constexpr int64_t count = kRowLanes / lanes;
  using Vector = typename VectorOf<T, lanes>::type;
  Vector vectors[count];

  // Vector by vector: GCC copies arrays 16 bytes at a time through memory, where a wider load then stalls on two
  // stores, and clears them by rep stos, which takes 25 ns.
  RowVectors() {
    for (auto& each : vectors) each = Vector{};
  }
  explicit RowVectors(const T* from) {
    FASTACT_FOR_EACH_VECTOR(k) __builtin_memcpy(&vectors[k], from + k * lanes, sizeof(Vector));
  }
  // The same with 16-bit numbers in memory.
  template <class S>
  static RowVectors read(const S* from) {
    if constexpr (is_16_bit<S>) {
      alignas(64) T numbers[kRowLanes];
      promote<kRowLanes>(from, numbers);
      return RowVectors(numbers);
    } else {
      return RowVectors(from);
    }
  }
  template <class S>
  void write(S* to) const {
    if constexpr (is_16_bit<S>) {
      alignas(64) T numbers[kRowLanes];
      store(numbers);
      demote<kRowLanes>(numbers, to);
    } else {
      store(to);
    }
  }
  void store(T* to) const { FASTACT_FOR_EACH_VECTOR(k) __builtin_memcpy(to + k * lanes, &vectors[k], sizeof(Vector)); }
  template <class Combine>
  void combine(const RowVectors& others, const Combine& combine) {
    FASTACT_FOR_EACH_VECTOR(k) vectors[k] = combine(vectors[k], others.vectors[k]);
  }
  void operator+=(const RowVectors& others) {
    combine(others, [](auto a, auto b) { return a + b; });
  }
  template <class Other>
  explicit operator RowVectors<Other>() const {
    alignas(64) T from[kRowLanes];
    alignas(64) Other to[kRowLanes];
    store(from);
    FASTACT_FOR_EACH_LANE(i) to[i] = from[i];
    return RowVectors<Other>(to);
  }
  // Sets all but the last n numbers to zero.
  void keep_last(int64_t n) {
    static_assert(kRowLanes == 16);
    using Int = Flag<T>;
    static constexpr Int flags[2 * kRowLanes] = {0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
                                                 -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    const RowVectors<Int> kept(flags + n);
    FASTACT_FOR_EACH_VECTOR(k) { vectors[k] = Vector(typename RowVectors<Int>::Vector(vectors[k]) & kept.vectors[k]); }
  }
  template <class Combine>
  T folded(const Combine& combine) {
    for (int64_t half = count / 2; half > 0; half /= 2)
      for (int64_t k = 0; k < half; ++k) vectors[k] = combine(vectors[k], vectors[half + k]);
    return fastact::folded<T, lanes>(vectors[0], combine);
  }
  T sum() {
    return folded([](auto a, auto b) { return a + b; });
  }
};

}  // namespace
}  // namespace fastact
