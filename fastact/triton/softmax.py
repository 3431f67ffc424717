"""Softmax and its kin: csrc/activations/softmax.h in Triton, and the kernels that take whole rows.

A program takes a tile of LANES rows and COLUMNS of their elements. Where that is all of the elements, one pass over
memory does: the tile stays in registers. Of longer rows, the first pass brings peaks and sums up to date tile by tile,
and a second one reads again, from the cache where the row fits there.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementwise import count_blocks, demote, promote
from .launch import COMPUTE_TYPE, cdiv, kernel_name, launch, power_of_2_from
from .layout import densely
from .math import (
    LARGEST_NUMBER,
    LOG2_E,
    at_most,
    by_type,
    exp2,
    from_exponent,
    highest_exponent,
    log1p_of_sum,
    reduce,
    scaled_exp_of_minus,
    small_exp_less_1,
    unscaled,
)

_RAISED = tl.constexpr(2.0**64)


@triton.jit
def _tile(lanes, columns, inner, ROWS: tl.constexpr, LANES: tl.constexpr, COLUMNS: tl.constexpr):
    """Where the program's first element lies; from there on, the offsets of its rows and of a row's elements; which of
    the rows there are. ROWS: rows lie one after another in memory; else `inner` of them side by side."""
    program = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    column = tl.arange(0, COLUMNS)
    if ROWS:
        first = program * LANES
        return first * columns, lane * columns, column, first + lane < lanes
    else:
        blocks = count_blocks(lanes, LANES)
        first = program % blocks * LANES
        return program // blocks * columns * inner + first, lane, column.to(tl.int64) * inner, first + lane < lanes


@triton.jit
def _sum_error(a, b, sum):
    """What rounding took from the sum of a and b (Knuth 1969)."""
    rounded_b = sum - a
    return (a - (sum - rounded_b)) + (b - rounded_b)


@triton.jit
def _raised_exp(x, peak, EXACT: tl.constexpr, NARROW: tl.constexpr = False):
    """2^64 e^(x - peak): no subnormal numbers, so that a single power of two will do. The difference's rounding error
    is made good, unless EXACT inputs have so few digits that it does not matter. NARROW: to the digits of 16 bits."""
    difference = x - peak
    if NARROW:
        return exp2(tl.fma(difference, LOG2_E, 64.0))
    low = None if EXACT else _sum_error(x, -peak, difference)
    if x.dtype == tl.float64:
        biased, r = reduce(difference, 1023 + 64, low=low)
        vanishes = difference <= -746.0
    else:
        biased, r = reduce(difference, 127 + 64, low=low)
        vanishes = difference <= -104.0
    scale = from_exponent(biased, x)
    return tl.where(vanishes, 0.0, tl.fma(scale, small_exp_less_1(r), scale))


@triton.jit
def _peak(x):
    """The largest of each row, or the lowest number: -infinity would make all differences NaN."""
    peak = tl.max(x, axis=1)
    lowest = -by_type(LARGEST_NUMBER, peak)
    return tl.where(peak < lowest, lowest, peak)


@triton.jit
def _load(x_ptr, offsets, mask, ACTIVATION: tl.constexpr, COMPUTE: tl.constexpr):
    if ACTIVATION == "softmin":
        return -promote(tl.load(x_ptr + offsets, mask=mask, other=float("inf")), COMPUTE)
    else:
        return promote(tl.load(x_ptr + offsets, mask=mask, other=-float("inf")), COMPUTE)


@triton.jit
def _sum(e, EXACT: tl.constexpr):
    """Over a row. Of float32, the leading 10 bits of numbers up to 2^64 are summed apart: those of 2^14 make up no more
    than the 24 digits, so that nothing is rounded, and what is rounded of the rest is a thousand times as small."""
    if EXACT or e.dtype == tl.float64:
        return tl.sum(e, axis=1)
    else:
        leading = (e + 1.5 * 2.0**78) - 1.5 * 2.0**78
        return tl.sum(leading, axis=1) + tl.sum(e - leading, axis=1)


@triton.jit
def _sums(x, peak, e, ACTIVATION: tl.constexpr, EXACT: tl.constexpr):
    """The sums over what lies below the peak, and over what is at it; for a logarithm apart."""
    if ACTIVATION == "log_softmax":
        at_peak = x == peak
        peaks = tl.sum(tl.where(at_peak, _RAISED, 0.0).to(e.dtype), axis=1)
        return _sum(tl.where(at_peak, 0.0, e), EXACT), peaks
    else:
        total = _sum(e, EXACT)
        return total, total * 0.0


@triton.jit
def _finish(below, peaks, peak, ACTIVATION: tl.constexpr):
    """The factor of all exponentials or, for a logarithm, what to subtract, in two parts."""
    if ACTIVATION == "log_softmax":
        logarithm = log1p_of_sum((below + (peaks - _RAISED)) * (1.0 / _RAISED))
        logarithm = tl.where(peaks > 0, logarithm, float("nan"))
        high = peak + logarithm
        return high, _sum_error(peak, logarithm, high)
    else:
        inverse = 1.0 / below
        inverse = tl.fma(tl.fma(-below, inverse, tl.full((), 1.0, below.dtype)), inverse, inverse)
        return inverse, inverse


@triton.jit
def _write(y_ptr, offsets, mask, x, e, high, low, ACTIVATION: tl.constexpr):
    y = (x - high[:, None]) - low[:, None] if ACTIVATION == "log_softmax" else e * high[:, None]
    tl.store(y_ptr + offsets, demote(y, y_ptr.dtype.element_ty), mask=mask)


@triton.jit(repr=kernel_name)
def softmax_forward(
    ins, outs, lanes, columns, inner,
    NAME: tl.constexpr, ACTIVATION: tl.constexpr, ROWS: tl.constexpr, EXACT: tl.constexpr, COMPUTE: tl.constexpr,
    LANES: tl.constexpr, COLUMNS: tl.constexpr, ONE_PASS: tl.constexpr,
):  # fmt: skip
    NARROW: tl.constexpr = outs[0].dtype.element_ty.primitive_bitwidth == 16
    start, lane, column, inside = _tile(lanes, columns, inner, ROWS, LANES, COLUMNS)
    x_ptr = ins[0] + start
    y_ptr = outs[0] + start
    number = tl.arange(0, COLUMNS)
    offsets = lane[:, None] + column[None, :]
    if ONE_PASS:
        mask = inside[:, None] & (number < columns)[None, :]
        x = _load(x_ptr, offsets, mask, ACTIVATION, COMPUTE)
        peak = _peak(x)
        e = _raised_exp(x, peak[:, None], EXACT, NARROW)
        below, peaks = _sums(x, peak[:, None], e, ACTIVATION, EXACT)
        high, low = _finish(below, peaks, peak, ACTIVATION)
        _write(y_ptr, offsets, mask, x, e, high, low, ACTIVATION)
    else:
        peak = _peak(tl.full((LANES, 1), -float("inf"), COMPUTE))
        below = tl.zeros((LANES,), tl.float64)
        peaks = tl.zeros((LANES,), tl.float64)
        first = tl.full((), 0, tl.int64)
        while first < columns:
            mask = inside[:, None] & (first + number < columns)[None, :]
            x = _load(x_ptr, offsets + first * inner, mask, ACTIVATION, COMPUTE)
            before = peak
            peak = _peak(x)
            peak = tl.where(before > peak, before, peak)
            factor = _raised_exp(before, peak, False).to(tl.float64) * (1.0 / _RAISED)
            e = _raised_exp(x, peak[:, None], EXACT, NARROW)
            more, more_peaks = _sums(x, peak[:, None], e, ACTIVATION, EXACT)
            below = tl.where(before == peak, below, (below + peaks) * factor) + more
            peaks = tl.where(before == peak, peaks, 0.0) + more_peaks
            first += COLUMNS
        high, low = _finish(below.to(COMPUTE), peaks.to(COMPUTE), peak, ACTIVATION)
        first = tl.full((), 0, tl.int64)
        while first < columns:
            mask = inside[:, None] & (first + number < columns)[None, :]
            x = _load(x_ptr, offsets + first * inner, mask, ACTIVATION, COMPUTE)
            e = None if ACTIVATION == "log_softmax" else _raised_exp(x, peak[:, None], EXACT, NARROW)
            _write(y_ptr, offsets + first * inner, mask, x, e, high, low, ACTIVATION)
            first += COLUMNS


@triton.jit
def _sum_of_terms(grad, y, ACTIVATION: tl.constexpr):
    return tl.sum(grad if ACTIVATION == "log_softmax" else grad * y, axis=1)


@triton.jit
def _write_gradient(out_ptr, offsets, mask, grad, y, sum, ACTIVATION: tl.constexpr):
    if ACTIVATION == "log_softmax":
        lifted, m = scaled_exp_of_minus(at_most(highest_exponent(y), -y))
        out = tl.where(y > -0.34, tl.fma(-m, sum, grad - sum), tl.fma(-unscaled(lifted, m), sum, grad))
    elif ACTIVATION == "softmin":
        out = y * (sum - grad)
    else:
        out = y * (grad - sum)
    tl.store(out_ptr + offsets, demote(out, out_ptr.dtype.element_ty), mask=mask)


@triton.jit(repr=kernel_name)
def softmax_backward(
    ins, outs, lanes, columns, inner,
    NAME: tl.constexpr, ACTIVATION: tl.constexpr, ROWS: tl.constexpr, COMPUTE: tl.constexpr,
    LANES: tl.constexpr, COLUMNS: tl.constexpr, ONE_PASS: tl.constexpr,
):  # fmt: skip
    start, lane, column, inside = _tile(lanes, columns, inner, ROWS, LANES, COLUMNS)
    grad_ptr = ins[0] + start
    saved_ptr = ins[1] + start
    out_ptr = outs[0] + start
    number = tl.arange(0, COLUMNS)
    offsets = lane[:, None] + column[None, :]
    mask = inside[:, None] & (number < columns)[None, :]
    if ONE_PASS:
        grad = promote(tl.load(grad_ptr + offsets, mask=mask, other=0.0), COMPUTE)
        y = promote(tl.load(saved_ptr + offsets, mask=mask, other=0.0), COMPUTE)
        sum = _sum_of_terms(grad, y, ACTIVATION)
        _write_gradient(out_ptr, offsets, mask, grad, y, sum[:, None], ACTIVATION)
    else:
        total = tl.zeros((LANES,), tl.float64)
        first = tl.full((), 0, tl.int64)
        while first < columns:
            mask = inside[:, None] & (first + number < columns)[None, :]
            grad = promote(tl.load(grad_ptr + offsets + first * inner, mask=mask, other=0.0), COMPUTE)
            y = promote(tl.load(saved_ptr + offsets + first * inner, mask=mask, other=0.0), COMPUTE)
            total += _sum_of_terms(grad, y, ACTIVATION)
            first += COLUMNS
        first = tl.full((), 0, tl.int64)
        while first < columns:
            mask = inside[:, None] & (first + number < columns)[None, :]
            grad = promote(tl.load(grad_ptr + offsets + first * inner, mask=mask, other=0.0), COMPUTE)
            y = promote(tl.load(saved_ptr + offsets + first * inner, mask=mask, other=0.0), COMPUTE)
            _write_gradient(out_ptr, offsets + first * inner, mask, grad, y, total.to(COMPUTE)[:, None], ACTIVATION)
            first += COLUMNS


LARGEST_TILE = 16384  # elements of a row that a program holds: 32 to a thread are too many registers
_THREAD = 16  # elements of a tile to a thread, while there are threads to add
_SHORT = 2048  # elements in a tile of short rows
_SIDE_BY_SIDE = 32  # rows in a tile at least where they lie side by side in memory: of 16-bit types 64 bytes


class _Rows(NamedTuple):
    """A dense tensor as rows along a dimension, each with so many columns, and the tiles they are cut into."""

    lanes: int
    columns: int
    inner: int
    programs: int
    tile_lanes: int
    tile_columns: int
    one_pass: bool

    @property
    def num_warps(self) -> int:
        return min(32, max(1, self.tile_lanes * self.tile_columns // (32 * _THREAD)))


def _rows(dense: Tensor, dim: int) -> _Rows:
    n, largest = dense.numel(), LARGEST_TILE * 4 // max(4, dense.itemsize)
    if n == 0 or dense.dim() == 0 or dense.size(dim) == 1:
        columns, inner = 1, 1
    else:
        columns, inner = dense.size(dim), dense.stride(dim)
    lanes, batches = (n // columns, 1) if inner == 1 else (inner, n // (columns * inner))
    tile_columns = power_of_2_from(columns)
    widest = max(1 if inner == 1 else _SIDE_BY_SIDE, _SHORT // tile_columns)
    tile_lanes = min(widest, power_of_2_from(max(1, lanes)))
    one_pass = tile_lanes * tile_columns <= largest
    if not one_pass:
        tile_columns = largest // 4 // tile_lanes
    programs = batches * cdiv(lanes, tile_lanes)
    return _Rows(lanes, columns, inner, programs, tile_lanes, tile_columns, one_pass)


def forward(name: str, input: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """The output of an activation along `dim`, in the input's dtype or, for 16-bit types, in that or float32."""
    input = densely(input, input)
    output = torch.empty_like(input, dtype=dtype)
    rows = _rows(input, dim)
    launch(
        softmax_forward, rows.programs, input.device,
        (input,), (output,), rows.lanes, rows.columns, rows.inner, f"{name}_forward", name, rows.inner == 1,
        input.dtype.itemsize == 2, COMPUTE_TYPE[input.dtype], rows.tile_lanes, rows.tile_columns, rows.one_pass,
        num_warps=rows.num_warps,
    )  # fmt: skip
    return output


def backward(name: str, grad: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """The gradient of the input, which had this dtype."""
    output = densely(output, output)
    grad = densely(grad, output)
    grad_input = torch.empty_like(output, dtype=dtype)
    rows = _rows(output, dim)
    launch(
        softmax_backward, rows.programs, grad.device,
        (grad, output), (grad_input,), rows.lanes, rows.columns, rows.inner, f"{name}_backward", name, rows.inner == 1,
        COMPUTE_TYPE[grad.dtype], rows.tile_lanes, rows.tile_columns, rows.one_pass,
        num_warps=rows.num_warps,
    )  # fmt: skip
    return grad_input
