"""Sigmoids: csrc/sigmoids.h in Triton. `p` holds the activation's parameters, as in the catalogue row."""

import triton
import triton.language as tl

from .math import (
    LEAST,
    MOST,
    UNIT,
    at_most,
    by_type,
    clamp,
    copysign,
    divide,
    expm1_in_range,
    reciprocal,
    scalar,
    scaled_sigmoid,
)


@triton.jit
def sigmoid_forward(x, p):
    return by_type(UNIT, x) * scaled_sigmoid(clamp(x, LEAST, MOST))


@triton.jit
def sigmoid_derivative(y, p):
    return tl.fma(-y, y, y)


@triton.jit
def tanh_forward(x, p):
    t = expm1_in_range(2.0 * at_most(20.0, tl.abs(x)))
    sum = t + 2.0
    return copysign(divide(t, sum, t - (sum - 2.0)), x)


@triton.jit
def tanh_derivative(y, p):
    return tl.fma(-y, y, tl.full((), 1.0, y.dtype))


@triton.jit
def softsign_forward(x, p):
    return x / (1.0 + tl.abs(x))


@triton.jit
def softsign_derivative(x, p):
    r = reciprocal(1.0 + tl.abs(x))  # to one ULP, which a square doubles; a division has two
    return r * r


@triton.jit
def hardsigmoid_forward(x, p):
    shifted = x + 3.0
    return tl.where(shifted < 0.0, 0.0, tl.where(shifted > 6.0, 6.0, shifted)) * scalar(1 / 6, x)


@triton.jit
def hardsigmoid_keep(x, p):
    return (x > -3.0) & (x < 3.0)


@triton.jit
def hardsigmoid_kept(grad, p):
    return grad * scalar(1 / 6, grad)


@triton.jit
def hardsigmoid_dropped(grad, p):
    return tl.zeros_like(grad)
