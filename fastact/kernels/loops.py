"""The generic Triton kernels: load, formula, store. Dtypes, tails, row strides, bit masks and random numbers are
handled here and nowhere else; formulas come in as constexpr functions.

A program takes BLOCK consecutive elements. Only the last one masks its accesses: with a mask whose bound is not known
to be divisible by 16, Triton predicates every element and cannot use 128-bit accesses. It goes through its elements in
small steps, so that the code for it is short and needs few registers.
"""

import re

import triton
import triton.language as tl
from triton import knobs

_TAIL = tl.constexpr(256)


def _kernel_name(specialization):
    """What profilers show: fastact_relu_forward, say, after the formula that the kernel is made for."""
    constants = specialization.constants
    direction = "forward" if "FORWARD" in constants else "backward"
    formulas = (constants.get(name) for name in ("FORWARD", "DERIVATIVE", "DROPPED", "GRAD_INPUT"))
    formula = next(formula for formula in formulas if formula is not None)
    activation = re.sub("_(forward|derivative|dropped|grad_input)$", "", formula.__name__)
    return f"fastact_{activation}_{direction}"


# The interpreter truncates to bfloat16 where hardware rounds to nearest even, and loses subnormals on the way.
_INTERPRETED = tl.constexpr(knobs.runtime.interpret)


@triton.jit
def _narrow(y, dtype: tl.constexpr):
    if _INTERPRETED and dtype == tl.bfloat16:
        bits = y.to(tl.uint32, bitcast=True)
        rounded = tl.where(y == y, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FC0)
        return rounded.to(tl.uint16).to(dtype, bitcast=True)
    else:
        return y.to(dtype)


