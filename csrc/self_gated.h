// Self-gated units: the input times a smooth step of itself.
#pragma once

#include "sigmoids.h"

// For constructors that compilers find too large to inline: a call would keep the loop from being vectorised.
#define FASTACT_INLINE __attribute__((always_inline))

namespace fastact {
namespace {

// In all of them the step is s(-|x|) e^-|..| on the left and s(|x|) on the right, where s is of moderate size. The left
// tail keeps its digits down to the subnormals because the powers of two are multiplied in last, to the quotient.
template <class T>
struct Sides {
  static constexpr T largest = sizeof(T) == 4 ? T(__FLT_MAX__) : T(__DBL_MAX__);
  decltype(sign_mask(T())) left;
  ScaledExp<T> e;

  Sides(T x, ScaledExp<T> e) : left(sign_mask(x)), e(e) {}
  // 1 + m is the factor that goes with the powers of two.
  T m() const { return select(left, e.m, T(0)); }
  // (a + a m) / (b + b_low) times the powers of two. Where a is infinite or NaN, only the correction is: the remainder
  // of an infinite quotient would be NaN.
  T quotient(T a, T m, T b, T b_low) const {
    T finite = at_most_number(largest, a), product = fma(finite, m, finite);
    T product_low = fma_rounded_once(finite, m, a - product);
    T y = divide(product, b, b_low, product_low);
    return select(left, e.times_power(y), y);
  }
  // a over the square of b + b_low, times e^-|..| on the left.
  T over_square(T a, T b, T b_low) const {
    T square = b * b, square_low = fma(2 * b, b_low, product_error(b, b, square));
    return quotient(a, m(), square, square_low);
  }
};

// x sigma(v), where e is e^-|v| and v has the sign of x.
template <class T>
inline T sigmoid_gated(T x, ScaledExp<T> e) {
  Sides<T> sides(x, e);
  T value = e.value(), sum = 1 + value;
  return sides.quotient(x, sides.m(), sum, value - (sum - 1));
}

// sigma(v) (1 + slope sigma(-v)) on the right, where slope is |x| v'; on the left it is subtracted.
template <class T>
inline T sigmoid_gated_derivative(T x, ScaledExp<T> e, T slope, T slope_low) {
  Sides<T> sides(x, e);
  T value = e.value(), sum = 1 + value, sum_low = value - (sum - 1);
  T left = sum - slope + (sum_low - slope_low), right = fma(slope, value, sum);
  return sides.over_square(select(sides.left, left, right), sum, sum_low);
}

template <class T>
struct SiLU : SavesInput {
  T forward(T x) const { return sigmoid_gated(x, exp_of_minus(at_most_number(ExpConstants<T>::highest, abs(x)))); }
  T derivative(T x) const {
    T t = at_most(ExpConstants<T>::highest, abs(x));
    return sigmoid_gated_derivative(x, exp_of_minus(t), t, T(0));
  }
};

template <class T>
struct QuickGELU : SavesInput {
  T forward(T x) const {
    Exponent v(x);
    return sigmoid_gated(x, exp_of_minus(v.high, v.low));
  }
  T derivative(T x) const {
    Exponent v(x);
    return sigmoid_gated_derivative(x, exp_of_minus(v.high, v.low), v.high, v.low);
  }

 private:
  // 1.702 |x| in two parts, since e^-|v| magnifies an error |v| times.
  struct Exponent {
    T high, low;
    FASTACT_INLINE explicit Exponent(T x) {
      constexpr Constant<T> scale(1.702, 0x1.89374bc6a7efap-55);
      T t = at_most(ExpConstants<T>::highest / scale.high, abs(x));
      high = scale.high * t;
      low = fma(scale.low, t, product_error(scale.high, t, high));
    }
  };
};

// x sigma(v) with v = 2 sqrt(2 / pi) (x + 0.044715 x^3) = x (a + b x^2), which is another way to write tanh's formula.
template <class T>
struct GELUTanh : SavesInput {
  T forward(T x) const {
    Exponent v(x);
    return sigmoid_gated(x, exp_of_minus(v.high, v.low));
  }
  // x v' = v + 2 b x^3
  T derivative(T x) const {
    Exponent v(x);
    T rest = 2 * v.t * v.cubic, slope = v.high + rest, slope_low = rest - (slope - v.high) + v.low;
    return sigmoid_gated_derivative(x, exp_of_minus(v.high, v.low), slope, slope_low);
  }

