// The square of the sine of a product.
#pragma once

#include "math/exp.h"

namespace fastact {
namespace {

template <class T>
struct SineConstants;

// fpminimax((sin(sqrt(x))^2-x)/x^2, n, [|SG or D...|], [1b-40;0.6242], relative) for sin(x)^2, and
// fpminimax((sin(2*sqrt(x))/sqrt(x)-2)/x, n, [|SG or D...|], [1b-40;0.6242], relative) for sin(2x): both of x^2.
template <>
struct SineConstants<float> {
  static constexpr float limit = 0x1p18f;
  // pi/2 in three parts. The first two have 8 bits: their products with halves of integers up to 2^16 are exact.
  static constexpr float half_pi_high = 0x1.92p0f, half_pi_middle = 0x1.fap-12f, half_pi_low = 0x1.54442ep-20f;
  // n = 3: 2.2e-9
  static constexpr float square[] = {-0x1.555554p-2, 0x1.6c15d4p-5, -0x1.9fc19ap-9, 0x1.1bc142p-13};
  // n = 4: 2.1e-9
  static constexpr float twice[] = {-0x1.555556p0, 0x1.111148p-2, -0x1.a02cfap-6, 0x1.74396ep-10, -0x1.d945bcp-15};
};

template <>
struct SineConstants<double> {
  static constexpr double limit = 0x1p23;
  // 32 bits, and integers up to 2^21
  static constexpr double half_pi_high = 0x1.921fb544p0, half_pi_middle = 0x1.0b4611a6p-34,
                          half_pi_low = 0x1.3198a2e037073p-69;
  // n = 7: 7.5e-19
  static constexpr double square[] = {-0x1.5555555555555p-2,  0x1.6c16c16c16b76p-5,   -0x1.a01a01a00ef28p-9,
                                      0x1.27e4fb721c251p-13,  -0x1.1eed8c371bba6p-18, 0x1.9395b7848863p-24,
                                      -0x1.ae036ce24b88fp-30, 0x1.55a4ee506e14p-36};
  // n = 7: 9.6e-19
  static constexpr double twice[] = {-0x1.5555555555555p0,   0x1.11111111110bap-2,   -0x1.a01a01a013743p-6,
                                     0x1.71de3a51d8719p-10,  -0x1.ae645468748abp-15, 0x1.6123aedc2e907p-20,
                                     -0x1.ae3b16ec86665p-26, 0x1.874437f3479abp-32};
};

// a b + offset pi/2 minus the nearest multiple of pi/2, as high + low; `odd` is 1 if that multiple is odd, else 0.
template <class T>
struct Angle {
  T high, low;
  typename ExpConstants<T>::Int odd;
};

// Reduces a product, with its rounding error, by Cody and Waite's method (1980); offset is 0 or 1/2. The result has
// twice the precision for |a b| up to 2^15 (float) or 2^20 (double). Up to 8 times that, the angle may be off by about
// 2^-7 without fused multiply-add. Beyond, a b counts as 0, so that the angle always stays within pi/4 plus a rounding
// error.
template <class T>
inline Angle<T> reduced_angle(T a, T b, T offset) {
  using K = SineConstants<T>;
  T product = a * b, error = two_prod_error(a, b, product), shift = ExpConstants<T>::round_to_integer;
  bool inside = abs(product) < K::limit;
  product = inside ? product : product * 0;  // infinity becomes NaN
  error = inside ? error : T(0);
  T shifted = fma(product, T(0x1.45f306dc9c883p-1), offset) + shift, n = shifted - shift - offset;
  T exact = mad(n, -K::half_pi_middle, mad(n, -K::half_pi_high, product));
  T rest = fma(n, -K::half_pi_low, error);
  T high = exact + rest;
  return {high, exact - high + rest, bit_cast<typename ExpConstants<T>::Int>(shifted) & 1};
}

// Returns the square of the sine of the reduced number.
template <class T>
inline DoubleFloat<T> sine_squared(Angle<T> angle) {
  T r = angle.high, square = r * r, square_low = mad(2 * r, angle.low, two_prod_error(r, r, square));
  T bend = square * polynomial_of_small(square, SineConstants<T>::square);
  T tail = fma(square, bend, mad(square_low, 2 * bend, square_low)), complement = 1 - square;
  T lead = angle.odd ? complement : square, rest = angle.odd ? 1 - complement - square - tail : tail;
  T high = lead + rest;
  return {high, lead - high + rest};
}

}  // namespace
}  // namespace fastact
