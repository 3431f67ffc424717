"""From tensors to launches: layouts, grids, streams. The GPU's side of the interface that `fastact.cpu` has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..catalogue import Activation
from ..path import KernelUnavailable, NotLoaded, interpreting

if interpreting():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton decorates the kernels below

import triton.language as tl
from triton.compiler import CompiledKernel

from . import elementwise, gated, lowp, maxout, softmax

_COMPUTE = {
    torch.float32: tl.float32,
    torch.float16: tl.float32,
    torch.bfloat16: tl.float32,
    torch.float64: tl.float64,
}

# 64 bytes per thread of four warps: four 128-bit accesses in flight for each operand. For float64, whose divisions are
# calls, half of that: with more numbers alive across the calls, some are spilled.
_BLOCK = {torch.float64: 512, torch.float32: 2048, torch.float16: 4096, torch.bfloat16: 4096}
OPTIONS = {"enable_fp_fusion": False}  # formulas say themselves where they fuse


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)  # triton.cdiv takes a tenth of a whole launch for that


def _power_of_2_from(n: int) -> int:
    return 1 << (n - 1).bit_length()


class _Formulas(NamedTuple):
    forward: Any
    keep: Any
    kept: Any
    dropped: Any
    derivative: Any
    gradient: Any


def _formula(family: str, name: str, dtype: torch.dtype) -> Any:
    """Of a family or, for 16-bit types, a shorter one; or nothing."""
    shorter = getattr(lowp, name, None) if dtype.itemsize == 2 else None
    return shorter or getattr(import_module(f".{family}", __package__), name, None)


def _formula_of(activation: Activation, part: str, dtype: torch.dtype) -> Any:
    return _formula(activation.family, f"{activation.name}_{part}", dtype)


@cache
def _formulas(activation: Activation, dtype: torch.dtype) -> _Formulas:
    return _Formulas(*(_formula_of(activation, part, dtype) for part in _Formulas._fields))


class Launch(NamedTuple):
    """A kernel with all that is told to it and its compiler."""

    kernel: Any
    arguments: tuple
    options: dict[str, Any]
    programs: int


_recorded: list[Launch] | None = None


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """In all threads, launches only go into this list, and outputs hold nothing: tensors may be on any device."""
    global _recorded
    _recorded = launches = []
    try:
        yield launches
    finally:
        _recorded = None


def _launch(kernel: Any, programs: int, device: torch.device, *arguments: Any, num_warps: int = 4) -> None:
    if programs == 0:
        return
    if _recorded is not None:
        _recorded.append(Launch(kernel, arguments, {"num_warps": num_warps, **OPTIONS}, programs))
    elif device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            _start(kernel, programs, device, arguments, num_warps)
    else:
        _start(kernel, programs, device, arguments, num_warps)


_compiled: dict[tuple, CompiledKernel] = {}
_constants: dict[int, int] = {}
# AMD's compiler looks at the size of tensors too; the interpreter compiles nothing.
_REUSE = torch.version.hip is None and not interpreting()


def _start(kernel: Any, programs: int, device: torch.device, arguments: tuple, num_warps: int) -> None:
    """`kernel[grid](...)`, with what Triton compiled for the last arguments of this kind. To find it again takes Triton
    longer than all else in a launch."""
    key = _REUSE and _kind_of(kernel, device, arguments, num_warps)
    if key in _compiled:
        _compiled[key][(programs, 1, 1)](*arguments)
        return
    if _REUSE and device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise NotLoaded(kernel.__name__)
    try:
        compiled = kernel[(programs,)](*arguments, num_warps=num_warps, **OPTIONS)
    except Exception as error:
        why = f"Triton could not compile or launch a kernel ({kernel.__name__})"
        raise KernelUnavailable(device, why, error) from error
    if _REUSE and isinstance(compiled, CompiledKernel):
        _compiled[key] = compiled


def _kind_of(kernel: Any, device: torch.device, arguments: tuple, num_warps: int) -> tuple:
    """All that a compiled kernel depends on: of tensors dtype and alignment, of integers whether they divide by 16, are
    1, or need 64 bits; and the constants, which come last and live as long as the package does."""
    if id(kernel) not in _constants:
        _constants[id(kernel)] = sum(not parameter.is_constexpr for parameter in kernel.params)
    variables = _constants[id(kernel)]
    key = [id(kernel), device.index, num_warps]
    for argument in arguments[:variables]:
        if isinstance(argument, Tensor):
            key += argument.dtype, argument.data_ptr() % 16 == 0
        elif type(argument) is int:
            key.append((argument % 16 == 0) + 2 * (argument == 1) + 4 * (argument >= 1 << 31))
        else:
            key.append(type(argument))
    key += [argument if type(argument) is int else id(argument) for argument in arguments[variables:]]
    return tuple(key)


def _is_dense(tensor: Tensor) -> bool:
    # The op's dispatch takes a microsecond; is_contiguous takes a tenth of that.
    return tensor.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(tensor)


def _row_strided(tensor: Tensor) -> tuple[int, int] | None:
    """The length of a row-major tensor's consecutive runs and the one distance between them, or nothing."""
    columns, rows, row_stride = 1, 1, 0
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if size == 1:
            continue
        if rows == 1 and stride == columns:
            columns *= size
        elif rows == 1:
            rows, row_stride = size, stride
        elif stride == row_stride * rows:
            rows *= size
        else:
            return None
    if rows == 1:
        return columns, columns
    # Rows that are no multiple of 16 elements would start unaligned: no 128-bit accesses. A copy costs less.
    return (columns, row_stride) if columns % 16 == 0 and row_stride >= columns else None


