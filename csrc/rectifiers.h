// Rectifiers: the identity on one side of zero, something smaller on the other.
#pragma once

#include "formula.h"

namespace fastact {
namespace {

// x < 0 ? 0 : x keeps NaN and -0, as torch does; so does its derivative, which is 1 at NaN and 0 at both zeros.
template <class T>
struct ReLU : SavesBits {
  T forward(T x) const { return x < 0 ? T(0) : x; }
  bool keep(T x) const { return !(x <= 0); }
  T kept(T grad) const { return grad; }
  T dropped(T) const { return 0; }
};

template <class T>
struct LeakyReLU : SavesBits {
  T negative_slope;
  T forward(T x) const { return x > 0 ? x : x * negative_slope; }
  bool keep(T x) const { return x > 0; }
  T kept(T grad) const { return grad; }
  T dropped(T grad) const { return grad * negative_slope; }
};

// In training; in evaluation it is LeakyReLU with the mean slope.
template <class T>
struct RReLU : SavesBits, Random {
  T lower, upper;
  T slope(T u) const { return u * (upper - lower) + lower; }
  T forward(T x, T u) const { return x <= 0 ? x * slope(u) : x; }
  bool keep(T x) const { return !(x <= 0); }
  T kept(T grad) const { return grad; }
  T dropped(T grad, T u) const { return grad * slope(u); }
};

// The slope is a tensor, so PReLU has loops of its own, which reads it and sums its gradient in the same pass.
template <class T>
struct PReLU {
  static T forward(T x, T weight) { return x > 0 ? x : x * weight; }
  static T grad_input(T grad, T x, T weight) { return x > 0 ? grad : grad * weight; }
  static T grad_weight(T grad, T x) { return x > 0 ? T(0) : grad * x; }
};

}  // namespace
}  // namespace fastact