@triton.jit
def _widen(x, dtype: tl.constexpr):
    if _INTERPRETED and x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def _place(start, offsets, columns, stride, ROWS: tl.constexpr):
    """Where the elements number start + offsets lie. In rows, only the first needs a 64-bit division."""
    if ROWS:
        row = start // columns
        local = (start - row * columns).to(tl.int32) + offsets
        return (row + local // columns) * stride + local % columns
    else:
        return start + offsets


@triton.jit
def _block_offsets(BLOCK: tl.constexpr):
    """Eight elements to a row: a row's bits make one byte, and a 16-bit type's row is one 128-bit access."""
    return tl.arange(0, BLOCK // 8)[:, None] * 8 + tl.arange(0, 8)[None, :]


@triton.jit
def _uniforms(seed_ptr, start, BLOCK: tl.constexpr):
    """Philox4x32-10 as in csrc/kernels.cpp: element i takes word i % 4 of the block with counter i / 4."""
    counter = start // 4 + (tl.arange(0, BLOCK // 8)[:, None] * 2 + tl.arange(0, 2)[None, :]).to(tl.int64)
    low = (counter & 0xFFFFFFFF).to(tl.uint32)
    high = (counter >> 32).to(tl.uint32)
    zero = low & 0
    a, b, c, d = tl.philox(tl.load(seed_ptr), low, high, zero, zero)
    words = tl.join(tl.join(a, c), tl.join(b, d)).reshape(BLOCK // 8, 8)
    return (words >> 8).to(tl.int32).to(tl.float32) * (2.0**-24)


@triton.jit
def _forward_block(
    x_ptr, y_ptr, bits_ptr, seed_ptr, start, n, columns, x_stride, y_stride, p,
    FORWARD: tl.constexpr, KEEP: tl.constexpr, RANDOM: tl.constexpr, ROWS: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    offsets = _block_offsets(BLOCK)
    mask = None if WHOLE else start + offsets < n
    x = _widen(tl.load(x_ptr + _place(start, offsets, columns, x_stride, ROWS), mask=mask), COMPUTE)
    y = FORWARD(x, _uniforms(seed_ptr, start, BLOCK), p) if RANDOM else FORWARD(x, p)
    tl.store(y_ptr + _place(start, offsets, columns, y_stride, ROWS), _narrow(y, y_ptr.dtype.element_ty), mask=mask)
    if KEEP is not None:
        byte = start // 8 + tl.arange(0, BLOCK // 8)
        bits = tl.sum(KEEP(x, p).to(tl.int32) << tl.arange(0, 8)[None, :], axis=1)
        tl.store(bits_ptr + byte, bits.to(tl.uint8), mask=None if WHOLE else byte * 8 < n)


@triton.jit(do_not_specialize=["n"], repr=_kernel_name)
def forward(
    x_ptr, y_ptr, bits_ptr, seed_ptr, n: "int64", columns, x_stride, y_stride, p0: "float64", p1: "float64",
    FORWARD: tl.constexpr, KEEP: tl.constexpr, RANDOM: tl.constexpr, ROWS: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """y = FORWARD(x) and, unless KEEP is None, KEEP(x) as one bit per element."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    p = (tl.full((), p0, COMPUTE), tl.full((), p1, COMPUTE))
    if start + BLOCK <= n:
        _forward_block(x_ptr, y_ptr, bits_ptr, seed_ptr, start, n, columns, x_stride, y_stride, p,
                       FORWARD, KEEP, RANDOM, ROWS, COMPUTE, BLOCK, True)  # fmt: skip
    else:
        while start < n:
            _forward_block(x_ptr, y_ptr, bits_ptr, seed_ptr, start, n, columns, x_stride, y_stride, p,
                           FORWARD, KEEP, RANDOM, ROWS, COMPUTE, _TAIL, False)  # fmt: skip
            start += _TAIL


@triton.jit
def _backward_block(
    grad_ptr, saved_ptr, out_ptr, seed_ptr, start, n, columns, grad_stride, saved_stride, out_stride, p,
    DERIVATIVE: tl.constexpr, KEPT: tl.constexpr, DROPPED: tl.constexpr, RANDOM: tl.constexpr, ROWS: tl.constexpr,
    COMPUTE: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    offsets = _block_offsets(BLOCK)
    mask = None if WHOLE else start + offsets < n
    grad = _widen(tl.load(grad_ptr + _place(start, offsets, columns, grad_stride, ROWS), mask=mask), COMPUTE)
    if DERIVATIVE is None:
        byte = start // 8 + tl.arange(0, BLOCK // 8)
        bits = tl.load(saved_ptr + byte, mask=None if WHOLE else byte * 8 < n).to(tl.int32)
        kept = KEPT(grad, p) if KEPT is not None else grad
        dropped = DROPPED(grad, _uniforms(seed_ptr, start, BLOCK), p) if RANDOM else DROPPED(grad, p)
        out = tl.where(((bits[:, None] >> tl.arange(0, 8)[None, :]) & 1) != 0, kept, dropped)
    else:
        saved = _widen(tl.load(saved_ptr + _place(start, offsets, columns, saved_stride, ROWS), mask=mask), COMPUTE)
        out = grad * DERIVATIVE(saved, p)
    tl.store(out_ptr + _place(start, offsets, columns, out_stride, ROWS), _narrow(out, out_ptr.dtype.element_ty),
             mask=mask)  # fmt: skip


@triton.jit(do_not_specialize=["n"], repr=_kernel_name)
def backward(
    grad_ptr, saved_ptr, out_ptr, seed_ptr, n: "int64", columns, grad_stride, saved_stride, out_stride,
    p0: "float64", p1: "float64",
    DERIVATIVE: tl.constexpr, KEPT: tl.constexpr, DROPPED: tl.constexpr, RANDOM: tl.constexpr, ROWS: tl.constexpr,
    COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad * DERIVATIVE(saved) or, where DERIVATIVE is None, KEPT(grad) or DROPPED(grad) as the saved bits say."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    p = (tl.full((), p0, COMPUTE), tl.full((), p1, COMPUTE))
    if start + BLOCK <= n:
        _backward_block(grad_ptr, saved_ptr, out_ptr, seed_ptr, start, n, columns, grad_stride, saved_stride,
                        out_stride, p, DERIVATIVE, KEPT, DROPPED, RANDOM, ROWS, COMPUTE, BLOCK, True)  # fmt: skip
    else:
        while start < n:
            _backward_block(grad_ptr, saved_ptr, out_ptr, seed_ptr, start, n, columns, grad_stride, saved_stride,
                            out_stride, p, DERIVATIVE, KEPT, DROPPED, RANDOM, ROWS, COMPUTE, _TAIL, False)  # fmt: skip
            start += _TAIL


@triton.jit
def _prelu_tile(rows, columns, FLAT: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr):
    column_blocks = tl.cdiv(columns, TILE_COLUMNS)
    program = tl.program_id(0).to(tl.int64)
    row = program // column_blocks * TILE_ROWS + tl.arange(0, TILE_ROWS)
    column = program % column_blocks * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    offsets = column[None, :] if FLAT else row[:, None] * columns + column[None, :]
    return row, column, offsets, program // column_blocks, program % column_blocks


@triton.jit
def _prelu_weight(weight_ptr, row, column, channels, columns, BY_COLUMN: tl.constexpr, COMPUTE: tl.constexpr):
    if BY_COLUMN:
        return _widen(tl.load(weight_ptr + column, mask=column < columns), COMPUTE)[None, :]
    else:
        return _widen(tl.load(weight_ptr + row % channels), COMPUTE)[:, None]


@triton.jit
def _prelu_forward_tile(x_ptr, y_ptr, weight, offsets, mask, FORWARD: tl.constexpr, COMPUTE: tl.constexpr):
    y = FORWARD(_widen(tl.load(x_ptr + offsets, mask=mask), COMPUTE), weight)
    tl.store(y_ptr + offsets, _narrow(y, y_ptr.dtype.element_ty), mask=mask)


@triton.jit(repr=_kernel_name)
def prelu_forward(
    x_ptr, weight_ptr, y_ptr, rows, columns, channels,
    FORWARD: tl.constexpr, BY_COLUMN: tl.constexpr, FLAT: tl.constexpr, COMPUTE: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
):  # fmt: skip
    """The tensor as rows x columns, with a weight for each column, or for each row (row r has channel r % channels).
    FLAT is the one row of a tensor with one weight."""
    row, column, offsets, _, column_block = _prelu_tile(rows, columns, FLAT, TILE_ROWS, TILE_COLUMNS)
    weight = _prelu_weight(weight_ptr, row, column, channels, columns, BY_COLUMN, COMPUTE)
    if FLAT and (column_block + 1) * TILE_COLUMNS <= columns:
        _prelu_forward_tile(x_ptr, y_ptr, weight, offsets, None, FORWARD, COMPUTE)
    else:
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        _prelu_forward_tile(x_ptr, y_ptr, weight, offsets, mask, FORWARD, COMPUTE)


@triton.jit
def _prelu_backward_tile(
    grad_ptr, x_ptr, grad_input_ptr, weight, offsets, mask,
    GRAD_INPUT: tl.constexpr, GRAD_WEIGHT: tl.constexpr, BY_COLUMN: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    grad = _widen(tl.load(grad_ptr + offsets, mask=mask, other=None if mask is None else 0.0), COMPUTE)
    x = _widen(tl.load(x_ptr + offsets, mask=mask, other=None if mask is None else 0.0), COMPUTE)
    grad_input = GRAD_INPUT(grad, x, weight)
    tl.store(grad_input_ptr + offsets, _narrow(grad_input, grad_input_ptr.dtype.element_ty), mask=mask)
    return tl.sum(GRAD_WEIGHT(grad, x), axis=0 if BY_COLUMN else 1)


@triton.jit(repr=_kernel_name)
def prelu_backward(
    grad_ptr, x_ptr, weight_ptr, grad_input_ptr, partial_ptr, rows, columns, channels,
    GRAD_INPUT: tl.constexpr, GRAD_WEIGHT: tl.constexpr, BY_COLUMN: tl.constexpr, FLAT: tl.constexpr,
    COMPUTE: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
):  # fmt: skip
    """The input's gradient and each tile's share of the weight's: a sum for each of its columns, or of its rows."""
    row, column, offsets, row_block, column_block = _prelu_tile(rows, columns, FLAT, TILE_ROWS, TILE_COLUMNS)
    weight = _prelu_weight(weight_ptr, row, column, channels, columns, BY_COLUMN, COMPUTE)
    if FLAT and (column_block + 1) * TILE_COLUMNS <= columns:
        sums = _prelu_backward_tile(grad_ptr, x_ptr, grad_input_ptr, weight, offsets, None,
                                    GRAD_INPUT, GRAD_WEIGHT, BY_COLUMN, COMPUTE)  # fmt: skip
    else:
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        sums = _prelu_backward_tile(grad_ptr, x_ptr, grad_input_ptr, weight, offsets, mask,
                                    GRAD_INPUT, GRAD_WEIGHT, BY_COLUMN, COMPUTE)  # fmt: skip
    if BY_COLUMN:
        tl.store(partial_ptr + row_block * columns + column, sums, mask=column < columns)
    else:
        column_blocks = tl.cdiv(columns, TILE_COLUMNS)
        tl.store(partial_ptr + row * column_blocks + column_block, sums, mask=row < rows)
