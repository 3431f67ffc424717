// What a formula is: a struct template over the type it computes in (float or double), whose data members are the
// activation's parameters in the order of its op's schema. The base class says what is saved for backward, and with it
// which functions the struct has:
//
//   SavesBits    forward(x)   keep(x): the bit   kept(grad), dropped(grad): the gradient where it is 1, and where 0
//   SavesOutput  forward(x)   derivative(y)
//   SavesInput   forward(x)   derivative(x)
//
// (A gradient rather than a factor: where ReLU drops it the result is 0, whatever it was; 0 times infinity is NaN.)
// A Random formula takes a uniform random number u from [0, 1) as well: forward(x, u), dropped(grad, u).
// Formulas know nothing of loops, and must be branch-free (selects only), so that a loop over them vectorises.
#pragma once

#include "vecmath.h"

namespace fastact {

struct SavesBits {};
struct SavesOutput {};
struct SavesInput {};
struct Random {};

}  // namespace fastact
