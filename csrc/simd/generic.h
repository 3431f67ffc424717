// Portable code only.
#pragma once

#include "simd/portable.h"

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
