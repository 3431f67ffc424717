// Exponential units: the identity for positive inputs, a saturating exponential below.
#pragma once

#include "formula.h"

namespace fastact {
namespace {

// alpha >= 0 (and -0 stays -0), so the sign of the output is the sign of the input and the derivative can be read off
// it: y + alpha.
template <class T>
struct ELU : SavesOutput {
  T alpha;
  T forward(T x) const { return x <= 0 ? copysign(alpha * expm1(x), x) : x; }
  T derivative(T y) const { return y > 0 ? T(1) : y + alpha; }
};

}  // namespace
}  // namespace fastact
