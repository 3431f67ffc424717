"""Shorter formulas for float16 and bfloat16, which launches take in place of the families' where there is one. `p` and
`w` are as there.

Before it is rounded, a 16-bit result within 0.51 ULP is known to 18 digits. These formulas compute some 20, in float32,
with the GPU's approximate exponential and reciprocal. One of the tests of accuracy makes those as wrong as they may be.
They flush to zero what is below 2^-126, where bfloat16 still has numbers: exponentials carry a factor of 2^16 until the
end. Polynomials are those with the least relative error, their coefficients rounded to float32.
"""

import math

import triton
import triton.language as tl

from .exponentials import SELU_SCALE, SELU_SCALE_ALPHA
from .math import LOG2_E, at_least, at_most, constant, exp2, expm1_in_range, hexes, polynomial, reciprocal

_LIFT = tl.constexpr(16.0)
_LOWERED = tl.constexpr(2.0**-16)


@triton.jit
def _lifted_exp(v, scale: tl.constexpr = 1.0):
    """2^16 e^(scale v)"""
    return exp2(tl.fma(v, scale * LOG2_E, _LIFT))


@triton.jit
def _sigmoid(v, scale: tl.constexpr = 1.0):
    """sigma(scale v). The exponential may overflow, and only the result become subnormal."""
    return reciprocal(exp2(tl.fma(v, -scale * LOG2_E, -_LIFT)) + _LOWERED) * _LOWERED


@triton.jit
def sigmoid_forward(x, p):
    return _sigmoid(x)


sigmoid_gate_forward = sigmoid_forward


# (tanh(r) / r - 1) / r^2 of x = r^2, up to 0.04
_TANH = hexes("-0x1.55528cp-2 0x1.0cb51ap-3")


@triton.jit
def _tanh(x):
    square = x * x
    near = x * tl.fma(square, polynomial(square, _TANH, 1), 1.0)
    far = tl.fma(reciprocal(exp2(x * (2.0 * LOG2_E)) + 1.0), -2.0, 1.0)
    return tl.where(tl.abs(x) < 0.2, near, far)


@triton.jit
def tanh_forward(x, p):
    return _tanh(x)


# (r - tanh(r)) / r^3 of x = r^2, up to 1
_TANHSHRINK = hexes("0x1.555544p-2 -0x1.1107c6p-3 0x1.b85ce8p-5 -0x1.56803p-6 0x1.bc2748p-8 -0x1.44fbcap-10")


@triton.jit
def tanhshrink_forward(x, p):
    square = x * x
    near = tl.fma(square * x, polynomial(square, _TANHSHRINK, 5), 0.0)
    far = tl.fma(reciprocal(exp2(x * (2.0 * LOG2_E)) + 1.0), 2.0, x - 1.0)
    return tl.where(tl.abs(x) < 1.0, near, far)


@triton.jit
def tanhshrink_derivative(x, p):
    tanh = _tanh(x)
    return tanh * tanh


# Where self-gated units vanish in 16 bits; -infinity times 0 would be NaN.
_VANISHES = tl.constexpr(-128.0)


@triton.jit
def silu_forward(x, p):
    return at_least(_VANISHES, x) * _sigmoid(x)


@triton.jit
def quick_gelu_forward(x, p):
    return at_least(_VANISHES, x) * _sigmoid(x, 1.702)


_LINEAR = tl.constexpr(2.0 * math.sqrt(2.0 / math.pi))
_CUBIC = tl.constexpr(0.044715 * 2.0 * math.sqrt(2.0 / math.pi))


@triton.jit
def gelu_tanh_forward(x, p):
    return at_least(_VANISHES, x) * _sigmoid(x * tl.fma(x * x, _CUBIC, _LINEAR))


@triton.jit
def _sigmoid_gated_derivative(v, factor, scale: tl.constexpr = 1.0):
    """sigma(scale v) (1 + x v' sigma(-scale v)), given 1 + x v'."""
    lifted = _lifted_exp(v, scale)
    e = lifted * _LOWERED
    inverse = reciprocal(1.0 + e)
    return (e + factor) * inverse * (lifted * inverse) * _LOWERED


