// Shrinkage: small inputs become zero, or nearly so.
#pragma once

#include "activations/formula.h"

namespace fastact {
namespace {

template <class T>
struct Hardshrink : PassOrDrop<T> {
  T lambd;
  T forward(T x) const { return keep(x) ? x : T(0); }
  template <class X>
  auto keep(X x) const {
    return !(abs(x) <= lambd);
  }
};

// x minus its part between -lambd and lambd. Zeros are positive, as in torch's vector code, and a NaN stays NaN.
template <class T>
struct Softshrink : PassOrDrop<T> {
  T lambd;
  T forward(T x) const { return x - at_most(lambd, at_least(-lambd, x)); }
  template <class X>
  auto keep(X x) const {
    return !(abs(x) <= lambd);
  }
};

template <class T>
struct TanhshrinkConstants;

// fpminimax(((sqrt(x)-tanh(sqrt(x)))/(x*sqrt(x))-1/3)/x, n, [|SG or D...|], [1b-20;1], relative)
template <>
struct TanhshrinkConstants<float> {
  static constexpr float third = 0x1.555556p-2f;
  // n = 7: 6.6e-10 of x - tanh x
  static constexpr float polynomial[] = {-0x1.11111p-3,  0x1.ba1ae4p-5,  -0x1.663b84p-6,  0x1.217ac8p-7,
                                         -0x1.ca0018p-9, 0x1.4a44e4p-10, -0x1.6cfa9ap-12, 0x1.ab6fa2p-15};
};

template <>
struct TanhshrinkConstants<double> {
  static constexpr double third = 0x1.5555555555555p-2, third_low = 0x1.5555555555555p-56;
  // n = 15: 5.7e-18 of x - tanh x
  static constexpr double polynomial[] = {
      -0x1.1111111111111p-3,  0x1.ba1ba1ba1b98fp-5,  -0x1.664f4882bb2cp-6,   0x1.226e355cdcb64p-7,
      -0x1.d6d3d071e82b7p-9,  0x1.7da35ae390405p-10, -0x1.35579da903824p-11, 0x1.f572ffd79fd4fp-13,
      -0x1.9633459b1bf47p-14, 0x1.47f3d777528f5p-15, -0x1.0508c6b6ce372p-16, 0x1.8d450634e60dep-18,
      -0x1.0f544e1798c4dp-19, 0x1.2c1d72d89f22dp-21, -0x1.ca648940c5e4ep-24, 0x1.5e5ab75d43917p-27,
  };
};

// x - tanh x. The difference itself loses all precision for small x. For |x| < 1 it is computed as x^3 (1/3 + x^2
// Q(x^2)), and tanh x as x minus that. Otherwise tanh |x| = 1 - 2 / (e^2|x| + 1), where |x| - 1 is exact.
template <class T>
struct Tanhshrink : SavesInput {
  T forward(T x) const {
    T size = abs(x), above = copysign(size - 1 + one_less_tanh(size), x);
    return size < 1 ? below_1(x) : above;
  }
  // The table holds x^-3 f(x). x is scaled by 2^32, so that the cube's rounding error does not underflow.
  T from_lut8(T x, T ratio) const {
    auto cube = cubed(x * T(0x1p32));
    T near = fma(cube.high, ratio, cube.low * ratio) * T(0x1p-96) + 0;  // a difference is never -0
    return abs(x) > Lut8<Tanhshrink>::most ? x - copysign(T(1), x) : near;
  }
  T derivative(T x) const {
    using K = TanhshrinkConstants<T>;
    T square = x * x, ratio = square * fma(square, polynomial(square, K::polynomial), K::third);
    T size = abs(x), tanh = size < 1 ? fma(-ratio, x, x) : 1 - one_less_tanh(size);
    return tanh * tanh;
  }
  // The table holds x^-2 f'(x).
  T derivative_from_lut8(T x, T ratio) const {
    T size = abs(x);
    return size > Lut8<Derivative<Tanhshrink>>::most ? T(1) : size * size * ratio;
  }

 private:
  // Both factors have twice the precision, since a rounding error of either would be one of the result.
  static T below_1(T x) {
    using K = TanhshrinkConstants<T>;
    auto cube = cubed(x);
    T square = x * x, tail = fma(square, polynomial(square, K::polynomial), K::third_low);
    T factor = K::third + tail, factor_low = K::third - factor + tail;
    return fma(cube.high, factor, mad(cube.high, factor_low, cube.low * factor));
  }
  static DoubleFloat<T> cubed(T x) {
    T square = x * x, cube = square * x;
    return {cube, mad(two_prod_error(x, x, square), x, two_prod_error(square, x, cube))};
  }
  static T one_less_tanh(T size) {  // negligible beside 1 from 20 on
    return 2 * ExpConstants<T>::unit / logistic(-2 * at_most(T(20), size)).sum;
  }
};

}  // namespace
}  // namespace fastact
