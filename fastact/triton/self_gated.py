"""Self-gated units: csrc/self_gated.h in Triton. `p` holds the activation's parameters, as in the catalogue row."""

import triton
import triton.language as tl

from .math import (
    LARGEST_NUMBER,
    LEAST,
    MOST,
    UNIT,
    at_least,
    at_most,
    by_type,
    clamp,
    constant,
    corrected_inverse,
    divide,
    hexes,
    high_and_low,
    highest_exponent,
    logistic,
    polynomial,
    product_error,
    reciprocal,
    scalar,
    scaled_exp_of_minus,
    scaled_sigmoid,
    times_power,
    unscaled,
)
from .sigmoids import sigmoid_forward

_QUICK_SCALE = constant(1.702, float.fromhex("0x1.89374bc6a7efap-55"))
_LINEAR = constant(float.fromhex("0x1.9884533d43651p+0"), float.fromhex("-0x1.cbc0d30ebfd15p-54"))
_CUBIC = constant(float.fromhex("0x1.2444f2a4d8b4bp-4"), float.fromhex("-0x1.6c843a29d1c70p-61"))
_DENSITY = constant(float.fromhex("0x1.9884533d43651p-2"), float.fromhex("-0x1.cbc0d30ebfd15p-56"))  # 1 / sqrt(2 pi)
_SIXTH = constant(1 / 6, float.fromhex("0x1.5555555555555p-57"))

# For float32 and for float64.
_LEAST_QUICK = tl.constexpr((-112 / 1.702, -760 / 1.702))
_MOST_QUICK = tl.constexpr((40 / 1.702, 60 / 1.702))
_LEAST_GELU_TANH = tl.constexpr((-11.0, -21.7))
_MOST_GELU_TANH = tl.constexpr((7.4, 8.7))
_HIGHEST_GELU = tl.constexpr((16.272, 46.13))
_TAIL_A = tl.constexpr((1.4375, 1.34375))
_TAIL_B = hexes("0x1.a9c72ap+1 0x1.2c3a66e93293bp+2")
_TAIL_FLOAT32 = hexes(
    "-0x1.25ccb4p-1 0x1.13258p-3 0x1.19741p-5 -0x1.278c08p-6 -0x1.c4d782p-8 0x1.09c22cp-9 0x1.e646c6p-10 0x1.d0f1bp-14 "
    "-0x1.63f98ap-12 -0x1.ee6b18p-14"
)
_TAIL_FLOAT64 = hexes(
    "-0x1.848183ed6ead4p-1 0x1.b015752440f47p-2 -0x1.3bdeb6b686a0cp-3 0x1.70cba03c358cep-6 0x1.22b0b5326628dp-7 "
    "-0x1.13afc3f008504p-8 -0x1.5088644ac38ep-11 0x1.4b78e0070f959p-11 0x1.9d904c580b51ep-14 -0x1.a2d5f867f27d7p-14 "
    "-0x1.c2d0327172bp-16 0x1.f45c5d06f2bd5p-17 0x1.07e78325cec14p-17 -0x1.7403252212876p-20 -0x1.0dae02c58616cp-19 "
    "-0x1.044a7f0c31e02p-22 0x1.9f51b8a08cb0ep-22 0x1.7c64ddef55ac8p-23 -0x1.2fb3033efac6fp-25 -0x1.b01566734c7fep-25 "
    "-0x1.be26aa32248c4p-28 0x1.cbd5afa425fdfp-28 0x1.276ac69cdc1a6p-29"
)


@triton.jit
def _quotient(x, a, m, b, b_low, lifted):
    """(a + a m) / (b + b_low), for negative x times the power of two in `lifted`. Where a is infinite or NaN, only the
    correction is: the remainder of an infinite quotient would be NaN."""
    finite = tl.minimum(by_type(LARGEST_NUMBER, a), a)
    product = tl.fma(finite, m, finite)
    product_low = tl.fma(finite, m, a - product)
    y = divide(product, b, b_low, product_low)
    return tl.where(x < 0, times_power(y, lifted), y)


@triton.jit
def _over_square(x, a, b, b_low, lifted, m):
    """a over the square of b + b_low, for negative x times the exponential in `lifted` and m."""
    square = b * b
    square_low = tl.fma(2.0 * b, b_low, product_error(b, b, square))
    return _quotient(x, a, tl.where(x < 0, m, 0.0), square, square_low, lifted)


