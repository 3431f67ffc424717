// Selects and bounds without branches, so that loops over them vectorise.
#pragma once

#include "simd/bits.h"

namespace fastact {
namespace {

inline float abs(float x) { return __builtin_fabsf(x); }
inline double abs(double x) { return __builtin_fabs(x); }
inline float copysign(float x, float sign) { return __builtin_copysignf(x, sign); }
inline double copysign(double x, double sign) { return __builtin_copysign(x, sign); }

template <class T>
constexpr T largest_number = sizeof(T) == 4 ? T(__FLT_MAX__) : T(__DBL_MAX__);

// A NaN passes through both, since the comparisons are false for it.
template <class T>
inline T at_least(T low, T x) {
  return x < low ? low : x;
}
template <class T>
inline T at_most(T high, T x) {
  return x > high ? high : x;
}

// at_most for positive `high`, for formulas that need not pass a NaN. It compares the bits as integers: GCC finds one
// instruction for the minimum of 32-bit integers, but none for floating-point numbers.
inline float at_most_number(float high, float x) {
  auto high_bits = bit_cast<int32_t>(high), bits = bit_cast<int32_t>(x);
  return bit_cast<float>(bits < high_bits ? bits : high_bits);
}
inline double at_most_number(double high, double x) { return at_most(high, x); }

// Bounds x between low < 0 and high > 0 by its bits. As signed integers, positive floats are in order; as unsigned
// integers, negative floats are larger than all positive ones and grow with their magnitude.
template <class T>
inline T clamp_number(T low, T high, T x) {
  using Int = Flag<T>;
  using Unsigned = std::make_unsigned_t<Int>;
  auto bits = bit_cast<Unsigned>(x), least = bit_cast<Unsigned>(low);
  bits = bits < least ? bits : least;  // GCC recognises no minimum with a cast around it
  auto bounded = bit_cast<Int>(bits), most = bit_cast<Int>(high);
  return bit_cast<T>(bounded < most ? bounded : most);
}

// All bits set where x has a minus sign. Formulas that distinguish the sides of zero several times use the bits:
// compilers turn such comparisons into one branch around two copies of the formula, and evaluate both.
template <class T>
inline auto sign_mask(T x) {
  using Int = Flag<T>;
  return bit_cast<Int>(x) >> (8 * sizeof(T) - 1);
}

// Returns a where the mask has all bits set, b where it is 0.
template <class T, class Int>
inline T select(Int mask, T a, T b) {
  return bit_cast<T>((bit_cast<Int>(a) & mask) | (bit_cast<Int>(b) & ~mask));
}

// Returns 0 where the condition holds, else x. It works on the bits: GCC turns a select around another select into a
// case distinction with up to twice the instructions.
template <class T>
inline T zero_if(bool condition, T x) {
  return select(-static_cast<decltype(sign_mask(x))>(condition), T(0), x);
}

}  // namespace
}  // namespace fastact
