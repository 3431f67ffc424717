"""Exponential units: csrc/exponentials.h in Triton. `p` holds the activation's parameters, as in the catalogue row."""

import triton
import triton.language as tl

from .vecmath import copysign, expm1


@triton.jit
def elu_forward(x, p):
    return tl.where(x <= 0, copysign(p[0] * expm1(x), x), x)


@triton.jit
def elu_derivative(y, p):
    return tl.where(y > 0, 1.0, y + p[0])
