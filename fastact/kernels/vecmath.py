"""Elementary functions: the algorithms and polynomials of csrc/vecmath.h, for Triton.

libdevice's functions do not run in Triton's interpreter, and these make the CPU and the GPU agree. Constants become
scalars of the argument's type first: a bare float in a fused multiply-add would be rounded to float32.
"""

import triton
import triton.language as tl

_EXPM1_FLOAT32 = tl.constexpr(
    (
        float.fromhex("0x1p-1"),
        float.fromhex("0x1.555556p-3"),
        float.fromhex("0x1.555502p-5"),
        float.fromhex("0x1.110ff2p-7"),
        float.fromhex("0x1.6d2ep-10"),
        float.fromhex("0x1.a2675cp-13"),
    )
)
_EXPM1_FLOAT64 = tl.constexpr(
    (
        float.fromhex("0x1p-1"),
        float.fromhex("0x1.5555555555557p-3"),
        float.fromhex("0x1.5555555555552p-5"),
        float.fromhex("0x1.1111111110056p-7"),
        float.fromhex("0x1.6c16c16c18932p-10"),
        float.fromhex("0x1.a01a01ac1a7cdp-13"),
        float.fromhex("0x1.a01a0197bc744p-16"),
        float.fromhex("0x1.71de01b8495cap-19"),
        float.fromhex("0x1.27e500e2100f2p-22"),
        float.fromhex("0x1.af4eb35b733e7p-26"),
        float.fromhex("0x1.1f32e868dba09p-29"),
    )
)
_LN2_HIGH_FLOAT32 = tl.constexpr(float.fromhex("0x1.62e4p-1"))
_LN2_LOW_FLOAT32 = tl.constexpr(float.fromhex("0x1.7f7d1cp-20"))
_LN2_HIGH_FLOAT64 = tl.constexpr(float.fromhex("0x1.62e42fefa38p-1"))
_LN2_LOW_FLOAT64 = tl.constexpr(float.fromhex("0x1.ef35793c7673p-45"))
_LOG2_E = tl.constexpr(float.fromhex("0x1.71547652b82fep0"))


@triton.jit
def scalar(value: tl.constexpr, x):
    return tl.full((), value, x.dtype)


@triton.jit
def polynomial(x, coefficients: tl.constexpr, degree: tl.constexpr):
    """c[0] + c[1] x + ... by Horner's rule."""
    sum = tl.fma(x, scalar(coefficients[degree], x), scalar(coefficients[degree - 1], x))
    for i in tl.static_range(degree - 1):
        sum = tl.fma(sum, x, scalar(coefficients[degree - 2 - i], x))
    return sum


@triton.jit
def exp_parts(x, bias: tl.constexpr):
    """x = n ln2 + r: n + bias in the low bits of an integer, and e^r - 1."""
    if x.dtype == tl.float64:
        shift = scalar(1.5 * 2.0**52 + bias, x)
        shifted = tl.fma(x, scalar(_LOG2_E, x), shift)
        n = shifted - shift
        r = tl.fma(n, scalar(-_LN2_LOW_FLOAT64, x), tl.fma(n, scalar(-_LN2_HIGH_FLOAT64, x), x))
        return shifted.to(tl.int64, bitcast=True), tl.fma(r * r, polynomial(r, _EXPM1_FLOAT64, 10), r)
    else:
        shift = scalar(1.5 * 2.0**23 + bias, x)
        shifted = tl.fma(x, scalar(_LOG2_E, x), shift)
        n = shifted - shift
        r = tl.fma(n, scalar(-_LN2_LOW_FLOAT32, x), tl.fma(n, scalar(-_LN2_HIGH_FLOAT32, x), x))
        return shifted.to(tl.int32, bitcast=True), tl.fma(r * r, polynomial(r, _EXPM1_FLOAT32, 5), r)


@triton.jit
def from_exponent(biased, like):
    if like.dtype == tl.float64:
        return (biased << 52).to(tl.float64, bitcast=True)
    else:
        return (biased << 23).to(tl.float32, bitcast=True)


@triton.jit
def exp_below_overflow(x):
    """e^x for x <= 89 (float32) or 710 (float64). The power of two takes two steps, down to the subnormals."""
    if x.dtype == tl.float64:
        biased, m = exp_parts(tl.where(x < -746.0, -746.0, x), 2 * 1023)
    else:
        biased, m = exp_parts(tl.where(x < -104.0, -104.0, x), 2 * 127)
    half = biased >> 1
    scale = from_exponent(half, x) * from_exponent(biased - half, x)
    return tl.fma(scale, m, scale)


@triton.jit
def copysign(x, sign):
    if x.dtype == tl.float64:
        low: tl.constexpr = 0x7FFFFFFFFFFFFFFF
        bits = (x.to(tl.int64, bitcast=True) & low) | (sign.to(tl.int64, bitcast=True) & ~low)
        return bits.to(tl.float64, bitcast=True)
    else:
        low: tl.constexpr = 0x7FFFFFFF
        bits = (x.to(tl.int32, bitcast=True) & low) | (sign.to(tl.int32, bitcast=True) & ~low)
        return bits.to(tl.float32, bitcast=True)


@triton.jit
def expm1_in_range(x):
    """e^x - 1 for -18 (float32) or -38 (float64) <= x <= 80. -0 gives 0."""
    if x.dtype == tl.float64:
        biased, m = exp_parts(x, 1023)
    else:
        biased, m = exp_parts(x, 127)
    scale = from_exponent(biased, x)
    return tl.fma(scale, m, scale - 1.0)


@triton.jit
def expm1(x):
    """e^x - 1 for x <= 80. -0 gives 0."""
    if x.dtype == tl.float64:
        return expm1_in_range(tl.where(x < -38.0, -38.0, x))
    else:
        return expm1_in_range(tl.where(x < -18.0, -18.0, x))


@triton.jit
def divide(a, b, b_low):
    """a / (b + b_low) for 1 <= b < 2^60, where b_low is what rounding took from the true denominator."""
    inverse = 1.0 / b
    quotient = a * inverse
    return tl.fma(tl.fma(-quotient, b_low, tl.fma(-quotient, b, a)), inverse, quotient)
