"""Self-gated units: csrc/self_gated.h in Triton. `p` holds the activation's parameters, as in the catalogue row."""

import triton
import triton.language as tl

from .sigmoids import sigmoid_forward
from .vecmath import (
    at_least,
    at_most,
    constant,
    divide,
    high_and_low,
    highest_exponent,
    polynomial,
    product_error,
    scalar,
    scaled_exp_of_minus,
    times_power,
    unscaled,
)

_QUICK_SCALE = constant(1.702, float.fromhex("0x1.89374bc6a7efap-55"))
_LINEAR = constant(float.fromhex("0x1.9884533d43651p+0"), float.fromhex("-0x1.cbc0d30ebfd15p-54"))
_CUBIC = constant(float.fromhex("0x1.2444f2a4d8b4bp-4"), float.fromhex("-0x1.6c843a29d1c70p-61"))
_DENSITY = constant(float.fromhex("0x1.9884533d43651p-2"), float.fromhex("-0x1.cbc0d30ebfd15p-56"))  # 1 / sqrt(2 pi)
_SIXTH = constant(1 / 6, float.fromhex("0x1.5555555555555p-57"))

# For float32 and for float64.
_LARGEST = tl.constexpr((float.fromhex("0x1.fffffep127"), float.fromhex("0x1.fffffffffffffp1023")))
_HIGHEST_QUICK = tl.constexpr((132.4 / 1.702, 1064 / 1.702))  # |x| at the highest exponent, also of the next two
_HIGHEST_GELU_TANH = tl.constexpr((11.682, 24.3106))
_HIGHEST_GELU = tl.constexpr((16.272, 46.13))
_TAIL_K = tl.constexpr((2.34375, 3.5))
_TAIL_FLOAT32 = tl.constexpr(
    (
        float.fromhex("0x1.6523p-1"),
        float.fromhex("-0x1.9eaf7cp-2"),
        float.fromhex("0x1.982a16p-4"),
        float.fromhex("0x1.663f78p-6"),
        float.fromhex("-0x1.b5d5cp-7"),
        float.fromhex("-0x1.1db564p-8"),
        float.fromhex("0x1.b02e94p-10"),
        float.fromhex("0x1.402bap-10"),
        float.fromhex("0x1.48943ep-18"),
        float.fromhex("-0x1.e72b4ep-13"),
        float.fromhex("-0x1.2625p-14"),
    )
)
_TAIL_FLOAT64 = tl.constexpr(
    (
        float.fromhex("0x1.7d241a953a614p-1"),
        float.fromhex("-0x1.2191517fa27b8p-1"),
        float.fromhex("0x1.42fec3680acaap-2"),
        float.fromhex("-0x1.db5837f7f5579p-4"),
        float.fromhex("0x1.1d35bdee16f5dp-6"),
        float.fromhex("0x1.a86cec7672c2ep-8"),
        float.fromhex("-0x1.a200796aa01abp-9"),
        float.fromhex("-0x1.d2a141162bc5bp-12"),
        float.fromhex("0x1.f3cfaaea54c7p-12"),
        float.fromhex("0x1.192862e5fe31ap-14"),
        float.fromhex("-0x1.3d066e5b44bb5p-14"),
        float.fromhex("-0x1.3b39ba6833f3ep-16"),
        float.fromhex("0x1.8219a1ae17918p-17"),
        float.fromhex("0x1.7b4b7bca2d21fp-18"),
        float.fromhex("-0x1.38c0d48a8f266p-20"),
        float.fromhex("-0x1.8d12d84465d3ap-20"),
        float.fromhex("-0x1.336f6ca823eb2p-23"),
        float.fromhex("0x1.3c3226974789p-22"),
        float.fromhex("0x1.0a1e2d8853ca8p-23"),
        float.fromhex("-0x1.0343bb41d7189p-25"),
        float.fromhex("-0x1.3868ac7efff6p-25"),
        float.fromhex("-0x1.0772c73d4b114p-28"),
        float.fromhex("0x1.5251a9339eb86p-28"),
        float.fromhex("0x1.98d4284db90a7p-30"),
    )
)


@triton.jit
def _by_type(constants: tl.constexpr, like):
    """The constant for float32, or the one for float64."""
    if like.dtype == tl.float64:
        return scalar(constants[1], like)
    else:
        return scalar(constants[0], like)


@triton.jit
def _quotient(x, a, m, b, b_low, lifted):
    """(a + a m) / (b + b_low), for negative x times the power of two in `lifted`. Where a is infinite or NaN, only the
    correction is: the remainder of an infinite quotient would be NaN."""
    finite = tl.minimum(_by_type(_LARGEST, a), a)
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
def _one_plus_exp(lifted, m):
    """e itself, 1 + e, and what rounding took from that."""
    e = unscaled(lifted, m)
    sum = 1.0 + e
    return e, sum, e - (sum - 1.0)


@triton.jit
def _sigmoid_gated(x, v, v_low):
    """x sigma(v), given |v| in two parts."""
    lifted, m = scaled_exp_of_minus(v, v_low)
    _, sum, sum_low = _one_plus_exp(lifted, m)
    return _quotient(x, x, tl.where(x < 0, m, 0.0), sum, sum_low, lifted)


