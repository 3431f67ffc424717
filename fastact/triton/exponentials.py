"""Exponential units: csrc/exponentials.h in Triton. `p` holds the activation's parameters, as in the catalogue row, `w`
the learned values."""

import triton
import triton.language as tl

from .math import (
    EXPM1_LOWEST,
    LARGEST_NUMBER,
    at_least,
    at_most,
    by_type,
    copysign,
    corrected_inverse,
    expm1,
    expm1_minus_x,
    from_exponent,
    hexes,
    product_error,
    reduce,
    scalar,
    small_expm1,
)


@triton.jit
def elu_forward(x, p):
    return tl.where(x <= 0, copysign(p[0] * expm1(x), x), x)


@triton.jit
def elu_derivative(y, p):
    return tl.where(y > 0, 1.0, y + p[0])


SELU_SCALE = tl.constexpr(1.0507009873554804934193349852946)
SELU_SCALE_ALPHA = tl.constexpr(1.0507009873554804934193349852946 * 1.6732632423543772848170429916717)


# In two parts, the second positive: times the float above it the largest numbers would overflow too early.
SELU_SCALE_HIGH = hexes("0x1.0cfabcp0 0x1.0cfabd6a91132p0")
SELU_SCALE_LOW = hexes("0x1.6a9114p-24 0x1.6fc7d272f2695p-55")


@triton.jit
def selu_forward(x, p):
    scaled = tl.fma(x, by_type(SELU_SCALE_HIGH, x), x * by_type(SELU_SCALE_LOW, x))
    return tl.where(x <= 0, copysign(scalar(SELU_SCALE_ALPHA, x) * expm1(x), x), scaled)


@triton.jit
def selu_derivative(y, p):
    return tl.where(y > 0, scalar(SELU_SCALE, y), y + scalar(SELU_SCALE_ALPHA, y))


@triton.jit
def celu_forward(x, p):
    v = x / p[0]
    e = expm1(v)
    rest = tl.where(v > by_type(EXPM1_LOWEST, v), -product_error(v, p[0], x), 0.0)
    return tl.where(x <= 0, copysign(tl.fma(p[0] + tl.zeros_like(e), e, rest * (e + 1.0)), x), x)


@triton.jit
def celu_derivative(y, p):
    return tl.where(y > 0, 1.0, y * corrected_inverse(p[0]) + 1.0)


@triton.jit
def xielu_forward(x, w, p):
    high, low = expm1_minus_x(x)
    slope = w[0] * x
    factor = tl.where(x > 0, slope, w[1])
    bent = tl.where(x > 0, x, high)
    product = factor * bent
    # Rounding may make the product infinite where the sum is not: 3.3678991e19 with an alpha_p of 0.3.
    curve = at_most(by_type(LARGEST_NUMBER, x), product)
    line = p[0] * x
    low = tl.where(x > 0, product_error(w[0], x, slope) * x, w[1] * low)
    low += product_error(factor, bent, curve) + product_error(p[0], x, line)
    return tl.where(low - low == 0, curve + line + low, product + line)


@triton.jit
def xielu_derivative(x, w, p):
    # -1 in twice the precision is reached at twice the argument
    bounded = at_least(2.0 * by_type(EXPM1_LOWEST, x), x)
    if x.dtype == tl.float64:
        biased, r = reduce(bounded, 1023)
    else:
        biased, r = reduce(bounded, 127)
    scale = from_exponent(biased, x)
    m = small_expm1(r)
    below = scale - 1.0
    expm1 = tl.fma(scale, m, below)
    curve = w[1] * expm1
    expm1_low = tl.fma(scale, m, below - expm1) + (scale - (below + 1.0))
    low = tl.fma(w[1], expm1_low, product_error(w[1], expm1, curve))
    return tl.where(x > 0, tl.fma(2.0 * w[0], x, p[0]), curve + p[0] + low)


@triton.jit
def xielu_grad_input(grad, x, w, p):
    return grad * xielu_derivative(x, w, p)


@triton.jit
def xielu_grad_alpha_p(grad, x, w, p):
    return tl.where(x > 0, grad * (x * x), 0.0)


@triton.jit
def xielu_grad_alpha_n(grad, x, w, p):
    return tl.where(x > 0, 0.0, grad * expm1_minus_x(x)[0])
