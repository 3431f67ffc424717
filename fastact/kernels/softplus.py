"""Softplus and its mirror image: csrc/softplus.h in Triton. `p` holds the activation's parameters, as in the catalogue
row."""

import triton
import triton.language as tl

from .vecmath import (
    LEAST,
    MOST,
    UNIT,
    at_most,
    by_type,
    clamp,
    expm1,
    highest_exponent,
    log1p_parts,
    product_error,
    scalar,
    scaled_exp_of_minus,
    scaled_sigmoid,
    unscaled,
)

_LN2 = tl.constexpr(float.fromhex("0x1.62e42fefa39efp-1"))
_LIFT = tl.constexpr((2.0**64, 2.0**512))  # of a scaled exponential in float32 and in float64


@triton.jit
def _lifted_log1p(lifted, m):
    """log(1 + e^-x) 2^lift in two parts: high, low. All of it but a power of two or ln 2 is small."""
    f, ratio, upper = log1p_parts(unscaled(lifted, m))
    scale = by_type(_LIFT, m)
    lower = lifted * tl.fma(ratio, 1.0 + m, m)
    return tl.where(upper, scale * scalar(_LN2, m), lifted), tl.where(upper, scale * tl.fma(f, ratio, f), lower)


@triton.jit
def softplus_forward(x, p):
    z = p[0] * x
    size = at_most(highest_exponent(x), tl.abs(z))
    z_low = product_error(p[0], x, z)
    size_low = tl.where(size == tl.abs(z), tl.where(z < 0, -z_low, z_low), 0.0)
    lifted, m = scaled_exp_of_minus(size, size_low)
    high, low = _lifted_log1p(lifted, m)
    # The inverse is finite for any beta.
    lift = tl.where(tl.abs(p[0]) < 2.0**-32, by_type(_LIFT, p[0]), 1.0)
    divisor = p[0] * lift
    inverse = 1.0 / divisor
    sum = high + low
    quotient = sum * inverse
    quotient = tl.fma(high - sum + low - product_error(quotient, divisor, sum), inverse, quotient)
    y = tl.fma(lift / by_type(_LIFT, lift), quotient, tl.where(z > 0, x, p[0] * 0.0))
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
    high, low = _lifted_log1p(lifted, m)
    return tl.fma(-1.0 / by_type(_LIFT, x), high + low, at_most(0.0, x))


@triton.jit
def logsigmoid_derivative(y, p):
    return 0.0 - expm1(y)
