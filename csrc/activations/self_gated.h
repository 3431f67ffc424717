// Self-gated units: the input times a smooth step of itself.
#pragma once

#include "activations/sigmoids.h"

namespace fastact {
namespace {

// A smooth step whose two sides are computed separately: s(-|x|) e^-|..| on the left and s(|x|) on the right, where s
// is of moderate size. The left tail keeps its precision because the power of two multiplies the quotient last.
template <class T>
struct Sides {
  decltype(sign_mask(T())) left;
  ScaledExp<T> e;

  Sides(T x, ScaledExp<T> e) : left(sign_mask(x)), e(e) {}
  // 1 + m is the factor beside the power of two.
  T m() const { return select(left, e.m, T(0)); }
  // Returns (a + a m) / (b + b_low) times the power of two. An infinite or NaN a takes part only as a correction: the
  // remainder of an infinite quotient would be NaN.
  T quotient(T a, T m, T b, T b_low) const {
    T finite = at_most_number(largest_number<T>, a), product = fma(finite, m, finite);
    T product_low = fma(finite, m, a - product);
    T y = divide(product, b, b_low, product_low);
    return select(left, e.times_power(y), y);
  }
  // Returns a over the square of b + b_low, times e^-|..| on the left, for finite a.
  T over_square(T a, T b, T b_low) const {
    T square = b * b, square_low = mad(2 * b, b_low, two_prod_error(b, b, square));
    T y = divide(fma(a, m(), a), square, square_low);
    return select(left, e.times_power(y), y);
  }
};

// Returns x sigma(v). t is x or, far left, a bound at which the product vanishes.
template <class T>
inline T sigmoid_gated(T t, Logistic<T> e) {
  return t / e.sum * ExpConstants<T>::unit;
}

// Returns sigma(v) (1 + slope sigma(-v)), with a minus sign on the left. slope is |x| v', and e is e^-|v|.
template <class T>
inline T sigmoid_gated_derivative(T x, ScaledExp<T> e, T slope, T slope_low) {
  Sides<T> sides(x, e);
  T value = e.value(), sum = 1 + value, sum_low = value - (sum - 1);
  T left = sum - slope + (sum_low - slope_low), right = fma(slope, value, sum);
  return sides.over_square(select(sides.left, left, right), sum, sum_low);
}

// The same for e = e^-v < 2^-12, by three terms of its series in e:
// e (1 + e - slope) / (1 + e)^2.
template <class T>
inline T far_left_derivative(ScaledExp<T> e, T slope) {
  T value = e.value();
  return e.times(fma(value, fma(value, 1 - 3 * slope, 2 * slope - 1), 1 - slope));
}

// The tables hold max(0, x) - f(x) as a function of |x|, in two parts, and the derivative at -|x|.
template <class T>
struct LeftFromLut8 : SavesInput {
  // For x up to twice the smallest normal number, the result x / 2 is subnormal: it becomes 0.
  T from_lut8(T x, T high, T low) const { return (x < 0x1p-125f ? copysign(T(0), x) : x) - high - low; }
  T derivative_from_lut8(T x, T left) const { return x < 0 ? left : 1 - left; }
};

template <class T>
struct SiLU : LeftFromLut8<T> {
  T forward(T x) const {
    using K = ExpConstants<T>;
    T t = clamp_number(K::least, K::most, x);
    return x <= K::most ? sigmoid_gated(t, logistic(t)) : x;
  }
  T derivative_outside_lut8(T x) const {
    T t = at_most_number(ExpConstants<T>::highest, abs(x));
    return far_left_derivative(exp_of_minus(t), t);
  }
  // (1 + (1 + x) e^-x) / (1 + e^-x)^2
  T derivative(T x) const {
    using K = ExpConstants<T>;
    T t = clamp_number(K::least, K::most, x);
    auto e = logistic(t);
    // The rounding error of the inverse is added last, which shortens the chain of dependent operations. The inverse is
    // taken twice, and so is its error, as the square needs.
    T numerator = fma(e.exp, 1 + t, K::unit), inverse = 2 / e.sum;
    T error = -two_prod_error(inverse, e.sum, T(2)) - inverse * e.sum_low, quotient = numerator * inverse * inverse;
    T slope = exact_fma(quotient, quotient, error) * (K::unit / 4);
    return x == x ? slope : x;
  }
};

template <class T>
struct QuickGELU : LeftFromLut8<T> {
  T forward(T x) const {
    constexpr T most = ExpConstants<T>::most / scale.high;
    T t = clamp_number(ExpConstants<T>::least / scale.high, most, x);
    Exponent v(t);
    return x <= most ? sigmoid_gated(t, logistic(v.high, v.low)) : x;
  }
  T derivative_outside_lut8(T x) const {
    Exponent v(at_most_number(ExpConstants<T>::highest / scale.high, abs(x)));
    return far_left_derivative(exp_of_minus(v.high, v.low), v.high);
  }
  T derivative(T x) const {
    Exponent v(at_most(ExpConstants<T>::highest / scale.high, abs(x)));
    return sigmoid_gated_derivative(x, exp_of_minus(v.high, v.low), v.high, v.low);
  }

