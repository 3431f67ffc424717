"""The elementwise kernel: it loads operands, calls a function on them, and stores what that returns.

Dtypes, tails, row strides, masks of one bit per element, channels and random numbers are handled here and nowhere else.
What is computed comes in as a function FN of `programs` and the formulas that it composes.

A program of the grid takes BLOCK consecutive elements. Only the last one masks its accesses: Triton predicates each
element and cannot use 128-bit accesses where the bound is not known to be divisible by 16. It takes small steps, so
that its code is short and needs few registers.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import repeat
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from .launch import BLOCK_SIZE, COMPUTE_TYPE, cdiv, kernel_name, launch, power_of_2_from
from .layout import plan

KINDS = {kind: number for number, kind in enumerate(("tile", "number", "channel", "seed", "mask", "sum"))}
"""What an operand holds. Inputs: a value for each element of the tensor (tile), one for all (number), one for each of
its channels (channel), a random number's seed, one bit for each element (mask). Outputs: tile, mask, or the sum over
all elements, or over each channel's, in parts that are still to be added (sum)."""
_TILE, _NUMBER, _CHANNEL, _SEED, _MASK, _SUM = map(tl.constexpr, KINDS.values())

TAIL = tl.constexpr(256)  # elements in a step of the last program
_INTERPRETED = tl.constexpr(knobs.runtime.interpret)


@triton.jit
def demote(y, dtype: tl.constexpr):
    """Rounds to the dtype of a tensor. The interpreter would truncate to bfloat16, and lose subnormals on the way."""
    if _INTERPRETED and dtype == tl.bfloat16:
        bits = y.to(tl.uint32, bitcast=True)
        rounded = tl.where(y == y, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FC0)
        return rounded.to(tl.uint16).to(dtype, bitcast=True)
    else:
        return y.to(dtype)


@triton.jit
def promote(x, dtype: tl.constexpr):
    """Converts to the dtype that formulas compute in."""
    if _INTERPRETED and x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def divide_places(start, offsets, length):
    """Divides start + offsets by a length: returns the quotient of start, what is to be added for each offset, and the
    remainders. Only start needs a 64-bit division, unless the length has more than 32 bits. Unsigned, the sum of a
    remainder and of an offset in a block has room in 32 bits."""
    first = start // length
    dtype: tl.constexpr = tl.uint32 if length.dtype == tl.int32 else tl.int64
    local = (start - first * length).to(dtype) + offsets.to(dtype)
    length = length.to(dtype)
    return first, local // length, local % length


