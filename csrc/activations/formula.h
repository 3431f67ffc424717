// What a formula is: a struct template over the type it computes in (float or double), whose data members are the
// scalars and weights that spec/ops.h names. The base class says what is saved for backward, and with it
// which functions the struct has:
//
//   SavesMask    forward(x)   keep(x): the bit   kept(grad), dropped(grad): the gradient where it is 1, and where 0
//   SavesOutput  forward(x)   derivative(y)
//   SavesInput   forward(x)   derivative(x)
//
// (A gradient rather than a factor: where ReLU drops it the result is 0, whatever it was; 0 times infinity is NaN. For
// the same reason a formula may have gradient(grad, saved) in place of derivative(saved).)
// A Random formula takes a uniform random number u from [0, 1) as well: forward(x, u), dropped(grad, u).
// A Channelwise formula has members that are weights; `with_gradients(grad, x)` gives the gradients of the input and,
// before they are summed, of the weights.
// A formula may have positive(x), which serves where no number around is negative.
// A formula with `specialised(body)` calls body with the cheapest formula for its parameters; loops take that one.
// In float, values come from a table where tables.h has one, and the formula makes of them what it wants (pieces.h).
// 16-bit types take a shorter formula where narrow.h has one. Formulas know nothing of loops, and must be branch-free
// (selects only), so that a loop over them vectorises.
#pragma once

#include "math/vecmath.h"

namespace fastact {

// The table of a formula, or none.
template <class Formula>
struct Pieces {};

// A formula's derivative as a formula, which may have a table of its own.
template <class Formula>
struct Derivative {
  Formula formula;
  float from_pieces(float x, float value) const { return formula.derivative_from_pieces(x, value); }
  float beyond_pieces(float x) const { return formula.derivative_beyond_pieces(x); }
};

template <class Base, class Derived>
constexpr bool derives = __is_base_of(Base, Derived);

struct SavesMask {};
// The gradient passes or does not: bits are all that has to be known of it.
template <class T>
struct PassOrDrop : SavesMask {
  T kept(T grad) const { return grad; }
  T dropped(T) const { return 0; }
};
struct SavesOutput {};
struct SavesInput {};
struct Random {};
// Some members are weights, one number for all elements or one for each channel.
struct Channelwise : SavesInput {};
// Of the input and of each of the K weights, in the order of the op's schema.
template <class T, int K>
struct Gradients {
  T input, weights[K];
};

}  // namespace fastact
