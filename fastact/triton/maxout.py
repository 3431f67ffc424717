"""Maxout: csrc/kernels/maxout.h in Triton. Element i of the output is made of the inputs number
(i // inner * pieces + p) * inner + i % inner.

Two and four pieces side by side are loaded together, with 128-bit accesses, and taken apart in registers; any others
by one load per piece, which are as wide where `inner` is divisible by 16.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementwise import TAIL, block_offsets, demote, divide_places, promote
from .launch import BLOCK_SIZE, COMPUTE_TYPE, cdiv, kernel_name, launch
from .layout import densely, is_dense


@triton.jit
def _meet(best, index, x, piece):
    """The first of equals stays, and the first NaN, as in torch."""
    better = ((x <= best) == 0) & (best == best)
    return tl.where(better, x, best), tl.where(better, piece, index)


@triton.jit
def _group_offsets(start, offsets, pieces, inner, ADJACENT: tl.constexpr):
    """Where the first pieces lie."""
    if ADJACENT:
        return start * pieces + offsets * pieces
    else:
        first, more, place = divide_places(start, offsets, inner)
        return (first + more) * (inner.to(tl.int64) * pieces) + place


@triton.jit
def _forward_block(
    x_ptr, y_ptr, indices_ptr, start, n, pieces, inner,
    ADJACENT: tl.constexpr, TOGETHER: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    offsets = block_offsets(BLOCK)
    mask = None if WHOLE else start + offsets < n
    index = tl.zeros((BLOCK // 8, 8), tl.int32)
    if TOGETHER:
        wide: tl.constexpr = 8 * TOGETHER
        places = tl.arange(0, BLOCK // 8)[:, None] * wide + tl.arange(0, wide)[None, :]
        inside = None if WHOLE else start * TOGETHER + places < n * TOGETHER
        all = promote(tl.load(x_ptr + start * TOGETHER + places, mask=inside), COMPUTE)
        if TOGETHER == 2:
            best, second = tl.split(all.reshape(BLOCK // 8, 8, 2))
            best, index = _meet(best, index, second, 1)
        else:
            even, odd = tl.split(all.reshape(BLOCK // 8, 8, 2, 2))
            best, third = tl.split(even)
            second, fourth = tl.split(odd)
            best, index = _meet(best, index, second, 1)
            best, index = _meet(best, index, third, 2)
            best, index = _meet(best, index, fourth, 3)
    else:
        first = _group_offsets(start, offsets, pieces, inner, ADJACENT)
        best = promote(tl.load(x_ptr + first, mask=mask), COMPUTE)
        piece = 1
        while piece < pieces:
            x = promote(tl.load(x_ptr + first + piece.to(tl.int64) * inner, mask=mask), COMPUTE)
            best, index = _meet(best, index, x, piece)
            piece += 1
    tl.store(y_ptr + start + offsets, demote(best, y_ptr.dtype.element_ty), mask=mask)
    tl.store(indices_ptr + start + offsets, index.to(tl.uint8), mask=mask)


@triton.jit(repr=kernel_name)
def maxout_forward(
    ins, outs, pieces, inner, n: "int64",
    NAME: tl.constexpr, ADJACENT: tl.constexpr, TOGETHER: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest of each group and its number. n counts the outputs; TOGETHER is the number of pieces, or 0."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    if start + BLOCK <= n:
        _forward_block(ins[0], outs[0], outs[1], start, n, pieces, inner,
                       ADJACENT, TOGETHER, COMPUTE, BLOCK, True)  # fmt: skip
    else:
        while start < n:
            _forward_block(ins[0], outs[0], outs[1], start, n, pieces, inner,
                           ADJACENT, TOGETHER, COMPUTE, TAIL, False)  # fmt: skip
            start += TAIL


@triton.jit
def _backward_block(
    grad_ptr, indices_ptr, grad_input_ptr, start, n, pieces, inner,
    ADJACENT: tl.constexpr, TOGETHER: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    offsets = block_offsets(BLOCK)
    mask = None if WHOLE else start + offsets < n
    grad = tl.load(grad_ptr + start + offsets, mask=mask)
    index = tl.load(indices_ptr + start + offsets, mask=mask).to(tl.int32)
    zero = tl.zeros_like(grad)
    if TOGETHER:
        wide: tl.constexpr = 8 * TOGETHER
        places = tl.arange(0, BLOCK // 8)[:, None] * wide + tl.arange(0, wide)[None, :]
        if TOGETHER == 2:
            all = tl.join(tl.where(index == 0, grad, zero), tl.where(index == 1, grad, zero))
        else:
            even = tl.join(tl.where(index == 0, grad, zero), tl.where(index == 2, grad, zero))
            odd = tl.join(tl.where(index == 1, grad, zero), tl.where(index == 3, grad, zero))
            all = tl.join(even, odd)
        tl.store(grad_input_ptr + start * TOGETHER + places, all.reshape(BLOCK // 8, wide),
                 mask=None if WHOLE else start * TOGETHER + places < n * TOGETHER)  # fmt: skip
    else:
        first = _group_offsets(start, offsets, pieces, inner, ADJACENT)
        piece = 0
        while piece < pieces:
            places = first + piece.to(tl.int64) * inner
            tl.store(grad_input_ptr + places, tl.where(index == piece, grad, zero), mask=mask)
            piece += 1


@triton.jit(repr=kernel_name)
def maxout_backward(
    ins, outs, pieces, inner, n: "int64",
    NAME: tl.constexpr, ADJACENT: tl.constexpr, TOGETHER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient for the winners, 0 for the others."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    if start + BLOCK <= n:
        _backward_block(ins[0], ins[1], outs[0], start, n, pieces, inner,
                        ADJACENT, TOGETHER, BLOCK, True)  # fmt: skip
    else:
        while start < n:
            _backward_block(ins[0], ins[1], outs[0], start, n, pieces, inner,
                            ADJACENT, TOGETHER, TAIL, False)  # fmt: skip
            start += TAIL


def _layout(pieces: int, inner: int, dtype: torch.dtype) -> tuple[bool, int, int]:
    """Whether pieces lie side by side; how many are taken together; the outputs of a program."""
    together = pieces if inner == 1 and pieces in (2, 4) else 0
    return inner == 1, together, BLOCK_SIZE[dtype] // (together or 2)


def run_forward(input: Tensor, output: Tensor, indices: Tensor, pieces: int, inner: int) -> None:
    """Writes the largest of each group of pieces, and its number. All tensors are dense in one order of dimensions, in
    which the pieces of an output lie `inner` apart."""
    n = output.numel()
    adjacent, together, block = _layout(pieces, inner, output.dtype)
    launch(
        maxout_forward, cdiv(n, block), output.device,
        (input,), (output, indices), pieces, inner, n,
        "maxout_forward", adjacent, together, COMPUTE_TYPE[output.dtype], block,
    )  # fmt: skip


def run_backward(grad: Tensor, indices: Tensor, grad_input: Tensor, pieces: int, inner: int) -> None:
    """Writes the input's gradient: grad for the winners, 0 for the others."""
    n = grad.numel()
    adjacent, together, block = _layout(pieces, inner, grad.dtype)
    launch(
        maxout_backward, cdiv(n, block), grad.device,
        (grad, indices), (grad_input,), pieces, inner, n,
        "maxout_backward", adjacent, together, block,
    )  # fmt: skip


