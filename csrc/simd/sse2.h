// x86's baseline.
#pragma once

#include "simd/portable.h"
#include "simd/x86.h"

namespace fastact {
namespace {

constexpr int kVector = 16;
constexpr bool kHasFma = false;

using portable::all_less;
using portable::any_less;
using portable::Floats;
using portable::fma;
using portable::minimum;
using portable::permute8;

using portable::even_words;
using portable::odd_words;
using portable::Words;
inline Words mul_even(Words a, Words b) { return (Words)_mm_mul_epu32((__m128i)a, (__m128i)b); }

using portable::demote;
using portable::promote;

inline uint64_t signs_of(const int32_t* flags) {
  return _mm_movemask_ps(_mm_load_ps(reinterpret_cast<const float*>(flags)));
}
inline uint64_t signs_of(const int64_t* flags) {
  return _mm_movemask_pd(_mm_load_pd(reinterpret_cast<const double*>(flags)));
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