 private:
  static constexpr Constant<T> scale = {1.702, 0x1.89374bc6a7efap-55};
  // 1.702 x in two parts: e^-v magnifies an error |v| times.
  struct Exponent {
    T high, low;
    explicit Exponent(T x) : high(scale.high * x) { low = fma(scale.low, x, two_prod_error(scale.high, x, high)); }
  };
};

// GELU and its form with tanh end on the left where the output is 2^-63, in all types but float64: there it becomes
// zero, and so does the derivative. torch's output is zero from further right on, since 1 + erf and 1 + tanh cancel.
// Smaller outputs, times gradients, gave the next layer a weight gradient of subnormal numbers, for whose matrix
// product Intel's processors took 20 times as long (docs/findings/043).

// x sigma(v) with v = 2 sqrt(2 / pi) (x + 0.044715 x^3) = x (a + b x^2), which equals the usual formula with tanh.
template <class T>
struct GELUTanh : LeftFromLut8<T> {
  static constexpr T end = T(7.7593589);  // where t e^-v is 2^-63
  T forward(T x) const {
    constexpr T least = sizeof(T) == 4 ? T(-11) : T(-21.7), most = sizeof(T) == 4 ? T(7.4) : T(8.7);
    T t = clamp_number(least, most, x);
    Exponent v(t);
    return x <= most ? sigmoid_gated(t, logistic(v.high, v.low)) : x;
  }
  // -t e / (1 + e) for t = -x and e = e^-v
  T outside_lut8(T x) const {
    T t = at_most_number(highest, abs(x));
    Exponent v(t);
    auto e = exp_of_minus(v.high, v.low);
    return t > end ? T(-0.) : e.times(fma(t, e.value(), -t));
  }
  T derivative_outside_lut8(T x) const {
    T t = at_most_number(highest, abs(x));
    Exponent v(t);
    T slope = far_left_derivative(exp_of_minus(v.high, v.low), fma(2 * t, v.cubic, v.high));
    return t > end ? T(-0.) : slope;
  }
  // x v' = v + 2 b x^3
  T derivative(T x) const {
    T t = at_most(highest, abs(x));
    Exponent v(t);
    T bend = 2 * t * v.cubic, slope = v.high + bend, slope_low = bend - (slope - v.high) + v.low;
    return sigmoid_gated_derivative(x, exp_of_minus(v.high, v.low), slope, slope_low);
  }

