"""Gated units, value * f(gate): csrc/activations/gated.h in Triton."""

import triton
import triton.language as tl

from .rectifiers import relu_forward, relu_keep

GATES = {
    "glu": ("self_gated", "sigmoid_gate"),
    "geglu": ("self_gated", "gelu"),
    "geglu_tanh": ("self_gated", "gelu_tanh"),
    "swiglu": ("self_gated", "silu"),
    "reglu": ("rectifiers", "relu"),
    "bilinear": ("gated", "identity"),
}
"""The family and the name of f, whose derivative units with a backward formula of their own do not take."""


@triton.jit
def reglu_backward(grad, value, gate):
    product = grad * value
    return grad * relu_forward(gate, ()), tl.where(relu_keep(gate, ()), product, tl.zeros_like(product))


@triton.jit
def identity_forward(x, p):
    return x


@triton.jit
def bilinear_backward(grad, value, gate):
    return grad * gate, grad * value
