"""Sigmoids: csrc/sigmoids.h in Triton. `p` holds the activation's parameters, as in the catalogue row."""

import triton
import triton.language as tl

from .vecmath import copysign, exp_below_overflow, expm1


@triton.jit
def sigmoid_forward(x, p):
    e = exp_below_overflow(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def sigmoid_derivative(y, p):
    return tl.fma(-y, y, y)


@triton.jit
def tanh_forward(x, p):
    magnitude = tl.abs(x)
    t = expm1(2.0 * tl.where(magnitude > 20.0, 20.0, magnitude))
    return copysign(t / (t + 2.0), x)


@triton.jit
def tanh_derivative(y, p):
    return tl.fma(-y, y, tl.full((), 1.0, y.dtype))


@triton.jit
def softsign_forward(x, p):
    return x / (1.0 + tl.abs(x))


@triton.jit
def softsign_derivative(x, p):
    r = 1.0 / (1.0 + tl.abs(x))
    return r * r