@triton.jit
def _sigmoid_gated(x, t, most: tl.constexpr, v, v_low):
    """x sigma(v), given v in two parts; t is x or, far from zero, a bound: at the left one it vanishes."""
    y = t * scaled_sigmoid(v, v_low) * by_type(UNIT, x)
    return tl.where(x > by_type(most, x), x, y)


@triton.jit
def _sigmoid_gated_derivative(v, v_low, slope, slope_low):
    """sigma(v) (1 + x v' sigma(-v)) = (1 + (1 + x v') e^-v) / (1 + e^-v)^2, given v and x v' in two parts each."""
    e, sum, sum_low = logistic(v, v_low)
    unit = by_type(UNIT, v)
    factor = 1.0 + slope
    if slope_low is None:
        numerator = tl.fma(e, factor, unit)
    else:
        numerator = tl.fma(e, factor, tl.fma(e, 1.0 - (factor - slope) + slope_low, unit))
    inverse = corrected_inverse(sum, sum_low)
    quotient = numerator * inverse
    quotient_low = product_error(numerator, inverse, quotient)
    return tl.fma(quotient, inverse, quotient_low * inverse) * unit


@triton.jit
def silu_forward(x, p):
    t = clamp(x, LEAST, MOST)
    return _sigmoid_gated(x, t, MOST, t, None)


@triton.jit
def silu_derivative(x, p):
    t = clamp(x, LEAST, MOST)
    return _sigmoid_gated_derivative(t, None, t, None)


@triton.jit
def _quick_gelu_exponent(x):
    """1.702 x in two parts."""
    scale, scale_low = high_and_low(_QUICK_SCALE, x)
    v = scale * x
    return v, tl.fma(scale_low, x, product_error(scale, x, v))


@triton.jit
def quick_gelu_forward(x, p):
    t = clamp(x, _LEAST_QUICK, _MOST_QUICK)
    v, v_low = _quick_gelu_exponent(t)
    return _sigmoid_gated(x, t, _MOST_QUICK, v, v_low)


@triton.jit
def quick_gelu_derivative(x, p):
    v, v_low = _quick_gelu_exponent(clamp(x, _LEAST_QUICK, _MOST_QUICK))
    return _sigmoid_gated_derivative(v, v_low, v, v_low)


@triton.jit
def _gelu_tanh_exponent(x):
    """v and its cubic term over x, in two parts each."""
    a, a_low = high_and_low(_LINEAR, x)
    b, b_low = high_and_low(_CUBIC, x)
    square = x * x
    square_low = product_error(x, x, square)
    cubic = b * square
    cubic_low = product_error(b, square, cubic) + tl.fma(b, square_low, b_low * square)
    sum = a + cubic
    rounded = sum - a
    sum_low = a - (sum - rounded) + (cubic - rounded) + (cubic_low + a_low)  # Knuth 1969
    v = x * sum
    return v, tl.fma(x, sum_low, product_error(x, sum, v)), cubic, cubic_low


@triton.jit
def gelu_tanh_forward(x, p):
    t = clamp(x, _LEAST_GELU_TANH, _MOST_GELU_TANH)
    v, v_low, _, _ = _gelu_tanh_exponent(t)
    return _sigmoid_gated(x, t, _MOST_GELU_TANH, v, v_low)


@triton.jit
def gelu_tanh_derivative(x, p):
    t = clamp(x, _LEAST_GELU_TANH, _MOST_GELU_TANH)
    v, v_low, cubic, cubic_low = _gelu_tanh_exponent(t)
    twice = 2.0 * t
    bend = twice * cubic
    bend_low = tl.fma(twice, cubic_low, product_error(twice, cubic, bend))
    slope = v + bend
    return _sigmoid_gated_derivative(v, v_low, slope, bend - (slope - v) + (v_low + bend_low))


@triton.jit
def _gaussian_tail(x):
    """t = |x|, e^(-t^2 / 2) as `lifted` and m, and a t + b as sum and what rounding took from it."""
    t = at_most(by_type(_HIGHEST_GELU, x), tl.abs(x))
    half = 0.5 * t
    exponent = half * t
    lifted, m = scaled_exp_of_minus(exponent, product_error(half, t, exponent))
    a = by_type(_TAIL_A, x)
    b = by_type(_TAIL_B, x)
    sum = tl.fma(a, t, b)
    return t, lifted, m, sum, product_error(a, t, sum - b)


