"""Elementary functions: the algorithms and polynomials of csrc/math/, for Triton.

They stand in for libdevice's, so that the CPU and the GPU agree. Constants become scalars of the argument's type first:
a bare float in a fused multiply-add would be rounded to float32.
"""

import struct

import triton
import triton.language as tl


def hexes(numbers: str) -> tl.constexpr:
    """Constants, such as a polynomial's coefficients, from hexadecimal floats with blanks between them."""
    return tl.constexpr(tuple(map(float.fromhex, numbers.split())))


_EXP_FLOAT32 = hexes("0x1.fffffap-2 0x1.555492p-3 0x1.555a26p-5 0x1.12397cp-7 0x1.694c82p-10")
_EXP_FLOAT64 = hexes(
    "0x1.000000000000ap-1 0x1.55555555554fep-3 0x1.55555555506bfp-5 0x1.1111111126b36p-7 0x1.6c16c18475fabp-10 "
    "0x1.a01a012fed2f7p-13 0x1.a019996298ecdp-16 0x1.71df18f7a1dd8p-19 0x1.28adf8e81298cp-22 0x1.ad92d1e47a0d8p-26"
)
_EXPM1_FLOAT32 = hexes("0x1p-1 0x1.555556p-3 0x1.555502p-5 0x1.110ff2p-7 0x1.6d2ep-10 0x1.a2675cp-13")
_EXPM1_FLOAT64 = hexes(
    "0x1p-1 0x1.5555555555557p-3 0x1.5555555555552p-5 0x1.1111111110056p-7 0x1.6c16c16c18932p-10 0x1.a01a01ac1a7cdp-13 "
    "0x1.a01a0197bc744p-16 0x1.71de01b8495cap-19 0x1.27e500e2100f2p-22 0x1.af4eb35b733e7p-26 0x1.1f32e868dba09p-29"
)
_LN2_FLOAT32 = hexes("0x1.62e4p-1 0x1.7f7dp-20")  # high and low
_LN2_FLOAT64 = hexes("0x1.62e42fefa38p-1 0x1.ef35793c7673p-45")
LOG2_E = tl.constexpr(float.fromhex("0x1.71547652b82fep0"))

# For float32 and for float64
LARGEST_NUMBER = hexes("0x1.fffffep127 0x1.fffffffffffffp1023")
# e^x - 1 rounds to -1 below:
EXPM1_LOWEST = tl.constexpr((-18.0, -38.0))
# Of a logistic:
UNIT = tl.constexpr((2.0**-48, 2.0**-96))
LEAST = tl.constexpr((-112.0, -760.0))
MOST = tl.constexpr((40.0, 60.0))


def constant(value: float, rest: float) -> tl.constexpr:
    """A number known to more digits than float64 has: what is high and low of it in float32, and in float64."""
    (high,) = struct.unpack("f", struct.pack("f", value))
    return tl.constexpr((high, value - high + rest, value, rest))


@triton.jit
def scalar(value: tl.constexpr, x):
    return tl.full((), value, x.dtype)


@triton.jit
def by_type(constants: tl.constexpr, like):
    """The constant for float32, or the one for float64."""
    if like.dtype == tl.float64:
        return scalar(constants[1], like)
    else:
        return scalar(constants[0], like)


@triton.jit
def polynomial(x, coefficients: tl.constexpr, degree: tl.constexpr):
    """c[0] + c[1] x + ... by Horner's rule."""
    sum = tl.fma(x, scalar(coefficients[degree], x), scalar(coefficients[degree - 1], x))
    for i in tl.static_range(degree - 1):
        sum = tl.fma(sum, x, scalar(coefficients[degree - 2 - i], x))
    return sum


@triton.jit
def high_and_low(constant: tl.constexpr, x):
    """The two parts of a `constant` in the type of x."""
    if x.dtype == tl.float64:
        return scalar(constant[2], x), scalar(constant[3], x)
    else:
        return scalar(constant[0], x), scalar(constant[1], x)


