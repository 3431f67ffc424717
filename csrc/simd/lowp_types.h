// Numbers of 16 bits, which are computed with as floats: a step of them is widened as it is read and narrowed as it is
// written, in registers where the formula leaves room.
#pragma once

#include "kernels/loop.h"
#include "math/vecmath.h"
#include "simd/vector.h"

namespace fastact {
namespace {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
// The same where the order within a step does not matter: the even ones are widened to its first half, the odd ones to
// its second. A shift and a mask do that, and undo it, where nothing has to be moved between the lanes of a vector.
struct UnorderedBFloat16 {
  uint16_t bits;
};

// Narrowing rounds to nearest even, once.
inline float widen_bfloat16(uint16_t half) { return bit_cast<float>(static_cast<uint32_t>(half) << 16); }
// A NaN would be lost if all upper bits of its payload were set and one of the lower; but here NaNs come from bfloat16,
// whose lower bits are 0, or from an instruction. The test for it would cost as much as all the rest.
inline uint32_t rounded_to_bfloat16(float x) {  // the upper half of it
  uint32_t bits = bit_cast<uint32_t>(x);
  return bits + 0x7fff + ((bits >> 16) & 1);
}
inline uint16_t narrow_bfloat16(float x) { return static_cast<uint16_t>(rounded_to_bfloat16(x) >> 16); }

#if !defined(__F16C__)
// Half precision by exponent arithmetic: the multiplication renormalises subnormals, and the addition of a number 2^13
// times as large as the result makes the hardware round at the right bit (Giesen 2013).
inline float widen_float16(uint16_t half) {
  uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  float scaled = bit_cast<float>(magnitude) * 0x1p112f;
  uint32_t bits = bit_cast<uint32_t>(scaled) | (magnitude >= 0x0f800000 ? 0x7f800000 : 0);
  return bit_cast<float>(bits | static_cast<uint32_t>(half & 0x8000) << 16);
}
inline uint16_t narrow_float16(float x) {
  uint32_t bits = bit_cast<uint32_t>(x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  uint32_t result = magnitude < (113u << 23) ? subnormal : normal;
  result = magnitude >= (143u << 23) ? 0x7c00 : result;
  return static_cast<uint16_t>(sign | (magnitude > 0x7f800000 ? 0x7e00 : result));
}
#endif

// A step of them. GCC knows no vector conversion of halves.
inline void widen(const BFloat16* from, float* to) { FASTACT_FOR_EACH_IN_STEP(i) to[i] = widen_bfloat16(from[i].bits); }
inline void narrow(const float* from, BFloat16* to) {
#if defined(__AVX512BW__)
  // The same additions with one instruction less, and without a shift before the upper halves are packed.
  const __m512i upper = _mm512_set_epi64(0x3f003d003b0039, 0x37003500330031, 0x2f002d002b0029, 0x27002500230021,
                                         0x1f001d001b0019, 0x17001500130011, 0x0f000d000b0009, 0x07000500030001);
  for (int64_t i = 0; i < kStep; i += 32) {
    __m512i halves[2];
    for (int j = 0; j < 2; ++j) {
      __m512i bits = _mm512_loadu_si512(from + i + 16 * j), half = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
      __mmask16 is_odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
      halves[j] = _mm512_mask_add_epi32(half, is_odd, half, _mm512_set1_epi32(1));
    }
    _mm512_storeu_si512(to + i, _mm512_permutex2var_epi16(halves[0], upper, halves[1]));
  }
#else
  FASTACT_FOR_EACH_IN_STEP(i) to[i].bits = narrow_bfloat16(from[i]);
#endif
}
inline void widen(const UnorderedBFloat16* from, float* to) {
  FASTACT_VECTORIZE for (int64_t i = 0; i < kStep / 2; ++i) {
    uint32_t pair;
    __builtin_memcpy(&pair, from + 2 * i, sizeof(pair));
    to[i] = bit_cast<float>(pair << 16);
    to[kStep / 2 + i] = bit_cast<float>(pair & 0xffff0000);
  }
}
inline void narrow(const float* from, UnorderedBFloat16* to) {
  FASTACT_VECTORIZE for (int64_t i = 0; i < kStep / 2; ++i) {
    uint32_t even = rounded_to_bfloat16(from[i]), odd = rounded_to_bfloat16(from[kStep / 2 + i]);
    uint32_t pair = even >> 16 | (odd & 0xffff0000);
    __builtin_memcpy(to + 2 * i, &pair, sizeof(pair));
  }
}
inline void widen(const Float16* from, float* to) {
#if defined(__AVX512F__)
  for (int64_t i = 0; i < kStep; i += 16) {
    __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    _mm512_storeu_ps(to + i, _mm512_maskz_cvtph_ps(-1, halves));
  }
#elif defined(__F16C__)
  for (int64_t i = 0; i < kStep; i += 8) {
    __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(halves));
  }
#else
  FASTACT_FOR_EACH_IN_STEP(i) to[i] = widen_float16(from[i].bits);
#endif
}
inline void narrow(const float* from, Float16* to) {
#if defined(__AVX512F__)
  for (int64_t i = 0; i < kStep; i += 16) {
    __m256i halves = _mm512_maskz_cvtps_ph(-1, _mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), halves);
  }
#elif defined(__F16C__)
  for (int64_t i = 0; i < kStep; i += 8) {
    __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), halves);
  }
#else
  FASTACT_FOR_EACH_IN_STEP(i) to[i].bits = narrow_float16(from[i]);
#endif
}

template <class S>
void widen_block(const void* from, float* to, int64_t n) {
  for (int64_t step = 0; step < n; step += kStep) widen(static_cast<const S*>(from) + step, to + step);
}
template <class S>
void narrow_block(const float* from, void* to, int64_t n) {
  for (int64_t step = 0; step < n; step += kStep) narrow(from + step, static_cast<S*>(to) + step);
}

// What the numbers of a dtype are computed as.
template <class S>
constexpr bool is_16_bit = sizeof(S) == 2 && !std::is_integral_v<S>;
template <class S>
using Compute = std::conditional_t<is_16_bit<S>, float, S>;

template <class S>
struct UnorderedOf {
  using type = S;
};
template <>
struct UnorderedOf<BFloat16> {
  using type = UnorderedBFloat16;
};
template <class S>
using Unordered = typename UnorderedOf<S>::type;

template <class S>
struct alignas(64) Widened {
  Compute<S> numbers[is_16_bit<S> ? kStep : 1];
  Widened() {}  // or numbers might be cleared
};

// A step of a tensor's numbers to compute with: where they lie, or widened.
template <class S>
inline const Compute<S>* read(const void* data, int64_t step, Widened<S>& widened) {
  auto* from = static_cast<const S*>(data) + step;
  if constexpr (is_16_bit<S>) {
    widen(from, widened.numbers);
    return widened.numbers;
  } else {
    return from;
  }
}

// Where the results of a step go before finish().
template <class S>
inline Compute<S>* results(void* data, int64_t step, Widened<S>& widened) {
  if constexpr (is_16_bit<S>)
    return widened.numbers;
  else
    return static_cast<S*>(data) + step;
}
template <class S>
inline void finish(const Widened<S>& widened, void* data, int64_t step) {
  if constexpr (is_16_bit<S>) narrow(widened.numbers, static_cast<S*>(data) + step);
}

}  // namespace
}  // namespace fastact