@triton.jit
def _tail_curve(z):
    """(R - 1) / z, as in csrc/self_gated.h."""
    if z.dtype == tl.float64:
        return polynomial(z, _TAIL_FLOAT64, 22)
    else:
        return polynomial(z, _TAIL_FLOAT32, 9)


@triton.jit
def gelu_forward(x, p):
    """x Phi(-|x|), which on the right is what x has too much."""
    t, lifted, m, sum, sum_low = _gaussian_tail(x)
    inverse = reciprocal(sum)
    u = t * inverse
    u_low = -tl.fma(u, sum_low, product_error(u, sum, t)) * inverse  # what rounding took from u
    one = scalar(1.0, x)
    twice = 2.0 * by_type(_TAIL_A, x)
    z = tl.fma(twice, u_low, tl.fma(twice, u, -one))
    bend = _tail_curve(z)
    w = tl.fma(u * z, bend, u_low * tl.fma(z, bend, one))
    excess = times_power(u + tl.fma(u + w, m, w), lifted)
    return tl.where(x < 0, -0.0, x) - excess


@triton.jit
def gelu_derivative(x, p):
    """Phi(x) + x phi(x), which is 1 less the same at -x."""
    t, lifted, m, sum, sum_low = _gaussian_tail(x)
    density, density_low = high_and_low(_DENSITY, x)
    slope = density * t
    slope_low = tl.fma(density_low, t, product_error(density, t, slope))
    inverse = corrected_inverse(sum, sum_low)
    z = tl.fma(-2.0 * by_type(_TAIL_B, x), inverse, scalar(1.0, x))
    v = tl.fma(inverse * z, _tail_curve(z), inverse) - slope - slope_low
    left = times_power(tl.fma(v, m, v), lifted)
    return tl.where(x < 0, left, 1.0 - left)


@triton.jit
def _mish_parts(x):
    """e = e^-|x| and its parts; a, 1 + b and what rounding took from that, as in csrc/self_gated.h."""
    lifted, m = scaled_exp_of_minus(tl.minimum(highest_exponent(x), tl.abs(x)))
    e = unscaled(lifted, m)
    a = tl.where(x < 0, 0.5 * e, 2.0 * e)
    first = tl.where(x < 0, e, a)
    b = tl.fma(e, a, first)
    sum = 1.0 + b
    return e, a, sum, b - (sum - 1.0) + tl.fma(e, a, first - b), lifted, m


@triton.jit
def mish_forward(x, p):
    _, a, sum, sum_low, lifted, m = _mish_parts(x)
    m = tl.where(x < 0, m, 0.0)
    t = at_least(-highest_exponent(x), x)  # where it vanishes, and infinity would be NaN
    return _quotient(x, t, m + tl.fma(a, m, a), sum, sum_low, lifted)


@triton.jit
def mish_derivative(x, p):
    e, _, sum, sum_low, lifted, m = _mish_parts(x)
    u = 1.0 + at_most(highest_exponent(x), at_least(-highest_exponent(x), x))
    second = tl.where(x < 0, tl.fma(e, scalar(0.25, x), scalar(1.0, x)), tl.fma(4.0 * u, 1.0 + e, scalar(2.0, x)))
    first = tl.fma(e, second, tl.where(x < 0, u + 0.5, 4.0))
    return _over_square(x, tl.fma(e, first, tl.where(x < 0, u, 1.0)), sum, sum_low, lifted, m)


@triton.jit
def hardswish_forward(x, p):
    sixth, sixth_low = high_and_low(_SIXTH, x)
    bounded = at_most(3.0, at_least(-3.0, x))
    sum = bounded + 3.0
    sum_low = bounded - (sum - 3.0)
    return x * tl.fma(sum, sixth, tl.fma(sum, sixth_low, sum_low * sixth))


@triton.jit
def hardswish_gradient(grad, x, p):
    slope = (x + 1.5) * scalar(1 / 3, x)
    return tl.where(x <= -3, 0.0, tl.where(x >= 3, grad, grad * slope))


@triton.jit
def sigmoid_gate_forward(x, p):
    return sigmoid_forward(x, p)


@triton.jit
def sigmoid_gate_derivative(x, p):
    e, sum, sum_low = logistic(at_least(by_type(LEAST, x), -tl.abs(x)))
    inverse = corrected_inverse(sum, sum_low)
    return e * inverse * inverse * by_type(UNIT, x)
