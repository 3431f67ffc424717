// Sigmoids: bounded, saturating at both ends.
#pragma once

#include "formula.h"

namespace fastact {
namespace {

// e^-|x| never overflows (copysign is one instruction for -|x|), so the left tail keeps all its digits down to the
// subnormals.
template <class T>
struct Sigmoid : SavesOutput {
  T forward(T x) const {
    T e = exp_below_overflow(copysign(x, T(-1))).value(), sum = 1 + e;
    return divide(x < 0 ? e : T(1), sum, e - (sum - 1));
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
  T derivative(T y) const { return fma(-y, y, T(1)); }
};

// The input is saved, not the output: 1 - |y| has lost the digits of 1 / (1 + |x|) for large x.
template <class T>
struct Softsign : SavesInput {
  T forward(T x) const { return x / (1 + abs(x)); }
  T derivative(T x) const {
    T r = 1 / (1 + abs(x));
    return r * r;
  }
};

}  // namespace
}  // namespace fastact