# Where derivatives are 0, and derivative / distance of the distance from there
_NEAR = tl.constexpr(0.08)
_SILU_ZERO = constant(-1.2784645427610738, 0.0)
_SILU_SLOPES = hexes("0x1.be1414p-3 0x1.2c562ap-3 0x1.348d8cp-6 -0x1.f24f5cp-7")
_QUICK_GELU_ZERO = constant(-0.75115425544128895, 0.0)
_QUICK_GELU_SLOPES = hexes("0x1.7b9cfap-2 0x1.b301aep-2 0x1.7ab4c6p-4 -0x1.04d83ap-3")
_GELU_TANH_ZERO = constant(-0.75246142207101626, 0.0)
_GELU_TANH_SLOPES = hexes("0x1.b8bad2p-2 0x1.8cd178p-2 -0x1.04528cp-6 -0x1.d1bf72p-4")
_MISH_ZERO = constant(-1.1924312145154952, 0.0)
_MISH_SLOPES = hexes("0x1.115adp-2 0x1.a34a16p-3 0x1.567adep-5 -0x1.4c0692p-6")


@triton.jit
def _crossing(x, derivative, zero: tl.constexpr, slopes: tl.constexpr):
    """The derivative; near where it is 0, and its terms cancel, the distance times a polynomial in that."""
    distance = x - zero[0] - zero[1]
    return tl.where(tl.abs(distance) < _NEAR, distance * polynomial(distance, slopes, 3), derivative)


@triton.jit
def silu_derivative(x, p):
    t = at_most(40.0, at_least(-112.0, x))
    return _crossing(x, _sigmoid_gated_derivative(t, 1.0 + t), _SILU_ZERO, _SILU_SLOPES)


@triton.jit
def quick_gelu_derivative(x, p):
    t = at_most(24.0, at_least(-66.0, x))
    derivative = _sigmoid_gated_derivative(t, tl.fma(t, 1.702, 1.0), 1.702)
    return _crossing(x, derivative, _QUICK_GELU_ZERO, _QUICK_GELU_SLOPES)


@triton.jit
def gelu_tanh_derivative(x, p):
    t = at_most(7.4, at_least(-11.0, x))
    square = t * t
    factor = tl.fma(t, tl.fma(square, 3.0 * _CUBIC, _LINEAR), 1.0)
    derivative = _sigmoid_gated_derivative(t * tl.fma(square, _CUBIC, _LINEAR), factor)
    return _crossing(x, derivative, _GELU_TANH_ZERO, _GELU_TANH_SLOPES)


_TAIL_SHIFT = tl.constexpr(2.75)
# e^(t^2 / 2) Phi(-t) / r of r = 1 / (t + 2.75), for t up to 13.5
_TAIL = hexes("0x1.98bap-2 0x1.15e298p0 0x1.711218p1 0x1.d81fdcp0 0x1.ad84c4p4 -0x1.34985ep6 0x1.c9d9fep5")
# e^(t^2 / 2) (Phi(-t) - t phi(t)) / (zero - t) of the same
_SLOPE_OF_TAIL = hexes(
    "0x1.9896d6p-2 0x1.2f914ep-2 0x1.705ac8p-1 0x1.f98d56p-2 0x1.56ebcep2 -0x1.53c2e2p3 0x1.6dbaf6p2"
)
_ZERO = hexes("0x1.80ead2p-1 -0x1.a03fd4p-27")


@triton.jit
def _gaussian(x):
    """2^16 e^(-x^2 / 2) and the polynomials' argument."""
    return _lifted_exp(x * x, -0.5), reciprocal(tl.abs(x) + _TAIL_SHIFT)


@triton.jit
def gelu_forward(x, p):
    lifted, r = _gaussian(x)
    left = lifted * (r * polynomial(r, _TAIL, 6)) * _LOWERED
    return at_least(_VANISHES, x) * tl.where(x < 0, left, 1.0 - left)


@triton.jit
def gelu_derivative(x, p):
    """Phi(x) + x phi(x), which is 1 less the same at -x, and near where that is 0 the distance times something."""
    lifted, r = _gaussian(x)
    distance = _ZERO[0] - at_most(16.0, tl.abs(x)) + _ZERO[1]
    left = lifted * (distance * polynomial(r, _SLOPE_OF_TAIL, 6)) * _LOWERED
    return tl.where(x < 0, left, 1.0 - left)