class _Walk(NamedTuple):
    """Tensors to be walked in step, element by element: all flat, or all by rows of the same length."""

    tensors: list[Tensor]
    strides: list[int]
    columns: int
    by_rows: bool


def _same_layout(a: Tensor, b: Tensor) -> bool:
    return a.stride() == b.stride() or (a.is_contiguous() and b.is_contiguous())


def _densely(tensor: Tensor, leader: Tensor) -> Tensor:
    """The tensor, or a copy of it, with elements one after another in the leader's order."""
    if _is_dense(tensor) and _same_layout(tensor, leader):
        return tensor
    return torch.empty_like(leader).copy_(tensor)


_FLAT = 16  # stands in for the arguments that a flat walk does not use; divisible by 16, as those of rows mostly are


def _walk_to_new_output(*inputs: Tensor) -> _Walk:
    """Inputs of equal sizes, copied where they must be, and a new output in the layout of the last one."""
    leader = inputs[-1]
    tensors = list(inputs)
    if not (_is_dense(leader) and all(_same_layout(x, leader) for x in inputs)):
        rows = [_row_strided(x) for x in inputs]
        if all(rows):
            numel = leader.numel()
            lengths = {columns for columns, _ in rows} - {numel}
            if len(lengths) == 1:
                (columns,) = lengths
                output = torch.empty(leader.shape, dtype=leader.dtype, device=leader.device)
                strides = [stride if length == columns else columns for length, stride in rows]
                return _Walk([*tensors, output], [*strides, columns], columns, True)
        leader = _densely(leader, leader)
        tensors = [_densely(x, leader) for x in tensors]
    return _Walk([*tensors, torch.empty_like(leader)], [_FLAT] * (len(tensors) + 1), _FLAT, False)


