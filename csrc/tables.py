"""Writes tables.h with Sollya: `python csrc/tables.py`, about two minutes; needs sollya, mpmath and clang-format.

A piece is the minimax polynomial, in relative error, of the distance from a point whose value happens to be a float to
2^-30 or better, so that the largest term is not rounded. The pieces' bounds are where `linear t + quadratic t^2` rounds
to another of the numbers 0 to 7, which `most` just does not leave; `linear` was chosen by trying: it balances the errors
of the pieces. `share` says how far to the right in its piece the point lies: where a function falls fast, far to the
right, so that all terms have one sign.
"""

import subprocess
from pathlib import Path

import mpmath
import numpy

mpmath.mp.prec = 160
GRID = 2.0**-14  # of the points: the distance from one to a float of its piece is a float


def to_float(x):
    return float(numpy.float32(float(x)))


def hexadecimal(x):
    mantissa, exponent = float(x).hex().split("p")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}p{int(exponent)}f"


def minimax(function, point, value, degree, low, high):
    """The coefficients, and the largest error in units of 2^-24 of the function's value."""
    shifted = function.replace("@", f"({point!r}+x)")
    powers, given = (f"[|1,...,{degree}|]", f",{value!r}") if value else (f"[|1,...,{degree}|]", "")
    program = (
        "verbosity=0!;prec=160!;display=hexadecimal!;"
        f"p=fpminimax({shifted},{powers},[|SG...|],[{low!r};{high!r}],relative,floating{given});"
        f"for i from 0 to {degree} do print(coeff(p,i));"
        f"display=decimal!;print(dirtyinfnorm(p/({shifted})-1,[{low!r};{high!r}])*2^24);quit;"
    )
    lines = subprocess.run(["sollya"], input=program, capture_output=True, text=True, check=True).stdout.split()
    return [float.fromhex(line) for line in lines[: degree + 1]], float(lines[degree + 1])


def table(formula, comment, function, exact, degree, most, linear, share, through_zero, split, far):
    most, linear = to_float(most), to_float(linear)
    quadratic = to_float((7.499 - linear * most) / most**2)
    bounds = [0.0] + [2 * y / (linear + (linear**2 + 4 * quadratic * y) ** 0.5) for y in numpy.arange(0.5, 7)] + [most]
    columns, largest = [], 0
    for piece, (low, high) in enumerate(zip(bounds, bounds[1:], strict=False)):
        low, high = float(low) * (1 - 2**-20), float(high) * (1 + 2**-20)
        point = value = 0.0
        if piece or not through_zero:
            grid = numpy.round((low + share * (high - low)) / GRID) * GRID + numpy.arange(-300, 301) * GRID
            errors = {float(p): exact(mpmath.mpf(float(p))) for p in grid}
            point = min(errors, key=lambda p: abs(to_float(errors[p]) / errors[p] - 1))
            value = to_float(errors[point])
        coefficients, error = minimax(function, point, value, degree, max(low, 2**-20) - point, high - point)
        columns.append([point, *coefficients])
        largest = max(largest, error)
    rows = [", ".join(hexadecimal(column[i]) for column in columns) for i in range(degree + 2)]
    return f"""
// {comment}: {largest:.2f} ULP at most
template <>
struct Pieces<{formula}<float>> : Tabulated<{str(split).lower()}, {str(far).lower()}> {{
  static constexpr float most = {hexadecimal(most)}, linear = {hexadecimal(linear)}, quadratic = {hexadecimal(quadratic)};
  static constexpr float points[8] = {{{rows[0]}}};
  static constexpr float coefficients[][8] = {{{", ".join(f"{{{row}}}" for row in rows[1:])}}};
}};
"""


HEAD = """// Written by tables.py, which says how.
#pragma once

#include "pieces.h"
#include "self_gated.h"
#include "shrinkage.h"
#include "sigmoids.h"

namespace fastact {
namespace {
"""
TAIL = """
}  // namespace
}  // namespace fastact
"""


def excess(x):
    return x * mpmath.erfc(x / mpmath.sqrt(2)) / 2


def tanh_exponent(x):
    return 2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf(44715) / 10**6 * x**3)


TABLES = [
    ("Tanh", "tanh t", "tanh(@)", mpmath.tanh, 7, 9.02, 1.65, 0.5, True, False, False),
    (
        "GELU",
        "t Phi(-t)",
        "(@*erfc(@/sqrt(2))/2)",
        excess,
        *(8, 5.35, 0.65, 0.84, True, True, True),
    ),
    (
        "GELUTanh",
        "t sigma(-v), with v as in GELUTanh",
        "(@/(1+exp(2*sqrt(2/pi)*(@+44715/1000000*@^3))))",
        lambda t: t / (1 + mpmath.exp(tanh_exponent(t))),
        *(8, 5.03, 0.72, 0.84, True, True, True),
    ),
    (
        "Tanhshrink",
        "(t - tanh t) / t^3",
        "((@-tanh(@))/@^3)",
        lambda t: (t - mpmath.tanh(t)) / t**3,
        *(7, 8, 1.65, 0.55, False, False, False),
    ),
]

if __name__ == "__main__":
    path = Path(__file__).with_name("tables.h")
    path.write_text(HEAD + "".join(table(*each) for each in TABLES) + TAIL)
    subprocess.run(["clang-format", "-i", str(path)], check=True)
