// Softplus and its mirror image: the logarithm of 1 + e^x, a smooth ReLU.
#pragma once

#include "formula.h"

namespace fastact {
namespace {

// e^z = outer * inner (1 + m) for z <= 0. outer and inner are powers of two, half the exponent each, so that what is
// multiplied by outer last is rounded once, however far below the smallest normal number it falls. Where neither half
// can hold the exponent any more, from z = -176 (float) or -1418 (double) on, they are 0.
template <class T>
struct SmallExp {
  T outer, inner, m;
  T value() const { return outer * fma(inner, m, inner); }
};

template <class T>
inline SmallExp<T> small_exp(T z) {
  using K = ExpConstants<T>;
  auto e = exp_parts(at_least(-2 * K::exponent_bias * K::ln2_high, z), 2 * K::exponent_bias);
  auto half = e.biased >> 1;
  return {from_exponent<T>(e.biased - half), from_exponent<T>(half), e.m};
}

// log(1 + e^z) / outer: inner (1 + m) (1 + ratio), of which all but inner is small, or, where it is not, outer is 1.
template <class T>
inline Pair<T> log1p_over_outer(const SmallExp<T>& e) {
  auto log = log1p_parts(e.value());
  T lower = e.inner * fma(log.ratio, 1 + e.m, e.m), upper = fma(log.f, log.ratio, log.f);
  return {log.upper() ? T(0x1.62e42fefa39efp-1) : e.inner, log.upper() ? upper : lower};
}

// log(1 + e^z) / beta with z = beta x, which for z > 0 is x + log(1 + e^-z) / beta. The exponential magnifies what
// rounding takes from the product z by |z|: it is put back. So is what the division takes, since a last digit of the
// logarithm can be two of the quotient.
template <class T>
struct Softplus : SavesInput {
  T beta, threshold;

  T forward(T x) const {
    auto e = exp_of_minus_abs_product(x);
    auto log = log1p_over_outer(e);
    T lift = abs(beta) < T(0x1p-64) ? T(0x1p64) : T(1), divisor = beta * lift,
      inverse = 1 / divisor;  // finite for any beta
    T sum = log.high + log.low, quotient = sum * inverse;
    quotient = fma(log.high - sum + log.low - product_error(quotient, divisor, sum), inverse, quotient);
    T z = beta * x, y = fma(e.outer * lift, quotient, z > 0 ? x : beta * 0);  // the sign of the zero is beta's
    return z > threshold ? x : y;
  }
  T derivative(T x) const {
    T e = exp_of_minus_abs_product(x).value(), sum = 1 + e, z = beta * x;
    T sigmoid = divide(z < 0 ? e : T(1), sum, e - (sum - 1));
    return z > threshold ? T(1) : sigmoid;
  }

 private:
  SmallExp<T> exp_of_minus_abs_product(T x) const {
    T factor = copysign(beta, T(-1)), size = abs(x), z = factor * size;
    auto e = small_exp(z);
    T z_low = z > -2048 ? product_error(factor, size, z) : T(0);  // e^z is 0 long before; infinity has no error
    e.m = fma(z_low, 1 + e.m, e.m);
    return e;
  }
};

template <class T>
struct LogSigmoid : SavesOutput {
  T forward(T x) const {
    auto e = small_exp(copysign(x, T(-1)));
    auto log = log1p_over_outer(e);
    return fma(-e.outer, log.high + log.low, at_most(T(0), x));
  }
  T derivative(T y) const { return 0 - expm1(y); }  // -0 would be torch's 0 with the wrong sign
};

}  // namespace
}  // namespace fastact
