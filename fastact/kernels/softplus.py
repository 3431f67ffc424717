"""Softplus and its mirror image: csrc/softplus.h in Triton. `p` holds the activation's parameters, as in the catalogue
row."""

import triton
import triton.language as tl

from .vecmath import divide, exp_parts, expm1, from_exponent, log1p_parts, product_error, scalar

_LN2 = tl.constexpr(float.fromhex("0x1.62e42fefa39efp-1"))


@triton.jit
def _small_exp(z):
    """e^z = outer * inner (1 + m) for z <= 0: outer, inner, m."""
    if z.dtype == tl.float64:
        biased, m = exp_parts(tl.where(z < -1418.0, -1418.0, z), 2 * 1023)
    else:
        biased, m = exp_parts(tl.where(z < -176.0, -176.0, z), 2 * 127)
    half = biased >> 1
    return from_exponent(biased - half, z), from_exponent(half, z), m


@triton.jit
def _exp_of_minus_abs_product(x, beta):
    factor, size = -tl.abs(beta), tl.abs(x)
    z = factor * size
    outer, inner, m = _small_exp(z)
    z_low = tl.where(z > -2048.0, product_error(factor, size, z), 0.0)
    return outer, inner, tl.fma(z_low, 1.0 + m, m)


@triton.jit
def _log1p_over_outer(outer, inner, m):
    """log(1 + e^z) / outer in twice the precision: high, low."""
    f, ratio, upper = log1p_parts(outer * tl.fma(inner, m, inner))
    high = tl.where(upper, scalar(_LN2, m), inner)
    return high, tl.where(upper, tl.fma(f, ratio, f), inner * tl.fma(ratio, 1.0 + m, m))


@triton.jit
def softplus_forward(x, p):
    outer, inner, m = _exp_of_minus_abs_product(x, p[0])
    high, low = _log1p_over_outer(outer, inner, m)
    lift = tl.where(tl.abs(p[0]) < 2.0**-64, scalar(2.0**64, p[0]), 1.0)
    divisor = p[0] * lift
    inverse = 1.0 / divisor
    sum = high + low
    quotient = sum * inverse
    quotient = tl.fma(high - sum + low - product_error(quotient, divisor, sum), inverse, quotient)
    z = p[0] * x
    y = tl.fma(outer * lift, quotient, tl.where(z > 0, x, p[0] * 0.0))
    return tl.where(z > p[1], x, y)


@triton.jit
def softplus_derivative(x, p):
    outer, inner, m = _exp_of_minus_abs_product(x, p[0])
    e = outer * tl.fma(inner, m, inner)
    sum = 1.0 + e
    z = p[0] * x
    sigmoid = divide(tl.where(z < 0, e, 1.0), sum, e - (sum - 1.0))
    return tl.where(z > p[1], 1.0, sigmoid)


@triton.jit
def logsigmoid_forward(x, p):
    outer, inner, m = _small_exp(-tl.abs(x))
    high, low = _log1p_over_outer(outer, inner, m)
    return tl.fma(-outer, high + low, tl.where(x > 0, 0.0, x))


@triton.jit
def logsigmoid_derivative(y, p):
    return 0.0 - expm1(y)
