// Periodic activations.
#pragma once

#include "activations/formula.h"
#include "math/sin.h"

namespace fastact {
namespace {

// x + sin^2(alpha x) / alpha (Liu, Hartwig and Ueda 2020). For negative alpha x the terms nearly cancel, so the second
// one is computed in twice the precision. The result is accurate up to |alpha x| = 2^15 (float) or 2^20 (double). From
// 8 times that on, the sine term, less than 2^-18 of x, is omitted, and the derivative is its mean, 1.
template <class T>
struct Snake : Channelwise {
  T alpha;

  T forward(T x) const {
    auto sine = sine_squared(reduced_angle(alpha, x, T(0)));
    T inverse = 1 / alpha, wave = sine.high * inverse;
    T wave_low = (sine.low - two_prod_error(wave, alpha, sine.high)) * inverse, sum = x + wave;
    return sum + (wave - (sum - x) + wave_low);
  }
  // 1 + sin(2 alpha x) = 2 sin^2(alpha x + pi/4), which is accurate near its zeros.
  T derivative(T x) const {
    auto sine = sine_squared(reduced_angle(alpha, x, T(0.5)));
    return 2 * (sine.high + sine.low);
  }
  // (x sin(2 alpha x) - sin^2(alpha x) / alpha) / alpha. Near zero the second term is half the first; there sin^2(r) /
  // alpha is computed as r sin^2(r) / r^2 times r / alpha, which does not underflow.
  T grad_alpha(T grad, T x) const {
    using K = SineConstants<T>;
    auto angle = reduced_angle(alpha, x, T(0));
    T r = angle.high, square = r * r, inverse = 1 / alpha;
    T wave = r * inverse * (r * fma(square, polynomial_of_small(square, K::square), T(1)));
    T slope = r * fma(square, polynomial_of_small(square, K::twice), T(2));
    return grad * inverse * fma(x, angle.odd ? -slope : slope, angle.odd ? wave - inverse : -wave);
  }
  Gradients<T, 1> with_gradients(T grad, T x) const { return {grad * derivative(x), {grad_alpha(grad, x)}}; }
};

}  // namespace
}  // namespace fastact