 private:
  // |v| in two parts, up to the highest that exp_of_minus takes.
  struct Exponent {
    T t, cubic, high, low;
    FASTACT_INLINE explicit Exponent(T x) {
      constexpr Constant<T> a(0x1.9884533d43651p+0, -0x1.cbc0d30ebfd15p-54);
      constexpr Constant<T> b(0x1.2444f2a4d8b4bp-4, -0x1.6c843a29d1c70p-61);
      t = at_most(sizeof(T) == 4 ? T(11.682) : T(24.3106), abs(x));
      T square = t * t, square_low = product_error(t, t, square);
      cubic = b.high * square;
      T cubic_low = product_error(b.high, square, cubic) + fma(b.high, square_low, b.low * square);
      T sum = a.high + cubic, rounded = sum - a.high;
      T sum_low = a.high - (sum - rounded) + (cubic - rounded) + (cubic_low + a.low);  // Knuth 1969
      high = t * sum;
      low = fma(t, sum_low, product_error(t, sum, high));
    }
  };
};

// R with Phi(-t) = e^(-t^2 / 2) R(z) / (t + k), z = (t - k) / (t + k). It is so flat (k / 2 at 0, 1 / sqrt(2 pi) at
// infinity) that the rounding of z hardly shows in it.
template <class T>
struct GaussianTailConstants;

template <>
struct GaussianTailConstants<float> {
  static constexpr float k = 2.34375f;       // R at z = 0 lies close to a float
  static constexpr float highest = 16.272f;  // t^2 / 2 is the highest that exp_of_minus takes
  // t = 2.34375 (1 + x) / (1 - x); R = exp(t^2 / 2) erfc(t / sqrt(2)) / 2 (t + 2.34375)
  // fpminimax(R, 10, [|SG...|], [-1;(14.5 - 2.34375) / (14.5 + 2.34375)], relative): 4.7e-9
  static constexpr float polynomial[] = {0x1.6523p-1f,    -0x1.9eaf7cp-2f,  0x1.982a16p-4f,  0x1.663f78p-6f,
                                         -0x1.b5d5cp-7f,  -0x1.1db564p-8f,  0x1.b02e94p-10f, 0x1.402bap-10f,
                                         0x1.48943ep-18f, -0x1.e72b4ep-13f, -0x1.2625p-14f};
};

template <>
struct GaussianTailConstants<double> {
  static constexpr double k = 3.5;
  static constexpr double highest = 46.13;
  // t = 3.5 (1 + x) / (1 - x); R = exp(t^2 / 2) erfc(t / sqrt(2)) / 2 (t + 3.5)
  // fpminimax(R, 23, [|D...|], [-1;(39 - 3.5) / (39 + 3.5)], relative): 1.2e-17
  static constexpr double polynomial[] = {
      0x1.7d241a953a614p-1,   -0x1.2191517fa27b8p-1,  0x1.42fec3680acaap-2,   -0x1.db5837f7f5579p-4,
      0x1.1d35bdee16f5dp-6,   0x1.a86cec7672c2ep-8,   -0x1.a200796aa01abp-9,  -0x1.d2a141162bc5bp-12,
      0x1.f3cfaaea54c7p-12,   0x1.192862e5fe31ap-14,  -0x1.3d066e5b44bb5p-14, -0x1.3b39ba6833f3ep-16,
      0x1.8219a1ae17918p-17,  0x1.7b4b7bca2d21fp-18,  -0x1.38c0d48a8f266p-20, -0x1.8d12d84465d3ap-20,
      -0x1.336f6ca823eb2p-23, 0x1.3c3226974789p-22,   0x1.0a1e2d8853ca8p-23,  -0x1.0343bb41d7189p-25,
      -0x1.3868ac7efff6p-25,  -0x1.0772c73d4b114p-28, 0x1.5251a9339eb86p-28,  0x1.98d4284db90a7p-30,
  };
};

template <class T>
struct GELU : SavesInput {
  // x Phi(-|x|), which on the right is what x has too much.
  T forward(T x) const {
    Tail tail(x);
    T m = tail.bell.m, ratio = fma(tail.ratio, m, tail.ratio);
    T ratio_low = fma(tail.ratio, m, tail.ratio - ratio) + tail.ratio_low;
    T bounded = at_most_number(GaussianTailConstants<T>::highest, x);
    T product = bounded * ratio, product_low = fma(bounded, ratio_low, product_error(bounded, ratio, product));
    T part = tail.bell.times_power(divide(product, tail.sum, tail.sum_low, product_low));
    return select(sign_mask(x), part, x - part);
  }
  // Phi(x) + x phi(x), which is 1 less the same at -x.
  T derivative(T x) const {
    constexpr Constant<T> density(0x1.9884533d43651p-2, -0x1.cbc0d30ebfd15p-56);  // 1 / sqrt(2 pi)
    Tail tail(x);
    T slope = density.high * tail.t;
    T slope_low = fma(density.low, tail.t, product_error(density.high, tail.t, slope));
    T left = divide(tail.ratio, tail.sum, tail.sum_low, tail.ratio_low) - slope - slope_low;
    left = tail.bell.times_power(fma(left, tail.bell.m, left));
    return select(sign_mask(x), left, 1 - left);
  }

