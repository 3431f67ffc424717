// Rounding under control: fused multiply-adds, the errors of sums and products, and numbers in twice the precision, as
// high + low (Dekker 1971).
#pragma once

#include "math/select.h"
#include "simd/simd.h"

namespace fastact {
namespace {

// Returns a * b + c, rounded once where the instruction exists. libm's emulation costs a hundred times as much, so the
// baseline computes float's in double, where the product is exact: all but about one result in 2^29 are the same, and
// all instruction sets agree. Double is rounded twice there; the constants of math/ are split so that this suffices.
// The files are built with -ffp-contract=off: a value never depends on what the compiler happened to fuse.
inline float fma(float a, float b, float c) {
  if constexpr (kHasFma)
    return __builtin_fmaf(a, b, c);
  else
    return static_cast<float>(static_cast<double>(a) * b + c);
}
inline double fma(double a, double b, double c) {
  if constexpr (kHasFma)
    return __builtin_fma(a, b, c);
  else
    return a * b + c;
}

// Returns c + a * b for finite |c| > |a b|, correctly rounded on every instruction set. Formulas use it where an error
// would be magnified. The baseline replaces a sum that is not exact in double by the odd one of the two doubles around
// it, which rounds to the same float as the exact sum (Boldo and Melquiond 2008).
inline float exact_fma(float c, float a, float b) {
  if constexpr (kHasFma) {
    return __builtin_fmaf(a, b, c);
  } else {
    double product = static_cast<double>(a) * b, sum = product + c, error = product - (sum - c);  // Dekker 1971
    auto bits = bit_cast<uint64_t>(sum), error_bits = bit_cast<uint64_t>(error), size = error_bits << 1;
    uint64_t inexact = (size | (0 - size)) >> 63, beyond = (error_bits ^ bits) >> 63;
    return static_cast<float>(bit_cast<double>((bits - (beyond & inexact)) | inexact));
  }
}
inline double exact_fma(double c, double a, double b) { return fma(a, b, c); }

// Returns a * b + c where two roundings do no harm: the product is exact, or so small that its rounding error is
// negligible beside c.
inline float mad(float a, float b, float c) {
  if constexpr (kHasFma)
    return __builtin_fmaf(a, b, c);
  else
    return a * b + c;
}
inline double mad(double a, double b, double c) { return fma(a, b, c); }

// Returns a * b - product: the error of a rounded product, or the distance to another number near it.
inline float two_prod_error(float a, float b, float product) { return fma(a, b, -product); }
inline double two_prod_error(double a, double b, double product) {
  if constexpr (kHasFma) {
    return __builtin_fma(a, b, -product);
  } else {
    // Each factor as a sum of 26 and 27 bits, whose products are exact (Dekker 1971).
    constexpr uint64_t high_bits = ~uint64_t{0x7ffffff};
    double a_high = bit_cast<double>(bit_cast<uint64_t>(a) & high_bits), a_low = a - a_high;
    double b_high = bit_cast<double>(bit_cast<uint64_t>(b) & high_bits), b_low = b - b_high;
    return a_high * b_high - product + a_high * b_low + a_low * b_high + a_low * b_low;
  }
}

// Returns a + b - sum, the error of a rounded sum (Knuth 1969).
template <class T>
inline T two_sum_error(T a, T b, T sum) {
  T rounded_b = sum - a;
  return (a - (sum - rounded_b)) + (b - rounded_b);
}

// Returns 1 - y^2. Without fused multiply-add, the product of two factors keeps its precision near 1.
inline float one_less_square(float y) { return fma(-y, y, 1.f); }
inline double one_less_square(double y) {
  if constexpr (kHasFma)
    return __builtin_fma(-y, y, 1.0);
  else
    return (1 - y) * (1 + y);
}

// A constant with more bits than T holds, from a double and the remainder that the double lacks.
template <class T>
struct Constant {
  T high, low;
  constexpr Constant(double value, double rest) : high(T(value)), low(T(value - high + rest)) {}
};

// A number of twice T's precision, high + low with |low| much smaller than |high|.
template <class T>
struct DoubleFloat {
  T high, low;
};

// Returns (a + a_low) / (b + b_low) for 1 <= b < 2^60 with an error of 0.51 ULP. The low parts are rounding errors of a
// and b; a_low may be omitted. The remainder of a first quotient, which is exact with fused multiply-add, corrects it.
// The remainder is subtracted, and so is a_low, which keeps the sign of -0.
template <class T, class... Low>
inline T divide(T a, T b, T b_low, Low... a_low) {
  T inverse = 1 / b, quotient = a * inverse;
  return mad((mad(quotient, b_low, two_prod_error(quotient, b, a)) - ... - a_low), -inverse, quotient);
}

// Returns 1 / (b + b_low) with an error of 0.51 ULP, by one Newton step.
template <class T>
inline T corrected_inverse(T b, T b_low) {
  T inverse = 1 / b;
  return exact_fma(inverse, inverse, -two_prod_error(inverse, b, T(1)) - inverse * b_low);
}

}  // namespace
}  // namespace fastact
