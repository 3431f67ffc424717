// Softplus and its mirror image: the logarithm of 1 + e^x, a smooth ReLU.
#pragma once

#include "formula.h"

namespace fastact {
namespace {

// log(1 + e^-x) 2^lift in two parts. All of it but a power of two or ln 2 is small.
template <class T>
inline Pair<T> lifted_log1p(ScaledExp<T> e) {
  auto log = log1p_parts(e.value());
  constexpr T scale = 1 / ScaledExp<T>::drop;
  T lower = e.lifted * fma(log.ratio, 1 + e.m, e.m), upper = scale * fma(log.f, log.ratio, log.f);
  return {log.upper() ? scale * T(0x1.62e42fefa39efp-1) : e.lifted, log.upper() ? upper : lower};
}

// log(1 + e^z) / beta with z = beta x, which for z > 0 is x + log(1 + e^-z) / beta. The exponential magnifies what
// rounding takes from the product z by |z|: it is put back. So is what the division takes, since a last digit of the
// logarithm can be two of the quotient.
template <class T>
struct Softplus : SavesInput {
  T beta, threshold;

  T forward(T x) const {
    T z = beta * x, size = at_most(ExpConstants<T>::highest, abs(z));
    T size_low = size == abs(z) ? copysign(T(1), z) * product_error(beta, x, z) : T(0);
    auto log = lifted_log1p(exp_of_minus(size, size_low));
    // The inverse is finite for any beta.
    T lift = abs(beta) < T(0x1p-32) ? 1 / ScaledExp<T>::drop : T(1), divisor = beta * lift, inverse = 1 / divisor;
    T sum = log.high + log.low, quotient = sum * inverse;
    quotient = multiply_add(log.high - sum + log.low - product_error(quotient, divisor, sum), inverse, quotient);
    T y = multiply_add(ScaledExp<T>::drop * lift, quotient, z > 0 ? x : beta * 0);  // the sign of the zero is beta's
    return z > threshold ? x : y;
  }
  T derivative(T x) const {
    using K = ExpConstants<T>;
    T z = beta * x, t = clamp_number(K::least, K::most, z), low = t == z ? product_error(beta, x, z) : T(0);
    T sigmoid = K::unit / logistic(t, low).sum;
    return z > threshold ? T(1) : z == z ? sigmoid : z;
  }
};

template <class T>
struct LogSigmoid : SavesOutput {
  T forward(T x) const {
    auto log = lifted_log1p(exp_of_minus(at_most(ExpConstants<T>::highest, abs(x))));
    return multiply_add(-ScaledExp<T>::drop, log.high + log.low, at_most(T(0), x));
  }
  T derivative(T y) const { return 0 - expm1(y); }  // -0 would be torch's 0 with the wrong sign
};

}  // namespace
}  // namespace fastact
