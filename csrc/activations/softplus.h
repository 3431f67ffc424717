// Softplus and its mirror image: the logarithm of 1 + e^x, a smooth ReLU.
#pragma once

#include "activations/sigmoids.h"
#include "math/log.h"

namespace fastact {
namespace {

// log(1 + e) of a ScaledExp, as another.
template <class T>
inline ScaledExp<T> scaled_log1p(ScaledExp<T> e) {
  T rest = polynomial(e.value(), Log1pConstants<T>::polynomial);
  return {T(0.75) * e.scaled, fma(rest, 1 + e.m, e.m)};
}

// log(1 + e^-|x|) for |x| > 8.4, by three terms of its series in the exponential.
template <class T>
inline T far_log1p(T x) {
  auto e = exp_of_minus(at_most_number(ExpConstants<T>::highest, abs(x)));
  T value = e.value();
  return e.times(fma(value, fma(value, T(1. / 3), T(-0.5)), T(1)));
}

// base + sign log(1 + e^-|x|). Of NaN, only `base` is.
template <int sign, class T>
inline T add_log1p(T base, T x) {
  auto log = scaled_log1p(exp_of_minus(at_most_number(ExpConstants<T>::highest, abs(x))));
  return base + sign * log.times(T(1));
}

// Softplus with the usual beta of 1, where nothing has to be put back.
template <class T>
struct UnitSoftplus : SavesInput {
  T threshold;
  T forward(T x) const {
    T y = add_log1p<1>(at_least(T(0), x), x);
    return x > threshold ? x : y;
  }
  T from_lut8(T x, T log) const {
    T y = at_least(T(0), x) + log;
    return x > threshold ? x : y;
  }
  T outside_lut8(T x) const {
    T y = far_log1p(x);
    return x > threshold ? x : y;
  }
  T derivative(T x) const {
    T sigmoid = Sigmoid<T>().forward(x);
    return x > threshold ? T(1) : sigmoid;
  }
};

// log(1 + e^z) / beta with z = beta x; for z > 0 it is x + log(1 + e^-z) / beta. The exponential magnifies the rounding
// error of z by |z|, so it is corrected. So is the division's, since one ULP of the logarithm can be two of the
// quotient.
template <class T>
struct Softplus : SavesInput {
  T beta, threshold;

  // Calls body with the cheapest formula for these parameters.
  template <class Body>
  void specialised(const Body& body) const {
    if (beta == 1)
      body(UnitSoftplus<T>{{}, threshold});
    else
      body(*this);
  }

  T forward(T x) const {
    T z = beta * x, size = at_most(ExpConstants<T>::highest, abs(z));
    T size_low = size == abs(z) ? copysign(T(1), z) * two_prod_error(beta, x, z) : T(0);
    auto log = scaled_log1p(exp_of_minus(size, size_low));
    T log_low = log.scaled * log.m;
    // The inverse is finite for any beta.
    T power = abs(beta) < T(0x1p-32) ? 1 / ScaledExp<T>::unscale : T(1), divisor = beta * power, inverse = 1 / divisor;
    T sum = log.scaled + log_low, quotient = sum * inverse;
    T rest = log.scaled - sum + log_low - two_prod_error(quotient, divisor, sum), scale = ScaledExp<T>::unscale * power;
    T line = z > 0 ? x : beta * 0;  // the sign of the zero is beta's
    T y = mad(scale, fma(rest, inverse, quotient), line);
    return z > threshold ? x : y;
  }
  T derivative(T x) const {
    using K = ExpConstants<T>;
    T z = beta * x, t = clamp_number(K::least, K::most, z), low = t == z ? two_prod_error(beta, x, z) : T(0);
    T sigmoid = K::unit / logistic(t, low).sum;
    return z > threshold ? T(1) : z == z ? sigmoid : z;
  }
};

template <class T>
struct LogSigmoid : SavesOutput {
  T forward(T x) const { return add_log1p<-1>(at_most(T(0), x), x); }
  T from_lut8(T x, T log) const { return at_most(T(0), x) - log; }
  T outside_lut8(T x) const { return -far_log1p(x); }
  T derivative(T y) const { return one_less_exp(y); }
};

}  // namespace
}  // namespace fastact
