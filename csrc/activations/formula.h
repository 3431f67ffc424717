// A formula is a struct template over the type it computes in, float or double. Its data members are the scalars and
// weights that spec/ops.h names. Its base class says what is saved for backward, and which functions it has:
//
//   SavesMask    forward(x)   keep(x): the bit   kept(grad), dropped(grad): the gradient where the bit is 1, and where
//   0 SavesOutput  forward(x)   derivative(y) SavesInput   forward(x)   derivative(x)
//
// (kept and dropped give gradients rather than factors: where ReLU drops a gradient, even an infinite one, the result
// is 0, but 0 times infinity is NaN. For the same reason a formula may have gradient(grad, saved) instead of
// derivative(saved).)
// A Random formula also takes a uniform random number u from [0, 1): forward(x, u), dropped(grad, u).
// A Channelwise formula has weights among its members; with_gradients(grad, x) returns the gradient of the input and
// each weight's term of the sum that is its gradient.
// positive(x), if there is one, may replace forward(x) where no number of a step is negative.
// specialised(body), if there is one, calls body with the cheapest formula for these scalars.
// In float, a formula with a table (activations/lut8_tables.h) is evaluated from it (math/lut8.h). 16-bit types use a
// cheaper formula where activations/lowp.h has one. Formulas know nothing of loops and have selects, not branches, so
// that loops over them vectorise.
#pragma once

#include "math/exp.h"
#include "math/lut8.h"

namespace fastact {

// The derivative of a formula, as a formula that may have a table of its own.
template <class Formula>
struct Derivative {
  Formula formula;
  float from_lut8(float x, float value) const { return formula.derivative_from_lut8(x, value); }
  float outside_lut8(float x) const { return formula.derivative_outside_lut8(x); }
};

template <class Base, class Derived>
constexpr bool derives = __is_base_of(Base, Derived);

struct SavesMask {};
// The gradient passes unchanged or becomes 0.
template <class T>
struct PassOrDrop : SavesMask {
  T kept(T grad) const { return grad; }
  T dropped(T) const { return 0; }
};
struct SavesOutput {};
struct SavesInput {};
struct Random {};
// Some data members are weights: one number for all elements, or one for each channel.
struct Channelwise : SavesInput {};
// The gradient of the input, and each weight's term, in the order of the op's schema.
template <class T, int K>
struct Gradients {
  T input, weights[K];
};

}  // namespace fastact
