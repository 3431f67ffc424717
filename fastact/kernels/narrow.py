"""Formulas for float16 and bfloat16, where the families' take too many instructions: launches prefer these for 16-bit
tensors. `p` and `w` are as there.

Results within 0.51 ULP of a 16-bit type need 18 digits before they are rounded. These formulas compute some 20, in
float32, with the GPU's approximate functions: one instruction each, as wide tables as float32's own are long formulas.
What the functions leave out is allowed for: tests/test_accuracy.py also holds the bounds with results that are off by
as much as NVIDIA states. Numbers below 2^-126, which those functions flush to zero, are results in bfloat16: such
exponentials carry a factor of 2^16 until the end.
"""

import triton
import triton.language as tl

from .vecmath import _INTERPRETED, at_least, at_most, constant, polynomial, reciprocal

_LOG2_E = tl.constexpr(float.fromhex("0x1.71547652b82fep0"))
_LIFT = tl.constexpr(16.0)
_LOWERED = tl.constexpr(2.0**-16)


@triton.jit
def exp2(x):
    """2^x to 2^-22 of it, or 0 below 2^-126."""
    if _INTERPRETED:
        y = tl.exp2(x)
        return tl.where(y < 2.0**-126, 0.0, y)
    else:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def _lifted_exp(v, scale: tl.constexpr = 1.0):
    """2^16 e^(scale v)"""
    return exp2(tl.fma(v, scale * _LOG2_E, _LIFT))


@triton.jit
def _sigmoid(v, scale: tl.constexpr = 1.0):
    """sigma(scale v). The exponential may overflow, and only the result become subnormal."""
    return reciprocal(exp2(tl.fma(v, -scale * _LOG2_E, -_LIFT)) + _LOWERED) * _LOWERED


@triton.jit
def sigmoid_forward(x, p):
    return _sigmoid(x)


# remez(1, 1, [2^-20;0.04], x/(tanh(sqrt(x))/sqrt(x)-1)) in Sollya
_TANH = tl.constexpr((float.fromhex("-0x1.55528cp-2"), float.fromhex("0x1.0cb51ap-3")))


@triton.jit
def _tanh(x):
    square = x * x
    near = tl.fma(square * x, polynomial(square, _TANH, 1), x)
    far = tl.fma(reciprocal(exp2(x * (2.0 * _LOG2_E)) + 1.0), -2.0, 1.0)
    return tl.where(tl.abs(x) < 0.2, near, far)


@triton.jit
def tanh_forward(x, p):
    return _tanh(x)


# remez(1, 5, [2^-20;1], x sqrt(x)/(sqrt(x)-tanh(sqrt(x))))
_TANHSHRINK = tl.constexpr(
    (
        float.fromhex("0x1.555544p-2"),
        float.fromhex("-0x1.1107c6p-3"),
        float.fromhex("0x1.b85ce8p-5"),
        float.fromhex("-0x1.56803p-6"),
        float.fromhex("0x1.bc2748p-8"),
        float.fromhex("-0x1.44fbcap-10"),
    )
)


@triton.jit
def tanhshrink_forward(x, p):
    square = x * x
    near = tl.fma(square * x, polynomial(square, _TANHSHRINK, 5), 0.0)
    far = tl.fma(reciprocal(exp2(x * (2.0 * _LOG2_E)) + 1.0), 2.0, x - 1.0)
    return tl.where(tl.abs(x) < 1.0, near, far)


@triton.jit
def tanhshrink_derivative(x, p):
    tanh = _tanh(x)
    return tanh * tanh


@triton.jit
def silu_forward(x, p):
    return x * _sigmoid(x)


@triton.jit
def quick_gelu_forward(x, p):
    return x * _sigmoid(x, 1.702)


_LINEAR = tl.constexpr(1.5957691216057308)  # 2 sqrt(2 / pi)
_CUBIC = tl.constexpr(1.5957691216057308 * 0.044715)


@triton.jit
def gelu_tanh_forward(x, p):
    return x * _sigmoid(x * tl.fma(x * x, _CUBIC, _LINEAR))


@triton.jit
def _sigmoid_gated_derivative(v, factor, scale: tl.constexpr = 1.0):
    """sigma(scale v) (1 + x v' sigma(-scale v)), given 1 + x v'."""
    lifted = _lifted_exp(v, scale)
    e = lifted * _LOWERED
    inverse = reciprocal(1.0 + e)
    return (e + factor) * inverse * (lifted * inverse) * _LOWERED


