// Softmax and its kin: functions of a whole row, through its peak (the largest element) and the sum of e^(x - peak).
// What kernels.cpp makes block functions of:
//
//   log                        whether it is the logarithm
//   oriented(x)                the element, or its negative: a softmin is the softmax of -x
//   finish(sum, peak, high, low)   what `forward` needs of a row, in two parts
//   forward(from, high, low)   the result, from the exponential or, for a logarithm, from the element
//   term(grad, y)              what the gradient sums over the row
//   gradient(grad, y, sum)
#pragma once

#include "activations/formula.h"

namespace fastact {
namespace {

// What rounding took from the sum of a and b (Knuth 1969).
template <class T>
inline T sum_error(T a, T b, T sum) {
  T rounded_b = sum - a;
  return (a - (sum - rounded_b)) + (b - rounded_b);
}

// 2^64 e^(x - peak), which is never subnormal; 0 where the exponential rounds to 0. The difference's rounding error is
// made good: of -80 it is up to 2^-18, and the exponential would turn it into 32 ULP.
template <class T>
inline T raised_exp(T x, T peak) {
  constexpr T zero_below = sizeof(T) == 4 ? T(-104) : T(-746);
  T difference = x - peak;
  auto reduced = reduce(difference, ExpConstants<T>::exponent_bias + 64, sum_error(x, -peak, difference));
  T scale = from_exponent<T>(reduced.biased);
  return difference <= zero_below ? T(0) : multiply_add(scale, small_exp_less_1(reduced.r), scale);
}

// 2^64 e^(x - kp ln2) for the elements of a row, where kp ln2 is the multiple of ln2 next to the peak: e^x with another
// power of two, so that there is no difference to be rounded, but the peak's is no power of two any more, and is
// rounded itself. 0 where the exponential rounds to 0.
template <class T>
struct RowExp {
  // Of |peak|: up to here n times ln2's high part is exact without fused multiply-add too.
  static constexpr T limit = sizeof(T) == 4 ? T(128) : T(512);
  T lowest, bias;
  double rest;  // peak - kp ln2

  RowExp() = default;
  explicit RowExp(T peak) : lowest(peak - (sizeof(T) == 4 ? T(104) : T(746))) {
    using K = ExpConstants<T>;
    using D = ExpConstants<double>;
    T shifted = fma(peak, K::log2_e, K::round_to_integer), kp = shifted - K::round_to_integer;
    bias = K::exponent_bias + 64 - kp;
    auto wide = static_cast<double>(kp);
    rest = fma(wide, -D::ln2_low, fma(wide, -D::ln2_high, static_cast<double>(peak)));
  }
  T operator()(T x) const {
    auto reduced = reduce(x, bias);
    T scale = from_exponent<T>(reduced.biased);
    return zero_if(x <= lowest, multiply_add(scale, small_exp_less_1(reduced.r), scale));
  }
};

// A sum of raised exponentials: over what is below the peak, and over the elements at the peak. Apart, so that the
// logarithm of a sum just above 1 keeps its digits.
constexpr double kRaised = 0x1p64;
struct RowSum {
  double below, peaks;
};

template <class T>
struct Softmax {
  static constexpr bool log = false;
  constexpr T oriented(T x) const { return x; }
  // 1 / sum, so that the product with it is rounded once.
  void finish(RowSum sum, T, T& high, T& low) const {
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

// x - (peak + log(sum)), with all digits of the sum in parentheses: none are lost where x is the peak and the logarithm
// is small. A row without any peak (all -infinity) gives NaN.
template <class T>
struct LogSoftmax {
  static constexpr bool log = true;
  constexpr T oriented(T x) const { return x; }
  void finish(RowSum sum, T peak, T& high, T& low) const {
    double logarithm = sum.peaks > 0 ? log1p_of_sum((sum.below + (sum.peaks - kRaised)) / kRaised) : __builtin_nan("");
    T rounded = static_cast<T>(logarithm);
    high = peak + rounded;
    low = sum_error(peak, rounded, high) + static_cast<T>(logarithm - rounded);
  }
  T forward(T x, T high, T low) const { return (x - high) - low; }
  template <class Numbers>
  Numbers term(Numbers grad, Numbers) const {
    return grad;
  }
  // Where e^y is near 1 it is taken as 1 + m, so that the gradient of an all but certain class keeps its digits.
  T gradient(T grad, T y, T sum) const {
    auto e = exp_of_minus(at_most(ExpConstants<T>::highest, -y));
    return y > T(-0.34) ? fma(-e.m, sum, grad - sum) : fma(-e.value(), sum, grad);
  }
};

}  // namespace
}  // namespace fastact
