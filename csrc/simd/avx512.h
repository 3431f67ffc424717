// AVX-512 with its BW, DQ and VL parts.
#pragma once

#include "simd/lowp.h"
#include "simd/mask.h"
#include "simd/x86.h"

namespace fastact {
namespace {

constexpr int kVector = 64;
constexpr bool kHasFma = true;

typedef __m512 Floats;
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats minimum(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline bool any_less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ) != 0; }
inline bool all_less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ) == 0xffff; }
inline Floats permute8(const float* eight, Floats number) {
  return _mm512_permutexvar_ps(_mm512_castps_si512(number), _mm512_broadcast_f32x8(_mm256_loadu_ps(eight)));
}

// Compilers use twice as many shuffles as multiplications for these products.
typedef uint64_t Words __attribute__((vector_size(64)));
inline Words mul_even(Words a, Words b) { return (Words)_mm512_mul_epu32((__m512i)a, (__m512i)b); }
inline Words even_words(Words a, Words b) { return (Words)_mm512_unpacklo_epi64((__m512i)a, (__m512i)b); }
inline Words odd_words(Words a, Words b) { return (Words)_mm512_unpackhi_epi64((__m512i)a, (__m512i)b); }

// Rounds by the same additions as portable code, with one instruction fewer and no shift before the upper halves are
// packed.
template <int64_t n = kStep>
inline void demote(const float* from, BFloat16* to) {
  if constexpr (n % 32 != 0) {
    portable::demote<n>(from, to);
  } else {
    const __m512i upper = _mm512_set_epi64(0x3f003d003b0039, 0x37003500330031, 0x2f002d002b0029, 0x27002500230021,
                                           0x1f001d001b0019, 0x17001500130011, 0x0f000d000b0009, 0x07000500030001);
    for (int64_t i = 0; i < n; i += 32) {
      __m512i halves[2];
      for (int j = 0; j < 2; ++j) {
        __m512i bits = _mm512_loadu_si512(from + i + 16 * j), half = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
        __mmask16 is_odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
        halves[j] = _mm512_mask_add_epi32(half, is_odd, half, _mm512_set1_epi32(1));
      }
      _mm512_storeu_si512(to + i, _mm512_permutex2var_epi16(halves[0], upper, halves[1]));
    }
  }
}
template <int64_t n = kStep>
inline void promote(const Float16* from, float* to) {
  for (int64_t i = 0; i < n; i += 16) {
    __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    _mm512_storeu_ps(to + i, _mm512_maskz_cvtph_ps(-1, halves));
  }
}
template <int64_t n = kStep>
inline void demote(const float* from, Float16* to) {
  for (int64_t i = 0; i < n; i += 16) {
    __m256i halves = _mm512_maskz_cvtps_ph(-1, _mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), halves);
  }
}

// A vector of numbers, and the mask of a comparison. `keep` takes these as it takes single numbers.
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

template <class Keep, class T>
inline void write_mask(const Keep& keep, const T* x, uint8_t* mask) {
  constexpr int count = kVector / sizeof(T);
  for (int i = 0; i < kStep; i += count) {
    Numbers<T> numbers;
    __builtin_memcpy(&numbers, x + i, sizeof numbers);
    auto bits = keep(numbers);
    __builtin_memcpy(mask + i / 8, &bits, sizeof bits);
  }
}

template <int stride = 1, class Flag>
inline void unpack_mask(uint64_t bits, Flag* flags) {
  portable::unpack_mask<kVector, stride>(bits, flags);
}
inline void unpack_mask(uint64_t bits, int16_t* flags) {
  for (int j = 0; j < kStep; j += 32)
    _mm512_store_si512(flags + j, _mm512_movm_epi16(static_cast<uint32_t>(bits >> j)));
}
inline void unpack_mask(uint64_t bits, int32_t* flags) {
  for (int j = 0; j < kStep; j += 16)
    _mm512_store_si512(flags + j, _mm512_movm_epi32(static_cast<uint16_t>(bits >> j)));
}
inline void unpack_mask(uint64_t bits, int64_t* flags) {
  for (int j = 0; j < kStep; j += 8) _mm512_store_si512(flags + j, _mm512_movm_epi64(static_cast<uint8_t>(bits >> j)));
}

}  // namespace
}  // namespace fastact
