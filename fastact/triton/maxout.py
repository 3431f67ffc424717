"""Maxout: csrc/kernels/maxout.h in Triton. Element i of the output is made of the inputs number
(i // inner * pieces + p) * inner + i % inner.

Two and four pieces side by side are loaded together, with 128-bit accesses, and taken apart in registers; any others
by one load per piece, which are as wide where `inner` is divisible by 8.
"""

import triton
import triton.language as tl

from .elementwise import eighths, in_eighths, kernel_name, quotient, signed, whole_eighths


@triton.jit
def _meet(best, index, x, piece):
    """The first of equals stays, and the first NaN, as in torch."""
    better = ((x <= best) == 0) & (best == best)
    return tl.where(better, x, best), tl.where(better, piece, index)


@triton.jit
def _groups(ptr, first, pieces, inner, ADJACENT: tl.constexpr, IN_EIGHTHS: tl.constexpr, EIGHTHS: tl.constexpr):
    """Where the first pieces lie, and how far apart pieces do."""
    if ADJACENT:
        return ptr + first * 8 * pieces + in_eighths(tl.arange(0, EIGHTHS)) * pieces, tl.full((), 1, tl.int64)
    elif IN_EIGHTHS:
        eighth = eighths(first, EIGHTHS, inner[0])
        row = quotient(eighth, inner)
        distance = inner[0].to(tl.int64) * 8
        rest = in_eighths(signed(eighth - row * inner[0]))
        return ptr + (row.to(tl.int64) * (distance * pieces))[:, None] + rest, distance
    else:
        element = in_eighths(eighths(first, EIGHTHS, inner[0]))
        row = quotient(element, inner)
        distance = inner[0].to(tl.int64)
        return ptr + row.to(tl.int64) * (distance * pieces) + signed(element - row * inner[0]), distance


@triton.jit
def _mask(first, n, EIGHTHS: tl.constexpr, WHOLE: tl.constexpr):
    if WHOLE:
        return whole_eighths(first, n, EIGHTHS)
    else:
        return tl.arange(0, 8)[None, :] < (n % 8).to(tl.int32)


@triton.jit
def _together(ptr, first, TOGETHER: tl.constexpr, EIGHTHS: tl.constexpr):
    """Where the pieces of eighths lie; which of an eighth's elements each belongs to."""
    WIDE: tl.constexpr = 8 * TOGETHER
    piece = tl.arange(0, WIDE)[None, :]
    return ptr + first * WIDE + (tl.arange(0, EIGHTHS)[:, None] * WIDE + piece)


@triton.jit
def _mask_together(first, n, TOGETHER: tl.constexpr, EIGHTHS: tl.constexpr, WHOLE: tl.constexpr):
    if WHOLE:
        return whole_eighths(first, n, EIGHTHS)
    else:
        return tl.arange(0, 8 * TOGETHER)[None, :] < (n % 8).to(tl.int32) * TOGETHER


