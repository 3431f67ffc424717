// Masks of one bit for each element: written from what a formula keeps, and read as flags for a select.
#pragma once

#include "kernels/loop.h"
#include "math/vecmath.h"
#include "simd/vector.h"

namespace fastact {
namespace {

template <class T>
struct FlagOf {
  using type = typename ExpConstants<T>::Int;
};
template <>
struct FlagOf<int16_t> {
  using type = int16_t;
};
template <class T>
using Flag = typename FlagOf<T>::type;

// The bits of a step, one for each number that a formula keeps. Through memory, bits cost ReLU's forward as much as its
// output does, so all stays in registers, by instructions that compilers do not find by themselves.
#if defined(__AVX512DQ__)
// A vector of numbers, and what comparing gives: keep() is written for these as for single numbers.
template <class Bits>
struct Mask {
  Bits bits;
  Mask operator!() const {
    if constexpr (sizeof(Bits) == 1)
      return {_knot_mask8(bits)};
    else
      return {_knot_mask16(bits)};
  }
  Mask operator|(Mask other) const {
    if constexpr (sizeof(Bits) == 1)
      return {_kor_mask8(bits, other.bits)};
    else
      return {_kor_mask16(bits, other.bits)};
  }
};
template <class T>
struct Numbers {
  T numbers __attribute__((vector_size(kVector)));
  template <int relation>
  auto compare(T other) const {
    if constexpr (sizeof(T) == 4)
      return Mask<__mmask16>{_mm512_cmp_ps_mask(numbers, _mm512_set1_ps(other), relation)};
    else
      return Mask<__mmask8>{_mm512_cmp_pd_mask(numbers, _mm512_set1_pd(other), relation)};
  }
  auto operator<(T other) const { return compare<_CMP_LT_OQ>(other); }
  auto operator<=(T other) const { return compare<_CMP_LE_OQ>(other); }
  auto operator>(T other) const { return compare<_CMP_GT_OQ>(other); }
  auto operator>=(T other) const { return compare<_CMP_GE_OQ>(other); }
};
inline Numbers<float> abs(Numbers<float> x) { return {_mm512_abs_ps(x.numbers)}; }
inline Numbers<double> abs(Numbers<double> x) { return {_mm512_abs_pd(x.numbers)}; }

template <class Formula, class T>
inline void write_mask(const Formula& formula, const T* x, uint8_t* bits) {
  constexpr int count = kVector / sizeof(T);
  for (int i = 0; i < kStep; i += count) {
    Numbers<T> numbers;
    __builtin_memcpy(&numbers, x + i, sizeof numbers);
    auto mask = formula.keep(numbers);
    __builtin_memcpy(bits + i / 8, &mask, sizeof mask);
  }
}
#else
#if defined(__AVX2__)
inline uint64_t signs_of(const int32_t* flags) {
  return _mm256_movemask_ps(_mm256_load_ps(reinterpret_cast<const float*>(flags)));
}
inline uint64_t signs_of(const int64_t* flags) {
  return _mm256_movemask_pd(_mm256_load_pd(reinterpret_cast<const double*>(flags)));
}
#elif defined(__SSE2__)
inline uint64_t signs_of(const int32_t* flags) {
  return _mm_movemask_ps(_mm_load_ps(reinterpret_cast<const float*>(flags)));
}
inline uint64_t signs_of(const int64_t* flags) {
  return _mm_movemask_pd(_mm_load_pd(reinterpret_cast<const double*>(flags)));
}
#else
template <class Flag>
inline uint64_t signs_of(const Flag* flags) {
  uint64_t bits = 0;
  for (unsigned j = 0; j < kVector / sizeof(Flag); ++j) bits |= static_cast<uint64_t>(flags[j] & 1) << j;
  return bits;
}
#endif

template <class Formula, class T>
inline void write_mask(const Formula& formula, const T* x, uint8_t* bits) {
  alignas(64) Flag<T> flags[kStep];
  // Most formulas negate what they compare, and here that costs nothing.
  FASTACT_FOR_EACH_IN_STEP(i) flags[i] = formula.keep(x[i]) ? 0 : -1;
  uint64_t dropped = 0;
  for (int i = 0; i < kStep; i += kVector / sizeof(T)) dropped |= signs_of(flags + i) << i;
  uint64_t kept = ~dropped;
  __builtin_memcpy(bits, &kept, sizeof kept);
}
#endif

// Bits as flags, -1 or 0, which are as wide as the numbers they belong to, so that a select takes them as they are. Of
// each `stride` bits, the first.
template <int stride = 1, class Flag>
inline void unpack(uint64_t bits, Flag* flags) {
  constexpr int lanes = kVector / sizeof(Flag);
  typedef Flag Vector __attribute__((vector_size(kVector)));
  Vector power;
  for (int i = 0; i < lanes; ++i) power[i] = static_cast<Flag>(uint64_t{1} << stride * i);
  for (int j = 0; j < kStep / stride; j += lanes) {
    const auto part = static_cast<Flag>(bits >> stride * j);
    Vector set = ((Vector{} + part) & power) != 0;
    __builtin_memcpy(flags + j, &set, kVector);
  }
}
#if defined(__AVX512DQ__)
inline void unpack(uint64_t bits, int16_t* flags) {
  for (int j = 0; j < kStep; j += 32)
    _mm512_store_si512(flags + j, _mm512_movm_epi16(static_cast<uint32_t>(bits >> j)));
}
inline void unpack(uint64_t bits, int32_t* flags) {
  for (int j = 0; j < kStep; j += 16)
    _mm512_store_si512(flags + j, _mm512_movm_epi32(static_cast<uint16_t>(bits >> j)));
}
inline void unpack(uint64_t bits, int64_t* flags) {
  for (int j = 0; j < kStep; j += 8) _mm512_store_si512(flags + j, _mm512_movm_epi64(static_cast<uint8_t>(bits >> j)));
}
#endif

}  // namespace
}  // namespace fastact
