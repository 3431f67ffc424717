"""Writes lut8_tables.h, in seconds: `python csrc/activations/lut8_tables.py`; needs mpmath and clang-format.

The pieces' bounds are where `linear t + quadratic t^2` rounds to another of the numbers 0 to 7, which `most` just does
not leave. A piece is a polynomial of the distance from a point in it, near to the best in relative error. The point is
a zero of the function if there is one, and else one whose value happens to be a float to 2^-30 or better: the largest
term is not rounded. `share` says how far to the right in its piece it lies: far where a function falls fast, for the
terms then have one sign. `linear` and `share` were chosen by trying. Numbers left of `least` are not read from the
table, and that far to the right the function is next to nothing beside what it is added to: from there on the error
counts as a part of the function's value at `least`.
"""

import itertools
import subprocess
from pathlib import Path

import mpmath
import numpy

mpmath.mp.prec = 160
GRID = 2.0**-14  # of the centres: the distance from one to a float of its piece is a float
NODES = 80


def to_float(x):
    return float(numpy.float32(float(x)))


def hexadecimal(x):
    mantissa, exponent = float(x).hex().split("p")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}p{int(exponent)}f"


def lawson(basis, values, weights):
    """Coefficients of the columns with nearly the least largest error, times the weights (Lawson 1961)."""
    importance = numpy.ones(len(values))
    best, least = None, numpy.inf
    for _ in range(40):
        scale = weights * numpy.sqrt(importance)
        coefficients = numpy.linalg.lstsq(basis * scale[:, None], values * scale, rcond=None)[0]
        error = numpy.abs((basis @ coefficients - values) * weights)
        if error.max() < least:
            best, least = coefficients, error.max()
        importance = importance * error + 1e-300
        importance /= importance.sum()
    return best


def fit(function, point, value, degree, low, high, floor):
    """The coefficients, and the largest error in units of 2^-24 of the function's value, or of the floor."""
    unit = numpy.cos(numpy.pi * (numpy.arange(NODES) + 0.5) / NODES)
    distances = (low + high) / 2 - point + (high - low) / 2 * unit
    true = [function(mpmath.mpf(point) + mpmath.mpf(d)) for d in distances]
    sizes = [max(abs(y), floor) for y in true]
    relative = numpy.array([float(abs(d / size)) for d, size in zip(distances, sizes, strict=True)])
    left = [(y - value) / mpmath.mpf(d) for d, y in zip(distances, true, strict=True)]  # for degrees 1 and on
    width = max(abs(low - point), abs(high - point))
    scaled = distances / width
    coefficients = [value]
    for power in range(1, degree + 1):  # each is rounded, and those after it make up for that
        basis = scaled[:, None] ** numpy.arange(degree - power + 1)
        leading = lawson(basis, numpy.array([float(y) for y in left]), relative * numpy.abs(scaled) ** (power - 1))[0]
        coefficients.append(to_float(leading))
        left = [(y - coefficients[-1]) / mpmath.mpf(d) for d, y in zip(distances, left, strict=True)]
    result = [mpmath.polyval(coefficients[::-1], mpmath.mpf(d)) for d in distances]
    errors = [abs(p - y) / size for p, y, size in zip(result, true, sizes, strict=True)]
    return coefficients, float(max(errors)) * 2**24


def table(formula, comment, function, degree, most, linear, share, split=False, least=None, zero=None):
    most, linear, least = to_float(most), to_float(linear), least and to_float(least)
    quadratic = to_float((7.499 - linear * most) / most**2)
    bounds = [0.0, *(2 * y / (linear + (linear**2 + 4 * quadratic * y) ** 0.5) for y in numpy.arange(0.5, 7)), most]
    columns, errors = [], []
    for low, high in itertools.pairwise(bounds):
        low, high = float(low) * (1 - 2**-20), float(high) * (1 + 2**-20)
        if zero is not None and low <= zero <= high:
            point = to_float(zero)
        else:
            grid = numpy.round((low + share * (high - low)) / GRID) * GRID + numpy.arange(-300, 301) * GRID
            values = {float(each): function(mpmath.mpf(float(each))) for each in grid}
            point = min(values, key=lambda each: abs(to_float(values[each]) / values[each] - 1))
        floor = abs(function(-least)) if least and low > -least else 0
        coefficients, error = fit(function, point, to_float(function(mpmath.mpf(point))), degree, low, high, floor)
        columns.append([point, *coefficients])
        errors.append(0.0 if floor else error)
    print(formula, *(f"{low:.3f}({error:.2f})" for low, error in zip(bounds[:-1], errors, strict=True)))
    rows = [", ".join(hexadecimal(column[i]) for column in columns) for i in range(degree + 2)]
    return f"""
// {comment}: {max(errors):.2f} ULP at most{f", down to x = {least:.4g}" if least and least > -most else ""}
template <>
struct Lut8<{formula}> : Lut8Form<{str(split).lower()}, {str(least is not None).lower()}> {{
  static constexpr float {f"least = {hexadecimal(least)}, " if least else ""}most = {hexadecimal(most)};
  static constexpr float linear = {hexadecimal(linear)}, quadratic = {hexadecimal(quadratic)};
  static constexpr float centres[8] = {{{rows[0]}}};
  static constexpr float coefficients[][8] = {{{", ".join(f"{{{row}}}" for row in rows[1:])}}};
}};
"""


