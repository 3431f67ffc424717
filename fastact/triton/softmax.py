"""Softmax and its kin: csrc/activations/softmax.h in Triton, and the kernels that take whole rows.

A program takes a tile of LANES rows and COLUMNS of their elements. Where that is all of the elements, one pass over
memory does: the tile stays in registers. Of longer rows, the first pass brings peaks and sums up to date tile by tile,
and a second one reads again, from the cache where the row fits there. Each tile is asked for before the one before it
is looked at: of such rows few programs are under way at a time, and none may wait for memory and for others in turn.
"""

import triton
import triton.language as tl

from .elementwise import count_blocks, kernel_name
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
    sum_error,
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
        offsets = (lane * columns)[:, None] + column[None, :]
        return first * columns, offsets, (first + lane < lanes)[:, None]
    else:
        blocks = count_blocks(lanes, LANES)
        first = program % blocks * LANES
        offsets = lane[:, None] + (column.to(tl.int64) * inner)[None, :]
        return program // blocks * columns * inner + first, offsets, (first + lane < lanes)[:, None]


@triton.jit
def _further(inner, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """How far the next tile lies."""
    return COLUMNS if ROWS else inner * COLUMNS


@triton.jit
def _there(first, columns, COLUMNS: tl.constexpr):
    """Which columns of a tile there are."""
    return (first + tl.arange(0, COLUMNS) < columns)[None, :]


@triton.jit
def _raised_exp(x, peak, EXACT: tl.constexpr, NARROW: tl.constexpr = False):
    """2^64 e^(x - peak): no subnormal numbers, so that a single power of two will do. The difference's rounding error
    is made good, unless EXACT inputs have so few digits that it does not matter. NARROW: to the digits of 16 bits."""
    difference = x - peak
    if NARROW:
        return exp2(tl.fma(difference, LOG2_E, 64.0))
    low = None if EXACT else sum_error(x, -peak, difference)
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
def _load(places, mask, ACTIVATION: tl.constexpr):
    return tl.load(places, mask=mask, other=float("inf") if ACTIVATION == "softmin" else -float("inf"))


@triton.jit
def _operand(x, ACTIVATION: tl.constexpr, COMPUTE: tl.constexpr):
    """What has the exponentials taken of it."""
    x = x.to(COMPUTE)
    return -x if ACTIVATION == "softmin" else x


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
        return high, sum_error(peak, logarithm, high)
    else:
        inverse = 1.0 / below
        inverse = tl.fma(tl.fma(-below, inverse, tl.full((), 1.0, below.dtype)), inverse, inverse)
        return inverse, inverse


@triton.jit
def _write(places, mask, x, e, high, low, ACTIVATION: tl.constexpr):
    y = (x - high[:, None]) - low[:, None] if ACTIVATION == "log_softmax" else e * high[:, None]
    tl.store(places, y.to(places.dtype.element_ty), mask=mask)


@triton.jit(repr=kernel_name)
def softmax_forward(
    x_ptr, y_ptr, lanes, columns, inner,
    NAME: tl.constexpr, ACTIVATION: tl.constexpr, ROWS: tl.constexpr, EXACT: tl.constexpr, COMPUTE: tl.constexpr,
    LANES: tl.constexpr, COLUMNS: tl.constexpr, ONE_PASS: tl.constexpr,
):  # fmt: skip
    NARROW: tl.constexpr = y_ptr.dtype.element_ty.primitive_bitwidth == 16
    start, offsets, inside = _tile(lanes, columns, inner, ROWS, LANES, COLUMNS)
    x_ptr += start
    y_ptr += start
    mask = inside & _there(0, columns, COLUMNS)
    if ONE_PASS:
        x = _operand(_load(x_ptr + offsets, mask, ACTIVATION), ACTIVATION, COMPUTE)
        peak = _peak(x)
        e = _raised_exp(x, peak[:, None], EXACT, NARROW)
        below, peaks = _sums(x, peak[:, None], e, ACTIVATION, EXACT)
        high, low = _finish(below, peaks, peak, ACTIVATION)
        _write(y_ptr + offsets, mask, x, e, high, low, ACTIVATION)
    else:
        further = _further(inner, ROWS, COLUMNS)
        peak = _peak(tl.full((LANES, 1), -float("inf"), COMPUTE))
        below = tl.zeros((LANES,), tl.float64)
        peaks = tl.zeros((LANES,), tl.float64)
        tile_ptr = x_ptr
        loaded = _load(tile_ptr + offsets, mask, ACTIVATION)
        for first in range(0, columns, COLUMNS):
            x = _operand(loaded, ACTIVATION, COMPUTE)
            tile_ptr += further
            loaded = _load(tile_ptr + offsets, inside & _there(first + COLUMNS, columns, COLUMNS), ACTIVATION)
            before = peak
            peak = _peak(x)
            peak = tl.where(before > peak, before, peak)
            factor = _raised_exp(before, peak, False).to(tl.float64) * (1.0 / _RAISED)
            e = _raised_exp(x, peak[:, None], EXACT, NARROW)
            more, more_peaks = _sums(x, peak[:, None], e, ACTIVATION, EXACT)
            below = tl.where(before == peak, below, (below + peaks) * factor) + more
            peaks = tl.where(before == peak, peaks, 0.0) + more_peaks
        high, low = _finish(below.to(COMPUTE), peaks.to(COMPUTE), peak, ACTIVATION)
        for first in range(0, columns, COLUMNS):
            mask = inside & _there(first, columns, COLUMNS)
            x = _operand(_load(x_ptr + offsets, mask, ACTIVATION), ACTIVATION, COMPUTE)
            e = None if ACTIVATION == "log_softmax" else _raised_exp(x, peak[:, None], EXACT, NARROW)
            _write(y_ptr + offsets, mask, x, e, high, low, ACTIVATION)
            x_ptr += further
            y_ptr += further


@triton.jit
def _sum_of_terms(grad, y, ACTIVATION: tl.constexpr, COMPUTE: tl.constexpr):
    return tl.sum(grad.to(COMPUTE) if ACTIVATION == "log_softmax" else grad.to(COMPUTE) * y.to(COMPUTE), axis=1)


@triton.jit
def _write_gradient(places, mask, grad, y, sum, ACTIVATION: tl.constexpr, COMPUTE: tl.constexpr):
    grad = grad.to(COMPUTE)
    y = y.to(COMPUTE)
    if ACTIVATION == "log_softmax":
        lifted, m = scaled_exp_of_minus(at_most(highest_exponent(y), -y))
        out = tl.where(y > -0.34, tl.fma(-m, sum, grad - sum), tl.fma(-unscaled(lifted, m), sum, grad))
    elif ACTIVATION == "softmin":
        out = y * (sum - grad)
    else:
        out = y * (grad - sum)
    tl.store(places, out.to(places.dtype.element_ty), mask=mask)


@triton.jit(repr=kernel_name)
def softmax_backward(
    grad_ptr, y_ptr, grad_input_ptr, lanes, columns, inner,
    NAME: tl.constexpr, ACTIVATION: tl.constexpr, ROWS: tl.constexpr, COMPUTE: tl.constexpr,
    LANES: tl.constexpr, COLUMNS: tl.constexpr, ONE_PASS: tl.constexpr,
):  # fmt: skip
    start, offsets, inside = _tile(lanes, columns, inner, ROWS, LANES, COLUMNS)
    grad_ptr += start
    y_ptr += start
    grad_input_ptr += start
    mask = inside & _there(0, columns, COLUMNS)
    grad = tl.load(grad_ptr + offsets, mask=mask, other=0.0)
    y = tl.load(y_ptr + offsets, mask=mask, other=0.0)
    if ONE_PASS:
        sum = _sum_of_terms(grad, y, ACTIVATION, COMPUTE)
        _write_gradient(grad_input_ptr + offsets, mask, grad, y, sum[:, None], ACTIVATION, COMPUTE)
    else:
        further = _further(inner, ROWS, COLUMNS)
        total = tl.zeros((LANES,), tl.float64)
        grads = grad_ptr
        ys = y_ptr
        for first in range(0, columns, COLUMNS):
            grads += further
            ys += further
            mask = inside & _there(first + COLUMNS, columns, COLUMNS)
            next_grad = tl.load(grads + offsets, mask=mask, other=0.0)
            next_y = tl.load(ys + offsets, mask=mask, other=0.0)
            total += _sum_of_terms(grad, y, ACTIVATION, COMPUTE)
            grad = next_grad
            y = next_y
        sum = total.to(COMPUTE)[:, None]
        for first in range(0, columns, COLUMNS):
            mask = inside & _there(first, columns, COLUMNS)
            grad = tl.load(grad_ptr + offsets, mask=mask, other=0.0)
            y = tl.load(y_ptr + offsets, mask=mask, other=0.0)
            _write_gradient(grad_input_ptr + offsets, mask, grad, y, sum, ACTIVATION, COMPUTE)
            grad_ptr += further
            y_ptr += further
            grad_input_ptr += further
