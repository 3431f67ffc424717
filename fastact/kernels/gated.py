"""Gated units: csrc/gated.h in Triton."""

import triton
import triton.language as tl

from .rectifiers import relu_forward, relu_keep
from .self_gated import (
    gelu_derivative,
    gelu_forward,
    gelu_tanh_derivative,
    gelu_tanh_forward,
    sigmoid_gate_derivative,
    sigmoid_gate_forward,
    silu_derivative,
    silu_forward,
)


@triton.jit
def glu_forward(value, gate):
    return value * sigmoid_gate_forward(gate, ())


@triton.jit
def glu_backward(grad, value, gate):
    return grad * sigmoid_gate_forward(gate, ()), grad * value * sigmoid_gate_derivative(gate, ())


@triton.jit
def geglu_forward(value, gate):
    return value * gelu_forward(gate, ())


@triton.jit
def geglu_backward(grad, value, gate):
    return grad * gelu_forward(gate, ()), grad * value * gelu_derivative(gate, ())


@triton.jit
def geglu_tanh_forward(value, gate):
    return value * gelu_tanh_forward(gate, ())


@triton.jit
def geglu_tanh_backward(grad, value, gate):
    return grad * gelu_tanh_forward(gate, ()), grad * value * gelu_tanh_derivative(gate, ())


@triton.jit
def swiglu_forward(value, gate):
    return value * silu_forward(gate, ())


@triton.jit
def swiglu_backward(grad, value, gate):
    return grad * silu_forward(gate, ()), grad * value * silu_derivative(gate, ())


@triton.jit
def reglu_forward(value, gate):
    return value * relu_forward(gate, ())


@triton.jit
def reglu_backward(grad, value, gate):
    product = grad * value
    return grad * relu_forward(gate, ()), tl.where(relu_keep(gate, ()), product, tl.zeros_like(product))


@triton.jit
def bilinear_forward(value, gate):
    return value * gate


@triton.jit
def bilinear_backward(grad, value, gate):
    return grad * gate, grad * value