 private:
  static constexpr T highest =
      sizeof(T) == 4 ? T(11.682) : T(24.3106);  // where v is the highest that exp_of_minus takes
  // v in two parts.
  struct Exponent {
    T cubic, high, low;
    explicit Exponent(T x) {
      constexpr Constant<T> a(0x1.9884533d43651p+0, -0x1.cbc0d30ebfd15p-54);
      constexpr Constant<T> b(0x1.2444f2a4d8b4bp-4, -0x1.6c843a29d1c70p-61);
      T square = x * x, square_low = two_prod_error(x, x, square);
      cubic = b.high * square;
      T cubic_low = two_prod_error(b.high, square, cubic) + fma(b.high, square_low, b.low * square);
      T sum = a.high + cubic, rounded = sum - a.high;
      T sum_low = a.high - (sum - rounded) + (cubic - rounded) + (cubic_low + a.low);  // Knuth 1969
      high = x * sum;
      low = fma(x, sum_low, two_prod_error(x, sum, high));
    }
  };
};

// Phi(-t) = e^(-t^2 / 2) R(z) / (a t + b), z = (a t - b) / (a t + b). R is so flat that the rounding of z hardly
// matters, and its polynomial starts from R(0) = 1: the nearer R is to 1, the smaller its rounding error. float32 reads
// a table and needs a formula only outside it.
template <class T>
struct GaussianTailConstants;

template <>
struct GaussianTailConstants<float> {
  static constexpr float highest = 16.272f;  // t^2 / 2 is the highest that exp_of_minus takes
  static constexpr float end = 9.2453187f;   // where t Phi(-t) is 2^-63
  // fpminimax(erfc(1/sqrt(2*x))/sqrt(4*x)*exp(1/(2*x)), 5, [|SG...|], [1/13.6^2;1/4.88^2], relative): 2.6e-9
  static constexpr float far_polynomial[] = {0x1.98845p-2f,  -0x1.987f08p-2f, 0x1.3192dp0f,
                                             -0x1.6f1d22p2f, 0x1.f45976p4f,   -0x1.c518fap6f};
};

template <>
struct GaussianTailConstants<double> {
  static constexpr double a = 1.34375, b = 0x1.2c3a66e93293bp+2;
  static constexpr double highest = 46.13;
  // t = b / a (1 + x) / (1 - x); R = exp(t^2 / 2) erfc(t / sqrt(2)) / 2 (a t + b); t from 0 to 39
  // fpminimax(R, [|1,...,23|], [|D...|], [-1;0.8357], relative, floating, 1): 5.0e-18
  static constexpr double polynomial[] = {
      -0x1.848183ed6ead4p-1,  0x1.b015752440f47p-2,   -0x1.3bdeb6b686a0cp-3,  0x1.70cba03c358cep-6,
      0x1.22b0b5326628dp-7,   -0x1.13afc3f008504p-8,  -0x1.5088644ac38ep-11,  0x1.4b78e0070f959p-11,
      0x1.9d904c580b51ep-14,  -0x1.a2d5f867f27d7p-14, -0x1.c2d0327172bp-16,   0x1.f45c5d06f2bd5p-17,
      0x1.07e78325cec14p-17,  -0x1.7403252212876p-20, -0x1.0dae02c58616cp-19, -0x1.044a7f0c31e02p-22,
      0x1.9f51b8a08cb0ep-22,  0x1.7c64ddef55ac8p-23,  -0x1.2fb3033efac6fp-25, -0x1.b01566734c7fep-25,
      -0x1.be26aa32248c4p-28, 0x1.cbd5afa425fdfp-28,  0x1.276ac69cdc1a6p-29,
  };
};

template <class T>
struct GELU : LeftFromLut8<T> {
  // Computes x Phi(-|x|), the amount by which x exceeds GELU(x) for x > 0.
  T forward(T x) const {
    Bell bell(x);
    Sum sum(bell.t);
    T u = bell.t / sum.high, z = fma(2 * K::a, u, T(-1)), inverse = mad(z, T(-0.5) / K::b, T(0.5) / K::b);
    T excess_of_u = (two_prod_error(u, sum.high, bell.t) + u * sum.low) * inverse;  // its rounding error
    z = mad(-2 * K::a, excess_of_u, z);
    T bend = polynomial(z, K::polynomial), rest = z * bend, rest_low = two_prod_error(z, bend, rest);
    T w = fma(u, rest, mad(u, rest_low, -excess_of_u * (1 + rest))), v = u + w;
    T excess = bell.exp.times_power(u + fma(v, bell.exp.m, w));
    T y = (x < 0 ? T(-0.) : x) - excess;
    return abs(x) < T(0x1p-500) ? x / 2 : y;  // u underflows before x / 2 does
  }
  T outside_lut8(T x) const {
    return far_left(x, [](T, T, T ratio) { return -ratio; });
  }
  T derivative_outside_lut8(T x) const {
    return far_left(x, [](T t, T inverse, T ratio) { return t * fma(inverse, ratio, -density.high); });
  }
  // Phi(x) + x phi(x) = 1 - the same at -x.
  T derivative(T x) const {
    Bell bell(x);
    T slope = density.high * bell.t;
    T slope_low = mad(density.low, bell.t, two_prod_error(density.high, bell.t, slope));
    Sum sum(bell.t);
    T inverse = corrected_inverse(sum.high, sum.low), z = fma(-2 * K::b, inverse, T(1));
    T v = fma(inverse * z, polynomial(z, K::polynomial), inverse) - slope - slope_low;
    T left = bell.exp.times(v);
    left = x < 0 ? left : 1 - left;
    return x == x ? left : x;
  }

