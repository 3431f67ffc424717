// Rectifiers: the identity on one side of zero, something smaller on the other.
#pragma once

#include "activations/formula.h"

namespace fastact {
namespace {

// x < 0 ? 0 : x keeps NaN and -0, as torch does; so does its derivative, which is 1 at NaN and 0 at both zeros.
template <class T>
struct ReLU : PassOrDrop<T> {
  T forward(T x) const { return x < 0 ? T(0) : x; }
  template <class X>
  auto keep(X x) const {
    return !(x <= 0);
  }
};

template <class T>
struct LeakyReLU : SavesMask {
  T negative_slope;
  T forward(T x) const { return x > 0 ? x : x * negative_slope; }
  template <class X>
  auto keep(X x) const {
    return x > 0;
  }
  T kept(T grad) const { return grad; }
  T dropped(T grad) const { return grad * negative_slope; }
};

// RReLU in training; in evaluation it is LeakyReLU with the mean slope.
template <class T>
struct RReLU : SavesMask, Random {
  T lower, upper;
  T slope(T u) const { return u * (upper - lower) + lower; }
  T forward(T x, T u) const { return x <= 0 ? x * slope(u) : x; }
  template <class X>
  auto keep(X x) const {
    return !(x <= 0);
  }
  T kept(T grad) const { return grad; }
  T dropped(T grad, T u) const { return grad * slope(u); }
};

template <class T>
struct Threshold : PassOrDrop<T> {
  T threshold, value;
  T forward(T x) const { return x <= threshold ? value : x; }
  template <class X>
  auto keep(X x) const {
    return !(x <= threshold);
  }
};

template <class T>
struct Hardtanh : PassOrDrop<T> {
  T min_val, max_val;
  T forward(T x) const { return at_most(max_val, at_least(min_val, x)); }
  template <class X>
  auto keep(X x) const {
    return !((x <= min_val) | (x >= max_val));
  }
};

template <class T>
struct ReLU6 : PassOrDrop<T> {
  T forward(T x) const { return zero_if(x < 0, at_most(T(6), x)); }
  template <class X>
  auto keep(X x) const {
    return Hardtanh<T>{{}, 0, 6}.keep(x);
  }
  // With bounds that GCC does not know: from constants it makes case distinctions, and the loop with a mask takes 1.2
  // times as long.
  template <class Body>
  void specialised(const Body& body) const {
    volatile T most = 6;
    body(Hardtanh<T>{{}, 0, most});
  }
};

template <class T>
struct SquaredReLU : SavesInput {
  T forward(T x) const { return x < 0 ? 0 : x * x; }
  T gradient(T grad, T x) const { return x <= 0 ? 0 : grad * (2 * x); }
};

template <class T>
struct PReLU : Channelwise {
  T weight;
  T forward(T x) const { return x > 0 ? x : x * weight; }
  Gradients<T, 1> with_gradients(T grad, T x) const {
    return {x > 0 ? grad : grad * weight, {x > 0 ? T(0) : grad * x}};
  }
};

template <class T>
struct StarReLU : Channelwise {
  T scale, bias;
  T forward(T x) const {
    T r = x < 0 ? 0 : x;
    return fma(scale * r, r, bias);
  }
  Gradients<T, 2> with_gradients(T grad, T x) const {
    T r = x < 0 ? 0 : x;
    return {x <= 0 ? 0 : grad * (2 * scale * r), {grad * (r * r), grad}};
  }
};

}  // namespace
}  // namespace fastact
