// Sigmoids: bounded, saturating at both ends.
#pragma once

#include "formula.h"

namespace fastact {
namespace {

// e^-|x| never overflows, so the left tail keeps all its digits down to the subnormals.
template <class T>
struct Sigmoid : SavesOutput {
  T forward(T x) const {
    T e = exp_below_overflow(-abs(x));
    return (x < 0 ? e : T(1)) / (1 + e);
  }
  T derivative(T y) const { return fma(-y, y, y); }
};

// tanh|x| = t / (t + 2) with t = e^2|x| - 1: no cancellation near zero. From 20 on both types give 1.
template <class T>
struct Tanh : SavesOutput {
  T forward(T x) const {
    T t = expm1(2 * at_most(T(20), abs(x)));  // positive, so its lower clamp folds away
    return copysign(t / (t + 2), x);
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