# Where derivatives are 0, and to either side the polynomials of degree 3 that are closest to derivative / distance.
_NEAR = tl.constexpr(0.08)
_SILU_ZERO = constant(-1.2784645427610738, 0.0)
_SILU_SLOPES = tl.constexpr(
    (
        float.fromhex("0x1.be1414p-3"),
        float.fromhex("0x1.2c562ap-3"),
        float.fromhex("0x1.348d8cp-6"),
        float.fromhex("-0x1.f24f5cp-7"),
    )
)
_QUICK_GELU_ZERO = constant(-0.75115425544128895, 0.0)
_QUICK_GELU_SLOPES = tl.constexpr(
    (
        float.fromhex("0x1.7b9cfap-2"),
        float.fromhex("0x1.b301aep-2"),
        float.fromhex("0x1.7ab4c6p-4"),
        float.fromhex("-0x1.04d83ap-3"),
    )
)
_GELU_TANH_ZERO = constant(-0.75246142207101626, 0.0)
_GELU_TANH_SLOPES = tl.constexpr(
    (
        float.fromhex("0x1.b8bad2p-2"),
        float.fromhex("0x1.8cd178p-2"),
        float.fromhex("-0x1.04528cp-6"),
        float.fromhex("-0x1.d1bf72p-4"),
    )
)
_MISH_ZERO = constant(-1.1924312145154952, 0.0)
_MISH_SLOPES = tl.constexpr(
    (
        float.fromhex("0x1.115adp-2"),
        float.fromhex("0x1.a34a16p-3"),
        float.fromhex("0x1.567adep-5"),
        float.fromhex("-0x1.4c0692p-6"),
    )
)


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
# Of e^(t^2/2) Phi(-t) / r, where r = 1 / (t + 2.75), in r; by remez(1, 6, [1/16.25;1/2.75], 1 / that)
_TAIL = tl.constexpr(
    (
        float.fromhex("0x1.98bap-2"),
        float.fromhex("0x1.15e298p0"),
        float.fromhex("0x1.711218p1"),
        float.fromhex("0x1.d81fdcp0"),
        float.fromhex("0x1.ad84c4p4"),
        float.fromhex("-0x1.34985ep6"),
        float.fromhex("0x1.c9d9fep5"),
    )
)
# Of e^(t^2/2) (Phi(-t) - t phi(t)) / (zero - t), likewise.
_SLOPE_OF_TAIL = tl.constexpr(
    (
        float.fromhex("0x1.9896d6p-2"),
        float.fromhex("0x1.2f914ep-2"),
        float.fromhex("0x1.705ac8p-1"),
        float.fromhex("0x1.f98d56p-2"),
        float.fromhex("0x1.56ebcep2"),
        float.fromhex("-0x1.53c2e2p3"),
        float.fromhex("0x1.6dbaf6p2"),
    )
)
_ZERO = tl.constexpr(float.fromhex("0x1.80ead2p-1"))
_ZERO_LOW = tl.constexpr(float.fromhex("-0x1.a03fd4p-27"))


@triton.jit
def _gaussian(x):
    """2^16 e^(-x^2 / 2) and the polynomials' argument."""
    return _lifted_exp(x * x, -0.5), reciprocal(tl.abs(x) + _TAIL_SHIFT)


@triton.jit
def gelu_forward(x, p):
    lifted, r = _gaussian(x)
    left = lifted * (r * polynomial(r, _TAIL, 6)) * _LOWERED
    return x * tl.where(x < 0, left, 1.0 - left)


@triton.jit
def gelu_derivative(x, p):
    """Phi(x) + x phi(x), which is 1 less the same at -x, and near where that is 0 the distance times something."""
    lifted, r = _gaussian(x)
    distance = _ZERO - at_most(16.0, tl.abs(x)) + _ZERO_LOW
    left = lifted * (distance * polynomial(r, _SLOPE_OF_TAIL, 6)) * _LOWERED
    return tl.where(x < 0, left, 1.0 - left)


@triton.jit
def _mish_parts(x):
    """x within bounds, 2^16 e^x, e^x, 1 / (e^x (e^x + 2) + 2)."""
    t = at_most(20.0, at_least(-128.0, x))
    lifted = _lifted_exp(t)
    e = lifted * _LOWERED
    return t, lifted, e, reciprocal(tl.fma(e, e + 2.0, 2.0))


@triton.jit
def mish_forward(x, p):
    _, lifted, e, inverse = _mish_parts(x)
    return x * (lifted * (e + 2.0) * inverse * _LOWERED)


@triton.jit
def mish_derivative(x, p):
    """e^x ((e^x + 2) (n + 2) + 4 x (e^x + 1)) / (n + 2)^2, where n = e^x (e^x + 2)."""
    t, lifted, e, inverse = _mish_parts(x)
    numerator = tl.fma(e, tl.fma(e, e + 4.0, tl.fma(t, 4.0, 6.0)), tl.fma(t, 4.0, 4.0))
    derivative = (numerator * inverse) * (lifted * inverse) * _LOWERED
    return _crossing(x, derivative, _MISH_ZERO, _MISH_SLOPES)


# remez(1, 6, [2^-40;1], x/log(1+x))
_LOG1P = tl.constexpr(
    (
        float.fromhex("0x1.ffffd6p-1"),
        float.fromhex("-0x1.ffddd4p-2"),
        float.fromhex("0x1.530a7p-2"),
        float.fromhex("-0x1.e15becp-3"),
        float.fromhex("0x1.319c4ap-3"),
        float.fromhex("-0x1.0ffb56p-4"),
        float.fromhex("0x1.cf5f82p-7"),
    )
)


@triton.jit
def _lifted_log1p_exp(x):
    """2^64 log(1 + e^-|x|), for what a small beta makes of it."""
    lifted = exp2(tl.fma(tl.abs(x), -_LOG2_E, 64.0))
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