@triton.jit
def at_most(high, x):
    """NaN passes."""
    return tl.minimum(high, x, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def at_least(low, x):
    """NaN passes."""
    return tl.maximum(low, x, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def clamp(x, low: tl.constexpr, high: tl.constexpr):
    """x between constants for float32 and for float64. NaN passes."""
    return at_most(by_type(high, x), at_least(by_type(low, x), x))


@triton.jit
def product_error(a, b, product):
    """What rounding took from a product: a * b less the product rounded, or less something else near it."""
    return tl.fma(a, b, -product)


@triton.jit
def sum_error(a, b, sum):
    """What rounding took from the sum of a and b (Knuth 1969)."""
    rounded_b = sum - a
    return (a - (sum - rounded_b)) + (b - rounded_b)


@triton.jit
def reduce(x, bias: tl.constexpr, sign: tl.constexpr = 1, low=None):
    """sign x = n ln2 + r with integer n and |r| <= ln2 / 2: n + bias in the low bits of an integer, and r. `low`, if
    given, is what rounding took from x."""
    if x.dtype == tl.float64:
        shifted, r = _reduced(x, sign, low, 1.5 * 2.0**52 + bias, _LN2_FLOAT64)
        return shifted.to(tl.int64, bitcast=True), r
    else:
        shifted, r = _reduced(x, sign, low, 1.5 * 2.0**23 + bias, _LN2_FLOAT32)
        return shifted.to(tl.int32, bitcast=True), r


@triton.jit
def _reduced(x, sign: tl.constexpr, low, shift: tl.constexpr, ln2: tl.constexpr):
    shifted = tl.fma(x, scalar(sign * LOG2_E, x), scalar(shift, x))
    n = shifted - scalar(shift, x)
    r = tl.fma(n, scalar(-ln2[0], x), sign * x)
    if low is None:
        return shifted, tl.fma(n, scalar(-ln2[1], x), r)
    else:
        return shifted, r + tl.fma(n, scalar(-ln2[1], x), sign * low)


@triton.jit
def small_expm1(r):
    """e^r - 1 for |r| <= ln2 / 2, to an ULP of its own."""
    if r.dtype == tl.float64:
        return tl.fma(r * r, polynomial(r, _EXPM1_FLOAT64, 10), r)
    else:
        return tl.fma(r * r, polynomial(r, _EXPM1_FLOAT32, 5), r)


@triton.jit
def small_exp_less_1(r):
    """e^r - 1 for |r| <= ln2 / 2, to an ULP of e^r."""
    if r.dtype == tl.float64:
        return tl.fma(r * r, polynomial(r, _EXP_FLOAT64, 9), r)
    else:
        return tl.fma(r * r, polynomial(r, _EXP_FLOAT32, 4), r)


@triton.jit
def from_exponent(biased, like):
    if like.dtype == tl.float64:
        return (biased << 52).to(tl.float64, bitcast=True)
    else:
        return (biased << 23).to(tl.float32, bitcast=True)


@triton.jit
def highest_exponent(like):
    """The largest x that scaled_exp_of_minus takes."""
    if like.dtype == tl.float64:
        return scalar(1064.0, like)
    else:
        return scalar(132.4, like)


@triton.jit
def scaled_exp_of_minus(x, low=None):
    """e^-x as `lifted` and m for 0 <= x <= highest_exponent; see `times_power`. `lifted` is within range, though e^-x
    may be far below the smallest number, and 0 for the highest x."""
    if x.dtype == tl.float64:
        biased, r = reduce(x, 1023 + 512, -1, low)
    else:
        biased, r = reduce(x, 127 + 64, -1, low)
    return from_exponent(biased, x), small_exp_less_1(r)


@triton.jit
def unscaled(lifted, m):
    """e^-x itself."""
    if m.dtype == tl.float64:
        return tl.fma(lifted, m, lifted) * scalar(2.0**-512, m)
    else:
        return tl.fma(lifted, m, lifted) * scalar(2.0**-64, m)


@triton.jit
def times_power(a, lifted):
    """a e^-x, given a (1 + m). A subnormal result is rounded once."""
    if a.dtype == tl.float64:
        return a * lifted * scalar(2.0**-512, a)
    else:
        return a * lifted * scalar(2.0**-64, a)


@triton.jit
def logistic(v, low=None):
    """e^-v and 1 + e^-v, both times UNIT, and what rounding took from the latter, for v from LEAST to MOST, or what
    rounding may add to them. `low`, if given, is what rounding took from v. Neither overflows nor vanishes, nor does a
    quotient by the sum; multiplying by UNIT at the end rounds it once."""
    if v.dtype == tl.float64:
        biased, r = reduce(v, 1023 - 96, -1, low)
    else:
        biased, r = reduce(v, 127 - 48, -1, low)
    scale = from_exponent(biased, v)
    m = small_exp_less_1(r)
    unit = by_type(UNIT, v)
    base = scale + unit
    rest = tl.fma(scale, m, unit - (base - scale))
    sum = base + rest
    return tl.fma(scale, m, scale), sum, rest - (sum - base)


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
        biased, r = reduce(x, 1023)
    else:
        biased, r = reduce(x, 127)
    scale = from_exponent(biased, x)
    return tl.fma(scale, small_expm1(r), scale - 1.0)


@triton.jit
def expm1(x):
    """e^x - 1 for x <= 80. -0 gives 0."""
    return expm1_in_range(at_least(by_type(EXPM1_LOWEST, x), x))


@triton.jit
def reciprocal(x):
    """1 / x to an ULP, for x from 2^-126 to 2^126 in size: in float32 one instruction, where Triton's division takes
    nine, to scale what lies outside."""
    if x.dtype == tl.float64:
        return 1.0 / x
    else:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def exp2(x):
    """2^x for 16-bit results, to 2^-22 of it, or 0 below 2^-126: in float32, one instruction."""
    return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def divide(a, b, b_low, a_low=None):
    """(a + a_low) / (b + b_low) for 1 <= b < 2^60, where the low parts are what rounding took from the true ones."""
    inverse = reciprocal(b)
    quotient = a * inverse
    remainder = tl.fma(quotient, b_low, product_error(quotient, b, a))
    if a_low is not None:
        remainder -= a_low
    return tl.fma(remainder, -inverse, quotient)


@triton.jit
def corrected_inverse(b, b_low=None):
    """1 / (b + b_low), by one step of Newton's."""
    inverse = reciprocal(b)
    error = product_error(inverse, b, scalar(1.0, b))
    if b_low is not None:
        error += inverse * b_low
    return tl.fma(inverse, -error, inverse)


@triton.jit
def scaled_sigmoid(v, low=None):
    """sigma(v) / UNIT, for v as in `logistic`. Newton's step is for the digit that `reciprocal` may miss, where the CPU
    divides exactly; what rounding took from the sum is left out, which the GPU's wider bounds allow."""
    e, _, _ = logistic(v, low)
    return corrected_inverse(e + by_type(UNIT, v))


_LOG1P_FLOAT32 = hexes(
    "0x1.555556p-2 -0x1.555568p-1 0x1.c71e5ap-2 -0x1.55572ap-2 0x1.1092c4p-2 -0x1.be67f4p-3 0x1.60d1a4p-3 "
    "-0x1.e61bep-4 0x1.fe8334p-5 -0x1.585d92p-6 0x1.b1cc46p-9"
)
_LOG1P_FLOAT64 = hexes(
    "0x1.5555555555555p-2 -0x1.55555555554ecp-1 0x1.c71c71c7154eep-2 -0x1.55555553b70ap-2 0x1.111110de4d962p-2 "
    "-0x1.c71c6a13778bbp-3 0x1.8617fcdad69f8p-3 -0x1.5551accff911ap-3 0x1.2f4f198c2d65cp-3 -0x1.108ccf1b05fd7p-3 "
    "0x1.ec427825f8992p-4 -0x1.b96ac95917f8ep-4 0x1.806ba6ee27531p-4 -0x1.3a6068db78a33p-4 0x1.cef47faa82dd7p-5 "
    "-0x1.250fd81ac5a6p-5 0x1.2fbe064547908p-6 -0x1.e77c87c4ea652p-8 0x1.19303fd19055fp-9 -0x1.9c15ff0d36fd6p-12 "
    "0x1.1ec698b2fa0e3p-15"
)


@triton.jit
def log1p_rest(x):
    """log(1 + x) = 3/4 x (1 + rest) for 0 <= x <= 1, where the rest is small at 1 and is rounded the less for it."""
    if x.dtype == tl.float64:
        return polynomial(x, _LOG1P_FLOAT64, 20)
    else:
        return polynomial(x, _LOG1P_FLOAT32, 10)


_LOG_FLOAT32 = hexes("0x1.55555cp-1 0x1.997b8cp-2 0x1.2efa24p-2")
_LOG_FLOAT64 = hexes(
    "0x1.5555555555558p-1 0x1.9999999995284p-2 0x1.2492492e03d5p-2 0x1.c71c62c9cb7e9p-3 0x1.7462bd218b3e7p-3 "
    "0x1.39fd3c2df8ce9p-3 0x1.2b66b9bfa7252p-3"
)


@triton.jit
def log1p_of_sum(x):
    """log(1 + x) for 0 <= x < 2^60. The C++ kernels have it for float64 alone; float32's polynomial is
    fpminimax((2 atanh(sqrt(x)) - 2 sqrt(x)) / (x sqrt(x)), 2, [|SG...|], [2^-60;0.0295], relative)."""
    u = 1.0 + x
    low = tl.where(x < 1.0, x - (u - 1.0), 1.0 - (u - x))
    if x.dtype == tl.float64:
        k = (u.to(tl.int64, bitcast=True) - 0x3FE6A09E667F3BCD) >> 52
        scale = from_exponent(1023 - k, x)
    else:
        k = (u.to(tl.int32, bitcast=True) - 0x3F3504F3) >> 23
        scale = from_exponent(127 - k, x)
    n = k.to(x.dtype)
    z = (scale * u - 1.0) + scale * low
    s = divide(z, z + 2.0, z * 0.0)
    t = s * s
    if x.dtype == tl.float64:
        rest = -s * (z - t * polynomial(t, _LOG_FLOAT64, 6))
        return tl.fma(n, scalar(_LN2_FLOAT64[0], x), z + tl.fma(n, scalar(_LN2_FLOAT64[1], x), rest))
    else:
        rest = -s * (z - t * polynomial(t, _LOG_FLOAT32, 2))
        return tl.fma(n, scalar(_LN2_FLOAT32[0], x), z + tl.fma(n, scalar(_LN2_FLOAT32[1], x), rest))


_SINE_SQUARED_FLOAT32 = hexes("-0x1.555554p-2 0x1.6c15d4p-5 -0x1.9fc19ap-9 0x1.1bc142p-13")
_SINE_SQUARED_FLOAT64 = hexes(
    "-0x1.5555555555555p-2 0x1.6c16c16c16b76p-5 -0x1.a01a01a00ef28p-9 0x1.27e4fb721c251p-13 -0x1.1eed8c371bba6p-18 "
    "0x1.9395b7848863p-24 -0x1.ae036ce24b88fp-30 0x1.55a4ee506e14p-36"
)
_SINE_TWICE_FLOAT32 = hexes("-0x1.555556p0 0x1.111148p-2 -0x1.a02cfap-6 0x1.74396ep-10 -0x1.d945bcp-15")
_SINE_TWICE_FLOAT64 = hexes(
    "-0x1.5555555555555p0 0x1.11111111110bap-2 -0x1.a01a01a013743p-6 0x1.71de3a51d8719p-10 -0x1.ae645468748abp-15 "
    "0x1.6123aedc2e907p-20 -0x1.ae3b16ec86665p-26 0x1.874437f3479abp-32"
)
_HALF_PI_FLOAT32 = hexes("0x1.92p0 0x1.fap-12 0x1.54442ep-20")
_HALF_PI_FLOAT64 = hexes("0x1.921fb544p0 0x1.0b4611a6p-34 0x1.3198a2e037073p-69")
_2_OVER_PI = tl.constexpr(float.fromhex("0x1.45f306dc9c883p-1"))


@triton.jit
def _reduced_product(product, error, offset: tl.constexpr, half_pi: tl.constexpr, round_to_integer: tl.constexpr):
    shift = scalar(round_to_integer, product)
    shifted = tl.fma(product, scalar(_2_OVER_PI, product), scalar(offset, product)) + shift
    n = shifted - shift - offset
    exact = tl.fma(n, scalar(-half_pi[1], n), tl.fma(n, scalar(-half_pi[0], n), product))
    rest = tl.fma(n, scalar(-half_pi[2], n), error)
    high = exact + rest
    return high, exact - high + rest, shifted


@triton.jit
def reduced_angle(a, b, offset: tl.constexpr):
    """a b + offset pi/2 (offset is 0 or 1/2) less the nearest multiple of pi/2: high, low, whether that was odd."""
    product = a * b
    error = product_error(a, b, product)
    inside = tl.abs(product) < (2.0**23 if product.dtype == tl.float64 else 2.0**18)
    product = tl.where(inside, product, product * 0.0)
    error = tl.where(inside, error, 0.0)
    if product.dtype == tl.float64:
        high, low, shifted = _reduced_product(product, error, offset, _HALF_PI_FLOAT64, 1.5 * 2.0**52)
        return high, low, (shifted.to(tl.int64, bitcast=True) & 1) != 0
    else:
        high, low, shifted = _reduced_product(product, error, offset, _HALF_PI_FLOAT32, 1.5 * 2.0**23)
        return high, low, (shifted.to(tl.int32, bitcast=True) & 1) != 0


@triton.jit
def sine_squared_curve(square):
    """(sin(r)^2 - r^2) / r^4 of r^2."""
    if square.dtype == tl.float64:
        return polynomial(square, _SINE_SQUARED_FLOAT64, 7)
    else:
        return polynomial(square, _SINE_SQUARED_FLOAT32, 3)


@triton.jit
def sine_twice_curve(square):
    """(sin(2r) / r - 2) / r^2 of r^2."""
    if square.dtype == tl.float64:
        return polynomial(square, _SINE_TWICE_FLOAT64, 7)
    else:
        return polynomial(square, _SINE_TWICE_FLOAT32, 4)


@triton.jit
def sine_squared(r, r_low, odd):
    """The square of the sine of what the angle was reduced from: high, low."""
    square = r * r
    square_low = tl.fma(2.0 * r, r_low, product_error(r, r, square))
    bend = square * sine_squared_curve(square)
    tail = tl.fma(square, bend, tl.fma(square_low, 2.0 * bend, square_low))
    complement = 1.0 - square
    lead = tl.where(odd, complement, square)
    rest = tl.where(odd, 1.0 - complement - square - tail, tail)
    high = lead + rest
    return high, lead - high + rest


@triton.jit
def _expm1_minus_x(
    x,
    bounded,
    bias: tl.constexpr,
    round_to_integer: tl.constexpr,
    ln2: tl.constexpr,
    coefficients: tl.constexpr,
    degree: tl.constexpr,
):
    shift = scalar(round_to_integer + bias, x)
    shifted = tl.fma(bounded, scalar(LOG2_E, x), shift)
    n = shifted - shift
    r = tl.fma(n, scalar(-ln2[1], x), tl.fma(n, scalar(-ln2[0], x), bounded))
    curved = r * r * polynomial(r, coefficients, degree)
    scale = from_exponent(shifted.to(tl.int64 if x.dtype == tl.float64 else tl.int32, bitcast=True), x)
    constant = scale - 1.0
    line = constant - x
    linear = tl.fma(scale, r, line)
    high = tl.fma(scale, curved, linear)
    low = tl.fma(scale, curved, linear - high) + (tl.fma(scale, r, line - linear) + (constant - (line + x)))
    return high, low


@triton.jit
def expm1_minus_x(x):
    """e^x - 1 - x for x <= 0: high, low. The latter is NaN where the whole is infinite."""
    bounded = at_least(by_type(EXPM1_LOWEST, x), x)
    if x.dtype == tl.float64:
        return _expm1_minus_x(x, bounded, 1023, 1.5 * 2.0**52, _LN2_FLOAT64, _EXPM1_FLOAT64, 10)
    else:
        return _expm1_minus_x(x, bounded, 127, 1.5 * 2.0**23, _LN2_FLOAT32, _EXPM1_FLOAT32, 5)
