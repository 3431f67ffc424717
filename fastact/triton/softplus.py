"""Softplus and its mirror image: csrc/softplus.h in Triton. `p` holds the activation's parameters, as in the catalogue
row."""

import triton
import triton.language as tl

from .math import (
    LEAST,
    MOST,
    UNIT,
    at_most,
    by_type,
    clamp,
    expm1,
    highest_exponent,
    log1p_rest,
    product_error,
    scaled_exp_of_minus,
    scaled_sigmoid,
    unscaled,
)

_LIFT = tl.constexpr((2.0**64, 2.0**512))  # of a scaled exponential in float32 and in float64


@triton.jit
def _scaled_log1p(lifted, m):
    """log(1 + e) of a scaled exponential, as another."""
    return 0.75 * lifted, tl.fma(log1p_rest(unscaled(lifted, m)), 1.0 + m, m)


@triton.jit
def softplus_forward(x, p):
    z = p[0] * x
    size = at_most(highest_exponent(x), tl.abs(z))
    z_low = product_error(p[0], x, z)
    size_low = tl.where(size == tl.abs(z), tl.where(z < 0, -z_low, z_low), 0.0)
    lifted, m = scaled_exp_of_minus(size, size_low)
    high, m = _scaled_log1p(lifted, m)
    low = high * m
    # The inverse is finite for any beta.
    lift = tl.where(tl.abs(p[0]) < 2.0**-32, by_type(_LIFT, p[0]), 1.0)
    divisor = p[0] * lift
    inverse = 1.0 / divisor
    sum = high + low
    quotient = sum * inverse
    rest = high - sum + low - product_error(quotient, divisor, sum)
    scale = lift / by_type(_LIFT, lift)
    line = tl.where(z > 0, x, p[0] * 0.0)  # the sign of the zero is beta's
    y = tl.fma(scale, quotient, tl.fma(scale * inverse, rest, line))
    return tl.where(z > p[1], x, y)


@triton.jit
def softplus_derivative(x, p):
    z = p[0] * x
    t = clamp(z, LEAST, MOST)
    t_low = tl.where(t == z, product_error(p[0], x, z), 0.0)
    return tl.where(z > p[1], 1.0, by_type(UNIT, x) * scaled_sigmoid(t, t_low))


@triton.jit
def logsigmoid_forward(x, p):
    lifted, m = scaled_exp_of_minus(at_most(highest_exponent(x), tl.abs(x)))
    high, m = _scaled_log1p(lifted, m)
    scale = high * (-1.0 / by_type(_LIFT, x))
    return tl.fma(scale, m, at_most(0.0, x)) + scale


@triton.jit
def logsigmoid_derivative(y, p):
    return 0.0 - expm1(y)