@triton.jit
def _forward_block(
    x_ptr, y_ptr, indices_ptr, first, n, pieces, inner,
    ADJACENT: tl.constexpr, TOGETHER: tl.constexpr, IN_EIGHTHS: tl.constexpr, COMPUTE: tl.constexpr,
    EIGHTHS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    mask = _mask(first, n, EIGHTHS, WHOLE)
    index = tl.zeros((EIGHTHS, 8), tl.int32)
    if TOGETHER:
        inside = _mask_together(first, n, TOGETHER, EIGHTHS, WHOLE)
        all = tl.load(_together(x_ptr, first, TOGETHER, EIGHTHS), mask=inside).to(COMPUTE)
        if TOGETHER == 2:
            best, second = tl.split(all.reshape(EIGHTHS, 8, 2))
            best, index = _meet(best, index, second, 1)
        else:
            even, odd = tl.split(all.reshape(EIGHTHS, 8, 2, 2))
            best, third = tl.split(even)
            second, fourth = tl.split(odd)
            best, index = _meet(best, index, second, 1)
            best, index = _meet(best, index, third, 2)
            best, index = _meet(best, index, fourth, 3)
    else:
        places, distance = _groups(x_ptr, first, pieces, inner, ADJACENT, IN_EIGHTHS, EIGHTHS)
        best = tl.load(places, mask=mask).to(COMPUTE)
        for piece in range(1, pieces):
            places += distance
            best, index = _meet(best, index, tl.load(places, mask=mask).to(COMPUTE), piece)
    places = first * 8 + in_eighths(tl.arange(0, EIGHTHS))
    tl.store(y_ptr + places, best.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(indices_ptr + places, index.to(tl.uint8), mask=mask)


@triton.jit(repr=kernel_name)
def maxout_forward(
    x_ptr, y_ptr, indices_ptr, pieces, inner, n,
    NAME: tl.constexpr, ADJACENT: tl.constexpr, TOGETHER: tl.constexpr, IN_EIGHTHS: tl.constexpr,
    COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest of each group and its number. n counts the outputs. ADJACENT: `inner` is 1. TOGETHER is the number of
    pieces, or 0. IN_EIGHTHS: `inner` is a divider of eighths."""
    first = tl.program_id(0).to(tl.int64) * (BLOCK // 8)
    _forward_block(x_ptr, y_ptr, indices_ptr, first, n, pieces, inner,
                   ADJACENT, TOGETHER, IN_EIGHTHS, COMPUTE, BLOCK // 8, True)  # fmt: skip
    if not IN_EIGHTHS:
        if (n % 8 != 0) & (n // 8 - first < BLOCK // 8):
            _forward_block(x_ptr, y_ptr, indices_ptr, n // 8, n, pieces, inner,
                           ADJACENT, TOGETHER, IN_EIGHTHS, COMPUTE, 1, False)  # fmt: skip


@triton.jit
def _backward_block(
    grad_ptr, indices_ptr, grad_input_ptr, first, n, pieces, inner,
    ADJACENT: tl.constexpr, TOGETHER: tl.constexpr, IN_EIGHTHS: tl.constexpr,
    EIGHTHS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    mask = _mask(first, n, EIGHTHS, WHOLE)
    places = first * 8 + in_eighths(tl.arange(0, EIGHTHS))
    grad = tl.load(grad_ptr + places, mask=mask)
    index = tl.load(indices_ptr + places, mask=mask).to(tl.int32)
    zero = tl.zeros_like(grad)
    if TOGETHER:
        if TOGETHER == 2:
            all = tl.join(tl.where(index == 0, grad, zero), tl.where(index == 1, grad, zero))
        else:
            even = tl.join(tl.where(index == 0, grad, zero), tl.where(index == 2, grad, zero))
            odd = tl.join(tl.where(index == 1, grad, zero), tl.where(index == 3, grad, zero))
            all = tl.join(even, odd)
        inside = _mask_together(first, n, TOGETHER, EIGHTHS, WHOLE)
        tl.store(_together(grad_input_ptr, first, TOGETHER, EIGHTHS), all.reshape(EIGHTHS, 8 * TOGETHER), mask=inside)
    else:
        places, distance = _groups(grad_input_ptr, first, pieces, inner, ADJACENT, IN_EIGHTHS, EIGHTHS)
        for piece in range(pieces):
            tl.store(places, tl.where(index == piece, grad, zero), mask=mask)
            places += distance


@triton.jit(repr=kernel_name)
def maxout_backward(
    grad_ptr, indices_ptr, grad_input_ptr, pieces, inner, n,
    NAME: tl.constexpr, ADJACENT: tl.constexpr, TOGETHER: tl.constexpr, IN_EIGHTHS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient for the winners, 0 for the others."""
    first = tl.program_id(0).to(tl.int64) * (BLOCK // 8)
    _backward_block(grad_ptr, indices_ptr, grad_input_ptr, first, n, pieces, inner,
                    ADJACENT, TOGETHER, IN_EIGHTHS, BLOCK // 8, True)  # fmt: skip
    if not IN_EIGHTHS:
        if (n % 8 != 0) & (n // 8 - first < BLOCK // 8):
            _backward_block(grad_ptr, indices_ptr, grad_input_ptr, n // 8, n, pieces, inner,
                            ADJACENT, TOGETHER, IN_EIGHTHS, 1, False)  # fmt: skip
