"""Maxout: csrc/maxout.h in Triton. Element i of the output is made of the inputs number
(i // inner * pieces + p) * inner + i % inner.

Two and four pieces side by side are loaded together, with 128-bit accesses, and taken apart in registers; any others
by one load per piece, which are as wide where `inner` is divisible by 16.
"""

import triton
import triton.language as tl

from .elementwise import _TAIL, _block_offsets, _narrow, _place, _widen


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
        return _place(start, offsets, inner, inner.to(tl.int64) * pieces, True)


@triton.jit
def _forward_block(
    x_ptr, y_ptr, indices_ptr, start, n, pieces, inner,
    ADJACENT: tl.constexpr, TOGETHER: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    offsets = _block_offsets(BLOCK)
    mask = None if WHOLE else start + offsets < n
    index = tl.zeros((BLOCK // 8, 8), tl.int32)
    if TOGETHER:
        wide: tl.constexpr = 8 * TOGETHER
        places = tl.arange(0, BLOCK // 8)[:, None] * wide + tl.arange(0, wide)[None, :]
        inside = None if WHOLE else start * TOGETHER + places < n * TOGETHER
        all = _widen(tl.load(x_ptr + start * TOGETHER + places, mask=inside), COMPUTE)
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
        best = _widen(tl.load(x_ptr + first, mask=mask), COMPUTE)
        piece = 1
        while piece < pieces:
            x = _widen(tl.load(x_ptr + first + piece.to(tl.int64) * inner, mask=mask), COMPUTE)
            best, index = _meet(best, index, x, piece)
            piece += 1
    tl.store(y_ptr + start + offsets, _narrow(best, y_ptr.dtype.element_ty), mask=mask)
    tl.store(indices_ptr + start + offsets, index.to(tl.uint8), mask=mask)


@triton.jit(do_not_specialize=["n"])
def fastact_maxout_forward(
    x_ptr, y_ptr, indices_ptr, n: "int64", pieces, inner,
    ADJACENT: tl.constexpr, TOGETHER: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest of each group and its number. n counts the outputs; TOGETHER is the number of pieces, or 0."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    if start + BLOCK <= n:
        _forward_block(x_ptr, y_ptr, indices_ptr, start, n, pieces, inner,
                       ADJACENT, TOGETHER, COMPUTE, BLOCK, True)  # fmt: skip
    else:
        while start < n:
            _forward_block(x_ptr, y_ptr, indices_ptr, start, n, pieces, inner,
                           ADJACENT, TOGETHER, COMPUTE, _TAIL, False)  # fmt: skip
            start += _TAIL


@triton.jit
def _backward_block(
    grad_ptr, indices_ptr, grad_input_ptr, start, n, pieces, inner,
    ADJACENT: tl.constexpr, TOGETHER: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    offsets = _block_offsets(BLOCK)
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


@triton.jit(do_not_specialize=["n"])
def fastact_maxout_backward(
    grad_ptr, indices_ptr, grad_input_ptr, n: "int64", pieces, inner,
    ADJACENT: tl.constexpr, TOGETHER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient for the winners, 0 for the others."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    if start + BLOCK <= n:
        _backward_block(grad_ptr, indices_ptr, grad_input_ptr, start, n, pieces, inner,
                        ADJACENT, TOGETHER, BLOCK, True)  # fmt: skip
    else:
        while start < n:
            _backward_block(grad_ptr, indices_ptr, grad_input_ptr, start, n, pieces, inner,
                            ADJACENT, TOGETHER, _TAIL, False)  # fmt: skip
            start += _TAIL
