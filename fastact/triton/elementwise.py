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
    formulas = (constants.get(name) for name in ("FORWARD", "DERIVATIVE", "GRADIENT", "DROPPED", "GRAD_INPUT"))
    formula = next(formula for formula in formulas if formula is not None)
    activation = re.sub("_(forward|derivative|gradient|dropped|grad_input)$", "", formula.__name__)
    return f"fastact_{activation}_{direction}"


def _gated_name(specialization):
    """The same of a gated unit, whose formulas are its gate's."""
    constants = specialization.constants
    return f"fastact_{constants['ACTIVATION']}_{'backward' if 'BACKWARD' in constants else 'forward'}"


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
    """Where the elements number start + offsets lie. In rows, only the first needs a 64-bit division, unless rows are
    so long that all do. Unsigned, the sum of a place in a row and of one in a block has room in 32 bits."""
    if ROWS:
        row = start // columns
        dtype: tl.constexpr = tl.uint32 if columns.dtype == tl.int32 else tl.int64
        local = (start - row * columns).to(dtype) + offsets.to(dtype)
        length = columns.to(dtype)
        return (row + local // length) * stride + local % length
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
    DERIVATIVE: tl.constexpr, GRADIENT: tl.constexpr, KEPT: tl.constexpr, DROPPED: tl.constexpr, RANDOM: tl.constexpr,
    ROWS: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    offsets = _block_offsets(BLOCK)
    mask = None if WHOLE else start + offsets < n
    grad = _widen(tl.load(grad_ptr + _place(start, offsets, columns, grad_stride, ROWS), mask=mask), COMPUTE)
    if DROPPED is not None:
        byte = start // 8 + tl.arange(0, BLOCK // 8)
        bits = tl.load(saved_ptr + byte, mask=None if WHOLE else byte * 8 < n).to(tl.int32)
        kept = KEPT(grad, p) if KEPT is not None else grad
        dropped = DROPPED(grad, _uniforms(seed_ptr, start, BLOCK), p) if RANDOM else DROPPED(grad, p)
        out = tl.where(((bits[:, None] >> tl.arange(0, 8)[None, :]) & 1) != 0, kept, dropped)
    else:
        saved = _widen(tl.load(saved_ptr + _place(start, offsets, columns, saved_stride, ROWS), mask=mask), COMPUTE)
        out = grad * DERIVATIVE(saved, p) if GRADIENT is None else GRADIENT(grad, saved, p)
    tl.store(out_ptr + _place(start, offsets, columns, out_stride, ROWS), _narrow(out, out_ptr.dtype.element_ty),
             mask=mask)  # fmt: skip


@triton.jit(do_not_specialize=["n"], repr=_kernel_name)
def backward(
    grad_ptr, saved_ptr, out_ptr, seed_ptr, n: "int64", columns, grad_stride, saved_stride, out_stride,
    p0: "float64", p1: "float64",
    DERIVATIVE: tl.constexpr, GRADIENT: tl.constexpr, KEPT: tl.constexpr, DROPPED: tl.constexpr, RANDOM: tl.constexpr,
    ROWS: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad * DERIVATIVE(saved), or GRADIENT(grad, saved), or KEPT(grad) or DROPPED(grad) as the saved bits say."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    p = (tl.full((), p0, COMPUTE), tl.full((), p1, COMPUTE))
    if start + BLOCK <= n:
        _backward_block(grad_ptr, saved_ptr, out_ptr, seed_ptr, start, n, columns, grad_stride, saved_stride,
                        out_stride, p, DERIVATIVE, GRADIENT, KEPT, DROPPED, RANDOM, ROWS, COMPUTE,
                        BLOCK, True)  # fmt: skip
    else:
        while start < n:
            _backward_block(grad_ptr, saved_ptr, out_ptr, seed_ptr, start, n, columns, grad_stride, saved_stride,
                            out_stride, p, DERIVATIVE, GRADIENT, KEPT, DROPPED, RANDOM, ROWS, COMPUTE,
                            _TAIL, False)  # fmt: skip
            start += _TAIL


@triton.jit
def _blocks(n, SIZE: tl.constexpr):
    """How many of a size make up n > 0. tl.cdiv's sum has no room in 32 bits for the largest n."""
    return (n - 1) // SIZE + 1


@triton.jit
def _tile(rows, columns, FLAT: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr):
    column_blocks = _blocks(columns, TILE_COLUMNS)
    program = tl.program_id(0).to(tl.int64)
    row = program // column_blocks * TILE_ROWS + tl.arange(0, TILE_ROWS)
    column = program % column_blocks * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    offsets = column[None, :] if FLAT else row[:, None] * columns + column[None, :]
    return row, column, offsets, program // column_blocks, program % column_blocks


@triton.jit
def _load_learned(pointer, single, row, column, columns, channels, BY_COLUMN: tl.constexpr, COMPUTE: tl.constexpr):
    """The learned number of each column or row of a tile; `single` is 0 where one number serves all, else 1."""
    if BY_COLUMN:
        return _widen(tl.load(pointer + column * single, mask=column < columns), COMPUTE)[None, :]
    else:
        return _widen(tl.load(pointer + row % channels * single), COMPUTE)[:, None]


@triton.jit
def _learned_forward_tile(x_ptr, y_ptr, w, p, offsets, mask, FORWARD: tl.constexpr, COMPUTE: tl.constexpr):
    y = FORWARD(_widen(tl.load(x_ptr + offsets, mask=mask), COMPUTE), w, p)
    tl.store(y_ptr + offsets, _narrow(y, y_ptr.dtype.element_ty), mask=mask)


@triton.jit(repr=_kernel_name)
def learned_forward(
    x_ptr, w0_ptr, w1_ptr, y_ptr, rows, columns, channels, w0_step, w1_step, p0: "float64",
    FORWARD: tl.constexpr, BY_COLUMN: tl.constexpr, FLAT: tl.constexpr, COMPUTE: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
):  # fmt: skip
    """The tensor as rows x columns, with learned numbers for each column, or for each row (row r has channel
    r % channels). FLAT is the one row of a tensor with single learned numbers."""
    row, column, offsets, _, column_block = _tile(rows, columns, FLAT, TILE_ROWS, TILE_COLUMNS)
    w = (
        _load_learned(w0_ptr, w0_step, row, column, columns, channels, BY_COLUMN, COMPUTE),
        _load_learned(w1_ptr, w1_step, row, column, columns, channels, BY_COLUMN, COMPUTE),
    )
    p = (tl.full((), p0, COMPUTE),)
    if FLAT and (column_block + 1) * TILE_COLUMNS <= columns:
        _learned_forward_tile(x_ptr, y_ptr, w, p, offsets, None, FORWARD, COMPUTE)
    else:
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        _learned_forward_tile(x_ptr, y_ptr, w, p, offsets, mask, FORWARD, COMPUTE)


@triton.jit
def _learned_backward_tile(
    grad_ptr, x_ptr, grad_input_ptr, w, p, offsets, mask, GRAD_INPUT: tl.constexpr, GRAD_0: tl.constexpr,
    GRAD_1: tl.constexpr, AXIS: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    grad = _widen(tl.load(grad_ptr + offsets, mask=mask, other=None if mask is None else 0.0), COMPUTE)
    x = _widen(tl.load(x_ptr + offsets, mask=mask, other=None if mask is None else 0.0), COMPUTE)
    grad_input = GRAD_INPUT(grad, x, w, p)
    tl.store(grad_input_ptr + offsets, _narrow(grad_input, grad_input_ptr.dtype.element_ty), mask=mask)
    first = tl.sum(GRAD_0(grad, x, w, p), axis=AXIS)
    second = tl.sum(GRAD_1(grad, x, w, p), axis=AXIS) if GRAD_1 is not None else first
    return first, second


@triton.jit(repr=_kernel_name)
def learned_backward(
    grad_ptr, x_ptr, w0_ptr, w1_ptr, grad_input_ptr, partial0_ptr, partial1_ptr, rows, columns, channels,
    w0_step, w1_step, p0: "float64",
    GRAD_INPUT: tl.constexpr, GRAD_0: tl.constexpr, GRAD_1: tl.constexpr, BY_COLUMN: tl.constexpr, FLAT: tl.constexpr,
    COMPUTE: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
):  # fmt: skip
    """The input's gradient and each tile's share of those of the learned tensors: a sum for each of its columns, or of
    its rows."""
    row, column, offsets, row_block, column_block = _tile(rows, columns, FLAT, TILE_ROWS, TILE_COLUMNS)
    w = (
        _load_learned(w0_ptr, w0_step, row, column, columns, channels, BY_COLUMN, COMPUTE),
        _load_learned(w1_ptr, w1_step, row, column, columns, channels, BY_COLUMN, COMPUTE),
    )
    p = (tl.full((), p0, COMPUTE),)
    axis: tl.constexpr = 0 if BY_COLUMN else 1
    if FLAT and (column_block + 1) * TILE_COLUMNS <= columns:
        first, second = _learned_backward_tile(grad_ptr, x_ptr, grad_input_ptr, w, p, offsets, None,
                                               GRAD_INPUT, GRAD_0, GRAD_1, axis, COMPUTE)  # fmt: skip
    else:
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        first, second = _learned_backward_tile(grad_ptr, x_ptr, grad_input_ptr, w, p, offsets, mask,
                                               GRAD_INPUT, GRAD_0, GRAD_1, axis, COMPUTE)  # fmt: skip
    place = row_block * columns + column if BY_COLUMN else row * _blocks(columns, TILE_COLUMNS) + column_block
    inside = column < columns if BY_COLUMN else row < rows
    tl.store(partial0_ptr + place, first, mask=inside)
    if GRAD_1 is not None:
        tl.store(partial1_ptr + place, second, mask=inside)


@triton.jit
def _gated_forward_block(
    value_ptr, gate_ptr, out_ptr, start, n, columns, value_stride, gate_stride, out_stride,
    GATE: tl.constexpr, ROWS: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    offsets = _block_offsets(BLOCK)
    mask = None if WHOLE else start + offsets < n
    value = _widen(tl.load(value_ptr + _place(start, offsets, columns, value_stride, ROWS), mask=mask), COMPUTE)
    gate = _widen(tl.load(gate_ptr + _place(start, offsets, columns, gate_stride, ROWS), mask=mask), COMPUTE)
    tl.store(out_ptr + _place(start, offsets, columns, out_stride, ROWS),
             _narrow(value * GATE(gate, ()), out_ptr.dtype.element_ty), mask=mask)  # fmt: skip


@triton.jit(do_not_specialize=["n"], repr=_gated_name)
def gated_forward(
    value_ptr, gate_ptr, out_ptr, n: "int64", columns, value_stride, gate_stride, out_stride,
    ACTIVATION: tl.constexpr, GATE: tl.constexpr, ROWS: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """value * GATE(gate)."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    if start + BLOCK <= n:
        _gated_forward_block(value_ptr, gate_ptr, out_ptr, start, n, columns, value_stride, gate_stride, out_stride,
                             GATE, ROWS, COMPUTE, BLOCK, True)  # fmt: skip
    else:
        while start < n:
            _gated_forward_block(value_ptr, gate_ptr, out_ptr, start, n, columns, value_stride, gate_stride, out_stride,
                                 GATE, ROWS, COMPUTE, _TAIL, False)  # fmt: skip
            start += _TAIL


@triton.jit
def _gated_backward_block(
    grad_ptr, value_ptr, gate_ptr, grad_value_ptr, grad_gate_ptr, start, n, columns, grad_stride, value_stride,
    gate_stride, grad_value_stride, grad_gate_stride,
    GATE: tl.constexpr, DERIVATIVE: tl.constexpr, BACKWARD: tl.constexpr, ROWS: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    offsets = _block_offsets(BLOCK)
    mask = None if WHOLE else start + offsets < n
    grad = _widen(tl.load(grad_ptr + _place(start, offsets, columns, grad_stride, ROWS), mask=mask), COMPUTE)
    value = _widen(tl.load(value_ptr + _place(start, offsets, columns, value_stride, ROWS), mask=mask), COMPUTE)
    gate = _widen(tl.load(gate_ptr + _place(start, offsets, columns, gate_stride, ROWS), mask=mask), COMPUTE)
    if BACKWARD is None:
        grad_value, grad_gate = grad * GATE(gate, ()), grad * value * DERIVATIVE(gate, ())
    else:
        grad_value, grad_gate = BACKWARD(grad, value, gate)
    tl.store(grad_value_ptr + _place(start, offsets, columns, grad_value_stride, ROWS),
             _narrow(grad_value, grad_value_ptr.dtype.element_ty), mask=mask)  # fmt: skip
    tl.store(grad_gate_ptr + _place(start, offsets, columns, grad_gate_stride, ROWS),
             _narrow(grad_gate, grad_gate_ptr.dtype.element_ty), mask=mask)  # fmt: skip


@triton.jit(do_not_specialize=["n"], repr=_gated_name)
def gated_backward(
    grad_ptr, value_ptr, gate_ptr, grad_value_ptr, grad_gate_ptr, n: "int64", columns, grad_stride, value_stride,
    gate_stride, grad_value_stride, grad_gate_stride,
    ACTIVATION: tl.constexpr, GATE: tl.constexpr, DERIVATIVE: tl.constexpr, BACKWARD: tl.constexpr, ROWS: tl.constexpr,
    COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradients of value and gate: of value * GATE(gate) or, unless it is None, BACKWARD(grad, value, gate)."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    if start + BLOCK <= n:
        _gated_backward_block(grad_ptr, value_ptr, gate_ptr, grad_value_ptr, grad_gate_ptr, start, n, columns,
                              grad_stride, value_stride, gate_stride, grad_value_stride, grad_gate_stride,
                              GATE, DERIVATIVE, BACKWARD, ROWS, COMPUTE, BLOCK, True)  # fmt: skip
    else:
        while start < n:
            _gated_backward_block(grad_ptr, value_ptr, gate_ptr, grad_value_ptr, grad_gate_ptr, start, n, columns,
                                  grad_stride, value_stride, gate_stride, grad_value_stride, grad_gate_stride,
                                  GATE, DERIVATIVE, BACKWARD, ROWS, COMPUTE, _TAIL, False)  # fmt: skip
            start += _TAIL
