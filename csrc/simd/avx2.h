// AVX2 with FMA and F16C.
#pragma once

#include "simd/lowp.h"
#include "simd/mask.h"
#include "simd/x86.h"

namespace fastact {
namespace {

constexpr int kVector = 32;
constexpr bool kHasFma = true;

typedef __m256 Floats;
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats minimum(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline bool any_less(Floats a, Floats b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)) != 0; }
inline bool all_less(Floats a, Floats b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)) == 0xff; }
inline Floats permute8(const float* eight, Floats number) {
  return _mm256_permutevar8x32_ps(_mm256_loadu_ps(eight), _mm256_castps_si256(number));
}

// Compilers use twice as many shuffles as multiplications for these products.
typedef uint64_t Words __attribute__((vector_size(32)));
inline Words mul_even(Words a, Words b) { return (Words)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
inline Words even_words(Words a, Words b) { return (Words)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b); }
inline Words odd_words(Words a, Words b) { return (Words)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b); }

template <int64_t n = kStep>
inline void demote(const float* from, BFloat16* to) {
  portable::demote<n>(from, to);
}
// GCC has no vector conversion of halves.
template <int64_t n = kStep>
inline void promote(const Float16* from, float* to) {
  for (int64_t i = 0; i < n; i += 8) {
    __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(halves));
  }
}
template <int64_t n = kStep>
inline void demote(const float* from, Float16* to) {
  for (int64_t i = 0; i < n; i += 8) {
    __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), halves);
  }
}

inline uint64_t signs_of(const int32_t* flags) {
  return _mm256_movemask_ps(_mm256_load_ps(reinterpret_cast<const float*>(flags)));
}
inline uint64_t signs_of(const int64_t* flags) {
  return _mm256_movemask_pd(_mm256_load_pd(reinterpret_cast<const double*>(flags)));
}

template <class Keep, class T>
inline void write_mask(const Keep& keep, const T* x, uint8_t* mask) {
  portable::write_mask<kVector>(keep, x, mask, [](const Flag<T>* flags) { return signs_of(flags); });
}
template <int stride = 1, class Flag>
inline void unpack_mask(uint64_t bits, Flag* flags) {
  portable::unpack_mask<kVector, stride>(bits, flags);
}

}  // namespace
}  // namespace fastact