HEAD = """// Written by lut8_tables.py, which says how.
#pragma once

#include "activations/lowp.h"
#include "math/lut8.h"
#include "activations/self_gated.h"
#include "activations/shrinkage.h"
#include "activations/sigmoids.h"
#include "activations/softplus.h"

namespace fastact {
namespace {
"""
TAIL = """
template <>
struct Lut8<LogSigmoid<float>> : Lut8<UnitSoftplus<float>> {
  static constexpr bool mirrored = true;
};
template <>
struct Lut8<Derivative<lowp::SiLU>> : Lut8<Derivative<SiLU<float>>> {};
template <>
struct Lut8<Derivative<lowp::QuickGELU>> : Lut8<Derivative<QuickGELU<float>>> {};
template <>
struct Lut8<Derivative<lowp::GELUTanh>> : Lut8<Derivative<GELUTanh<float>>> {};

}  // namespace
}  // namespace fastact
"""


def gelu(x):
    return x * mpmath.ncdf(x)


def gelu_tanh(x):
    return x / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))


def silu(x):
    return x / (1 + mpmath.exp(-x))


def quick_gelu(x):
    return x / (1 + mpmath.exp(mpmath.mpf("-1.702") * x))


def tanh_ratio_squared(t):
    return (mpmath.tanh(t) / t) ** 2 if t else mpmath.mpf(1)


def table_of_derivative(formula, function, degree, least, most, linear, zero):
    def slope(t):
        return mpmath.diff(function, -t)

    zero = mpmath.findroot(slope, zero)
    name = f"Derivative<{formula}<float>>"
    return table(name, "f'(-t)", slope, degree, most, linear, share=0.75, least=least, zero=zero)


# Left of it both GELUs have formulas. Were it -5.3, inputs from -8 to -5 would pay for those and for the table.
GELU_LEAST = -4.9


def tables_of_gelu(formula, function, most, derivative_most, linear, share):
    def left(t):
        return -function(-t)

    yield table(f"{formula}<float>", "-f(-t)", left, 8, most, linear, share, split=True, least=GELU_LEAST, zero=0)
    yield table_of_derivative(formula, function, 9, GELU_LEAST, derivative_most, linear=1.0, zero=0.75)


def tables():
    yield table("Tanh<float>", "tanh t", mpmath.tanh, degree=7, most=9.02, linear=1.65, share=0.5, zero=0)
    yield table(
        "Tanhshrink<float>",
        "(t - tanh t) / t^3",
        lambda t: (t - mpmath.tanh(t)) / t**3 if t else mpmath.mpf(1) / 3,
        degree=7,
        most=8,
        linear=1.65,
        share=0.55,
    )
    yield table(
        "Derivative<Tanhshrink<float>>",
        "(tanh t / t)^2",
        tanh_ratio_squared,
        degree=7,
        most=9.02,
        linear=1.25,
        share=0.5,
    )
    yield from tables_of_gelu("GELU", gelu, most=5.35, derivative_most=5.93, linear=0.75, share=0.82)
    yield from tables_of_gelu("GELUTanh", gelu_tanh, most=5.03, derivative_most=5.5, linear=0.7, share=0.88)
    yield table(
        "UnitSoftplus<float>",
        "log(1 + e^-t)",
        lambda t: mpmath.log1p(mpmath.exp(-t)),
        degree=8,
        most=15,
        linear=0.55,
        share=0.65,
        least=-12.5,
    )
    yield table_of_derivative("SiLU", silu, degree=8, least=-12.6, most=20, linear=0.75, zero=1.3)
    yield table_of_derivative("QuickGELU", quick_gelu, degree=8, least=-4.95, most=11.75, linear=1.27, zero=0.75)


if __name__ == "__main__":
    path = Path(__file__).with_name("lut8_tables.h")
    path.write_text(HEAD + "".join(tables()) + TAIL)
    subprocess.run(["clang-format", "-i", str(path)], check=True)