 private:
  // Phi(-t) = bell (ratio + ratio_low) / (sum + sum_low) for t = |x|.
  struct Tail {
    T t, sum, sum_low, ratio, ratio_low;
    ScaledExp<T> bell;
    FASTACT_INLINE explicit Tail(T x) {
      using K = GaussianTailConstants<T>;
      t = at_most(K::highest, abs(x));
      T half = T(0.5) * t, exponent = half * t;
      bell = exp_of_minus(exponent, product_error(half, t, exponent));
      sum = t + K::k;
      sum_low = t - (sum - K::k);
      T z = divide(t - K::k, sum, sum_low), rest = polynomial<1>(z, K::polynomial);
      ratio = fma(z, rest, K::polynomial[0]);
      ratio_low = fma(z, rest, K::polynomial[0] - ratio);
    }
  };
};

// x tanh(log(1 + e^x)) = x (1 + a) / (1 + b), with e = e^-|x| multiplied by
//   e   on the left, with a = e / 2 and b = e + e a,
//   1   on the right, with a = 2 e and b = a + e a.
template <class T>
struct Mish : SavesInput {
  T forward(T x) const {
    Parts parts(x);
    T m = parts.sides.m();
    return parts.sides.quotient(x, m + fma(parts.a, m, parts.a), parts.sum, parts.sum_low);
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
    T second = select(left, fma(e, T(0.25), T(1)), fma(4 * u, 1 + e, T(2)));
    T first = fma(e, second, select(left, u + T(0.5), T(4)));
    return parts.sides.over_square(fma(e, first, select(left, u, T(1))), parts.sum, parts.sum_low);
  }

 private:
  struct Parts {
    Sides<T> sides;
    T e, a, sum, sum_low;  // 1 + b
    FASTACT_INLINE explicit Parts(T x)
        : sides(x, exp_of_minus(at_most_number(ExpConstants<T>::highest, abs(x)))), e(sides.e.value()) {
      a = select(sides.left, e / 2, 2 * e);
      T first = select(sides.left, e, a), b = fma(e, a, first);
      sum = 1 + b;
      sum_low = b - (sum - 1) + fma(e, a, first - b);
    }
  };
};

template <class T>
struct Hardswish : SavesInput {
  T forward(T x) const {
    constexpr Constant<T> sixth(1. / 6, 0x1.5555555555555p-57);
    T bounded = at_most(T(3), at_least(T(-3), x)), sum = bounded + 3, sum_low = bounded - (sum - 3);
    return x * fma_rounded_once(sum, sixth.high, fma(sum, sixth.low, sum_low * sixth.high));
  }
  T gradient(T grad, T x) const {
    T slope = (x + T(1.5)) * T(1. / 3), between = grad * slope;
    return x <= -3 ? T(0) : x >= 3 ? grad : between;
  }
};

// What a gated linear unit multiplies its one half by: the sigmoid, with a derivative from the input, which keeps the
// digits that 1 - y has lost.
template <class T>
struct SigmoidGate : SavesInput {
  T forward(T x) const { return Sigmoid<T>().forward(x); }
  T derivative(T x) const {
    ScaledExp<T> e = exp_of_minus(at_most(ExpConstants<T>::highest, abs(x)));
    T value = e.value(), sum = 1 + value;
    return Sides<T>(T(-1), e).over_square(T(1), sum, value - (sum - 1));
  }
};

}  // namespace
}  // namespace fastact
