// Exponentials: e^x, e^x - 1, and functions built from them. A NaN passes through each of them.
//
// Polynomials minimise the largest relative error; the call of Sollya's fpminimax stands beside each.
// fastact/triton/math.py has the same polynomials for the GPU.
#pragma once

#include "math/polynomial.h"

namespace fastact {
namespace {

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Int = int32_t;
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
  static constexpr float round_to_integer = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  static constexpr float log2_e = 0x1.715476p0f;
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7dp-20f;  // 15 and 17 bits: n times these is exact
  static constexpr int scale_exp = 64;                                      // of a ScaledExp
  static constexpr float highest = 132.4f;                                  // e^-x is 2^-191 (1 + m)
  static constexpr float expm1_lowest = -18.f;                              // e^x - 1 rounds to -1 below
  static constexpr float unit = 0x1p-48f, least = -112.f, most = 40.f;      // of a Logistic
  // fpminimax(exp(x), [|2,...,6|], [|SG...|], [-0.34658;0.34658], relative, floating, 1+x): 3.3e-9
  static constexpr float polynomial[] = {0x1.fffffap-2f, 0x1.555492p-3f, 0x1.555a26p-5f, 0x1.12397cp-7f,
                                         0x1.694c82p-10f};
  // fpminimax((expm1(x)-x)/x^2, 5, [|SG...|], [-0.34658;0.34658], relative): 6.8e-10 of expm1
  static constexpr float expm1_polynomial[] = {0x1p-1f,        0x1.555556p-3f, 0x1.555502p-5f,
                                               0x1.110ff2p-7f, 0x1.6d2ep-10f,  0x1.a2675cp-13f};
};

template <>
struct ExpConstants<double> {
  using Int = int64_t;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023;
  static constexpr double round_to_integer = 0x1.8p52;
  static constexpr double log2_e = 0x1.71547652b82fep0;
  static constexpr double ln2_high = 0x1.62e42fefa38p-1, ln2_low = 0x1.ef35793c7673p-45;
  static constexpr int scale_exp = 512;
  static constexpr double highest = 1064;
  static constexpr double expm1_lowest = -38.;
  static constexpr double unit = 0x1p-96, least = -760, most = 60;
  // fpminimax(exp(x), [|2,...,11|], [|D...|], [-0.34658;0.34658], relative, floating, 1+x): 3.8e-18
  static constexpr double polynomial[] = {
      0x1.000000000000ap-1,  0x1.55555555554fep-3,  0x1.55555555506bfp-5,  0x1.1111111126b36p-7,  0x1.6c16c18475fabp-10,
      0x1.a01a012fed2f7p-13, 0x1.a019996298ecdp-16, 0x1.71df18f7a1dd8p-19, 0x1.28adf8e81298cp-22, 0x1.ad92d1e47a0d8p-26,
  };
  // fpminimax((expm1(x)-x)/x^2, 10, [|D...|], [-0.34658;0.34658], relative): 5e-19 of expm1
  static constexpr double expm1_polynomial[] = {
      0x1p-1,
      0x1.5555555555557p-3,
      0x1.5555555555552p-5,
      0x1.1111111110056p-7,
      0x1.6c16c16c18932p-10,
      0x1.a01a01ac1a7cdp-13,
      0x1.a01a0197bc744p-16,
      0x1.71de01b8495cap-19,
      0x1.27e500e2100f2p-22,
      0x1.af4eb35b733e7p-26,
      0x1.1f32e868dba09p-29,
  };
};

// x = n ln2 + r with an integer n and |r| <= ln2 / 2, so that e^x = 2^n e^r. `biased` holds n + bias in its low bits;
// shifted into an exponent, it loses the bits above them.
template <class T>
struct Reduced {
  std::make_unsigned_t<typename ExpConstants<T>::Int> biased;
  T r;
};

// Reduces x for sign 1, and -x for sign -1. `low`, if given, is the rounding error of x.
template <int sign = 1, class T, class... Low>
inline Reduced<T> reduce(T x, std::common_type_t<T> bias, Low... low) {
  using K = ExpConstants<T>;
  const T shift = K::round_to_integer + bias;
  T shifted = fma(x, sign * K::log2_e, shift), n = shifted - shift;
  T r = mad(n, -K::ln2_high, sign * x);
  if constexpr (sizeof...(low) > 0) {
    r += mad(n, -K::ln2_low, (sign * low)...);
  } else {
    r = mad(n, -K::ln2_low, r);
  }
  return {bit_cast<decltype(Reduced<T>::biased)>(shifted), r};
}

// Reduces with ln2 in one part, which makes r wrong by n * 2e-9 (double: n * 2e-17). The error is negligible where e^x
// is added to 1 and n is negative: e^x shrinks faster than |n| grows.
template <int sign = 1, class T>
inline Reduced<T> reduce_roughly(T x, int bias) {
  using K = ExpConstants<T>;
  const T shift = K::round_to_integer + static_cast<T>(bias);
  T shifted = fma(x, sign * K::log2_e, shift), n = shifted - shift;
  return {bit_cast<decltype(Reduced<T>::biased)>(shifted), fma(n, T(-0x1.62e42fefa39efp-1), sign * x)};
}

// Both return e^r - 1 for |r| <= ln2 / 2. small_expm1 has an error of 1 ULP of its result, small_exp_less_1 of 1 ULP of
// e^r.
template <class T>
inline T small_expm1(T r) {
  return exact_fma(r, r * r, polynomial_of_small(r, ExpConstants<T>::expm1_polynomial));
}
template <class T>
inline T small_exp_less_1(T r) {
  return exact_fma(r, r * r, polynomial_of_small(r, ExpConstants<T>::polynomial));
}

// Returns the power of two whose biased exponent is in the low bits of the integer.
template <class T>
inline T from_exponent(decltype(Reduced<T>::biased) biased) {
  return bit_cast<T>(biased << ExpConstants<T>::mantissa_bits);
}

// e^-x = scaled (1 + m) / 2^scale_exp. The power of two `scaled` is a normal number even where e^-x is far below the
// smallest one; a large factor may bring the product back into range.
template <class T>
struct ScaledExp {
  static constexpr T unscale = sizeof(T) == 4 ? T(0x1p-64) : T(0x1p-512);
  T scaled, m;
  T value() const { return mad(scaled, m, scaled) * unscale; }
  T times_power(T a) const { return a * scaled * unscale; }
  T times(T a) const { return times_power(fma(a, m, a)); }
};

// Returns e^-x for 0 <= x <= highest; at `highest` the biased exponent is 0, which makes `scaled` 0. `low`, if given,
// is the rounding error of x.
template <class T, class... Low>
inline ScaledExp<T> exp_of_minus(T x, Low... low) {
  auto reduced = reduce<-1>(x, ExpConstants<T>::exponent_bias + ExpConstants<T>::scale_exp, low...);
  return {from_exponent<T>(reduced.biased), small_exp_less_1(reduced.r)};
}

// e^-v and 1 + e^-v, both times ExpConstants<T>::unit. With that factor neither of them, nor a quotient by the sum,
// overflows or underflows; a final multiplication by `unit` removes it with one rounding.
template <class T>
struct Logistic {
  T exp, sum, sum_low;  // sum + sum_low in twice the precision
};

// Takes v from `least` to `most`, give or take a rounding error. `low`, if given, is the rounding error of v.
template <class T, class... Low>
inline Logistic<T> logistic(T v, Low... low) {
  using K = ExpConstants<T>;
  const auto biased_unit = bit_cast<typename K::Int>(K::unit) >> K::mantissa_bits;
  auto reduced = reduce<-1>(v, static_cast<int>(biased_unit), low...);
  T scale = from_exponent<T>(reduced.biased), m = small_exp_less_1(reduced.r);
  T base = scale + K::unit, base_low = K::unit - (base - scale);
  T rest = mad(scale, m, base_low), sum = base + rest;
  return {mad(scale, m, scale), sum, rest - (sum - base)};
}

// Returns e^x - 1 for -18 (float) or -38 (double) <= x <= 80. For -0 it returns 0.
template <class T>
inline T expm1_in_range(T x) {
  auto reduced = reduce(x, ExpConstants<T>::exponent_bias);
  T scale = from_exponent<T>(reduced.biased);
  return mad(scale, small_expm1(reduced.r), scale - 1);
}

// Returns e^x - 1 for x <= 80. For -0 it returns 0.
template <class T>
inline T expm1(T x) {
  return expm1_in_range(at_least(ExpConstants<T>::expm1_lowest, x));
}

// Returns 1 - e^x for x <= 0. For both zeros it returns 0.
template <class T>
inline T one_less_exp(T x) {
  auto reduced = reduce_roughly(at_least(ExpConstants<T>::expm1_lowest, x), ExpConstants<T>::exponent_bias);
  T scale = from_exponent<T>(reduced.biased);
  return mad(-scale, small_exp_less_1(reduced.r), 1 - scale);
}

// Returns e^x - 1 - x for x <= 0 in twice the precision; low is NaN where the result is infinite. With x = n ln2 + r,
// it is 2^n (e^r - 1 - r) + (2^n r + 2^n - 1 - x). The bracket is 0 for n = 0, so that nothing cancels near zero.
template <class T>
inline DoubleFloat<T> expm1_minus_x(T x) {
  using K = ExpConstants<T>;
  T bounded = at_least(K::expm1_lowest, x), shift = K::round_to_integer + K::exponent_bias;
  T shifted = fma(bounded, K::log2_e, shift), n = shifted - shift;
  T r = mad(n, -K::ln2_low, mad(n, -K::ln2_high, bounded)),
    curved = r * r * polynomial_of_small(r, K::expm1_polynomial);
  T scale = from_exponent<T>(bit_cast<typename K::Int>(shifted));
  T constant = scale - 1, line = constant - x, linear = mad(scale, r, line), high = mad(scale, curved, linear);
  T low = mad(scale, curved, linear - high) + (mad(scale, r, line - linear) + (constant - (line + x)));
  return {high, low};
}

}  // namespace
}  // namespace fastact
