"""From tensors to launches: layouts, grids, streams. The GPU's side of the interface that `fastact.cpu` has."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..catalogue import Activation
from ..path import interpreting

if interpreting():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton decorates the kernels below

import triton
import triton.language as tl

from . import loops, rectifiers

_COMPUTE = {
    torch.float32: tl.float32,
    torch.float16: tl.float32,
    torch.bfloat16: tl.float32,
    torch.float64: tl.float64,
}

# 64 bytes per thread of four warps: four 128-bit accesses in flight for each operand. For float64, whose divisions are
# calls, half of that: with more numbers alive across the calls, some are spilled.
_BLOCK = {torch.float64: 512, torch.float32: 2048, torch.float16: 4096, torch.bfloat16: 4096}
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}  # formulas say themselves where they fuse


class _Formulas(NamedTuple):
    forward: Any
    keep: Any
    kept: Any
    dropped: Any
    derivative: Any


@cache
def _formulas(activation: Activation) -> _Formulas:
    family = import_module(f".{activation.family}", __package__)
    parts = (getattr(family, f"{activation.name}_{part}", None) for part in _Formulas._fields)
    return _Formulas(*parts)


def _launch(kernel: Any, programs: int, device: torch.device, *arguments: Any) -> None:
    if programs == 0:
        return
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[(programs,)](*arguments, **OPTIONS)
    else:
        kernel[(programs,)](*arguments, **OPTIONS)


def _is_dense(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(
        (stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1
    ):
        if stride != expected:
            return False
        expected *= size
    return True


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
    formulas = _formulas(activation)
    seed, parameters = _split_seed(activation, parameters)
    _launch(
        loops.forward, triton.cdiv(n, block), input.device,
        source, output, bits, seed, n, walk.columns, *walk.strides, *parameters,
        formulas.forward, formulas.keep if save_bits else None, activation.random, walk.by_rows,
        _COMPUTE[input.dtype], block,
    )  # fmt: skip
    if inplace and output is not input:
        output = input.copy_(output)
    return output, bits


def backward(activation: Activation, grad: Tensor, saved: Tensor, parameters: tuple) -> Tensor:
    """See `fastact.cpu.backward`."""
    formulas = _formulas(activation)
    if activation.saved == "bits":
        walk = _walk_to_new_output(grad)
        (source, output), strides = walk.tensors, [walk.strides[0], _FLAT, walk.strides[1]]
    else:
        walk = _walk_to_new_output(grad, saved)
        (source, saved, output), strides = walk.tensors, walk.strides
    n, block = grad.numel(), _BLOCK[grad.dtype]
    seed, parameters = _split_seed(activation, parameters)
    _launch(
        loops.backward, triton.cdiv(n, block), grad.device,
        source, saved, output, seed, n, walk.columns, *strides, *parameters,
        formulas.derivative, formulas.kept, formulas.dropped, activation.random, walk.by_rows,
        _COMPUTE[grad.dtype], block,
    )  # fmt: skip
    return output


def _split_seed(activation: Activation, parameters: tuple) -> tuple[Tensor | None, tuple[float, float]]:
    seed = parameters[0] if activation.random else None
    p0, p1, *_ = (*parameters[activation.random :], 0.0, 0.0)
    return seed, (float(p0), float(p1))


class _PReLUShape(NamedTuple):
    rows: int
    columns: int
    channels: int
    by_column: bool
    flat: bool
    tile_rows: int
    tile_columns: int

    @property
    def row_blocks(self) -> int:
        return triton.cdiv(self.rows, self.tile_rows)

    @property
    def column_blocks(self) -> int:
        return triton.cdiv(self.columns, self.tile_columns)


def _prelu_shape(dense: Tensor, weight: Tensor) -> _PReLUShape:
    """The dense tensor as a matrix in which each row, or each column, has one slope."""
    n, channels, block = dense.numel(), weight.numel(), _BLOCK[dense.dtype]
    by_column = channels > 1 and dense.stride(1) == 1
    columns = channels if by_column else max(1, n) if channels == 1 else dense.stride(1)
    tile_columns = min(block, triton.next_power_of_2(columns))
    flat = channels == 1
    return _PReLUShape(
        n // columns, columns, channels, by_column, flat, 1 if flat else block // tile_columns, tile_columns
    )  # fmt: skip


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """See `fastact.cpu.prelu`."""
    input = _densely(input, input)
    output = torch.empty_like(input)
    shape = _prelu_shape(input, weight)
    _launch(
        loops.prelu_forward, shape.row_blocks * shape.column_blocks, input.device,
        input, weight, output, shape.rows, shape.columns, shape.channels,
        rectifiers.prelu_forward, shape.by_column, shape.flat, _COMPUTE[input.dtype],
        shape.tile_rows, shape.tile_columns,
    )  # fmt: skip
    return output


def prelu_backward(grad: Tensor, input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """See `fastact.cpu.prelu_backward`."""
    input = _densely(input, input)
    grad = _densely(grad, input)
    grad_input = torch.empty_like(input)
    shape = _prelu_shape(input, weight)
    sizes = (shape.row_blocks, shape.columns) if shape.by_column else (shape.rows, shape.column_blocks)
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    partial = torch.empty(sizes, dtype=wide, device=input.device)
    _launch(
        loops.prelu_backward, shape.row_blocks * shape.column_blocks, input.device,
        grad, input, weight, grad_input, partial, shape.rows, shape.columns, shape.channels,
        rectifiers.prelu_grad_input, rectifiers.prelu_grad_weight, shape.by_column, shape.flat,
        _COMPUTE[input.dtype], shape.tile_rows, shape.tile_columns,
    )  # fmt: skip
    if not shape.by_column:
        partial = partial.sum(1).view(shape.rows // max(1, shape.channels), shape.channels)
    return grad_input, partial.sum(0).to(weight.dtype).view(weight.shape)
