"""Periodic activations: csrc/periodic.h in Triton. `w` holds the learned values, `p` the parameters of the catalogue
row."""

import triton
import triton.language as tl

from .math import product_error, reduced_angle, sine_squared, sine_squared_curve, sine_twice_curve


@triton.jit
def snake_forward(x, w, p):
    r, r_low, odd = reduced_angle(w[0], x, 0.0)
    high, low = sine_squared(r, r_low, odd)
    inverse = 1.0 / w[0]
    wave = high * inverse
    wave_low = (low - product_error(wave, w[0], high)) * inverse
    sum = x + wave
    return sum + (wave - (sum - x) + wave_low)


@triton.jit
def snake_derivative(x, w, p):
    r, r_low, odd = reduced_angle(w[0], x, 0.5)
    high, low = sine_squared(r, r_low, odd)
    return 2.0 * (high + low)


@triton.jit
def snake_grad_input(grad, x, w, p):
    return grad * snake_derivative(x, w, p)


@triton.jit
def snake_grad_alpha(grad, x, w, p):
    r, _, odd = reduced_angle(w[0], x, 0.0)
    square = r * r
    inverse = 1.0 / w[0]
    wave = r * inverse * (r * tl.fma(square, sine_squared_curve(square), tl.full((), 1.0, x.dtype)))
    slope = r * tl.fma(square, sine_twice_curve(square), tl.full((), 2.0, x.dtype))
    return grad * inverse * tl.fma(x, tl.where(odd, -slope, slope), tl.where(odd, wave - inverse, -wave))