@triton.jit
def _sigmoid_gated_derivative(x, v, v_low, slope, slope_low):
    """sigma(v) (1 + x v' sigma(-v)), given |v| and |x| v' in two parts each."""
    lifted, m = scaled_exp_of_minus(v, v_low)
    e, sum, sum_low = _one_plus_exp(lifted, m)
    numerator = tl.where(x < 0, sum - slope + (sum_low - slope_low), tl.fma(slope, e, sum))
    return _over_square(x, numerator, sum, sum_low, lifted, m)


@triton.jit
def silu_forward(x, p):
    return _sigmoid_gated(x, tl.minimum(highest_exponent(x), tl.abs(x)), None)


@triton.jit
def silu_derivative(x, p):
    t = at_most(highest_exponent(x), tl.abs(x))
    return _sigmoid_gated_derivative(x, t, None, t, 0.0)


@triton.jit
def _quick_gelu_exponent(x):
    scale, scale_low = high_and_low(_QUICK_SCALE, x)
    t = at_most(_by_type(_HIGHEST_QUICK, x), tl.abs(x))
    v = scale * t
    return v, tl.fma(scale_low, t, product_error(scale, t, v))


@triton.jit
def quick_gelu_forward(x, p):
    v, v_low = _quick_gelu_exponent(x)
    return _sigmoid_gated(x, v, v_low)


@triton.jit
def quick_gelu_derivative(x, p):
    v, v_low = _quick_gelu_exponent(x)
    return _sigmoid_gated_derivative(x, v, v_low, v, v_low)


@triton.jit
def _gelu_tanh_exponent(x):
    """t = |x|, |v| in two parts, and its cubic term over t."""
    t = at_most(_by_type(_HIGHEST_GELU_TANH, x), tl.abs(x))
    a, a_low = high_and_low(_LINEAR, x)
    b, b_low = high_and_low(_CUBIC, x)
    square = t * t
    square_low = product_error(t, t, square)
    cubic = b * square
    cubic_low = product_error(b, square, cubic) + tl.fma(b, square_low, b_low * square)
    sum = a + cubic
    rounded = sum - a
    sum_low = a - (sum - rounded) + (cubic - rounded) + (cubic_low + a_low)  # Knuth 1969
    v = t * sum
    return t, v, tl.fma(t, sum_low, product_error(t, sum, v)), cubic


@triton.jit
def gelu_tanh_forward(x, p):
    _, v, v_low, _ = _gelu_tanh_exponent(x)
    return _sigmoid_gated(x, v, v_low)


@triton.jit
def gelu_tanh_derivative(x, p):
    t, v, v_low, cubic = _gelu_tanh_exponent(x)
    more = 2.0 * t * cubic
    slope = v + more
    return _sigmoid_gated_derivative(x, v, v_low, slope, more - (slope - v) + v_low)


@triton.jit
def _gaussian_tail(x):
    """t = |x| and Phi(-t) = e^(-t^2 / 2) (ratio + ratio_low) / (sum + sum_low), the exponential as `lifted` and m. The
    polynomial and its variable: csrc/self_gated.h."""
    t = at_most(_by_type(_HIGHEST_GELU, x), tl.abs(x))
    half = 0.5 * t
    exponent = half * t
    lifted, m = scaled_exp_of_minus(exponent, product_error(half, t, exponent))
    k = _by_type(_TAIL_K, x)
    sum = t + k
    sum_low = t - (sum - k)
    z = divide(t - k, sum, sum_low)
    if x.dtype == tl.float64:
        first = scalar(_TAIL_FLOAT64[0], x)
        others = polynomial(z, _TAIL_FLOAT64, 23, 1)
    else:
        first = scalar(_TAIL_FLOAT32[0], x)
        others = polynomial(z, _TAIL_FLOAT32, 10, 1)
    ratio = tl.fma(z, others, first)
    return t, ratio, tl.fma(z, others, first - ratio), sum, sum_low, lifted, m


@triton.jit
def gelu_forward(x, p):
    _, ratio, ratio_low, sum, sum_low, lifted, m = _gaussian_tail(x)
    scaled = tl.fma(ratio, m, ratio)
    scaled_low = tl.fma(ratio, m, ratio - scaled) + ratio_low
    bounded = tl.minimum(_by_type(_HIGHEST_GELU, x), x)
    product = bounded * scaled
    product_low = tl.fma(bounded, scaled_low, product_error(bounded, scaled, product))
    part = times_power(divide(product, sum, sum_low, product_low), lifted)
    return tl.where(x > 0, x - part, part)


@triton.jit
def gelu_derivative(x, p):
    t, ratio, ratio_low, sum, sum_low, lifted, m = _gaussian_tail(x)
    density, density_low = high_and_low(_DENSITY, x)
    slope = density * t
    slope_low = tl.fma(density_low, t, product_error(density, t, slope))
    left = divide(ratio, sum, sum_low, ratio_low) - slope - slope_low
    left = times_power(tl.fma(left, m, left), lifted)
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
    return _quotient(x, x, m + tl.fma(a, m, a), sum, sum_low, lifted)


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
    lifted, m = scaled_exp_of_minus(at_most(highest_exponent(x), tl.abs(x)))
    _, sum, sum_low = _one_plus_exp(lifted, m)
    return _over_square(-1.0, scalar(1.0, x), sum, sum_low, lifted, m)
