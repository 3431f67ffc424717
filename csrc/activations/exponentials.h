// Exponential units: the identity for positive inputs, a saturating exponential below.
#pragma once

#include "activations/formula.h"

namespace fastact {
namespace {

// alpha >= 0, and -0 stays -0. The output therefore has the sign of the input, and the derivative follows from it: y +
// alpha.
template <class T>
struct ELU : SavesOutput {
  T alpha;
  T forward(T x) const { return x <= 0 ? copysign(alpha * expm1(x), x) : x; }
  T positive(T x) const { return x; }
  T derivative(T y) const { return y > 0 ? T(1) : y + alpha; }
};

// The constants that make mean 0 and variance 1 a fixed point of a layer.
template <class T>
struct SELU : SavesOutput {
  static constexpr T scale = T(1.0507009873554804934193349852946);
  static constexpr T scale_alpha = T(1.0507009873554804934193349852946 * 1.6732632423543772848170429916717);
  // The scale in two parts. The nearest float is above the scale, and would make the product with 3.2386221e38
  // infinite. The second part is positive, or infinity would give NaN.
  static constexpr T scale_high = sizeof(T) == 4 ? T(0x1.0cfabcp0) : T(0x1.0cfabd6a91132p0);
  static constexpr T scale_low = sizeof(T) == 4 ? T(0x1.6a9114p-24) : T(0x1.6fc7d272f2695p-55);
  T forward(T x) const { return x <= 0 ? copysign(scale_alpha * expm1(x), x) : positive(x); }
  T positive(T x) const { return fma(x, scale_high, x * scale_low); }
  T derivative(T y) const { return y > 0 ? scale : y + scale_alpha; }
};

// alpha > 0. Unlike ELU's, the derivative is 1 on both sides of zero whatever alpha is.
template <class T>
struct CELU : SavesOutput {
  T alpha;

  // With the usual alpha of 1, CELU is ELU, which saves a division and its error: a third of the time.
  template <class Body>
  void specialised(const Body& body) const {
    if (alpha == 1)
      body(ELU<T>{{}, alpha});
    else
      body(*this);
  }

  T forward(T x) const {
    T v = x / alpha, e = expm1(v);
    // The rounding error of the quotient, times alpha; an infinite quotient has none.
    T rest = v > ExpConstants<T>::expm1_lowest ? -two_prod_error(v, alpha, x) : T(0);
    return x <= 0 ? copysign(fma(alpha, e, rest * (e + 1)), x) : x;
  }
  T positive(T x) const { return x; }
  T derivative(T y) const { return y > 0 ? T(1) : y / alpha + 1; }
};

// alpha_p x^2 + beta x for x > 0, alpha_n (e^x - 1 - x) + beta x otherwise (Huang and Schlag 2024). For negative x the
// output and the derivative are differences of nearly equal terms, which are therefore carried in twice the precision.
template <class T>
struct XIELU : Channelwise {
  T alpha_p, alpha_n, beta;

  T forward(T x) const {
    auto bend = expm1_minus_x(x);
    T slope = alpha_p * x, factor = x > 0 ? slope : alpha_n, bent = x > 0 ? x : bend.high;
    T low = x > 0 ? two_prod_error(alpha_p, x, slope) * x : alpha_n * bend.low;
    // The rounded product may be infinite where the sum is not: at 3.3678991e19 with an alpha_p of 0.3.
    T product = factor * bent, curve = at_most(largest_number<T>, product), line = beta * x;
    low += two_prod_error(factor, bent, curve) + two_prod_error(beta, x, line);
    return low - low == 0 ? curve + line + low : product + line;
  }
  T derivative(T x) const {
    // In twice the precision, e^x - 1 reaches -1 at twice the argument.
    auto reduced = reduce(at_least(2 * ExpConstants<T>::expm1_lowest, x), ExpConstants<T>::exponent_bias);
    T scale = from_exponent<T>(reduced.biased), m = small_expm1(reduced.r), below = scale - 1;
    T expm1 = mad(scale, m, below), curve = alpha_n * expm1;
    T expm1_low = mad(scale, m, below - expm1) + (scale - (below + 1));
    T low = mad(alpha_n, expm1_low, two_prod_error(alpha_n, expm1, curve));
    return x > 0 ? fma(2 * alpha_p, x, beta) : curve + beta + low;
  }
  Gradients<T, 2> with_gradients(T grad, T x) const {
    return {grad * derivative(x), {x > 0 ? grad * (x * x) : T(0), x > 0 ? T(0) : grad * expm1_minus_x(x).high}};
  }
};

}  // namespace
}  // namespace fastact
