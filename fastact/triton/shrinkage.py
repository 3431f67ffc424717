"""Shrinkage: csrc/shrinkage.h in Triton. `p` holds the activation's parameters, as in the catalogue row."""

import triton
import triton.language as tl

from .math import copysign, divide, expm1_in_range, hexes, polynomial, product_error, scalar

_TANHSHRINK_FLOAT32 = hexes(
    "-0x1.11111p-3 0x1.ba1ae4p-5 -0x1.663b84p-6 0x1.217ac8p-7 -0x1.ca0018p-9 0x1.4a44e4p-10 -0x1.6cfa9ap-12 "
    "0x1.ab6fa2p-15"
)
_TANHSHRINK_FLOAT64 = hexes(
    "-0x1.1111111111111p-3 0x1.ba1ba1ba1b98fp-5 -0x1.664f4882bb2cp-6 0x1.226e355cdcb64p-7 -0x1.d6d3d071e82b7p-9 "
    "0x1.7da35ae390405p-10 -0x1.35579da903824p-11 0x1.f572ffd79fd4fp-13 -0x1.9633459b1bf47p-14 0x1.47f3d777528f5p-15 "
    "-0x1.0508c6b6ce372p-16 0x1.8d450634e60dep-18 -0x1.0f544e1798c4dp-19 0x1.2c1d72d89f22dp-21 -0x1.ca648940c5e4ep-24 "
    "0x1.5e5ab75d43917p-27"
)
_THIRD_FLOAT32 = hexes("0x1.555556p-2 -0x1.555556p-27")  # high and low
_THIRD_FLOAT64 = hexes("0x1.5555555555555p-2 0x1.5555555555555p-56")


@triton.jit
def hardshrink_forward(x, p):
    return tl.where(hardshrink_keep(x, p), x, 0.0)


@triton.jit
def hardshrink_keep(x, p):
    return ((x >= -p[0]) & (x <= p[0])) == 0


@triton.jit
def hardshrink_dropped(grad, p):
    return tl.zeros_like(grad)


@triton.jit
def softshrink_forward(x, p):
    return tl.where(x > p[0], x - p[0], tl.where(x < -p[0], x + p[0], tl.abs(x * 0.0)))


@triton.jit
def softshrink_keep(x, p):
    return hardshrink_keep(x, p)


@triton.jit
def softshrink_dropped(grad, p):
    return tl.zeros_like(grad)


@triton.jit
def _tanhshrink_below_1(x):
    square = x * x
    cube = square * x
    cube_low = tl.fma(product_error(x, x, square), x, product_error(square, x, cube))
    if x.dtype == tl.float64:
        third = scalar(_THIRD_FLOAT64[0], x)
        tail = tl.fma(square, polynomial(square, _TANHSHRINK_FLOAT64, 15), scalar(_THIRD_FLOAT64[1], x))
    else:
        third = scalar(_THIRD_FLOAT32[0], x)
        tail = tl.fma(square, polynomial(square, _TANHSHRINK_FLOAT32, 7), scalar(_THIRD_FLOAT32[1], x))
    factor = third + tail
    factor_low = third - factor + tail
    return tl.fma(cube, factor, tl.fma(cube, factor_low, cube_low * factor))


@triton.jit
def _tanh_below_1(x):
    square = x * x
    if x.dtype == tl.float64:
        third = tl.fma(square, polynomial(square, _TANHSHRINK_FLOAT64, 15), scalar(_THIRD_FLOAT64[0], x))
    else:
        third = tl.fma(square, polynomial(square, _TANHSHRINK_FLOAT32, 7), scalar(_THIRD_FLOAT32[0], x))
    return tl.fma(-(square * third), x, x)


@triton.jit
def _one_less_tanh(size):
    t = expm1_in_range(2.0 * tl.where(size > 20.0, 20.0, size))
    sum = t + 2.0
    return divide(tl.full((), 2.0, size.dtype), sum, t - (sum - 2.0))


@triton.jit
def tanhshrink_forward(x, p):
    size = tl.abs(x)
    above = copysign(size - 1.0 + _one_less_tanh(size), x)
    return tl.where(size < 1.0, _tanhshrink_below_1(x), above)


@triton.jit
def tanhshrink_derivative(x, p):
    size = tl.abs(x)
    tanh = tl.where(size < 1.0, _tanh_below_1(x), 1.0 - _one_less_tanh(size))
    return tanh * tanh
