// 64-bit Arm.
#pragma once

#include <arm_neon.h>

#include "simd/portable.h"

namespace fastact {
namespace {

constexpr int kVector = 16;
constexpr bool kHasFma = true;

typedef float32x4_t Floats;
inline Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
inline Floats minimum(Floats a, Floats b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline bool any_less(Floats a, Floats b) { return vmaxvq_u32(vcltq_f32(a, b)) != 0; }
inline bool all_less(Floats a, Floats b) { return vminvq_u32(vcltq_f32(a, b)) != 0; }
inline Floats permute8(const float* eight, Floats number) {  // as bytes, out of 32
  uint32x4_t numbers = vandq_u32(vreinterpretq_u32_f32(number), vdupq_n_u32(7));
  uint32x4_t bytes = vmlaq_u32(vdupq_n_u32(0x03020100), numbers, vdupq_n_u32(0x04040404));
  auto* from = reinterpret_cast<const uint8_t*>(eight);
  return vreinterpretq_f32_u8(vqtbl2q_u8({vld1q_u8(from), vld1q_u8(from + 16)}, vreinterpretq_u8_u32(bytes)));
}

using portable::even_words;
using portable::mul_even;
using portable::odd_words;
using portable::Words;

using portable::demote;
using portable::promote;
using portable::signs_of;

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
