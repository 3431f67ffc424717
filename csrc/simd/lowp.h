// 16-bit numbers and their conversion to and from float, in portable code.
#pragma once

#include "simd/bits.h"
#include "simd/step.h"

namespace fastact {
namespace {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float promote_bfloat16(uint16_t half) { return bit_cast<float>(static_cast<uint32_t>(half) << 16); }
// Rounds in the upper half of the bits. A NaN with all upper bits of its payload set and a lower one would be lost, but
// NaNs come from bfloat16, whose lower bits are 0, or from instructions. Testing for it would double the cost.
inline uint32_t rounded_to_bfloat16(float x) {
  uint32_t bits = bit_cast<uint32_t>(x);
  return bits + 0x7fff + ((bits >> 16) & 1);
}
inline uint16_t demote_bfloat16(float x) { return static_cast<uint16_t>(rounded_to_bfloat16(x) >> 16); }

// Half precision by exponent arithmetic (Giesen 2013). The multiplication normalises subnormals. The addition of a
// number 2^13 times as large as the result makes the hardware round at the right bit.
inline float promote_float16(uint16_t half) {
  uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  float scaled = bit_cast<float>(magnitude) * 0x1p112f;
  uint32_t bits = bit_cast<uint32_t>(scaled) | (magnitude >= 0x0f800000 ? 0x7f800000 : 0);
  return bit_cast<float>(bits | static_cast<uint32_t>(half & 0x8000) << 16);
}
inline uint16_t demote_float16(float x) {
  uint32_t bits = bit_cast<uint32_t>(x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  uint32_t result = magnitude < (113u << 23) ? subnormal : normal;
  result = magnitude >= (143u << 23) ? 0x7c00 : result;
  return static_cast<uint16_t>(sign | (magnitude > 0x7f800000 ? 0x7e00 : result));
}

// Conversions of n numbers, a multiple of 16.
template <int64_t n = kStep>
inline void promote(const BFloat16* from, float* to) {
  FASTACT_VECTORIZE for (int64_t i = 0; i < n; ++i) to[i] = promote_bfloat16(from[i].bits);
}

namespace portable {
template <int64_t n = kStep>
inline void demote(const float* from, BFloat16* to) {
  FASTACT_VECTORIZE for (int64_t i = 0; i < n; ++i) to[i].bits = demote_bfloat16(from[i]);
}
template <int64_t n = kStep>
inline void promote(const Float16* from, float* to) {
  FASTACT_VECTORIZE for (int64_t i = 0; i < n; ++i) to[i] = promote_float16(from[i].bits);
}
template <int64_t n = kStep>
inline void demote(const float* from, Float16* to) {
  FASTACT_VECTORIZE for (int64_t i = 0; i < n; ++i) to[i].bits = demote_float16(from[i]);
}
}  // namespace portable

}  // namespace
}  // namespace fastact