def forward(input: Tensor, pieces: int, dim: int) -> tuple[Tensor, Tensor]:
    """The output and the numbers of the winners, both in the input's order of dimensions."""
    input = input if is_dense(input) else input.contiguous()
    shape = list(input.shape)
    shape[dim] //= pieces
    if input.numel() == 0:
        return input.new_empty(shape), input.new_empty(shape, dtype=torch.uint8)
    inner = input.stride(dim)
    strides = [stride // pieces if stride > inner else stride for stride in input.stride()]
    output = input.new_empty_strided(shape, strides)
    indices = torch.empty_like(output, dtype=torch.uint8)
    run_forward(input, output, indices, pieces, inner)
    return output, indices


def backward(grad: Tensor, indices: Tensor, pieces: int, dim: int) -> Tensor:
    """The input's gradient, in the order of dimensions of the numbers of the winners."""
    indices = indices if is_dense(indices) else indices.contiguous()
    shape = list(indices.shape)
    shape[dim] *= pieces
    if indices.numel() == 0:
        return grad.new_empty(shape)
    # A dimension outside has the pieces' stride where there is only one group.
    inner, dim = indices.stride(dim), dim % indices.dim()
    strides = [
        stride * pieces if stride > inner or (stride == inner and i != dim and indices.size(i) > 1) else stride
        for i, stride in enumerate(indices.stride())
    ]
    grad_input = grad.new_empty_strided(shape, strides)
    run_backward(densely(grad, indices), indices, grad_input, pieces, inner)
    return grad_input
