// Gated units: value * f(gate), where f is a formula of one variable.
#pragma once

#include "activations/formula.h"
#include "activations/rectifiers.h"
#include "activations/self_gated.h"

namespace fastact {
namespace {

struct GatedUnit : SavesInput {};

// f is a formula that saves a mask or its input. gradient(grad, gate) takes the gradient of f(gate).
template <class T, class Gate>
struct Gated : GatedUnit {
  static constexpr Gate f{};
  T gradient(T grad, T gate) const {
    if constexpr (std::is_base_of_v<SavesMask, Gate>)
      return f.keep(gate) ? f.kept(grad) : f.dropped(grad);
    else
      return grad * f.derivative(gate);
  }
};

template <class T>
struct Identity : SavesInput {
  T forward(T x) const { return x; }
  T derivative(T) const { return 1; }
};

template <class T>
using GLU = Gated<T, SigmoidGate<T>>;
template <class T>
using GEGLU = Gated<T, GELU<T>>;
template <class T>
using GEGLUTanh = Gated<T, GELUTanh<T>>;
template <class T>
using SwiGLU = Gated<T, SiLU<T>>;
template <class T>
using ReGLU = Gated<T, ReLU<T>>;
template <class T>
using Bilinear = Gated<T, Identity<T>>;

}  // namespace
}  // namespace fastact
