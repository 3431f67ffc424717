// Softmax and its family: functions of a row through its maximum and its sum of e^(x - row_max). A formula consists of:
//
//   log                            whether the output is the logarithm
//   oriented(x)                    x, or -x: a softmin is the softmax of -x
//   finalize(sum, row_max, high, low)   what `forward` needs of a row, in two parts
//   forward(from, high, low)       the output, from the exponential or, of a logarithm, from the input
//   term(grad, y)                  what the gradient sums over the row
//   gradient(grad, y, sum)
#pragma once

#include "activations/formula.h"
#include "math/log.h"

namespace fastact {
namespace {

// Returns 2^64 e^(x - row_max), which is never subnormal, or 0 where the exponential rounds to 0. It corrects the
// rounding error of the difference: up to 2^-18 at -80, which the exponential would turn into 32 ULP.
template <class T>
inline T scaled_exp(T x, T row_max) {
  constexpr T zero_below = sizeof(T) == 4 ? T(-104) : T(-746);
  T difference = x - row_max;
  auto reduced = reduce(difference, ExpConstants<T>::exponent_bias + 64, two_sum_error(x, -row_max, difference));
  T scale = from_exponent<T>(reduced.biased);
  return difference <= zero_below ? T(0) : mad(scale, small_exp_less_1(reduced.r), scale);
}

// Computes 2^64 e^(x - kp ln2) for the elements of a row, where kp ln2 is the multiple of ln2 next to the maximum. Only
// the power of two differs from e^x, so no difference is rounded; but the maximum's own exponential is no power of two,
// and is rounded. The result is 0 where the exponential rounds to 0.
template <class T>
struct RowExp {
  // The largest |row_max|: up to here n times ln2's high part is exact even without fused multiply-add.
  static constexpr T limit = sizeof(T) == 4 ? T(128) : T(512);
  T lowest, bias;
  double rest;  // row_max - kp ln2

  RowExp() = default;
  explicit RowExp(T row_max) : lowest(row_max - (sizeof(T) == 4 ? T(104) : T(746))) {
    using K = ExpConstants<T>;
    using D = ExpConstants<double>;
    T shifted = fma(row_max, K::log2_e, K::round_to_integer), kp = shifted - K::round_to_integer;
    bias = K::exponent_bias + 64 - kp;
    auto wide = static_cast<double>(kp);
    rest = fma(wide, -D::ln2_low, fma(wide, -D::ln2_high, static_cast<double>(row_max)));
  }
  T operator()(T x) const {
    auto reduced = reduce(x, bias);
    T scale = from_exponent<T>(reduced.biased);
    return zero_if(x <= lowest, mad(scale, small_exp_less_1(reduced.r), scale));
  }
};

// A sum of scaled exponentials, split into the elements below the maximum and those equal to it. So the logarithm of a
// sum just above 1 stays accurate.
constexpr double kScale = 0x1p64;
struct RowSum {
  double below, at_max;
};

template <class T>
struct Softmax {
  static constexpr bool log = false;
  constexpr T oriented(T x) const { return x; }
  // 1 / sum in two parts, so that the product with it is rounded once.
  void finalize(RowSum sum, T, T& high, T& low) const {
    double total = sum.below, inverse = 1 / total;
    high = static_cast<T>(inverse);
    low = sizeof(T) == 4 ? static_cast<T>(inverse - high) : static_cast<T>(fma(-inverse, total, 1.0) * inverse);
  }
  T forward(T e, T high, T low) const { return fma(e, high, e * low); }
  template <class Numbers>
  Numbers term(Numbers grad, Numbers y) const {
    return grad * y;
  }
  template <class Numbers>
  Numbers gradient(Numbers grad, Numbers y, T sum) const {
    return y * (grad - sum);
  }
};

template <class T>
struct Softmin : Softmax<T> {
  constexpr T oriented(T x) const { return -x; }
  template <class Numbers>
  Numbers gradient(Numbers grad, Numbers y, T sum) const {
    return y * (sum - grad);
  }
};

// x - (row_max + log(sum)), with the bracket in twice the precision: where x is the maximum and the logarithm is small,
// nothing is lost. A row of -infinity only gives NaN.
template <class T>
struct LogSoftmax {
  static constexpr bool log = true;
  constexpr T oriented(T x) const { return x; }
  void finalize(RowSum sum, T row_max, T& high, T& low) const {
    double logarithm = sum.at_max > 0 ? log1p_of_sum((sum.below + (sum.at_max - kScale)) / kScale) : __builtin_nan("");
    T rounded = static_cast<T>(logarithm);
    high = row_max + rounded;
    low = two_sum_error(row_max, rounded, high) + static_cast<T>(logarithm - rounded);
  }
  T forward(T x, T high, T low) const { return (x - high) - low; }
  template <class Numbers>
  Numbers term(Numbers grad, Numbers) const {
    return grad;
  }
  // Near 1, e^y is taken as 1 + m: the gradient of an almost certain class stays accurate.
  T gradient(T grad, T y, T sum) const {
    auto e = exp_of_minus(at_most(ExpConstants<T>::highest, -y));
    return y > T(-0.34) ? fma(-e.m, sum, grad - sum) : fma(-e.value(), sum, grad);
  }
};

}  // namespace
}  // namespace fastact