@triton.jit
def _mish_parts(x):
    """x or, far from zero, a bound; 2^16 e^x, e^x, 1 / (e^x (e^x + 2) + 2)."""
    t = at_most(20.0, x)
    lifted = _lifted_exp(t)
    e = lifted * _LOWERED
    return t, lifted, e, reciprocal(tl.fma(e, e + 2.0, 2.0))


@triton.jit
def mish_forward(x, p):
    _, lifted, e, inverse = _mish_parts(x)
    return at_least(_VANISHES, x) * (lifted * (e + 2.0) * inverse * _LOWERED)


@triton.jit
def mish_derivative(x, p):
    """e^x ((e^x + 2) (n + 2) + 4 x (e^x + 1)) / (n + 2)^2, where n = e^x (e^x + 2)."""
    t, lifted, e, inverse = _mish_parts(at_least(-128.0, x))
    numerator = tl.fma(e, tl.fma(e, e + 4.0, tl.fma(t, 4.0, 6.0)), tl.fma(t, 4.0, 4.0))
    derivative = (numerator * inverse) * (lifted * inverse) * _LOWERED
    return _crossing(x, derivative, _MISH_ZERO, _MISH_SLOPES)


# log(1 + x) / x, up to 1
_LOG1P = hexes("0x1.ffffd6p-1 -0x1.ffddd4p-2 0x1.530a7p-2 -0x1.e15becp-3 0x1.319c4ap-3 -0x1.0ffb56p-4 0x1.cf5f82p-7")


@triton.jit
def _lifted_log1p_exp(x):
    """2^64 log(1 + e^-|x|), for what a small beta makes of it."""
    lifted = exp2(tl.fma(tl.abs(x), -LOG2_E, 64.0))
    return lifted * polynomial(lifted * 2.0**-64, _LOG1P, 6)


@triton.jit
def softplus_forward(x, p):
    z = p[0] * x
    y = tl.fma(_lifted_log1p_exp(z), 2.0**-64 / p[0], tl.where(z > 0, x, 0.0))
    return tl.where(z > p[1], x, y)


@triton.jit
def softplus_derivative(x, p):
    z = p[0] * x
    return tl.where(z > p[1], 1.0, _sigmoid(z))


@triton.jit
def logsigmoid_forward(x, p):
    return tl.fma(_lifted_log1p_exp(x), -(2.0**-64), at_most(0.0, x))


# (e^x - 1) / x, from -1/4
_EXPM1 = hexes("0x1.fffff8p-1 0x1.fff7f4p-2 0x1.5414bp-3 0x1.34eb96p-5")


@triton.jit
def _expm1(x):
    """For x <= 0."""
    return tl.where(x > -0.25, x * polynomial(x, _EXPM1, 3), exp2(x * LOG2_E) - 1.0)


@triton.jit
def elu_forward(x, p):
    return tl.where(x > 0, x, p[0] * _expm1(x))


@triton.jit
def selu_forward(x, p):
    return tl.where(x > 0, SELU_SCALE * x, SELU_SCALE_ALPHA * _expm1(x))


@triton.jit
def celu_forward(x, p):
    return tl.where(x > 0, x, p[0] * _expm1(x * (1.0 / p[0])))


# (e^x - 1 - x) / x^2, from -1/2
_EXPM1_MINUS_X = hexes("0x1.ffffd6p-2 0x1.554108p-3 0x1.5228dcp-5 0x1.cf00fp-8")


@triton.jit
def _expm1_minus_x(x):
    """For x <= 0."""
    return tl.where(x > -0.5, x * x * polynomial(x, _EXPM1_MINUS_X, 3), exp2(x * LOG2_E) - 1.0 - x)


@triton.jit
def xielu_forward(x, w, p):
    return tl.where(x > 0, x * tl.fma(w[0], x, p[0]), tl.fma(w[1], _expm1_minus_x(x), p[0] * x))