def forward(
    activation: Activation, input: Tensor, parameters: tuple, inplace: bool, save_bits: bool
) -> tuple[Tensor, Tensor | None]:
    """See `fastact.cpu.forward`."""
    if inplace and _is_dense(input):
        walk = _Walk([input, input], [_FLAT] * 2, _FLAT, False)
    else:
        walk = _walk_to_new_output(input)
    source, output = walk.tensors
    n, block = input.numel(), _BLOCK[input.dtype]
    bits = torch.empty((n + 7) // 8, dtype=torch.uint8, device=input.device) if save_bits else None
    formulas = _formulas(activation, input.dtype)
    seed, parameters = _split_seed(activation, parameters)
    _launch(
        elementwise.forward, _cdiv(n, block), input.device,
        source, output, bits, seed, n, walk.columns, *walk.strides, *parameters,
        formulas.forward, formulas.keep if save_bits else None, activation.random, walk.by_rows,
        _COMPUTE[input.dtype], block,
    )  # fmt: skip
    if inplace and output is not input:
        output = input.copy_(output)
    return output, bits


def backward(activation: Activation, grad: Tensor, saved: Tensor, parameters: tuple) -> Tensor:
    """See `fastact.cpu.backward`."""
    formulas = _formulas(activation, grad.dtype)
    if activation.saved == "bits":
        walk = _walk_to_new_output(grad)
        (source, output), strides = walk.tensors, [walk.strides[0], _FLAT, walk.strides[1]]
    else:
        walk = _walk_to_new_output(grad, saved)
        (source, saved, output), strides = walk.tensors, walk.strides
    n, block = grad.numel(), _BLOCK[grad.dtype]
    seed, parameters = _split_seed(activation, parameters)
    _launch(
        elementwise.backward, _cdiv(n, block), grad.device,
        source, saved, output, seed, n, walk.columns, *strides, *parameters,
        formulas.derivative, formulas.gradient, formulas.kept, formulas.dropped, activation.random, walk.by_rows,
        _COMPUTE[grad.dtype], block,
    )  # fmt: skip
    return output


def _split_seed(activation: Activation, parameters: tuple) -> tuple[Tensor | None, tuple[float, float]]:
    seed = parameters[0] if activation.random else None
    p0, p1, *_ = (*parameters[activation.random :], 0.0, 0.0)
    return seed, (float(p0), float(p1))


class _Matrix(NamedTuple):
    """A dense tensor as a matrix in which each row, or each column, has one channel; and the tiles it is cut into."""

    rows: int
    columns: int
    channels: int
    by_column: bool
    flat: bool
    tile_rows: int
    tile_columns: int

    @property
    def row_blocks(self) -> int:
        return _cdiv(self.rows, self.tile_rows)

    @property
    def column_blocks(self) -> int:
        return _cdiv(self.columns, self.tile_columns)


def _matrix(dense: Tensor, channels: int) -> _Matrix:
    n, block = dense.numel(), _BLOCK[dense.dtype]
    by_column = channels > 1 and dense.stride(1) == 1
    columns = channels if by_column else max(1, n) if channels == 1 else dense.stride(1)
    tile_columns = min(block, _power_of_2_from(columns))
    flat = channels == 1
    return _Matrix(
        n // columns, columns, channels, by_column, flat, 1 if flat else block // tile_columns, tile_columns
    )  # fmt: skip


class _LearnedFormulas(NamedTuple):
    forward: Any
    grad_input: Any
    gradients: list[Any]  # of the two learned tensors that a kernel takes, nothing for one that is not there


@cache
def _learned_formulas(activation: Activation, dtype: torch.dtype) -> _LearnedFormulas:
    gradients = [_formula_of(activation, f"grad_{name}", dtype) for name in activation.learned]
    forward, grad_input = (_formula_of(activation, part, dtype) for part in ("forward", "grad_input"))
    return _LearnedFormulas(forward, grad_input, [*gradients, None][:2])


def _learned_arguments(dense: Tensor, learned: Sequence[Tensor]) -> tuple[list[Tensor], _Matrix, list[int]]:
    """Pointers to two learned tensors, the second standing in where there is none; the matrix; their steps."""
    pointers = [learned[0], learned[-1]]
    matrix = _matrix(dense, max(tensor.numel() for tensor in learned))
    return pointers, matrix, [int(tensor.numel() > 1) for tensor in pointers]


def learned_forward(
    activation: Activation, input: Tensor, learned: Sequence[Tensor], parameters: tuple[float, ...]
) -> Tensor:
    """See `fastact.cpu.learned_forward`."""
    input = _densely(input, input)
    output = torch.empty_like(input)
    pointers, matrix, steps = _learned_arguments(input, learned)
    _launch(
        elementwise.learned_forward, matrix.row_blocks * matrix.column_blocks, input.device,
        input, *pointers, output, matrix.rows, matrix.columns, matrix.channels, *steps, *_one(parameters),
        _learned_formulas(activation, input.dtype).forward, matrix.by_column, matrix.flat, _COMPUTE[input.dtype],
        matrix.tile_rows, matrix.tile_columns,
    )  # fmt: skip
    return output


def _one(parameters: tuple[float, ...]) -> tuple[float]:
    (parameter,) = parameters or (0.0,)
    return (float(parameter),)


def learned_backward(
    activation: Activation, grad: Tensor, input: Tensor, learned: Sequence[Tensor], parameters: tuple[float, ...]
) -> tuple[Tensor, ...]:
    """See `fastact.cpu.learned_backward`."""
    input = _densely(input, input)
    grad = _densely(grad, input)
    grad_input = torch.empty_like(input)
    pointers, matrix, steps = _learned_arguments(input, learned)
    sizes = (matrix.row_blocks, matrix.columns) if matrix.by_column else (matrix.rows, matrix.column_blocks)
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    # Padded, so that the second part is aligned at every size: one kernel for all.
    length = sizes[0] * sizes[1]
    padded = torch.empty((len(learned), _cdiv(length, 16) * 16), dtype=wide, device=input.device)
    partial = padded[:, :length].view(len(learned), *sizes)
    formulas = _learned_formulas(activation, input.dtype)
    _launch(
        elementwise.learned_backward, matrix.row_blocks * matrix.column_blocks, input.device,
        grad, input, *pointers, grad_input, partial[0], partial[-1], matrix.rows, matrix.columns, matrix.channels,
        *steps, *_one(parameters), formulas.grad_input, *formulas.gradients, matrix.by_column, matrix.flat,
        _COMPUTE[input.dtype], matrix.tile_rows, matrix.tile_columns,
    )  # fmt: skip
    if not matrix.by_column:
        partial = partial.sum(2).view(len(learned), matrix.rows // max(1, matrix.channels), matrix.channels)
    sums = partial.sum(1)  # one per channel
    return grad_input, *(
        (channels.sum() if tensor.numel() == 1 else channels).to(tensor.dtype).view(tensor.shape)
        for channels, tensor in zip(sums, learned, strict=True)
    )


def _walk_in_step(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[_Walk, list[tuple[Tensor, Tensor]]]:
    """Inputs and given outputs of equal sizes, where they lie. What cannot be walked so is replaced by a dense tensor;
    the pairs are the outputs that are still to be filled from theirs."""
    tensors = [*inputs, *outputs]
    if all(x.is_contiguous() and x.data_ptr() % 16 == 0 for x in tensors):
        return _Walk(tensors, [_FLAT] * len(tensors), _FLAT, False), []
    leader = outputs[0]
    numel = leader.numel()
    order = sorted(range(leader.dim()), key=leader.stride, reverse=True)
    # Where a half starts unaligned, there are no 128-bit accesses either.
    rows = [_row_strided(x.permute(order)) if x.data_ptr() % 16 == 0 else None for x in tensors]
    columns = min((length for length, _ in filter(None, rows)), default=numel)
    strides, unfilled = [], []
    for i, tensor in enumerate(tensors):
        length, stride = rows[i] or (0, 0)
        if length not in (columns, numel):
            tensors[i] = torch.empty_like(leader)
            if i < len(inputs):
                tensors[i].copy_(tensor)
            else:
                unfilled.append((tensor, tensors[i]))
        strides.append(stride if length == columns else columns)
    if columns == numel:
        return _Walk(tensors, [_FLAT] * len(tensors), _FLAT, False), unfilled
    return _Walk(tensors, strides, columns, True), unfilled


class _GatedFormulas(NamedTuple):
    gate: Any
    derivative: Any
    backward: Any


@cache
def _gated_formulas(activation: Activation, dtype: torch.dtype) -> _GatedFormulas:
    family, gate = gated.GATES[activation.name]
    forward, derivative = (_formula(family, f"{gate}_{part}", dtype) for part in ("forward", "derivative"))
    return _GatedFormulas(forward, derivative, _formula_of(activation, "backward", dtype))


def gated_forward(activation: Activation, value: Tensor, gate: Tensor) -> Tensor:
    """See `fastact.cpu.gated_forward`."""
    output = torch.empty_like(value)
    walk, _ = _walk_in_step((value, gate), (output,))
    n, block = output.numel(), _BLOCK[output.dtype]
    _launch(
        elementwise.gated_forward, _cdiv(n, block), output.device,
        *walk.tensors, n, walk.columns, *walk.strides,
        activation.name, _gated_formulas(activation, output.dtype).gate, walk.by_rows, _COMPUTE[output.dtype], block,
    )  # fmt: skip
    return output


def gated_backward(
    activation: Activation, grad: Tensor, value: Tensor, gate: Tensor, grad_value: Tensor, grad_gate: Tensor
) -> None:
    """See `fastact.cpu.gated_backward`."""
    walk, unfilled = _walk_in_step((grad, value, gate), (grad_value, grad_gate))
    n, block = grad.numel(), _BLOCK[grad.dtype]
    _launch(
        elementwise.gated_backward, _cdiv(n, block), grad.device,
        *walk.tensors, n, walk.columns, *walk.strides,
        activation.name, *_gated_formulas(activation, grad.dtype), walk.by_rows, _COMPUTE[grad.dtype], block,
    )  # fmt: skip
    for output, filled in unfilled:
        output.copy_(filled)


def _maxout_layout(pieces: int, inner: int, dtype: torch.dtype) -> tuple[bool, int, int]:
    """Whether pieces lie side by side; how many are taken together; the outputs of a program."""
    together = pieces if inner == 1 and pieces in (2, 4) else 0
    return inner == 1, together, _BLOCK[dtype] // (together or 2)


def maxout_forward(
    activation: Activation, input: Tensor, output: Tensor, indices: Tensor, pieces: int, inner: int
) -> None:
    """See `fastact.cpu.maxout_forward`."""
    n = output.numel()
    adjacent, together, block = _maxout_layout(pieces, inner, output.dtype)
    _launch(
        maxout.fastact_maxout_forward, _cdiv(n, block), output.device,
        input, output, indices, n, pieces, inner, adjacent, together, _COMPUTE[output.dtype], block,
    )  # fmt: skip


def maxout_backward(
    activation: Activation, grad: Tensor, indices: Tensor, grad_input: Tensor, pieces: int, inner: int
) -> None:
    """See `fastact.cpu.maxout_backward`."""
    n = grad.numel()
    adjacent, together, block = _maxout_layout(pieces, inner, grad.dtype)
    _launch(
        maxout.fastact_maxout_backward, _cdiv(n, block), grad.device,
        grad, indices, grad_input, n, pieces, inner, adjacent, together, block,
    )  # fmt: skip


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
    tile_columns = _power_of_2_from(columns)
    widest = max(1 if inner == 1 else _SIDE_BY_SIDE, _SHORT // tile_columns)
    tile_lanes = min(widest, _power_of_2_from(max(1, lanes)))
    one_pass = tile_lanes * tile_columns <= largest
    if not one_pass:
        tile_columns = largest // 4 // tile_lanes
    programs = batches * _cdiv(lanes, tile_lanes)
    return _Rows(lanes, columns, inner, programs, tile_lanes, tile_columns, one_pass)


def softmax_forward(activation: Activation, input: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """See `fastact.cpu.softmax_forward`."""
    input = _densely(input, input)
    output = torch.empty_like(input, dtype=dtype)
    rows = _rows(input, dim)
    _launch(
        softmax.forward, rows.programs, input.device,
        input, output, rows.lanes, rows.columns, rows.inner, activation.name, rows.inner == 1,
        input.dtype.itemsize == 2, _COMPUTE[input.dtype], rows.tile_lanes, rows.tile_columns, rows.one_pass,
        num_warps=rows.num_warps,
    )  # fmt: skip
    return output


def softmax_backward(activation: Activation, grad: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """See `fastact.cpu.softmax_backward`."""
    output = _densely(output, output)
    grad = _densely(grad, output)
    grad_input = torch.empty_like(output, dtype=dtype)
    rows = _rows(output, dim)
    _launch(
        softmax.backward, rows.programs, grad.device,
        grad, output, grad_input, rows.lanes, rows.columns, rows.inner, activation.name, rows.inner == 1,
        _COMPUTE[grad.dtype], rows.tile_lanes, rows.tile_columns, rows.one_pass,
        num_warps=rows.num_warps,
    )  # fmt: skip
    return grad_input