@triton.jit
def block_offsets(BLOCK: tl.constexpr):
    """Eight elements to a row: a row's bits make one byte, and a 16-bit type's row is one 128-bit access."""
    return tl.arange(0, BLOCK // 8)[:, None] * 8 + tl.arange(0, 8)[None, :]


@triton.jit
def count_blocks(n, SIZE: tl.constexpr):
    """How many blocks of SIZE make up n > 0. The sum in tl.cdiv has no room in 32 bits for the largest n."""
    return (n - 1) // SIZE + 1


@triton.jit
def _uniforms(seed_ptr, start, BLOCK: tl.constexpr):
    """Philox4x32-10 as in csrc/kernels/philox.h: element i takes word i % 4 of the block with counter i / 4."""
    counter = start // 4 + (tl.arange(0, BLOCK // 8)[:, None] * 2 + tl.arange(0, 2)[None, :]).to(tl.int64)
    low = (counter & 0xFFFFFFFF).to(tl.uint32)
    high = (counter >> 32).to(tl.uint32)
    zero = low & 0
    a, b, c, d = tl.philox(tl.load(seed_ptr), low, high, zero, zero)
    words = tl.join(tl.join(a, c), tl.join(b, d)).reshape(BLOCK // 8, 8)
    return (words >> 8).to(tl.int32).to(tl.float32) * (2.0**-24)


@triton.jit
def _channels(start, offsets, inner, count, SPAN: tl.constexpr, BLOCK: tl.constexpr):
    """The channel of each element: they change after `inner` elements. SPAN says how they lie in eight elements in a
    row: "one" channel for all, "next", each element in the channel after the last one's, at most "two", or "any". But
    for the last, one division does for eight elements: of prelu on 7x7 images 17 instructions per element, not 29."""
    eight = tl.arange(0, 8)[None, :]
    eighths = tl.arange(0, BLOCK // 8)[:, None] * 8
    if SPAN == "next":
        _, _, channel = divide_places(start, eighths, count)
        return channel + eight
    else:
        first, more, place = divide_places(start, offsets if SPAN == "any" else eighths, inner)
        channel = ((first % count).to(tl.uint32) + more.to(tl.uint32)) % count.to(tl.uint32)
        if SPAN == "two":
            channel = tl.where(place + eight < inner, channel, channel + 1)
            channel = tl.where(channel == count, 0, channel)
        return channel


@triton.jit
def _scalars(scalars, COMPUTE: tl.constexpr):
    p = ()
    for i in tl.static_range(len(scalars)):
        p += (tl.full((), scalars[i], COMPUTE),)
    return p


@triton.jit
def _place(start, offsets, rows, OUT: tl.constexpr, i: tl.constexpr):
    """Where the elements number start + offsets of input or output i lie; see `layout.Plan.rows`."""
    if len(rows) == 0:
        return start + offsets
    else:
        first, more, column = divide_places(start, offsets, rows[0])
        return (first + more) * rows[1 + OUT][i] + column


@triton.jit
def _block(
    ins, outs, rows, channels, p, formulas, start, slot, n,
    FN: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, SPAN: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    offsets = block_offsets(BLOCK)
    mask = None if WHOLE else start + offsets < n
    byte = start // 8 + tl.arange(0, BLOCK // 8)
    byte_mask = None if WHOLE else byte * 8 < n
    xs = ()
    for i in tl.static_range(len(ins)):
        if IN[i] == _SEED:
            x = _uniforms(ins[i], start, BLOCK)
        elif IN[i] == _MASK:
            bits = tl.load(ins[i] + byte, mask=byte_mask).to(tl.int32)
            x = ((bits[:, None] >> tl.arange(0, 8)[None, :]) & 1) != 0
        elif IN[i] == _NUMBER:
            x = promote(tl.load(ins[i]), COMPUTE)
        elif IN[i] == _CHANNEL:
            channel = _channels(start, offsets, channels[0], channels[1], SPAN, BLOCK)
            x = promote(tl.load(ins[i] + channel), COMPUTE)
        else:
            x = promote(tl.load(ins[i] + _place(start, offsets, rows, 0, i), mask=mask), COMPUTE)
        xs += (x,)
    ys = FN(xs, p, formulas)
    for i in tl.static_range(len(outs)):
        y = ys[i]
        if OUT[i] == _MASK:
            bits = tl.sum(y.to(tl.int32) << tl.arange(0, 8)[None, :], axis=1)
            tl.store(outs[i] + byte, bits.to(tl.uint8), mask=byte_mask)
        elif OUT[i] == _SUM:
            tl.store(outs[i] + slot, tl.sum(tl.sum(y if WHOLE else tl.where(mask, y, 0.0), axis=1), axis=0))
        else:
            place = _place(start, offsets, rows, 1, i)
            tl.store(outs[i] + place, demote(y, outs[i].dtype.element_ty), mask=mask)


@triton.jit(repr=kernel_name)
def elementwise(
    ins, outs, rows, channels, scalars, formulas, n: "int64",
    NAME: tl.constexpr, FN: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, SPAN: tl.constexpr,
    COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Stores FN(ins, scalars, formulas) in outs, for n elements. IN and OUT are the operands' KINDS, tiles first.
    `rows` are those of `layout.Plan`. `channels`, where an operand needs them, are the elements to a channel and the
    number of channels. A sum has one part for each whole block and for each step of the last program."""
    program = tl.program_id(0)
    start = program.to(tl.int64) * BLOCK
    p = _scalars(scalars, COMPUTE)
    if start + BLOCK <= n:
        _block(ins, outs, rows, channels, p, formulas, start, program, n,
               FN, IN, OUT, SPAN, COMPUTE, BLOCK, True)  # fmt: skip
    else:
        slot = program
        while start < n:
            _block(ins, outs, rows, channels, p, formulas, start, slot, n,
                   FN, IN, OUT, SPAN, COMPUTE, TAIL, False)  # fmt: skip
            start += TAIL
            slot += 1


@triton.jit(repr=kernel_name)
def elementwise_with_channel_sums(
    ins, outs, scalars, formulas, rows, columns, channels,
    NAME: tl.constexpr, FN: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, BY_COLUMN: tl.constexpr,
    COMPUTE: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Computes the same for a tensor of rows x columns, tile by tile, and sums for each channel: a column or, unless
    BY_COLUMN, each row r with the same r % channels. A sum has one part for each column, or row, of each tile.

    A block of consecutive elements holds many channels in no shape that could be summed along a dimension: it would
    take an atomic addition for each element, and these have no order."""
    column_tiles = count_blocks(columns, TILE_COLUMNS)
    program = tl.program_id(0).to(tl.int64)
    row_tile = program // column_tiles
    column_tile = program % column_tiles
    row = row_tile * TILE_ROWS + tl.arange(0, TILE_ROWS)
    column = column_tile * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    offsets = row[:, None] * columns + column[None, :]
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    xs = ()
    for i in tl.static_range(len(ins)):
        if IN[i] == _MASK:
            x = ((tl.load(ins[i] + offsets // 8, mask=mask).to(tl.int32) >> (offsets % 8).to(tl.int32)) & 1) != 0
        elif IN[i] == _NUMBER:
            x = promote(tl.load(ins[i]), COMPUTE)
        elif IN[i] == _CHANNEL and BY_COLUMN:
            x = promote(tl.load(ins[i] + column, mask=column < columns), COMPUTE)[None, :]
        elif IN[i] == _CHANNEL:
            x = promote(tl.load(ins[i] + row % channels), COMPUTE)[:, None]
        else:
            tl.static_assert(IN[i] == _TILE)
            # Formulas make zeros of zeros. To select those at the end instead spills: 8 times in bfloat16's PReLU.
            x = promote(tl.load(ins[i] + offsets, mask=mask, other=0.0), COMPUTE)
        xs += (x,)
    ys = FN(xs, _scalars(scalars, COMPUTE), formulas)
    for i in tl.static_range(len(outs)):
        if OUT[i] == _SUM and BY_COLUMN:
            tl.store(outs[i] + row_tile * columns + column, tl.sum(ys[i], axis=0), mask=column < columns)
        elif OUT[i] == _SUM:
            tl.store(outs[i] + row * column_tiles + column_tile, tl.sum(ys[i], axis=1), mask=row < rows)
        else:
            tl.static_assert(OUT[i] == _TILE)
            tl.store(outs[i] + offsets, demote(ys[i], outs[i].dtype.element_ty), mask=mask)


class Program(NamedTuple):
    """What a kernel computes."""

    name: str
    """In profilers, after "fastact_"."""
    function: Any
    """One of `programs`."""
    formulas: tuple[Any, ...]
    """That the function composes."""
    inputs: tuple[str, ...]
    """Kinds of operands. A channel's may turn out to be a number."""
    outputs: tuple[str, ...]


class _Matrix(NamedTuple):
    """A dense tensor as a matrix in which each column or each row has one channel, and its tiles."""

    rows: int
    columns: int
    by_column: bool
    tile_rows: int
    tile_columns: int

    @classmethod
    def of(cls, dense: Tensor, channels: int):
        block, by_column = BLOCK_SIZE[dense.dtype], dense.stride(1) == 1
        columns = channels if by_column else dense.stride(1)
        tile_columns = min(block, power_of_2_from(columns))
        return cls(dense.numel() // columns, columns, by_column, block // tile_columns, tile_columns)

    @property
    def row_tiles(self) -> int:
        return cdiv(self.rows, self.tile_rows)

    @property
    def column_tiles(self) -> int:
        return cdiv(self.columns, self.tile_columns)

    @property
    def parts(self) -> tuple[int, int]:
        """The shape of a sum's parts."""
        return (self.row_tiles, self.columns) if self.by_column else (self.rows, self.column_tiles)

    def add(self, parts: Tensor, channels: int) -> Tensor:
        """The sums over channels."""
        parts = parts.view(len(parts), *self.parts)
        return (parts if self.by_column else parts.sum(2).view(len(parts), self.rows // channels, channels)).sum(1)


def _span(inner: int, channels: int) -> str:
    """See `_channels`."""
    if inner == 1 and channels % 8 == 0:
        return "next"
    return "one" if inner % 8 == 0 else "two" if inner > 8 else "any"


@cache
def _numbers(kinds: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(KINDS[kind] for kind in kinds)


def _fits(x: Tensor, kind: str, leader: Tensor) -> bool:
    """Whether a kernel may read an input of this kind beside tensors like the leader."""
    if kind == "tile":
        return x.shape == leader.shape and x.dtype == leader.dtype
    if kind == "channel":
        known = x.dtype == leader.dtype or (leader.itemsize == 2 and x.dtype == torch.float32)
        per_channel = x.dim() == 1 and leader.dim() > 1 and len(x) == leader.size(1) and x.is_contiguous()
        return known and (x.numel() == 1 or per_channel)
    if kind == "mask":
        return x.dtype == torch.uint8 and x.numel() == (leader.numel() + 7) // 8 and x.is_contiguous()
    return x.dtype == torch.int64 and x.numel() == 1


def run(
    program: Program, arguments: Sequence[Any], outputs: Sequence[Tensor], channels: int | None = None
) -> tuple[Tensor, ...]:
    """Runs a kernel on the program's inputs, which come first among the arguments, and on scalars, the others.

    It writes the given tiles. What it returns are the further outputs: masks, or sums over all elements or, of several
    channels, over each one's. There are as many as an input has, unless said. Elements are taken in the order of the
    first output in memory, and so do the bits of masks lie."""
    leader = outputs[0]
    n, device = leader.numel(), leader.device
    kinds = program.inputs
    tiles = kinds.count("tile")
    inputs, scalars = arguments[: len(kinds)], tuple(map(float, arguments[len(kinds) :]))
    if leader.dtype not in BLOCK_SIZE or not all(map(_fits, inputs, kinds, repeat(leader))):
        raise RuntimeError(f"fastact::{program.name}: expected tensors of one floating dtype and of sizes that fit")
    if "channel" in kinds:
        by_kind = zip(inputs, kinds, strict=True)
        kinds = tuple("number" if kind == "channel" and x.numel() == 1 else kind for x, kind in by_kind)
    if channels is None and "channel" not in kinds:
        channels = 1
    elif channels is None:
        channels = max([x.numel() for x, kind in zip(inputs, kinds, strict=True) if kind == "channel"])
    compute, block = COMPUTE_TYPE[leader.dtype], BLOCK_SIZE[leader.dtype]
    sums = program.outputs.count("sum")
    matrix = _Matrix.of(leader, channels) if sums and channels > 1 else None
    walk = plan(inputs[:tiles], outputs, dense=matrix is not None)
    masks = [torch.empty((n + 7) // 8, dtype=torch.uint8, device=device) for kind in program.outputs if kind == "mask"]
    parts = ()
    if sums:
        length = math.prod(matrix.parts) if matrix else n // block + cdiv(n % block, TAIL.value)
        # Padded, so that each of the sums is aligned at every size: one kernel for all.
        wide = torch.float64 if leader.dtype == torch.float64 else torch.float32
        parts = torch.empty((sums, cdiv(length, 16) * 16), dtype=wide, device=device)[:, :length]
    ins, outs = (*walk.tensors[:tiles], *inputs[tiles:]), (*walk.tensors[tiles:], *masks, *parts)
    what = program.name, program.function, _numbers(kinds), _numbers(program.outputs)
    if matrix:
        launch(
            elementwise_with_channel_sums, matrix.row_tiles * matrix.column_tiles, device,
            ins, outs, scalars, program.formulas, matrix.rows, matrix.columns, channels,
            *what, matrix.by_column, compute, matrix.tile_rows, matrix.tile_columns,
        )  # fmt: skip
    else:
        by_channel = (leader.stride(1), channels) if "channel" in kinds else ()
        launch(
            elementwise, cdiv(n, block), device,
            ins, outs, walk.rows, by_channel, scalars, program.formulas, n,
            *what, _span(*by_channel) if by_channel else None, compute, block,
        )  # fmt: skip
    walk.finish()
    if sums:
        parts = matrix.add(parts, channels) if matrix else parts.sum(1)
    return *masks, *parts