@triton.jit
def _derivatives_zero(alpha, slope, beta):
    """Where alpha (e^x - 1) + beta is 0, high and low, by a step of Newton's: its slope there is alpha - beta. NaN or
    infinity if nowhere."""
    high = tl.log(slope / alpha)
    rest = alpha.to(tl.float64) * expm1_in_range(high.to(tl.float64)) + beta.to(tl.float64)
    return high, rest.to(tl.float32) / -slope


# (e^x - 1) / x, from -1/8 to 1/8
_EXPM1_AROUND = hexes("0x1.fffff8p-1 0x1.000008p-1 0x1.5598e6p-3 0x1.5550c4p-5")


@triton.jit
def xielu_grad_input(grad, x, w, p):
    """Near its zero the derivative is a multiple of e^distance - 1."""
    slope = w[1] - p[0]
    zero, zero_low = _derivatives_zero(w[1], slope, p[0])
    distance = x - zero - zero_low
    near = slope * distance * polynomial(distance, _EXPM1_AROUND, 3)
    left = tl.where(tl.abs(distance) < 0.125, near, tl.fma(w[1], exp2(x * LOG2_E), -slope))
    return grad * tl.where(x > 0, tl.fma(2.0 * w[0], x, p[0]), left)


@triton.jit
def xielu_grad_alpha_n(grad, x, w, p):
    return tl.where(x > 0, 0.0, grad * _expm1_minus_x(x))


_PI = hexes("0x1.92p1 0x1.fap-11 0x1.54442ep-19")
_1_OVER_PI = tl.constexpr(float.fromhex("0x1.45f306p-2"))

# sin(r)^2 / r^2 of x = r^2, up to (pi / 2)^2
_SINE_SQUARED = hexes("0x1.ffffdep-1 -0x1.5550bep-2 0x1.6baa26p-5 -0x1.98d2f8p-9 0x1.e668b2p-14")
# sin(2 r) / r of x = r^2, in absolute terms
_SINE_TWICE = hexes("0x1.ffff8p0 -0x1.554b22p0 0x1.108adep-2 -0x1.9662eep-6 0x1.271f5p-10")


@triton.jit
def _less_multiple(angle, n):
    """angle - n pi"""
    return tl.fma(n, -_PI[2], tl.fma(n, -_PI[1], tl.fma(n, -_PI[0], angle)))


@triton.jit
def _reduced_angle(a, x):
    """a x, the n of the nearest n pi, and what is left. The product of 16-bit numbers is exact, and a wave that they do
    not resolve is replaced by its value at 0."""
    angle = a * x
    angle = tl.where(tl.abs(angle) < 2.0**18, angle, angle * 0.0)
    n = tl.fma(angle, _1_OVER_PI, 1.5 * 2.0**23) - 1.5 * 2.0**23
    return angle, n, _less_multiple(angle, n)


@triton.jit
def _sine_squared(r):
    square = r * r
    return square * polynomial(square, _SINE_SQUARED, 4)


@triton.jit
def snake_forward(x, w, p):
    _, _, r = _reduced_angle(w[0], x)
    return tl.fma(_sine_squared(r), 1.0 / w[0], x)


@triton.jit
def snake_grad_input(grad, x, w, p):
    """2 sin^2 of the angle and a quarter of pi, which is reduced anew: r has too few digits where that is 0."""
    angle, n, r = _reduced_angle(w[0], x)
    quarter = _less_multiple(angle, n + tl.where(r > math.pi / 4, 0.75, -0.25))
    return grad * (2.0 * _sine_squared(quarter))


@triton.jit
def snake_grad_alpha(grad, x, w, p):
    _, _, r = _reduced_angle(w[0], x)
    inverse = 1.0 / w[0]
    wave = r * polynomial(r * r, _SINE_TWICE, 4)
    return grad * inverse * tl.fma(x, wave, -(_sine_squared(r) * inverse))


@triton.jit
def glu_backward(grad, value, gate):
    """One exponential for both gradients."""
    lifted = _lifted_exp(tl.abs(gate), -1.0)
    high = reciprocal(tl.fma(lifted, _LOWERED, 1.0))
    low = lifted * high * _LOWERED
    return grad * tl.where(gate < 0, low, high), grad * value * (low * high)