 private:
  using K = GaussianTailConstants<T>;
  static constexpr Constant<T> density = {0x1.9884533d43651p-2, -0x1.cbc0d30ebfd15p-56};  // 1 / sqrt(2 pi)
  // t = |x| and e^(-t^2 / 2)
  struct Bell {
    T t;
    ScaledExp<T> exp;
    explicit Bell(T x) {
      t = at_most_number(K::highest, abs(x));
      T half = T(0.5) * t, exponent = half * t;
      exp = exp_of_minus(exponent, two_prod_error(half, t, exponent));
    }
  };
  // a t + b
  struct Sum {
    T high, low;
    explicit Sum(T t) : high(fma(K::a, t, K::b)), low(two_prod_error(K::a, t, high - K::b)) {}
  };
  // Returns e^(-t^2 / 2) times factor(t, 1 / t^2, ratio), where ratio is t Phi(-t) / e^(-t^2 / 2). For t > 4.9 that is
  // nearly its limit 1 / sqrt(2 pi).
  template <class Factor>
  static T far_left(T x, const Factor& factor) {
    Bell bell(x);
    T inverse = 1 / (bell.t * bell.t);
    T result = bell.exp.times(factor(bell.t, inverse, polynomial(inverse, K::far_polynomial)));
    return bell.t > K::end ? T(-0.) : result;
  }
};

// x tanh(log(1 + e^x)) = x (1 + a) / (1 + b), with e = e^-|x| multiplied by
//   e   on the left, with a = e / 2 and b = e + e a,
//   1   on the right, with a = 2 e and b = a + e a.
template <class T>
struct Mish : SavesInput {
  T forward(T x) const {
    Parts parts(x);
    T m = parts.sides.m(),
      t = at_least(-ExpConstants<T>::highest, x);  // where the output vanishes; -infinity would give NaN
    return parts.sides.quotient(t, m + fma(parts.a, m, parts.a), parts.sum, parts.sum_low);
  }
  // ((1 + a) (1 + b) + x (1 + e) c) / (1 + b)^2, where c is 1 on the left and a^2 on the right; in powers of e, with
  // u = 1 + x, the numerator is
  //   u + e (u + 1/2 + e (1 + e / 4))    on the left, where it crosses zero,
  //   1 + e (4 + e (2 + 4 u (1 + e)))    on the right.
  T derivative(T x) const {
    Parts parts(x);
    auto left = parts.sides.left;
    constexpr T highest = ExpConstants<T>::highest;
    T e = parts.e, u = 1 + at_most(highest, at_least(-highest, x));
    T second = select(left, mad(e, T(0.25), T(1)), fma(4 * u, 1 + e, T(2)));
    T first = fma(e, second, select(left, u + T(0.5), T(4)));
    return parts.sides.over_square(fma(e, first, select(left, u, T(1))), parts.sum, parts.sum_low);
  }

 private:
  struct Parts {
    Sides<T> sides;
    T e, a, sum, sum_low;  // 1 + b
    explicit Parts(T x) : sides(x, exp_of_minus(at_most_number(ExpConstants<T>::highest, abs(x)))), e(sides.e.value()) {
      a = select(sides.left, e / 2, 2 * e);
      T first = select(sides.left, e, a), b = fma(e, a, first);
      sum = 1 + b;
      sum_low = b - (sum - 1) + fma(e, a, first - b);
    }
  };
};

template <class T>
struct Hardswish : SavesInput {
  T forward(T x) const {  // the bounds drop a NaN, the product restores it
    constexpr Constant<T> sixth(1. / 6, 0x1.5555555555555p-57);
    T bounded = clamp_number(T(-3), T(3), x), sum = bounded + 3, sum_low = bounded - (sum - 3);
    return x * fma(sum, sixth.high, fma(sum, sixth.low, sum_low * sixth.high));
  }
  T gradient(T grad, T x) const {
    T slope = (x + T(1.5)) * T(1. / 3), between = grad * slope;
    return zero_if(x <= -3, x >= 3 ? grad : between);
  }
};

// GLU's gate: the sigmoid with a derivative from its input, which is accurate where 1 - y is not.
template <class T>
struct SigmoidGate : SavesInput {
  T forward(T x) const { return Sigmoid<T>().forward(x); }
  T derivative(T x) const {
    using K = ExpConstants<T>;
    auto e = logistic(clamp_number(K::least, K::most, copysign(x, T(-1))));
    T inverse = 1 / e.sum, slope = e.exp * inverse * inverse * K::unit;
    return x == x ? slope : x;
  }
};

}  // namespace
}  // namespace fastact
