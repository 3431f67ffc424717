// Sigmoids: bounded, saturating at both ends.
#pragma once

#include "activations/formula.h"
#include "activations/rectifiers.h"

namespace fastact {
namespace {

template <class T>
struct Sigmoid : SavesOutput {
  T forward(T x) const {
    using K = ExpConstants<T>;
    T y = K::unit / logistic(clamp_number(K::least, K::most, x)).sum;
    return x == x ? y : x;
  }
  T derivative(T y) const { return fma(-y, y, y); }
};

// tanh|x| = t / (t + 2) with t = e^2|x| - 1: no cancellation near zero. From 20 on both types give 1.
template <class T>
struct Tanh : SavesOutput {
  T forward(T x) const {
    T t = expm1_in_range(2 * at_most(T(20), abs(x))), sum = t + 2;
    return copysign(divide(t, sum, t - (sum - 2)), x);
  }
  T from_lut8(T x, T value) const { return copysign(value, x); }
  T derivative(T y) const { return one_less_square(y); }
};

// Saves the input, not the output: for large x, 1 - |y| is less accurate than 1 / (1 + |x|).
template <class T>
struct Softsign : SavesInput {
  T forward(T x) const { return x / (1 + abs(x)); }
  T derivative(T x) const {
    T r = 1 / (1 + abs(x));
    return r * r;
  }
};

// A straight line through the middle of the sigmoid, cut off at -3 and 3. The product with 1/6 in two parts equals the
// quotient by 6 bit for bit: the quotient is never nearer than 1/6 ULP to a rounding boundary. A division would take
// longer than everything else.
template <class T>
struct Hardsigmoid : SavesMask {
  T forward(T x) const {
    constexpr Constant<T> sixth(1. / 6, 0x1.5555555555555p-57);
    T y = ReLU6<T>().forward(x + 3), quotient = y * sixth.high;
    return quotient + fma(y, sixth.low, two_prod_error(y, sixth.high, quotient));
  }
  template <class X>
  auto keep(X x) const {
    return abs(x) < 3;
  }
  T kept(T grad) const { return grad * T(1. / 6); }
  T dropped(T) const { return 0; }
};

}  // namespace
}  // namespace fastact
